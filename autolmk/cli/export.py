"""autolmk_export: a trained model as one file that travels."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from autolmk.cli.common import OK, add_folders, option, parser, run
from autolmk.errors import AutolmkError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point, also of autolmk_export_model_to_zip."""
    arguments = parser(
        "Write a trained model, of one configuration or packed, as one file: a bundle, which autolmk_install and "
        "autolmk_predict -m take, with a model card and without names of cases or paths."
    )
    arguments.add_argument("model", nargs="?", metavar="MODEL_FOLDER", help="or -d: a model's folder, or a packed one")
    option(arguments, "-o", "--output", type=Path, metavar="FILE", help="default: DATASET__MODEL.autolmk.zip, here")
    option(arguments, "--format", default="bundle", choices=list(EXPORTERS), help="what to write")
    option(arguments, "-d", metavar="DATASET", help="instead of MODEL_FOLDER: that the model was trained on")
    option(arguments, "-c", metavar="CONFIGURATION", help="with -d; default: the packed model, or the one trained")
    option(arguments, "-p", metavar="PLANS", help="with -d: name of the plans")
    option(arguments, "-tr", metavar="TRAINER", help="with -d")
    option(arguments, "-f", nargs="+", metavar="FOLD", help="folds to take, such as 0 1 2, or all; default: as trained")
    option(arguments, "--licence", "--license", metavar="TEXT", help="of the model; default: dataset.json's")
    add_folders(arguments)
    return run(_export, arguments, argv)


def _export(args: argparse.Namespace) -> int:
    return EXPORTERS[args.format](args, _model(args))


def _bundle(args: argparse.Namespace, model: Path) -> int:
    from autolmk.bundles.writing import export, sha256_of

    file, manifest = export(model, args.output, args.f, args.licence)
    print(f"{file}: {manifest.model} of {manifest.dataset}, {file.stat().st_size / 1e6:.1f} MB")
    print(f"SHA-256 {sha256_of(file)}")
    print(f"licence: {manifest.licence}")
    if manifest.code:
        print(f"It holds code, {', '.join(manifest.code)}: whoever uses it must read that and give --trust-code.")
    return OK


EXPORTERS: dict[str, Callable[[argparse.Namespace, Path], int]] = {"bundle": _bundle}  # --format -> what writes it


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
