"""autolmk_report: one HTML file of a dataset's results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.cli.arguments import add_dataset, add_folders, option, parser
from autolmk.cli.common import OK, folders_from, run
from autolmk.cli.in_the_way import begins_with, require_ours
from autolmk.errors import AutolmkError, counted

if TYPE_CHECKING:
    from autolmk.report.blocks import Section
    from autolmk.report.sources import Sources


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_report`; return its exit code."""
    arguments = parser(
        "Write one HTML file that says what was chosen and why, how good it is, and where it fails.",
        usage="autolmk_report DATASET [options]",
        examples=("autolmk_report 1", "autolmk_report 1 --predictions predictions -o report.html"),
    )
    add_dataset(arguments)
    arguments.under("what to report")
    option(
        arguments, "-m", "--model", type=Path, metavar="MODEL_FOLDER",
        help="model whose held-out results are shown; default: best in the dataset's folder of results",
    )  # fmt: skip
    option(
        arguments, "--predictions", type=Path, metavar="FOLDER",
        help="evaluated predictions of test cases; default: predictions/imagesTs in the dataset's folder of results",
    )  # fmt: skip
    option(
        arguments, "-o", "--output", type=Path, metavar="FILE",
        help="the HTML file; default: report.html in the dataset's folder of results",
    )  # fmt: skip
    add_folders(arguments)
    return run(_report, arguments, argv)


def _report(args: argparse.Namespace) -> int:
    from autolmk.paths import dataset_name
    from autolmk.report import read_sources, write_report

    folders = folders_from(args)
    name = dataset_name(args.dataset, folders)
    output, model, predictions = (p and p.expanduser() for p in (args.output, args.model, args.predictions))
    sources = read_sources(name, folders, model=model, predictions=predictions)
    file = output or folders.results / name / "report.html"
    require_ours(file, begins_with("autolmk report</title>"), what="an earlier report")
    report, *doubted = write_report(file, sources, progress=not args.disable_progress_bar, more=[_sheet(sources)])
    print(f"written: {report} ({report.stat().st_size / 1e6:.1f} MB)")
    if doubted:
        print(f"suspected annotation errors in {counted(len(doubted), 'case')}: {doubted[0].parent}")
    return OK


def _sheet(sources: Sources) -> Section:
    """The reproducibility sheet of the model that the report is about; of autolmk alone where none is finished."""
    from autolmk.bundles.card_page import sheet_section
    from autolmk.bundles.citation import sheet

    folder = sources.final or next((m.folder for m in sources.models if m.name == sources.held_out_of), None)
    try:
        found, left_out = sheet(folder), ""
    except AutolmkError as error:  # such as a fold that is still trained
        found, left_out = sheet(None), f" The model itself is left out: {error.problem}."
    return sheet_section(found.text() + left_out, found.facts, found.references())
