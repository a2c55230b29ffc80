"""global_to_local: each planned number follows its cause; both stages train, measure how to vote, and predict so."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fingerprints import a_fingerprint, at, mean_shape, statistics
from test_training import NAMES, TRAIN, VAL, tiny_plans, write_store

from autolmk.codecs import CellCodec, Codec
from autolmk.codecs.cells import RULES
from autolmk.data.stage_windows import MARGIN
from autolmk.data.store import Store
from autolmk.errors import AutolmkError
from autolmk.fingerprint import Fingerprint, LandmarkStatistics
from autolmk.fold.measured import Measured
from autolmk.landmarks import Status
from autolmk.methods.trainer import trainer_class
from autolmk.planners.global_to_local import CELLS, GLOBAL, NAME, GlobalToLocalPlanner
from autolmk.planning.planner import PRESETS, PlanRequest, memory_of, plan_dataset, planner_class, usable_bytes
from autolmk.plans import Configuration, Plans, Windows
from autolmk.prediction.chain import look_through
from autolmk.prediction.crops import heatmap_crops
from autolmk.prediction.first_look import Look, look_first
from autolmk.prediction.stage import Member, Prepared, load_stage
from autolmk.trainers.global_to_local import GlobalTrainer, LocalTrainer
from autolmk.training.schedule import Limits, ValidationBudget
from autolmk.training.stages import load_chain, train_stages
from autolmk.training.validation import Interrupted, held_out_windows
from autolmk.training.work import StageWork


def turned(**others: Any) -> Fingerprint:
    """Twelve landmarks that tell a pose, which differs."""
    return a_fingerprint(
        **{"n_landmarks": 12, "rotation": (40.0, 20.0, 30.0), "mean_shape": mean_shape(12, 3), **others}
    )


MADE: dict[str, Plans] = {}


def plan(fingerprint: Fingerprint, **arguments: Any) -> Plans:
    """Remembered: many tests look at the same plans."""
    key = repr((fingerprint, arguments))
    if key not in MADE:
        planners = {NAME: GlobalToLocalPlanner()}
        arguments = {"preset": "XS", "device": "cpu", **arguments}
        MADE[key] = plan_dataset(PlanRequest.of(fingerprint, **arguments), planners, plans_name="autolmkPlans")
    return MADE[key]


def stage(name: str, cause: Any) -> Configuration:
    arguments = cause if isinstance(cause, dict) else {}
    fingerprint = turned() if cause is None or arguments else cause
    return plan(fingerprint, **arguments).configurations[name]


def absent(n: int) -> dict[str, LandmarkStatistics]:
    return {f"L{i}": statistics(n_absent=n) for i in range(12)}


FLAT = {"spacing": (1.0, 1.0), "rotation": (20.0,), "mean_shape": mean_shape(12, 2)}
WIDE = turned(shape=(300.0, 300.0, 300.0), nearest=40.0)
BIG_GPU = {"preset": "M", "device": "cuda"}
GLOBAL_CAUSES: dict[
    str, tuple[Any, Any]
] = {  # number -> (fingerprint or arguments before, after); None: `turned` on XS
    "spacing": (None, turned(spacing=(1.5, 1.5, 1.5))),
    "data_identifier": (None, turned(spacing=(1.5, 1.5, 1.5))),
    "patch_size": (None, turned(shape=(90.0, 90.0, 90.0))),
    "batch_size": (None, turned(shape=(120.0, 120.0, 120.0))),
    "windows.kind": (None, turned(shape=(900.0, 900.0, 900.0))),
    "architecture.features_per_stage": (None, BIG_GPU),
    "architecture.n_conv_per_stage": (None, BIG_GPU),
    "architecture.kernel_sizes": (None, turned(spacing=(4.0, 1.0, 1.0), shape=(20.0, 60.0, 60.0))),
    "architecture.strides": (turned(nearest=30.0), turned(nearest=6.0)),
    "architecture.output_stride": (turned(nearest=30.0), turned(nearest=6.0)),
    "sigma": (None, turned(nearest=6.0)),
    "options": (a_fingerprint(**{**FLAT, "shape": (28.0, 28.0)}), a_fingerprint(**{**FLAT, "shape": (36.0, 28.0)})),
    "shape_prior": (None, turned(n_cases=9)),
    "schedule.epochs": (None, BIG_GPU),
    "schedule.max_seconds": (None, BIG_GPU),
    "normalization.0.scheme": (None, turned(channel_names=("CT",))),
}
LOCAL_CAUSES: dict[str, tuple[Any, Any]] = {
    "spacing": (None, turned(spacing=(1.5, 1.5, 1.5))),
    "data_identifier": (None, turned(spacing=(1.5, 1.5, 1.5))),
    "patch_size": (None, turned(nearest=6.0)),
    "batch_size": (None, BIG_GPU),
    "windows.pose": (None, turned(n_cases=5)),
    "windows.jitter": (None, turned(nearest=6.0)),
    "windows.least_side": (None, a_fingerprint(**{**FLAT, "shape": (600.0, 600.0), "nearest": 60.0})),
    "architecture.features_per_stage": (None, BIG_GPU),
    "architecture.kernel_sizes": (None, turned(spacing=(4.0, 1.0, 1.0), shape=(20.0, 60.0, 60.0))),
    "architecture.strides": (None, a_fingerprint(**{**FLAT, "shape": (600.0, 600.0), "nearest": 60.0})),
    "sigma": (None, turned(spacing=(1.5, 1.5, 1.5))),
    "augmentation.rotation": (None, turned(shape_residual=9.0)),
    "augmentation.scale": (None, turned(n_cases=5)),
    "augmentation.intensity": (None, turned(channel_names=("CT",))),
    "schedule.epochs": (None, BIG_GPU),
    "schedule.max_seconds": (None, BIG_GPU),
    "schedule.learning_rate": (None, BIG_GPU),
    "schedule.ema_decay": (None, BIG_GPU),
    "schedule.iterations_per_epoch": (None, turned(n_cases=400)),
    "normalization.0.scheme": (None, turned(channel_names=("CT",))),
}
MOVES = [(GLOBAL, n, c) for n, c in GLOBAL_CAUSES.items()] + [(NAME, n, c) for n, c in LOCAL_CAUSES.items()]


@pytest.mark.parametrize(("name", "number", "causes"), MOVES, ids=[f"{name}-{number}" for name, number, _ in MOVES])
def test_a_number_moves_with_its_cause(name: str, number: str, causes: tuple[Any, Any]) -> None:
    before, after = (stage(name, cause) for cause in causes)
    assert at(number)(before) != at(number)(after)
    if number != "data_identifier":
        assert any(number.startswith(key) or key.startswith(f"{number}.") for key in after.why)


def test_two_stages_share_the_time_and_fit_the_memory() -> None:
    for fingerprint in (turned(), WIDE, a_fingerprint(**{**FLAT, "shape": (480.0, 632.0), "nearest": 43.0})):
        plans = plan(fingerprint)
        assert plans.chain(NAME) == (GLOBAL, NAME)
        seconds = [plans.configurations[name].schedule.max_seconds for name in plans.chain(NAME)]
        assert sum(s for s in seconds if s is not None) == pytest.approx(PRESETS["XS"].max_seconds)
        for configuration in plans.configurations.values():
            needed = memory_of(fingerprint, configuration, "cpu", configuration.batch_size).total
            assert needed <= usable_bytes("cpu", PRESETS["XS"].memory_gb)


# -- the cell ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nearest", "cell"), [(100.0, 8), (7.9, 4), (1.5, 4)])
def test_a_cell_is_the_largest_below_the_landmarks_distance_that_leaves_eight_along_the_shortest_axis(
    nearest: float, cell: int
) -> None:
    """Of a power of two, and at least two halvings."""
    c = stage(GLOBAL, turned(shape=(64.0, 100.0, 100.0), nearest=nearest))
    assert c.architecture.output_stride == (cell,) * 3
    assert min(n // cell for n in c.patch_size) >= CELLS
    assert min(n // (2 * cell) for n in c.patch_size) < CELLS or 2 * cell * c.spacing[0] >= nearest


def test_a_large_image_is_coarsened_until_a_cell_has_as_many_voxels_as_published() -> None:
    flat = a_fingerprint(**{**FLAT, "shape": (480.0, 632.0), "nearest": 43.0})
    quick = plan(flat).configurations[GLOBAL]
    assert quick.architecture.output_stride == (8, 8) and quick.spacing == pytest.approx((4.3, 4.3))
    assert "a cell of 34.4 has 8 voxels" in quick.why["spacing"]
    large = plan(flat, **BIG_GPU).configurations[GLOBAL]
    assert large.architecture.output_stride == (32, 32) and large.spacing == pytest.approx((1.075, 1.075))
    crowded = a_fingerprint(**{**FLAT, "shape": (480.0, 632.0), "nearest": 8.0})
    assert plan(crowded).configurations[GLOBAL].spacing < (2.0, 2.0)


def test_a_coarse_axis_is_halved_later() -> None:
    c = stage(GLOBAL, turned(spacing=(4.0, 1.0, 1.0), shape=(20.0, 100.0, 100.0), nearest=30.0))
    assert c.architecture.output_stride[0] < c.architecture.output_stride[1]
    assert c.architecture.kernel_sizes[0] == (1, 7, 7)


def test_published_pooling_follows_from_published_images() -> None:
    """Cephalograms: cells of 32 pixels, all four stages pool; cardiac CT at 1.5 mm: of 8 voxels, the first two do."""
    ceph = a_fingerprint(**{**FLAT, "spacing": (0.1, 0.1), "shape": (2400.0, 1935.0), "nearest": 9.0})
    c = plan(ceph, preset="L", device="cuda", memory_target_gb=80.0, spacing=(0.1, 0.1)).configurations[GLOBAL]
    assert c.architecture.strides == ((2, 2),) * 5 and c.architecture.n_conv_per_stage == (1, 3, 4, 6, 3)
    heart = a_fingerprint(spacing=(1.5,) * 3, shape=(72.0,) * 3, nearest=13.0)
    c = plan(heart, preset="M", device="cuda").configurations[GLOBAL]
    assert c.architecture.output_stride == (8, 8, 8) and c.architecture.strides[3:] == ((1, 1, 1),) * 2


def test_both_losses_count_alike_whatever_the_number_of_cells() -> None:
    for name, cause in ((GLOBAL, None), (NAME, None), (GLOBAL, turned(nearest=2.0))):
        c = stage(name, cause)
        cells = math.prod(n // s for n, s in zip(c.patch_size, c.architecture.output_stride, strict=True))
        assert c.options["class_weight"] == pytest.approx(1 / math.log(cells), abs=1e-4)


# -- local windows -----------------------------------------------------------------------------------------------------


def test_local_windows_hold_the_expected_miss_and_leave_eight_cells() -> None:
    for fingerprint in (turned(), WIDE, a_fingerprint(**{**FLAT, "shape": (480.0, 632.0), "nearest": 43.0})):
        first, last = plan(fingerprint).configurations.values()
        cell = max(s * c for s, c in zip(first.spacing, first.architecture.output_stride, strict=True))
        for n, s, least in zip(last.patch_size, last.spacing, last.windows.least_side or (), strict=True):
            assert n / 2 >= 0.5 * cell / s + MARGIN - 1e-6
            assert least <= n and least // last.architecture.output_stride[0] >= CELLS
        assert 3 * last.windows.jitter * min(np.multiply(last.patch_size, last.spacing)) == pytest.approx(
            0.5 * cell, rel=0.01
        )


@pytest.mark.parametrize("spacing", [(2.5, 0.5, 0.5), (6.0, 0.5, 0.5)])
def test_local_windows_are_as_long_in_mm_along_each_axis(spacing: tuple[float, ...]) -> None:
    """Up to a stride and a voxel: with 6 voxels of 6 mm around, they reached 72 mm further across slices than along."""
    c = stage(NAME, a_fingerprint(spacing=spacing, shape=tuple(160 / s for s in spacing), n_landmarks=6))
    sides = np.multiply(c.patch_size, c.spacing)
    steps = np.multiply(c.architecture.output_stride, c.spacing)
    assert sides.max() - sides.min() <= steps.max() + 2 * max(c.spacing)
    assert all(a <= b for a, b in zip(c.windows.least_side or (), c.patch_size, strict=True))


@pytest.mark.parametrize("shape", [(30.0, 44.0), (20.0, 30.0, 60.0), (5.0, 40.0, 40.0)])
def test_no_local_window_is_larger_than_the_image(shape: tuple[float, ...]) -> None:
    c = stage(NAME, a_fingerprint(spacing=(1.0,) * len(shape), shape=shape, n_landmarks=6, nearest=40.0))
    assert all(n <= size for n, size in zip(c.patch_size, shape, strict=True))
    assert all(a <= b for a, b in zip(c.windows.least_side or (), c.patch_size, strict=True))


def test_many_landmarks_narrow_the_networks_or_coarsen_their_windows() -> None:
    few, many, most = (stage(NAME, turned(n_landmarks=n)) for n in (12, 40, 150))
    assert few.spacing == (1.0,) * 3 and few.architecture.features_per_stage == (16, 32)
    assert many.spacing >= few.spacing and most.architecture.features_per_stage[0] < 16
    with pytest.raises(AutolmkError, match="do not fit"):
        plan(turned(n_landmarks=400), memory_target_gb=0.05)


def test_spacing_can_be_demanded_of_the_local_stage() -> None:
    plans = plan(turned(), spacing=(1.25, 1.25, 1.25))
    assert plans.configurations[NAME].spacing == (1.25,) * 3
    assert plans.configurations[NAME].why["spacing"] == "as demanded"
    assert plans.configurations[GLOBAL].spacing == stage(GLOBAL, None).spacing


def test_the_registry_finds_the_method() -> None:
    assert planner_class(NAME) is GlobalToLocalPlanner
    assert trainer_class("global_cells") is GlobalTrainer and trainer_class("local_cells") is LocalTrainer


# -- training and prediction -------------------------------------------------------------------------------------------


def staged_plans() -> Plans:
    plans = tiny_plans(epochs=1)
    first = plans.configurations["heatmap"]
    first = dataclasses.replace(first, trainer="global_cells")
    windows = Windows("landmark", least_side=(8, 8))
    last = dataclasses.replace(
        first, trainer="local_cells", patch_size=(16, 16), windows=windows, previous_stage="heatmap"
    )
    return dataclasses.replace(plans, configurations={"heatmap": first, NAME: last})


def works(store: Store, **options: Any) -> list[StageWork]:
    plans = staged_plans()
    return [
        StageWork("heatmap", GlobalTrainer(plans, plans.configuration("heatmap"), options), store),
        StageWork(NAME, LocalTrainer(plans, plans.configuration(NAME), options), store),
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), staged_plans())


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "fold_0"
    subjects = {case: case for case in [*TRAIN, *VAL]}
    assert train_stages(works(store), TRAIN, VAL, folder, subjects=subjects, device="cpu")
    return folder


def test_each_stage_measures_how_to_vote_and_prediction_votes_so(store: Store, trained: Path) -> None:
    stages = load_chain(works(store), trained, torch.device("cpu"))
    for loaded, folder in zip(stages, (trained / "heatmap", trained), strict=True):
        decoding, codec = Measured.load(folder).decoding, loaded.members[0].codec
        assert isinstance(codec, CellCodec) and codec.voting == decoding["voting"]
        assert decoding["voting"] == min(RULES, key=decoding["voting_errors"].get)
    stage, folders = works(store)[0], [trained / "heatmap", trained / "heatmap2"]
    shutil.copytree(*folders)
    measured = Measured.load(folders[0])
    rule = next(name for name in RULES if name != measured.decoding["voting"])
    surer = {"voting": rule, "voting_errors": dict.fromkeys(RULES, 1e3) | {rule: 0.0}}
    dataclasses.replace(measured, decoding=surer).save(folders[1])
    both = load_stage([stage.trainer] * 2, folders, "final", torch.device("cpu"))
    assert {member.codec.voting for member in both.members} == {rule}  # type: ignore[union-attr]
    stored = store.load(VAL[0])
    found = look_through(stages, [Prepared(stored.image(), stored.fill)] * 2)
    assert found.landmarks.names == NAMES and np.isfinite(found.candidates[:, 0]).all()


def test_a_rule_that_is_demanded_is_used_whatever_was_measured(store: Store, trained: Path) -> None:
    work = works(store, voting="mean")[0]
    loaded = load_stage([work.trainer], [trained / "heatmap"], "final", torch.device("cpu"))
    codec = loaded.members[0].codec
    assert isinstance(codec, CellCodec) and codec.voting == "mean"


def test_crops_show_the_cells_around_a_landmark_even_one_that_is_voted_beyond_the_image(
    store: Store, trained: Path
) -> None:
    work = works(store)[0]
    loaded = load_stage([work.trainer], [trained / "heatmap"], "final", torch.device("cpu"))
    stored = store.load(VAL[0])
    loaded, image = dataclasses.replace(loaded, mirror=False), Prepared(stored.image(), stored.fill)
    found = look_first(loaded, image)
    found.candidates[1, 0] = [-50.0, 400.0]
    crops = dict(heatmap_crops(Look(loaded, image), found, (3.0, 3.0)))
    assert set(crops) == set(NAMES)
    for name, crop in crops.items():
        assert min(crop.array.shape) >= 1 and crop.geometry.spacing == (2.0, 2.0)
        assert stored.geometry.contains(stored.geometry.to_voxels(crop.geometry.centre)), name


def test_held_out_windows_are_straight_always_the_same_and_of_the_asked_cases(store: Store, trained: Path) -> None:
    first, last = (
        (work, load_stage([work.trainer], [folder], "final", torch.device("cpu")))
        for work, folder in zip(works(store), (trained / "heatmap", trained), strict=True)
    )
    for work, loaded in (first, last):
        one, again = ([*held_out_windows(loaded, store, VAL)] for _ in range(2))
        assert len(one) == len(VAL) and all(torch.equal(a.scores, b.scores) for a, b in zip(one, again, strict=True))
        assert one[0].scores.shape[1] == len(NAMES)
        if work is first[0]:  # the whole image: its own voxels
            truths = [store.load(case) for case in VAL]
            voxels = sorted(t.geometry.to_voxels(t.landmarks.points)[0].tolist() for t in truths)
            assert np.allclose(sorted(w.voxels[0, 0].tolist() for w in one), voxels)
            windows = Windows("whole", elsewhere=1.0, exact=0.5, order=2)  # in training alone
            drawn = dataclasses.replace(
                loaded, configuration=dataclasses.replace(loaded.configuration, windows=windows)
            )
            same = [*held_out_windows(drawn, store, VAL)]
            assert all(torch.equal(a.scores, b.scores) for a, b in zip(one, same, strict=True))
        measured = dataclasses.replace(loaded.measured[0], untrained=("dark",))
        unknown = next(held_out_windows(dataclasses.replace(loaded, measured=(measured,)), store, VAL))
        assert int(unknown.status[0, 1]) == Status.UNKNOWN and int(unknown.status[0, 0]) == Status.PRESENT
        with pytest.raises(Interrupted):
            next(held_out_windows(loaded, store, VAL, interrupted=lambda: True))


def test_time_is_kept_for_what_the_codec_measures() -> None:
    limits = Limits(1000, 1000.0)
    plain, measuring = (ValidationBudget(0.1, 8, seconds_per_case=2.0, measured=n) for n in (0, 8))
    assert (plain.reserve(limits), measuring.reserve(limits)) == (16.0, 32.0)
    assert type(works_codec()).measure is not Codec.measure


def works_codec() -> Codec:
    plans = staged_plans()
    return GlobalTrainer(plans, plans.configuration("heatmap")).build_codec()


def test_a_member_keeps_its_codecs_rule() -> None:
    codec = works_codec()
    codec.adopt({"voting": "best"})
    member = Member(torch.nn.Identity(), codec)
    assert isinstance(member.codec, CellCodec) and member.codec.voting == "best"
