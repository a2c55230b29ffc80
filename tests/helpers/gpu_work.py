"""What tests let a pretended GPU do, as functions that a fresh process can import; see `pretended_gpu`."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pretended_gpu import CUDA, PretendedGpu
from torch import Tensor

from autolmk.conformance import example_plans
from autolmk.data.store import Store, StoredCase, preprocessing_digest
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks
from autolmk.methods.trainer import Trainer, trainer_class
from autolmk.networks.precision import MixedPrecision
from autolmk.planning.memory import count_saved, random_batch
from autolmk.plans import Augmentation, Normalization, Plans, Schedule, SliceGroup, Windows
from autolmk.prediction.chain import look_through
from autolmk.prediction.stage import Prepared
from autolmk.training.schedule import Limits
from autolmk.training.stages import load_chain, train_stages
from autolmk.training.state import Run
from autolmk.training.work import StageWork

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


def a_trainer(kind: str, ndim: int, n_landmarks: int = 5) -> Trainer:
    name, options, per_sample = KINDS[kind]
    cls = trainer_class(name)
    names = tuple(f"L{i}" for i in range(n_landmarks))
    groups = (SliceGroup(0, tuple(names[i] for i in GROUP)),) if options.get("correlated") else ()
    windows = Windows("landmark", per_sample=per_sample, groups=groups) if cls.looks_at == "landmarks" else None
    plans = example_plans(ndim, trainer=name, options=options, windows=windows)
    one = plans.configurations["example"]
    maps = tuple(dataclasses.replace(m, landmarks=names[:2]) for m in one.label_maps)
    one = dataclasses.replace(one, label_maps=maps, batch_size=1)
    configurations = {**plans.configurations, "example": one}
    plans = dataclasses.replace(plans, landmarks=names, pairs=(), sometimes_absent=(), configurations=configurations)
    return cls(plans, one)


def a_run(trainer: Trainer, folder: Path, device: torch.device | str = CUDA) -> Run:
    folder.mkdir(exist_ok=True)
    return Run(trainer, folder, torch.device(device), 0, Limits(100, None), 0)


def a_batch(trainer: Trainer, seed: int = 0) -> dict[str, Any]:
    """As loaders make it."""
    torch.manual_seed(seed)
    batch = random_batch(trainer, trainer.configuration.batch_size, device="cpu")
    return {**{name: tensor.numpy() for name, tensor in batch.items()}, "cases": ["case"]}


def resumed(trainer: Trainer, folder: Path, device: torch.device | str = CUDA) -> Run:
    run = a_run(trainer, folder, device)
    run.restore(checkpoint.load(checkpoint_file(folder, "latest")))
    return run


def numbers(run: Run) -> list[Tensor]:
    """All that a step changes."""
    moments = [v for state in run.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return [t.detach().cpu() for t in (*run.parameters, *run.averaged.network.parameters(), *moments)]


def steps(gpu: PretendedGpu, kind: str, ndim: int, n_landmarks: list[int], folder: Path) -> dict[str, Any]:
    """Two steps, a checkpoint, and a third step by the run and by one that goes on from there; and the kernels that a
    step starts with so many landmarks."""
    return {"launches": launches(gpu, kind, ndim, n_landmarks, folder), **_two_steps(gpu, kind, ndim, folder)}


def _two_steps(gpu: PretendedGpu, kind: str, ndim: int, folder: Path) -> dict[str, Any]:
    trainer = a_trainer(kind, ndim)
    batches = [a_batch(trainer, seed) for seed in range(3)]
    run = a_run(trainer, folder)
    run.step(batches[0])
    gpu.forget()
    run.step(batches[1])
    waited = gpu.waited()
    run.save_latest()
    other = resumed(trainer, folder)
    for one in (run, other):
        one.step(batches[2])
        one.look()
    pairs = list(zip(numbers(run), numbers(other), strict=True))
    return {
        "waited": waited,
        "dtype": run.precision.describe(),
        "differing": sum(not torch.equal(a, b) for a, b in pairs),
        "finite": all(bool(a.isfinite().all()) for a, _ in pairs),
        "devices": sorted({str(p.device) for p in run.parameters}),
        "losses": [run.last_loss, other.last_loss],
    }


def launches(gpu: PretendedGpu, kind: str, ndim: int, n_landmarks: list[int], folder: Path) -> list[int]:
    """Kernels that a step starts, by number of landmarks."""
    found = []
    for n in n_landmarks:
        trainer = a_trainer(kind, ndim, n)
        run = a_run(trainer, folder / str(n))
        gpu.forget()
        run.step(a_batch(trainer))
        found.append(sum(gpu.launches.values()))
    return found


def decoded(gpu: PretendedGpu, kinds: list[str], ndim: int) -> dict[str, dict[str, float]]:
    """How far mirrored scores, and candidates, of the device are from those of the CPU; and whether they stay there."""
    found = {}
    for kind in kinds:
        trainer = a_trainer(kind, ndim)
        codec, batch = trainer.build_codec().eval(), random_batch(trainer, 1, device="cpu")
        network = trainer.prediction_network(trainer.build_network())
        partner = [1, 0, *range(2, trainer.n_landmarks)]
        with torch.inference_mode():
            scores = codec.scores(network(batch["data"]))
            there = scores.to(CUDA)
            apart = {}
            for axis in range(ndim):
                ours = codec.mirror(scores.clone(), axis, partner)
                apart[f"mirror {axis}"] = float((codec.mirror(there, axis, partner).cpu() - ours).abs().max())
            a, b = codec.decode(scores), codec.to(CUDA).decode(there)
            for name in ("voxels", "log_odds", "spread"):
                one, other = getattr(a, name).nan_to_num(), getattr(b, name).nan_to_num()
                apart[name] = float((one - other).abs().max()) if other.device.type == "cpu" else -1.0
        found[kind] = apart
    return found


def begin(gpu: PretendedGpu | None, folder: Path) -> None:
    """A step, and a checkpoint; gpu None: on the CPU."""
    run = a_run(a_trainer("heatmap", 2), folder, "cpu" if gpu is None else CUDA)
    run.step(a_batch(run.trainer))
    run.save_latest()


def go_on(gpu: PretendedGpu | None, folder: Path) -> dict[str, Any]:
    """From there with one more step."""
    trainer = a_trainer("heatmap", 2)
    saved = checkpoint.load(checkpoint_file(folder, "latest")).tensors
    run = resumed(trainer, folder, "cpu" if gpu is None else CUDA)
    kept = [torch.equal(p.detach().cpu(), saved[f"training.network.{n}"]) for n, p in run.network.named_parameters()]
    run.step(a_batch(trainer, 1))
    run.look()
    return {
        "iteration": run.iteration,
        "kept": all(kept),
        "loss": run.last_loss,
        "scale": float(run.precision.scaler.get_scale()),
    }


def saved_on_cuda(trainer: Trainer, batch_size: int) -> int:
    """Bytes that a step keeps for its backward pass, with autocast's copies of weights, on a fake GPU: by the rules of
    torch's own autocast for CUDA."""
    network, codec = trainer.build_network().to(CUDA), trainer.build_codec().to(CUDA)
    forward = MixedPrecision(network, CUDA, torch.bfloat16)

    def step() -> Tensor:
        batch = random_batch(trainer, batch_size, device=CUDA)
        return torch.stack([loss.float() for loss in trainer.training_step(forward, codec, batch).values()]).sum()

    return count_saved(network, step).total


def timed_saved_on_cuda(trainer: Trainer, batch_size: int) -> tuple[int, float]:
    """`saved_on_cuda`, and the CPU seconds that counting took."""
    before = time.process_time()
    return saved_on_cuda(trainer, batch_size), time.process_time() - before


# -- whole methods -----------------------------------------------------------------------------------------------------

METHODS = {
    "heatmap": ("heatmap",),
    "apga": ("apga",),
    "coarse_to_fine": ("coordinates", "fine"),
    "global_to_local": ("global_cells", "local_cells"),
}
TRAIN, VAL = [f"case{i}" for i in range(4)], ["case4"]
SIDE = 16


def a_chain(method: str, ndim: int) -> Plans:
    """Stages that take two steps each, on images of 16 voxels a side."""
    plans, configurations = example_plans(ndim), {}
    for name in METHODS[method]:
        cls = trainer_class(name)
        per_sample = KINDS[name][2]
        landmark = cls.looks_at == "landmarks"
        beyond = {"least_side": (8,) * ndim, "search": ndim == 2}  # 9 windows around a landmark, not 27
        windows = Windows("landmark", per_sample=per_sample, **beyond) if landmark else Windows("whole")
        configurations[name] = dataclasses.replace(
            plans.configurations["example"],
            trainer=name,
            spacing=(1.0,) * ndim,
            patch_size=(SIDE,) * ndim,
            normalization=(Normalization("none"),),
            sigma=(2.0,) * ndim,
            windows=windows,
            label_maps=() if name != "apga" else plans.configurations["example"].label_maps,
            augmentation=Augmentation((5.0,) * (3 if ndim == 3 else 1), (0.9, 1.1), (1.0,) * ndim, mirror_axis=0),
            schedule=Schedule(1, 2, None, 1e-3, 1e-2, 0.9, 0.9),
            previous_stage=METHODS[method][0] if landmark else None,
        )
    return dataclasses.replace(plans, channel_names=("CT",), sometimes_absent=(), configurations=configurations)


def a_store(folder: Path, plans: Plans) -> Store:
    """A blob a landmark on noise."""
    store, rng, ndim = Store(folder), np.random.default_rng(0), plans.ndim
    grid = np.stack(np.meshgrid(*[np.arange(float(SIDE))] * ndim, indexing="ij"), -1)
    configuration = next(iter(plans.configurations.values()))
    for case in [*TRAIN, *VAL]:
        voxels = rng.uniform(3, SIDE - 4, (len(plans.landmarks), ndim))
        image = rng.normal(0, 0.1, (SIDE,) * ndim)
        for i, point in enumerate(voxels):
            image += (1 + i) * np.exp(-((grid - point) ** 2).sum(-1) / 4)
        marks = Landmarks(plans.landmarks, voxels[:, ::-1].copy(), np.ones(len(voxels), dtype=np.int8))
        geometry = Geometry.from_parts((SIDE,) * ndim, (1.0,) * ndim)
        digest = preprocessing_digest(plans, configuration)
        store.write(case, StoredCase(case, image[None].astype(np.float32), geometry, (0.0,), marks, case, "", digest))
    return store


def method(gpu: PretendedGpu, name: str, ndim: int, folder: Path) -> dict[str, Any]:
    """Trains all stages, which validates, and predicts."""
    logging.disable()
    plans = a_chain(name, ndim)
    store = a_store(folder / "store", plans)
    works = [StageWork(stage, trainer_class(stage)(plans, c), store) for stage, c in plans.configurations.items()]
    subjects = {case: case for case in [*TRAIN, *VAL]}
    fold = folder / "fold_0"
    finished = train_stages(works, TRAIN, VAL, fold, subjects=subjects, device="cuda", compile=False)
    stored = store.load(VAL[0])
    prepared = [Prepared(stored.image(), stored.fill)] * len(works)
    found = look_through(load_chain(works, fold, CUDA), prepared)
    return {
        "finished": finished,
        "finite": bool(np.isfinite(found.candidates[:, 0]).all()),
        "validated": sorted(file.name for file in (fold / "validation").iterdir()),
    }
