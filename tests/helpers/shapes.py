"""Simulated configurations: twelve landmarks of their own and a row of five look-alikes, in any pose; detections."""

from __future__ import annotations

import numpy as np

from autolmk.detections import Detections
from autolmk.fold.held_out import CrossValidation
from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks, Status

NAMES = (*(f"own_{i}" for i in range(12)), *(f"row_{i}" for i in range(5)))
ROW = slice(12, 17)
STEP = 6.0  # mm between neighbours of the row
NOISE = 0.3  # mm an axis, of detections
GEOMETRY = Geometry.from_parts((60, 120, 120), (2.0, 1.0, 1.0), (-60.0, -60.0, -60.0))


def mean() -> FloatArray:
    """(17, 3) mm."""
    own = np.random.default_rng(0).normal(0, 15, (12, 3))
    return np.concatenate([own, [[20, STEP * (i - 2), -20 + i * i] for i in range(5)]])


def configuration(seed: int, absent: tuple[int, ...] = ()) -> Landmarks:
    """A case: mean plus three smooth modes and 0.3 mm of its own, turned by up to 30 degrees, scaled and moved."""
    rng = np.random.default_rng([1, seed])
    modes = np.random.default_rng(2).normal(0, 0.7, (3, *mean().shape))
    points = mean() + np.tensordot(rng.normal(size=3), modes, 1) + rng.normal(0, 0.3, mean().shape)
    angle = np.radians(rng.uniform(-30, 30))
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    points = rng.uniform(0.9, 1.1) * points @ turn.T + rng.normal(0, 4, 3)
    status = np.full(len(points), Status.PRESENT, dtype=np.int8)
    status[list(absent)] = Status.ABSENT
    return Landmarks(NAMES, points, status)


def detections(seed: int, truth: Landmarks, shifted: float = 0.0, *, together: bool = False) -> Detections:
    """Found within `NOISE`; each of the row also has its neighbours as candidates, and with the probability `shifted`
    one of them is the best. together: the last four all take the place before theirs."""
    rng = np.random.default_rng([3, seed])
    n = len(NAMES)
    candidates, log_odds = np.full((n, 4, 3), np.nan), np.full((n, 4), -np.inf)
    for i in range(n):
        log_odds[i, 0] = rng.normal(5, 1)
        candidates[i, 0] = truth.points[i] + rng.normal(0, NOISE, 3)
        if i >= ROW.start:
            near = sorted((j for j in range(ROW.start, n) if j != i), key=lambda j: abs(j - i))[:3]
            for k, j in enumerate(near, 1):
                candidates[i, k] = truth.points[j] + rng.normal(0, NOISE, 3)
                log_odds[i, k] = log_odds[i, 0] - abs(rng.normal(2, 1))
            if together and i > ROW.start:
                before = near.index(i - 1) + 1
                candidates[i, [0, before]] = candidates[i, [before, 0]]
            elif not together and rng.random() < shifted:
                candidates[i, [0, 1]] = candidates[i, [1, 0]]
    likelihood = 1 / (1 + np.exp(-log_odds[:, 0]))
    return Detections(NAMES, candidates, log_odds, np.full(n, 0.5), likelihood, GEOMETRY)


def cross_validation(n: int = 20, folds: int = 2, shifted: float = 0.0) -> CrossValidation:
    """n cases held out by folds in turn."""
    truth = {f"case_{i:02d}": configuration(i) for i in range(n)}
    found = {case: detections(i, marks, shifted) for i, (case, marks) in enumerate(truth.items())}
    return CrossValidation("model", {case: i % folds for i, case in enumerate(truth)}, found, truth)
