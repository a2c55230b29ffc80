"""The three methods as published, by `-pl MODULE:PublishedPlanner`: their numbers, their losses, from plans to points.

Published numbers are written here as the publications and their code state them, with the formula beside.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fingerprints import a_fingerprint, statistics
from torch import Tensor, nn

from autolmk import annotations
from autolmk.cli import plan_and_preprocess, predict, preprocess, train
from autolmk.codecs.heatmap import HeightCodec
from autolmk.errors import AutolmkError
from autolmk.files.serialization import to_json
from autolmk.fingerprint import CoSliceGroup, Fingerprint
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.measured import Measured
from autolmk.landmarks import Status
from autolmk.methods.losses import soft_dice, squared_error
from autolmk.methods.trainer import Trainer, trainer_class
from autolmk.networks.cells import GlobalCells, LocalCells
from autolmk.paths import MEASURING
from autolmk.phantom import write_phantom
from autolmk.phantom.anatomy import POINTS
from autolmk.planning.memory import random_batch
from autolmk.planning.planner import Planner, PlanRequest, draft_plans, plan_dataset, planner_class
from autolmk.plans import Configuration, Plans, Windows
from autolmk.testing import check_trainer

METHODS = ("apga", "coarse_to_fine", "global_to_local")
NAME = "Dataset001_Phantom"
HEART = a_fingerprint(spacing=(0.5, 0.35, 0.35), shape=(360.0, 514.0, 514.0), n_landmarks=8, channel_names=("CT",))
CEPH = a_fingerprint(spacing=(0.1, 0.1), shape=(2400.0, 1935.0), n_landmarks=19, channel_names=("xray",))
BRAIN = a_fingerprint(spacing=(0.8, 0.6, 0.6), shape=(100.0, 150.0, 140.0), n_landmarks=6)


def published(method: str) -> type[Planner]:
    return planner_class(f"autolmk.planners.{method}:PublishedPlanner")


MADE: dict[Any, Plans] = {}


def plans_of(method: str, fingerprint: Fingerprint, **arguments: Any) -> Plans:
    """Remembered."""
    key = (method, id(fingerprint), repr(arguments))
    if key not in MADE:
        arguments = {"preset": "M", "device": "cuda", "memory_target_gb": 40.0, **arguments}
        MADE[key] = plan_dataset(
            PlanRequest.of(fingerprint, **arguments), {method: published(method)()}, plans_name="published"
        )
    return MADE[key]


def stages(method: str, fingerprint: Fingerprint, **arguments: Any) -> list[Configuration]:
    return list(plans_of(method, fingerprint, **arguments).configurations.values())


def trainer_of(fingerprint: Fingerprint, configuration: Configuration) -> Trainer:
    plans = draft_plans(fingerprint, {"drafted": configuration}, device="cuda")
    return trainer_class(configuration.trainer)(plans, configuration)


def parameters(fingerprint: Fingerprint, configuration: Configuration) -> int:
    with torch.device("meta"):
        network = trainer_of(fingerprint, configuration).build_network()
    return sum(p.numel() for p in network.parameters())


# -- networks ----------------------------------------------------------------------------------------------------------


def test_apga_has_the_published_parameters_in_3d() -> None:
    """17.598 million: encoder 12.85, landmark decoder 2.33, pseudo-label decoder 2.32, FDT 0.092."""
    (c,) = stages("apga", BRAIN)
    assert parameters(BRAIN, c) == 17_598_190
    assert (c.patch_size, c.batch_size) == ((128,) * 3, 2)
    assert [g / s for g, s in zip(c.sigma, c.spacing, strict=True)] == pytest.approx([5.0] * 3, rel=1e-5)


def test_apga_in_2d_has_the_same_layers() -> None:
    """A kernel of 3^3 is one of 3^2 there: counted by the formula over all of its convolutions."""
    flat = a_fingerprint(spacing=(1.0, 1.0), shape=(150.0, 140.0), n_landmarks=6)
    (c,) = stages("apga", flat)
    assert c.patch_size == (128, 128) and parameters(flat, c) == apga_parameters(2, 6)
    assert apga_parameters(3, 6) == 17_598_190


def apga_parameters(ndim: int, n_landmarks: int) -> int:
    """By the description of the network, base 32; c: convolution without bias and its norm, p: with a bias."""
    k, widths = 3**ndim, (32, 64, 128, 256)

    def c(n_in: int, n_out: int, kernel: int = k) -> int:
        return n_in * n_out * kernel + 2 * n_out

    def p(n_in: int, n_out: int) -> int:
        return c(n_in, n_out) + n_out

    total = p(1, 32) + p(32, 32)
    for before, width in itertools.pairwise(widths):
        total += c(before, width) + c(width, width) + c(before, width, 1) + 4 * c(width, width)
    for outputs in (n_landmarks, 1):  # a decoder a task
        total += sum(p(2 * w + w, w) + p(w, w) for w in widths[:3])
        total += p(32, outputs) + p(outputs, outputs)
    for w in widths[:3]:
        qkv = 3 * (w * w + w)
        gates = 2 * ((w // 2 * 16 + 16) + (16 * w + w) + (3 + 1) + (w * 16 + 16) + (16 * w + w))
        total += qkv + gates + sum(w // 2 * n + n for n in (n_landmarks, 1))
    return total


def resnet34_parameters(ndim: int, n_channels: int, n_outputs: int) -> int:
    """He et al., CVPR 2016: kernels of 7 and 3, batch norm, blocks of two convolutions, shortcuts of kernel 1."""

    def c(n_in: int, n_out: int, kernel: int) -> int:
        return n_in * n_out * kernel**ndim + 2 * n_out

    total, before = c(n_channels, 64, 7), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        total += c(before, width, 3) + c(width, width, 3) + 2 * (blocks - 1) * c(width, width, 3)
        total += c(before, width, 1) if before != width else 0
        before = width
    return total + 512 * n_outputs + n_outputs


@pytest.mark.parametrize("ndim", [2, 3])
def test_coarse_to_fine_begins_with_resnet34_and_ends_in_as_many_coordinates(ndim: int) -> None:
    """ "3D ResNet-34, last FC -> 3N outputs": 2D, RGB and 1000 outputs are torchvision's 21,797,672."""
    assert resnet34_parameters(2, 3, 1000) == 21_797_672
    fingerprint = BRAIN if ndim == 3 else CEPH
    coarse, fine = stages("coarse_to_fine", fingerprint)
    n = len(fingerprint.landmarks)
    assert coarse.trainer == "coordinates" and coarse.windows.kind == "whole"
    assert parameters(fingerprint, coarse) == resnet34_parameters(ndim, 1, n * ndim)
    assert max(coarse.patch_size) == 128 and len(set(coarse.spacing)) == 1
    assert fine.options == {"weights": "own", "correlated": False}
    assert fine.architecture.features_per_stage == (32, 64, 128, 256)
    one = dataclasses.replace(fingerprint, landmarks=fingerprint.landmarks[:1])
    assert parameters(fingerprint, fine) == n * parameters(one, fine)  # a network a landmark, that share nothing


@pytest.mark.parametrize(
    ("fingerprint", "millions", "local", "cell", "crop"), [(CEPH, 5.602, 0.101, 32, 992), (HEART, 16.133, 0.267, 8, 72)]
)
def test_global_to_local_has_the_published_parameters(
    fingerprint: Fingerprint, millions: float, local: float, cell: int, crop: int
) -> None:
    """2D, 19 landmarks, cells of 32 pixels, crops of 992; 3D, 8 landmarks, cells of 8 voxels, crops of 72."""
    first, last = stages("global_to_local", fingerprint)
    d, n = fingerprint.ndim, len(fingerprint.landmarks)
    assert round(parameters(fingerprint, first) / 1e6, 3) == millions
    assert round(parameters(fingerprint, last) / n / 1e6, 3) == local
    assert first.architecture.output_stride == (cell,) * d and first.patch_size == (crop,) * d
    assert last.architecture.output_stride == (2,) * d and last.patch_size == (16,) * d
    assert first.spacing == last.spacing and first.batch_size == last.batch_size == 4


def test_a_heart_of_180_mm_is_seen_at_1_5_mm_and_a_radiograph_at_its_own() -> None:
    assert stages("global_to_local", HEART)[0].spacing == pytest.approx((1.5,) * 3, rel=2e-3)
    assert stages("global_to_local", CEPH)[0].spacing == (0.1, 0.1)


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ndim", "value"), [(3, 21.6), (2, 311.7)])
def test_an_empty_heatmap_costs_apga_as_much_as_published(ndim: int, value: float) -> None:
    """255^2 (5 sqrt(pi))^D / 128^D: the squared Gaussian of sigma 5 and height 255, over 128^D voxels; 21.6 in 3D."""
    assert round(255**2 * (5 * math.sqrt(math.pi)) ** ndim / 128**ndim, 1) == value
    codec = HeightCodec(1, (128,) * ndim, (1,) * ndim, (5.0,) * ndim, height=255.0)
    status = torch.ones(1, 1, dtype=torch.int8)
    target = codec.encode(torch.full((1, 1, ndim), 63.5, dtype=torch.float64), status)
    assert round(float(squared_error(torch.zeros(1, 1, *(128,) * ndim), target, status, 255.0)), 1) == value


@pytest.mark.parametrize("ndim", [2, 3])
def test_apgas_losses_all_weigh_one(ndim: int) -> None:
    """L = MSE + Dice + sum over three scales of (MSE + Dice): with outputs of 0 each part is known."""
    fingerprint = BRAIN if ndim == 3 else a_fingerprint(spacing=(1.0, 1.0), shape=(150.0, 140.0), n_landmarks=6)
    (c,) = stages("apga", fingerprint)
    small = dataclasses.replace(c, patch_size=(32,) * ndim, sigma=tuple(2.0 * s for s in c.spacing))
    trainer = trainer_of(fingerprint, small)
    batch = random_batch(trainer, 2, device="cpu")
    sides = (32, 16, 8, 4)
    found = {
        name: [torch.zeros(2, n, *(side,) * ndim) for side in sides] for name, n in (("landmarks", 6), ("labels", 1))
    }
    codec = trainer.build_codec()
    with torch.no_grad():
        losses = trainer.training_step(Constant(found), codec, batch)
    heatmaps = [
        squared_error(one, trainer._target(batch["voxels"], one.shape[2:], None), batch["status"], 255.0)  # type: ignore[attr-defined]
        for one in found["landmarks"]
    ]
    starts = (0.0, 0.5, 0.5, 0.5)  # probabilities that outputs of 0 stand for
    dice = [soft_dice(torch.full_like(one, p), batch["labels"]) for one, p in zip(found["labels"], starts, strict=True)]
    assert float(losses["landmarks"]) == pytest.approx(float(heatmaps[0]))
    assert float(losses["supervision"]) == pytest.approx(float(sum(heatmaps[1:])), rel=1e-5)
    assert float(losses["labels"]) == pytest.approx(float(sum(dice)), rel=1e-5)


class Constant(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Tensor) -> Any:
        return self.output


@pytest.mark.parametrize(("fingerprint", "stage", "alpha"), [(CEPH, 0, 19), (HEART, 0, 8), (CEPH, 1, 1), (HEART, 1, 1)])
def test_global_to_locals_loss_has_the_published_balance(fingerprint: Fingerprint, stage: int, alpha: float) -> None:
    """mean |t_hat - t| + alpha BCE, both means over all cells; alpha about the number of landmarks (20 for 19, 8 for
    8), 1 in the local stage. Zero outputs: BCE is log 2; displacements cost mean log10(|d| + 1)."""
    c = stages("global_to_local", fingerprint)[stage]
    trainer, n, d = trainer_of(fingerprint, c), len(fingerprint.landmarks), fingerprint.ndim
    codec: Any = trainer.build_codec()
    voxels = torch.full((1, n, d), c.patch_size[0] / 2 - 0.5, dtype=torch.float64)
    status = torch.ones(1, n, dtype=torch.int8)
    losses: Any = trainer.loss(torch.zeros(1, n, 1 + d, *codec.shape), codec.encode(voxels, status), status)
    size = codec.cell_size[0]
    away = [abs((i + 0.5) * size - c.patch_size[0] / 2) for i in range(codec.shape[0])]  # alike on every axis
    assert float(losses["class"]) == pytest.approx(alpha * math.log(2), rel=1e-5)
    assert float(losses["displacement"]) == pytest.approx(np.mean([math.log10(x + 1) for x in away]), rel=1e-5)


def test_global_to_locals_published_loss_has_the_published_balance_in_any_plan() -> None:
    """`--set losses=published` needs no other weight; that of its own loss does not count."""
    planned = planner_class("global_to_local")().plan(PlanRequest(BRAIN, "XS", "cpu", 0.3))
    first = dataclasses.replace(planned["global_to_local_global"], options={"losses": "published", "class_weight": 9.0})
    trainer, n = trainer_of(BRAIN, first), len(BRAIN.landmarks)
    codec: Any = trainer.build_codec()
    status = torch.ones(1, n, dtype=torch.int8)
    target = codec.encode(torch.full((1, n, 3), 9.0, dtype=torch.float64), status)
    losses: Any = trainer.loss(torch.zeros(1, n, 4, *codec.shape), target, status)
    assert float(losses["class"]) == pytest.approx(n * math.log(2), rel=1e-5)
    weighted = trainer_of(BRAIN, dataclasses.replace(first, options={"losses": "published", "alpha": 20.0}))
    again: Any = weighted.loss(torch.zeros(1, n, 4, *codec.shape), target, status)
    assert float(again["class"]) == pytest.approx(20 * math.log(2), rel=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_coarse_to_fines_coarse_loss_is_that_of_coordinates_alone(ndim: int) -> None:
    """Smooth L1 of coordinates from -1 to 1: of an error e above beta (one voxel: 2 / side), e - beta / 2."""
    fingerprint = BRAIN if ndim == 3 else CEPH
    coarse = stages("coarse_to_fine", fingerprint)[0]
    trainer, n = trainer_of(fingerprint, coarse), len(fingerprint.landmarks)
    codec: Any = trainer.build_codec()
    voxels = torch.tensor([s * 0.75 - 0.5 for s in coarse.patch_size], dtype=torch.float64).expand(1, n, ndim)
    status = torch.ones(1, n, dtype=torch.int8)
    status[0, 1:] = Status.ABSENT  # it teaches nothing
    losses: Any = trainer.loss(torch.zeros(1, n, ndim), codec.encode(voxels, status), status)
    wanted = np.mean([0.5 - (2 / s) / 2 for s in coarse.patch_size])
    assert set(losses) == {"place"} and float(losses["place"]) == pytest.approx(wanted, rel=1e-5)
    found = codec.decode(codec.scores(torch.full((1, n, ndim), 0.5)))
    assert torch.allclose(found.voxels[0, 0, 0], voxels[0, 0], atol=1e-4) and not found.log_odds.any()


@pytest.mark.parametrize(
    ("trainer", "options"),
    [
        ("coordinates", {"norm": "published"}),
        ("global_cells", {"losses": "published", "optimizer": "amsgrad"}),
        ("local_cells", {"losses": "published", "optimizer": "amsgrad"}),
    ],
)
def test_published_options_keep_the_contract_of_a_trainer(trainer: str, options: dict[str, Any]) -> None:
    check_trainer(trainer_class(trainer), ndims=(2,), options=options)


# -- plans -------------------------------------------------------------------------------------------------------------

SLICES = a_fingerprint(spacing=(3.0, 1.0, 1.0), co_slice_groups=(CoSliceGroup(0, ("L0", "L2"), ""),))
SHAPES = {
    "flat": a_fingerprint(spacing=(1.0, 1.0), shape=(56.0, 40.0)),
    "cube": a_fingerprint(shape=(30.0, 30.0, 30.0), n_landmarks=1),
    "thin": SLICES,
    "whole body": a_fingerprint(spacing=(2.0, 1.0, 1.0), shape=(900.0, 400.0, 400.0)),
    "colours": a_fingerprint(
        spacing=(1.0, 1.0), shape=(480.0, 632.0), channel_names=("R", "G", "B"),
        intensity=a_fingerprint().intensity * 3, landmark_statistics={f"L{i}": statistics() for i in range(8)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_any_dataset_is_planned_with_a_reason_for_every_number(method: str, shape: str) -> None:
    fingerprint = SHAPES[shape]
    plans = plans_of(method, fingerprint)
    last = f"{method}_published"
    assert plans.chain(last) == ((last,) if method == "apga" else (tuple(plans.configurations)))
    for c in plans.configurations.values():
        assert {"spacing", "patch_size", "batch_size", "sigma", "normalization", "architecture"} <= set(c.why)
        assert all(n % math.prod(s[i] for s in c.architecture.strides) == 0 for i, n in enumerate(c.patch_size))
        trainer_of(fingerprint, c).build_codec()
    if method != "apga":
        windows = plans.configuration(last).windows
        assert (windows.rounds, windows.search, windows.pose) == (1, False, False)
        assert windows.drawn == {"coarse_to_fine": "gaussian", "global_to_local": "uniform"}[method]
        assert windows.least_side == plans.configuration(last).patch_size


@pytest.mark.parametrize("method", METHODS)
def test_a_published_network_that_does_not_fit_is_refused(method: str) -> None:
    with pytest.raises(AutolmkError, match="does not fit the memory target"):
        published(method)().plan(PlanRequest(BRAIN, "XS", "cpu", 0.02))


def test_windows_of_a_slice_are_seen_together() -> None:
    fine = stages("coarse_to_fine", SLICES)[1]
    assert fine.options == {"weights": "own", "correlated": True}
    assert [group.landmarks for group in fine.windows.groups] == [("L0", "L2")]
    sides = np.multiply(fine.patch_size, fine.spacing)
    assert fine.patch_size[1:] == (64, 64) and sides[0] == pytest.approx(
        64, abs=8 * 3.0
    )  # alike in mm, in whole strides


@pytest.mark.parametrize("method", METHODS)
def test_plans_from_before_these_fields_are_read_as_they_were(method: str) -> None:
    planned = planner_class(method)().plan(PlanRequest(BRAIN, "XS", "cpu", 0.3))
    plans = draft_plans(BRAIN, planned, device="cpu")
    value = to_json(plans)
    for configuration in value["configurations"].values():
        assert (configuration["windows"].pop("drawn"), configuration["windows"].pop("search")) == ("measured", True)
        assert configuration["schedule"].pop("rate") == "polynomial"
    assert Plans.parse(value) == plans


def test_published_intensities_augmentation_and_rates() -> None:
    apga, (first, last) = stages("apga", BRAIN)[0], stages("global_to_local", HEART)
    assert [n.scheme for n in apga.normalization] == ["window"]
    ct = first.normalization[0]  # (HU + 1000) / 4095, from 0 to 1
    assert (ct.scheme, ct.low, ct.high, ct.mean, ct.std) == ("ct", -1000.0, 3095.0, -1000.0, 4095.0)
    assert stages("global_to_local", CEPH)[0].normalization[0].scheme == "none"
    for c in (apga, first, last):
        a, s = c.augmentation, c.schedule
        assert not any((*a.rotation, *a.translation, a.intensity)) and a.scale == (1.0, 1.0) and a.mirror_axis is None
        assert (s.learning_rate, s.weight_decay, s.ema_decay, s.max_seconds) == (1e-3, 0.0, 0.0, None)
    assert (apga.schedule.epochs, apga.schedule.rate) == (80, "apga")
    assert (first.schedule.epochs * first.schedule.iterations_per_epoch, first.schedule.rate) == (300_000, "constant")
    assert (last.schedule.epochs * last.schedule.iterations_per_epoch, last.schedule.rate) == (310_000, "restarts")
    optimizer = trainer_of(HEART, first).build_optimizer([nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["amsgrad"]
    assert not isinstance(optimizer, torch.optim.AdamW)


# -- from plans to points ----------------------------------------------------------------------------------------------


def small(c: Configuration) -> Configuration:
    """An eighth of the width, two steps; APGA's window of a quarter of the voxels a side, crops of half the image."""
    features = tuple(max(2, n // 8) for n in c.architecture.features_per_stage)
    changes: dict[str, Any] = {}
    if c.trainer == "apga":
        changes = {"patch_size": (32,) * len(c.patch_size), "spacing": tuple(4 * s for s in c.spacing)}
        changes["sigma"] = tuple(1.5 * s for s in changes["spacing"])
    if c.trainer == "global_cells":
        cells = zip(c.patch_size, c.architecture.output_stride, strict=True)
        changes = {"patch_size": tuple(n // 2 // cell * cell for n, cell in cells), "windows": Windows("random", 0.0)}
    return dataclasses.replace(
        c,
        batch_size=2,
        architecture=dataclasses.replace(c.architecture, features_per_stage=features),
        schedule=dataclasses.replace(c.schedule, epochs=1, iterations_per_epoch=2),
        **changes,
    )


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_it_trains_two_steps_saves_and_predicts_a_phantom(method: str, ndim: int, tmp_path: Path) -> None:
    raw = tmp_path / "raw" / NAME
    write_phantom(raw, n_train=6, n_test=1, ndim=ndim, size=32)
    places = [part for name in ("raw", "preprocessed", "results") for part in (f"--{name}", str(tmp_path / name))]
    planner = f"autolmk.planners.{method}:PublishedPlanner"
    options = ("-overwrite_plans_name", "published", "-gpu_memory_target", "64", "-device", "cuda", "-np", "0")
    assert plan_and_preprocess.main(["-d", "1", "-pl", planner, *options, "--no_preprocessing", *places]) == 0
    file = tmp_path / "preprocessed" / NAME / "published.json"
    plans = Plans.load(file)
    configurations = {name: small(c) for name, c in plans.configurations.items()}
    dataclasses.replace(plans, configurations=configurations).save(file)
    assert preprocess.main(["-d", "1", "-plans_name", "published", "-np", "0", *places]) == 0
    last, few = f"{method}_published", ("--workers", "0", "--threads", "1", "-device", "cpu")
    assert train.main(["1", last, "0", "-p", "published", *few, *places]) == 0
    found = sorted(place.parent for place in (tmp_path / "results").rglob("checkpoint_final*"))
    folders = [folder for folder in found if folder.name != MEASURING]  # of so few cases
    assert len(folders) == len(plans.chain(last))
    for folder in folders:
        assert checkpoint_file(folder, "final").is_file() and Measured.load(folder)
    if method != "apga":  # of the planned side and width, whatever was measured
        placement, c = Measured.load(folders[0]).placement, configurations[last]
        assert placement is not None and (placement.side, placement.sigma) == (c.patch_size, ())
    out = tmp_path / "points"
    found = ("-d", "1", "-p", "published", "-c", last, "-f", "0", "-device", "cpu")
    assert predict.main(["-i", str(raw / "imagesTs"), "-o", str(out), *found, *places]) == 0
    points = annotations.read_table(out / "landmarks.csv")["phantom_006"]
    assert set(points.names) == set(POINTS[ndim]) and np.isfinite(points.points[:, :ndim]).any()


def test_batch_norm_of_cells_is_that_of_published_networks() -> None:
    """Of the planned options: the biases that it cancels count in the published size."""
    for c, kind in zip(stages("global_to_local", CEPH), (GlobalCells, LocalCells), strict=True):
        with torch.device("meta"):
            network = trainer_of(CEPH, c).build_network()
        norms = {type(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)}
        assert isinstance(network, kind) and norms == {nn.BatchNorm2d}
