"""autolmk_cite: a methods paragraph, references, and what is needed to do it again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from autolmk.cli.common import OK, argument, option, parser, run
from autolmk.cli.in_the_way import require_ours


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_cite`; return its exit code."""
    arguments = parser(
        "Print, as Markdown, a methods paragraph with references for a model, and versions, seeds and hashes, ready to "
        "paste; without a model, how to cite autolmk.",
        usage="autolmk_cite [MODEL] [options]",
        examples=("autolmk_cite skull.autolmk.zip", "autolmk_cite --bibtex -o references.bib"),
    )
    arguments.under("what to cite")
    argument(
        arguments, "model", nargs="?", type=Path, metavar="MODEL", help="a bundle, a model's folder or a packed one"
    )
    option(arguments, "--bibtex", action="store_true", help="the references alone, as BibTeX")
    option(arguments, "-o", "--output", type=Path, metavar="FILE", help="write to this new file instead")
    return run(_cite, arguments, argv)


def _cite(args: argparse.Namespace) -> int:
    from autolmk.bundles.citation import is_sheet, sheet
    from autolmk.bundles.in_place import model_of
    from autolmk.files.serialization import write_bytes

    if args.model is None:
        found = sheet(None)
    else:
        with model_of(args.model.expanduser(), trust_code=True) as folder:  # no code in it is run
            found = sheet(folder)
    text = found.bibtex() if args.bibtex else found.markdown()
    if args.output is None:
        print(text, end="")
    else:
        file = args.output.expanduser()
        require_ours(file, lambda place: is_sheet(place.read_text(errors="replace")), what="what autolmk_cite wrote")
        write_bytes(file, text.encode())
        print(args.output)
    return OK
