"""autolmk_preprocess: orient, resample, normalise and store the cases of a planned dataset."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.cli.common import OK, SOME_FAILED, Parser, add_folders, folders_from, option, parser, run
from autolmk.errors import AutolmkError, counted, some
from autolmk.paths import DEFAULT_PLANS_NAME, Folders, dataset_name, plans_file

if TYPE_CHECKING:
    from autolmk.dataset import Case
    from autolmk.plans import Plans


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_main, _parser(), argv)


def _parser() -> Parser:
    result = parser("Preprocess the training cases of a planned dataset; a rerun does only what is missing or changed.")
    option(result, "-d", "--dataset", required=True, help="number or name of the dataset, such as 1 or Dataset001_Name")
    option(result, "-plans_name", default=DEFAULT_PLANS_NAME, help="name of the plans")
    option(result, "-c", "--configurations", nargs="+", default=None, help="configurations; all if omitted")
    option(result, "-np", "--num_processes", type=int, default=None, help="processes; as memory allows if omitted")
    add_folders(result)
    return result


def _main(args: argparse.Namespace) -> int:
    from autolmk.files.locks import exclusive
    from autolmk.plans import Plans

    folders = folders_from(args)
    name = dataset_name(args.dataset, folders)
    plans = Plans.load(plans_file(folders, name, args.plans_name))
    with exclusive(folders.preprocessed / name):
        return _preprocess(args, folders, name, plans)


def _preprocess(args: argparse.Namespace, folders: Folders, name: str, plans: Plans) -> int:
    """Preprocess the cases for each configuration; the exit code."""
    from autolmk.data.preprocessing import FAILURES, preprocess_dataset
    from autolmk.dataset import Dataset

    folder = folders.preprocessed / name
    dataset = Dataset.open(folders.raw / name)
    listed = dataset.cases("Tr")
    faulty = _faulty(name, folder, listed)
    cases = [case for case in listed if case.identifier not in faulty]
    failed, done = set(faulty), set()
    for configuration_name in plans.with_stages(args.configurations):
        identifier = plans.configuration(configuration_name).data_identifier
        if identifier in done:
            continue
        done.add(identifier)
        failures = preprocess_dataset(
            dataset, cases, plans, configuration_name, folder / identifier, workers=args.num_processes
        )
        for failure in failures:
            print(failure.problem, file=sys.stderr)
        failed |= {f.case for f in failures}
        place = folders.preprocessed.describe(folder / identifier)
        print(f"{len(cases) - len(failures)} of {counted(len(cases), 'case is', 'cases are')} in {place}")
        if failures:
            see = folders.preprocessed.describe(folder / identifier / FAILURES)
            print(f"{len(failures)} failed, see {see}", file=sys.stderr)
    return SOME_FAILED if failed else OK


def _faulty(name: str, folder: Path, cases: Sequence[Case]) -> set[str]:
    """Cases in which the check found faults when the dataset was fingerprinted; says so. AutolmkError where there are
    cases that it has not seen."""
    from autolmk.fingerprint import FILE_NAME, Fingerprint

    fingerprint = Fingerprint.load(folder / FILE_NAME)
    faulty = fingerprint.failed
    unseen = [case.identifier for case in cases if case.identifier not in {*fingerprint.cases, *faulty}]
    if unseen:
        raise AutolmkError(
            "the raw dataset has cases that were never checked: they came after the fingerprint",
            file=folder / FILE_NAME,
            found=f"{counted(len(unseen), 'new case')}: {some(unseen)}",
            expected="the cases that the fingerprint was extracted from, or fewer",
            remedy=f"run autolmk_plan_and_preprocess -d {name}; or autolmk_extract_fingerprint -d {name} and then this "
            "again, to keep the plans",
        )
    if faulty:
        print(
            f"left out {counted(len(faulty), 'case')} in which the check found faults: {some(faulty)}\n"
            "  what to do: mend what autolmk_check says, then run autolmk_plan_and_preprocess",
            file=sys.stderr,
        )
    return set(faulty)
