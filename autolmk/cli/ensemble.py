"""autolmk_ensemble: the predictions of several models of the same cases, combined into one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.cli.common import OK, option, parser, run
from autolmk.errors import AutolmkError, counted
from autolmk.progress_bars import tracked

if TYPE_CHECKING:
    from autolmk.cli.prediction_folders import Predicted
    from autolmk.selection.ensembling import Combination


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_ensemble`; return its exit code."""
    arguments = parser(
        "Combine what several models predicted for the same cases. autolmk_apply_postprocessing finishes the result.",
        usage="autolmk_ensemble -i FOLDER FOLDER ... -o FOLDER [options]",
        examples=("autolmk_ensemble -i predictions_1 predictions_2 -o combined -r results/Dataset001_Skull/best",),
    )
    arguments.under("predictions")
    option(
        arguments, "-i", "--input", nargs="+", type=Path, required=True, metavar="FOLDER",
        help="two or more folders that autolmk_predict --save_detections wrote",
    )  # fmt: skip
    option(arguments, "-o", "--output", type=Path, required=True, metavar="FOLDER", help="where to write")
    option(
        arguments, "-r", "--recipe", type=Path, metavar="MODEL",
        help="packed model whose weights count: its folder, or its recipe.json; default: all models count alike",
    )  # fmt: skip
    return run(_ensemble, arguments, argv)


def _ensemble(args: argparse.Namespace) -> int:
    from autolmk.cli.prediction_folders import begin, common_cases, load_detections, outside_of, read_predicted
    from autolmk.files.digest import digest
    from autolmk.files.serialization import to_json
    from autolmk.landmarks import decided
    from autolmk.selection.ensembling import combine
    from autolmk.selection.results import Result

    if len(args.input) < 2:
        raise AutolmkError(
            "an ensemble needs several folders of predictions",
            found=counted(len(args.input), "folder"),
            remedy="name two or more with -i",
        )
    runs = [read_predicted(folder.expanduser()) for folder in args.input]
    cases = common_cases(runs)
    runs, combination = _combination(runs, args.recipe)
    absent = sorted({name for run_ in runs for name in run_.sometimes_absent})
    models: dict[str, object] = {name: {} for run_ in runs for name in run_.models}
    record = {"dataset": runs[0].dataset, "unit": runs[0].unit, "sometimes_absent": absent, "models": models}
    identity = {"combination": digest(to_json(combination))}
    with begin(args.output.expanduser(), runs, cases, identity) as output:
        for case in tracked(cases, "combining"):
            combined = combine([load_detections(run_, case) for run_ in runs], combination)
            landmarks = decided(combined.names, combined.best, combined.likelihood, absent)
            landmarks = replace(landmarks, outside=outside_of(runs, case))
            output.write(case, Result(landmarks, combined.best, combined), detections=True)
        output.finish(record, [])
    print(f"{counted(len(cases), 'case')} of {len(runs)} models combined: {output.folder}")
    return OK


def _combination(runs: Sequence[Predicted], recipe: Path | None) -> tuple[list[Predicted], Combination]:
    """(runs in the order of the combination's members, the combination)."""
    from autolmk.selection import Recipe
    from autolmk.selection.ensembling import equal_combination

    if recipe is None:
        return list(runs), equal_combination([run_.folder.name for run_ in runs])
    known = Recipe.load(recipe.expanduser())
    by_model = {run_.models: run_ for run_ in runs}
    wanted = [(member.model,) for member in known.members]
    if set(by_model) != set(wanted) or len(by_model) != len(runs):
        raise AutolmkError(
            "these predictions are not those of the recipe's models",
            file=recipe,
            found="; ".join(f"{run_.folder}: {', '.join(run_.models)}" for run_ in runs),
            expected="a folder of predictions of each of " + ", ".join(member.model for member in known.members),
            remedy="predict with each of these models, or leave -r out",
        )
    return [by_model[model] for model in wanted], known.combination
