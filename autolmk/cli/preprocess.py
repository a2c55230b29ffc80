"""autolmk_preprocess: orient, resample, normalise and store the cases of a planned dataset."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.cli.arguments import Parser, add_dataset, add_folders, add_plans, add_processes, option, parser
from autolmk.cli.common import OK, SOME_FAILED, folders_from, run
from autolmk.errors import AutolmkError, counted, some
from autolmk.paths import DEFAULT_PLANS_NAME, Folders, dataset_name, plans_file

if TYPE_CHECKING:
    from autolmk.dataset import Case
    from autolmk.plans import Plans


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_preprocess`; return its exit code."""
    return run(_main, _parser(), argv)


def _parser() -> Parser:
    result = parser(
        "Preprocess the training cases of a planned dataset. A second run does only what is missing or changed.",
        usage="autolmk_preprocess DATASET [options]",
        examples=("autolmk_preprocess 1", "autolmk_preprocess 1 -p largePlans -c heatmap -np 4"),
    )
    add_dataset(result)
    result.under("preprocessing")
    add_plans(result, "-plans_name", dest="plans_name", default=DEFAULT_PLANS_NAME)
    add_preprocessing(result)
    add_folders(result)
    return result


def add_preprocessing(result: Parser) -> None:
    """Add the options -c and -np."""
    option(
        result, "-c", "--configurations", also=("--configuration",), nargs="+", metavar="NAME",
        help="names of configurations to preprocess for; default: all of the plans",
    )  # fmt: skip
    add_processes(result)


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
