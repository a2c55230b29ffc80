"""autolmk_plan_and_preprocess: check, fingerprint, plan and preprocess datasets, all in one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autolmk.cli.common import OK, SOME_FAILED, USER, add_folders, folders_from, option, parser, run
from autolmk.cli.extract_fingerprint import checked, write_fingerprint
from autolmk.cli.plan_experiment import add_dataset, add_planning, plan
from autolmk.errors import counted
from autolmk.paths import Folders, dataset_name

if TYPE_CHECKING:
    from autolmk.dataset import Dataset
    from autolmk.plans import Plans


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    result = parser("Check datasets, extract their fingerprints, plan and preprocess them: all that training needs.")
    add_dataset(result)
    add_planning(result)
    option(result, "-c", "--configurations", nargs="+", default=None, help="to preprocess for; all if omitted")
    option(result, "-np", "--num_processes", type=int, default=None, help="processes; as memory allows if omitted")
    option(result, "--no_preprocessing", action="store_true", help="stop after planning")
    habit = "accepted because nnU-Net has it: the dataset is always checked"
    option(result, "--verify_dataset_integrity", action="store_true", help=habit)
    add_folders(result)
    return run(_main, result, argv)


def _main(args: argparse.Namespace) -> int:
    folders = folders_from(args)
    names = [dataset_name(given, folders) for given in args.dataset]
    return max(_prepare(name, args, folders) for name in names)


def _prepare(name: str, args: argparse.Namespace, folders: Folders) -> int:
    """One dataset; the exit code."""
    from autolmk.files.locks import exclusive
    from autolmk.files.serialization import make_folder

    report = checked(name, folders, workers=args.num_processes, progress=True)
    if report.exit_code == USER:
        return USER
    skipped = set(report.bad_cases)
    folder = folders.preprocessed / report.name
    make_folder(folder)
    with exclusive(folder):
        write_fingerprint(report, folders)
        plans = plan(name, args, folders)
        if not args.no_preprocessing:
            assert report.dataset is not None
            skipped |= _preprocess(report.dataset, set(report.good_cases), plans, args, folders)
    if skipped:
        count = counted(len(skipped), "case was", "cases were")
        print(f"{name}: {count} skipped: {', '.join(sorted(skipped))}", file=sys.stderr)
    return SOME_FAILED if skipped else OK


def _preprocess(dataset: Dataset, good: set[str], plans: Plans, args: argparse.Namespace, folders: Folders) -> set[str]:
    """The good cases, for every configuration asked for; returns those that failed."""
    from autolmk.data.preprocessing import preprocess_dataset

    cases = [case for case in dataset.cases("Tr") if case.identifier in good]
    failed: set[str] = set()
    done: set[str] = set()
    for name in plans.with_stages(args.configurations):
        identifier = plans.configuration(name).data_identifier
        if identifier in done:
            continue
        done.add(identifier)
        target = folders.preprocessed / plans.dataset_name / identifier
        failures = preprocess_dataset(dataset, cases, plans, name, target, workers=args.num_processes)
        for failure in failures:
            print(failure.problem, file=sys.stderr)
        failed |= {failure.case for failure in failures}
        place = folders.preprocessed.describe(target)
        print(f"{len(cases) - len(failures)} of {counted(len(cases), 'case is', 'cases are')} preprocessed in {place}")
    return failed
