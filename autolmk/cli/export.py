"""autolmk_export: a trained model as one file that travels."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from autolmk.cli.arguments import add_plans
from autolmk.cli.common import OK, add_folders, argument, option, parser, run
from autolmk.errors import AutolmkError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point, also of autolmk_export_model_to_zip."""
    arguments = parser(
        "Write a trained model, of one configuration or packed, as one file: a bundle, which autolmk_install and "
        "autolmk_predict -m take, with a model card and without names of cases or paths.",
        usage="autolmk_export MODEL_FOLDER -o FILE [options]",
        examples=(
            "autolmk_export results/Dataset001_Skull/best -o skull.autolmk.zip",
            "autolmk_export -d 1 -c heatmap -f 0 1 2",
            "autolmk_export results/Dataset001_Skull/best --format onnx -o skull_onnx",
        ),
    )
    arguments.under("model")
    argument(arguments, "model", nargs="?", metavar="MODEL_FOLDER", help="a model's folder, or a packed one; or use -d")
    option(
        arguments, "-d", "--dataset", also=("--dataset_id",), dest="d", metavar="DATASET",
        help="instead of MODEL_FOLDER: the dataset that the model was trained on",
    )  # fmt: skip
    option(
        arguments, "-c", "--configuration", also=("--configurations",), dest="c", metavar="NAME",
        help="with -d: name of a configuration; default: the packed model, or the one that was trained",
    )  # fmt: skip
    add_plans(arguments, dest="p", help="with -d: name of the plans; default: those that were trained with")
    option(
        arguments, "-tr", "--trainer", also=("--trainers",), dest="tr", metavar="TRAINER",
        help="with -d: the trainer; default: the one that was trained with",
    )  # fmt: skip
    option(
        arguments, "-f", "--folds", also=("--fold",), dest="f", nargs="+", metavar="FOLD",
        help="folds to take, such as 0 1 2, or all; default: those that were trained",
    )  # fmt: skip
    arguments.under("what to write")
    option(
        arguments, "-o", "--output", type=Path, metavar="FILE",
        help="file to write, or folder with --format onnx; default: DATASET__MODEL.autolmk.zip, here",
    )  # fmt: skip
    option(
        arguments, "--format", default="bundle", choices=list(EXPORTERS),
        help="a bundle for autolmk, or ONNX graphs with a runner that needs neither torch nor autolmk",
    )  # fmt: skip
    option(
        arguments, "--licence", "--license", metavar="TEXT", help="licence of the model; default: that of dataset.json"
    )
    option(
        arguments, "--trust-code", action="store_true",
        help="for onnx, run the trainers' sources that lie in the model folder",
    )  # fmt: skip
    add_folders(arguments)
    return run(_export, arguments, argv)


def _export(args: argparse.Namespace) -> int:
    return EXPORTERS[args.format](args, _model(args))


def _bundle(args: argparse.Namespace, model: Path) -> int:
    from autolmk.bundles.exporting import export
    from autolmk.files.digest import sha256_of

    file, manifest = export(model, args.output, args.f, args.licence)
    print(f"{file}: {manifest.model} of {manifest.dataset}, {file.stat().st_size / 1e6:.1f} MB")
    print(f"SHA-256 {sha256_of(file)}")
    print(f"licence: {manifest.licence}")
    if manifest.code:
        print(f"It holds code, {', '.join(manifest.code)}: whoever uses it must read that and give --trust-code.")
    return OK


def _onnx(args: argparse.Namespace, model: Path) -> int:
    from autolmk.export_onnx import export_onnx

    if args.output is None or args.f is not None or args.licence is not None:
        raise AutolmkError(
            "an export to ONNX needs a folder, and takes neither -f nor --licence",
            found=f"-o {args.output}, -f {args.f}, --licence {args.licence}",
            expected="autolmk_export MODEL_FOLDER --format onnx -o FOLDER",
            remedy="give -o a new folder, and leave the other two out",
        )
    folder = export_onnx(model, args.output.expanduser(), trust_code=args.trust_code)
    print(f"{folder}: predict a case with python {folder / 'run_onnx.py'} IMAGE -o POINTS.mrk.json")
    return OK


# --format -> what writes it
EXPORTERS: dict[str, Callable[[argparse.Namespace, Path], int]] = {"bundle": _bundle, "onnx": _onnx}


def _model(args: argparse.Namespace) -> Path:
    """The model folder that MODEL_FOLDER, or else -d with -c, -p and -tr, names."""
    from autolmk.cli.predict import find_model

    if args.model is not None and any((args.d, args.c, args.p, args.tr)):
        raise AutolmkError(
            "it is not clear which model to export",
            found=f"{args.model}, and -d, -c, -p or -tr",
            expected="MODEL_FOLDER, or -d DATASET",
            remedy="give one of the two",
        )
    return find_model(argparse.Namespace(**{**vars(args), "m": args.model, "chk": "final", "stages": None}))
