"""autolmk_check: lists all faults of a raw dataset at once."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from autolmk.cli.common import add_folders, folders_from, option, parser, run

DESCRIPTION = """List all faults of a raw dataset at once, each with what was found, what was expected and what to do.
Exit code: 0 clean or warnings only, 2 faults of the dataset, 3 faults of single cases."""

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    known = parser(DESCRIPTION)
    known.add_argument("dataset", nargs="?", help="1, 001, Dataset001_Name, or a folder")
    option(known, "-d", "--dataset_id", help="the same as the dataset above")
    option(known, "-np", "--num_processes", type=int, default=None, help="default: as many as fit")
    option(known, "--json", action="store_true", help="print the report as JSON")
    option(known, "--disable_progress_bar", action="store_true", help="show no progress")
    add_folders(known)
    return run(_check, known, argv)


def raw_folder(args: argparse.Namespace) -> Path:
    """The dataset's folder, from its name or number below the raw folder, or from its own path."""
    from autolmk.errors import AutolmkError
    from autolmk.paths import dataset_name

    given = args.dataset or args.dataset_id
    if given is None:
        raise AutolmkError(
            "no dataset is named", expected="autolmk_check 1, Dataset001_Name or a folder", remedy="name one"
        )
    if Path(given).is_dir():
        return Path(given)
    folders = folders_from(args)
    folder = folders.raw / dataset_name(given, folders)
    logger.info("checking %s", folders.raw.describe(folder))
    return folder


def _check(args: argparse.Namespace) -> int:
    from autolmk.check import check_dataset

    report = check_dataset(raw_folder(args), workers=args.num_processes, progress=not args.disable_progress_bar)
    print(json.dumps(report.to_json(), indent=2, ensure_ascii=False) if args.json else report.text())
    return report.exit_code
