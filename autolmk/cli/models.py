"""autolmk_models: a lab's list of bundles, or what is installed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.cli.common import OK, add_folders, argument, folders_from, option, parser, run
from autolmk.errors import AutolmkError

if TYPE_CHECKING:
    from autolmk.bundles.zoo import Listed

ACTIONS = ("list", "show", "index")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_models`; return its exit code."""
    arguments = parser(
        "List bundles (list), show the model card of one (show NAME), or write the index.json of a folder of them "
        "(index FOLDER). Nothing is downloaded.",
        usage="autolmk_models {list,show,index} [NAME] [options]",
        examples=("autolmk_models list --from /shared/models", "autolmk_models show skull --from /shared/models"),
    )
    arguments.under("what to show")
    argument(arguments, "action", choices=ACTIONS, help="what to do")
    argument(arguments, "name", nargs="?", metavar="NAME", help="of a bundle to show, or a folder to index")
    option(
        arguments, "--from", dest="place", type=Path, metavar="FOLDER",
        help="a folder with bundles, or an index.json of one; default: what is installed in the results folder",
    )  # fmt: skip
    add_folders(arguments)
    return run(_models, arguments, argv)


def _models(args: argparse.Namespace) -> int:
    if (args.name is None) != (args.action == "list"):
        raise AutolmkError(
            f"autolmk_models {args.action} {'takes no name' if args.action == 'list' else 'needs a name'}",
            expected="list, show NAME or index FOLDER",
            remedy="correct the command",
        )
    return {"list": _list, "show": _show, "index": _index}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from autolmk.bundles.zoo import installed, listed, manifest_of

    if args.place is None:
        results = folders_from(args).results
        found = installed(results.path)
        for folder in found:
            print(f"{folder.relative_to(results.path)}  (licence: {manifest_of(folder).licence})")
        print(f"{len(found)} installed from bundles: {results}")
        return OK
    models = listed(args.place.expanduser())
    rows = [("file", "landmarks", "held-out MRE", "cases", "licence"), *map(_row, models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if models else []:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"{len(models)} bundle{'s' * (len(models) != 1)}: {args.place}")
    return OK


def _row(one: Listed) -> tuple[str, ...]:
    mre = "-" if one.mre is None or one.mre.value is None else f"{one.mre.value:.3g} {one.unit}"
    if one.mre is not None and one.mre.low is not None and one.mre.high is not None:
        mre += f" [{one.mre.low:.3g}, {one.mre.high:.3g}]"
    code = " (holds code)" if one.code else ""
    return (one.file, str(len(one.landmarks)), mre, str(one.cases), f"{one.licence[:40]}{code}")


def _show(args: argparse.Namespace) -> int:
    from autolmk.bundles.card_page import markdown
    from autolmk.bundles.in_place import read
    from autolmk.bundles.zoo import find, installed

    if args.place is not None:
        place = find(args.name, args.place.expanduser())
    else:
        results = folders_from(args).results.path
        places = {str(folder.relative_to(results)): folder for folder in installed(results)}
        fitting = [folder for name, folder in places.items() if name == args.name or name.startswith(args.name)]
        given = Path(args.name).expanduser()
        if len(fitting) != 1 and not given.exists():
            raise AutolmkError(
                f"no single installed model is called {args.name!r}",
                file=results,
                found=", ".join(places) or "nothing installed from a bundle",
                remedy="give a bundle's file, or say with --from where it is",
            )
        place = fitting[0] if len(fitting) == 1 else given
    print(markdown(read(place)[1]))
    print(f"{place}")
    return OK


def _index(args: argparse.Namespace) -> int:
    from autolmk.bundles.zoo import write_index

    file, count = write_index(Path(args.name).expanduser())
    print(f"{count} bundle{'s' * (count != 1)}: {file}")
    return OK
