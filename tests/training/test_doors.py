"""What a trainer may change beside network, codec and loss: each change works, and survives being broken off."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from test_training import TRAIN, VAL, assert_same_weights, tiny_plans, weights, write_store
from torch import Tensor, nn

from autolmk.data.store import Store
from autolmk.data.training_sample import TrainingSample
from autolmk.errors import AutolmkError
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.log import read_log
from autolmk.methods.progress import Event, HeldOutCase, Progress, TrainingCase
from autolmk.trainers.heatmap import HeatmapTrainer
from autolmk.training.fit import fit
from autolmk.training.loop import Loop
from autolmk.training.state import Run

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


@pytest.fixture(scope="module")
def unbroken(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[[type[HeatmapTrainer]], Path]:
    """The folder of a trainer's unbroken run, which is trained once."""
    known: dict[type, Path] = {}

    def trained(kind: type[HeatmapTrainer]) -> Path:
        if kind not in known:
            known[kind] = tmp_path_factory.mktemp(kind.__name__) / "fold_0"
            assert train(store, known[kind], kind)
        return known[kind]

    return trained


Unbroken = Callable[[type[HeatmapTrainer]], Path]


@pytest.mark.parametrize("kind", [Scheduled, Teaching, Shifting, Weighing, Remembering, Judging])
@pytest.mark.parametrize(("saved", "killed"), [(7, 8), (5, 9)])
def test_a_run_that_is_broken_off_ends_as_an_unbroken_one(
    kind: type[HeatmapTrainer],
    saved: int,
    killed: int,
    store: Store,
    unbroken: Unbroken,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken_off(store, tmp_path, kind, monkeypatch, saved=saved, killed=killed)
    assert_same_weights(unbroken(kind), tmp_path)


@pytest.mark.parametrize("kind", [Weighing, Remembering, Judging])
def test_what_an_epoch_s_end_does_is_done_once(
    kind: type[HeatmapTrainer], store: Store, unbroken: Unbroken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second validation, right after a checkpoint that knows the steps of the epoch and not its end."""
    predict, calls = Loop._predict, []

    def crashing(loop: Loop, *arguments: Any, final: bool) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise _Killed
        return predict(loop, *arguments, final=final)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_predict", crashing)
        patch.setattr(Loop, "_save_due", lambda self, at_least: True)
        with pytest.raises(_Killed):
            train(store, tmp_path, kind)
    record = checkpoint.read_record(checkpoint_file(tmp_path, "latest"))
    assert record["closed"] < record["iteration"]
    assert train(store, tmp_path, kind)
    assert_same_weights(unbroken(kind), tmp_path)


def entries(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in read_log(folder) if entry["kind"] == kind]


def test_the_rate_is_the_trainer_s_and_groups_keep_their_names(
    store: Store, unbroken: Unbroken, tmp_path: Path
) -> None:
    rates = [entry["learning_rate"] for entry in entries(unbroken(Scheduled), "epoch")]
    assert rates == pytest.approx([0.01, 0.01, 0.002, 0.002])  # of the first group, whose own rate is 0.02
    (tmp_path / "stop").touch()
    assert not train(store, tmp_path, Scheduled)
    groups = checkpoint.read_record(checkpoint_file(tmp_path, "latest"))["optimizer"]["param_groups"]
    assert [{name.partition(".")[0] for name in group["param_names"]} for group in groups] == [{"codec"}, {"network"}]


def test_a_step_knows_its_progress_and_the_teacher_follows(unbroken: Unbroken) -> None:
    Teaching.seen.clear()
    folder = unbroken(Teaching)
    if Teaching.seen:  # where this test trained it
        assert Teaching.seen == pytest.approx([i / 20 for i in range(20)])
    teacher = [entry["teacher"] for entry in entries(folder, "epoch")]
    assert all(value > 0 for value in teacher)


def test_weights_say_which_cases_are_drawn(store: Store, unbroken: Unbroken, tmp_path: Path) -> None:
    """The first case never; another one as often as its loss says. A worker changes nothing."""
    Weighing.asked.clear()
    assert train(store, tmp_path, Weighing, workers=1)
    asked = list(Weighing.asked)  # before another one is trained
    assert_same_weights(unbroken(Weighing), tmp_path)
    assert len(asked) == 1 + EPOCHS
    seen = {name: case.seen for name, case in asked[-1].items()}
    assert seen[TRAIN[0]] == 0 and 20 < sum(seen.values()) <= 40
    assert all(case.loss is None and case.seen == 0 for case in asked[0].values())
    assert asked[-1][TRAIN[1]].landmarks.names == ("bright", "dark", "rare")


def test_events_tell_what_happened_in_order(store: Store, tmp_path: Path) -> None:
    Remembering.heard.clear()
    assert train(store, tmp_path, Remembering, epochs=1)
    kinds = [event.kind for event in Remembering.heard]
    assert kinds[0] == "started" and kinds[1:6] == ["iteration_completed"] * 5 and kinds[-1] == "completed"
    assert kinds.index("epoch_completed") > 5 and "validation_completed" in kinds
    (epoch,) = [event for event in Remembering.heard if event.kind == "epoch_completed"]
    assert epoch.numbers["loss"] > 0 and epoch.progress == Progress(1.0, 5, 5, 1)
    assert Remembering.heard[-2].numbers["mre"] == entries(tmp_path, "validation")[-1]["mre"]


def test_the_chosen_metric_picks_the_best_weights_and_the_trainer_ends_the_run(unbroken: Unbroken) -> None:
    folder = unbroken(Judging)
    validations = entries(folder, "validation")
    whole = [entry for entry in validations if entry["cases"] == len(VAL)]
    assert all(entry["worst"] >= entry["mre"] and entry["nothing"] is None for entry in whole)
    record = checkpoint.read_record(checkpoint_file(folder, "best"))
    assert record["best"] == len(VAL) and record["iteration"] == whole[0]["iteration"]  # later ones are no better
    final = checkpoint.read_record(checkpoint_file(folder, "final"))["iteration"]
    assert final < 20 and final == whole[1]["iteration"]


# -- answers that cannot be used ---------------------------------------------------------------------------------------


def answering(method: str, answer: Any) -> type[HeatmapTrainer]:
    return type("Answering", (HeatmapTrainer,), {method: lambda self, *_: answer})


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("learning_rate", float("nan"), r"(?s)learning_rate returns.*nan.*a finite number of 0 or more"),
        ("learning_rate", "fast", r"(?s)learning_rate returns.*'fast'"),
        ("case_weights", {"case0": 1.0}, r"(?s)case_weights returns.*other cases than asked for: case1, case2"),
        ("case_weights", dict.fromkeys(TRAIN, 0.0), r"(?s)case_weights returns.*0 for every case"),
        ("case_weights", {**dict.fromkeys(TRAIN, 1.0), "case3": -1.0}, r"(?s)case_weights returns.*-1.0 for case3"),
        ("metrics", {"mre": 1.0}, r"(?s)metrics returns.*mre, measured by autolmk already"),
        ("metrics", {"worst": "bad"}, r"(?s)metrics returns.*'bad' for worst"),
        ("state_dict", {"queue": {1, 2}}, r"(?s)a checkpoint cannot hold.*trainer.queue is of type set"),
    ],
)
def test_an_answer_that_cannot_be_used_is_named(
    method: str, answer: Any, message: str, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(AutolmkError, match=message) as raised:
        train(store, tmp_path, answering(method, answer), epochs=1)
    assert f"Answering.{method}" in str(raised.value.remedy)


def test_a_state_that_nobody_takes_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    assert not train(store, tmp_path, answering("state_dict", {"steps": 3}))
    with pytest.raises(AutolmkError, match=r"(?s)a state of its own.*steps.*write load_state_dict"):
        train(store, tmp_path, HeatmapTrainer)


def test_a_run_that_an_earlier_version_began_goes_on(store: Store, tmp_path: Path) -> None:
    """Its checkpoint knows neither names of parameters nor what a trainer remembers."""
    assert train(store, tmp_path / "unbroken", HeatmapTrainer, epochs=1)
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "stop").touch()
    assert not train(store, folder, HeatmapTrainer, epochs=1)
    file = checkpoint_file(folder, "latest")
    latest = checkpoint.load(file)
    record = {key: value for key, value in latest.record.items() if key not in ("memory", "trainer_state")}
    for group in record["optimizer"]["param_groups"]:
        del group["param_names"]
    checkpoint.save(file, latest.tensors, record)
    assert train(store, folder, HeatmapTrainer, epochs=1)
    assert_same_weights(tmp_path / "unbroken", folder)


def test_two_runs_of_one_trainer_share_no_state(store: Store, tmp_path: Path) -> None:
    plans = tiny_plans()
    trainer = Remembering(plans, plans.configurations["heatmap"])
    for name in ("first", "second"):
        assert fit(trainer, store, TRAIN, VAL, tmp_path / name, device="cpu", epochs=1, seed=3)
    ours, theirs = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
