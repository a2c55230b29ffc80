"""Held-out cases of made-up models, whose errors each test chooses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autolmk.detections import Detections
from autolmk.fold.held_out import CrossValidation
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status

NAMES = ("L0", "L1", "L2")
GEOMETRY = Geometry((64, 64), np.diag([1.0, 1.0, 1.0]))


def held_out(name: str, errors: Sequence[float], folds: Sequence[int] = (0,)) -> CrossValidation:
    """errors: of every point of each case, mm; cases go to the folds in turn."""
    truth, found = {}, {}
    for i, error in enumerate(errors):
        points = np.random.default_rng(i).uniform(10, 50, (len(NAMES), 2))
        candidates = (points + np.array([error, 0.0]))[:, None]
        one = np.ones(len(NAMES))
        truth[f"c{i:03}"] = Landmarks(NAMES, points, np.full(len(NAMES), Status.PRESENT))
        found[f"c{i:03}"] = Detections(NAMES, candidates, np.zeros((len(NAMES), 1)), one, one, GEOMETRY)
    fold_of = {case: folds[i % len(folds)] for i, case in enumerate(truth)}
    return CrossValidation(name, fold_of, found, truth)
