"""Arguments that name models and folds, for all commands that work on held-out predictions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.cli.arguments import Parser, add_dataset, add_plans, option
from autolmk.errors import AutolmkError
from autolmk.paths import Folders, dataset_name

if TYPE_CHECKING:
    from autolmk.fold.held_out import CrossValidation


KINDS = ("trainer", "plans", "configuration")  # parts of a model folder's name


def add_models(arguments: Parser) -> None:
    """DATASET, -c, -p, -tr and -f."""
    add_dataset(arguments)
    arguments.under("models")
    option(
        arguments, "-c", "--configurations", also=("--configuration",), nargs="+", metavar="NAME",
        help="names of configurations; default: all that were trained",
    )  # fmt: skip
    add_plans(arguments, nargs="+", help="names of plans; default: all that were trained")
    option(
        arguments, "-tr", "--trainers", also=("--trainer",), nargs="+", metavar="TRAINER",
        help="names of trainers; default: all that were trained",
    )  # fmt: skip
    option(
        arguments, "-f", "--folds", also=("--fold",), nargs="+", type=int, metavar="FOLD",
        help="folds, such as 0 1 2; default: those that every one of these models was trained on",
    )  # fmt: skip


def held_out_models(args: argparse.Namespace, folders: Folders) -> dict[Path, CrossValidation]:
    """Model folder -> its held-out predictions, all of the same folds. AutolmkError where none fits."""
    from autolmk.fold.held_out import read_crossval
    from autolmk.methods.registry import label
    from autolmk.prediction.model import trained_folds

    dataset = dataset_name(args.dataset, folders)
    place = folders.results / dataset
    wanted = (args.trainers and [label(t) for t in args.trainers], args.plans, args.configurations)
    named = [p for p in sorted(place.iterdir()) if p.name.count("__") == 2] if place.is_dir() else []
    fitting = [m for m in named if all(not w or n in w for w, n in zip(wanted, m.name.split("__"), strict=True))]
    folds = {m: [int(f) for f in trained_folds(m, "final") if f != "all"] for m in fitting}
    chosen = sorted(set(args.folds or ())) or sorted(
        set.intersection(*(set(f) for f in folds.values() if f)) if any(folds.values()) else []
    )
    models = [m for m in fitting if folds[m] and set(chosen) <= set(folds[m])]
    there = [set(part) for part in zip(*(m.name.split("__") for m in models), strict=True)] or [set()] * len(KINDS)
    asked = zip(KINDS, wanted, there, strict=True)
    lacking = [f"{kind} {name}" for kind, names, known in asked for name in names or () if name not in known]
    if not models or not chosen or lacking:
        raise AutolmkError(
            f"no model of {', '.join(lacking)} was trained with these folds" if lacking else "no trained model fits",
            file=place,
            found="; ".join(f"{m.name}: folds {', '.join(map(str, folds[m])) or 'none'}" for m in named if m in folds)
            or ", ".join(m.name for m in named)
            or "no model",
            expected=f"folds {', '.join(map(str, chosen))} of each"
            if chosen
            else "numbered folds, which hold cases out, that all of these models were trained with",
            remedy="train them with autolmk_train, or choose others with -c, -p, -tr and -f",
        )
    return {model: read_crossval(model, chosen) for model in models}
