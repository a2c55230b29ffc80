"""autolmk_report: one HTML file of a dataset's results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from autolmk.cli.common import OK, add_folders, folders_from, option, parser, run
from autolmk.errors import AutolmkError, counted


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser("Write one self-contained HTML file: what was chosen and why, how good it is, where it fails.")
    arguments.add_argument("dataset", nargs="?", metavar="DATASET", help="number or name")
    option(arguments, "-d", "--dataset_id", help="the same as DATASET")
    option(
        arguments, "-o", "--output", type=Path, metavar="FILE",
        help="the HTML file; else report.html in the dataset's folder of results",
    )  # fmt: skip
    option(
        arguments, "-m", "--model", type=Path, metavar="MODEL_FOLDER",
        help="the model whose held-out results are shown; else best in the dataset's folder of results",
    )  # fmt: skip
    option(
        arguments, "--predictions", type=Path, metavar="FOLDER",
        help="evaluated predictions of test cases; else predictions/imagesTs in the dataset's folder of results",
    )  # fmt: skip
    option(arguments, "--disable_progress_bar", action="store_true", help="show no progress")
    add_folders(arguments)
    return run(_report, arguments, argv)


def _report(args: argparse.Namespace) -> int:
    from autolmk.paths import dataset_name
    from autolmk.report import read_sources, write_report

    given = args.dataset or args.dataset_id
    if given is None:
        raise AutolmkError("no dataset is named", expected="autolmk_report 1, or a dataset's name", remedy="name one")
    folders = folders_from(args)
    name = dataset_name(given, folders)
    output, model, predictions = (p and p.expanduser() for p in (args.output, args.model, args.predictions))
    sources = read_sources(name, folders, model=model, predictions=predictions)
    file = output or folders.results / name / "report.html"
    report, *doubted = write_report(file, sources, progress=not args.disable_progress_bar)
    print(f"written: {report} ({report.stat().st_size / 1e6:.1f} MB)")
    if doubted:
        print(f"suspected annotation errors in {counted(len(doubted), 'case')}: {doubted[0].parent}")
    return OK
