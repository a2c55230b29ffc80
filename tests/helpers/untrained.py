"""Model folders of every method as training leaves them, with networks that nobody trained: for tests of what must hold
whatever the weights are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fingerprints import a_fingerprint
from scipy import ndimage

from autolmk.data.stage_windows import Placement
from autolmk.files.serialization import write_json
from autolmk.fold import checkpoint
from autolmk.fold.measured import Measured, measure
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status
from autolmk.methods.trainer import build, trainer_class
from autolmk.planning.planner import plan_dataset, planner_class
from autolmk.planning.request import PlanRequest
from autolmk.plans import Configuration, Plans, SliceGroup, replace_configuration

SIZE = 36  # voxels an axis of images, mm
N = 6  # landmarks


def untrained_plans(method: str, ndim: int, channels: int = 1, *, size: int = SIZE, **options: Any) -> Plans:
    """Of small images, `size` voxels an axis; the first two landmarks are partners, mirroring is allowed. options: of
    the planner; groups: windows of the last three landmarks are seen together, as of landmarks on one slice."""
    groups = options.pop("groups", False)
    base = a_fingerprint(
        spacing=(1.0,) * ndim,
        shape=(float(size),) * ndim,
        n_landmarks=N,
        rotation=(12.0,) * (3 if ndim == 3 else 1),
    )
    names = tuple(f"channel {i}" for i in range(channels))
    fingerprint = replace(base, channel_names=names, intensity=base.intensity * channels, physical_ndim=ndim)
    if ndim == 2:
        statistics = {k: replace(v, spread=v.spread[:2]) for k, v in base.landmark_statistics.items()}
        fingerprint = replace(fingerprint, landmark_statistics=statistics)
    planner = planner_class(method)(options)
    plans = plan_dataset(PlanRequest.of(fingerprint, "cpu", preset="XS"), {method: planner}, plans_name="autolmkPlans")
    if groups:
        name = _last(plans)
        windows = replace(plans.configuration(name).windows, groups=(SliceGroup(0, ("L3", "L4", "L5")),))
        trained = {**plans.configuration(name).options, "correlated": True}
        plans = replace_configuration(plans, name, windows=windows, options=trained)
    return replace(
        plans,
        pairs=(("L0", "L1"),),
        sometimes_absent=("L2",),
        configurations={name: _mirrored(c) for name, c in plans.configurations.items()},
    )


def _mirrored(c: Configuration) -> Configuration:
    if c.windows.groups:
        return c
    return replace(c, augmentation=replace(c.augmentation, mirror_axis=0))


def _last(plans: Plans) -> str:
    """The configuration that no other one begins with."""
    before = {c.previous_stage for c in plans.configurations.values()}
    return next(name for name in plans.configurations if name not in before)


def untrained_model(folder: Path, plans: Plans, folds: tuple[str, ...] = ("0",)) -> Path:
    """The folder of the plans' first method. Each fold has weights and measured numbers of its own."""
    name = _last(plans)
    chain = plans.chain(name)
    trainer = plans.configuration(name).trainer
    model = folder / f"{trainer}__{plans.plans_name}__{name}"
    plans.save(model / "plans.json")
    for k, fold in enumerate(folds):
        place = model / f"fold_{fold}"
        for stage in reversed(chain):
            _stage(place, plans, stage, seed=k)
            place = place / str(plans.configuration(stage).previous_stage)
    return model


def _stage(folder: Path, plans: Plans, name: str, seed: int) -> None:
    configuration = plans.configuration(name)
    trainer = trainer_class(configuration.trainer)(plans, configuration)
    torch.manual_seed(seed)
    network, codec = build(trainer)
    with torch.no_grad():
        for parameter in network.parameters():  # also of last layers, which begin at 0 in some methods
            parameter.add_(0.05 * torch.randn_like(parameter))
        for key, parameter in codec.named_parameters():
            if key.endswith("elsewhere"):
                parameter.fill_(-2.0)
    tensors = checkpoint.module_tensors(network, "network") | checkpoint.module_tensors(codec, "codec")
    checkpoint.save(checkpoint.checkpoint_file(folder, "final"), tensors, {})
    _measured(plans, configuration, seed).save(folder)
    record = {"trainer": configuration.trainer, "options": trainer.options, "configuration": configuration}
    write_json(folder / "config.json", record)


def _measured(plans: Plans, configuration: Configuration, seed: int) -> Measured:
    rng = np.random.default_rng(seed)
    d = plans.ndim
    shape = rng.uniform(-10, 10, (N, d))
    cases = [
        Landmarks(plans.landmarks, shape + rng.normal(0, 1, (N, d)) + SIZE / 2, np.full(N, Status.PRESENT))
        for _ in range(8)
    ]
    measured = replace(measure(cases), presence_slope=0.7, presence_intercept=0.2, presence_cases=8)
    if configuration.windows.kind != "landmark":
        return measured
    errors = rng.normal(0, 2, (8, N, d))
    listed = tuple(tuple(tuple(map(float, point)) for point in case) for case in errors)
    placement = Placement(configuration.patch_size, 2.0, listed, tuple(f"case{i}" for i in range(8)))
    return replace(measured, placement=placement)


def noise_image(ndim: int, channels: int = 1, seed: int = 0, *, size: int = SIZE) -> Image:
    """Smooth noise on an oblique grid with reversed axes, about `size` voxels an axis."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(size - 4, size + 8, ndim))
    noise = np.stack([ndimage.gaussian_filter(rng.normal(0, 1, shape), 2.0) for _ in range(channels)])
    array = (noise / noise.std() * 40 + 120).clip(0, 255).astype(np.float32)
    return Image(array, Geometry.from_parts(shape, (0.9, 1.1, 1.3)[:ndim], (5.0, -7.0, 11.0)[:ndim], _turn(ndim)))


def _turn(ndim: int) -> FloatArray:
    """(P, P) axes: reversed order, one of them flipped, turned by 0.2 radians in a plane."""
    c, s = np.cos(0.2), np.sin(0.2)
    turn = np.eye(ndim)
    turn[:2, :2] = [[c, -s], [s, c]]
    axes = np.eye(ndim)[:, ::-1].copy()
    axes[:, 0] *= -1
    return np.asarray(turn @ axes)
