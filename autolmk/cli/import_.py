"""autolmk_import: a dataset in the format of nnLandmark becomes a raw dataset of autolmk."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from autolmk.cli import common


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(
        "Import a dataset in the format of nnLandmark (label maps, all_landmarks_voxel.json, spacing.json) as a raw "
        "dataset. Nothing is left behind if that fails."
    )
    common.option(
        parser, "-i", "--input", type=Path, required=True, metavar="FOLDER", help="nnLandmark's dataset folder"
    )
    common.option(parser, "-d", "--dataset", metavar="NAME", help="name of the new dataset; else that of the folder")
    common.option(
        parser,
        "--unlisted",
        choices=("unknown", "absent"),
        default="unknown",
        help="what it means that a case lacks a landmark",
    )
    common.option(parser, "--link", action="store_true", help="link to the images instead of copying them")
    common.add_folders(parser)
    return common.run(_import, parser, argv)


def _import(args: argparse.Namespace) -> int:
    from autolmk.dataset.nnlandmark import import_dataset
    from autolmk.errors import AutolmkError
    from autolmk.paths import DATASET_NAME

    source = args.input.expanduser().absolute()
    name = args.dataset or source.name
    if DATASET_NAME.fullmatch(name) is None:
        raise AutolmkError(
            "this is no name of a dataset",
            found=name,
            expected="a number of three digits and a name, such as Dataset001_Name",
            remedy="give one with -d",
        )
    if not source.is_dir():
        raise AutolmkError("the folder to import is missing", file=source, remedy="check the path")
    raw = common.folders_from(args).raw
    description = import_dataset(source, raw / name, unlisted=args.unlisted, link=args.link)
    print(f"{name}: {description.numTraining} training and {description.numTest} test cases in {raw}")
    print(f"next: autolmk_plan_and_preprocess -d {name}")
    return common.OK
