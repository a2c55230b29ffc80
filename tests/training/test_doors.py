"""What a trainer may change beside network, codec and loss: each change works, and survives being broken off."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from test_training import TRAIN, VAL, assert_same_weights, tiny_plans, write_store
from torch import Tensor, nn

from autolmk.data.store import Store
from autolmk.data.training_sample import TrainingSample
from autolmk.methods.progress import Event, HeldOutCase, Progress, TrainingCase
from autolmk.trainers.heatmap import HeatmapTrainer
from autolmk.training.fit import fit
from autolmk.training.loop import Loop
from autolmk.training.run import Run

EPOCHS = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), tiny_plans())


def train(store: Store, folder: Path, kind: type[HeatmapTrainer], **arguments: Any) -> bool:
    plans = tiny_plans()
    trainer = kind(plans, plans.configurations["heatmap"])
    return fit(trainer, store, TRAIN, VAL, folder, **{"device": "cpu", "epochs": EPOCHS, "seed": 3, **arguments})


class _Killed(Exception):
    pass


def broken_off(
    store: Store, folder: Path, kind: type[HeatmapTrainer], monkeypatch: pytest.MonkeyPatch, *, saved: int, killed: int
) -> None:
    """Killed at a step, after the last checkpoint at another one; then trained to the end."""
    step = Run.step

    def crashing(run: Run, batch: Any) -> None:
        if run.iteration == saved:
            run.save_latest()
        if run.iteration == killed:
            raise _Killed
        step(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", crashing)
        patch.setattr(Loop, "_save_due", lambda self, at_least: False)
        with pytest.raises(_Killed):
            train(store, folder, kind)
    torch.manual_seed(99)
    assert train(store, folder, kind, seed=None)


class Scheduled(HeatmapTrainer):
    """The rate of its own, and no weight decay of the codec's parameters."""

    def learning_rate(self, progress: Progress) -> float:
        return 0.5 if progress.epoch < 2 else 0.1

    def build_optimizer(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        named = list(parameters)
        groups = [
            {"params": [(n, p) for n, p in named if n.startswith("codec.")], "weight_decay": 0.0, "lr": 0.02},
            {"params": [(n, p) for n, p in named if n.startswith("network.")]},
        ]
        return torch.optim.AdamW(groups, lr=0.01)


class Teaching(HeatmapTrainer):
    """A teacher of averaged weights, a counter, its first weights and a loss that depends on progress."""

    seen: ClassVar[list[float]] = []

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.steps = 0
        self.norms: list[Tensor] = []

    def initialise(self, network: nn.Module) -> None:
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.orthogonal_(parameter)
        self.student, self.teacher = network, copy.deepcopy(network).requires_grad_(False)

    def training_step(self, network: nn.Module, codec: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            for ours, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                ours.lerp_(theirs, 0.1)
        self.steps += 1
        self.norms = [torch.tensor(float(self.steps)), *self.norms][:3]
        Teaching.seen.append(self.progress.share)
        losses = super().training_step(network, codec, batch)
        agreement = (network(batch["data"]) - self.teacher(batch["data"])).square().mean()
        return {**losses, "teacher": self.progress.share * agreement * float(self.norms[-1])}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "norms": self.norms, "teacher": dict(self.teacher.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps, self.norms = state["steps"], list(state["norms"])
        self.teacher.load_state_dict(state["teacher"])


class Shifting(HeatmapTrainer):
    """Windows moved by whole voxels, and dimmed around a point, more so the later it is."""

    def augment(self, rng: np.random.Generator, sample: TrainingSample) -> TrainingSample:
        moved = rng.integers(-2, 3, 2)
        array = np.roll(sample.array, -moved, axis=(1, 2))
        grid = sample.geometry.crop(moved.tolist(), sample.array.shape[1:])
        at = grid.to_voxels(sample.points[0]).round().astype(int).clip(0, 23)
        array[:, at[0], at[1]] *= 1 - min(1.0, sample.iteration / 20)
        return dataclasses.replace(sample, array=array, geometry=grid)


class Weighing(HeatmapTrainer):
    """Cases drawn by their loss, the first one never."""

    asked: ClassVar[list[dict[str, TrainingCase]]] = []

    def case_weights(self, cases: Mapping[str, TrainingCase]) -> dict[str, float]:
        Weighing.asked.append(dict(cases))
        np.random.rand()  # changes nothing of the run
        return {name: 0.0 if name == TRAIN[0] else (case.loss or 1.0) ** 4 for name, case in cases.items()}


class Remembering(HeatmapTrainer):
    """Counts epochs and validations by events; its loss depends on the counts, so that a miscount shows."""

    heard: ClassVar[list[Event]] = []

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.counts = {"epoch_completed": 0, "validation_completed": 0, "iteration_completed": 0}

    def on_event(self, event: Event) -> None:
        Remembering.heard.append(event)
        torch.rand(1)
        if event.kind in self.counts:
            self.counts[event.kind] += 1

    def loss(self, output: Any, target: Any, status: Tensor) -> Any:
        return super().loss(output, target, status) * (1 + 0.1 * sum(self.counts.values()))

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counts = dict(state["counts"])


class Judging(HeatmapTrainer):
    """Keeps the weights of the widest spread, and ends after the second validation."""

    best_by, best_is = "spread", "highest"

    def metrics(self, cases: Mapping[str, HeldOutCase]) -> dict[str, float | None]:
        worst = max(float(np.nanmax(case.errors)) for case in cases.values())
        return {"worst": worst, "spread": float(len(cases)), "nothing": None}

    def stop_early(self, validations: Sequence[Mapping[str, float | None]]) -> bool:
        return len(validations) == 2


@pytest.mark.parametrize("kind", [Scheduled, Teaching, Shifting, Weighing, Remembering, Judging])
@pytest.mark.parametrize(("saved", "killed"), [(7, 8), (5, 9)])
def test_a_run_that_is_broken_off_ends_as_an_unbroken_one(
    kind: type[HeatmapTrainer], saved: int, killed: int, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(store, tmp_path / "unbroken", kind)
    broken_off(store, tmp_path / "broken", kind, monkeypatch, saved=saved, killed=killed)
    assert_same_weights(tmp_path / "unbroken", tmp_path / "broken")
