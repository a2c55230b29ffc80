"""An estimate of how long choosing the final predictor takes on this machine: measured on a few made-up cases, and
scaled.

What takes long is the nested choice of postprocessing steps, in which each fold's cases are left out twice, and shapes
are fitted to all others: it grows with the square of the number of cases and with that of folds. How ensembles weigh
their members is fitted for each set of them, for each fold.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from autolmk.detections import Detections
from autolmk.fold.held_out import CrossValidation
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.plans import Plans
from autolmk.postprocessing.choose import PARTS
from autolmk.selection.ensembling import choose_combination
from autolmk.selection.model_selection import BEST_MODELS, MOST_MEMBERS, Size, choose

CASES, FOLDS, CANDIDATES = 8, 2, 3  # that are made up
SIZE, OFF = 100.0, 1.0  # mm: of the image, and standard deviation of points


@dataclass(frozen=True)
class ChoosingPace:
    """Seconds that choosing what follows one model, and combining two, takes for CASES cases of FOLDS folds."""

    alone: float
    pair: float

    def seconds(self, n_cases: int, n_folds: int, n_models: int) -> float:
        """The seconds that all choices take, from the detections of so many held-out cases. A single fold is divided
        into parts.
        """
        cases, folds = n_cases / CASES, (n_folds if n_folds > 1 else PARTS) / FOLDS
        models = min(n_models, BEST_MODELS)
        sets = sum(1 for n in range(2, MOST_MEMBERS + 1) for _ in itertools.combinations(range(models), n))
        return self.alone * cases**2 * folds**2 + (sets * self.pair * cases * folds if n_folds > 1 else 0.0)


def choosing_pace(plans: Plans, clock: Callable[[], float] = time.perf_counter) -> ChoosingPace:
    """Measured with these plans' landmarks."""
    models = {name: _made_up(name, plans, seed) for seed, name in enumerate(("a", "b"))}
    plans = replace(plans, sometimes_absent=(), co_slice_groups=())
    begun = clock()
    choose({"a": models["a"]}, {"a": Size(1, 1)}, plans)
    between = clock()
    choose_combination(models, seed=0)
    return ChoosingPace(between - begun, clock() - between)


def _made_up(name: str, plans: Plans, seed: int) -> CrossValidation:
    """Detections of a model that errs by OFF."""
    axes, names = plans.ndim, plans.landmarks
    geometry = Geometry((64,) * axes, np.diag([SIZE / 64] * axes + [1.0]))
    shape = np.random.default_rng(0).uniform(0, SIZE, (len(names), axes))
    rng = np.random.default_rng([1, seed])
    truth, found = {}, {}
    for case in map(str, range(CASES)):
        points = shape + np.random.default_rng([2, int(case)]).normal(0, 2 * OFF, shape.shape)
        near = points[:, None] + rng.normal(0, OFF, (len(names), CANDIDATES, axes))
        near[:, 1:] += rng.normal(0, SIZE / 4, near[:, 1:].shape)
        odds = np.sort(rng.normal(0, 3, near.shape[:2]), axis=1)[:, ::-1]
        one = np.ones(len(names))
        truth[case] = Landmarks(names, points, np.full(len(names), Status.PRESENT))
        found[case] = Detections(names, near, odds, one, one, geometry)
    return CrossValidation(name, {case: int(case) % FOLDS for case in truth}, found, truth)
