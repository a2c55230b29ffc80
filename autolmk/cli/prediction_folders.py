"""Folders of predictions as input: for the commands that combine and finish what was predicted before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autolmk.errors import AutolmkError, some
from autolmk.serialization import read_json

if TYPE_CHECKING:
    from autolmk.prediction.output import PredictionFolder
    from autolmk.recipe import Recipe

AGAIN = "predict again with autolmk_predict --save_detections"


@dataclass(frozen=True)
class Predicted:
    """A folder that autolmk_predict --save_detections wrote. models: names of the model folders that it predicted with.
    cases: sorted. sometimes_absent: landmarks that may be called absent."""

    folder: Path
    dataset: str
    unit: str
    models: tuple[str, ...]
    sometimes_absent: tuple[str, ...]
    cases: tuple[str, ...]


def read_predicted(folder: Path) -> Predicted:
    """AutolmkError where run.json is missing or damaged, the run was broken off or kept no detections, or a recipe has
    finished these predictions, which must not happen twice."""
    from autolmk.detections import saved_cases
    from autolmk.prediction.output import RUN

    file = folder / RUN
    value = read_json(file, remedy=AGAIN)
    keys = {"dataset": str, "unit": str, "models": dict, "sometimes_absent": list, "inputs": dict, "identity": dict}
    wrong = [key for key, kind in keys.items() if not isinstance(value, dict) or not isinstance(value.get(key), kind)]
    if wrong or "finished" not in value:
        raise AutolmkError(
            "this is no finished run of predictions",
            file=file,
            found=f"no {', '.join(wrong)}" if wrong else "a run that was broken off",
            remedy=AGAIN,
        )
    if value["identity"].get("recipe") is not None:
        raise AutolmkError(
            "these predictions are finished already: a recipe made them",
            file=file,
            found=f"predictions of {', '.join(value['models'])}, combined and postprocessed",
            expected="what single models predict, or autolmk_ensemble combined",
            remedy="predict with the single models of the packed folder, with --save_detections",
        )
    failed = {failure["case"] for failure in read_json(folder / "failures.json")} if value.get("failed") else set()
    cases, kept = sorted(set(value["inputs"]) - failed), set(saved_cases(folder))
    missing = [case for case in cases if case not in kept]
    if missing or not cases:
        raise AutolmkError(
            "predictions were not kept with all their candidates",
            file=folder,
            found=f"no detections of {some(missing)}" if missing else "no case",
            remedy=AGAIN,
        )
    rest = (tuple(value["models"]), tuple(value["sometimes_absent"]), tuple(cases))
    return Predicted(folder, value["dataset"], value["unit"], *rest)


def common_cases(runs: Sequence[Predicted]) -> tuple[str, ...]:
    """Of all runs. AutolmkError where one lacks a case or another unit or the same folder stands twice."""
    first, *others = runs
    for other in others:
        differing = sorted(set(first.cases) ^ set(other.cases))
        if differing or other.unit != first.unit or other.folder.resolve() == first.folder.resolve():
            raise AutolmkError(
                "these predictions do not belong together",
                file=other.folder,
                found=f"only one of them has {some(differing)}" if differing else f"unit {other.unit}",
                expected=f"the same cases in {first.unit} as {first.folder}, predicted by another model",
                remedy="predict the same images with each model, into a folder each",
            )
    return first.cases


def begin(
    output: Path,
    runs: Sequence[Predicted],
    cases: Iterable[str],
    identity: Mapping[str, Any],
    recipe: Recipe | None = None,
) -> PredictionFolder:
    """The folder to write, cleaned of an earlier run. AutolmkError where it is one of those that are read."""
    from autolmk.detections import file_of
    from autolmk.prediction.output import PredictionFolder, fingerprints

    if output.resolve() in [run.folder.resolve() for run in runs]:
        raise AutolmkError(
            "results cannot replace what they are made from",
            file=output,
            expected="another folder than those of -i",
            remedy="choose another folder with -o",
        )
    sources = fingerprints({case: [file_of(run.folder, case) for run in runs] for case in cases})
    folder = PredictionFolder(output, sources, identity, unit=runs[0].unit, recipe=recipe)
    folder.begin(resume=False)
    return folder
