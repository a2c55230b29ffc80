"""Plans of coarse_to_fine: each number of the fine stage follows its cause; the coarse one is the search of heatmap."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fingerprints import a_fingerprint, at, mean_shape

from autolmk import rules
from autolmk.fingerprint import Fingerprint
from autolmk.landmark_statistics import CoSliceGroup
from autolmk.planner import plan_dataset
from autolmk.planners.coarse_to_fine import COARSE, NAME, CoarseToFinePlanner
from autolmk.planners.heatmap import HeatmapPlanner
from autolmk.plans import Configuration, Plans
from autolmk.testing import check_planner


def turned(**others: Any) -> Fingerprint:
    """Twelve landmarks that tell a pose, which differs."""
    values = {"n_landmarks": 12, "rotation": (40.0, 20.0, 30.0), "mean_shape": mean_shape(12, 3), **others}
    return a_fingerprint(**values)


def plans(fingerprint: Fingerprint, **arguments: Any) -> Plans:
    arguments = {"preset": "XS", "device": "cpu", **arguments}
    return plan_dataset(fingerprint, {NAME: CoarseToFinePlanner()}, plans_name="autolmkPlans", **arguments)


def fine(cause: Any = None) -> Configuration:
    arguments = cause if isinstance(cause, dict) else {}
    return plans(turned() if cause is None or arguments else cause, **arguments).configurations[NAME]


POSED = turned()
LARGE = {"preset": "M", "device": "cuda"}
CAUSES: dict[str, tuple[Any, Any]] = {  # number -> (fingerprint or arguments before, after); None: `turned` on XS
    "spacing": (None, turned(spacing=(1.5, 1.5, 1.5))),
    "data_identifier": (None, turned(spacing=(1.5, 1.5, 1.5))),
    "patch_size": (None, LARGE),
    "batch_size": (None, LARGE),
    "normalization.0.scheme": (None, turned(channel_names=("CT",))),
    "sigma": (None, turned(nearest=1.4)),
    "shape_prior": (None, turned(n_cases=9)),
    "windows.pose": (None, turned(rotation=(2.0, 2.0, 2.0))),
    "architecture.features_per_stage": (None, {"preset": "M", "device": "cuda"}),
    "architecture.kernel_sizes": (None, turned(spacing=(4.0, 1.0, 1.0))),
    "architecture.strides": (None, turned(spacing=(4.0, 1.0, 1.0))),
    "augmentation.rotation": (None, turned(shape_residual=9.0)),
    "augmentation.scale": (None, turned(rotation=(2.0, 2.0, 2.0))),
    "augmentation.intensity": (None, turned(channel_names=("CT",))),
    "schedule.max_seconds": (None, LARGE),
    "schedule.epochs": (None, LARGE),
    "schedule.learning_rate": (None, LARGE),
    "schedule.ema_decay": (None, LARGE),
    "schedule.iterations_per_epoch": (None, turned(n_cases=400)),
}


@pytest.mark.parametrize("number", CAUSES)
def test_a_number_moves_with_its_cause(number: str) -> None:
    before, after = CAUSES[number]
    assert at(number)(fine(before)) != at(number)(fine(after))
    assert any(number.startswith(key) or key.startswith(number.split(".")[0]) for key in fine(before).why)


def test_the_coarse_stage_is_the_heatmaps_plan_with_its_share_of_the_time() -> None:
    both = plans(POSED)
    heatmap = plan_dataset(
        POSED, {"heatmap": HeatmapPlanner()}, plans_name="autolmkPlans", preset="XS", device="cpu"
    ).configurations["heatmap"]
    coarse, last = both.configurations[COARSE], both.configurations[NAME]
    assert both.chain(NAME) == (COARSE, NAME)
    same = {"schedule": heatmap.schedule, "why": heatmap.why}
    assert dataclasses.replace(coarse, **same) == heatmap  # type: ignore[arg-type]
    assert coarse.schedule.max_seconds is not None and last.schedule.max_seconds is not None
    assert coarse.schedule.max_seconds + last.schedule.max_seconds == pytest.approx(heatmap.schedule.max_seconds)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_cases": 5}, "5 cases"),
        ({"n_landmarks": 5, "mean_shape": mean_shape(5, 3)}, "5 landmarks"),
        ({"mean_shape": mean_shape(12, 3, flat=0.01)}, "of a line"),
        ({"co_slice_groups": (CoSliceGroup(0, ("L0", "L1"), ""),)}, "slice by slice"),
        ({"rotation": (1.0, 1.0, 1.0)}, "position is enough"),
    ],
)
def test_windows_follow_the_pose_where_it_can_be_told_and_differs(changes: dict[str, Any], reason: str) -> None:
    follows, why = rules.pose_windows(turned(**changes))
    assert rules.pose_windows(POSED)[0] and not follows and reason in why


def test_the_fit_of_a_loose_shape_is_trusted_less() -> None:
    assert rules.pose_error(turned(shape_residual=9.0))[0] > rules.pose_error(POSED)[0] == rules.POSE_FLOOR


def test_the_planner_keeps_the_contract() -> None:
    check_planner(CoarseToFinePlanner)
