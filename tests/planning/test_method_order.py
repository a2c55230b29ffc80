"""Which method is expected to err least: each rule by the quantity that it is about."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fingerprints import a_fingerprint

from autolmk.cli import plan_experiment
from autolmk.conformance.examples import example_plans
from autolmk.fingerprint import Fingerprint
from autolmk.jobs.workflow import chosen_configurations
from autolmk.planning.method_order import OWN_CASES, in_order, methods, repeated
from autolmk.plans import Configuration, Plans

UNET = example_plans(trainer="heatmap").configurations["example"]
CELLS = dataclasses.replace(UNET.architecture, n_conv_per_stage_decoder=())


def look(spacing: float, **changes: object) -> Configuration:
    """One look at the image."""
    return dataclasses.replace(UNET, spacing=(spacing,) * len(UNET.spacing), why={}, **changes)  # type: ignore[arg-type]


def again(first: str, spacing: float, trainer: str, *, pose: bool = False) -> Configuration:
    windows = dataclasses.replace(UNET.windows, kind="landmark", pose=pose)
    return look(spacing, trainer=trainer, previous_stage=first, windows=windows)


def plans_of(coarse: float, *, pose: bool = False) -> dict[str, Configuration]:
    """Four methods as they are shipped: one look at `coarse`, others look again at 1."""
    return {
        "heatmap": look(coarse),
        "apga": look(coarse, trainer="apga"),
        "coarse_to_fine_coarse": look(coarse),
        "coarse_to_fine": again("coarse_to_fine_coarse", 1.0, "fine", pose=pose),
        "global_to_local_global": look(2 * coarse, trainer="global_cells", architecture=CELLS),
        "global_to_local": again("global_to_local_global", 1.0, "local_cells", pose=pose),
    }


def dataset(n_cases: int = 30, turned: float = 5.0) -> Fingerprint:
    ndim = len(UNET.spacing)
    base = a_fingerprint(spacing=(1.0,) * ndim, shape=(200.0,) * ndim, n_landmarks=8, n_cases=n_cases)
    return dataclasses.replace(base, pose=dataclasses.replace(base.pose, rotation_max=turned))


def order(fingerprint: Fingerprint, configurations: dict[str, Configuration]) -> tuple[str, ...]:
    return methods(in_order(fingerprint, configurations)[0])


def test_finer_looks_come_first_where_one_look_is_coarse() -> None:
    assert order(dataset(), plans_of(2.0)) == ("global_to_local", "coarse_to_fine", "heatmap", "apga")
    assert order(dataset(), plans_of(1.2)) == ("heatmap", "apga", "global_to_local", "coarse_to_fine")


def test_a_shared_network_comes_first_with_few_cases() -> None:
    few = order(dataset(OWN_CASES - 1), plans_of(2.0))
    assert few == ("coarse_to_fine", "global_to_local", "heatmap", "apga")


def test_looks_in_the_landmarks_pose_come_first_where_it_turns() -> None:
    assert order(dataset(turned=90.0), plans_of(1.0, pose=True))[:2] == ("global_to_local", "coarse_to_fine")
    assert order(dataset(turned=10.0), plans_of(1.0, pose=True))[:2] == ("heatmap", "apga")


@pytest.mark.parametrize(("length", "blind"), [(10_000.0, True), (5.0, False)])
def test_who_does_not_see_a_row_comes_last(length: float, blind: bool) -> None:
    """Every field is too short for the long row; of the middle length only cells are, which see least."""
    ndim, base = len(UNET.spacing), dataset()
    points = np.linspace(0, 1, 8)[:, None] * ([0.0] * (ndim - 1) + [length])
    row = dataclasses.replace(base, mean_shape={n: tuple(p) for n, p in zip(base.landmarks, points, strict=True)})
    why = in_order(row, plans_of(2.0))[1]
    assert all(("would tell them apart" in reason) == blind for reason in why.values())
    wide = plans_of(2.0) | {"global_to_local_global": look(0.01, trainer="global_cells", architecture=CELLS)}
    if not blind:
        assert order(row, wide) == ("coarse_to_fine", "heatmap", "apga", "global_to_local")
        assert order(base, wide)[0] == "global_to_local"


def test_stages_stay_before_the_method_and_each_has_a_reason() -> None:
    made, why = in_order(dataset(), plans_of(2.0))
    assert list(made) == [
        "global_to_local_global", "global_to_local", "coarse_to_fine_coarse", "coarse_to_fine", "heatmap", "apga"
    ]  # fmt: skip
    assert list(why) == ["order.1", "order.2", "order.3", "order.4"]
    assert why["order.1"].startswith("global_to_local: looks again") and "2.0 times as coarse" in why["order.3"]
    assert in_order(dataset(), {"heatmap": look(1.0)})[1] == {}


def test_what_is_planned_as_another_method_is_not_trained_twice() -> None:
    """As coarse_to_fine is, where one look at the image is all that it would see."""
    alike = {"heatmap": look(1.0), "coarse_to_fine": look(1.0, shape_prior=True), "apga": look(1.0, trainer="apga")}
    made, why = in_order(dataset(), alike)
    assert repeated(made) == {"coarse_to_fine": "heatmap"} and repeated(plans_of(2.0)) == {}
    assert why["order.2"] == "coarse_to_fine: planned as heatmap is, so one of them is enough"
    plans = dataclasses.replace(example_plans(trainer="heatmap"), configurations=made, why=why)
    assert chosen_configurations(plans, None) == ("heatmap", "apga")
    assert chosen_configurations(plans, ["coarse_to_fine"]) == ("coarse_to_fine",)
    assert chosen_configurations(dataclasses.replace(plans, why={}), None) == tuple(made)


def test_plans_keep_their_order_and_print_it(tmp_path: Path) -> None:
    """Older plans say nothing, and stay as they were written."""
    plans = example_plans(trainer="heatmap")
    old = dataclasses.replace(plans, configurations={"b": UNET, "a": UNET}, why={})
    old.save(tmp_path / "old.json")
    assert methods(Plans.load(tmp_path / "old.json").configurations) == ("b", "a")
    assert plan_experiment.expected_order(old) == []
    new = dataclasses.replace(old, why={"order.1": "b: finer", "order.2": "a: coarser"})
    assert plan_experiment.expected_order(new)[1:] == ["  1. b: finer", "  2. a: coarser"]
