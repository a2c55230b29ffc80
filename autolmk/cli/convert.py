"""autolmk_convert: points of predictions or of a raw dataset become files of another program."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.cli import common

if TYPE_CHECKING:
    from autolmk.annotations.formats import Export
    from autolmk.dataset import Dataset

DESCRIPTION = """Write the points of predictions, or the annotations of a raw dataset, in a format of another program.
Formats: mrk.json, fcsv, csv, tps, morphologika, nts, bids, coco, nnlandmark. What is there already is not changed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_convert`; return its exit code."""
    parser = common.parser(
        DESCRIPTION,
        usage="autolmk_convert SOURCE --to FORMAT -o FOLDER [options]",
        examples=(
            "autolmk_convert predictions --to fcsv -o for_slicer",
            "autolmk_convert predictions --to tps -d 1 -o for_geomorph",
        ),
    )
    parser.under("what to convert")
    common.argument(
        parser,
        "source",
        metavar="SOURCE",
        help="a folder of predictions, a table of points, or a raw dataset",
    )
    common.option(parser, "--to", required=True, metavar="FORMAT", help="mrk.json, fcsv, csv, tps, ...")
    common.option(parser, "-o", "--output", required=True, type=Path, metavar="FOLDER", help="new folder to write")
    common.option(
        parser, "--images", type=Path, metavar="FOLDER", help="of predictions: their images, for formats in pixels"
    )
    common.option(
        parser, "-d", "--dataset", also=("--dataset_id",), metavar="DATASET",
        help="of predictions: raw dataset that holds the images, or says how large their pixels are",
    )  # fmt: skip
    common.option(
        parser, "--spacing", type=float, nargs="+", metavar="MM",
        help="size of a pixel: x y, or one number, for images that do not carry it",
    )  # fmt: skip
    common.option(
        parser, "--split", choices=("Tr", "Ts"), help="of a dataset: training or test cases alone; default: both"
    )
    common.option(
        parser, "--y-from", "--y_from", choices=("bottom", "top"), default="bottom",
        help="edge of a picture from which tps, morphologika and nts count y",
    )  # fmt: skip
    common.option(parser, "--link", action="store_true", help="link to images instead of copying them (nnlandmark)")
    common.add_folders(parser)
    return common.run(_convert, parser, argv)


def _convert(args: argparse.Namespace) -> int:
    from autolmk.annotations.formats import writer_named
    from autolmk.errors import counted
    from autolmk.importing import convert

    writer = writer_named(args.to)
    export = _gathered(args)
    done = convert(export, writer, args.output.expanduser().absolute())
    for note in done.notes:
        print(note)
    print(f"{counted(done.cases, 'case')} with {counted(done.landmarks, 'landmark')} as {writer.name}: {done.folder}")
    return common.OK


def _gathered(args: argparse.Namespace) -> Export:
    from autolmk.cli.import_ import spacing_from
    from autolmk.errors import AutolmkError
    from autolmk.importing import Places, of_dataset, of_predictions
    from autolmk.importing.conversion import with_options

    source = Path(args.source).expanduser()
    dataset = _dataset(args, str(args.source), source) if _is_dataset(source) else None
    if dataset is None:
        if args.split is not None:
            raise AutolmkError("--split divides a raw dataset", file=source, found="predictions", remedy="leave it out")
        named = None if args.dataset is None else _dataset(args, args.dataset, Path(args.dataset).expanduser())
        images = None if args.images is None else args.images.expanduser()
        export = of_predictions(source, Places(images, named, spacing_from(args.spacing)))
    else:
        given = [f"--{key}" for key in ("images", "dataset", "spacing") if getattr(args, key) is not None]
        if given:
            raise AutolmkError(
                "a raw dataset knows its own images", file=source, found=", ".join(given), remedy="leave them out"
            )
        export = of_dataset(dataset, ("Tr", "Ts") if args.split is None else (args.split,))
    return with_options(export, y_from=args.y_from, link=args.link)


def _is_dataset(source: Path) -> bool:
    """Whether the source is a raw dataset, or no path at all, so that it must be the name of one."""
    return not source.exists() or (source / "imagesTr").is_dir() or (source / "imagesTs").is_dir()


def _dataset(args: argparse.Namespace, name: str, path: Path) -> Dataset:
    """The raw dataset in this folder, or of this number or name. AutolmkError where there is neither."""
    from autolmk.dataset import Dataset
    from autolmk.errors import AutolmkError
    from autolmk.paths import dataset_name

    if path.is_dir():
        return Dataset.open(path)
    if len(path.parts) > 1 or path.exists():
        raise AutolmkError("the folder or file to convert is missing", file=path, remedy="check the path")
    folders = common.folders_from(args)
    return Dataset.open(folders.raw / dataset_name(name, folders))
