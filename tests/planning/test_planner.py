"""Plans from literal fingerprints: every planned number follows its cause, and says why."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fingerprints import a_fingerprint, at, statistics
from scipy.spatial.transform import Rotation

from autolmk.cli import plan_experiment
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, to_json
from autolmk.fingerprint import CaseGeometry, Fingerprint, MirrorPlane, Pose
from autolmk.fingerprint.landmark_statistics import CoSliceGroup
from autolmk.geometry import Geometry
from autolmk.planners.heatmap import HeatmapPlanner
from autolmk.planning import rules, window_rules
from autolmk.planning.planner import (
    PRESETS,
    PlanRequest,
    expected_seconds,
    memory_of,
    plan_dataset,
    planner_class,
    usable_bytes,
)
from autolmk.planning.window_search import Search, first_true
from autolmk.plans import Configuration, Normalization, Plans, SliceGroup
from autolmk.testing import check_planner

BASE = a_fingerprint()
MOUSE = a_fingerprint(
    spacing=(0.282, 0.282, 0.282),
    shape=(77.0, 85.0, 85.0),
    max_extent=(23.4, 35.25, 35.25),
    n_landmarks=45,
    nearest=1.57,
    rotation=(150.0, 120.0, 130.0),
    n_cases=36,
)
WING = a_fingerprint(
    spacing=(1.0, 1.0), shape=(480.0, 632.0), n_landmarks=12, nearest=43.0, rotation=(4.0,), unit="px", n_cases=38
)
BODY = a_fingerprint(spacing=(0.8, 0.8, 0.8), shape=(300.0, 512.0, 512.0), n_landmarks=20, nearest=25.0)


def plan(fingerprint: Fingerprint, **arguments: Any) -> Plans:
    arguments = {"preset": "XS", "device": "cpu", **arguments}
    return plan_dataset(
        PlanRequest.of(fingerprint, **arguments), {"heatmap": HeatmapPlanner()}, plans_name="autolmkPlans"
    )


MADE: dict[str, Plans] = {}


def plan_once(fingerprint: Fingerprint, **arguments: Any) -> Plans:
    """`plan`, remembered: many tests look at the same plans."""
    key = json.dumps([to_json(fingerprint), arguments])
    if key not in MADE:
        MADE[key] = plan(fingerprint, **arguments)
    return MADE[key]


def heatmap(fingerprint: Fingerprint, **arguments: Any) -> Configuration:
    return plan_once(fingerprint, **arguments).configurations["heatmap"]


def posed(**changes: Any) -> Fingerprint:
    return dataclasses.replace(BASE, pose=dataclasses.replace(BASE.pose, **changes))


def brighter(**changes: Any) -> Fingerprint:
    intensity = (dataclasses.replace(BASE.intensity[0], **changes),)
    return dataclasses.replace(BASE, channel_names=("CT",), intensity=intensity)


def symmetric(normal: tuple[float, ...] = (1.0, 0.0, 0.0), complete: bool = True) -> Fingerprint:
    return dataclasses.replace(BASE, mirror=MirrorPlane(normal, 0.5, complete))


CT = brighter()
LARGE = a_fingerprint(shape=(500.0, 500.0, 500.0))
ON_A_GPU = {"preset": "S", "device": "cuda"}
CAUSES: dict[str, tuple[Any, Any]] = {  # number -> (fingerprint or arguments before, after); None: BASE on XS
    "data_identifier": (None, a_fingerprint(spacing=(1.5, 1.5, 1.5))),
    "spacing": (None, a_fingerprint(spacing=(1.5, 1.5, 1.5))),
    "patch_size": (None, a_fingerprint(shape=(30.0, 60.0, 60.0))),
    "batch_size": (None, a_fingerprint(shape=(30.0, 30.0, 30.0))),
    "normalization.0.scheme": (None, CT),
    "normalization.0.mean": (CT, brighter(foreground_mean=50.0)),
    "normalization.0.std": (CT, brighter(std=10.0)),
    "normalization.0.low": (CT, brighter(percentile_00_5=5.0)),
    "normalization.0.high": (CT, brighter(percentile_99_5=200.0)),
    "windows.kind": (None, LARGE),
    "windows.elsewhere": (None, LARGE),
    "windows.order": (None, WING),
    "windows.holding": (LARGE, a_fingerprint(shape=(200.0, 500.0, 500.0))),
    "architecture.features_per_stage": (None, a_fingerprint(shape=(30.0, 30.0, 30.0))),
    "architecture.kernel_sizes": (None, a_fingerprint(spacing=(2.5, 1.0, 1.0), shape=(24.0, 60.0, 60.0))),
    "architecture.strides": (None, a_fingerprint(spacing=(2.5, 1.0, 1.0), shape=(24.0, 60.0, 60.0))),
    "architecture.n_conv_per_stage": (None, a_fingerprint(shape=(30.0, 30.0, 30.0))),
    "architecture.n_conv_per_stage_decoder": (None, a_fingerprint(shape=(30.0, 30.0, 30.0))),
    "architecture.output_stride": (None, a_fingerprint(n_landmarks=500)),
    "architecture.residual": (None, {"preset": "L", "device": "cuda"}),
    "sigma": (None, a_fingerprint(nearest=2.2)),
    "shape_prior": (None, a_fingerprint(n_landmarks=7)),
    "co_slice": (None, a_fingerprint(co_slice_groups=(CoSliceGroup(0, ("L0", "L1"), "slices"),))),
    "augmentation.rotation": (None, posed(rotation=(12.0, 8.0, 30.0))),
    "augmentation.scale": (None, posed(scale=(0.7, 1.3))),
    "augmentation.translation": (None, posed(translation=(9.0, 9.0, 12.0))),
    "augmentation.mirror_axis": (None, symmetric()),
    "augmentation.intensity": (None, CT),
    "augmentation.stretch": (None, dataclasses.replace(BASE, n_cases=5)),
    "schedule.epochs": (None, {"preset": "S", "device": "cuda"}),
    "schedule.iterations_per_epoch": (None, dataclasses.replace(BASE, n_cases=400)),
    "schedule.max_seconds": (None, {"preset": "S", "device": "cuda"}),
    "schedule.learning_rate": (None, {"preset": "S", "device": "cuda"}),
    "schedule.ema_decay": (None, ON_A_GPU),
}
THE_SAME_EVERYWHERE = {  # of the method, or of all presets
    "trainer",
    "windows.exact",
    "windows.low_pass",
    "schedule.weight_decay",
    "schedule.validation_share",
    "schedule.rate",
    "label_maps",
    "previous_stage",
    "options",
    "why",
}
OF_WINDOWS_A_LANDMARK = {
    f"windows.{name}" for name in ("per_sample", "pose", "rounds", "jitter", "least_side", "groups", "drawn", "search")
}


def planned(cause: Any) -> Configuration:
    if cause is None:
        return heatmap(BASE)
    return heatmap(BASE, **cause) if isinstance(cause, dict) else heatmap(cause)


@pytest.mark.parametrize("number", CAUSES)
def test_a_number_moves_with_its_cause(number: str) -> None:
    before, after = CAUSES[number]
    assert at(number)(planned(before)) != at(number)(planned(after))


def test_no_number_of_a_configuration_is_left_out() -> None:
    def leaves(value: Any, path: str = "") -> set[str]:
        if dataclasses.is_dataclass(value):
            return {p for f in dataclasses.fields(value) for p in leaves(getattr(value, f.name), f"{path}.{f.name}")}
        if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            return leaves(value[0], f"{path}.0")
        return {path.lstrip(".")}

    assert leaves(heatmap(BASE)) == set(CAUSES) | THE_SAME_EVERYWHERE | OF_WINDOWS_A_LANDMARK


def test_every_number_has_a_reason() -> None:
    why = heatmap(BASE).why
    for number in CAUSES:
        parts = number.split(".")
        known = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        assert number == "data_identifier" or any(why.get(key) for key in known), f"no reason for {number}"


# -- landmarks that share a slice -------------------------------------------------------------------------------------


def sliced(*orientations: str, axis: int = 0) -> Fingerprint:
    cases = {f"case{i}": CaseGeometry((9, 9, 9), (1.0, 1.0, 1.0), o, 0.0) for i, o in enumerate(orientations)}
    return a_fingerprint(cases=cases, co_slice_groups=(CoSliceGroup(axis, ("L0", "L3"), "sagittal slices"),))


@pytest.mark.parametrize("turn", list(itertools.permutations(range(3))))
def test_the_axis_of_a_group_is_that_of_the_canonical_image(turn: tuple[int, int, int]) -> None:
    matrix = Rotation.from_rotvec((0.1, -0.2, 0.15)).as_matrix() @ np.diag((1.0, -1.0, 1.0))[:, list(turn)]
    geometry = Geometry.from_parts((5, 6, 7), (3.0, 1.0, 2.0), direction=matrix)
    canonical = geometry.canonical()
    for axis in range(3):
        ((group,), why) = window_rules.slice_groups(sliced(geometry.orientation(), axis=axis))
        assert group.landmarks == ("L0", "L3") and why == "L0, L3 share one of the sagittal slices"
        across = geometry.direction[:, axis] @ canonical.direction[:, group.axis]
        assert abs(across) == pytest.approx(1.0)


def test_groups_whose_slices_lie_differently_from_case_to_case_are_left_out() -> None:
    one, other = "LPS", "SLP"  # slices across z, or across y
    found, _ = window_rules.slice_groups(sliced(*[one] * 19, other))
    assert [group.axis for group in found] == [0]
    found, why = window_rules.slice_groups(sliced(*[one] * 18, other, other))
    assert found == () and "90% of the cases alone: left out" in why
    assert window_rules.slice_groups(BASE) == ((), "no landmarks share a slice of the images")


def test_plans_hold_the_groups_and_refuse_strangers() -> None:
    plans = plan(sliced("LPS"))
    assert plans.co_slice_groups == (SliceGroup(0, ("L0", "L3")),) and "sagittal" in plans.why["co_slice_groups"]
    assert plans.configurations["heatmap"].co_slice and not heatmap(BASE).co_slice
    assert Plans.parse(json.loads(json.dumps(to_json(plans)))) == plans
    for group, message in (
        (SliceGroup(0, ("L0", "Ear")), "Ear, which are no"),
        (SliceGroup(3, ("L0",)), "from 0 to 2"),
    ):
        with pytest.raises(AutolmkError, match=f"co_slice_groups: .*{message}"):
            Plans.parse(json.loads(json.dumps(to_json(dataclasses.replace(plans, co_slice_groups=(group,))))))


# -- the datasets that the rules were made for ------------------------------------------------------------------------


def test_a_small_volume_in_any_pose_is_looked_at_whole_at_twice_its_spacing() -> None:
    c = heatmap(MOUSE)
    assert c.windows.kind == "whole"
    assert c.patch_size == (64, 64, 64)
    assert c.spacing == pytest.approx((0.562,) * 3, rel=0.01)
    assert c.augmentation.rotation == (180.0,) * 3
    assert c.architecture.output_stride == (2, 2, 2)
    assert (c.batch_size, c.schedule.max_seconds) == (1, 1500.0)


def test_a_photograph_is_looked_at_whole_on_a_laptop() -> None:
    c = heatmap(WING)
    assert c.windows.kind == "whole"
    assert all(192 <= n <= 320 for n in c.patch_size)
    assert all(n * s >= e for n, s, e in zip(c.patch_size, c.spacing, WING.max_extent, strict=True))
    assert c.batch_size == 4


def test_a_body_scan_is_looked_at_in_windows_that_see_half_of_it() -> None:
    c = heatmap(BODY, preset="M", device="cuda")
    assert c.windows.kind == "random"
    seen = [n * s / e for n, s, e in zip(c.patch_size, c.spacing, BODY.median_extent, strict=True)]
    assert 0.5 <= min(seen) < 0.6
    assert 0.8 < c.spacing[0] < 2.0


def test_more_memory_brings_a_finer_look() -> None:
    little, much = (heatmap(BODY, memory_target_gb=gb) for gb in (0.3, 1.0))
    assert little.windows.kind == much.windows.kind == "random"
    assert min(much.spacing) < min(little.spacing)


# -- single rules -----------------------------------------------------------------------------------------------------


def test_coarsening_never_brings_landmarks_closer_than_two_output_voxels() -> None:
    far, near = a_fingerprint(shape=(150.0,) * 3), a_fingerprint(shape=(150.0,) * 3, nearest=3.0)
    assert heatmap(far).windows.kind == "whole"
    crowded = heatmap(near)
    assert crowded.windows.kind == "random"
    assert max(crowded.spacing) * 2 <= 3.0
    assert max(far_step := heatmap(far).spacing) > 1.5, far_step


def test_a_large_pose_spread_prefers_the_whole_image() -> None:
    upright = a_fingerprint(shape=(330.0,) * 3, nearest=40.0)
    tumbled = dataclasses.replace(upright, pose=dataclasses.replace(upright.pose, rotation=(90.0,) * 3))
    assert heatmap(upright).windows.kind == "random"
    assert heatmap(tumbled).windows.kind == "whole"


def test_one_huge_image_does_not_set_the_scale() -> None:
    assert rules.extents_to_cover(a_fingerprint(max_extent=(400.0, 70.0, 60.0)), (10.0,) * 3)[0] == (90.0, 70.0, 60.0)


def test_axes_that_rotation_exchanges_are_covered_alike() -> None:
    flat = a_fingerprint(shape=(30.0, 60.0, 50.0))
    assert rules.extents_to_cover(flat, (10.0, 10.0, 10.0))[0] == (30.0, 60.0, 50.0)
    assert rules.extents_to_cover(flat, (10.0, 10.0, 180.0))[0] == (30.0, 60.0, 60.0)  # about z: x and y
    assert rules.extents_to_cover(flat, (180.0, 10.0, 10.0))[0] == (60.0, 60.0, 50.0)  # about x: y and z


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slices_of_volumes_turn_in_their_plane_whichever_way_it_lies(axis: int) -> None:
    rotation = tuple(180.0 if a == axis else 10.0 for a in range(3))
    slices = a_fingerprint(
        spacing=(1.0, 1.0), shape=(60.0, 30.0), physical_ndim=3, pose=Pose(40, rotation, 180.0, (1.0, 1.0), (9.0,) * 3)
    )
    assert rules.extents_to_cover(slices, rotation)[0] == (60.0, 60.0)
    assert rules.extents_to_cover(slices, (10.0,) * 3)[0] == (60.0, 30.0)
    planned = heatmap(slices)
    assert planned.patch_size[0] == planned.patch_size[1]
    assert not planned.shape_prior and "slices" in planned.why["shape_prior"]


def test_spacing_takes_the_finer_percentile_on_a_strongly_anisotropic_axis() -> None:
    thick = a_fingerprint(spacing=(6.0, 1.0, 1.0), shape=(30.0, 200.0, 200.0), spacing_percentile_10=(3.0, 1.0, 1.0))
    assert rules.finest_spacing(thick)[0] == (3.0, 1.0, 1.0)
    mild = a_fingerprint(spacing=(2.0, 1.0, 1.0), shape=(30.0, 200.0, 200.0), spacing_percentile_10=(1.5, 1.0, 1.0))
    assert rules.finest_spacing(mild)[0] == (2.0, 1.0, 1.0)


def test_spacing_can_be_demanded() -> None:
    c = heatmap(MOUSE, spacing=(0.4, 0.3, 0.3))
    assert c.spacing == (0.4, 0.3, 0.3)
    assert c.windows.kind == "random"
    assert c.why["spacing"] == "as demanded"


@pytest.mark.parametrize("output_spacing", [(0.5, 0.5, 0.5), (5.0, 1.0, 1.0), (2.0, 2.0)])
@pytest.mark.parametrize("nearest", [0.1, 3.0, 1000.0])
def test_heatmaps_are_never_narrower_than_three_quarters_of_an_output_voxel(
    output_spacing: tuple[float, ...], nearest: float
) -> None:
    sigma, _ = rules.heatmap_sigma(a_fingerprint(nearest=nearest), output_spacing, output_spacing)
    assert all(g >= 0.75 * s for g, s in zip(sigma, output_spacing, strict=True))
    assert all(g <= max(1.5 * min(output_spacing), 0.75 * s) for g, s in zip(sigma, output_spacing, strict=True))


def test_a_single_landmark_has_no_neighbour() -> None:
    lonely = dataclasses.replace(a_fingerprint(n_landmarks=1), landmark_statistics={"L0": statistics(None)})
    assert math.isinf(rules.nearest_distance(lonely))
    assert rules.heatmap_sigma(lonely, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))[0] == (1.5, 1.5, 1.5)
    assert heatmap(lonely).windows.kind == "whole"


def test_rotation_has_a_margin_a_floor_and_any_angle() -> None:
    assert rules.rotation_range(posed(rotation=(0.0, 20.0, 100.0)))[0] == (10.0, 25.0, 180.0)
    assert rules.rotation_range(posed(n_cases=0, rotation=(0.0, 0.0, 0.0)))[0] == (30.0, 30.0, 30.0)


def test_translation_is_in_physical_order_and_bounded_by_the_window() -> None:
    ranges, _ = rules.translation_range(posed(translation=(1.0, 8.0, 100.0)), (3.0, 1.0, 1.0), (96.0, 64.0, 64.0))
    assert ranges == (2.0, 4.0, 12.0)  # x: 2 voxels; y: half; z: an eighth of 96


def test_augmentation_is_as_much_wider_where_cases_are_few_as_a_t_quantile_says() -> None:
    """Of a spread of 1 the next of 5 cases lies within 2.776 sqrt(1.2) = 3.04, that of many within 1.96; from 20 cases
    on plans are as if they were many."""
    seen = {"rotation": (4.0, 20.0, 100.0), "scale": (0.8, 1.3), "translation": (0.1, 8.0, 100.0)}
    grid = ((1.0, 1.0, 1.0), (64.0, 64.0, 64.0))
    many, why_many = rules.augmentation(posed(n_cases=20, **seen), *grid)
    assert (many, why_many) == rules.augmentation(posed(n_cases=400, **seen), *grid)
    few, why_few = rules.augmentation(posed(n_cases=5, **seen), *grid)
    assert few.rotation == (10.0, round(25 * 1.552, 1), 180.0)
    assert few.scale == (round(0.8**1.552 * 0.95, 4), round(1.3**1.552 * 1.05, 4))
    assert few.translation == (2.0, round(4 * 1.552, 4), 8.0)
    for key in ("rotation", "scale", "translation"):
        why = why_few[f"augmentation.{key}"]
        assert why.startswith(why_many[f"augmentation.{key}"]) and "1.55 times, as 5 cases" in why
    assert [rules.widening(n)[0] for n in (2, 3, 4, 10, 19, 20)] == [2.0, 2.0, 1.815, 1.211, 1.1, 1.0]


def test_shapes_are_stretched_where_cases_are_few() -> None:
    found = [rules.stretch_range(dataclasses.replace(BASE, n_cases=n))[0] for n in (2, 5, 10, 19, 20, 400)]
    assert found == [0.1, 0.1, 0.042, 0.02, 0.0, 0.0]


def test_windows_of_few_cases_cover_what_they_show() -> None:
    """Not what augmentation adds, so that voxels are not coarser because cases are few."""
    few, many = (posed(n_cases=n, rotation=(30.0, 30.0, 30.0)) for n in (5, 40))
    assert heatmap(few).augmentation.rotation[0] > rules.ANY_POSE > heatmap(many).augmentation.rotation[0]
    assert (heatmap(few).patch_size, heatmap(few).spacing) == (heatmap(many).patch_size, heatmap(many).spacing)


def test_mirroring_needs_a_complete_plane_near_an_image_axis() -> None:
    assert rules.mirror_axis_of(symmetric(), (10.0,) * 3)[0] == 0
    assert rules.mirror_axis_of(symmetric((0.0, 0.1, 0.99)), (20.0,) * 3)[0] == 2
    assert rules.mirror_axis_of(symmetric(complete=False), (10.0,) * 3)[0] is None
    assert rules.mirror_axis_of(BASE, (10.0,) * 3)[0] is None
    oblique = symmetric((math.sqrt(0.5), math.sqrt(0.5), 0.0))
    assert rules.mirror_axis_of(oblique, (10.0,) * 3)[0] is None
    assert rules.mirror_axis_of(oblique, (180.0,) * 3)[0] in (0, 1)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("T1", "foreground"),
        ("zscore", "zscore"),
        ("noNorm", "none"),
        ("rescale_to_0_1", "robust_rescale"),
        ("rgb_to_0_1", "rgb"),
    ],
)
def test_normalization_goes_by_channel_name(name: str, scheme: str) -> None:
    assert rules.normalizations(dataclasses.replace(BASE, channel_names=(name,)))[0][0].scheme == scheme


@pytest.mark.parametrize(
    ("share", "scheme"), [(1.0, "foreground"), (0.8, "foreground"), (0.7, "robust"), (0.0, "robust")]
)
def test_the_foreground_counts_where_most_cases_show_it(share: float, scheme: str) -> None:
    intensity = (dataclasses.replace(BASE.intensity[0], told_apart=share),)
    (found,), why = rules.normalizations(dataclasses.replace(BASE, intensity=intensity))
    assert found == Normalization(scheme, low=10.0, high=90.0)  # type: ignore[arg-type]
    assert f"{share:.0%} of the cases" in why


@pytest.mark.parametrize(
    ("unexplained", "scheme"), [((0.2, 0.3), "foreground"), ((0.3, 0.3), "foreground"), ((0.4, 0.3), "robust")]
)
def test_the_foreground_counts_where_landmarks_then_look_alike(unexplained: tuple[float, float], scheme: str) -> None:
    intensity = (dataclasses.replace(BASE.intensity[0], told_apart=1.0, unexplained=unexplained),)
    (found,), why = rules.normalizations(dataclasses.replace(BASE, intensity=intensity))
    assert found.scheme == scheme and f"{unexplained[0]:.2f} of the variance" in why


def test_epochs_are_long_enough_for_validation_to_be_cheap() -> None:
    short = rules.iterations_per_epoch(BASE, 1, 1, False, 0.1, 50)[0]
    tiled = rules.iterations_per_epoch(BASE, 27, 1, False, 0.1, 50)[0]
    mirrored = rules.iterations_per_epoch(BASE, 27, 1, True, 0.1, 50)[0]
    larger_batch = rules.iterations_per_epoch(BASE, 27, 4, False, 0.1, 50)[0]
    assert short < larger_batch < tiled < mirrored
    assert tiled * 0.1 / 0.9 >= 8 * 27 * 2 / 3  # 8 cases are held out


def test_tiles_overlap_by_half() -> None:
    assert rules.tiles((100.0, 100.0), (100.0, 50.0)) == 3
    assert rules.tiles((100.0,), (64.0,)) == 3
    assert rules.tiles((10.0,), (64.0,)) == 1


def test_preprocessed_data_of_other_voxels_lies_in_another_folder() -> None:
    spacing, zscore, ct = (0.5, 0.25, 0.25), Normalization("zscore"), Normalization("ct", 40.0, 10.0, 0.0, 90.0)
    name = rules.data_identifier(spacing, (zscore,))
    assert name == rules.data_identifier(spacing, (Normalization("zscore"),)) and name.startswith(
        "spacing_0.5x0.25x0.25_"
    )
    others = [
        rules.data_identifier((0.5001, 0.25, 0.25), (zscore,)),  # a difference that three digits do not show
        rules.data_identifier(spacing, (ct,)),
        rules.data_identifier(spacing, (dataclasses.replace(ct, high=91.0),)),
        rules.data_identifier(spacing, (zscore, zscore)),
    ]
    assert len({name, *others}) == 5
    assert heatmap(BASE).data_identifier != heatmap(CT).data_identifier


def test_first_true() -> None:
    for count in range(6):
        for first in range(count + 1):
            expected = first if first < count else None
            assert first_true(count, lambda i, first=first: i >= first) == expected  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fingerprint", "preset", "device"), [(MOUSE, "XS", "cpu"), (WING, "XS", "cpu"), (BODY, "M", "cuda")]
)
def test_what_is_found_by_halving_is_what_trying_all_finds(
    fingerprint: Fingerprint, preset: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []

    def exhaustive(count: int, holds: Callable[[int], bool]) -> int | None:
        searched.append(count)
        if len(searched) > 3:  # one search of each kind: whole, random, and the largest window within it
            return first_true(count, holds)
        held = [holds(i) for i in range(count)]
        assert held == sorted(held), "once a step fits or sees enough, all coarser or smaller ones do"
        assert first_true(count, holds) == (held.index(True) if any(held) else None)
        return first_true(count, holds)

    monkeypatch.setattr("autolmk.planning.window_search.first_true", exhaustive)
    budget = usable_bytes(device, PRESETS[preset].memory_gb)
    Search("heatmap", fingerprint, PRESETS[preset], device, budget).best(None)
    assert max(searched) > 20


def test_the_average_of_weights_follows_the_length_of_training() -> None:
    assert [rules.ema_decay(steps)[0] for steps in (300, 3000, 15000, 30000, 300000)] == [
        *(0.99, 0.99, 0.998),
        *(0.999, 0.999),  # at most 1000 steps: where S to XL are, whose epochs have a least length, with any dataset
    ]
    for name, preset in PRESETS.items():
        assert (preset.max_seconds is None) == (name != "XS")
        assert name == "XS" or preset.epochs * preset.iterations_least >= 30000


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fingerprint", "preset"),
    [(BASE, "XS"), (MOUSE, "XS"), (WING, "XS"), (BODY, "M"), (WING, "M"), (BASE, "L")],
    ids=lambda value: value if isinstance(value, str) else value.dataset_name,
)
def test_plans_fill_their_memory_and_no_more(fingerprint: Fingerprint, preset: str) -> None:
    device = "cpu" if preset == "XS" else "cuda"
    plans = plan_once(fingerprint, preset=preset, device=device)
    c = plans.configurations["heatmap"]
    budget = usable_bytes(device, plans.memory_target_gb)
    assert memory_of(fingerprint, c, device, c.batch_size).total <= budget
    bounded = c.batch_size >= min(PRESETS[preset].batch_most, fingerprint.n_cases // 2)
    if not bounded:
        assert memory_of(fingerprint, c, device, c.batch_size + 1).total > budget


def test_many_landmarks_give_another_plan_than_few() -> None:
    few, many = (heatmap(a_fingerprint(shape=(120.0, 160.0, 160.0), n_landmarks=n)) for n in (5, 120))
    assert (few.patch_size, few.batch_size, few.architecture) != (many.patch_size, many.batch_size, many.architecture)


def test_a_target_that_nothing_fits_is_an_error() -> None:
    with pytest.raises(AutolmkError, match="not even a small window fits"):
        plan(BODY, memory_target_gb=0.01)


# -- plans ------------------------------------------------------------------------------------------------------------


def test_planning_is_pure() -> None:
    assert plan_once(MOUSE) == plan(from_json(Fingerprint, to_json(MOUSE)))


def test_plans_survive_json() -> None:
    plans = plan_once(WING)
    assert Plans.parse(to_json(plans)) == plans
    assert plans.unit == "px"


def test_default_preset_follows_the_device_and_says_so() -> None:
    cpu, cuda = plan(BASE, preset=None), plan(BASE, preset=None, device="cuda")
    assert (cpu.preset, cuda.preset) == ("XS", "M")
    assert "without CUDA" in cpu.why["preset"]
    assert (cpu.memory_target_gb, cuda.memory_target_gb) == (0.3, 8.0)
    assert plan(BASE, memory_target_gb=0.5).memory_target_gb == 0.5


def test_sometimes_absent_landmarks_and_pairs_are_handed_on() -> None:
    seen = {**BASE.landmark_statistics, "L3": statistics(n_absent=4)}
    plans = plan(dataclasses.replace(BASE, landmark_statistics=seen, pairs=(("L0", "L1"),)))
    assert plans.sometimes_absent == ("L3",)
    assert plans.pairs == (("L0", "L1"),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "XXL"}, "did you mean 'XL'"),
        ({"device": "tpu"}, "cpu or cuda"),
        ({"memory_target_gb": 0.0}, "must be positive"),
        ({"spacing": (1.0, 1.0)}, "does not fit the images"),
        ({"spacing": (1.0, 0.0, 1.0)}, "does not fit the images"),
    ],
)
def test_wrong_wishes_are_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AutolmkError, match=message):
        plan(BASE, **changes)


def test_a_dataset_without_cases_cannot_be_planned() -> None:
    with pytest.raises(AutolmkError, match="nothing to plan for"):
        plan(dataclasses.replace(BASE, n_cases=0))


def test_two_planners_may_not_share_a_configuration() -> None:
    planners = {"heatmap": HeatmapPlanner(), "again": HeatmapPlanner()}
    with pytest.raises(AutolmkError, match="name a configuration alike"):
        plan_dataset(PlanRequest.of(BASE, "cpu"), planners, plans_name="p")


def test_expected_duration_is_the_steps_or_the_budget() -> None:
    c = heatmap(BASE)
    endless = dataclasses.replace(c, schedule=dataclasses.replace(c.schedule, max_seconds=None, epochs=10))
    assert expected_seconds(c, 1.0) == 1500.0
    assert expected_seconds(endless, 2.0) == pytest.approx(10 * c.schedule.iterations_per_epoch * 2.0 / 0.9)


def test_the_registry_finds_the_planner() -> None:
    assert planner_class("heatmap") is HeatmapPlanner


# -- commands and pages -----------------------------------------------------------------------------------------------


def places(folder: Path) -> list[str]:
    return [part for name in ("raw", "preprocessed", "results") for part in (f"--{name}", str(folder / name))]


@pytest.fixture
def fingerprinted(tmp_path: Path) -> Path:
    """Folders in which Dataset001_Literal has a fingerprint and nothing else."""
    BASE.save(tmp_path / "preprocessed" / BASE.dataset_name / "dataset_fingerprint.json")
    return tmp_path


def test_planning_command_writes_plans_and_says_what_and_how_long(
    fingerprinted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-d", "1", "-pl", "heatmap", "-device", "cpu", "-overwrite_plans_name", "mine", *places(fingerprinted)]
    assert plan_experiment.main(arguments) == 0
    file = fingerprinted / "preprocessed" / BASE.dataset_name / "mine.json"
    plans = Plans.load(file)
    assert plans.configurations == plan_once(BASE).configurations
    said = capsys.readouterr().out
    assert "preset XS (the default without CUDA)" in said
    assert "about 25 min" in said and "s a step here" in said
    assert str(file) in said


def test_planning_command_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw" / BASE.dataset_name).mkdir(parents=True)
    assert plan_experiment.main(["-d", "1", *places(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "no fingerprint yet" in said and "autolmk_extract_fingerprint -d" in said
    assert not (tmp_path / "preprocessed").exists()


def test_wrong_preset_exits_with_near_names(fingerprinted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_experiment.main(["-d", "1", "--preset", "XXL", *places(fingerprinted)]) == 2
    assert "did you mean 'XL'" in capsys.readouterr().err


def test_the_pace_is_that_of_trainings_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from autolmk.training.state import Run

    batches: list[Any] = []
    real = Run.step
    monkeypatch.setattr(Run, "step", lambda run, batch: (batches.append(batch), real(run, batch))[1])
    plans = plan_once(a_fingerprint(shape=(24.0, 24.0, 24.0), spacing=(1.0, 1.0, 1.0)), device="cpu")
    pace = plan_experiment.seconds_per_step(plans, next(iter(plans.configurations.values())))
    assert pace is not None and 0 < pace < 60 and len(batches) >= 1
    assert batches[0]["data"].shape[2:] == next(iter(plans.configurations.values())).patch_size


def test_a_gpu_without_room_leaves_the_duration_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may use it; planning needs none."""

    import torch

    def full(trainer: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(plan_experiment, "_measured", full)
    plans = plan_once(a_fingerprint(shape=(24.0, 24.0, 24.0), spacing=(1.0, 1.0, 1.0)), device="cpu")
    assert plan_experiment.seconds_per_step(plans, next(iter(plans.configurations.values()))) is None


def test_help_needs_no_torch() -> None:
    code = (
        "import contextlib, sys\n"
        "from autolmk.cli import plan_and_preprocess, plan_experiment\n"
        "for command in (plan_and_preprocess, plan_experiment):\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        command.main(['--help'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_the_template_of_the_documentation_is_a_planner(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "documentation" / "write_a_planner.md").read_text()
    template = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "my_planner.py").write_text(template)
    found = planner_class(f"{tmp_path / 'my_planner.py'}:UprightPlanner")
    check_planner(found, ndims=(2,))
    made = plan_dataset(PlanRequest.of(BASE, "cpu"), {"upright": found()}, plans_name="p")
    assert made.configurations["upright"].augmentation.rotation == (5.0, 5.0, 5.0)


def test_methods_that_do_not_suit_are_left_out_where_nobody_asked_for_them() -> None:
    class Refusing(HeatmapPlanner):
        def plan(self, *arguments: Any, **more: Any) -> dict[str, Configuration]:
            raise AutolmkError("this dataset has no left side")

    both = {"heatmap": HeatmapPlanner(), "refusing": Refusing()}
    made = plan_dataset(PlanRequest.of(BASE, "cpu"), both, plans_name="autolmkPlans", leave_out=True)
    assert list(made.configurations) == ["heatmap"] and made.planner == "heatmap"
    assert made.why["refusing"] == "left out: this dataset has no left side"
    for planners, leave_out in ((both, False), ({"refusing": Refusing()}, True)):
        with pytest.raises(AutolmkError, match="no left side"):
            plan_dataset(PlanRequest.of(BASE, "cpu"), planners, plans_name="autolmkPlans", leave_out=leave_out)
