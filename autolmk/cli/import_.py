"""autolmk_import: a dataset in the format of another program becomes a raw dataset of autolmk."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.cli import common

if TYPE_CHECKING:
    from autolmk.annotations.formats import Format, Options
    from autolmk.importing import ImportResult

DESCRIPTION = """Import a dataset in the format of another program as a raw dataset, check it, and draw its first case
to import_preview.png. Nothing is left behind if that fails. Without --format, say what the source looks like.
Formats: slicer, csv, deeplabcut, sleap, isbi2015, cldetection, tps, bids, coco, labelme, pts, morphologika, nts, verse,
amira, mitk, acsv, bigwarp, imagej, qupath, nnlandmark."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_import`; return its exit code."""
    parser = common.parser(
        DESCRIPTION,
        usage="autolmk_import SOURCE --format NAME -d DATASET [options]",
        examples=(
            "autolmk_import path/to/Dataset735_Fetal -d Dataset003_Fetal",
            "autolmk_import wings.tps --format tps --y-from bottom --scale mm -d Dataset004_Wings",
        ),
    )
    _add_source(parser)
    _add_target(parser)
    _add_conventions(parser)
    common.add_folders(parser)
    return common.run(_import, parser, argv)


def _add_source(parser: common.Parser) -> None:
    parser.under("what to import")
    common.argument(parser, "source", nargs="?", type=Path, metavar="SOURCE", help="file or folder to import")
    common.option(
        parser, "-i", "--input", type=Path, metavar="SOURCE", help="the source, instead of as a word of its own"
    )  # fmt: skip
    common.option(
        parser, "--format", metavar="NAME", help="format of the source; default: nnlandmark where its files are there"
    )  # fmt: skip
    common.option(
        parser, "--images", type=Path, metavar="FOLDER", help="folder of the images; default: that of the source"
    )  # fmt: skip
    common.option(
        parser, "--by-name", action="store_true", help="take only the last part of paths that files name"
    )  # fmt: skip


def _add_target(parser: common.Parser) -> None:
    parser.under("new dataset")
    common.option(
        parser, "-d", "--dataset", also=("--dataset_name", "--dataset_id"), metavar="DATASET",
        help="name of the new dataset, which is made in the raw folder; default: that of the source",
    )  # fmt: skip
    common.option(
        parser, "-o", "--output", type=Path, metavar="FOLDER", help="folder of the new dataset, instead of -d"
    )
    common.option(parser, "--link", action="store_true", help="link to the images instead of copying them")
    common.option(
        parser, "--keep-split", also=("--split",), dest="split", action="store_true",
        help="keep the source's division into training and test cases",
    )  # fmt: skip


def _add_conventions(parser: common.Parser) -> None:
    parser.under("what the files do not say")
    choices: dict[str, tuple[tuple[str, ...], str]] = {
        "--frame": (("LPS", "RAS", "voxel"), "frame of points in space"),
        "--y-from": (("top", "bottom"), "where y is counted from (tps, morphologika, nts)"),
        "--scale": (
            ("ignore", "mm", "applied"),
            "SCALE: ignored, mm a pixel, or multiplied into the points (tps); the scale of a TIFF (imagej, bigwarp)",
        ),
        "--negatives": (("missing", "real"), "what a negative coordinate is (tps)"),
        "--curves": (("ignore", "points"), "whether points of curves are landmarks (tps)"),
        "--annotator": (("junior", "senior", "mean"), "whose points to take (isbi2015)"),
        "--side": (("moving", "target"), "which image's points to take (bigwarp)"),
        "--names-from": (
            ("label", "description", "number", "order"),
            "where files of 3D Slicer have the names (slicer, bids)",
        ),
    }
    for name, (values, text) in choices.items():
        common.option(parser, name, choices=values, help=text)
    common.option(
        parser, "--unlisted", choices=("unknown", "absent"), default="unknown",
        help="what it means that a case lacks a landmark",
    )  # fmt: skip
    common.option(
        parser, "--missing", nargs="+", metavar="X",
        help="numbers that stand in all coordinates of a point that is not there, such as -1 or 9999, or none",
    )  # fmt: skip
    common.option(
        parser, "--first-pixel", type=float, metavar="X",
        help="coordinate of the first pixel's centre: 0, 0.5 or 1; default: that of the format",
    )  # fmt: skip
    common.option(
        parser, "--individual", metavar="NAME", help="animal, track or category to take (deeplabcut, sleap, coco)"
    )  # fmt: skip
    common.option(
        parser, "--spacing", type=float, nargs="+", metavar="MM",
        help="size of a pixel in mm, x y or one number, for images that do not carry it",
    )  # fmt: skip


def _import(args: argparse.Namespace) -> int:
    from autolmk.importing import import_source

    source = _source(args)
    form = _format(args.format, source)
    target = _target(args, source)
    result = import_source(
        form, source, target, options=_options(args), link=args.link, spacing=spacing_from(args.spacing)
    )
    print_result(form, result)
    return result.report.exit_code


def _source(args: argparse.Namespace) -> Path:
    from autolmk.errors import AutolmkError

    given = [path for path in (args.source, args.input) if path is not None]
    if len(given) != 1:
        raise AutolmkError(
            "one source is needed",
            found=", ".join(map(str, given)) or "none",
            expected="autolmk_import --format NAME SOURCE -o FOLDER",
            remedy="name the file or folder to import once",
        )
    source: Path = given[0].expanduser().absolute()
    if not source.exists():
        raise AutolmkError("the folder to import is missing", file=source, remedy="check the path")
    return source


def _format(name: str | None, source: Path) -> Format:
    """The format that is named, or nnLandmark's where its files are there. AutolmkError with a suggestion otherwise."""
    from autolmk.annotations.formats import FORMATS, format_named, suggestion
    from autolmk.errors import AutolmkError

    if name is not None:
        return format_named(name)
    nnlandmark = FORMATS["nnlandmark"]
    if nnlandmark.sniff(source) or (source / "imagesTr").is_dir():
        return nnlandmark
    raise AutolmkError(
        "the format of the source is not given",
        file=source,
        found=suggestion(source) or "nothing that is recognised",
        expected="one of these formats:\n" + "\n".join(f"    {f.name}: {f.description}" for f in FORMATS.values()),
        remedy="name one with --format",
    )


def _target(args: argparse.Namespace, source: Path) -> Path:
    from autolmk.errors import AutolmkError
    from autolmk.paths import DATASET_NAME

    if args.output is not None:
        if args.dataset is not None:
            raise AutolmkError(
                "the new dataset is given two places", found="-o and -d", expected="one of them", remedy="leave one out"
            )
        output: Path = args.output.expanduser().absolute()
        return output
    name = args.dataset or source.name
    if DATASET_NAME.fullmatch(name) is None or "/" in name or "\\" in name:
        raise AutolmkError(
            "this is no name of a dataset",
            found=name,
            expected="a number of three digits and a name, such as Dataset001_Name",
            remedy="give one with -d, or a folder with -o",
        )
    return common.folders_from(args).raw / name


def _options(args: argparse.Namespace) -> Options:
    from autolmk.annotations.formats import Options

    names = ("by_name", "first_pixel", "frame", "y_from", "scale", "negatives", "curves", "annotator", "side")
    more = ("individual", "names_from", "unlisted", "split")
    images = None if args.images is None else args.images.expanduser().absolute()
    missing = None if args.missing is None else _missing(args.missing)
    return Options(images=images, missing=missing, **{name: getattr(args, name) for name in (*names, *more)})


def _missing(values: list[str]) -> tuple[float, ...]:
    """The numbers of --missing; () for the word none."""
    from autolmk.errors import AutolmkError

    try:
        return () if values == ["none"] else tuple(float(value) for value in values)
    except ValueError:
        raise AutolmkError(
            "wrong --missing", found=" ".join(values), expected="numbers such as -1, or none", remedy="correct it"
        ) from None


def spacing_from(values: list[float] | None) -> tuple[float, ...] | None:
    """The spacing in mm, in the order x, y(, z), of --spacing; one number counts for both axes of a picture."""
    from autolmk.errors import AutolmkError

    if values is None:
        return None
    if len(values) > 3 or not all(math.isfinite(v) and v > 0 for v in values):
        raise AutolmkError(
            "wrong --spacing",
            found=values,
            expected="one to three positive numbers in mm, in the order x, y, z",
            remedy="correct it",
        )
    return tuple(values) if len(values) > 1 else (values[0], values[0])


def print_result(form: Format, result: ImportResult) -> None:
    """The check's report, what was assumed and left out, and what comes next."""
    from autolmk.errors import counted, some
    from autolmk.importing import PREVIEW
    from autolmk.paths import DATASET_NAME

    print(result.report.text())
    name, description = result.folder.name, result.description
    if result.imported is not None:
        for sentence in result.imported.assumed:
            print(f"assumed: {sentence}")
        for what, names in (
            ("points without an image", result.imported.without_image),
            ("images without points", result.imported.without_points),
        ):
            if names:
                print(f"left out, {what}: {counted(len(names), 'case')}: {some(list(names))}")
    test = f"{description.numTest or 0} test cases in {result.folder.parent}"
    print(f"{name}: {description.numTraining} training and {test}, from {form.name}")
    print(f"look at {result.folder / PREVIEW}: the points must lie where they belong")
    if DATASET_NAME.fullmatch(name) is None:
        print("commands find it by name once it is called as Dataset001_Name is, in the raw folder")
    print(f"next: autolmk_plan_and_preprocess -d {name}")
