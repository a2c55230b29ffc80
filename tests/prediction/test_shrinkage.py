"""Shrinkage: uncertain points of usual anatomy gain, unusual anatomy stays as found, old models predict as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from autolmk.fold.point_errors import PointErrors
from autolmk.geometry import FloatArray
from autolmk.prediction.assignment import ShapePrior
from autolmk.prediction.shrinkage import draw, error_variance, leverage, shrink, shrink_by_misfit

ANATOMY = 0.4  # mm an axis
L = 24
NAMES = tuple(f"p{i:02d}" for i in range(L))
SURE = np.full(L, 5.0)


def prior_of(p: int, n_cases: int = 30, n: int = L) -> ShapePrior:
    points = np.random.default_rng(0).uniform(-30, 30, (n, p))
    spread = np.full(n, ANATOMY * np.sqrt(p))
    return ShapePrior(points - points.mean(axis=0), tuple(range(n)), spread, (0.7, 1.4), n_cases, spread)


def posed(points: FloatArray, rng: np.random.Generator) -> FloatArray:
    p = points.shape[1]
    turn = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()[:p, :p]
    if p == 2:
        a = rng.uniform(-np.pi, np.pi)
        turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return np.asarray(points @ turn.T * 1.1 + rng.uniform(-50, 50, p))


def case_of(
    prior: ShapePrior, rng: np.random.Generator, noise: float, times: float = 1
) -> tuple[FloatArray, FloatArray]:
    """(truth, what a network found), in a random pose; the anatomy so many times as far from the mean as usual."""
    truth = posed(prior.points + rng.normal(0, times * ANATOMY, prior.points.shape), rng)
    return truth, truth + rng.normal(0, noise, truth.shape)


def mean_errors(pairs: list[tuple[FloatArray, FloatArray]], prior: ShapePrior, noise: float) -> tuple[float, float]:
    """(as found, drawn), all landmarks alike, of pairs of truth and found."""
    variance = np.full(len(prior.points), noise**2)
    drawn = [shrink(found, np.full(len(found), 5.0), variance, prior) for _, found in pairs]
    before = [np.linalg.norm(found - truth, axis=1).mean() for truth, found in pairs]
    after = [np.linalg.norm(one - truth, axis=1).mean() for one, (truth, _) in zip(drawn, pairs, strict=True)]
    return float(np.mean(before)), float(np.mean(after))


@pytest.mark.parametrize("n", [8, L])
@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize(("noise", "at_most"), [(0.05, 1.005), (0.2, 0.99), (0.8, 0.85), (2.0, 0.75)])
def test_typical_anatomy_gains_where_points_are_uncertain(p: int, n: int, noise: float, at_most: float) -> None:
    prior, rng = prior_of(p, n=n), np.random.default_rng(1)
    before, after = mean_errors([case_of(prior, rng, noise) for _ in range(30)], prior, noise)
    assert after <= at_most * before


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_a_case_that_deviates_more_than_others_loses_nothing(p: int, times: float, noise: float) -> None:
    prior, rng = prior_of(p), np.random.default_rng(2)
    before, after = mean_errors([case_of(prior, rng, noise, times) for _ in range(30)], prior, noise)
    assert after <= 1.01 * before


@pytest.mark.parametrize("away", [4.0, 8.0])
@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_one_sure_landmark_far_off_stays_there(away: float, noise: float) -> None:
    prior, rng = prior_of(3), np.random.default_rng(3)
    before, after = [], []
    for i in range(60):
        truth, _ = case_of(prior, rng, 0.0)
        step = rng.normal(size=3)
        truth[i % L] += away * prior.residual[0] * 1.1 * step / np.linalg.norm(step)
        found = truth + rng.normal(0, noise, truth.shape)
        drawn = shrink(found, SURE, np.full(L, noise**2), prior)
        before.append(np.linalg.norm(found - truth, axis=1)[i % L])
        after.append(np.linalg.norm(drawn - truth, axis=1)[i % L])
    assert np.mean(after) <= 1.05 * np.mean(before)


def test_gross_errors_are_drawn_further_where_held_out_cases_show_such() -> None:
    """Where errors are larger than anatomy's spread and have heavy tails, a point that is far off is rather one of
    them: here half of its error goes, without such tails a tenth."""
    prior, rng = prior_of(3), np.random.default_rng(6)
    before, gaussian, heavy = [], [], []
    for i in range(30):
        truth, found = case_of(prior, rng, 2.0)
        found[i % L] += 8 * 2.0 / np.sqrt(3)
        before.append(np.linalg.norm(found - truth, axis=1)[i % L])
        for side, tails in ((gaussian, 0.0), (heavy, 2.0)):
            drawn = shrink(found, SURE, np.full(L, 4.0), prior, PointErrors(tails=tails))
            side.append(np.linalg.norm(drawn - truth, axis=1)[i % L])
    assert np.mean(gaussian) > 0.85 * np.mean(before)
    assert np.mean(heavy) < 0.6 * np.mean(before)


@pytest.mark.parametrize(
    ("away", "log_odds", "kept"), [(8, 5.0, (0.9, 1.1)), (30, 0.0, (0.0, 0.1)), (30, -2.0, (0.0, 0.1))]
)
def test_a_point_counts_for_as_much_as_its_own_log_odds_say(
    away: float, log_odds: float, kept: tuple[float, float]
) -> None:
    """A point 12 standard deviations off stays where its peak is sure; one at another structure (43) goes where not."""
    prior, rng = prior_of(3), np.random.default_rng(6)
    before, after, alone = [], [], []
    for i in range(30):
        truth, found = case_of(prior, rng, 0.2)
        found[i % L] += away / np.sqrt(3)
        odds = SURE.copy()
        odds[i % L] = log_odds
        drawn = shrink(found, odds, np.full(L, 0.2**2), prior, PointErrors(astray=17.0))
        before.append(np.linalg.norm(found - truth, axis=1)[i % L])
        after.append(np.linalg.norm(drawn - truth, axis=1)[i % L])
        alone.append(np.linalg.norm(shrink(found, odds, np.full(L, 0.2**2), prior) - truth, axis=1)[i % L])
    assert kept[0] <= np.mean(after) / np.mean(before) <= kept[1]
    assert np.mean(alone) > 0.9 * np.mean(before)


@pytest.mark.parametrize("away", [4.0, 8.0])
def test_a_fairly_sure_point_some_deviations_off_stays(away: float) -> None:
    """So many standard deviations off is anatomy rather than another structure."""
    prior, rng = prior_of(3), np.random.default_rng(3)
    before, after = [], []
    for i in range(60):
        truth, found = case_of(prior, rng, 0.1)
        step = rng.normal(size=3)
        step *= away * ANATOMY / np.linalg.norm(step)
        truth[i % L], found[i % L] = truth[i % L] + step, found[i % L] + step
        odds = SURE.copy()
        odds[i % L] = 2.0
        drawn = shrink(found, odds, np.full(L, 0.1**2), prior, PointErrors(astray=17.0))
        before.append(np.linalg.norm(found - truth, axis=1)[i % L])
        after.append(np.linalg.norm(drawn - truth, axis=1)[i % L])
    assert np.mean(after) <= 1.05 * np.mean(before)


@pytest.mark.parametrize("p", [2, 3])
def test_lengths_of_a_stretched_case_are_unbiased(p: int) -> None:
    """A fifth longer along one axis: nothing of it is lost, where points are uncertain too."""
    prior, rng = prior_of(p), np.random.default_rng(4)
    ends = prior.points[:, 0].argmin(), prior.points[:, 0].argmax()
    shares, errors = [], []
    for _ in range(40):
        shape = prior.points + rng.normal(0, ANATOMY, prior.points.shape)
        shape[:, 0] *= 1.2
        truth = posed(shape, rng)
        found = truth + rng.normal(0, 0.5, truth.shape)
        drawn = shrink(found, SURE, np.full(L, 0.25), prior)
        length, true = (np.linalg.norm(np.subtract(*side[list(ends)])) for side in (drawn, truth))
        shares.append(length / true - 1)
        errors.append([np.linalg.norm(side - truth, axis=1).mean() for side in (found, drawn)])
    assert abs(np.mean(shares)) < 0.01
    before, after = np.mean(errors, axis=0)
    assert after <= before


def test_a_wide_peak_moves_and_a_narrow_one_stays() -> None:
    prior, rng = prior_of(3), np.random.default_rng(5)
    truth, found = case_of(prior, rng, 0.05)
    found[7] += (1.5, -1.0, 0.5)
    variance = np.full(L, 0.05**2)
    sure = shrink(found, SURE, variance, prior)
    variance[7] = 1.5**2
    unsure = shrink(found, SURE, variance, prior)
    assert np.linalg.norm(sure[7] - found[7]) < 0.02
    assert np.linalg.norm(unsure[7] - truth[7]) < 0.6 * np.linalg.norm(found[7] - truth[7])
    assert np.linalg.norm(np.delete(unsure - found, 7, axis=0), axis=1).max() < 0.06


@pytest.mark.parametrize(("n", "p"), [(24, 3), (9, 2)])
def test_a_fit_follows_as_many_errors_as_it_has_parameters(n: int, p: int) -> None:
    points = np.random.default_rng(6).normal(size=(n, p))
    columns = np.kron(np.column_stack([points, np.ones(n)]), np.eye(p))
    each = leverage(columns, p)
    assert p * each.sum() == pytest.approx(p * (p + 1)) and ((each > 0) & (each < 1)).all()


def test_nothing_moves_where_too_little_supports_it() -> None:
    rng, variance = np.random.default_rng(7), np.full(L, 4.0)
    _, found = case_of(prior_of(3), rng, 2.0)
    few = np.full(L, -np.inf)
    few[:7] = 5.0
    only_seven = np.where(np.isfinite(few)[:, None], found, np.nan)
    for prior, points, odds in ((prior_of(3), only_seven, few), (prior_of(3, n_cases=9), found, SURE)):
        np.testing.assert_array_equal(shrink(points, odds, variance, prior), points)
        np.testing.assert_array_equal(shrink_by_misfit(points, odds, prior), points)
    assert np.abs(shrink(found, SURE, variance, prior_of(3)) - found).max() > 0.1


def test_landmarks_without_a_position_stay_without() -> None:
    prior, rng = prior_of(3), np.random.default_rng(8)
    _, found = case_of(prior, rng, 1.0)
    found[3] = np.nan
    log_odds = SURE.copy()
    log_odds[3] = -np.inf
    for result in (shrink(found, log_odds, np.ones(L), prior), shrink_by_misfit(found, log_odds, prior)):
        assert np.isnan(result[3]).all()
        assert np.isfinite(np.delete(result, 3, axis=0)).all()


# -- what the folds decided -------------------------------------------------------------------------------------------


def test_folds_decide_and_models_without_measured_errors_predict_as_before() -> None:
    prior, rng = prior_of(3), np.random.default_rng(9)
    _, found = case_of(prior, rng, 1.0)
    spread = np.full(L, np.nan)
    errors = PointErrors(noise=dict.fromkeys(NAMES, 1.0), usual=1.0, cases=8)
    before = draw(found, SURE, spread, prior, [None, None], NAMES)
    np.testing.assert_array_equal(before, shrink_by_misfit(found, SURE, prior))
    np.testing.assert_array_equal(draw(found, SURE, spread, prior, [errors], NAMES), found)
    now = draw(found, SURE, spread, prior, [replace(errors, drawn=True)] * 2, NAMES)
    np.testing.assert_array_equal(now, shrink(found, SURE, np.ones(L), prior))
    assert np.abs(now - found).max() > 0.1 and np.abs(now - before).max() > 0.01


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize(("noise", "at_most"), [(0.0, 0.12), (0.2, 1.03), (0.8, 0.75), (2.0, 0.45)])
def test_models_without_measured_errors_gain_by_misfit(p: int, noise: float, at_most: float) -> None:
    prior, rng = prior_of(p), np.random.default_rng(1)
    before, after = [], []
    for _ in range(30):
        truth, found = case_of(prior, rng, noise)
        before.append(np.linalg.norm(found - truth, axis=1).mean())
        after.append(np.linalg.norm(shrink_by_misfit(found, SURE, prior) - truth, axis=1).mean())
    assert np.mean(after) <= at_most * (np.mean(before) if noise else ANATOMY * np.sqrt(p))


def test_the_variance_of_errors_is_recovered_by_misfit() -> None:
    rng = np.random.default_rng(3)
    for p in (2, 3):
        anatomy = rng.uniform(0.05, 0.5, 4000)
        deviation = rng.normal(0, np.sqrt(anatomy + 0.6)[:, None], (4000, p))
        assert error_variance((deviation**2).sum(axis=1) / p, anatomy, p) == pytest.approx(0.6, rel=0.08)
        deviation = rng.normal(0, 0.5 * np.sqrt(anatomy)[:, None], (4000, p))
        assert error_variance((deviation**2).sum(axis=1) / p, anatomy, p) == 0.0
