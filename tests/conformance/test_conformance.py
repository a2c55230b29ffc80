"""Shipped methods and the documented template keep the contracts; broken ones are told what is wrong."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autolmk.codecs import Candidates, HeatmapCodec
from autolmk.data.training_sample import TrainingSample
from autolmk.errors import AutolmkError
from autolmk.landmarks import Status
from autolmk.methods.losses import spatial_cross_entropy
from autolmk.methods.progress import Progress
from autolmk.methods.registry import PLANNERS, TRAINERS
from autolmk.methods.trainer import Trainer, trainer_class
from autolmk.planners.heatmap import HeatmapPlanner
from autolmk.planning.planner import Planner, planner_class
from autolmk.plans import Configuration
from autolmk.testing import check_planner, check_trainer
from autolmk.trainers.coarse_to_fine import FineTrainer
from autolmk.trainers.heatmap import HeatmapTrainer

PAGE = Path(__file__).resolve().parents[2] / "documentation" / "write_a_trainer.md"


@pytest.mark.parametrize("name", TRAINERS)
def test_shipped_trainers(name: str) -> None:
    check_trainer(trainer_class(name))


@pytest.mark.parametrize("name", PLANNERS)
def test_shipped_planners(name: str) -> None:
    check_planner(planner_class(name))


def test_the_documented_template_is_a_trainer(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "my_trainer.py").write_text(code)
    check_trainer(trainer_class(f"{tmp_path / 'my_trainer.py'}:WideTrainer"), options={"widen": 2.0})


# -- what is broken is found -------------------------------------------------------------------------------------------


class Unfrozen(HeatmapTrainer):
    @dataclass
    class Options:  # type: ignore[misc]
        n_candidates: int = 5


class Heavy(HeatmapTrainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.extra = nn.Identity()


class Random(HeatmapTrainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.luck = float(torch.rand(1))


class AnyOption(HeatmapTrainer):
    def __init__(self, plans: Any, configuration: Any, options: Any = None) -> None:
        super().__init__(plans, configuration)


class FixedCount(HeatmapTrainer):
    n_landmarks = 5


class Unseeded(HeatmapTrainer):
    calls = 0

    def build_network(self) -> nn.Module:
        network = super().build_network()
        Unseeded.calls += 1
        with torch.no_grad():
            next(network.parameters()).add_(Unseeded.calls)
        return network


class Unused(HeatmapTrainer):
    def build_network(self) -> nn.Module:
        network = super().build_network()
        network.unused = nn.Conv2d(1, 1, 1)
        return network


class BiasBeforeNorm(HeatmapTrainer):
    def build_network(self) -> nn.Module:
        network = super().build_network()
        convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
        convolution.bias = nn.Parameter(torch.zeros(convolution.out_channels))
        return network


class ForgetsPoints(HeatmapTrainer):
    def loss(self, output: Any, target: Any, status: Tensor) -> Tensor:
        return output.square().mean() + target.elsewhere.square().sum() + status.sum()


class UnknownAsPresent(HeatmapTrainer):
    def loss(self, output: Any, target: Any, status: Tensor) -> Tensor:
        target = dataclasses.replace(target, centres=target.centres.nan_to_num())
        return spatial_cross_entropy(output, target, torch.full_like(status, Status.PRESENT))


class AbsentAsUnknown(HeatmapTrainer):
    def loss(self, output: Any, target: Any, status: Tensor) -> Tensor:
        return super().loss(output, target, torch.where(status == Status.ABSENT, Status.UNKNOWN, status))


class NotAScalar(HeatmapTrainer):
    def loss(self, output: Any, target: Any, status: Tensor) -> Tensor:
        return super().loss(output, target, status)[None]


class Uphill(HeatmapTrainer):
    def build_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(parameters), lr=1e-2, maximize=True)


class WrongMirror(HeatmapTrainer):
    def build_codec(self) -> HeatmapCodec:
        codec = super().build_codec()
        codec.mirror = lambda scores, axis, partner: scores.flip(axis + 2)  # type: ignore[method-assign]
        return codec


class WorstFirst(HeatmapTrainer):
    def build_codec(self) -> HeatmapCodec:
        codec = super().build_codec()
        decode = codec.decode
        codec.decode = lambda scores: _reversed(decode(scores))  # type: ignore[method-assign]
        return codec


def _reversed(found: Candidates) -> Candidates:
    return Candidates(found.voxels.flip(2), found.log_odds.flip(2), found.spread.flip(2))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Unfrozen, "frozen dataclass"),
        (Heavy, "holds weights"),
        (Random, "draws random numbers"),
        (AnyOption, "unknown option"),
        (FixedCount, "number of landmarks is not that of the plans"),
        (Unseeded, "two networks of one seed differ"),
        (Unused, "no gradient"),
        (BiasBeforeNorm, "change nothing"),
        (ForgetsPoints, "place does not change the loss"),
        (UnknownAsPresent, "unknown landmark's place changes the loss"),
        (AbsentAsUnknown, "absent is knowledge"),
        (NotAScalar, "no finite scalar"),
        (WrongMirror, "moves candidates"),
        (WorstFirst, "not sorted"),
        (Uphill, "do not lower the loss"),
        (Trainer, "build_codec, build_network, loss"),
        (dict, "is no trainer"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_broken_trainers(broken: Any, message: str) -> None:
    with pytest.raises(AutolmkError, match=message) as raised:
        check_trainer(broken, ndims=(2,))
    assert raised.value.remedy and raised.value.expected and broken.__name__ in raised.value.problem


class OwnWeights(FineTrainer):
    """A network that must see all landmarks says so."""

    def build_network(self) -> nn.Module:
        if self.configuration.windows.per_sample is not None:
            raise ValueError("every landmark has weights of its own")
        return super().build_network()


class ForgetsOrder(FineTrainer):
    def build_network(self) -> nn.Module:
        network = super().build_network()
        forward = network.forward
        network.forward = lambda data, landmarks: forward(data, landmarks.sort(1).values)  # type: ignore[method-assign]
        return network


class NoWindows(FineTrainer):
    def build_network(self) -> nn.Module:
        return HeatmapTrainer.build_network(self)  # type: ignore[arg-type]


def test_trainers_that_look_at_landmarks() -> None:
    check_trainer(OwnWeights, ndims=(2,))
    with pytest.raises(AutolmkError, match="windows of 4 landmarks: scores depend on the order"):
        check_trainer(ForgetsOrder, ndims=(2,))
    with pytest.raises(AutolmkError, match=r"in 2D, a window of every landmark and in 2D, windows of 4 landmarks: "):
        check_trainer(NoWindows, ndims=(2,))  # whatever calls the network fails for the same cause, which is said once


# -- what a trainer may change -----------------------------------------------------------------------------------------


class NegativeRate(HeatmapTrainer):
    def learning_rate(self, progress: Progress) -> float:
        return 0.5 - progress.share


class NoNames(HeatmapTrainer):
    def build_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in parameters if p.requires_grad], lr=1e-2)


class OwnNumbers(HeatmapTrainer):
    """Random numbers that no seed of the run reaches."""

    def augment(self, rng: np.random.Generator, sample: TrainingSample) -> TrainingSample:
        return dataclasses.replace(sample, array=sample.array * np.float32(np.random.rand()))


class PointsLeftBehind(HeatmapTrainer):
    def augment(self, rng: np.random.Generator, sample: TrainingSample) -> TrainingSample:
        return dataclasses.replace(sample, array=sample.array[:, 1:])


class SomeCases(HeatmapTrainer):
    def case_weights(self, cases: Any) -> dict[str, float]:
        return dict.fromkeys(list(cases)[1:], 1.0)


class TakenName(HeatmapTrainer):
    def metrics(self, cases: Any) -> dict[str, float]:
        return {"median": 1.0}


class NoSuchMetric(HeatmapTrainer):
    best_by = "accuracy"


class Undecided(HeatmapTrainer):
    def stop_early(self, validations: Any) -> Any:
        return validations[-1]["mre"]


class Forgetful(HeatmapTrainer):
    """Its steps depend on a count that no checkpoint holds."""

    steps = 0

    def training_step(self, network: nn.Module, codec: Any, batch: Any) -> dict[str, Tensor]:
        self.steps += 1
        return {k: v * self.steps for k, v in super().training_step(network, codec, batch).items()}


class WritesOnly(HeatmapTrainer):
    def state_dict(self) -> dict[str, Any]:
        return {"steps": 3}


class Unpackable(HeatmapTrainer):
    def state_dict(self) -> dict[str, Any]:
        return {"queue": {1, 2}}

    def load_state_dict(self, state: Any) -> None:
        pass


class Grows(HeatmapTrainer):
    def initialise(self, network: nn.Module) -> None:
        network.more = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (NegativeRate, "learning_rate is no factor of the rate"),
        (NoNames, r"build_optimizer, which gets \(name, parameter\) pairs, failed"),
        (OwnNumbers, "augment is no function of its rng"),
        (PointsLeftBehind, "intensities that do not fit"),
        (SomeCases, "case_weights names other cases"),
        (TakenName, "metrics have names that are taken"),
        (NoSuchMetric, "best_by names no metric"),
        (Undecided, "stop_early decides nothing"),
        (Forgetful, "a run that is resumed goes on otherwise"),
        (WritesOnly, "state_dict has no counterpart"),
        (Unpackable, "a checkpoint cannot hold"),
        (Grows, "initialise changes the network's parameters"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_changes_that_break_the_contract(broken: Any, message: str) -> None:
    with pytest.raises(AutolmkError, match=message):
        check_trainer(broken, ndims=(2,))


class Everything(NegativeRate, TakenName, SomeCases, Forgetful, WrongMirror):
    """Five mistakes."""


def test_all_breaches_are_told_at_once() -> None:
    with pytest.raises(AutolmkError, match=r"Everything breaks the contract of a trainer in \d ways") as raised:
        check_trainer(Everything)
    said = str(raised.value)
    for message in ("no factor of the rate", "taken", "names other cases", "goes on otherwise", "moves candidates"):
        assert said.count(message) == 1
        assert re.search(rf"\d\. in 2D and in 3D: [^\n]*{message}", said)  # once, with all places where it was met
    assert said.index("goes on otherwise") < said.index("an unknown landmark's place changes")  # causes before effects


class Remembering(HeatmapPlanner):
    """The shipped planner, each plan made once: counting memory takes most of these tests' time."""

    made: ClassVar[dict[Any, dict[str, Configuration]]] = {}

    def plan(self, fingerprint: Any, **demands: Any) -> dict[str, Configuration]:
        key = (fingerprint.ndim, tuple(demands.items()))
        if key not in self.made:
            self.made[key] = super().plan(fingerprint, **demands)
        return self.made[key]


def changed(**changes: Callable[[Configuration], Any]) -> type[Planner]:
    """A planner that changes fields of what the shipped one plans."""

    class Changed(Remembering):
        def plan(self, *args: Any, **options: Any) -> dict[str, Configuration]:
            planned = super().plan(*args, **options)
            return {
                name: dataclasses.replace(c, **{key: change(c) for key, change in changes.items()})
                for name, c in planned.items()
            }

    return Changed


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (changed(sigma=lambda c: tuple(0.1 * s for s in c.sigma)), "sigma must be at least"),
        (changed(patch_size=lambda c: tuple(n + 1 for n in c.patch_size)), "no multiple of the network's strides"),
        (changed(patch_size=lambda c: c.patch_size[:1]), "one an axis each"),
        (changed(windows=lambda c: dataclasses.replace(c.windows, least_side=(1,))), "least_side is no multiple"),
        (changed(normalization=lambda c: c.normalization[:1]), "normalization is wrong"),
        (changed(batch_size=lambda c: 500), "more memory than its target"),
        (changed(why=lambda c: {**c.why, "colour": "blue"}), "explains what is no field"),
        (changed(why=lambda c: {}), "without a reason"),
        (changed(trainer=lambda c: "heatmop"), "trainer is not known"),
        (changed(options=lambda c: {"width": (1, 2)}), "JSON does not keep it"),
        (changed(data_identifier=lambda c: str(torch.rand(1))), "two plans of one fingerprint differ"),
        (changed(previous_stage=lambda c: "coarse"), "windows a landmark need a previous_stage"),
        (changed(spacing=lambda c: tuple(1.0 for _ in c.spacing)), "overwrite_target_spacing"),
        (Planner, "required methods are missing"),
        (dict, "is no planner"),
    ],
)
def test_broken_planners(broken: Any, message: str) -> None:
    with pytest.raises(AutolmkError, match=message):
        check_planner(broken, ndims=(2,))
