"""Suspected annotation errors: where models that never saw a case agree with each other and not with its annotation.

Every held-out point has a distance from its annotation. How far is unusual is told by the data: distances, over what is
usual for their landmark, are roughly lognormal, and a point is doubted where its distance would be expected in fewer
than `EXPECTED` points of a whole dataset without any wrong annotation. Of these points only those count where the
models agree with each other much better than with the annotation, and are sure. Where all models err alike it looks
the same, so a doubt is a place to look at, not a verdict.

Shapes: K models, N cases, L landmarks, P physical axes. Everything in mm or px.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used: scipy.stats takes 0.7 s

from autolmk.annotations import write
from autolmk.errors import AutolmkError
from autolmk.files.atomic import refuse_link
from autolmk.files.serialization import from_json, make_folder, read_json, write_json
from autolmk.fold.held_out import CrossValidation, common_cases
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks, Status

FOLDER = "suspected_annotation_errors"
WRITTEN = "written.json"  # file -> SHA-256 of its content, as it was written
EXPECTED = 0.05  # doubts of a dataset without wrong annotations
CLOSER = 3.0  # the models are at least this many times closer to each other than to the annotation
SURE = 0.5  # least mean likelihood
LEARNT = 0.5  # most median error of a model that may doubt, over that of always answering with the mean position
FEWEST = 5  # cases that tell what is usual for a landmark; with fewer, all landmarks together do
UPPER = float(scipy.special.ndtr(1))  # the quantile one standard deviation above the median
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Doubt:
    """One annotated point. annotated, suggested: (P,) its place, and the models' median. distance: between them.
    usual: median distance for this landmark. times: distance over usual. disagreement: root mean square distance of
    the models from their median; None with one model. error_radius: of the final prediction; None where unknown.
    likelihood: mean over models; None where they tell none. nearest: the landmark that the models see where this one
    was annotated; None where there is none."""

    case: str
    landmark: str
    annotated: tuple[float, ...]
    suggested: tuple[float, ...]
    distance: float
    usual: float
    times: float
    disagreement: float | None
    error_radius: float | None
    likelihood: float | None
    nearest: str | None


@dataclass(frozen=True)
class Skill:
    """Median errors over all held-out points, in mm or px. guess: of answering each landmark with its mean position in
    the other cases, measured from the image's middle. NaN where no point tells it."""

    error: float
    guess: float

    @property
    def enough(self) -> bool:
        """Whether the model's errors are so much smaller that it can tell a wrong annotation from its own error."""
        return self.error <= LEARNT * self.guess


def skill(model: CrossValidation) -> Skill:
    """Judge what a model learnt, from its held-out cases."""
    cases = list(model.detections)
    truth = np.stack([model.truth[case].points for case in cases])  # (N, L, P)
    found = np.stack([model.detections[case].best for case in cases])
    placed = truth - np.stack([model.detections[case].geometry.centre for case in cases])[:, None]
    known = np.isfinite(placed).all(axis=2, keepdims=True)
    others = known.sum(axis=0) - known
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (np.where(known, placed, 0).sum(axis=0) - np.where(known, placed, 0)) / others
    return Skill(_median(np.linalg.norm(found - truth, axis=2)), _median(np.linalg.norm(mean - placed, axis=2)))


def _median(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def doubts(models: Mapping[str, CrossValidation], final: Mapping[str, Landmarks] | None = None) -> tuple[Doubt, ...]:
    """The doubted annotations in all cases that every model held out, most doubtful first. final: case -> held-out
    predictions of the final model, whose error radius a doubted annotation must be out of, where it is known.

    AutolmkError where there is no model, or the models have other landmarks or splits.
    """
    cases, names = _common(models)
    truth = np.stack([_truth(models, case) for case in cases])
    found = np.stack([[model.detections[case].best for case in cases] for model in models.values()])  # (K, N, L, P)
    with np.errstate(invalid="ignore"):
        suggested = np.median(found, axis=0)  # NaN where a model found nothing
        distance = np.linalg.norm(suggested - truth, axis=2)
        disagreement = np.sqrt((np.linalg.norm(found - suggested, axis=3) ** 2).mean(axis=0))
    likelihood = np.stack([[m.detections[case].likelihood for case in cases] for m in models.values()]).mean(axis=0)
    radius = np.stack([_radii(final, case, names) for case in cases])
    usual, limit = usual_distances(distance)
    doubted = (distance > limit * usual) & ~(likelihood < SURE) & ~(distance <= radius)
    if len(models) > 1:
        doubted &= disagreement * CLOSER <= distance
    result = []
    for i, j in np.argwhere(doubted):
        result.append(
            Doubt(
                case=cases[i],
                landmark=names[j],
                annotated=tuple(map(float, truth[i, j])),
                suggested=tuple(map(float, suggested[i, j])),
                distance=float(distance[i, j]),
                usual=float(usual[j]),
                times=float(distance[i, j] / usual[j]),
                disagreement=float(disagreement[i, j]) if len(models) > 1 else None,
                error_radius=_number(radius[i, j]),
                likelihood=_number(likelihood[i, j]),
                nearest=_nearest(truth[i, j], suggested[i], float(distance[i, j]), names, int(j)),
            )
        )
    return tuple(sorted(result, key=lambda doubt: -doubt.times))


def usual_distances(distance: FloatArray) -> tuple[FloatArray, float]:
    """The median distance (L,) of each landmark, and the multiple of it from which a distance (N, L) is unusual.

    The second comes from all points: of log(distance / median) the spread above its median, and the quantile that
    `EXPECTED` of that many normal values exceed. NaN distances do not count.
    """
    known = np.isfinite(distance)
    if not known.any():
        return np.full(distance.shape[1], np.nan), math.inf
    overall = float(np.median(distance[known]))
    usual = np.array(
        [
            np.median(column[ok]) if ok.sum() >= FEWEST else overall
            for column, ok in zip(distance.T, known.T, strict=True)
        ]
    )
    usual = np.maximum(usual, 1e-9)
    log = np.log(np.maximum((distance / usual)[known], 1e-9))
    spread = float(np.quantile(log, UPPER) - np.median(log))
    return usual, math.exp(float(np.median(log)) + spread * float(scipy.stats.norm.isf(EXPECTED / log.size)))


def write_doubts(folder: Path, found: tuple[Doubt, ...], *, unit: str) -> list[Path]:
    """FOLDER/CASE.mrk.json a case with doubts, to open in 3D Slicer: for each doubted landmark its annotation and the
    models' point, named so. Files of an earlier call are removed, as long as nobody edited them; others are never
    replaced. unit: mm or px."""
    refuse_link(folder)
    _remove_written(folder)
    files = []
    for case in sorted({doubt.case for doubt in found}):
        names, points = [], []
        for doubt in (d for d in found if d.case == case):
            names += [f"{doubt.landmark} (annotation)", f"{doubt.landmark} (model)"]
            points += [doubt.annotated, doubt.suggested]
        file = folder / f"{case}.mrk.json"
        if os.path.lexists(file):
            logger.warning("%s is not replaced: it is none that the report wrote, or was edited since", file)
            continue
        make_folder(folder)
        marks = Landmarks(tuple(names), np.array(points), np.full(len(names), Status.PRESENT, dtype=np.int8))
        files.append(file)
        write(file, marks, unit=unit)
    if files:
        write_json(folder / WRITTEN, {file.name: _sha256(file) for file in files})
    return files


def _remove_written(folder: Path) -> None:
    """The files of an earlier call that are as they were written."""
    record = folder / WRITTEN
    if not record.is_file():
        return
    written = from_json(dict[str, str], read_json(record, remedy="remove it, and the files beside it"), file=record)
    for name, sha256 in written.items():
        file = folder / name
        if file.name == name and file.is_file() and not file.is_symlink() and _sha256(file) == sha256:
            file.unlink()
    record.unlink()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _common(models: Mapping[str, CrossValidation]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cases and landmarks of all models."""
    if not models:
        raise AutolmkError("there is no model with held-out predictions", remedy="train the folds of a configuration")
    cases = common_cases(models)
    names = {model.detections[case].names for model in models.values() for case in cases}
    if len(names) > 1:
        raise AutolmkError(
            "the models have different landmarks",
            found=", ".join(models),
            expected="the same landmarks in the same order",
            remedy="compare models of one dataset.json",
        )
    return cases, names.pop()


def _truth(models: Mapping[str, CrossValidation], case: str) -> FloatArray:
    return next(iter(models.values())).truth[case].points


def _radii(final: Mapping[str, Landmarks] | None, case: str, names: tuple[str, ...]) -> FloatArray:
    """(L,) NaN where not known."""
    marks = (final or {}).get(case)
    return np.full(len(names), np.nan) if marks is None else marks.reordered(names).error_radius


def _nearest(point: FloatArray, suggested: FloatArray, distance: float, names: tuple[str, ...], own: int) -> str | None:
    """The other landmark that the models see within a third of the doubted distance from an annotation."""
    others: npt.NDArray[np.float64] = np.linalg.norm(suggested - point, axis=1)
    others[own] = np.inf
    others[np.isnan(others)] = np.inf
    nearest = int(np.argmin(others))
    return names[nearest] if others[nearest] <= distance / CLOSER else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
