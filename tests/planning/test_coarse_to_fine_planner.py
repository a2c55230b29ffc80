"""Plans of coarse_to_fine: each number of the fine stage follows its cause; the coarse one is the search of heatmap."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from fingerprints import a_fingerprint, at, mean_shape

from autolmk.errors import AutolmkError
from autolmk.files.serialization import to_json
from autolmk.fingerprint import Fingerprint, MirrorPlane, Pose
from autolmk.fingerprint.landmark_statistics import CoSliceGroup
from autolmk.networks.unet import cumulative_strides
from autolmk.planners.coarse_to_fine import COARSE, LEAST, NAME, WINDOWS, CoarseToFinePlanner, _fitting
from autolmk.planners.heatmap import HeatmapPlanner
from autolmk.planning import window_rules
from autolmk.planning.planner import PlanRequest, memory_of, plan_dataset, usable_bytes
from autolmk.plans import Configuration, Plans
from autolmk.testing import check_planner


def turned(**others: Any) -> Fingerprint:
    """Twelve landmarks that tell a pose, which differs."""
    values = {"n_landmarks": 12, "rotation": (40.0, 20.0, 30.0), "mean_shape": mean_shape(12, 3), **others}
    return a_fingerprint(**values)


ALIKE = Pose(40, (2.0, 2.0, 2.0), 2.0, (0.99, 1.01), (9.0,) * 3)
MADE: dict[str, Plans] = {}


def plans(fingerprint: Fingerprint, **arguments: Any) -> Plans:
    """Remembered: many tests look at the same plans."""
    arguments = {"preset": "XS", "device": "cpu", **arguments}
    key = json.dumps([to_json(fingerprint), arguments])
    if key not in MADE:
        MADE[key] = plan_dataset(
            PlanRequest.of(fingerprint, **arguments), {NAME: CoarseToFinePlanner()}, plans_name="autolmkPlans"
        )
    return MADE[key]


def fine(cause: Any = None) -> Configuration:
    arguments = cause if isinstance(cause, dict) else {}
    return plans(turned() if cause is None or arguments else cause, **arguments).configurations[NAME]


POSED = turned()
MIRROR = MirrorPlane((0.0, 0.8, 0.6), 0.5, True)  # 37 degrees off the grids
LARGE = {"preset": "M", "device": "cuda"}
CAUSES: dict[str, tuple[Any, Any]] = {  # number -> (fingerprint or arguments before, after); None: `turned` on XS
    "spacing": (None, turned(spacing=(1.5, 1.5, 1.5))),
    "data_identifier": (None, turned(spacing=(1.5, 1.5, 1.5))),
    "patch_size": (None, LARGE),
    "batch_size": (None, LARGE),
    "normalization.0.scheme": (None, turned(channel_names=("CT",))),
    "sigma": (None, turned(nearest=1.4)),
    "windows.pose": (None, turned(pose=ALIKE)),
    "windows.groups": (None, turned(co_slice_groups=(CoSliceGroup(0, ("L0", "L1"), ""),))),
    "windows.per_sample": (None, turned(n_cases=120)),
    "options": (None, turned(n_cases=120)),
    "architecture.features_per_stage": (None, {"preset": "M", "device": "cuda"}),
    "architecture.kernel_sizes": (None, turned(spacing=(4.0, 1.0, 1.0))),
    "architecture.strides": (None, turned(spacing=(4.0, 1.0, 1.0))),
    "augmentation.rotation": (None, turned(shape_residual=9.0)),
    "augmentation.scale": (None, turned(pose=ALIKE)),
    "augmentation.intensity": (None, turned(channel_names=("CT",))),
    "augmentation.mirror_axis": (None, turned(mirror=MIRROR)),
    "schedule.max_seconds": (None, LARGE),
    "schedule.epochs": (None, LARGE),
    "schedule.learning_rate": (None, LARGE),
    "schedule.ema_decay": (None, LARGE),
    "schedule.iterations_per_epoch": (None, turned(n_cases=400)),
}


def test_windows_in_pose_are_mirrored_however_the_plane_lies_but_not_those_of_a_slice() -> None:
    assert fine(turned(mirror=MIRROR)).augmentation.mirror_axis == 1
    assert fine(turned(mirror=MIRROR, pose=ALIKE)).augmentation.mirror_axis is None  # straight: the grids' axes count
    straight = dataclasses.replace(MIRROR, normal=(0.0, 1.0, 0.0))
    assert fine(turned(mirror=straight, pose=ALIKE)).augmentation.mirror_axis == 1
    assert fine(turned(mirror=dataclasses.replace(MIRROR, complete=False))).augmentation.mirror_axis is None
    group = (CoSliceGroup(0, ("L0", "L1"), ""),)
    assert fine(turned(mirror=straight, co_slice_groups=group)).augmentation.mirror_axis is None


def test_plans_that_mirror_windows_of_a_slice_contradict_themselves() -> None:
    value = to_json(plans(turned(co_slice_groups=(CoSliceGroup(0, ("L0", "L1"), ""),))))
    value["configurations"][NAME]["augmentation"]["mirror_axis"] = 0
    with pytest.raises(AutolmkError, match="seen as they lie"):
        Plans.parse(value)


@pytest.mark.parametrize("number", CAUSES)
def test_a_number_moves_with_its_cause(number: str) -> None:
    before, after = CAUSES[number]
    assert at(number)(fine(before)) != at(number)(fine(after))
    assert number == "data_identifier" or any(
        number.startswith(key) or key.startswith(number.split(".")[0]) for key in fine(before).why
    )


def test_the_coarse_stage_is_the_heatmaps_plan_with_its_share_of_the_time() -> None:
    both = plans(POSED)
    heatmap = plan_dataset(
        PlanRequest.of(POSED, "cpu"), {"heatmap": HeatmapPlanner()}, plans_name="autolmkPlans"
    ).configurations["heatmap"]
    coarse, last = both.configurations[COARSE], both.configurations[NAME]
    assert both.chain(NAME) == (COARSE, NAME)
    same = {"schedule": heatmap.schedule, "why": heatmap.why}
    assert dataclasses.replace(coarse, **same) == heatmap  # type: ignore[arg-type]
    assert coarse.schedule.max_seconds is not None and last.schedule.max_seconds is not None
    assert coarse.schedule.max_seconds + last.schedule.max_seconds == pytest.approx(heatmap.schedule.max_seconds)


def test_coordinates_are_learnt_where_cases_are_many_and_poses_alike() -> None:
    for changes, kind in (
        ({}, "heatmap"),
        ({"n_cases": 400}, "coordinates"),
        ({"n_cases": 400, "rotation": (90.0, 20.0, 30.0)}, "heatmap"),
    ):
        coarse = plans(
            turned(rotation=(10.0, 10.0, 10.0)) if not changes else turned(**{"rotation": (10.0,) * 3, **changes})
        )
        assert coarse.configurations[COARSE].trainer == kind and "cases" in coarse.configurations[COARSE].why["trainer"]


def test_windows_of_a_slice_group_are_seen_together() -> None:
    found = fine(turned(co_slice_groups=(CoSliceGroup(1, ("L0", "L2"), ""),)))
    assert found.options["correlated"] and found.windows.per_sample is None and not found.windows.pose
    assert [group.landmarks for group in found.windows.groups] == [("L0", "L2")]


@pytest.mark.parametrize(("spacing", "nearest"), [((1.29069, 1.29069), 12.0), ((1.0, 1.5), 12.0), ((1.0, 1.0), 1.5)])
def test_heatmaps_of_images_can_be_decoded_at_any_spacing(spacing: tuple[float, ...], nearest: float) -> None:
    c = fine(a_fingerprint(shape=(200.0, 200.0), spacing=spacing, nearest=nearest))  # which builds the codec
    cells = [g / (s * o) for g, s, o in zip(c.sigma, c.spacing, c.architecture.output_stride, strict=True)]
    assert c.architecture.output_stride == (4, 4) and cells == pytest.approx([0.75, 0.75], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_cases": 5}, "5 cases"),
        ({"n_landmarks": 5, "mean_shape": mean_shape(5, 3)}, "5 landmarks"),
        ({"mean_shape": mean_shape(12, 3, flat=0.01)}, "of a line"),
        ({"co_slice_groups": (CoSliceGroup(0, ("L0", "L1"), ""),)}, "slice by slice"),
        ({"pose": ALIKE}, "position is enough"),
    ],
)
def test_windows_follow_the_pose_where_it_can_be_told_and_differs(changes: dict[str, Any], reason: str) -> None:
    follows, why = window_rules.pose_windows(turned(**changes))
    assert window_rules.pose_windows(POSED)[0] and not follows and reason in why


@pytest.mark.parametrize("spacing", [(2.5, 0.5, 0.5), (6.0, 0.5, 0.5), (1.0, 1.0, 1.0), (0.5, 1.25)])
def test_windows_are_as_long_in_mm_along_each_axis_and_of_as_many_voxels(spacing: tuple[float, ...]) -> None:
    """Up to half of a stride: 24 x 24 x 24 voxels were 144 x 12 x 12 mm with slices of 6 mm."""
    shape = tuple(160 / s for s in spacing)
    c = fine(a_fingerprint(spacing=spacing, shape=shape, n_landmarks=6))
    least = c.windows.least_side or ()
    multiple = cumulative_strides(c.architecture.strides)[-1]
    cube = LEAST[len(spacing) == 3] * math.prod(spacing) ** (1 / len(spacing))
    for n, s, m in zip(least, spacing, multiple, strict=True):
        assert n % m == 0 and abs(n * s - cube) <= (m / 2 + 1) * s
    assert 0.8 <= math.prod(least) / LEAST[len(spacing) == 3] ** len(spacing) <= 1.25
    assert all(a <= b for a, b in zip(least, c.patch_size, strict=True))


@pytest.mark.parametrize("shape", [(56.0, 56.0), (20.0, 90.0), (9.0, 9.0), (20.0, 30.0, 60.0), (6.0, 40.0, 40.0)])
@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_no_window_is_larger_than_the_image(shape: tuple[float, ...], factor: float) -> None:
    """Where a coarse stage is demanded: else so small an image is seen in one look."""
    fingerprint = a_fingerprint(spacing=(factor,) * len(shape), shape=shape, n_landmarks=6)
    two = {NAME: CoarseToFinePlanner({"coarse": "heatmap"})}
    c = plan_dataset(PlanRequest.of(fingerprint, "cpu"), two, plans_name="two").configurations[NAME]
    assert c.previous_stage is not None and all(n <= size for n, size in zip(c.patch_size, shape, strict=True))
    assert all(a <= b for a, b in zip(c.windows.least_side or (), c.patch_size, strict=True))
    assert all(n // o >= 3 for n, o in zip(c.patch_size, c.architecture.output_stride, strict=True))


@pytest.mark.parametrize("group", [False, True])
def test_a_plan_stays_within_the_memory_target_or_is_refused(group: bool) -> None:
    """Windows a step are given up first, or features where all windows are seen together; 0.02 GiB are too few."""
    groups = (CoSliceGroup(0, ("L0", "L1"), ""),) if group else ()
    fingerprint = turned(spacing=(6.0, 0.5, 0.5), shape=(20.0, 200.0, 200.0), co_slice_groups=groups)
    budget, full = usable_bytes("cpu", 0.15), fine(fingerprint)
    planned = plans(fingerprint, memory_target_gb=0.15).configurations[NAME]
    assert memory_of(fingerprint, planned, "cpu", planned.batch_size).total <= budget
    if group:
        assert planned.architecture.features_per_stage < full.architecture.features_per_stage
    else:
        assert (planned.windows.per_sample or 0) < WINDOWS[1] and "fit the memory" in planned.why["windows.per_sample"]
    draft = dataclasses.replace(planned, patch_size=planned.windows.least_side or ())
    with pytest.raises(AutolmkError, match="smallest windows of the fine stage do not fit"):
        _fitting(fingerprint, draft, "cpu", usable_bytes("cpu", 0.005))


def test_the_fit_of_a_loose_shape_is_trusted_less() -> None:
    assert (
        window_rules.pose_error(turned(shape_residual=9.0))[0]
        > window_rules.pose_error(POSED)[0]
        == window_rules.POSE_FLOOR
    )


def test_the_planner_keeps_the_contract() -> None:
    check_planner(CoarseToFinePlanner)
