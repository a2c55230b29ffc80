"""autolmk_accumulate_crossval_results: the held-out predictions of a model's folds in one place, with their figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.cli.common import OK, add_folders, folders_from, option, parser, run
from autolmk.cli.held_out import add_models, held_out_models
from autolmk.cli.in_the_way import require_evaluation
from autolmk.errors import AutolmkError, some

if TYPE_CHECKING:
    from autolmk.evaluation import Evaluation
    from autolmk.fold.held_out import CrossValidation
    from autolmk.plans import Plans

OF_HELD_OUT = ("landmarks.csv", "truth.csv", "points.csv", "summary.json", "review.csv", "detections")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_accumulate_crossval_results`; return its exit code."""
    arguments = parser(
        "Put the held-out predictions of a model's folds into one folder, and evaluate them there: landmarks.csv, "
        "truth.csv, points.csv and summary.json.",
        usage="autolmk_accumulate_crossval_results DATASET [options]",
        examples=("autolmk_accumulate_crossval_results 1 -c heatmap -f 0 1 2 3 4",),
    )
    add_models(arguments)
    arguments.under("result")
    option(
        arguments, "-o", "--output", type=Path, metavar="FOLDER",
        help="where to write, for a single model; default: crossval_results_folds_0_1_... in the model's folder",
    )  # fmt: skip
    add_folders(arguments)
    return run(_accumulate, arguments, argv)


def _accumulate(args: argparse.Namespace) -> int:
    from autolmk.plans import Plans

    folders = folders_from(args)
    models = held_out_models(args, folders)
    if args.output is not None and len(models) > 1:
        raise AutolmkError(
            "-o takes the results of one model",
            found=", ".join(model.name for model in models),
            remedy="name one with -c, -tr and -p, or leave -o out",
        )
    for model, held_out in models.items():
        place = (
            args.output.expanduser()
            if args.output
            else model / f"crossval_results_folds_{'_'.join(map(str, held_out.folds))}"
        )
        _require_own_place(place)
        evaluation = accumulate(model, place, held_out, Plans.load(model / "plans.json"))
        mre = evaluation.overall.mre.value
        said = "no annotated point" if mre is None else f"MRE {mre:.3f} {evaluation.unit}"
        print(f"{model.name}, folds {', '.join(map(str, held_out.folds))}, {evaluation.n_cases} cases: {said}: {place}")
    return OK


def _require_own_place(place: Path) -> None:
    """AutolmkError where the folder holds anything but an earlier result, or belongs to a fold or to a packed model."""
    from autolmk.selection import RECIPE

    names = (
        RECIPE,
        *(("config.json",) if any(place.parent.glob("checkpoint_*")) else ()),
    )  # others have such a file, too
    owner = next((name for name in names if (place.parent / name).is_file()), None)
    if owner is not None:
        raise AutolmkError(
            "results cannot be put into a trained fold or a packed model",
            file=place,
            found=f"{owner} beside it",
            remedy="choose another folder with -o",
        )
    require_evaluation(place, OF_HELD_OUT, held_out=True)


def accumulate(model: Path, folder: Path, held_out: CrossValidation, plans: Plans) -> Evaluation:
    """Write what the folds of a model say of their held-out cases, as each validated it, and what `evaluation` says."""
    from autolmk.annotations import read_table
    from autolmk.fold.held_out import REMEDY, VALIDATION
    from autolmk.landmarks import Landmarks
    from autolmk.selection.results import TABLE, Result, write_held_out

    results = {}
    for fold in held_out.folds:
        validation = model / f"fold_{fold}" / VALIDATION
        table = read_table(validation / TABLE)
        differing = sorted(set(table) ^ set(held_out.held_out_by(fold)))
        if differing or folder.resolve() == validation.resolve():
            raise AutolmkError(
                "points and detections are of different cases" if differing else "results cannot replace their source",
                file=validation,
                found=some(differing) if differing else None,
                remedy=REMEDY if differing else "choose another folder with -o",
            )
        for case, found in table.items():
            points = found.points[:, : held_out.truth[case].points.shape[1]]
            landmarks = Landmarks(found.names, points, found.status, found.likelihood)
            results[case] = Result(landmarks, points, held_out.detections[case])
    return write_held_out(
        folder, results, held_out.truth, diagonals=held_out.diagonals(), pairs=plans.pairs, unit=plans.unit
    )
