"""Fits that outliers and left/right swaps cannot turn; the mean shape; the mirror plane and the pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from autolmk.fingerprint.symmetry import mirror, pairs_from_names
from autolmk.geometry import FloatArray
from autolmk.shapes.pose import (
    Similarity,
    fit_affine,
    fit_similarity,
    left_out_deviations,
    mean_shape,
    shape_deviations,
)


def random_similarity(rng: np.random.Generator, p: int, *, scale: tuple[float, float] = (0.8, 1.25)) -> Similarity:
    if p == 2:
        a = rng.uniform(-np.pi, np.pi)
        rotation = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    else:
        rotation = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    return Similarity(rotation, float(rng.uniform(*scale)), rng.uniform(-100, 100, p))


def symmetric_head(rng: np.random.Generator, n_pairs: int = 12, n_midline: int = 6) -> tuple[FloatArray, list[int]]:
    """A configuration with the mirror plane x = 0 and slight asymmetry, mm; and each landmark's partner."""
    left = rng.normal(0, 40, (n_pairs, 3))
    left[:, 0] = rng.uniform(8, 90, n_pairs)
    middle = rng.normal(0, 40, (n_midline, 3)) * [0, 1, 1]
    points = np.concatenate([left, left * [-1, 1, 1], middle]) + rng.normal(0, 0.5, (2 * n_pairs + n_midline, 3))
    n = n_pairs
    return points, [*range(n, 2 * n), *range(n), *range(2 * n, 2 * n + n_midline)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.sampled_from([2, 3]), n=st.integers(4, 30), robust=st.booleans())
def test_exact_similarities_are_recovered(seed: int, p: int, n: int, robust: bool) -> None:
    rng = np.random.default_rng(seed)
    source, truth = rng.normal(0, 30, (n, p)), random_similarity(rng, p)
    fit = fit_similarity(source, truth.apply(source), robust=robust)
    np.testing.assert_allclose(fit.similarity.apply(source), truth.apply(source), atol=1e-6)
    assert fit.similarity.scale == pytest.approx(truth.scale)
    np.testing.assert_allclose(fit.similarity.inverse().apply(truth.apply(source)), source, atol=1e-6)


def test_least_squares_equals_the_textbook_without_reflection() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(0, 10, (9, 3))
    target = random_similarity(rng, 3).apply(source) + rng.normal(0, 1, (9, 3))
    a, b = source - source.mean(0), target - target.mean(0)
    rotation, _ = Rotation.align_vectors(b, a)
    fit = fit_similarity(source, target, robust=False)
    np.testing.assert_allclose(fit.similarity.rotation, rotation.as_matrix(), atol=1e-7)
    assert fit.similarity.scale == pytest.approx((b * rotation.apply(a)).sum() / (a**2).sum())


@pytest.mark.parametrize("share", [0.16, 0.3])
def test_left_right_swaps_do_not_turn_the_fit(share: float) -> None:
    rng = np.random.default_rng(1)
    shape, partner = symmetric_head(rng)
    for _ in range(25):
        truth = random_similarity(rng, 3).apply(shape)
        observed = truth + rng.normal(0, 1, shape.shape)
        swapped = rng.random(len(shape)) < share  # each alone, as a network does: both then sit at one place
        observed[swapped] = observed[np.array(partner)[swapped]]
        fit = fit_similarity(shape, observed)
        assert np.linalg.norm(fit.similarity.apply(shape) - truth, axis=1).max() < 5
        off_plane = np.linalg.norm(shape - shape[partner], axis=1) > 20
        assert fit.weights[swapped & off_plane].max(initial=0) < fit.weights[~swapped].mean() / 2


@pytest.mark.parametrize(("p", "n"), [(2, 20), (3, 20), (3, 45)])
def test_forty_percent_anywhere_do_not_turn_the_fit(p: int, n: int) -> None:
    rng = np.random.default_rng(2)
    for _ in range(25):
        shape = rng.normal(0, 30, (n, p))
        truth = random_similarity(rng, p).apply(shape)
        observed = truth + rng.normal(0, 0.5, shape.shape)
        bad = rng.permutation(n)[: int(0.4 * n)]
        observed[bad] = truth.mean(axis=0) + rng.normal(0, 60, (len(bad), p))
        fitted = fit_similarity(shape, observed).similarity.apply(shape)
        assert np.linalg.norm(fitted - truth, axis=1).max() < 3


def test_a_reflection_is_never_fitted() -> None:
    rng = np.random.default_rng(3)
    for p in (2, 3):
        shape = rng.normal(0, 10, (12, p))
        mirrored = shape * ([-1] + [1] * (p - 1))
        for robust in (True, False):
            fit = fit_similarity(shape, mirrored, robust=robust)
            assert np.linalg.det(fit.similarity.rotation) == pytest.approx(1)
            assert np.nanmean(fit.residuals) > 1


def test_scale_bounds_priors_and_missing_points() -> None:
    rng = np.random.default_rng(4)
    shape = rng.normal(0, 10, (10, 3))
    assert fit_similarity(shape, 3 * shape, scale_bounds=(0.5, 2.0)).similarity.scale == pytest.approx(2)
    target = shape + np.array([1, 2, 3])
    target[:4] = rng.normal(0, 30, (4, 3))
    trusted = np.r_[np.zeros(4), np.ones(6)]
    fit = fit_similarity(shape, target, trusted, robust=False)
    np.testing.assert_allclose(fit.similarity.translation, [1, 2, 3], atol=1e-9)
    target[:4] = np.nan
    fit = fit_similarity(shape, target)
    np.testing.assert_allclose(fit.similarity.translation, [1, 2, 3], atol=1e-9)
    assert np.isnan(fit.residuals[:4]).all() and (fit.weights[:4] == 0).all()
    with pytest.raises(ValueError, match="at least one point"):
        fit_similarity(shape, np.full_like(shape, np.nan))


def test_few_points_take_the_smallest_motion() -> None:
    one = fit_similarity([[1.0, 2.0, 3.0]], [[4.0, 4.0, 4.0]]).similarity
    np.testing.assert_allclose(one.apply([1, 2, 3]), [4, 4, 4])
    np.testing.assert_allclose(one.rotation, np.eye(3), atol=1e-9)
    two = fit_similarity(np.array([[0, 0, 0], [2, 0, 0]]), np.array([[0, 0, 0], [0, 2, 0]])).similarity
    np.testing.assert_allclose(two.apply([[0, 0, 0], [2, 0, 0]]), [[0, 0, 0], [0, 2, 0]], atol=1e-6)
    np.testing.assert_allclose(two.rotation @ [0, 0, 1], [0, 0, 1], atol=1e-6)


def test_mean_shape_from_posed_noisy_incomplete_cases() -> None:
    rng = np.random.default_rng(5)
    shape, partner = symmetric_head(rng)
    poses = [random_similarity(rng, 3, scale=(0.9, 1.1)) for _ in range(15)]
    cases = np.stack([pose.apply(shape) + rng.normal(0, 0.5, shape.shape) for pose in poses])
    present = rng.random(cases.shape[:2]) > 0.2
    cases[0, [0, partner[0]]] = cases[0, [partner[0], 0]]  # one annotator's swap
    result = mean_shape(cases, present)
    assert np.abs(result.points.mean(axis=0)).max() < 1e-6
    fit = fit_similarity(result.points, shape, robust=False)
    assert fit.residuals.max() < 1
    assert fit.similarity.scale * np.exp(np.mean([np.log(p.scale) for p in poses])) == pytest.approx(1, abs=0.02)
    assert np.exp(np.mean([np.log(p.scale) for p in result.poses if p])) == pytest.approx(1, abs=1e-6)
    cases[~present] = np.nan
    deviations = shape_deviations(result, cases)
    assert np.nanmedian(deviations) < 1.2
    swapped = deviations[0, [0, partner[0]]]
    assert np.nanmin(swapped, initial=np.inf) > 20


def test_mean_shape_grows_over_cases_that_share_no_landmarks_with_the_first() -> None:
    rng = np.random.default_rng(6)
    shape = rng.normal(0, 20, (12, 3))
    cases = np.stack([random_similarity(rng, 3, scale=(1, 1)).apply(shape) for _ in range(4)])
    cases[0, 8:] = cases[1, :3] = cases[2, :5] = np.nan
    cases[3] = np.nan
    cases[3, 0] = 0  # one point only: no pose
    result = mean_shape(cases)
    assert result.poses[3] is None and all(result.poses[:3])
    np.testing.assert_allclose(fit_similarity(result.points, shape).residuals, 0, atol=1e-4)


def test_mean_shape_needs_a_point() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        mean_shape(np.full((2, 3, 3), np.nan))


@pytest.mark.parametrize("seed", range(5))
def test_pairs_and_plane_from_geometry_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, partner = symmetric_head(rng)
    order = rng.permutation(len(shape))
    names = [f"p{i}" for i in range(len(shape))]
    pose = random_similarity(rng, 3)
    found = mirror(pose.apply(shape)[order], names)
    assert found is not None and found.complete
    place = np.argsort(order)
    expected = {frozenset((names[place[i]], names[place[j]])) for i, j in enumerate(partner)}
    assert {frozenset(pair) for pair in found.pairs} | {frozenset((n,)) for n in found.midline} == expected
    assert abs(found.normal @ (pose.rotation @ [1, 0, 0])) > np.cos(np.radians(2))
    assert found.residual < 2 * pose.scale
    reflected = found.reflect(pose.apply(shape))
    assert np.linalg.norm(reflected - pose.apply(shape)[partner], axis=1).max() < 5


def test_a_landmark_without_partner_leaves_the_mirror_incomplete() -> None:
    shape, _ = symmetric_head(np.random.default_rng(0))
    shape[-1, 0] = 35  # a lone one, far off the plane
    names = [f"p{i}" for i in range(len(shape))]
    found = mirror(shape, names)
    assert found is not None and not found.complete and names[-1] not in found.midline
    assert all(names[-1] not in pair for pair in found.pairs)


def test_no_mirror_is_invented() -> None:
    rng = np.random.default_rng(7)
    for _ in range(150):
        n, p = int(rng.integers(2, 25)), int(rng.integers(2, 4))
        assert mirror(rng.normal(0, 1, (n, p)), [f"W{i:02d}" for i in range(n)]) is None


def test_names_show_pairs_where_geometry_is_too_sparse() -> None:
    names = ["Or_L", "Or_R", "nasion", "tip"]
    points = np.array([[30.0, 0, 0], [-30, 1, 0], [0, 20, 10], [0.5, 30, -40]])
    found = mirror(points, names)
    assert found is not None and found.pairs == (("Or_L", "Or_R"),) and found.midline == ("nasion", "tip")
    assert found.complete and abs(found.normal[0]) > 0.99
    assert mirror(points, ["a", "b", "c", "d"]) is None
    declared = mirror(points, ["a", "b", "c", "d"], [("a", "b")])
    assert declared is not None and declared.pairs == (("a", "b"),)


def test_declared_pairs_are_all_pairs_that_there_are() -> None:
    shape, _ = symmetric_head(np.random.default_rng(9))
    names = [f"q{i}" for i in range(len(shape))]
    free = mirror(shape, names)
    assert free is not None and len(free.pairs) > 3 and free.midline
    declared = mirror(shape, names, free.pairs[:2])
    assert declared is not None and set(declared.pairs) == set(free.pairs[:2])
    assert set(declared.midline) == set(free.midline) and not declared.complete


def test_names_that_mean_something_else_do_not_win_over_geometry() -> None:
    rng = np.random.default_rng(8)
    shape, _ = symmetric_head(rng)
    names = [f"q{i}" for i in range(len(shape))]
    names[0], names[3] = "node L", "node R"  # both on the left
    found = mirror(shape, names)
    assert found is not None and ("node L", "node R") not in found.pairs and len(found.pairs) == 12


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Or_L", "Or_R"),
        ("leftEye", "rightEye"),
        ("eye left outer", "eye right outer"),
        ("L1", "R1"),
        ("OrL", "OrR"),
        ("LT-tragus", "RT-tragus"),
        ("mand_l", "mand_r"),
    ],
)
def test_words_of_side(left: str, right: str) -> None:
    assert pairs_from_names([right, "chin", left]) == ((left, right),)


@pytest.mark.parametrize("names", [["L01", "L02", "L45"], ["W01", "W02"], ["TCD1", "TCD2"], ["left"], ["A_L", "B_R"]])
def test_names_without_a_counterpart_make_no_pair(names: list[str]) -> None:
    assert pairs_from_names(names) == ()


def test_an_affine_fit_finds_the_map_and_outliers_hardly_turn_it() -> None:
    rng = np.random.default_rng(0)
    for p, n in ((2, 9), (3, 12), (3, 40)):
        source = rng.uniform(-20, 20, (n, p))
        map_ = np.diag([1.2, *[0.95] * (p - 1)]) + rng.normal(0, 0.02, (p, p))
        target = source @ map_ + rng.normal(0, 5, p)
        start = fit_similarity(source, target).similarity
        matrix = fit_affine(source, target, start)
        np.testing.assert_allclose(matrix[:-1], map_, atol=1e-6)
        if n == 40:
            target[3] += 15.0
            turned = fit_affine(source, target, fit_similarity(source, target).similarity)
            assert np.abs(source @ turned[:-1] + turned[-1] - source @ matrix[:-1] - matrix[-1]).max() < 0.05


def test_deviations_of_cases_left_out_are_those_from_the_others() -> None:
    """Of identical cases but one: it lies as far off as it does, its neighbours a quarter of that from their mean."""
    points = np.random.default_rng(1).uniform(-20, 20, (20, 3))
    cases = np.stack([points] * 5)
    cases[2, 7] += (2.0, 0.0, 0.0)
    cases[1, 4] = np.nan
    deviations = left_out_deviations(mean_shape(cases), cases)
    assert deviations[2, 7] == pytest.approx(2.0, abs=0.05)
    assert np.isnan(deviations[1, 4]) and np.isfinite(deviations).sum() == 99
    assert np.nanmax(np.delete(deviations, 7, axis=1)) < 0.05
