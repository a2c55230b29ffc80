"""`--set` of the planning commands: options of planners, which configurations they lead to, and what is refused."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from fingerprints import a_fingerprint, mean_shape

from autolmk.cli.plan_experiment import planners
from autolmk.errors import AutolmkError
from autolmk.fingerprint import CoSliceGroup, Fingerprint
from autolmk.methods.registry import PLANNERS
from autolmk.methods.trainer import trainer_class
from autolmk.planners.coarse_to_fine import COARSE, NAME, CoarseToFinePlanner
from autolmk.planning.planner import PRESETS, Planner, PlanRequest, memory_of, plan_dataset, usable_bytes
from autolmk.plans import Plans
from autolmk.trainers.coarse_to_fine import CoordinateTrainer, FineTrainer

COARSE_KINDS: tuple[Literal["heatmap", "coordinates"], ...] = ("heatmap", "coordinates")


def plan(fingerprint: Fingerprint, **options: str) -> Plans:
    made = {NAME: CoarseToFinePlanner(options)}
    return plan_dataset(PlanRequest.of(fingerprint, "cpu"), made, plans_name="autolmkPlans")


FEW = a_fingerprint(n_cases=6, n_landmarks=4)
MANY = a_fingerprint(n_cases=400, n_landmarks=20, mean_shape=mean_shape(20, 3), rotation=(5.0, 5.0, 5.0))
PICTURES = a_fingerprint(spacing=(1.0, 1.0), shape=(300.0, 260.0), n_cases=12)


@pytest.mark.parametrize("fingerprint", [FEW, MANY, PICTURES], ids=["few", "many", "pictures"])
@pytest.mark.parametrize("kind", COARSE_KINDS)
def test_what_the_coarse_stage_learns_is_chosen_on_any_dataset(fingerprint: Fingerprint, kind: str) -> None:
    coarse = plan(fingerprint, coarse=kind).configurations[COARSE]
    assert coarse.trainer == kind and coarse.why["trainer"] == f"{kind}, as demanded (--set coarse)"


@pytest.mark.parametrize("fingerprint", [FEW, MANY, PICTURES], ids=["few", "many", "pictures"])
@pytest.mark.parametrize("weights", ["own", "shared"])
def test_own_or_shared_networks_are_chosen_on_any_dataset(fingerprint: Fingerprint, weights: str) -> None:
    plans = plan(fingerprint, weights=weights)
    fine = plans.configurations[NAME]
    assert fine.options["weights"] == weights and fine.why["options.weights"].startswith(f"{weights}, as demanded")
    assert (fine.windows.per_sample is None) == (weights == "own")
    trainer = trainer_class(fine.trainer)(plans, fine)
    assert isinstance(trainer, FineTrainer) and trainer.build_network() is not None
    budget = usable_bytes("cpu", PRESETS["XS"].memory_gb)
    assert memory_of(fingerprint, fine, "cpu", fine.batch_size).total <= budget


def test_coordinates_see_the_whole_image_however_coarse_and_say_where_that_cannot_be() -> None:
    huge = a_fingerprint(shape=(700.0, 500.0, 600.0))
    coarse = plan(huge, coarse="coordinates").configurations[COARSE]
    assert coarse.trainer == "coordinates" and coarse.windows.kind == "whole"
    assert all(n * s >= 500 for n, s in zip(coarse.patch_size, coarse.spacing, strict=True))
    plans = plan(huge, coarse="coordinates")
    assert isinstance(trainer_class("coordinates")(plans, coarse), CoordinateTrainer)
    with pytest.raises(AutolmkError, match=r"whole image|small(est)? window"):
        made = CoarseToFinePlanner({"coarse": "coordinates", "weights": "shared"})
        made.plan(PlanRequest(huge, "XS", "cpu", 0.01))


@pytest.mark.parametrize("preset", ["XS", "M"])
@pytest.mark.parametrize("landmarks", [1, 8])
@pytest.mark.parametrize("ndim", [2, 3])
def test_coordinates_of_small_images_keep_stages_to_learn_with(ndim: int, landmarks: int, preset: str) -> None:
    """Where landmarks are far apart, or there is one alone, only the network bounds how coarse the image may be."""
    near = {} if landmarks > 1 else {"nearest": None}
    small = a_fingerprint(spacing=(1.0,) * ndim, shape=(36.0,) * ndim, n_landmarks=landmarks, **near)
    request = PlanRequest.of(small, "cpu", preset=preset)
    coarse = CoarseToFinePlanner({"coarse": "coordinates"}).plan(request)[COARSE]
    assert coarse.windows.kind == "whole" and len(coarse.architecture.strides) >= 2
    assert min(coarse.spacing) < 1.2


def test_images_too_small_for_coordinates_are_refused_or_take_heatmaps() -> None:
    tiny = a_fingerprint(shape=(4.0, 4.0, 4.0), n_cases=400, rotation=(5.0,) * 3)
    with pytest.raises(AutolmkError, match="coarse=heatmap"):
        plan(tiny, coarse="coordinates")
    coarse = plan(tiny, weights="own").configurations[COARSE]
    assert coarse.trainer == "heatmap" and "too few voxels" in coarse.why["trainer"]


# -- one look ----------------------------------------------------------------------------------------------------------

SMALL = {
    "volume": a_fingerprint(shape=(22.0, 20.0, 24.0)),
    "picture": a_fingerprint(spacing=(1.0,) * 2, shape=(56.0, 48.0)),
}


@pytest.mark.parametrize("kind", SMALL)
def test_the_coarse_stage_is_skipped_where_the_image_fits_one_window(kind: str) -> None:
    """Then the fine stage sees the whole image at once, at its own spacing, for the whole time."""
    plans = plan(SMALL[kind])
    assert plans.chain(NAME) == (NAME,) == tuple(plans.configurations)
    c = plans.configurations[NAME]
    assert (c.windows.kind, c.trainer, c.previous_stage) == ("whole", "heatmap", None)
    assert c.spacing == SMALL[kind].median_spacing and c.schedule.max_seconds == PRESETS["XS"].max_seconds
    assert "fits one window of the fine stage" in c.why["previous_stage"]
    assert all(n * s >= e for n, s, e in zip(c.patch_size, c.spacing, SMALL[kind].max_extent, strict=True))


def test_it_stays_where_windows_are_small_seen_together_own_or_demanded() -> None:
    group = (CoSliceGroup(0, ("L0", "L1"), ""),)
    for fingerprint, options in (
        (a_fingerprint(), {}),
        (a_fingerprint(shape=(22.0, 20.0, 24.0), co_slice_groups=group), {}),
        (SMALL["volume"], {"weights": "own"}),
        (SMALL["volume"], {"coarse": "heatmap"}),
    ):
        assert plan(fingerprint, **options).chain(NAME) == (COARSE, NAME)


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_setting_goes_to_the_planners_that_know_it() -> None:
    found = planners(tuple(PLANNERS), ["weights=own", "labels=compare"])
    assert list(found) == list(PLANNERS)
    assert (found[NAME].options.weights, found[NAME].options.coarse) == ("own", "auto")
    assert found["apga"].options.labels == "compare"
    assert type(found["heatmap"].options) is Planner.Options


def test_planners_of_one_name_stand_beside_each_other() -> None:
    names = [f"autolmk.planners.{method}:PublishedPlanner" for method in ("apga", "coarse_to_fine", "global_to_local")]
    assert list(planners(names, [])) == names and list(planners(names[:1], [])) == ["PublishedPlanner"]
    made = plan_dataset(PlanRequest.of(FEW, "cuda", memory_target_gb=40.0), planners(names, []), plans_name="all")
    assert [name for name in made.configurations if name.endswith("published")] == [
        "apga_published", "coarse_to_fine_published", "global_to_local_published"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        ((NAME,), ["weights=owned"], ["weights", "'auto', 'shared', 'own'", "did you mean 'own'"]),
        ((NAME,), ["coarse=3"], ["coarse", "'auto', 'heatmap', 'coordinates'"]),
        ((NAME,), ["weigths=own"], ["'weigths'", "did you mean 'weights'", "coarse, weights (coarse_to_fine)"]),
        (("heatmap",), ["weights=own"], ["no planner has an option 'weights'", "these planners have no options"]),
        (tuple(PLANNERS), ["schedule.learning_rate=1"], ["labels (apga)", "autolmk_train --set"]),
        ((NAME,), ["weights"], ["KEY=VALUE"]),
    ],
)  # fmt: skip
def test_what_there_is_not_is_refused_with_what_there_is(names: Any, settings: list[str], said: list[str]) -> None:
    with pytest.raises(AutolmkError) as error:
        planners(names, settings)
    assert all(part in str(error.value) for part in said), str(error.value)


def test_a_planner_of_yours_needs_no_options() -> None:
    """Neither a constructor nor Options of its own."""

    class Mine(Planner):
        def plan(self, fingerprint: Fingerprint, **_: Any) -> dict[str, Any]:
            return {}

    assert Mine().options == Planner.Options()
