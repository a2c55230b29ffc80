"""autolmk_find_best_configuration: from the held-out predictions of trained folds to one packed model."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autolmk.cli.common import OK, add_folders, folders_from, option, parser, run
from autolmk.cli.held_out import add_models, held_out_models
from autolmk.errors import AutolmkError, some
from autolmk.paths import BEST, MEASURING, Folders

if TYPE_CHECKING:
    from autolmk.dataset import Measurement
    from autolmk.fold.held_out import CrossValidation
    from autolmk.plans import Plans
    from autolmk.selection import Recipe
    from autolmk.selection.model_selection import Choice

SAME = ("landmarks", "sometimes_absent", "pairs", "unit", "ndim", "channel_names", "co_slice_groups")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_find_best_configuration`; return its exit code."""
    arguments = parser(
        "Compare trained models and ensembles of them on the cases that their folds held out, choose the simplest one "
        "that is as good as the best, choose the steps that follow it, and pack it all into results/DATASET/best.",
        usage="autolmk_find_best_configuration DATASET [options]",
        examples=(
            "autolmk_find_best_configuration 1",
            "autolmk_find_best_configuration 1 -c global_to_local coarse_to_fine -f 0 1 2",
        ),
    )
    add_models(arguments)
    arguments.under("how to choose")
    option(arguments, "--disable_ensembling", action="store_true", help="compare single models only")
    option(arguments, "--level", type=float, default=0.9, help="share of points that lie within the error radius")
    option(arguments, "--seed", type=int, default=0, help="seed of tests and intervals")
    add_folders(arguments)
    return run(_find, arguments, argv)


def _find(args: argparse.Namespace) -> int:
    from autolmk.files.locks import exclusive

    if not 0 < args.level < 1:
        raise AutolmkError("--level must be a share between 0 and 1", found=args.level, remedy="such as --level 0.9")
    folders = folders_from(args)
    models = held_out_models(args, folders)
    with exclusive(next(iter(models)).parent):
        return _choose_and_pack(args, folders, models)


def _choose_and_pack(args: argparse.Namespace, folders: Folders, models: Mapping[Path, CrossValidation]) -> int:
    """What the command does once nobody else can; the exit code."""
    from autolmk.selection.model_selection import MOST_MEMBERS, choose
    from autolmk.selection.packing import pack

    plans = _same_plans(models)
    choice = choose(
        {model.name: held_out for model, held_out in models.items()},
        {model.name: _size(model, held_out.folds) for model, held_out in models.items()},
        plans,
        most_members=1 if args.disable_ensembling else MOST_MEMBERS,
        level=args.level,
        seed=args.seed,
        progress=True,
    )
    place = next(iter(models)).parent
    held_out = next(iter(models.values()))
    measurements = _measurements((folders.raw.path / plans.dataset_name, next(iter(models))), plans)
    recipe = _recipe(choice, plans, measurements, held_out, args.level)
    target = place / BEST
    pack(target, place, recipe, lambda folder: _write(folder, target, choice, plans, held_out, args))
    print(table(choice, plans.unit))
    print(f"\n{choice.chosen}: {choice.why}\npacked: {folders.results.describe(target)}")
    return OK


def _same_plans(models: Mapping[Path, CrossValidation]) -> Plans:
    """The plans of the first model. AutolmkError where another model's plans are for other landmarks."""
    from autolmk.plans import Plans

    plans = {model: Plans.load(model / "plans.json") for model in models}
    first, *others = plans
    for model in others:
        differing = [key for key in SAME if getattr(plans[model], key) != getattr(plans[first], key)]
        if differing:
            raise AutolmkError(
                "these models were not planned for the same landmarks and images",
                file=model / "plans.json",
                found=f"{', '.join(differing)} differ from those of {first.name}",
                remedy="plan and train them for the same dataset.json, or choose models with -c, -p and -tr",
            )
    return plans[first]


def _size(model: Path, folds: Sequence[int]) -> Any:
    """Stages and weights of one fold."""
    from autolmk.fold.checkpoint import checkpoint_file, load
    from autolmk.selection.model_selection import Size

    folder = model / f"fold_{folds[0]}"
    places = [file.parent for file in sorted(folder.rglob("config.json"))]
    files = [checkpoint_file(p, "final") for p in places if MEASURING not in p.relative_to(folder).parts]
    weights = sum(tensor.numel() for file in files for tensor in load(file).tensors.values())
    return Size(len(files), weights)


def _measurements(places: Sequence[Path], plans: Plans) -> dict[str, Measurement]:
    """The measurements of the first dataset.json that there is: the raw dataset's may declare some that the model did
    not know in training. AutolmkError where one needs a landmark that the model does not find."""
    from autolmk.dataset import DatasetDescription

    for file in (place / "dataset.json" for place in places):
        if file.is_file():
            found = DatasetDescription.load(file).measurements or {}
            unknown = sorted({name for one in found.values() for name in one.landmarks} - set(plans.landmarks))
            if unknown:
                raise AutolmkError(
                    "measurements name landmarks that these models were not trained for",
                    file=file,
                    found=some(unknown),
                    remedy="take these measurements out, or train for the dataset as it is now",
                )
            return found
    return {}


def _recipe(
    choice: Choice, plans: Plans, measurements: dict[str, Measurement], held_out: CrossValidation, level: float
) -> Recipe:
    from autolmk.selection import Recipe, RecipeMember
    from autolmk.selection.model_selection import calibrate_measurements

    return Recipe(
        dataset_name=plans.dataset_name,
        unit=plans.unit,
        landmarks=plans.landmarks,
        sometimes_absent=plans.sometimes_absent,
        members=tuple(RecipeMember(name, tuple(map(str, held_out.folds))) for name in choice.members),
        combination=choice.combination,
        postprocessing=choice.postprocessing,
        error_radius=choice.error_radius,
        measurements=measurements,
        measurement_calibration=calibrate_measurements(choice.conclusions, held_out.truth, measurements, level),
    )


def _write(
    folder: Path, target: Path, choice: Choice, plans: Plans, held_out: CrossValidation, args: argparse.Namespace
) -> None:
    """What stands beside the recipe: evidence, how to predict, and the held-out cases through the whole pipeline."""
    from autolmk.files.serialization import write_bytes, write_json
    from autolmk.paths import SOURCE_RECORD
    from autolmk.selection.results import Result, write_held_out

    results = {case: Result.of_conclusion(conclusion) for case, conclusion in choice.conclusions.items()}
    evaluation = write_held_out(
        folder / "crossval",
        results,
        {case: held_out.truth[case] for case in results},
        diagonals=held_out.diagonals(),
        pairs=plans.pairs,
        unit=plans.unit,
    )
    information = {
        "dataset": plans.dataset_name,
        "unit": plans.unit,
        "folds": held_out.folds,
        "n_cases": len(results),
        "chosen": choice.chosen,
        "why": choice.why,
        "candidates": choice.candidates,
        **choice.evidence,
        "held_out": evaluation.overall,
        "seed": args.seed,
    }
    write_json(folder / "inference_information.json", information)
    own_code = any((folder / name / SOURCE_RECORD).is_file() for name in choice.members)
    text = _instructions(target, choice, plans, " --trust-code" * own_code)
    write_bytes(folder / "inference_instructions.txt", text.encode())


def _instructions(target: Path, choice: Choice, plans: Plans, trust: str) -> str:
    """trust: the option that models of trainers of one's own need."""
    return f"""{choice.chosen}: {choice.why}.

Predict new images of {plans.dataset_name}:

    autolmk_predict -i IMAGES -o PREDICTIONS -m {shlex.quote(str(target))}{trust}

This folder is complete: it may be moved to another machine. In steps, with the models' own predictions in between:

{_steps(target, choice, trust)}
"""


def _steps(target: Path, choice: Choice, trust: str) -> str:
    packed = shlex.quote(str(target))
    lines = [
        f"    autolmk_predict -i IMAGES -o PREDICTIONS_{i} -m {shlex.quote(str(target / name))}"
        f" --save_detections{trust}"
        for i, name in enumerate(choice.members, start=1)
    ]
    last = "PREDICTIONS_1"
    if len(choice.members) > 1:
        folders = " ".join(f"PREDICTIONS_{i + 1}" for i in range(len(choice.members)))
        last = "ENSEMBLE"
        lines.append(f"    autolmk_ensemble -i {folders} -o {last} -r {packed}")
    lines.append(f"    autolmk_apply_postprocessing -i {last} -o PREDICTIONS -r {packed}")
    return "\n".join(lines)


def table(choice: Choice, unit: str) -> str:
    """A row a candidate, the best first."""
    header = ["candidate", f"MRE {unit} [95 %]", "median", "loss against the best", "p (Holm)"]
    rows = [header]
    for name, found in sorted(choice.candidates.items(), key=lambda item: item[1].mre.value or 0.0):
        mark = "* " if name == choice.chosen else "  "
        loss = found.loss_against_best
        said = "-" if loss.value is None else f"{100 * loss.value:+.1f} %"
        if loss.value is not None and loss.high is not None:
            said += f" (at most {100 * loss.high:.1f} %)"
        p = "-" if found.p_holm is None else f"{found.p_holm:.3f}"
        rows.append([mark + name, _interval(found.mre), _number(found.median.value), said, p])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _interval(estimate: Any) -> str:
    if estimate.low is None or estimate.high is None:
        return _number(estimate.value)
    return f"{_number(estimate.value)} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
