"""How long choosing is expected to take: what was measured, scaled by cases, folds and sets of models."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from autolmk.conformance.examples import example_plans
from autolmk.jobs.choosing_time import CASES, FOLDS, ChoosingPace, choosing_pace


def test_it_grows_with_the_squares_of_cases_and_folds() -> None:
    pace = ChoosingPace(alone=2.0, pair=3.0)
    assert pace.seconds(CASES, FOLDS, 1) == 2.0
    assert pace.seconds(2 * CASES, FOLDS, 1) == pace.seconds(CASES, 2 * FOLDS, 1) == 8.0
    assert pace.seconds(CASES, FOLDS, 2) == 2.0 + 3.0
    assert pace.seconds(CASES, FOLDS, 3) == 2.0 + 4 * 3.0  # three pairs and one of three
    assert pace.seconds(CASES, FOLDS, 9) == pace.seconds(CASES, FOLDS, 5) == 2.0 + 20 * 3.0
    assert pace.seconds(CASES, 1, 4) == 8.0  # one fold: four parts, no ensembles


@pytest.mark.parametrize("landmarks", [1, 6])
def test_it_is_measured_by_the_real_choice(landmarks: int) -> None:
    """The clock is read once before, between and after the two."""
    plans = dataclasses.replace(
        example_plans(trainer="heatmap"), landmarks=tuple(f"L{i}" for i in range(landmarks)), pairs=()
    )
    ticks = itertools.count()
    assert choosing_pace(plans, clock=lambda: float(next(ticks) ** 2)) == ChoosingPace(1.0, 3.0)
