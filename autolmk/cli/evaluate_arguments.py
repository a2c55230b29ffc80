"""The arguments of autolmk_evaluate, and what is to be compared with what."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from autolmk.cli.arguments import Parser, add_folders, argument, option, parser
from autolmk.errors import AutolmkError
from autolmk.paths import DATASET_NAME

UNITS = ("mm", "px")
RADII = (2.0, 2.5, 3.0, 4.0, 8.0)
logger = logging.getLogger(__name__)


def evaluate_parser() -> Parser:
    """All that the command can be told."""
    result = parser(
        "Compare predicted with annotated landmarks: errors, detection rates, presence, left/right swaps.",
        usage="autolmk_evaluate DATASET PREDICTIONS [options]",
        examples=(
            "autolmk_evaluate 1 predictions",
            "autolmk_evaluate -d 1 -i predictions --split Tr",
            "autolmk_evaluate predictions path/to/landmarksTs --radii 1 2 4",
        ),
    )
    _add_compared(result)
    result.under("how to evaluate")
    option(
        result, "--radii", type=float, nargs="+", default=RADII, metavar="R",
        help="radii of the successful detection rate, in mm or px; a point on the radius counts; default: 2 2.5 3 4 8",
    )  # fmt: skip
    option(
        result, "--unit", choices=UNITS,
        help="unit of bare landmark files; default: as run.json beside the predictions says, else mm",
    )  # fmt: skip
    option(result, "--skip-missing", action="store_true", help="leave out annotated cases that were not predicted")
    option(result, "--resamples", type=int, default=2000, metavar="N", help="number of bootstrap resamples")
    option(result, "--seed", type=int, default=0, help="seed of the bootstrap")
    option(
        result, "-o", "--output", type=Path, metavar="FOLDER",
        help="where to write the tables; default: the folder evaluation in that of the predictions",
    )  # fmt: skip
    add_folders(result)
    return result


def _add_compared(result: Parser) -> None:
    result.under("what to compare")
    argument(
        result, "places", nargs="*", metavar="DATASET PREDICTIONS",
        help="the dataset and the predictions, in any order; without a dataset, the predictions and then annotations",
    )  # fmt: skip
    option(
        result, "-i", "--input", "--predictions", dest="predictions", type=Path, metavar="PREDICTIONS",
        help="what autolmk_predict wrote, its folder or landmarks.csv; or a folder with a landmark file for each case",
    )  # fmt: skip
    option(result, "-p", dest="earlier", type=Path, help=argparse.SUPPRESS)
    option(
        result, "-d", "--dataset", also=("--dataset_id", "--dataset_name"), metavar="DATASET",
        help="number or name of the dataset whose annotations count",
    )  # fmt: skip
    option(
        result, "-t", "--truth", type=Path, metavar="ANNOTATIONS",
        help="annotations instead of a dataset: its folder, landmarksTs or landmarksTr; or as PREDICTIONS",
    )  # fmt: skip
    option(result, "--split", choices=("Ts", "Tr"), default="Ts", help="test or training cases of the dataset")


def places(args: argparse.Namespace) -> tuple[Path, Path | None, str | None]:
    """The predictions, the annotations and the dataset; one of the last two is None."""
    if args.earlier is not None:
        logger.warning("-p is read as -i, predictions; in all other commands it is the name of plans")
    words = list(args.places)
    predictions, truth, dataset = args.predictions or args.earlier, args.truth, args.dataset
    twice = args.predictions is not None and args.earlier is not None
    if truth is None and dataset is None:
        dataset = next(filter(_names_dataset, words), None)
        words = words if dataset is None else [word for word in words if word != dataset]
    if predictions is None and words:
        predictions = Path(words.pop(0))
    if words and truth is None and dataset is None:
        truth = Path(words.pop(0))
    if predictions is None or words or twice or (truth is None) == (dataset is None):
        said = {"predictions": predictions, "annotations": truth, "dataset": dataset, "left over": " ".join(words)}
        raise AutolmkError(
            "it is not clear what to compare with what",
            found=", ".join(f"{name} {value}" for name, value in said.items() if value) or "nothing",
            expected="autolmk_evaluate DATASET PREDICTIONS, or autolmk_evaluate PREDICTIONS ANNOTATIONS",
            remedy="name the predictions once, and either the dataset or the annotations",
        )
    return predictions, truth, dataset


def _names_dataset(word: str) -> bool:
    """True for a number or a full name, where no file or folder here is called so."""
    return (word.isdecimal() or DATASET_NAME.fullmatch(word) is not None) and not Path(word).exists()
