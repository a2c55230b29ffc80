"""autolmk_predict: images in, landmarks in millimetres out."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import autolmk
from autolmk.cli.arguments import Parser, add_dataset, add_device, add_folders, add_plans, option, parser
from autolmk.cli.common import OK, SOME_FAILED, folders_from, run
from autolmk.cli.json_progress import failure_fields, finished_fields, json_line, started_fields
from autolmk.errors import AutolmkError, counted, some
from autolmk.paths import BEST, dataset_name

if TYPE_CHECKING:
    from autolmk.prediction.events import Tell
    from autolmk.prediction.model import Model
    from autolmk.prediction.predictor import Predictor

CHECKPOINTS = ("final", "best")
logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit code 3 where some cases failed; failures.json in the output folder says why."""
    return run(_watched, _parser(), argv)


def _parser() -> Parser:
    result = parser(
        "Find the landmarks of all images in a folder. Writes CASE.mrk.json for 3D Slicer, and landmarks.csv for all "
        "cases.",
        usage="autolmk_predict DATASET -i IMAGES -o FOLDER [options]",
        examples=(
            "autolmk_predict 1 -i images -o predictions",
            "autolmk_predict -d 1 -c heatmap -f 0 1 2 -i images -o predictions --save_overlays",
            "autolmk_predict -m path/to/model_folder -i images/case_01_0000.nii.gz -o predictions",
        ),
    )
    add_dataset(result, dest="d", required=False, kind="the dataset that the model was trained on: number or name")
    _add_model(result)
    _add_places(result)
    _add_looking(result)
    _add_more_output(result)
    _add_machine(result)
    add_folders(result)
    return result


def _watched(args: argparse.Namespace) -> int:
    """Predict; with --progress json also a line of JSON where that ends in an error."""
    if args.progress != "json":
        return _predict(args, None)
    try:
        return _predict(args, json_line)
    except Exception as error:
        json_line("failed", {"case": None, **failure_fields(error)})
        raise


def _add_model(arguments: Parser) -> None:
    arguments.under("model")
    option(
        arguments, "-m", "--model", dest="m", metavar="MODEL_FOLDER",
        help="a model's folder, a packed one, or a bundle, instead of a dataset, -c and -p",
    )  # fmt: skip
    option(
        arguments, "-c", "--configuration", also=("--configurations",), dest="c", metavar="NAME",
        help="name of a configuration; default: the one that was trained",
    )  # fmt: skip
    add_plans(arguments, dest="p", help="name of the plans; default: those that were trained with")
    option(
        arguments, "-tr", "--trainer", also=("--trainers",), dest="tr", metavar="TRAINER",
        help="a name, file.py:Class or module:Class; default: the one that was trained with",
    )  # fmt: skip
    option(
        arguments, "-f", "--folds", also=("--fold",), dest="f", nargs="+", metavar="FOLD",
        help="folds to average, such as 0 1 2, or all; default: those that were trained",
    )  # fmt: skip
    option(arguments, "-chk", "--checkpoint", dest="chk", default="final", choices=CHECKPOINTS, help="which checkpoint")
    option(
        arguments, "--trust-code", action="store_true", help="run the trainers' sources that lie in the model folder"
    )


def _add_places(arguments: Parser) -> None:
    arguments.under("images and results")
    option(
        arguments, "-i", "--input", required=True, metavar="IMAGES",
        help="a folder of images, CASE_0000.ext for each channel; or one image",
    )  # fmt: skip
    option(
        arguments, "-o", "--output", required=True, metavar="FOLDER", help="where to write; made if it is missing"
    )  # fmt: skip
    option(
        arguments, "--continue_prediction", "--c", action="store_true",
        help="keep what an earlier run predicted before it was broken off",
    )  # fmt: skip


def _add_looking(arguments: Parser) -> None:
    arguments.under("how to predict")
    option(
        arguments, "-step_size", type=float, default=0.5, metavar="SHARE",
        help="distance between windows, as a share of their side",
    )  # fmt: skip
    option(arguments, "--disable_tta", action="store_true", help="do not mirror images at test time")
    option(arguments, "--disable_shape_prior", action="store_true", help="leave points where the network found them")
    option(
        arguments, "--disable_co_slice", action="store_true",
        help="leave landmarks that share a slice where each was found",
    )  # fmt: skip
    option(
        arguments, "--stages", type=int, metavar="N", help="run only the first N stages of a method; default: all"
    )  # fmt: skip


def _add_more_output(arguments: Parser) -> None:
    arguments.under("further results")
    option(
        arguments, "--save_overlays", "--overlays", action="store_true",
        help="write pictures of the slices through each landmark",
    )  # fmt: skip
    option(
        arguments, "--save_detections", "--save_probabilities", "--npz", action="store_true",
        help="keep all candidates too, which autolmk_ensemble and autolmk_apply_postprocessing need",
    )  # fmt: skip
    option(
        arguments, "--save_heatmap_crops", action="store_true",
        help="write the log-odds around each landmark as .nii.gz",
    )  # fmt: skip
    option(
        arguments, "--progress", default="bar", choices=("bar", "json", "none"),
        help="how far it is: a bar, JSON lines on standard output for other programs, or nothing",
    )  # fmt: skip


def _add_machine(arguments: Parser) -> None:
    arguments.under("machine")
    add_device(arguments)
    option(
        arguments, "-npp", type=int, default=1, metavar="N",
        help="number of threads that read and preprocess ahead; 0 reads when it is needed",
    )  # fmt: skip
    option(
        arguments, "-nps", type=int, default=1, metavar="N",
        help="number of threads that write results; 0 writes before the next case",
    )  # fmt: skip


def _predict(args: argparse.Namespace, tell: Tell | None) -> int:
    from autolmk.bundles.in_place import model_of
    from autolmk.networks.freed_memory import keep_freed_memory

    if min(args.npp, args.nps) < 0:
        raise AutolmkError(
            "-npp and -nps must be 0 or more", found=f"{args.npp}, {args.nps}", remedy="give 0 to work without threads"
        )
    keep_freed_memory()
    model = find_model(args)
    with model_of(model, trust_code=args.trust_code) as folder:
        return _predict_with(args, model, folder, tell)


def _predict_with(args: argparse.Namespace, model: Path, folder: Path, tell: Tell | None) -> int:
    """model: as the user knows it. folder: to read, another one where that is a bundle."""
    from autolmk.prediction.folder import FolderOptions, predict_folder
    from autolmk.prediction.output import PredictionFolder, fingerprints
    from autolmk.prediction.predictor import Predictor

    predictor = Predictor(
        folder,
        args.f,
        args.chk,
        args.device,
        mirror=not args.disable_tta,
        step=args.step_size,
        shape_prior=not args.disable_shape_prior,
        co_slice=not args.disable_co_slice,
        stages=args.stages,
        trainer=args.tr,
        trust_code=args.trust_code,
    )
    ending = None if predictor.description is None else predictor.description.file_ending
    cases = find_cases(Path(args.input).expanduser(), ending, len(predictor.plans.channel_names))
    place = f"{model} (from -m)" if args.d is None else folders_from(args).results.describe(model)
    for part in predictor.models:
        logger.info(
            "%s, fold%s %s (%s)",
            place if predictor.recipe is None else f"{part.model_folder.name} of {place}",
            "s" * (len(part.folds) > 1),
            ", ".join(part.folds),
            args.chk,
        )
    logger.info("%s on %s", counted(len(cases), "case"), predictor.device)
    if predictor.recipe is None:
        _say_uncalibrated(predictor.models[0])
    if tell is not None:
        tell("started", started_fields(list(cases), Path(args.output).expanduser(), str(predictor.device)))
    output = PredictionFolder(
        Path(args.output).expanduser(),
        fingerprints(cases),
        _identity(predictor, detections=args.save_detections),
        unit=predictor.plans.unit,
        recipe=predictor.recipe,
    )
    options = FolderOptions(
        args.continue_prediction, args.npp, args.nps, args.save_heatmap_crops, args.save_overlays, args.save_detections,
        args.progress == "bar",
    )  # fmt: skip
    report = predict_folder(predictor, cases, output, options, record=_record(args, model, predictor), tell=tell)
    if tell is not None:
        tell("finished", finished_fields(output, len(cases), len(report.failures)))
        return SOME_FAILED if report.failures else OK
    print(f"{len(cases) - len(report.failures)} of {counted(len(cases), 'case')} predicted: {output.folder}")
    if beyond := len(output.outside):
        lie = "lies" if beyond == 1 else "lie"
        print(f"{beyond} {lie} outside the training images' range, see {output.folder / 'review.csv'}")
    if report.failures:
        print(f"{len(report.failures)} failed, see {output.folder / 'failures.json'}", file=sys.stderr)
    return SOME_FAILED if report.failures else OK


def _identity(predictor: Predictor, *, detections: bool) -> dict[str, Any]:
    """What two runs must share for one to go on with the other's predictions."""
    from autolmk.files.digest import digest

    return {
        "checkpoints": predictor.digests,
        "plans": predictor.plans.digest(),
        "mirroring": predictor.test_time.mirror,
        "step_size": predictor.test_time.step,
        "shape_prior": [model.is_drawn for model in predictor.models],
        "co_slice": [model.configuration.co_slice for model in predictor.models],
        "stages": [len(model.stages) for model in predictor.models],
        "recipe": None if predictor.recipe is None else digest(vars(predictor.recipe)),
        "detections": detections,
        "device": predictor.device.type,
        "autolmk": autolmk.__version__,
    }


def _record(args: argparse.Namespace, model: Path, predictor: Predictor) -> dict[str, Any]:
    """What run.json says besides."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "arguments": {k: v for k, v in sorted(vars(args).items()) if not k.startswith("_")},
        "model_folder": str(model.absolute()),
        "dataset": predictor.plans.dataset_name,
        "unit": predictor.plans.unit,
        "sometimes_absent": predictor.plans.sometimes_absent,
        "checkpoint": args.chk,
        "models": {part.model_folder.name: _record_of(part) for part in predictor.models},
        "device": describe_device(predictor.device),
    }


def _record_of(model: Model) -> dict[str, Any]:
    """The record of one configuration's model."""
    calibrated = {f: m.presence_cases for f, m in zip(model.folds, model.measured, strict=True)}
    return {"trainer": model.configuration.trainer, "folds": model.folds, "presence_calibrated_on": calibrated}


def _say_uncalibrated(predictor: Model) -> None:
    """Warn where landmarks may be absent but no fold's held-out cases told how to calibrate."""
    if predictor.plans.sometimes_absent and not any(m.presence_cases for m in predictor.measured):
        logger.warning(
            "presence is not calibrated, so likelihoods are the network's own log-odds: fold %s held no case out that "
            "says whether %s is there",
            *(", ".join(predictor.folds), some(predictor.plans.sometimes_absent)),
        )


def find_model(args: argparse.Namespace) -> Path:
    """The model folder that -m names; else of the dataset the packed one, where there is one and no part of it is asked
    for, or the only trained one that fits -c, -p and -tr."""
    from autolmk.methods.registry import label
    from autolmk.selection import RECIPE

    if (args.m is None) == (args.d is None):
        raise AutolmkError(
            "either a dataset or -m must say which model to predict with",
            found="neither" if args.d is None else f"the dataset {args.d} and -m {args.m}",
            expected="autolmk_predict DATASET ..., or autolmk_predict -m MODEL_FOLDER ...",
            remedy="name one of the two",
        )
    if args.m is not None:
        model = Path(args.m).expanduser()
        if model.is_file():
            return model  # a bundle
        if not any((model / name).is_file() for name in ("plans.json", RECIPE)):
            raise AutolmkError(
                "this is no model folder",
                file=model,
                found=f"neither plans.json nor {RECIPE}",
                expected="TRAINER__PLANS__CONFIGURATION, with plans.json and fold_k folders, or a packed model",
                remedy="check the path",
            )
        return model
    folders = folders_from(args)
    dataset = dataset_name(args.d, folders)
    wanted = (None if args.tr is None else label(args.tr), args.p, args.c)
    packed = folders.results / dataset / BEST
    trained = sorted(_trained(folders.results / dataset, args.chk))
    if (packed / RECIPE).is_file() and not any((args.tr, args.p, args.c, args.f, args.stages)):
        _say_newer(packed / RECIPE, trained)
        return packed
    fitting = [m for m in trained if all(w in (None, n) for w, n in zip(wanted, m.name.split("__"), strict=True))]
    if len(fitting) == 1:
        return fitting[0]
    raise AutolmkError(
        "several trained models fit" if fitting else "no trained model fits",
        file=folders.results / dataset,
        found=", ".join(m.name for m in fitting or trained) or f"nothing trained in {folders.results}",
        expected="one TRAINER__PLANS__CONFIGURATION",
        remedy="say which with -tr, -p and -c" if trained else "finish training with autolmk_train, or check --results",
    )


def _say_newer(recipe: Path, trained: Sequence[Path]) -> None:
    """Warn where models were trained after the packed one was chosen, which knows nothing of them."""
    packed = recipe.stat().st_mtime
    finals = {model: model.glob("fold_*/checkpoint_final.safetensors") for model in trained}
    newer = [model.name for model, files in finals.items() if any(file.stat().st_mtime > packed for file in files)]
    if newer:
        logger.warning(
            "the packed model %s is older than what was trained since (%s); autolmk_find_best_configuration chooses "
            "anew, -c, -p and -tr name another model",
            *(recipe.parent, some(newer)),
        )


def _trained(folder: Path, checkpoint: str) -> list[Path]:
    from autolmk.prediction.model import trained_folds

    models = [p for p in folder.iterdir() if p.name.count("__") == 2] if folder.is_dir() else []
    return [model for model in models if trained_folds(model, checkpoint)]


def find_cases(place: Path, file_ending: str | None, n_channels: int | None = None) -> dict[str, tuple[Path, ...]]:
    """The files of each case, by channel, in a folder, or of one image. file_ending: the training set's, see
    `list_mixed_cases`.
    """
    from autolmk.imageio import DICOM, conversion_in, list_mixed_cases, others_in, split_name, stem_of

    if place.is_file():
        case, channel = split_name(place)
        return {case if channel == 0 else stem_of(place): (place,)}
    wanted = None if file_ending is None else DICOM if file_ending.strip(".").lower() == DICOM else file_ending.lower()
    cases = list_mixed_cases(place, wanted, n_channels)
    if not cases:
        raise AutolmkError(
            "there is no image to predict",
            file=place,
            found=others_in(place),
            expected="images named CASE_0000.ext, or a folder with a DICOM series for each case",
            remedy=conversion_in(place) or "check -i, or convert the images",
        )
    return cases


def describe_device(device: object) -> str:
    """The device in words, such as `cpu, 2 threads` or `cuda:0, NAME OF THE CARD`."""
    import torch

    if str(device).startswith("cuda"):
        return f"{device}, {torch.cuda.get_device_name(str(device))}"
    return f"{device}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    sys.exit(main())
