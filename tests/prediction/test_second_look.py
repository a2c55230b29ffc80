"""Second looks: windows around what a first stage found. Networks here are exact by construction: channel l of the
image holds landmark l's log-Gaussian, so every error is that of the windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from predictions import a_prediction
from scipy.spatial.transform import Rotation
from test_first_look import FAR, PEAK, SIGMA, names_of, plans_for, scene
from torch import Tensor, nn

from autolmk.codecs import HeatmapCodec
from autolmk.data.sampling import coarser, cut
from autolmk.data.stage_windows import Placement
from autolmk.data.store import StoredCase
from autolmk.errors import AutolmkError
from autolmk.fold.measured import Measured
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status
from autolmk.plans import Plans, SliceGroup, Windows, replace_configuration
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.second_look import fuse, look_again
from autolmk.prediction.stage import Member, Prepared, Stage

SIDE = 16
FEW = 6  # landmarks: fewer than shrinking toward the mean shape takes


class OwnChannel(nn.Module):
    """Of each window the channel of its landmark; remembers what it saw."""

    def __init__(self, value: float | None = None) -> None:
        super().__init__()
        self.value, self.seen = value, list[tuple[Tensor, list[int]]]()

    def forward(self, data: Tensor, landmarks: Tensor) -> Tensor:
        self.seen.append((data[0].clone(), landmarks[0].tolist()))
        own = data[0, torch.arange(data.shape[1]), landmarks[0]][None].clone()
        return own if self.value is None else torch.full_like(own, self.value)


def staged_plans(d: int, windows: Windows, absent: Sequence[str] = (), side: int = SIDE) -> Plans:
    plans = plans_for(names_of(FEW), absent=tuple(absent), patch=(side,) * d)
    return replace_configuration(plans, "test", windows=windows, previous_stage="coarse", spacing=(1.0,) * d)


def member(plans: Plans, network: nn.Module | None = None) -> Member:
    side = plans.configuration("test").patch_size
    codec = HeatmapCodec(FEW, side, (1,) * len(side), (SIGMA,) * len(side))
    nn.init.zeros_(codec.elsewhere)
    return Member(network or OwnChannel(), codec)


def first(points: FloatArray, plans: Plans, odds: float = 4.0) -> Prediction:
    """What a first stage says: one candidate a landmark."""
    log_odds = np.where(np.isfinite(points[:, :1]), odds, -np.inf)
    status = np.where(np.isfinite(points).all(axis=1), Status.PRESENT, Status.UNKNOWN)
    return a_prediction(Landmarks(plans.landmarks, points, status), points[:, None].copy(), log_odds)


def in_rows(found: Prediction, probability: FloatArray, reach: FloatArray) -> Prediction:
    return replace(found, detections=replace(found.detections, row=probability), reach=reach)


def mean_shape(shape: FloatArray | None) -> dict[str, tuple[float, ...]] | None:
    return None if shape is None else dict(zip(names_of(FEW), map(tuple, shape.tolist()), strict=True))


def look(
    image: Image,
    before: Prediction,
    plans: Plans,
    *members: Member,
    shape: FloatArray | None = None,
    errors: FloatArray | None = None,
    search: bool = True,
    spacings: tuple[tuple[float, ...], ...] = (),
) -> Prediction:
    used = members or (member(plans),)
    side = plans.configuration("test").patch_size
    known = () if errors is None else tuple(tuple(tuple(row) for row in case) for case in errors.tolist())
    placement = Placement(side, 2.0, known, spacings=spacings)
    measured = (Measured(mean_shape=mean_shape(shape), placement=placement),) * len(used)
    stage = Stage(plans, plans.configuration("test"), used, measured)
    return look_again(stage, Prepared(image, (FAR,) * len(image.array)), before, search=search)


def grid(d: int) -> Geometry:
    return Geometry.from_parts((44, 46, 48)[-d:], (1.0,) * d)


ANATOMY = np.array([[-9.0, -7, -8], [8, -9, 6], [9, 8, -7], [-8, 9, 7], [0, 2, 1], [4, -3, -9]])


def anatomy(geometry: Geometry, angle: float = 0.0) -> FloatArray:
    """(FEW, P): turned about z by `angle` radians, in the image's middle."""
    d = geometry.ndim
    return np.asarray((ANATOMY @ Rotation.from_rotvec([0, 0, angle]).as_matrix().T)[:, :d] + geometry.centre)


WINDOWS = [
    Windows("landmark"),
    Windows("landmark", per_sample=2),
    Windows("landmark", pose=True),
    Windows("landmark", pose=True, rounds=2, per_sample=2),
]


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("windows", WINDOWS)
def test_recovers_from_a_first_stage_that_is_several_voxels_off(d: int, windows: Windows) -> None:
    geometry, plans = grid(d), staged_plans(d, windows)
    points = anatomy(geometry, 0.4)
    wrong = points + np.random.default_rng(0).uniform(-4, 4, points.shape)
    found = look(scene(geometry, points), first(wrong, plans), plans, shape=ANATOMY[:, :d])
    np.testing.assert_allclose(found.candidates[:, 0], points, atol=0.06)
    np.testing.assert_array_equal(found.landmarks.status, Status.PRESENT)
    assert found.looks == 1 + FEW * windows.rounds


@pytest.mark.parametrize("pose", [False, True])
def test_windows_turn_with_the_shape(pose: bool) -> None:
    """A network sees the same anatomy, turned or not, in the same place and way: only with `pose`."""
    geometry, plans = grid(2), staged_plans(2, Windows("landmark", pose=pose))
    seen = []
    for angle in (0.0, 1.0):
        points, network = anatomy(geometry, angle), OwnChannel()
        look(scene(geometry, points), first(points, plans), plans, member(plans, network), shape=ANATOMY[:, :2])
        seen.append(network.seen[0][0])
    middle = (slice(None), slice(None), *[slice(3, -3)] * 2)  # the image's border is seen from elsewhere
    apart = (seen[0] - seen[1]).abs()[middle].clamp(max=5).mean()
    assert (apart < 0.2) == pose


@pytest.mark.parametrize("low_pass", ["crossed", "widest"])
def test_windows_are_filtered_as_the_plans_say(low_pass: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, cut_out = list[object](), Image.resample

    def resample(self: Image, target: Geometry, **how: Any) -> Image:
        asked.append(how.get("low_pass"))
        return cut_out(self, target, **how)

    monkeypatch.setattr(Image, "resample", resample)
    geometry, plans = grid(2), staged_plans(2, Windows("landmark", low_pass=low_pass))
    points = anatomy(geometry)
    look(scene(geometry, points), first(points, plans), plans)
    assert asked == [low_pass] * FEW


@pytest.mark.parametrize("d", [2, 3])
def test_a_landmark_outside_its_window_is_searched_around_it(d: int) -> None:
    geometry, plans = grid(d), staged_plans(d, Windows("landmark", per_sample=2), side=24)
    points = anatomy(geometry)
    wrong = points.copy()
    wrong[2, 0] -= 19.5  # the half side is 12
    found = look(scene(geometry, points, [2.0] * FEW), first(wrong, plans), plans)
    np.testing.assert_allclose(found.candidates[:, 0], points, atol=0.06)
    assert found.log_odds[2, 0] > 0 and 1 + FEW < found.looks <= 1 + FEW + 3**d
    unsearched = look(scene(geometry, points, [2.0] * FEW), first(wrong, plans), plans, search=False)
    assert unsearched.looks == 1 + FEW
    np.testing.assert_array_equal(unsearched.candidates[2, 0], wrong[2])


@pytest.mark.parametrize("windows", [Windows("landmark", rounds=2), Windows("landmark", rounds=2, per_sample=2)])
def test_looks_from_coarse_to_fine_hold_what_the_planned_windows_do_not(windows: Windows) -> None:
    """The half side is 8 voxels, and all landmarks lie 16 and 15 off: at once in windows of 2.5 times the voxels, and
    the second look at the planned ones is as precise as ever."""
    geometry, plans = grid(2), staged_plans(2, windows)
    points = anatomy(geometry)
    wrong = points + np.array([16.0, -15.0])
    image, network = scene(geometry, points, [3.0] * FEW), OwnChannel()
    rest = (first(wrong, plans), plans)
    found = look(image, *rest, member(plans, network), search=False, spacings=((2.5, 2.5), (1.0, 1.0)))
    np.testing.assert_allclose(found.candidates[:, 0], points, atol=0.06)
    assert (found.log_odds[:, 0] > 0).all() and found.looks == 1 + 2 * FEW
    narrow = look(image, *rest, search=False)
    np.testing.assert_array_equal(narrow.candidates[:, 0], wrong)  # the planned windows alone see none of them


def test_a_coarse_look_sees_what_training_shows() -> None:
    geometry, plans = grid(2), staged_plans(2, Windows("landmark"))
    points, network = anatomy(geometry), OwnChannel()
    image = scene(geometry, points)
    marks = Landmarks(plans.landmarks, points, np.ones(FEW, dtype=np.int8))
    case = StoredCase("case", image.array, geometry, (FAR,) * FEW, marks, "case", "d", "p")
    for spacing in ((1.6, 1.6), (4.4, 4.4)):
        look(image, first(points, plans), plans, member(plans, network), search=False, spacings=(spacing,))
        window = geometry.resampled(spacing).window(points[2], (SIDE,) * 2)
        shown = cut(coarser(case, spacing, (1.0, 1.0)), window)
        np.testing.assert_allclose(network.seen[-1][0][2], shown, atol=1e-4)


def test_the_search_covers_what_was_measured_and_looks_closer_at_what_it_finds() -> None:
    """One landmark lies 27 voxels off, further than the planned windows' search of 16 reaches; the errors that were
    measured are as long. Windows of 2.5 times the voxels find it, and one of the planned voxels its place."""
    geometry, plans = grid(2), staged_plans(2, Windows("landmark", per_sample=2))
    points = anatomy(geometry)
    wrong = points.copy()
    wrong[0, 0] += 27.0
    errors = np.random.default_rng(0).uniform(-1, 1, (8, FEW, 2))
    errors[0, 0] = (27.0, 0.0)
    rest = (scene(geometry, points, [3.0] * FEW), first(wrong, plans), plans)
    found = look(*rest, errors=errors, spacings=((2.5, 2.5), (1.0, 1.0)))
    np.testing.assert_allclose(found.candidates[:, 0], points, atol=0.06)
    assert found.log_odds[0, 0] > 0
    assert np.linalg.norm(look(*rest, errors=errors).candidates[0, 0] - points[0]) > 20


def test_a_landmark_far_off_is_found_where_the_shape_expects_it() -> None:
    geometry, plans = grid(2), staged_plans(2, Windows("landmark"))
    points = anatomy(geometry)
    wrong = points.copy()
    wrong[0] = geometry.to_physical((2.0, 40.0))
    wrong[1] = np.nan
    found = look(scene(geometry, points), first(wrong, plans), plans, shape=ANATOMY[:, :2])
    np.testing.assert_allclose(found.candidates[:, 0], points, atol=0.06)


@pytest.mark.parametrize("kept", [True, False])
def test_a_landmark_that_was_drawn_off_its_peak_is_looked_for_there(kept: bool) -> None:
    """Anatomy that lies where neither the shape nor the drawn point says: the peak before it was drawn tells."""
    geometry, plans = grid(2), staged_plans(2, Windows("landmark"))
    points = anatomy(geometry)
    points[0] = geometry.to_physical((40.0, 3.0))
    drawn = anatomy(geometry)
    before = first(drawn, plans)
    before = replace(before, detections=replace(before.detections, moved=drawn - points)) if kept else before
    found = look(scene(geometry, points), before, plans, shape=ANATOMY[:, :2])
    assert (np.linalg.norm(found.candidates[0, 0] - points[0]) < 0.1) == kept


@pytest.mark.parametrize(("longest", "moved"), [(0.0, True), (2.0, False), (25.0, True)])
def test_a_look_alike_outside_must_outweigh_how_well_the_stage_before_does(longest: float, moved: bool) -> None:
    """The window of L2 is just unsure of its place; a place 13 voxels off is surer. longest: of that stage's errors on
    other cases, 0 where nothing is known of them."""
    geometry, plans = grid(2), staged_plans(2, Windows("landmark", per_sample=2))
    points = anatomy(geometry)
    other = points.copy()
    other[2] -= (13.0, 0.0)
    volume = np.log(2 * np.pi * SIGMA**2)
    sure = [PEAK] * FEW
    heights = [[*sure[:2], odds - volume, *sure[3:]] for odds in (-0.3, 4.0)]
    both = [scene(geometry, where, h).array for where, h in zip((points, other), heights, strict=True)]
    errors = np.random.default_rng(0).uniform(-1, 1, (8, FEW, 2))
    errors[0, :, 0] = longest
    found = look(
        Image(np.maximum(*both), geometry),
        first(points + 0.5, plans),
        plans,
        errors=errors if longest else None,
    )
    np.testing.assert_allclose(found.candidates[2, 0], (other if moved else points)[2], atol=0.3)


@pytest.mark.parametrize("windows", WINDOWS)
def test_absent_stays_absent(windows: Windows) -> None:
    """It keeps the place that the stage before saw, and costs one search."""
    geometry, plans = grid(2), staged_plans(2, windows, absent=["L3"])
    points = anatomy(geometry)
    heights = [PEAK if i != 3 else -8.0 for i in range(FEW)]
    before = first(points + 1.0, plans)
    found = look(scene(geometry, points, heights), before, plans, shape=ANATOMY[:, :2])
    assert found.landmarks.status.tolist() == [1, 1, 1, int(Status.ABSENT), 1, 1]
    assert found.log_odds[3, 0] < 0 < found.log_odds[[0, 1, 2, 4, 5], 0].min()
    np.testing.assert_array_equal(found.candidates[3, 0], before.candidates[3, 0])
    searched = 2 * 3**2 * (1 if windows.per_sample else FEW)
    assert found.looks <= 1 + FEW * windows.rounds + searched


@pytest.mark.parametrize("d", [2, 3])
def test_a_search_keeps_the_windows_of_a_group_on_one_interval(d: int) -> None:
    """A network that fuses windows slice by slice would else fuse slices that do not belong together."""
    geometry = grid(d)
    group, points = (0, 2, 5), anatomy(geometry)
    normal = geometry.direction[:, 0]
    points[list(group)] += ((points[0] - points[list(group)]) @ normal)[:, None] * normal
    slices = SliceGroup(0, tuple(names_of(FEW)[i] for i in group))
    plans, network = staged_plans(d, Windows("landmark", groups=(slices,)), side=24), OwnChannel()
    wrong = points.copy()
    wrong[2, 0] -= 19.5  # in the plane; the half side is 12
    image = scene(geometry, points, [2.0] * FEW)
    ramp = np.broadcast_to(np.arange(geometry.shape[0], dtype=np.float32).reshape(-1, *[1] * (d - 1)), geometry.shape)
    image = Image(np.concatenate([image.array, ramp[None]]), geometry)
    found = look(image, first(wrong, plans), plans, member(plans, network))
    np.testing.assert_allclose(found.candidates[:, 0], points, atol=0.06)
    assert len(network.seen) > 1
    for data, _ in network.seen:
        interval = data[list(group), -1].flatten(2).amax(2)  # of each slice, -12 beyond the image
        assert torch.equal(interval, interval[:1].expand_as(interval))


def test_networks_that_need_all_landmarks_get_them_in_order() -> None:
    geometry, plans = grid(2), staged_plans(2, Windows("landmark"))
    points = anatomy(geometry)
    wrong = points.copy()
    wrong[4] = np.nan  # has no window, and without a shape no place
    network = OwnChannel()
    found = look(scene(geometry, points), first(wrong, plans), plans, member(plans, network), shape=None)
    assert [which for _, which in network.seen] == [list(range(FEW))] and all(len(d) == FEW for d, _ in network.seen)
    assert np.isnan(found.candidates[4]).all() and found.landmarks.status[4] == Status.UNKNOWN


def test_members_look_each_in_its_own_place_and_are_fused() -> None:
    near, far = np.zeros((1, 2, 3)), np.full((1, 2, 3), 50.0)
    near[0, 1], high, low = 9.0, np.array([[3.0, 0.0]]), np.array([[-3.0, -4.0]])
    widths = np.array([[1.0, 2.0]])
    candidates, odds, spread = fuse(
        [(near, high, widths), (near + 1.0, high, widths + 1.0), (far, low, widths + 90.0)], radius=4.0
    )
    assert spread[0, 0] == pytest.approx(1.5)
    np.testing.assert_allclose(candidates[0, 0], 0.5)  # the one that is far off takes no part
    assert odds[0, 0] == pytest.approx(1.0)
    nothing = (np.full((1, 2, 3), np.nan), np.full((1, 2), -np.inf), np.full((1, 2), np.nan))
    candidates, odds, spread = fuse([nothing, (near, high, widths)], radius=4.0)
    assert spread[0, 0] == pytest.approx(1.0)
    np.testing.assert_allclose(candidates[0, 0], near[0, 0])
    assert odds[0, 0] == 3.0
    geometry, plans = grid(2), staged_plans(2, Windows("landmark"))
    points = anatomy(geometry)
    both = look(
        scene(geometry, points), first(points + 2, plans), plans, member(plans), member(plans), shape=ANATOMY[:, :2]
    )
    np.testing.assert_allclose(both.candidates[:, 0], points, atol=0.06)


def test_a_plan_may_forbid_the_search() -> None:
    """One look, as published: what its window does not show stays where the stage before saw it."""
    geometry, plans = grid(2), staged_plans(2, Windows("landmark", search=False))
    points = anatomy(geometry)
    wrong = points.copy()
    wrong[0] += 15.0
    found = look(scene(geometry, points), first(wrong, plans), plans, shape=ANATOMY[:, :2])
    assert found.looks == 1 + FEW
    np.testing.assert_allclose(found.candidates[0, 0], wrong[0], atol=1e-6)
    searching = staged_plans(2, Windows("landmark"))
    again = look(scene(geometry, points), first(wrong, searching), searching, shape=ANATOMY[:, :2])
    assert again.looks > 1 + FEW


def test_what_cannot_be_used_is_said() -> None:
    geometry, plans = grid(2), staged_plans(2, Windows("landmark"))
    points = anatomy(geometry)
    image, before = scene(geometry, points), first(points, plans)
    with pytest.raises(AutolmkError, match="not finite"):
        look(image, before, plans, member(plans, OwnChannel(float("nan"))), shape=ANATOMY[:, :2])
    stage = Stage(plans, plans.configuration("test"), (member(plans),), (Measured(),))
    with pytest.raises(AutolmkError, match="where its windows lie"):
        look_again(stage, Prepared(image, (FAR,) * FEW), before)


@pytest.mark.parametrize("windows", WINDOWS)
def test_windows_do_not_choose_the_row(windows: Windows) -> None:
    """The window of L2 shows its neighbour, 8 voxels off, clearer than L2 itself: only what lies in reach of the row's
    place counts, and the places of the stage before stay behind it."""
    geometry, plans = grid(2), staged_plans(2, windows, side=24)
    points = anatomy(geometry)
    other = points.copy()
    other[2] -= (8.0, 0.0)
    heights = [PEAK - 1 if i == 2 else PEAK for i in range(FEW)]
    image = Image(np.maximum(scene(geometry, points, heights).array, scene(geometry, other).array), geometry)
    before = first(points + 0.5, plans)
    plain = look(image, before, plans, shape=ANATOMY[:, :2])
    np.testing.assert_allclose(plain.candidates[2, 0], other[2], atol=0.3)
    assert np.isnan(plain.detections.row).all()

    candidates = np.stack([before.candidates[:, 0], other], axis=1)
    log_odds = np.stack([before.log_odds[:, 0], before.log_odds[:, 0] - 2], axis=1)
    reach, row = np.full(FEW, np.inf), np.full(FEW, np.nan)
    reach[2], row[2] = 3.0, 0.8
    in_row = in_rows(a_prediction(before.landmarks, candidates, log_odds), row, reach)
    found = look(image, in_row, plans, shape=ANATOMY[:, :2])
    np.testing.assert_allclose(found.candidates[:, 0], points, atol=0.3)
    np.testing.assert_array_equal(found.candidates[2, 1], other[2])
    assert found.log_odds[2, 1] == pytest.approx(found.log_odds[2, 0] - 2)
    np.testing.assert_array_equal(found.detections.row, row)
    others = [i for i in range(FEW) if i != 2]
    np.testing.assert_allclose(found.candidates[others], plain.candidates[others], atol=1e-9)  # poses turn a little


def test_a_member_outside_the_image_is_not_looked_for() -> None:
    geometry, plans = grid(2), staged_plans(2, Windows("landmark"))
    points = anatomy(geometry)
    before = first(points, plans, odds=-3.0)
    reach = np.where(np.arange(FEW) == 1, 0.0, np.inf)
    off = before.candidates[:, 0] + 1.0
    found = look(
        scene(geometry, points),
        in_rows(a_prediction(before.landmarks, off[:, None], before.log_odds), np.zeros(FEW), reach),
        plans,
    )
    np.testing.assert_array_equal(found.candidates[1, 0], off[1])
    assert found.log_odds[1, 0] == -3.0
    np.testing.assert_allclose(found.candidates[2, 0], points[2], atol=0.06)
