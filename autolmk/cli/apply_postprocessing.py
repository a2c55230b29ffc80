"""autolmk_apply_postprocessing: predictions finished by the steps of a recipe, with error radii."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autolmk.cli.common import OK, option, parser, run
from autolmk.errors import AutolmkError, counted
from autolmk.progress_bars import tracked


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_apply_postprocessing`; return its exit code."""
    arguments = parser(
        "Finish predictions with the steps that a packed model keeps: final points, error radii, review.csv.",
        usage="autolmk_apply_postprocessing -i FOLDER -o FOLDER -r MODEL [options]",
        examples=("autolmk_apply_postprocessing -i combined -o predictions -r results/Dataset001_Skull/best",),
    )
    arguments.under("predictions")
    option(
        arguments, "-i", "--input", type=Path, required=True, metavar="FOLDER",
        help="predictions that autolmk_ensemble or autolmk_predict --save_detections wrote",
    )  # fmt: skip
    option(arguments, "-o", "--output", type=Path, required=True, metavar="FOLDER", help="where to write")
    option(
        arguments, "-r", "--recipe", "-pp_file", type=Path, required=True, metavar="MODEL",
        help="packed model whose steps are applied: its folder, or its recipe.json",
    )  # fmt: skip
    return run(_apply, arguments, argv)


def _apply(args: argparse.Namespace) -> int:
    from autolmk.cli.prediction_folders import begin, load_detections, outside_of, read_predicted
    from autolmk.files.digest import digest
    from autolmk.files.serialization import to_json
    from autolmk.selection import Recipe
    from autolmk.selection.results import Result

    predicted, recipe = read_predicted(args.input.expanduser()), Recipe.load(args.recipe.expanduser())
    members = {member.model for member in recipe.members}
    if set(predicted.models) != members or predicted.unit != recipe.unit:
        raise AutolmkError(
            "these predictions are not those of the recipe's models",
            file=predicted.folder,
            found=f"{', '.join(predicted.models) or 'no model'}, in {predicted.unit}",
            expected=f"{', '.join(sorted(members))}, in {recipe.unit}",
            remedy="predict with these models, combine several with autolmk_ensemble -r RECIPE, and name that with -i",
        )
    identity, place = {"recipe": digest(to_json(recipe))}, args.output.expanduser()
    record = {"dataset": predicted.dataset, "unit": predicted.unit, "models": {name: {} for name in predicted.models}}
    with begin(place, [predicted], predicted.cases, identity, recipe) as output:
        for case in tracked(predicted.cases, "finishing"):
            conclusion = recipe.finish(load_detections(predicted, case))
            result = Result.of_conclusion(conclusion)
            landmarks = replace(result.landmarks, outside=outside_of([predicted], case))
            output.write(case, replace(result, landmarks=landmarks), detections=True)
        output.finish({**record, "sometimes_absent": recipe.sometimes_absent}, [])
    print(f"{counted(len(predicted.cases), 'case')} finished: {output.folder}")
    return OK
