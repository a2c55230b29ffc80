"""autolmk_extract_fingerprint: what a raw dataset says of itself, in dataset_fingerprint.json."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autolmk.cli.arguments import Parser, add_dataset, add_folders, add_processes, option, parser
from autolmk.cli.common import OK, SOME_FAILED, USER, folders_from, run
from autolmk.errors import counted
from autolmk.paths import Folders, dataset_name

if TYPE_CHECKING:
    from autolmk.check import Report

DESCRIPTION_FILE = "dataset.json"
DATASETS = "numbers or names of datasets, such as 1 2 or Dataset001_Name"
CHECKED = "accepted because nnU-Net has it: the dataset is always checked"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_extract_fingerprint`; return its exit code."""
    return run(_main, _parser(), argv)


def _parser() -> Parser:
    result = parser(
        "Check datasets and extract their fingerprints, from which they are planned.",
        usage="autolmk_extract_fingerprint DATASET ... [options]",
        examples=("autolmk_extract_fingerprint 1", "autolmk_extract_fingerprint 1 2 -np 4"),
    )
    add_dataset(result, several=True, kind=DATASETS)
    result.under("how to extract")
    add_processes(result)
    option(result, "--verify_dataset_integrity", action="store_true", help=CHECKED)
    add_folders(result)
    return result


def _main(args: argparse.Namespace) -> int:
    folders = folders_from(args)
    names = [dataset_name(given, folders) for given in args.dataset]
    return max(_extract(name, args, folders) for name in names)


def _extract(name: str, args: argparse.Namespace, folders: Folders) -> int:
    report = checked(name, folders, workers=args.num_processes, progress=not args.disable_progress_bar)
    if report.exit_code == USER:
        return USER
    file = write_fingerprint(report, folders)
    print(f"fingerprint of {counted(len(report.good_cases), 'case')}: {file}")
    return SOME_FAILED if report.bad_cases else OK


def checked(name: str, folders: Folders, *, workers: int | None, progress: bool) -> Report:
    """The report on a raw dataset, whose faults are shown on stderr."""
    from autolmk.check import check_dataset

    report = check_dataset(folders.raw / name, workers=workers, progress=progress)
    if report.faults:
        print(report.text(), file=sys.stderr)
    if report.exit_code == USER:
        print(f"{name}: nothing was written; mend the faults above first, see {folders.raw}", file=sys.stderr)
    return report


def write_fingerprint(report: Report, folders: Folders) -> str:
    """dataset_fingerprint.json and dataset.json, as completed by what the files say, in the preprocessed folder; the
    fingerprint's place, for a message."""
    from autolmk.files.serialization import write_json
    from autolmk.fingerprint import FILE_NAME

    fingerprint = report.fingerprint()
    assert report.dataset is not None
    folder = folders.preprocessed / report.name
    write_json(folder / DESCRIPTION_FILE, report.dataset.description.to_json())
    fingerprint.save(folder / FILE_NAME)
    return folders.preprocessed.describe(folder / FILE_NAME)
