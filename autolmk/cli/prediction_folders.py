"""Folders of predictions as input: for the commands that combine and finish what was predicted before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autolmk.errors import AutolmkError, counted, some
from autolmk.files.serialization import from_json, read_json

if TYPE_CHECKING:
    from autolmk.detections import Detections
    from autolmk.prediction.output import PredictionFolder
    from autolmk.selection import Recipe

FAILURES = "failures.json"
AGAIN = "predict again with autolmk_predict --save_detections"


@dataclass(frozen=True)
class Predicted:
    """A folder that autolmk_predict --save_detections wrote. models: names of the model folders that it predicted with.
    landmarks: names in order. axes: physical ones. cases: sorted. sometimes_absent: landmarks that may be called
    absent. outside: case -> what of its image lies outside the range of the training images."""

    folder: Path
    dataset: str
    unit: str
    models: tuple[str, ...]
    sometimes_absent: tuple[str, ...]
    cases: tuple[str, ...]
    landmarks: tuple[str, ...]
    axes: int
    outside: dict[str, tuple[str, ...]]


def read_predicted(folder: Path) -> Predicted:
    """Read a folder of predictions. AutolmkError where run.json is missing or damaged, where the run was broken off or
    kept no detections, or where a recipe finished its predictions already.
    """
    from autolmk.detections import Detections, saved_cases
    from autolmk.prediction.earlier import RUN

    file = folder / RUN
    value = read_json(file, remedy=AGAIN)
    keys = {"dataset": str, "unit": str, "models": dict, "sometimes_absent": list, "inputs": dict}
    wrong = [key for key, kind in keys.items() if not isinstance(value, dict) or not isinstance(value.get(key), kind)]
    if wrong or "finished" not in value:
        raise AutolmkError(
            "this is no finished run of predictions",
            file=file,
            found=f"no {', '.join(wrong)}" if wrong else "a run that was broken off",
            remedy=AGAIN,
        )
    if isinstance(value.get("identity"), dict) and value["identity"].get("recipe") is not None:
        raise AutolmkError(
            "these predictions are finished already, by the steps of a packed model",
            file=folder,
            expected="predictions of single models, or what autolmk_ensemble made of them",
            remedy="predict with the model folders inside the packed one, with --save_detections",
        )
    cases, kept = sorted(set(value["inputs"]) - _failed(folder, value)), set(saved_cases(folder))
    missing = [case for case in cases if case not in kept]
    if missing or not cases:
        raise AutolmkError(
            "predictions were not kept with all their candidates",
            file=folder,
            found=f"no detections of {some(missing)}" if missing else "no case",
            remedy=AGAIN,
        )
    first = Detections.load(folder, cases[0])
    rest = (tuple(value["models"]), tuple(value["sometimes_absent"]), tuple(cases))
    outside = from_json(dict[str, tuple[str, ...]], value.get("outside", {}), file=file, path="outside")
    return Predicted(folder, value["dataset"], value["unit"], *rest, first.names, first.geometry.physical_ndim, outside)


def load_detections(run: Predicted, case: str) -> Detections:
    """The detections of a case. AutolmkError where they are damaged, or of other landmarks than the first case's."""
    from autolmk.detections import REMEDY, Detections, file_of

    found = Detections.load(run.folder, case)
    if (found.names, found.geometry.physical_ndim) != (run.landmarks, run.axes):
        raise AutolmkError(
            "the cases of a folder of predictions have different landmarks",
            file=file_of(run.folder, case),
            found=f"{counted(len(found.names), 'landmark')} on {found.geometry.physical_ndim} axes",
            expected=f"the {len(run.landmarks)} of {run.cases[0]}, in the same order, on {run.axes} axes",
            remedy=REMEDY,
        )
    return found


def outside_of(runs: Sequence[Predicted], case: str) -> tuple[str, ...]:
    """All that the runs say of a case, each once."""
    return tuple(dict.fromkeys(said for run in runs for said in run.outside.get(case, ())))


def _failed(folder: Path, run: Mapping[str, Any]) -> set[str]:
    """Cases that could not be predicted."""
    if not run.get("failed"):
        return set()
    found = read_json(folder / FAILURES, remedy=AGAIN)
    if not isinstance(found, list) or not all(isinstance(f, dict) and isinstance(f.get("case"), str) for f in found):
        raise AutolmkError("the list of failed cases is damaged", file=folder / FAILURES, remedy=AGAIN)
    return {failure["case"] for failure in found}


def common_cases(runs: Sequence[Predicted]) -> tuple[str, ...]:
    """The cases of all runs. AutolmkError where cases, landmarks, axes or units differ, or a folder is named twice."""
    first, *others = runs
    places = [run.folder.resolve() for run in runs]
    for i, other in enumerate(others, start=1):
        cases = sorted(set(first.cases) ^ set(other.cases))
        landmarks = sorted(set(first.landmarks) ^ set(other.landmarks))
        differing = {
            "the same folder twice": places[i] in places[:i],
            f"only one of them has {some(cases)}": bool(cases),
            f"only one of them has the landmark {some(landmarks)}": bool(landmarks),
            "the same landmarks in another order": first.landmarks != other.landmarks,
            f"points with {other.axes} coordinates": first.axes != other.axes,
            f"unit {other.unit}": first.unit != other.unit,
        }
        found = next((said for said, wrong in differing.items() if wrong), None)
        if found is not None:
            raise AutolmkError(
                "these predictions do not belong together",
                file=other.folder,
                found=found,
                expected=f"the same cases and landmarks in {first.unit} as {first.folder}, predicted by another model",
                remedy="predict the same images with each model, each into a folder of its own",
            )
    return first.cases


@contextmanager
def begin(
    output: Path,
    runs: Sequence[Predicted],
    cases: Iterable[str],
    identity: Mapping[str, Any],
    recipe: Recipe | None = None,
) -> Iterator[PredictionFolder]:
    """The folder to write, locked and cleaned of an earlier run. AutolmkError where it is one of those that are
    read."""
    from autolmk.detections import file_of
    from autolmk.files.locks import exclusive
    from autolmk.files.serialization import make_folder
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
    make_folder(output)
    with exclusive(output):
        folder.begin(resume=False)
        yield folder
