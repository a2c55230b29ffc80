"""autolmk_plan_and_preprocess: check, fingerprint, plan and preprocess datasets, all in one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autolmk.cli.arguments import add_dataset, add_folders, option, parser
from autolmk.cli.common import OK, SOME_FAILED, USER, folders_from, run
from autolmk.cli.extract_fingerprint import CHECKED, DATASETS, checked, write_fingerprint
from autolmk.cli.plan_experiment import add_planning, plan
from autolmk.cli.preprocess import add_preprocessing
from autolmk.errors import counted
from autolmk.paths import Folders, dataset_name

if TYPE_CHECKING:
    from autolmk.dataset import Dataset
    from autolmk.plans import Plans


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_plan_and_preprocess`; return its exit code."""
    result = parser(
        "Do all that training needs: check datasets, extract their fingerprints, plan and preprocess them.",
        usage="autolmk_plan_and_preprocess DATASET ... [options]",
        examples=(
            "autolmk_plan_and_preprocess 1",
            "autolmk_plan_and_preprocess 1 --preset L -gpu_memory_target 20 -p largePlans",
        ),
    )
    add_dataset(result, several=True, kind=DATASETS)
    add_planning(result)
    result.under("preprocessing")
    add_preprocessing(result)
    option(result, "--no_preprocessing", also=("--no_pp",), action="store_true", help="stop after planning")
    option(result, "--verify_dataset_integrity", action="store_true", help=CHECKED)
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
