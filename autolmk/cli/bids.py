"""autolmk_bids: the landmarks of a BIDS tree's images, as a BIDS App."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.cli.arguments import add_device
from autolmk.cli.common import OK, SOME_FAILED, argument, option, parser, run
from autolmk.errors import AutolmkError, counted

if TYPE_CHECKING:
    from autolmk.prediction.bids import BidsImage
    from autolmk.prediction.predictor import Predictor


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit code 3 where some images failed."""
    arguments = parser(
        "Predict landmarks of the anatomical images of a BIDS tree into derivatives: a BIDS App.",
        usage="autolmk_bids BIDS_DIR OUTPUT_DIR participant -m MODEL_FOLDER [options]",
        examples=("autolmk_bids study derivatives participant --participant_label 01 02 -m path/to/model_folder",),
    )
    arguments.under("images and results")
    argument(arguments, "bids_dir", type=Path, help="the BIDS tree")
    argument(arguments, "output_dir", type=Path, help="folder of the derivatives; made if it is missing")
    argument(
        arguments, "analysis_level", choices=("participant",), help="each image by itself; there is no group level"
    )
    option(arguments, "--participant_label", nargs="+", default=[], metavar="LABEL", help="such as 01; default: all")
    option(arguments, "-m", "--model", required=True, metavar="MODEL_FOLDER", help="a model's folder, or a packed one")
    option(
        arguments,
        "--suffix",
        nargs="+",
        default=["T1w"],
        metavar="SUFFIX",
        help="of the images, one a channel, in order",
    )
    arguments.under("machine")
    add_device(arguments)
    option(arguments, "--trust-code", action="store_true", help="run trainers' sources that lie in the model folder")
    return run(_predict, arguments, argv)


def _predict(args: argparse.Namespace) -> int:
    from autolmk.cli.predict import find_model
    from autolmk.files.locks import exclusive
    from autolmk.files.serialization import make_folder
    from autolmk.prediction.bids import images_of, require_free, write_description
    from autolmk.prediction.predictor import Predictor

    root, output = args.bids_dir.expanduser(), args.output_dir.expanduser()
    images = images_of(root, args.suffix, args.participant_label)
    model = find_model(argparse.Namespace(m=args.model, d=None))
    predictor = Predictor(model, device=args.device, trust_code=args.trust_code)
    if len(args.suffix) != len(predictor.plans.channel_names):
        raise AutolmkError(
            "the model takes another number of images",
            found=f"--suffix {' '.join(args.suffix)}",
            expected=f"a suffix each for {', '.join(predictor.plans.channel_names)}",
            remedy="give them in this order",
        )
    require_free(root, output, images)
    make_folder(output)
    with exclusive(output):
        write_description(output, model.name)
        failed = [image for image in images if not _one(predictor, image, output)]
    print(f"{len(images) - len(failed)} of {counted(len(images), 'image')} predicted: {output}")
    return SOME_FAILED if failed else OK


def _one(predictor: Predictor, image: BidsImage, output: Path) -> bool:
    """Predict and write one image; whether that went well."""
    from autolmk.prediction.bids import write_result
    from autolmk.prediction.folder import named

    try:
        landmarks = predictor.predict_file(image.files)
    except Exception as error:  # one bad image does not stop the others
        print(f"error: {named(error, image.files[0]).of_case(image.entities)}", file=sys.stderr)
        return False
    print(write_result(output, image, landmarks))
    return True


if __name__ == "__main__":
    sys.exit(main())
