"""Shrinkage: it measures an image's errors, lowers them, and leaves good points where they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from autolmk.geometry import FloatArray
from autolmk.prediction.assignment import ShapePrior
from autolmk.prediction.shrinkage import error_variance, shrink

ANATOMY = 0.4  # mm an axis
L = 24


def prior_of(p: int, n_cases: int = 30) -> ShapePrior:
    points = np.random.default_rng(0).uniform(-30, 30, (L, p))
    return ShapePrior(
        points - points.mean(axis=0), tuple(range(L)), np.full(L, ANATOMY * np.sqrt(p)), (0.7, 1.4), n_cases
    )


def case_of(prior: ShapePrior, rng: np.random.Generator, noise: float) -> tuple[FloatArray, FloatArray]:
    """(truth, what a network found), in a random pose."""
    p = prior.points.shape[1]
    turn = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()[:p, :p]
    if p == 2:
        a = rng.uniform(-np.pi, np.pi)
        turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    truth = (prior.points + rng.normal(0, ANATOMY, prior.points.shape)) @ turn.T * 1.1 + rng.uniform(-50, 50, p)
    return truth, truth + rng.normal(0, noise, truth.shape)


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize(("noise", "at_most"), [(0.0, 0.12), (0.2, 1.03), (0.8, 0.75), (2.0, 0.45)])
def test_errors_shrink_where_points_are_uncertain(p: int, noise: float, at_most: float) -> None:
    prior, rng = prior_of(p), np.random.default_rng(1)
    before, after = [], []
    for _ in range(60):
        truth, found = case_of(prior, rng, noise)
        before.append(np.linalg.norm(found - truth, axis=1).mean())
        after.append(np.linalg.norm(shrink(found, np.full(L, 5.0), prior) - truth, axis=1).mean())
    if noise == 0:  # nothing to gain: the mean harm stays a fraction of how far anatomy itself strays
        assert np.mean(after) <= at_most * ANATOMY * np.sqrt(p)
    else:
        assert np.mean(after) <= at_most * np.mean(before)


def test_a_gross_error_is_drawn_in_and_the_others_keep_their_gain() -> None:
    prior, rng = prior_of(3), np.random.default_rng(2)
    truth, found = case_of(prior, rng, 0.3)
    found[5] += (25.0, -10.0, 5.0)
    result = shrink(found, np.full(L, 5.0), prior)
    error = np.linalg.norm(result - truth, axis=1)
    assert np.linalg.norm(found[5] - truth[5]) > 25
    assert error[5] < 3.0
    assert np.delete(error, 5).max() < 2.0


def test_the_variance_of_errors_is_recovered() -> None:
    rng = np.random.default_rng(3)
    for p in (2, 3):
        anatomy = rng.uniform(0.05, 0.5, 4000)
        deviation = rng.normal(0, np.sqrt(anatomy + 0.6)[:, None], (4000, p))
        assert error_variance((deviation**2).sum(axis=1) / p, anatomy, p) == pytest.approx(0.6, rel=0.08)
        deviation = rng.normal(0, 0.5 * np.sqrt(anatomy)[:, None], (4000, p))
        assert error_variance((deviation**2).sum(axis=1) / p, anatomy, p) == 0.0


def test_nothing_moves_where_too_little_supports_it() -> None:
    rng = np.random.default_rng(4)
    _, found = case_of(prior_of(3), rng, 2.0)
    few = np.full(L, -np.inf)
    few[:7] = 5.0
    only_seven = np.where(np.isfinite(few)[:, None], found, np.nan)
    np.testing.assert_array_equal(shrink(only_seven, few, prior_of(3)), only_seven)
    np.testing.assert_array_equal(shrink(found, np.full(L, 5.0), prior_of(3, n_cases=9)), found)
    moved = shrink(found, np.full(L, 5.0), prior_of(3))
    assert np.abs(moved - found).max() > 0.1


def test_landmarks_without_a_position_stay_without() -> None:
    prior, rng = prior_of(3), np.random.default_rng(5)
    _, found = case_of(prior, rng, 1.0)
    found[3] = np.nan
    log_odds = np.full(L, 5.0)
    log_odds[3] = -np.inf
    result = shrink(found, log_odds, prior)
    assert np.isnan(result[3]).all()
    assert np.isfinite(np.delete(result, 3, axis=0)).all()
