"""autolmk_recipe: a public dataset, as its source has it, becomes a raw dataset; and its published results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.cli import common

if TYPE_CHECKING:
    from autolmk.recipes import PublicDataset

DESCRIPTION = """Recipes for public datasets. `autolmk_recipe list` names them; `autolmk_recipe NAME` says where one is
from, how to fetch it, by which protocol it is judged and what was published. Nothing is downloaded."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit code 3 where single cases of the dataset have faults."""
    parser = common.parser(
        DESCRIPTION,
        usage="autolmk_recipe NAME [options]",
        examples=("autolmk_recipe list", "autolmk_recipe pddca --source path/to/pddca"),
    )
    parser.under("recipe")
    common.argument(parser, "name", metavar="NAME", help="name of a recipe, or list")
    common.option(parser, "--source", type=Path, metavar="FOLDER", help="the fetched data; makes a raw dataset of it")
    common.option(
        parser, "-o", "--output", type=Path, metavar="FOLDER", help="the raw dataset; else in the raw folder, see NAME"
    )
    common.option(
        parser, "--annotator", choices=("junior", "senior", "mean"), help="whose points, where there are several"
    )
    common.option(
        parser, "--split-file", "--split_file", type=Path, metavar="FILE",
        help="published parts: nnLandmark's split_*.json, or a text with a test case a line",
    )  # fmt: skip
    common.option(parser, "--link", action="store_true", help="link to the images instead of copying them")
    common.option(
        parser, "--compare", type=Path, metavar="RESULTS",
        help="summary.json of autolmk_evaluate, or its folder: print it beside what was published",
    )  # fmt: skip
    common.add_folders(parser)
    return common.run(_recipe, parser, argv)


def _recipe(args: argparse.Namespace) -> int:
    from autolmk.errors import AutolmkError
    from autolmk.recipes import DATASETS, dataset_named
    from autolmk.recipes.published_comparison import comparison

    given = [f"--{key}" for key in ("source", "compare") if getattr(args, key) is not None]
    if args.name == "list":
        if given:
            raise AutolmkError("a list needs no more", found=", ".join(given), remedy="name a recipe instead of list")
        width = max(map(len, DATASETS))
        for dataset in DATASETS.values():
            print(f"{dataset.name.ljust(width)}  {dataset.title}")
        return common.OK
    dataset = dataset_named(args.name)
    if len(given) > 1:
        raise AutolmkError(
            "a recipe does one thing at a time", found=" and ".join(given), remedy="call it once for each"
        )
    if args.compare is not None:
        print(comparison(dataset, args.compare.expanduser()))
        return common.OK
    if args.source is not None:
        return _convert(args, dataset)
    print(described(dataset))
    return common.OK


def _convert(args: argparse.Namespace, dataset: PublicDataset) -> int:
    from autolmk.annotations.formats import Format, Options
    from autolmk.cli.import_ import print_result
    from autolmk.importing import import_source
    from autolmk.recipes import RecipeChoices

    split = None if args.split_file is None else args.split_file.expanduser()
    choices = RecipeChoices(args.annotator, split)
    form = Format(
        dataset.name, dataset.title, lambda path: False, lambda source, options: dataset.imported(source, choices)
    )
    folders = common.folders_from(args)
    target = folders.raw / dataset.folder if args.output is None else args.output.expanduser().absolute()
    source = args.source.expanduser().absolute()
    options = Options(unlisted=dataset.unlisted)
    result = import_source(form, source, target, options=options, link=args.link)
    print_result(form, result)
    print("protocol:")
    for sentence in dataset.protocol:
        print(f"  {sentence}")
    return result.report.exit_code


def described(dataset: PublicDataset) -> str:
    """All that the recipe says, for people."""
    published = [
        f"{p.method}: "
        + ", ".join(
            [
                *([] if p.mre is None else [f"MRE {p.mre:g} mm" + ("" if p.sd is None else f" (SD {p.sd:g})")]),
                *(f"SDR {radius:g} mm {share:g} %" for radius, share in p.sdr.items()),
                *([p.other] if p.other else []),
            ]
        )
        + f" [{p.reference}]"
        for p in dataset.published
    ]
    folder = dataset.folder
    commands = (
        f"autolmk_recipe {dataset.name} --source FOLDER",
        f"autolmk_run {folder}",
        f"autolmk_predict -d {folder} -i raw/{folder}/imagesTs -o predicted",
        f"autolmk_evaluate predicted -d {folder} --split Ts -o evaluated",
        f"autolmk_recipe {dataset.name} --compare evaluated",
    )
    parts = {
        "source": [dataset.source],
        "licence": [dataset.licence],
        "to fetch": dataset.fetch,
        "files": dataset.layout,
        "protocol": dataset.protocol,
        "published": published or ["nothing that is known here"],
        "not known here": dataset.not_known,
        "commands": commands,
    }
    lines = [f"{dataset.name}: {dataset.title}"]
    for title, sentences in parts.items():
        lines += [f"\n{title}", *(f"  {sentence}" for sentence in sentences)] if sentences else []
    return "\n".join(lines)
