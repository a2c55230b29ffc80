"""Training and prediction on a pretended GPU: no device is mixed with another, nothing waits within a step, and a step
starts as many kernels for many landmarks as for few. See helpers/pretended_gpu."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_gpu import CUDA, PretendedGpu, on_pretended_gpu

from autolmk.conformance import example_plans
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.methods.trainer import Trainer, trainer_class
from autolmk.planning.memory import random_batch
from autolmk.plans import SliceGroup, Windows
from autolmk.training.run import Run
from autolmk.training.schedule import Limits

Kind = tuple[str, dict[str, Any], int | None]  # a trainer, its options, windows of a sample
GROUP = (0, 2, 3)  # landmarks that lie on one slice
KINDS: dict[str, Kind] = {
    "heatmap": ("heatmap", {}, None),
    "apga": ("apga", {}, None),
    "coordinates": ("coordinates", {}, None),
    "fine": ("fine", {}, 4),
    "fine own": ("fine", {"weights": "own"}, None),
    "fine correlated": ("fine", {"weights": "own", "correlated": True}, None),
    "global_cells": ("global_cells", {}, None),
    "local_cells": ("local_cells", {}, None),
}
EACH = [(kind, ndim) for kind in KINDS for ndim in (2, 3)]
IN_FLOAT16 = [("copy from the device", "_to_copy")]
ALLOWED = {True: (), False: ("sync: _local_scalar_dense: grad_scaler",)}


def a_trainer(kind: str, ndim: int, n_landmarks: int = 5) -> Trainer:
    name, options, per_sample = KINDS[kind]
    cls = trainer_class(name)
    landmark = cls.looks_at == "landmarks"
    names = tuple(f"L{i}" for i in range(n_landmarks))
    groups = (SliceGroup(0, tuple(names[i] for i in GROUP)),) if options.get("correlated") else ()
    windows = Windows("landmark", per_sample=per_sample, groups=groups) if landmark else None
    plans = example_plans(ndim, trainer=name, options=options, windows=windows)
    maps = tuple(dataclasses.replace(m, landmarks=names[:2]) for m in plans.configurations["example"].label_maps)
    one = dataclasses.replace(plans.configurations["example"], label_maps=maps, batch_size=1)
    plans = dataclasses.replace(
        plans, landmarks=names, pairs=(), sometimes_absent=(), configurations={**plans.configurations, "example": one}
    )
    return cls(plans, one)


def a_run(trainer: Trainer, folder: Path, device: torch.device | str = CUDA) -> Run:
    folder.mkdir(exist_ok=True)
    return Run(trainer, folder, torch.device(device), 0, Limits(100, None), 0)


def a_batch(trainer: Trainer, seed: int = 0) -> dict[str, Any]:
    """As loaders make it."""
    torch.manual_seed(seed)
    batch = random_batch(trainer, trainer.configuration.batch_size, device="cpu")
    return {**{name: tensor.numpy() for name, tensor in batch.items()}, "cases": ["case"]}


