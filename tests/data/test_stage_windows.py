"""Windows of later stages: they lie as the anatomy lies, where the stage before errs, and training draws them so."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation
from test_sampling import blob_centre, make_case, make_configuration

from autolmk.data.sampling import Blocks, coarser, cut, draw_landmarks, sample_landmarks
from autolmk.data.stage_windows import (
    BLUR,
    FEWEST,
    MARGIN,
    STRETCH,
    Frame,
    Placement,
    Shape,
    centres,
    frame_of,
    in_cubes,
    measure_placement,
    simulate,
)
from autolmk.files.serialization import from_json, to_json
from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.plans import Configuration, SliceGroup, Windows
from autolmk.shapes.pose import Similarity

NAMES = tuple(f"p{i}" for i in range(9))
SHAPE = np.random.default_rng(0).uniform(-15, 15, (9, 3))
POSED = Windows("landmark", pose=True)
STRAIGHT = Windows("landmark")
GEOMETRY = Geometry.from_parts((40, 50, 60), (2.0, 1.0, 1.0))


def shape_of(points: FloatArray = SHAPE) -> Shape:
    return Shape(points, (0.5, 2.0))


def pose(seed: int, p: int = 3) -> Similarity:
    rng = np.random.default_rng(seed)
    turn = Rotation.from_rotvec(rng.uniform(-2, 2, 3)).as_matrix() if p == 3 else _turn(rng.uniform(-3, 3))
    return Similarity(turn, float(rng.uniform(0.8, 1.25)), rng.uniform(-20, 20, p))


def _turn(angle: float) -> FloatArray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def configuration(windows: Windows = STRAIGHT, d: int = 3, **augmentation: object) -> Configuration:
    made = make_configuration((24,) * d, (1.0,) * d, **augmentation)
    return dataclasses.replace(made, windows=windows, previous_stage="coarse")


# -- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [2, 3])
def test_windows_turn_and_scale_with_the_shape(p: int) -> None:
    """Whatever the pose, the window of a landmark shows the others at the same voxels."""
    geometry = Geometry.from_parts((60,) * p, (1.0,) * p)
    mean, seen = SHAPE[:, :p], []
    for seed in range(3):
        points = pose(seed, p).apply(mean)
        frame = frame_of(points, geometry, POSED, shape_of(mean))
        window = frame.window(points[2], (24,) * p, (1.0,) * p)
        seen.append(window.to_voxels(points))
        np.testing.assert_allclose(window.to_voxels(points[2]), 11.5, atol=1e-9)
        np.testing.assert_allclose(frame.expected, points, atol=1e-6)
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-6)
    np.testing.assert_allclose(seen[0], seen[2], atol=1e-6)


def test_one_gross_error_does_not_turn_the_windows() -> None:
    points = pose(1).apply(SHAPE)
    right = frame_of(points, GEOMETRY, POSED, shape_of())
    points[4] += 40.0
    points[5] = np.nan
    frame = frame_of(points, GEOMETRY, POSED, shape_of())
    np.testing.assert_allclose(frame.rotation, right.rotation, atol=1e-4)
    np.testing.assert_allclose(frame.expected[[4, 5]], right.expected[[4, 5]], atol=1e-3)


@pytest.mark.parametrize("points", [pose(1).apply(SHAPE), np.where(np.arange(9)[:, None] < 3, SHAPE, np.nan)])
@pytest.mark.parametrize("windows", [STRAIGHT, POSED])
def test_windows_lie_as_the_image_where_nothing_tells_a_pose(points: FloatArray, windows: Windows) -> None:
    """Without `pose`, and where no more landmarks are known than axes."""
    frame = frame_of(points, GEOMETRY, windows, shape_of())
    straight = windows is STRAIGHT or np.isnan(points).any()
    window = frame.window(GEOMETRY.centre, (8, 8, 8), (2.0, 1.0, 1.0))
    assert np.allclose(window.matrix, GEOMETRY.matrix) == straight
    assert np.isfinite(frame.expected).all() == np.isfinite(points).all()


def test_errors_are_carried_in_the_pose_and_back() -> None:
    frame = frame_of(pose(3).apply(SHAPE), GEOMETRY, POSED, shape_of())
    errors = np.random.default_rng(0).normal(size=(9, 3))
    np.testing.assert_allclose(frame.express(frame.carry(errors)), errors, atol=1e-12)
    np.testing.assert_allclose(frame.carry(SHAPE - SHAPE[0]), pose(3).apply(SHAPE) - pose(3).apply(SHAPE[0]), atol=1e-6)


def test_middles_take_the_expected_place_and_share_the_slice() -> None:
    points = np.random.default_rng(1).uniform(5, 45, (9, 3))
    points[1], points[8] = np.nan, np.nan
    expected = np.where(np.arange(9)[:, None] == 1, 30.0, np.nan)
    frame = Frame(np.eye(3), np.eye(3)[:, ::-1], 1.0, expected)
    found = centres(points, frame, GEOMETRY, [SliceGroup(0, ("p0", "p1", "p2"))], NAMES)
    np.testing.assert_array_equal(found[3:8], points[3:8])
    assert np.isnan(found[8]).all()
    np.testing.assert_allclose(found[:3, 2], np.median([points[0, 2], 30.0, points[2, 2]]))  # z is array axis 0
    np.testing.assert_allclose(found[[0, 2], :2], points[[0, 2], :2])


# -- what the stage before errs ---------------------------------------------------------------------------------------


def test_errors_are_drawn_a_whole_case_at_a_time() -> None:
    """All landmarks err together as they did in one held-out case, up to a blur and a common factor."""
    cases = np.random.default_rng(2).normal(0, 10, (FEWEST, 1, 3)) * np.ones((1, 9, 1))  # a case shifts all landmarks
    placement = Placement((24, 24, 24), 1e-6, tuple(tuple(tuple(row) for row in case) for case in cases.tolist()))
    frame = frame_of(pose(4).apply(SHAPE), GEOMETRY, POSED, shape_of())
    truth, factors = pose(4).apply(SHAPE), []
    for seed in range(30):
        errors = frame.express(
            simulate(np.random.default_rng(seed), truth, frame, configuration(POSED), placement) - truth
        )
        assert np.abs(errors - errors[0]).max() < 1e-4
        share = errors[0] @ cases[:, 0].T / (cases[:, 0] ** 2).sum(axis=1)
        apart = np.linalg.norm(errors[0] - share[:, None] * cases[:, 0], axis=1)
        assert apart.min() < 1e-4
        factors.append(share[apart.argmin()])
    assert -STRETCH <= min(factors) < -1 and STRETCH >= max(factors) > 1 and min(np.abs(factors)) < 0.3


def test_a_mean_error_is_not_learnt() -> None:
    """The stage before lies 3 mm off along x in every case: windows lie as often on the other side."""
    placement = Placement((24, 24, 24), 1.0, ((((3.0, 0.0, 0.0),) * len(SHAPE)),) * FEWEST)
    frame = frame_of(SHAPE, GEOMETRY, STRAIGHT, None)
    offsets = [
        (simulate(np.random.default_rng(seed), SHAPE, frame, configuration(), placement) - SHAPE).mean(axis=0)
        for seed in range(400)
    ]
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.4 and np.std(offsets, axis=0).max() > 2


def test_errors_that_a_case_does_not_tell_come_from_others() -> None:
    row = ((5.0, 5.0, 5.0), (None, None, None))
    placement = Placement((24, 24, 24), 0.5, (row,) * FEWEST)
    truth = SHAPE[:2]
    frame = Frame(np.eye(3), np.eye(3)[:, ::-1], 1.0, np.full((2, 3), np.nan))
    found = np.stack([simulate(np.random.default_rng(s), truth, frame, configuration(), placement) for s in range(40)])
    assert np.isfinite(found).all()
    errors = np.abs(found - truth)
    assert errors[:, 0].max() > 5 and errors[:, 1].max() < 0.5 * (STRETCH + BLUR) * 5


def test_few_held_out_cases_give_gaussian_errors_within_the_window() -> None:
    rng, truth = np.random.default_rng(0), np.zeros((500, 3))
    frame = Frame(np.eye(3), np.eye(3)[:, ::-1], 1.0, np.full((500, 3), np.nan))
    wide = simulate(rng, truth, frame, configuration(), Placement((24, 24, 24), 1e3))
    assert np.std(wide) == pytest.approx(24 / 6, rel=0.1)  # the plan's jitter, a sixth of the side
    narrow = simulate(rng, truth, frame, configuration(), Placement((24, 24, 24), 0.1))
    assert np.std(narrow) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize(("drawn", "deviation"), [("gaussian", 1 / 6), ("uniform", 12**-0.5)])
def test_published_windows_lie_as_the_plan_says_whatever_was_measured(drawn: Any, deviation: float) -> None:
    """N(0, L / 6) an axis, or a landmark anywhere in its window: of each axis's own side."""
    errors = np.random.default_rng(0).normal(0, 20, (5, 9, 3))
    placement = held_out(errors, dataclasses.replace(STRAIGHT, drawn=drawn), poses=False)
    assert (placement.side, placement.sigma, placement.errors) == ((64, 64, 64), (), ())
    windows = dataclasses.replace(STRAIGHT, drawn=drawn)
    plan = dataclasses.replace(configuration(windows), spacing=(3.0, 1.0, 1.0))
    frame = Frame(np.eye(3), np.eye(3)[:, ::-1], 1.0, np.full((4000, 3), np.nan))
    full = tuple(tuple((30.0,) * 3 for _ in NAMES) for _ in range(5))
    measured = Placement((8, 24, 32), 0.1, full)
    off = simulate(np.random.default_rng(0), np.zeros((4000, 3)), frame, plan, measured)
    sides = np.array([32.0, 24.0, 24.0])  # mm, axes x, y, z
    np.testing.assert_allclose(off.std(axis=0) / sides, deviation, rtol=0.05)
    assert drawn != "uniform" or (np.abs(off) <= sides / 2).all()


def held_out(errors: FloatArray, windows: Windows, poses: bool = True) -> Placement:
    """Measured from errors (R, L, P) mm in the frame of R differently posed cases."""
    truth = [pose(i).apply(SHAPE) if poses else SHAPE + 25 for i in range(len(errors))]
    frames = [frame_of(points, GEOMETRY, windows, shape_of()) for points in truth]
    found = [points + frame.carry(error) for points, frame, error in zip(truth, frames, errors, strict=True)]
    plan = configuration(dataclasses.replace(windows, least_side=(8, 8, 8)))
    plan = dataclasses.replace(plan, patch_size=(64, 64, 64))
    names = [f"case{i}" for i in range(len(errors))]
    return measure_placement(names, found, truth, [GEOMETRY] * len(errors), plan, shape_of(), (4, 4, 4))


def test_sides_follow_the_errors_within_the_plans_bounds() -> None:
    rng = np.random.default_rng(0)
    sides = []
    for width in (0.0, 2.0, 5.0, 100.0):
        errors = rng.uniform(-width, width, (6, 9, 3))
        placement = held_out(errors, STRAIGHT, poses=False)
        sides.append(placement.side)
        np.testing.assert_allclose(np.array(placement.errors, dtype=float), errors, atol=1e-9)
        assert len(placement.cases) == 6 and "6 held-out cases" in placement.why["errors"]
    assert sides[0] == (12, 12, 12)  # twice the margin of 6 voxels, a multiple of 4
    assert sides[1] == (16, 16, 16) and 20 <= sides[2][0] <= 24 and sides[2][0] >= 2 * (4.9 + MARGIN)
    assert sides[3] == (64, 64, 64)


def test_each_axis_of_a_window_holds_its_own_errors() -> None:
    """Errors along x need a longer window along x alone, which is the last axis of its array."""
    errors = np.random.default_rng(0).uniform(-1, 1, (6, 9, 3)) * (12.0, 1.0, 1.0)
    placement = held_out(errors, STRAIGHT, poses=False)
    assert placement.side == (16, 16, 36) and placement.spacings == ()
    for axis, half in enumerate(np.multiply(placement.side, 1.0)[::-1] / 2):
        assert half >= np.percentile(np.abs(errors[..., axis]), 99) + MARGIN


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.5, 0.5), (6.0, 0.5, 0.5)])
@pytest.mark.parametrize("width", [3.0, 12.0, 40.0])
def test_the_first_look_holds_the_measured_misses_in_mm_and_the_last_one_is_the_plans(
    spacing: tuple[float, ...], width: float
) -> None:
    """Slices of 1, 5 and 12 times their pixels. Windows grow with their voxels, each look at most 4 times finer."""
    side = in_cubes(24, spacing)
    placement = misses(width, spacing, side, extent=200.0)
    margins = np.multiply(in_cubes(MARGIN, spacing), spacing)
    wanted = 2 * (np.percentile(np.abs(np.array(placement.errors)), 99, axis=(0, 1))[::-1] + margins)
    looks = placement.looks(spacing, 2)
    assert (np.multiply(placement.side, looks[0]) >= wanted * (1 - 1e-5)).all()
    assert placement.outside(looks[0]) <= 0.03 and "outside" not in placement.why  # 1 % along each of three axes
    assert looks[-1] == spacing and max(np.divide(a, b).max() for a, b in itertools.pairwise(looks)) <= 4 + 1e-4
    if (np.multiply(side, spacing) >= wanted).all():
        assert placement.spacings == ()
    else:
        assert placement.outside(spacing) >= placement.outside(looks[0]) and placement.spacings == looks
    assert placement.outside(spacing) > 0.2 or width < 40.0
    assert len(looks) == (3 if (wanted / np.multiply(side, spacing)).max() > 4 else 2)


def test_a_single_look_takes_the_wide_voxels() -> None:
    placement = misses(40.0, (1.0, 1.0, 1.0), (24, 24, 24), extent=200.0, rounds=1)
    assert (
        len(placement.spacings) == 1
        and placement.spacings[0][0] > 3
        and placement.outside(placement.spacings[0]) < 0.03
    )
    assert "one look" in placement.why["spacings"]


def test_windows_are_no_larger_than_the_image_and_what_stays_outside_is_said() -> None:
    """Misses of up to 40 mm in images of 20 x 60 x 60 mm."""
    spacing = (2.5, 0.5, 0.5)
    placement = misses(40.0, spacing, in_cubes(24, spacing), extent=60.0, thin=20.0)
    sides = np.multiply(placement.side, placement.spacings[0])
    assert (sides <= np.maximum((20.0, 60.0, 60.0), np.multiply(placement.side, spacing)) + 1e-6).all()
    errors = np.array(placement.errors, dtype=float).reshape(-1, 3)
    outside = (np.abs(errors) > sides[::-1] / 2).any(axis=1).mean()
    assert placement.outside(placement.spacings[0]) == pytest.approx(outside) and outside > 0.3
    assert f"{outside:.1%} of held-out errors lie outside" in placement.why["outside"]


def test_placements_are_read_back_and_older_ones_look_at_the_planned_spacing() -> None:
    placement = misses(12.0, (1.0, 1.0, 1.0), (24, 24, 24), extent=200.0)
    value = to_json(placement)
    assert placement.spacings and from_json(Placement, value) == placement
    del value["spacings"]
    assert from_json(Placement, value).looks((1.0, 1.0, 1.0), 2) == ((1.0, 1.0, 1.0),) * 2
    for wrong in (((1.0, 1.0),), ((0.0, 1.0, 1.0),)):
        with pytest.raises(ValueError, match="spacings"):
            dataclasses.replace(placement, spacings=wrong)


def misses(
    width: float,
    spacing: tuple[float, ...],
    side: tuple[int, ...],
    extent: float,
    thin: float | None = None,
    rounds: int = 2,
) -> Placement:
    """Measured from errors of up to `width` mm an axis, in images of `extent` mm, `thin` along their first axis."""
    errors = np.random.default_rng(1).uniform(-width, width, (8, 9, 3))
    sides = (extent if thin is None else thin, extent, extent)
    geometry = Geometry.from_parts(tuple(round(n / s) for n, s in zip(sides, spacing, strict=True)), spacing)
    truth = [np.full((9, 3), 30.0)] * 8
    plan = dataclasses.replace(
        configuration(Windows("landmark", rounds=rounds, least_side=(4, 4, 4))), patch_size=side, spacing=spacing
    )
    found = [points + error for points, error in zip(truth, errors, strict=True)]
    return measure_placement("abcdefgh", found, truth, [geometry] * 8, plan, None, (1, 1, 1))


def test_errors_are_measured_in_the_pose_of_the_anatomy() -> None:
    errors = np.random.default_rng(0).normal(0, 2, (5, 9, 3))
    errors[0, 3] = np.nan
    placement = held_out(errors, POSED)
    kept = np.array(placement.errors, dtype=float)
    np.testing.assert_allclose(kept, errors, atol=1e-5)
    assert placement.errors[0][3] == (None, None, None)
    assert placement.spread == pytest.approx(2.0, rel=0.2)


def test_few_cases_tell_the_side_alone_and_none_nothing() -> None:
    few = held_out(np.random.default_rng(0).uniform(-2, 2, (FEWEST - 1, 9, 3)), STRAIGHT)
    assert few.errors == () and few.side == (16, 16, 16) and "Gaussian" in few.why["errors"]
    none = held_out(np.full((2, 9, 3), np.nan), STRAIGHT)
    assert none.side == (64, 64, 64) and none.spread == pytest.approx(64 / 6)


# -- training windows -------------------------------------------------------------------------------------------------

EXACT = Placement((24, 24, 24), 1e-9, ((((0.0,) * 3),) * 4,) * FEWEST)


@pytest.mark.parametrize("windows", [STRAIGHT, POSED])
def test_every_window_shows_its_own_landmark(windows: Windows) -> None:
    geometry = Geometry.from_parts((44, 46, 48), (1.0, 1.0, 1.0))
    points = geometry.centre + 0.7 * pose(1).rotation.dot(SHAPE[:4].T).T
    case = make_case(geometry, points)
    shape = shape_of(SHAPE[:4])
    errors = Placement((24, 24, 24), 1.0, tuple(((c, -c, 0.0),) * 4 for c in (-3.0, -1.0, 1.0, 3.0)))
    frame = frame_of(points, geometry, windows, shape)
    placed = []
    for seed in range(3):
        plan = configuration(windows, rotation=(20.0,) * 3)
        found = sample_landmarks(np.random.default_rng(seed), case, plan, errors, frame, shape, range(4))
        assert found["data"].shape == (4, 1, 24, 24, 24) and found["landmarks"].tolist() == [0, 1, 2, 3]
        for data, voxels in zip(found["data"], found["voxels"], strict=True):
            assert np.abs(blob_centre(data[0], voxels, -1.0) - voxels).max() < 0.1
        of_grids = [grid.to_voxels(point) for grid, point in zip(found["grids"], points, strict=True)]
        np.testing.assert_allclose(of_grids, found["voxels"])
        placed.append(found["voxels"])
    assert np.std(placed, axis=0).max() > 0.5  # errors move the windows, not the truth


def test_training_draws_windows_of_each_look_and_wide_ones_hold_the_misses() -> None:
    """Misses of up to 18 voxels, windows of 16 voxels: those of the first look are 3 times as wide."""
    points = np.array([[45.0, 46, 47], [50, 44, 40], [42, 48, 52]])
    case = make_case(Geometry.from_parts((90, 92, 94), (1.0, 1.0, 1.0)), points, width=3.0)
    errors = np.random.default_rng(0).uniform(-18, 18, (6, 3, 3)) / STRETCH
    looks = ((3.0, 3.0, 3.0), (1.0, 1.0, 1.0))
    placement = Placement((16,) * 3, 1.0, tuple(tuple(map(tuple, e)) for e in errors.tolist()), spacings=looks)
    plan = configuration(STRAIGHT, rotation=(0.0,) * 3, scale=(1.0, 1.0))
    frame = frame_of(points, case.geometry, STRAIGHT, None)
    seen: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(40):
        found = sample_landmarks(np.random.default_rng(seed), case, plan, placement, frame, None, range(3))
        apart = np.linalg.norm(found["voxels"][0] - found["voxels"][1])  # of places in windows of their own: no scale
        inside = ((found["voxels"] > -0.5) & (found["voxels"] < 15.5)).all(axis=1)
        wide = found["data"][0, 0].std() > 0 and _blob_width(found["data"], found["voxels"], inside) < 2.0
        assert np.isfinite(apart) and found["data"].shape == (3, 1, 16, 16, 16)
        seen[bool(wide)].append(float(inside.mean()))
    assert min(len(seen[True]), len(seen[False])) >= 10
    assert np.mean(seen[True]) > 0.95 and np.mean(seen[False]) < np.mean(seen[True])


def _blob_width(data: FloatArray, voxels: FloatArray, inside: npt.NDArray[np.bool_]) -> float:
    """Voxels at which the nearest blob that is inside has fallen to exp(-1/2), about: from its second difference."""
    widths = []
    for window, at, within in zip(data[:, 0], voxels, inside, strict=True):
        z, y, x = np.round(at).astype(int) if within else (0, 0, 0)
        if within and 1 <= x <= 14:
            top, sides = window[z, y, x] + 1, (window[z, y, x - 1] + window[z, y, x + 1]) / 2 + 1
            widths.append(1 / np.sqrt(max(2 * np.log(max(top, 1e-3) / max(sides, 1e-3)), 1e-6)))
    return float(np.median(widths)) if widths else np.inf


@pytest.mark.parametrize("size", [(2, 2, 2), (1, 3, 3), (4, 1, 2)])
def test_windows_cut_from_blocks_show_the_same_in_the_same_place(size: tuple[int, ...]) -> None:
    geometry = Geometry.from_parts((41, 47, 50), (2.0, 1.0, 1.0), (3.0, -5.0, 8.0))
    point = geometry.centre + 1.3
    case = make_case(geometry, point[None], width=5.0, fill=2.0)
    spacing = np.multiply(geometry.spacing, size) * 1.2
    window = geometry.resampled(spacing).window(point + 2.0, (16, 16, 16))
    blocks = coarser(case, spacing, geometry.spacing)
    assert isinstance(blocks, Blocks) and blocks.size == size
    found, exact = cut(blocks, window), cut(case, window)
    assert np.abs(found - exact).max() < 0.07  # of a blob of height 1 whose width is that of two of these voxels
    far = geometry.resampled(spacing).window(geometry.centre + 500.0, (8, 8, 8))
    np.testing.assert_array_equal(cut(blocks, far), 2.0)
    assert coarser(case, np.multiply(geometry.spacing, 1.9), geometry.spacing) is case


def test_a_window_without_a_place_is_unknown_and_an_absent_landmark_is_looked_for() -> None:
    points = pose(1).apply(SHAPE)[:6]
    status = np.array([1, 1, 1, 1, Status.ABSENT, Status.ABSENT], dtype=np.int8)
    known = np.where((status == Status.PRESENT)[:, None], points, np.nan)
    geometry = Geometry.from_parts((30, 30, 30), (1.0, 1.0, 1.0))
    case = dataclasses.replace(make_case(geometry, points), landmarks=Landmarks(NAMES[:6], known, status))
    mean = SHAPE[:6].copy()
    mean[5] = np.nan  # never seen in training: no place is expected
    plan = configuration()
    frame = frame_of(known, geometry, plan.windows, shape_of(mean))
    placement = Placement((8, 8, 8), 1e-9, ((((0.0,) * 3),) * 6,) * FEWEST)
    found = sample_landmarks(np.random.default_rng(0), case, plan, placement, frame, shape_of(mean), range(6))
    assert found["status"].tolist() == [1, 1, 1, 1, Status.ABSENT, Status.UNKNOWN]
    assert np.isnan(found["voxels"][4:]).all() and np.isfinite(found["data"]).all()


def test_windows_of_a_group_share_their_slice_and_turn_within_it() -> None:
    group = SliceGroup(0, ("p0", "p1", "p2"))
    windows = dataclasses.replace(STRAIGHT, groups=(group,))
    points = np.array([[20.0, 20, 22], [30, 22, 22], [25, 30, 22], [24, 24, 30]])
    case = make_case(Geometry.from_parts((44, 46, 48), (1.0, 1.0, 1.0)), points)
    plan = configuration(windows)
    frame = frame_of(points, case.geometry, windows, None)
    apart = Placement(
        (24, 24, 24), 1.0, tuple(((c, 0.0, 2 * c), (0.0, c, -c), (c, c, c), (0.0,) * 3) for c in (1.0, 2, 3, 4))
    )
    for seed in range(5):
        voxels = sample_landmarks(np.random.default_rng(seed), case, plan, apart, frame, None, range(4))["voxels"]
        np.testing.assert_allclose(voxels[:3, 0], voxels[0, 0], atol=1e-9)  # one slice in all three windows
        assert np.abs(voxels[:3, 1:] - voxels[0, 1:]).max() > 0.1


@pytest.mark.parametrize("windows", [STRAIGHT, POSED])
def test_a_mirrored_window_shows_the_partner(windows: Windows) -> None:
    """p0 and p1 lie left and right, each with a spot 6 mm further out; p1's are twice as bright. What answers for p0
    has its spot on the left, whichever of the two it shows. In pose the plane is the shape's, however the body lies."""
    body = np.array([[-8.0, 1, 2], [8, 1, 2], [0, -9, 3], [0, 7, -6]])
    spots = np.array([[-14.0, 1, 2], [14, 1, 2], [14, 1, 2], [8, 1, 2]])
    geometry = Geometry.from_parts((56, 56, 56), (1.0, 1.0, 1.0))
    lies = pose(1).rotation if windows.pose else np.eye(3)
    points = geometry.centre + body @ lies.T
    painted = make_case(geometry, np.vstack([points, geometry.centre + spots @ lies.T]), width=2.0, fill=0.0)
    marks = Landmarks(NAMES[:4], points, np.ones(4, dtype=np.int8))
    case, shape = dataclasses.replace(painted, landmarks=marks), shape_of(body)
    frame = frame_of(points, geometry, windows, shape)
    upright = configuration(windows, rotation=(0.0,) * 3, scale=(1.0, 1.0), mirror_axis=0)
    heights = {0: set[int](), 1: set[int]()}
    for seed in range(12):
        arguments = (case, upright, EXACT, frame, shape, (1, 0, 2, 3))
        found = sample_landmarks(np.random.default_rng(seed), *arguments)
        assert found["landmarks"].tolist() == [0, 1, 2, 3] and (found["status"] == 1).all()
        for row, out in ((0, -6), (1, 6)):
            z, y, x = np.round(found["voxels"][row]).astype(int)
            here, there = found["data"][row, 0, z, y, x], found["data"][row, 0, z, y, x + out]
            assert there == pytest.approx(here, rel=0.3) and found["data"][row, 0, z, y, x - out] < 0.3 * here
            heights[row].add(round(float(here)))
    assert heights == {0: {1, 2}, 1: {1, 2}}
    never = dataclasses.replace(upright, augmentation=dataclasses.replace(upright.augmentation, mirror_axis=None))
    for seed in range(8):
        found = sample_landmarks(np.random.default_rng(seed), case, never, EXACT, frame, shape, (1, 0, 2, 3))
        assert found["data"][0, 0].max() < 1.4


def test_landmarks_are_drawn_among_the_known_ones() -> None:
    status = np.array([1, Status.UNKNOWN, Status.ABSENT, 1], dtype=np.int8)
    rng = np.random.default_rng(0)
    assert draw_landmarks(rng, status, None).tolist() == [0, 1, 2, 3]
    drawn = np.stack([draw_landmarks(rng, status, 2) for _ in range(200)])
    assert set(drawn.ravel()) == {0, 2, 3} and all(len(set(row)) == 2 for row in drawn.tolist())
    again = draw_landmarks(rng, status, 5).tolist()
    assert set(again[:3]) == {0, 2, 3} == set(again[3:]) | set(again[:3]) and again[3] != again[4]


def test_heatmaps_are_no_narrower_than_points_can_be_told() -> None:
    """Their width follows the typical held-out error, between the plan's and three times it."""
    geometry = Geometry((40, 40, 40), np.eye(4))
    truth = [np.full((6, 3), 20.0)] * 5
    rng, plan = np.random.default_rng(0), configuration()
    for size, times in ((0.01, 1.0), (1.2, None), (50.0, 3.0)):
        found = [points + rng.normal(0.0, size * max(plan.sigma), points.shape) for points in truth]
        placement = measure_placement("abcde", found, truth, [geometry] * 5, plan, None, (4, 4, 4))
        if times is None:
            assert placement.sigma == pytest.approx((1.5 * placement.spread,) * 3)
        else:
            assert placement.sigma == pytest.approx(tuple(times * s for s in plan.sigma))


def test_what_the_stage_before_did_says_how_far_a_landmark_may_be() -> None:
    errors = tuple((((x, 0.0, 0.0),) * 2) for x in (1.0, 2.0, 3.0, 9.0))
    placement = Placement((16, 16, 16), 1.0, errors)
    assert placement.holds((1.0, 1.0, 1.0)) == pytest.approx(np.log(7 / 3))  # 2 of 8 lie outside, one more on each side
    assert placement.holds((2.0, 2.0, 2.0)) == pytest.approx(np.log(9))
    assert placement.holds((1.0, 1.0, 2.0)) == pytest.approx(np.log(9))  # axes z, y, x: the errors are along x
    np.testing.assert_allclose(np.exp(placement.log_tail([0, 1.5, 3.0, 10])), [1, 7 / 9, 5 / 9, 1 / 9])
    unknown = Placement((16, 16, 16), 1.0)
    assert unknown.holds((1.0, 1.0, 1.0)) == 0 and not unknown.log_tail([0.0, 100.0]).any()
