"""autolmk_check: lists all faults of a raw dataset at once."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from autolmk.cli.arguments import add_dataset, add_folders, add_processes, option, parser
from autolmk.cli.common import folders_from, run

DESCRIPTION = """List all faults of a raw dataset at once, each with what was found, what was expected and what to do.
The exit code is 0 without faults or with mere warnings, 2 with faults of the dataset, 3 with faults of single cases."""

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_check`; return its exit code."""
    known = parser(
        DESCRIPTION,
        usage="autolmk_check DATASET [options]",
        examples=("autolmk_check 1", "autolmk_check path/to/Dataset001_Skull --json > faults.json"),
    )
    add_dataset(known, kind="its number, name or folder, such as 1, Dataset001_Name or path/to/Dataset001_Name")
    known.under("how to check")
    add_processes(known)
    option(known, "--json", action="store_true", help="print the faults as JSON, for scripts")
    add_folders(known)
    return run(_check, known, argv)


def raw_folder(args: argparse.Namespace) -> Path:
    """The dataset's folder, from its name or number below the raw folder, or from its own path."""
    from autolmk.paths import dataset_name

    given = args.dataset
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
