"""The one decoder: windows, candidates, mirroring, members, presence. Networks here are exact by construction: the
image itself holds each landmark's log-Gaussian, so every error is the decoder's."""

from __future__ import annotations

import argparse
import dataclasses
import math
import runpy
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from autolmk.codecs import HeatmapCodec
from autolmk.errors import AutolmkError
from autolmk.fold.measured import Measured
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status
from autolmk.networks.unet import build_unet
from autolmk.plans import (
    Architecture,
    Augmentation,
    Configuration,
    Normalization,
    Plans,
    Schedule,
    Windows,
    replace_configuration,
)
from autolmk.prediction.candidates import Pool, centrality, centred_start, cover, merge, tile_starts
from autolmk.prediction.crops import heatmap_crops
from autolmk.prediction.first_look import Look, look_first
from autolmk.prediction.stage import Member, Prepared, Stage
from autolmk.shapes.row import Rows
from autolmk.training.row_statistics import TrainingRows, measure_row

PATCH = (24, 24, 24)
SIGMA = 2.0  # mm
PEAK = 8.0  # logit at a landmark
FAR = -12.0  # logit far from one
SPACING = (1.5, 1.0, 1.0)
LOG_VOLUME = sum(math.log(SIGMA / s * math.sqrt(2 * math.pi)) for s in SPACING)  # log-odds are of whole Gaussians


def plans_for(
    names: Sequence[str],
    *,
    pairs: tuple[tuple[str, str], ...] = (),
    absent: tuple[str, ...] = (),
    mirror_axis: int | None = None,
    patch: tuple[int, ...] = PATCH,
) -> Plans:
    d = len(patch)
    configuration = Configuration(
        trainer="heatmap",
        data_identifier="test",
        spacing=SPACING[-d:],
        patch_size=patch,
        batch_size=1,
        normalization=(Normalization("none"),),
        windows=Windows("random"),
        architecture=Architecture((4,), ((3,) * d,), ((1,) * d,), (1,), (), (1,) * d),
        sigma=(SIGMA,) * d,
        augmentation=Augmentation((0.0,) * d, (1.0, 1.0), (0.0,) * d, mirror_axis),
        schedule=Schedule(1, 1, None, 1e-3, 0.0, 0.9, 0.1),
    )
    return Plans(
        "Dataset000_Test", "plans", "heatmap", "XS", d, "mm", ("c",), tuple(names), pairs, absent, "cpu", 1.0,
        {"test": configuration},
    )  # fmt: skip


class Heights(nn.Module):
    """Channel l of the image is the logit of landmark l."""

    def forward(self, data: Tensor) -> Tensor:
        return data.clone()


class BlindAtBorder(nn.Module):
    """As Heights, but within `width` voxels of the window's border peaks are lower and one voxel off."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.width = width

    def forward(self, data: Tensor) -> Tensor:
        inside = torch.zeros(data.shape[2:], dtype=torch.bool)
        inside[tuple(slice(self.width, n - self.width) for n in data.shape[2:])] = True
        return torch.where(inside, data, data.roll(1, -2) - 2.0)


def member(plans: Plans, network: nn.Module | None = None) -> Member:
    configuration = plans.configuration("test")
    sigma = [SIGMA / s for s in configuration.spacing]
    codec = HeatmapCodec(len(plans.landmarks), configuration.patch_size, (1,) * len(sigma), sigma)
    nn.init.zeros_(codec.elsewhere)
    return Member(network or Heights(), codec)


def scene(geometry: Geometry, points: FloatArray, heights: Sequence[float] | None = None) -> Image:
    """(L, *S): channel l is `height - |x - p_l|^2 / (2 sigma^2)`, floored; all in mm."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), axis=-1)
    place = geometry.to_physical(grid)
    array = np.empty((len(points), *geometry.shape), dtype=np.float32)
    for i, point in enumerate(points):
        height = PEAK if heights is None else heights[i]
        array[i] = np.maximum(height - ((place - point) ** 2).sum(axis=-1) / (2 * SIGMA**2), FAR)
    return Image(array, geometry)


def oblique(shape: tuple[int, ...], seed: int = 0) -> Geometry:
    turn = Rotation.from_rotvec(np.random.default_rng(seed).uniform(-0.3, 0.3, 3)).as_matrix()
    return Geometry.from_parts(shape, SPACING, (-30.0, 12.0, 100.0), turn @ np.eye(3)[:, ::-1])


def predict(image: Image, plans: Plans, *members: Member, measured: Sequence[Measured] = (), **options: float):  # type: ignore[no-untyped-def]
    used = tuple(members or [member(plans)])
    stage = Stage(plans, plans.configuration("test"), used, tuple(measured), **options)
    return look_first(stage, Prepared(image, (FAR,) * len(image.array)))


def places(geometry: Geometry, count: int, seed: int = 1, margin: float = 2.0) -> FloatArray:
    size = np.array(geometry.shape)
    voxels = np.random.default_rng(seed).uniform(margin, size - 1 - margin, size=(count, len(size)))
    return geometry.to_physical(voxels)


def names_of(count: int) -> list[str]:
    return [f"L{i}" for i in range(count)]


# -- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 24, 17), (24, 24, 24), (9, 10, 8)])
def test_an_image_that_fits_one_window_is_looked_at_once(shape: tuple[int, ...]) -> None:
    geometry = oblique(shape)
    points = places(geometry, 4, margin=3.0)
    result = predict(scene(geometry, points), plans_for(names_of(4)))
    assert result.looks == 1
    np.testing.assert_allclose(result.landmarks.points, points, atol=0.02)


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_finds_every_landmark_of_a_large_image(step: float) -> None:
    geometry = oblique((60, 31, 50))
    points = places(geometry, 12)
    result = predict(scene(geometry, points), plans_for(names_of(12)), step=step)
    assert result.looks > 1
    np.testing.assert_allclose(result.candidates[:, 0], points, atol=0.02)
    np.testing.assert_array_equal(result.landmarks.points, result.candidates[:, 0])
    assert (np.diff(result.log_odds, axis=1) <= 0).all()


def test_two_dimensions() -> None:
    plans = plans_for(names_of(3), patch=(32, 32))
    geometry = Geometry.from_parts((50, 70), (1.0, 1.0), (3.0, 4.0))
    points = places(geometry, 3)
    np.testing.assert_allclose(predict(scene(geometry, points), plans).landmarks.points, points, atol=0.02)


def test_a_landmark_near_a_border_is_looked_at_again() -> None:
    geometry = Geometry.from_parts((24, 24, 96), SPACING, (0.0, 0.0, 0.0))
    voxels = np.array([[12.0, 12.0, 24.3], [11.0, 13.0, 46.8], [12.0, 9.0, 60.0]])
    points = geometry.to_physical(voxels)
    plans = plans_for(names_of(3))
    blind = member(plans, BlindAtBorder())
    result = predict(scene(geometry, points), plans, blind, step=1.0)
    assert result.looks == 4 + 2  # the first two, each in a window of its own; the third was seen well
    errors = np.linalg.norm(result.landmarks.points - points, axis=1)
    assert errors.max() < 0.05


def test_second_looks_are_shared() -> None:
    geometry = Geometry.from_parts((24, 24, 96), SPACING, (0.0, 0.0, 0.0))
    voxels = np.array([[12.0, 12.0, 23.0 + i / 4] for i in range(8)])
    plans = plans_for(names_of(8))
    result = predict(scene(geometry, geometry.to_physical(voxels)), plans, member(plans, BlindAtBorder()), step=1.0)
    assert result.looks == 4 + 1
    np.testing.assert_allclose(geometry.to_voxels(result.landmarks.points), voxels, atol=0.05)


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(4, 40)), min_size=2, max_size=3),
    st.floats(0.25, 1.0),
)
@settings(max_examples=100, deadline=None)
def test_tiles_cover_the_image_and_stay_in_it(axes: list[tuple[int, int]], step: float) -> None:
    shape, patch = [a for a, _ in axes], [b for _, b in axes]
    starts = np.array(tile_starts(shape, patch, step))
    for axis, (size, side) in enumerate(axes):
        line = np.unique(starts[:, axis])
        if size <= side:
            assert len(line) == 1
            assert -line[0] - (side - size + line[0]) in (-1, 0, 1)  # in the middle
            continue
        assert line[0] == 0
        assert line[-1] == size - side
        assert np.diff(line).max(initial=0) <= max(1, math.ceil(side * step))


@given(st.integers(0, 2**31), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_cover_serves_every_point(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    shape, patch = rng.integers(10, 100, 3), rng.integers(8, 40, 3)
    points = rng.uniform(-0.5, shape - 0.5, size=(count, 3))
    starts = cover(points, shape, patch, 0.25)
    assert len(starts) <= count
    best = np.max([centrality(points, start, shape, patch) for start in starts], axis=0)
    assert best.min() >= 0.25


def test_the_border_of_the_image_is_no_border() -> None:
    assert centrality(np.array([0.0, 12.0]), (0, 0), (80, 24), (24, 24)) == pytest.approx(1.0)
    assert centrality(np.array([22.5, 12.0]), (0, 0), (80, 24), (24, 24)) == pytest.approx(1 / 12)
    assert centred_start([1.0, 70.0], (80, 80), (24, 24)) == (0, 56)


# -- candidates -------------------------------------------------------------------------------------------------------


def test_overlapping_candidates_merge_and_the_central_one_speaks() -> None:
    places = np.array([[10.0, 10.0, 5.0, 0.1], [10.5, 10.0, 4.0, 0.4], [10.2, 10.0, 3.0, 0.2], [30.0, 30.0, 1.0, 1.0]])
    rows = np.column_stack([places, [1.0, 1.5, 2.0, 2.5]])
    np.testing.assert_array_equal(merge(rows, np.ones(2), radius=2.0), rows[[1, 3]])


def test_beyond_central_enough_log_odds_decide() -> None:
    rows = np.array([[10.0, 10.0, 5.0, 0.6, 1.0], [10.5, 10.0, 4.0, 0.9, 1.5]])
    np.testing.assert_array_equal(merge(rows, np.ones(2), radius=2.0), rows[:1])


def test_a_pool_stays_small() -> None:
    rng = np.random.default_rng(0)
    pool = Pool(1, (1000, 1000), (10, 10))
    best = -np.inf
    for _ in range(500):
        odds = rng.normal(size=(1, 5))
        best = max(best, float(odds.max()))
        pool.add(rng.uniform(0, 10, size=(1, 5, 2)), odds, np.ones((1, 5)), rng.integers(0, 990, 2).tolist())
    assert pool.ranked(5, (1.0, 1.0), 0.1).log_odds[0, 0] == pytest.approx(best)
    assert len(pool._rows[0]) <= 128 + 5


def test_windows_are_ranked_by_log_odds() -> None:
    """A decoy in another window, lower against elsewhere, never wins, whatever its share of that window."""
    geometry = Geometry.from_parts((24, 24, 120), SPACING, (0.0, 0.0, 0.0))
    truth, decoy = geometry.to_physical([[12, 12, 20.0]]), geometry.to_physical([[12, 12, 100.0]])
    image = scene(geometry, truth)
    other = scene(geometry, decoy, [PEAK - 2])
    both = Image(np.maximum(image.array, other.array), geometry)
    result = predict(both, plans_for(["L0"]))
    np.testing.assert_allclose(result.candidates[0, :2], np.concatenate([truth, decoy]), atol=0.02)
    np.testing.assert_allclose(result.log_odds[0, :2] - LOG_VOLUME, [PEAK, PEAK - 2], atol=0.1)


# -- views and members ------------------------------------------------------------------------------------------------


class OneSideIsBetter(nn.Module):
    """Lower and lower along the last axis."""

    def forward(self, data: Tensor) -> Tensor:
        ramp = torch.linspace(0.0, 2.0, data.shape[-1])
        return data - ramp


def test_mirroring_makes_prediction_symmetric() -> None:
    """The prediction of the mirrored image is the mirrored prediction, with the pair swapped, for any network."""
    plans = plans_for(["a_L", "a_R", "mid"], pairs=(("a_L", "a_R"),), mirror_axis=0)
    geometry = Geometry.from_parts((20, 20, 40), SPACING, (0.0, 0.0, 0.0))
    voxels = np.array([[10, 9, 30.2], [10, 9, 8.8], [8, 12, 19.5]])
    image = scene(geometry, geometry.to_physical(voxels), [PEAK, PEAK - 3, PEAK])
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(3, 3, 3, padding=1))
    with torch.no_grad():
        network[0].weight.mul_(0.1)
        for i in range(3):
            network[0].weight[i, i, 1, 1, 1] += 1.0
    odd = member(plans, nn.Sequential(network, OneSideIsBetter()))
    turned = Image(np.ascontiguousarray(image.array[..., ::-1]), geometry)
    straight, mirrored = predict(image, plans, odd), predict(turned, plans, odd)
    back = geometry.to_voxels(mirrored.landmarks.points)[[1, 0, 2]]
    back[:, 2] = geometry.shape[2] - 1 - back[:, 2]
    np.testing.assert_allclose(back, geometry.to_voxels(straight.landmarks.points), atol=1e-3)
    np.testing.assert_allclose(mirrored.log_odds[[1, 0, 2], 0], straight.log_odds[:, 0], atol=1e-4)
    plain = predict(image, plans, odd, mirror=False)
    assert np.abs(plain.log_odds[:, 0] - straight.log_odds[:, 0]).max() > 0.1


def test_no_mirroring_where_the_plans_forbid_it() -> None:
    plans = plans_for(["a"], mirror_axis=None)
    image = scene(oblique((10, 10, 10)), places(oblique((10, 10, 10)), 1))
    look = Look(Stage(plans, plans.configuration("test"), (member(plans),), ()), Prepared(image, (FAR,)))
    assert len(look.views) == 1


class Shifted(nn.Module):
    """As Heights, with a constant added and the peak moved by one voxel along the last axis."""

    def __init__(self, by: int, add: float) -> None:
        super().__init__()
        self.by, self.add = by, add

    def forward(self, data: Tensor) -> Tensor:
        return data.roll(self.by, -1) + self.add


def test_members_are_averaged_as_scores_inside_a_window() -> None:
    plans = plans_for(names_of(2))
    geometry = Geometry.from_parts((20, 20, 20), SPACING, (0.0, 0.0, 0.0))
    voxels = np.array([[9, 10, 9.3], [12, 8, 11.0]])
    image = scene(geometry, geometry.to_physical(voxels))
    members = [member(plans, Shifted(1, 1.0)), member(plans, Shifted(-1, -1.0))]
    result = predict(image, plans, *members)
    np.testing.assert_allclose(geometry.to_voxels(result.landmarks.points), voxels, atol=0.02)
    lost = 1.0 / (2 * SIGMA**2)  # the mean of two parabolas one voxel away, at their middle
    np.testing.assert_allclose(result.log_odds[:, 0] - LOG_VOLUME, PEAK - lost, atol=0.15)


def test_networks_are_left_in_the_mode_they_were_in() -> None:
    plans = plans_for(["a"])
    one = member(plans)
    one.network.train()
    predict(scene(oblique((10, 10, 10)), places(oblique((10, 10, 10)), 1)), plans, one)
    assert one.network.training


def test_scores_that_are_not_finite_are_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, data: Tensor) -> Tensor:
            return data * math.nan

    plans = plans_for(["a"])
    geometry = oblique((10, 10, 10))
    with pytest.raises(AutolmkError, match="not finite"):
        predict(scene(geometry, places(geometry, 1)), plans, member(plans, Broken()))


# -- presence ---------------------------------------------------------------------------------------------------------


def test_presence_by_measured_calibration() -> None:
    geometry = oblique((20, 20, 20))
    points = places(geometry, 4)
    plans = plans_for(["always", "high", "low", "weak"], absent=("high", "low", "weak"))
    image = scene(geometry, points, [-6.0, 6.0, -6.0, 1.0])
    result = predict(image, plans)
    P, A = Status.PRESENT, Status.ABSENT
    np.testing.assert_array_equal(result.landmarks.status, [P, P, A, P])
    strict = Measured(presence_slope=2.0, presence_intercept=-6.0 - 2 * LOG_VOLUME)
    result = predict(image, plans, measured=[strict])
    np.testing.assert_array_equal(result.landmarks.status, [P, P, A, A])
    expected = 1 / (1 + np.exp(-(2 * (result.log_odds[:, 0] - LOG_VOLUME) - 6)))
    np.testing.assert_allclose(result.landmarks.likelihood, expected, atol=1e-6)
    np.testing.assert_allclose(result.candidates[:, 0], points, atol=0.02)  # also of absent ones
    assert np.isnan(result.landmarks.points[2]).all()


def test_likelihoods_of_members_are_averaged() -> None:
    plans, measured = plans_for(names_of(3)), (Measured(presence_slope=1.0), Measured(presence_slope=0.0))
    stage = Stage(plans, plans.configuration("test"), (), measured)
    np.testing.assert_allclose(stage.likelihoods(np.array([0.0, 100.0, -np.inf])), [0.5, 0.75, 0.25])


def test_what_a_member_never_saw_in_training_is_left_out_of_the_average() -> None:
    """One fold learned nothing of `b`, and both nothing of `c`, whatever their channels claim."""
    geometry = oblique((20, 20, 20))
    points = places(geometry, 3)
    plans = plans_for(["a", "b", "c"], absent=("c",))
    image = scene(geometry, points)
    alone = predict(image, plans)
    half = dataclasses.replace(member(plans, Shifted(1, 3.0)), untrained=("b", "c"))
    whole = dataclasses.replace(member(plans), untrained=("c",))
    result = predict(image, plans, whole, half)
    np.testing.assert_allclose(result.candidates[1, 0], alone.candidates[1, 0], atol=1e-6)
    np.testing.assert_allclose(result.log_odds[1, 0], alone.log_odds[1, 0], atol=1e-5)
    assert not np.allclose(result.log_odds[0, 0], alone.log_odds[0, 0], atol=0.1)  # both speak of `a`
    assert result.landmarks.status.tolist() == [Status.PRESENT, Status.PRESENT, Status.UNKNOWN]
    assert np.isnan(result.landmarks.likelihood[2]) and np.isnan(result.candidates[2]).all()
    assert (result.log_odds[2] == -np.inf).all()


# -- sides ------------------------------------------------------------------------------------------------------------


def test_sides_are_assigned_by_the_measured_mean_shape() -> None:
    """Channels that show both partners, the wrong one slightly higher: the mean shape settles it."""
    geometry = Geometry.from_parts((30, 40, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    middle = np.array([20.0, 20.0, 15.0])
    shape = {
        "a_L": (12, 3, 4), "a_R": (-12, 3, 4), "b_L": (8, -9, -7), "b_R": (-8, -9, -7),
        "top": (0, 0, 10), "front": (0, -12, 0), "back": (0, 12, -3),
    }  # fmt: skip
    names = list(shape)
    points = np.array([shape[n] for n in names], dtype=float) + middle
    plans = plans_for(names, pairs=(("a_L", "a_R"), ("b_L", "b_R")), patch=(32, 40, 40))
    partner = plans.pair_indices()
    own, other = scene(geometry, points), scene(geometry, points[list(partner)], [PEAK + 1] * len(names))
    image = Image(np.maximum(own.array, other.array), geometry)
    measured = Measured(
        mean_shape={n: tuple(map(float, p)) for n, p in shape.items()}, shape_residual=0.5, scale_bounds=(0.8, 1.2)
    )
    wrong = predict(image, plans).landmarks.points
    np.testing.assert_allclose(wrong, points[list(partner)], atol=0.05)
    right = predict(image, plans, measured=[measured, measured]).landmarks.points
    np.testing.assert_allclose(right, points, atol=0.05)


def test_points_are_drawn_toward_the_mean_shape_if_the_plans_say_so() -> None:
    """Every point is found some mm off; the fitted shape lies nearer to the truth."""
    geometry = Geometry.from_parts((48, 48, 48), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    rng, names = np.random.default_rng(0), names_of(12)
    shape = rng.uniform(-15, 15, (12, 3))
    truth = shape - shape.mean(axis=0) + 24
    found = truth + rng.normal(0, 1.5, truth.shape)
    plans, image = plans_for(names, patch=(48, 48, 48)), scene(geometry, found)
    measured = Measured(
        mean_shape={n: tuple(map(float, p)) for n, p in zip(names, shape, strict=True)},
        shape_residual=0.5,
        shape_cases=20,
        scale_bounds=(0.8, 1.2),
    )
    drawn = predict(image, plans, measured=[measured]).landmarks.points
    without = replace_configuration(plans, "test", shape_prior=False)
    np.testing.assert_allclose(predict(image, without, measured=[measured]).landmarks.points, found, atol=0.1)
    before, after = (np.linalg.norm(points - truth, axis=1).mean() for points in (found, drawn))
    assert after < 0.7 * before


# -- crops ------------------------------------------------------------------------------------------------------------


def test_heatmap_crops_lie_where_the_landmarks_are() -> None:
    geometry = oblique((40, 30, 50))
    points = places(geometry, 5)
    plans = plans_for(names_of(5))
    image = scene(geometry, points)
    prediction = predict(image, plans)
    stage = Stage(plans, plans.configuration("test"), (member(plans),), (), mirror=False)
    crops = dict(heatmap_crops(Look(stage, Prepared(image, (FAR,) * 5)), prediction, (6.0, 6.0, 6.0)))
    assert set(crops) == set(plans.landmarks)
    for name, point in zip(names_of(5), points, strict=True):
        crop = crops[name]
        peak = np.unravel_index(int(crop.array[0].argmax()), crop.geometry.shape)
        assert np.linalg.norm(crop.geometry.to_physical(peak) - point) < 1.5
        assert max(crop.geometry.shape) <= 13


# -- memory -----------------------------------------------------------------------------------------------------------


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors that live at the same time, each storage once."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                key = storage._cdata
                if key not in self.live:
                    self.live[key] = storage.nbytes()
                    weakref.finalize(storage, self.live.pop, key, None)
        self.peak = max(self.peak, sum(self.live.values()))
        return result


def test_memory_grows_with_neither_landmarks_nor_image() -> None:
    """64 landmarks instead of 8 add at most 1.1 times one window's logits; a larger image adds nothing."""
    benchmark = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "prediction_memory.py"))
    settings = argparse.Namespace(stride=1, network="XS", mirror=False)
    side = benchmark["PATCH"]

    def peak(landmarks: int, tiles: int) -> int:
        plans = benchmark["plans_for"](landmarks, settings)
        configuration = plans.configuration("volume")
        torch.manual_seed(0)
        network = build_unet(configuration.architecture, 1, landmarks, 3)
        one = Member(network, HeatmapCodec(landmarks, (side,) * 3, (1,) * 3, configuration.sigma))
        array = np.random.default_rng(0).standard_normal((1, side, side, side * tiles), dtype=np.float32)
        image = Image(array, Geometry.from_parts(array.shape[1:], (1.0,) * 3))
        with LiveTensors() as live:
            look_first(Stage(plans, configuration, (one,), (), step=1.0), Prepared(image, (0.0,)))
        return live.peak

    window_logits = 64 * side**3 * 4
    few, many, larger = peak(8, 1), peak(64, 1), peak(64, 3)
    assert many - few <= 1.1 * window_logits
    assert larger - many <= 0.01 * window_logits


def test_members_of_a_row_are_chosen_together() -> None:
    """Two channels see the same body clearest; the row gives each its own, and nothing else changes."""
    geometry = Geometry.from_parts((72, 24, 24), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    names = [*names_of(4), "alone"]
    points = np.array([[12.0, 12, z] for z in (12, 24, 36, 48)] + [[12, 5, 64]])
    plans = plans_for(names)
    wrong = points.copy()
    wrong[1] = points[2]
    heights = [PEAK + 1 if i == 1 else FAR for i in range(5)]
    image = Image(np.maximum(scene(geometry, points).array, scene(geometry, wrong, heights).array), geometry)
    plain = predict(image, plans, measured=[Measured()])
    np.testing.assert_allclose(plain.candidates[1, 0], points[2], atol=0.05)

    rng = np.random.default_rng(0)
    shown = [points + rng.normal(0, 0.3, points.shape) + rng.normal(0, 1, 3) for _ in range(12)]
    status = np.full(5, Status.PRESENT)
    training = TrainingRows([Landmarks(tuple(names), p, status) for p in shown], [geometry] * 12)
    row = measure_row(names[:4], training)
    assert row is not None
    found = predict(image, plans, measured=[Measured(rows=Rows((row,), right=50, expected=50))])
    np.testing.assert_allclose(found.candidates[:, 0], points, atol=0.05)
    assert (found.detections.row[:4] > 0.9).all() and np.isnan(found.detections.row[4])
    assert found.result().more["flags"] == [""] * 5
    np.testing.assert_array_equal(found.candidates[4], plain.candidates[4])
    unsure = predict(image, plans, measured=[Measured(rows=Rows((row,), right=30, expected=50))])
    assert unsure.result().more["flags"] == ["the row may be shifted by one"] * 4 + [""]


def test_models_without_rows_predict_as_ever() -> None:
    geometry = oblique((40, 40, 40))
    points = places(geometry, 6)
    image, plans = scene(geometry, points), plans_for(names_of(6))
    plain = predict(image, plans, measured=[Measured()])
    found = predict(image, plans, measured=[Measured(rows=Rows(cases=9, why="none"))])
    np.testing.assert_array_equal(found.candidates, plain.candidates)
    np.testing.assert_array_equal(found.log_odds, plain.log_odds)
    assert np.isnan(found.detections.row).all() and not len(found.reach)
