"""Landmarks that annotators place on one slice end on one slice of the file, and what lies elsewhere has no say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_first_look import FAR, PEAK, member, names_of, oblique, plans_for, predict, scene
from test_second_look import first, mean_shape
from test_second_look import member as window_member

from autolmk.data.stage_windows import Placement
from autolmk.fold.measured import Measured
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.plans import Plans, SliceGroup, Windows, replace_configuration
from autolmk.prediction.second_look import look_again
from autolmk.prediction.stage import Prepared, Stage
from autolmk.shapes.shared_slice import LESS_LIKELY, on_one_slice

NAMES = ("a", "b", "c", "d")
RADIUS = 4.0


def put(
    candidates: FloatArray,
    geometry: Geometry,
    group: SliceGroup,
    likelihood: tuple[float, ...] = (0.9,) * 4,
    log_odds: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """candidates: (4, K, 3)."""
    odds = np.zeros(candidates.shape[:2]) if log_odds is None else log_odds
    return on_one_slice(candidates, odds, np.array(likelihood), geometry, [group], NAMES, RADIUS)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_members_share_a_slice_of_the_file(axes: tuple[int, int, int], axis: int) -> None:
    """However the file's axes lie, and at whatever spacing the image was looked at."""
    turn = Rotation.from_rotvec((0.2, -0.1, 0.3)).as_matrix()
    native = Geometry.from_parts((30, 40, 50), (3.0, 1.0, 0.8), (5, 6, 7), turn @ np.diag((1.0, -1, 1))[:, list(axes)])
    permutation, _ = native.canonical_axes()
    group = SliceGroup(permutation.index(axis), ("a", "b", "d"))
    voxels = np.random.default_rng(0).uniform(10, 20, (4, 3))
    voxels[:, axis] = (12.0, 12.5, 18.0, 13.0)  # c, which belongs to no group, lies elsewhere
    found, _ = put(native.to_physical(voxels)[:, None], native.canonical().resampled((2.0, 2.0, 2.0)), group)
    moved = native.to_voxels(found[:, 0])
    np.testing.assert_allclose(moved[[0, 1, 3], axis], 12.5)
    np.testing.assert_allclose(np.delete(moved, axis, 1), np.delete(voxels, axis, 1), atol=1e-9)
    np.testing.assert_allclose(moved[2], voxels[2])


GRID = Geometry.from_parts((40, 40, 40), (1.0, 1.0, 1.0))
ALL = SliceGroup(0, NAMES)


def along(*heights: float, k: int = 1) -> FloatArray:
    """Candidates (4, K, 3) at these z, the others of each landmark missing."""
    result = np.full((4, k, 3), np.nan)
    result[:, 0] = np.random.default_rng(1).uniform(5, 35, (4, 3))
    result[:, 0, 2] = heights
    return result


def test_members_have_a_say_as_they_are_believed() -> None:
    found, _ = put(along(10.0, 12.0, 10.0, 12.0), GRID, SliceGroup(0, ("a", "b")), (0.9, 0.3, 1.0, 1.0))
    np.testing.assert_allclose(found[:, 0, 2], [10.5, 10.5, 10.0, 12.0])


def test_a_member_elsewhere_has_no_say_and_is_brought_along() -> None:
    found, _ = put(along(10.0, 11.0, 12.0, 30.0), GRID, ALL)
    np.testing.assert_allclose(found[:, 0, 2], 11.0)
    found, _ = put(along(10.0, 11.0, 12.0, 30.0), GRID, ALL, (0.1, 0.1, 0.1, 0.9))
    np.testing.assert_allclose(found[:, 0, 2], 30.0)  # three that are hardly believed


@pytest.mark.parametrize("less", [LESS_LIKELY - 0.5, LESS_LIKELY + 0.5])
def test_a_look_alike_is_told_apart_by_its_group(less: float) -> None:
    """The candidate on the slice is taken where it is nearly as likely as one elsewhere."""
    candidates, odds = along(10.0, 10.0, 10.0, 30.0, k=3), np.full((4, 3), -np.inf)
    candidates[3, 1:] = (20.0, 20.0, 18.0), (7.0, 8.0, 10.5)
    odds[:, 0], odds[3] = 5.0, (5.0, 4.9, 5.0 - less)
    found, after = put(candidates, GRID, ALL, log_odds=odds)
    chosen = (7.0, 8.0) if less < LESS_LIKELY else tuple(candidates[3, 0, :2])
    np.testing.assert_allclose(found[3, 0], (*chosen, 10.0))
    assert after[3, 0] == (5.0 - less if less < LESS_LIKELY else 5.0) and sorted(after[3]) == sorted(odds[3])
    assert np.isnan(found[0, 1:]).all()


def test_what_is_not_seen_is_left_out() -> None:
    candidates = along(10.0, 14.0, 12.0, 20.0)
    candidates[2] = np.nan
    found, _ = put(candidates, GRID, SliceGroup(0, ("a", "b", "c")), (0.8, 0.8, np.nan, 1.0))
    np.testing.assert_allclose(found[[0, 1, 3], 0, 2], [12.0, 12.0, 20.0])
    assert np.isnan(found[2]).all()
    alone, _ = put(candidates, GRID, SliceGroup(0, ("c", "d")), (0.8, 0.8, np.nan, np.nan))
    np.testing.assert_array_equal(alone, candidates)


# -- in prediction ----------------------------------------------------------------------------------------------------


def grouped(plans: Plans, *names: str, **changes: object) -> Plans:
    return replace_configuration(dataclasses.replace(plans, co_slice_groups=(SliceGroup(0, names),)), "test", **changes)


def jittered(geometry: Geometry) -> tuple[FloatArray, FloatArray]:
    """(points of one slice (6, 3), what shows of them, off it by up to 1.5 mm)."""
    rng = np.random.default_rng(0)
    voxels = rng.uniform(8, 16, (6, 3))
    voxels[:, 0] = 10.0
    shown = voxels + rng.uniform(-1, 1, (6, 1)) * (1, 0, 0)
    return geometry.to_physical(voxels), geometry.to_physical(shown)


def test_prediction_puts_groups_on_one_slice_and_keeps_what_was_before() -> None:
    geometry = oblique((20, 24, 24))
    _, shown = jittered(geometry)
    plans = grouped(plans_for(names_of(6)), "L0", "L1", "L2", "L3")
    image = scene(geometry, shown)
    found, without = (predict(image, p) for p in (plans, grouped(plans, "L0", "L1", "L2", "L3", co_slice=False)))
    np.testing.assert_array_equal(found.detections.best, without.candidates[:, 0])
    np.testing.assert_array_equal(without.detections.best, without.candidates[:, 0])
    np.testing.assert_allclose(without.candidates[:, 0], shown, atol=0.02)
    voxels = geometry.to_voxels(found.landmarks.points)
    np.testing.assert_allclose(voxels[:4, 0], geometry.to_voxels(shown)[:4, 0].mean(), atol=0.02)
    np.testing.assert_allclose(found.landmarks.points[4:], shown[4:], atol=0.02)


def test_later_stages_do_so_too() -> None:
    geometry = Geometry.from_parts((24, 24, 24), (1.0, 1.0, 1.0))
    points, shown = jittered(geometry)
    plans = grouped(plans_for(names_of(6), patch=(16,) * 3), *names_of(6))
    plans = replace_configuration(
        plans, "test", windows=Windows("landmark"), previous_stage="coarse", spacing=(1.0,) * 3
    )
    measured = Measured(mean_shape=mean_shape(points), placement=Placement((16,) * 3, 2.0))
    stage = Stage(plans, plans.configuration("test"), (window_member(plans),), (measured,))
    found = look_again(stage, Prepared(scene(geometry, shown), (FAR,) * 6), first(points + 1.0, plans))
    np.testing.assert_allclose(found.detections.best, shown, atol=0.05)
    np.testing.assert_allclose(
        geometry.to_voxels(found.candidates[:, 0])[:, 0], geometry.to_voxels(shown)[:, 0].mean(), atol=0.05
    )


def test_a_look_alike_in_the_image_is_told_apart_by_its_group() -> None:
    """L3 shows twice, a little higher on another slice."""
    geometry = Geometry.from_parts((24, 24, 24), (1.5, 1.0, 1.0))
    points, _ = jittered(geometry)
    plans = grouped(plans_for(names_of(6)), *names_of(4))
    image = scene(geometry, points)
    away = points + np.array((0.0, 0.0, 13.0))
    other = scene(geometry, away, [PEAK + 1.0] * 6).array
    twice = image.array.copy()
    twice[3] = np.maximum(twice[3], other[3])
    for groups, expected in ((plans.co_slice_groups, points[3]), ((), away[3])):
        found = predict(Image(twice, geometry), dataclasses.replace(plans, co_slice_groups=groups), member(plans))
        np.testing.assert_allclose(found.candidates[3, 0], expected, atol=0.1)
