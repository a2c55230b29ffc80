"""Held-out predictions that no network made: the truth plus errors, several models of one dataset."""

from __future__ import annotations

import numpy as np

from autolmk.detections import Detections
from autolmk.fold.held_out import CrossValidation
from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks, Status

GEOMETRY = Geometry.from_parts((80, 80, 80), (1.0, 1.0, 1.0))


def detections_at(
    points: FloatArray, names: tuple[str, ...], geometry: Geometry, likelihood: FloatArray | None = None
) -> Detections:
    """One candidate a landmark, at `points` (L, P), and a second one, less likely, 3 away."""
    n, p = points.shape
    candidates = np.stack([points, points + 3 / np.sqrt(p)], axis=1)
    odds = np.where(np.isfinite(candidates[..., 0]), [3.0, -1.0], -np.inf)
    sure = np.full(n, 0.97) if likelihood is None else likelihood
    return Detections(names, candidates, odds, np.full(n, 0.5), sure, geometry)


def simulated(
    names: tuple[str, ...] = tuple("abcdefgh"),
    *,
    cases: int = 30,
    models: int = 2,
    seed: int = 0,
    error: float = 0.3,
    shared: float = 0.7,
    folds: int = 5,
) -> dict[str, CrossValidation]:
    """Errors are lognormal in size and differ by landmark; of their variance, `shared` is the same in all models."""
    rng = np.random.default_rng(seed)
    scale = error * np.exp(0.3 * rng.normal(size=len(names)))
    mean = rng.uniform(15, 65, size=(len(names), 3))
    found: dict[str, dict[str, Detections]] = {f"model_{k}": {} for k in range(models)}
    truth, fold_of = {}, {}
    for i in range(cases):
        case = f"case_{i:02d}"
        points = mean + 2 * rng.normal(size=mean.shape)
        truth[case] = Landmarks(names, points, np.full(len(names), Status.PRESENT, dtype=np.int8))
        fold_of[case] = i % folds
        size = scale[:, None] * np.exp(0.4 * rng.normal(size=(len(names), 1)))
        common = rng.normal(size=points.shape)
        for detections in found.values():
            own = rng.normal(size=points.shape)
            moved = points + size * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
            detections[case] = detections_at(moved, names, GEOMETRY)
    return {name: CrossValidation(name, fold_of, detections, truth) for name, detections in found.items()}


def annotated_elsewhere(models: dict[str, CrossValidation], case: str, landmark: str, point: FloatArray) -> None:
    """Move one annotation to `point` (P,), in all models' truth."""
    truth = next(iter(models.values())).truth
    points = truth[case].points.copy()
    points[truth[case].names.index(landmark)] = point
    moved = Landmarks(truth[case].names, points, truth[case].status)
    for model in models.values():
        model.truth[case] = moved


def annotated_off(models: dict[str, CrossValidation], case: str, landmark: str, x: float) -> None:
    """Move one annotation by x along the first axis."""
    truth = next(iter(models.values())).truth[case]
    point = truth.points[truth.names.index(landmark)]
    annotated_elsewhere(models, case, landmark, np.array([point[0] + x, *point[1:]]))
