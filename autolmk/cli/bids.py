"""autolmk_bids: the landmarks of a BIDS tree's images, as a BIDS App."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autolmk.cli.arguments import add_device
from autolmk.cli.common import OK, SOME_FAILED, argument, option, parser, run
from autolmk.errors import AutolmkError, counted


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
    from autolmk.prediction.bids import images_of, write_description, write_result
    from autolmk.prediction.predictor import Predictor

    images = images_of(args.bids_dir, args.suffix, args.participant_label)
    model = find_model(argparse.Namespace(m=args.model, d=None))
    predictor = Predictor(model, device=args.device, trust_code=args.trust_code)
    if len(args.suffix) != len(predictor.plans.channel_names):
        raise AutolmkError(
            "the model takes another number of images",
            found=f"--suffix {' '.join(args.suffix)}",
            expected=f"a suffix each for {', '.join(predictor.plans.channel_names)}",
            remedy="give them in this order",
        )
    write_description(args.output_dir, model.name)
    failed = []
    for image in images:
        try:
            file = write_result(args.output_dir, image, predictor.predict_file(image.files))
        except AutolmkError as error:
            failed.append(image.entities)
            print(f"error: {error.of_case(image.entities)}", file=sys.stderr)
        else:
            print(file)
    print(f"{len(images) - len(failed)} of {counted(len(images), 'image')} predicted: {args.output_dir}")
    return SOME_FAILED if failed else OK


if __name__ == "__main__":
    sys.exit(main())
