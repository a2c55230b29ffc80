"""Left and right by the shape of the whole configuration, on simulated candidates of a synthetic bilateral shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from autolmk.geometry import FloatArray
from autolmk.prediction.assignment import ShapePrior, assign
from autolmk.shapes.pose import Similarity

K = 5
N_PAIRS, N_MIDLINE = 8, 5
RADIUS = 1.0


@dataclass(frozen=True)
class Head:
    """A bilateral configuration: pairs (i, i + 1), then midline points."""

    points: FloatArray
    prior: ShapePrior
    partner: tuple[int, ...]


def head(seed: int = 0, p: int = 3) -> Head:
    rng = np.random.default_rng(seed)
    left = rng.uniform([2, -12, -8][:p], [12, 12, 8][:p], size=(N_PAIRS, p))
    mirrored = left * np.array([-1, 1, 1][:p])
    middle = rng.uniform([0, -15, -10][:p], [0, 15, 10][:p], size=(N_MIDLINE, p))
    points = np.concatenate([np.stack([left, mirrored], axis=1).reshape(-1, p), middle])
    partner = tuple([i ^ 1 for i in range(2 * N_PAIRS)] + list(range(2 * N_PAIRS, len(points))))
    return Head(points, ShapePrior(points, partner, np.full(len(points), 0.4), (0.5, 2.0)), partner)


def case(shape: Head, rng: np.random.Generator) -> FloatArray:
    """(L, P): the shape in any pose, a little deformed."""
    p = shape.points.shape[1]
    if p == 3:
        rotation = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    else:
        angle = rng.uniform(0, 2 * np.pi)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pose = Similarity(rotation, rng.uniform(0.8, 1.2), rng.uniform(-50, 50, p))
    return np.asarray(pose.apply(shape.points + rng.normal(0, 0.2, shape.points.shape)))


def look(
    shape: Head,
    truth: FloatArray,
    rng: np.random.Generator,
    *,
    swapped: float,
    collapsed: float = 0.0,
    junk: float = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """Candidates of a network that mistakes partners in a share of cases. collapsed: share of swapped channels that
    do not show their own place at all; junk: share of channels whose best candidate is nowhere."""
    count, p = truth.shape
    points, odds = np.full((count, K, p), np.nan), np.full((count, K), -np.inf)
    for i, partner in enumerate(shape.partner):
        own, other = (truth[j] + rng.normal(0, 0.15, p) for j in (i, partner))
        best = rng.uniform(3, 9)
        rows = [(own, best)]
        if partner != i:
            second = best - rng.uniform(1, 5)
            wrong = rng.random() < swapped
            rows = [(other, best), (own, second)] if wrong else [(own, best), (other, second)]
            if wrong and rng.random() < collapsed:
                rows = rows[:1]
        if rng.random() < junk:
            rows.append((truth.mean(axis=0) + rng.uniform(-15, 15, p), best + 1))
        rows += [(truth.mean(axis=0) + rng.uniform(-15, 15, p), rng.uniform(-9, -3)) for _ in range(K - len(rows))]
        for k, (point, value) in enumerate(sorted(rows, key=lambda row: -row[1])):
            points[i, k], odds[i, k] = point, value
    return points, odds


def wrong(points: FloatArray, truth: FloatArray) -> int:
    return int((np.linalg.norm(points[:, 0] - truth, axis=1) > 1.5).sum())


@pytest.mark.parametrize("p", [3, 2])
@pytest.mark.parametrize("swapped", [0.16, 0.5])
def test_settles_every_swap(swapped: float, p: int) -> None:
    shape, rng = head(p=p), np.random.default_rng(1)
    before = after = 0
    for _ in range(20):
        truth = case(shape, rng)
        points, odds = look(shape, truth, rng, swapped=swapped)
        settled, _ = assign(points, odds, shape.prior, radius=RADIUS)
        before, after = before + wrong(points, truth), after + wrong(settled, truth)
    assert before > 30
    assert after == 0


def test_settles_swaps_amid_junk_and_collapsed_channels() -> None:
    shape, rng = head(), np.random.default_rng(2)
    before = after = 0
    for _ in range(20):
        truth = case(shape, rng)
        points, odds = look(shape, truth, rng, swapped=0.3, collapsed=0.2, junk=0.1)
        settled, _ = assign(points, odds, shape.prior, radius=RADIUS)
        before, after = before + wrong(points, truth), after + wrong(settled, truth)
    assert before > 100
    assert after <= before / 20


def test_leaves_a_right_configuration_as_it_is() -> None:
    shape, rng = head(), np.random.default_rng(3)
    for _ in range(20):
        truth = case(shape, rng)
        points, odds = look(shape, truth, rng, swapped=0.0)
        settled, settled_odds = assign(points, odds, shape.prior, radius=RADIUS)
        np.testing.assert_allclose(settled[:, 0], points[:, 0])
        assert (settled_odds[:, 0] >= odds[:, 0]).all()  # the better of the two channels


def test_undoes_a_swap_of_every_pair() -> None:
    """What only a reflection would fit: the fit, which never reflects, overrules every channel."""
    shape, rng = head(), np.random.default_rng(4)
    truth = case(shape, rng)
    points, odds = look(shape, truth, rng, swapped=1.0)
    settled, _ = assign(points, odds, shape.prior, radius=RADIUS)
    assert wrong(points, truth) == 2 * N_PAIRS
    assert wrong(settled, truth) == 0


def test_one_side_absent_is_not_put_on_the_other() -> None:
    shape, rng = head(), np.random.default_rng(5)
    truth = case(shape, rng)
    points, odds = look(shape, truth, rng, swapped=0.0)
    points[0], odds[0] = points[1], odds[1] - 0.5  # the absent left looks like the right
    keep = np.linalg.norm(points[:2] - truth[0], axis=2) > 2
    odds[:2] = np.where(keep, odds[:2], -np.inf)
    odds[0, 1:] = np.where(np.isfinite(odds[0, 1:]), -7.0, odds[0, 1:])
    odds[1, 1:] = np.where(np.isfinite(odds[1, 1:]), -7.0, odds[1, 1:])
    settled, settled_odds = assign(points, odds, shape.prior, radius=RADIUS)
    np.testing.assert_allclose(settled[1, 0], truth[1], atol=1.0)
    assert settled_odds[1, 0] > 0
    assert settled_odds[0, 0] < -5


def test_does_nothing_without_pairs_or_with_too_few_points() -> None:
    shape, rng = head(), np.random.default_rng(6)
    truth = case(shape, rng)
    points, odds = look(shape, truth, rng, swapped=0.5)
    alone = ShapePrior(shape.points, tuple(range(len(truth))), shape.prior.residual, (0.5, 2.0))
    assert assign(points, odds, alone, radius=RADIUS)[0] is points
    few = np.array([0, 1, 2 * N_PAIRS])
    prior = ShapePrior(shape.points[few], (1, 0, 2), shape.prior.residual[few], (0.5, 2.0))
    assert assign(points[few], odds[few], prior, radius=RADIUS)[0] is not None
    np.testing.assert_array_equal(assign(points[few], odds[few], prior, radius=RADIUS)[0], points[few])


def test_does_nothing_where_points_are_collinear() -> None:
    line = np.linspace(-10, 10, 8)[:, None] * np.array([[1.0, 0.0, 0.0]])
    partner = tuple(range(7, -1, -1))
    prior = ShapePrior(line, partner, np.full(8, 0.4), (0.5, 2.0))
    points = np.repeat(line[:, None], 2, axis=1)
    points[:, 1] = line[list(partner)]
    odds = np.tile([3.0, 2.0], (8, 1))
    np.testing.assert_array_equal(assign(points, odds, prior, radius=RADIUS)[0], points)


def test_missing_candidates_and_unknown_shape_points_are_left_out() -> None:
    shape, rng = head(), np.random.default_rng(7)
    truth = case(shape, rng)
    points, odds = look(shape, truth, rng, swapped=0.2)
    points[16], odds[16] = np.nan, -np.inf
    mean = shape.points.copy()
    mean[17] = np.nan
    prior = ShapePrior(mean, shape.partner, shape.prior.residual, (0.5, 2.0))
    settled, settled_odds = assign(points, odds, prior, radius=RADIUS)
    assert np.isneginf(settled_odds[16]).all()
    assert np.isnan(settled[16]).all()
    np.testing.assert_allclose(settled[17, 0], points[17, 0])
    known = [i for i in range(len(truth)) if i != 16]
    assert wrong(settled[known], truth[known]) == 0


def test_mean_shapes_of_several_folds_are_aligned() -> None:
    shape, rng = head(), np.random.default_rng(8)
    turned = Similarity(Rotation.random(random_state=1).as_matrix(), 1.0, np.array([5.0, 0.0, -3.0]))
    pooled = ShapePrior.pooled(
        [shape.points, turned.apply(shape.points)],
        shape.partner,
        residual=shape.prior.residual,
        scale_bounds=(0.5, 2.0),
    )
    np.testing.assert_allclose(pooled.points, shape.points, atol=1e-6)
    truth = case(shape, rng)
    points, odds = look(shape, truth, rng, swapped=0.5)
    assert wrong(assign(points, odds, pooled, radius=RADIUS)[0], truth) == 0
