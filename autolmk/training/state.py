"""The state of a training run: what one step changes, and what a checkpoint must hold to go on exactly."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import autolmk
from autolmk import ranks
from autolmk.codecs import Codec
from autolmk.codecs.balance import counts, restore_counts
from autolmk.errors import AutolmkError
from autolmk.files.digest import digest
from autolmk.files.serialization import from_json, read_json, to_json
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import Checkpoint, checkpoint_file, module_tensors, restore_module
from autolmk.methods.progress import Progress
from autolmk.methods.trainer import Trainer, named_parameters
from autolmk.networks.precision import MixedPrecision, Precision, compiled
from autolmk.training import layer_rates
from autolmk.training.averaging import Averaged
from autolmk.training.doors import Doors, Memory
from autolmk.training.schedule import MEASURED_CASES, Clock, Limits, ValidationBudget, average_decay
from autolmk.training.sharing import mean_numbers, seed_apart

LOOK_EVERY = 20  # steps between looks at the loss on CUDA, where each look waits for the device
KEYS_SAID = 5  # of those that differ
NO_KEY = "nothing"


class Run:
    """Network, codec, their averages, optimizer and counters of one fold.

    iteration: steps done. closed: iteration at which the last epoch was closed (logged, validated). best: the chosen
    metric's best value so far. All of it, and what the trainer remembers, is in checkpoint_latest; a step is a function
    of it and of the batch alone.
    """

    def __init__(
        self, trainer: Trainer, folder: Path, device: torch.device, seed: int, limits: Limits, n_held_out: int
    ) -> None:
        schedule = trainer.configuration.schedule
        self.trainer, self.folder, self.device, self.seed, self.limits = trainer, folder, device, seed, limits
        self.epoch_length = schedule.iterations_per_epoch
        self.digest = run_digest(trainer)
        self.clock = Clock()
        self.precision = Precision(device, training=True)
        torch.manual_seed(seed)
        self.network = self.precision.place(trainer.build_network()).train()
        trainer.initialise(self.network)
        self.codec = trainer.build_codec().to(device).train()
        self.forward = MixedPrecision(self.network, device, self.precision.dtype)
        self.parameters = [*self.network.parameters(), *self.codec.parameters()]
        buffers = [*self.network.buffers(), *self.codec.buffers()]
        ranks.take_first(
            [*self.parameters, *(b for b in buffers if not b.is_complex())]
        )  # a user's network may draw numbers that the seed does not fix
        self.optimizer = trainer.build_optimizer(named_parameters(self.network, self.codec))
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.doors = Doors(trainer, device)
        self.averaged = Averaged(self.network, self.codec, schedule.ema_decay)
        measures = type(self.codec).measure is not Codec.measure
        self.budget = ValidationBudget(
            schedule.validation_share,
            n_held_out,
            measured=min(n_held_out, MEASURED_CASES) if measures else 0,
            searches=trainer.configuration.previous_stage is not None,
        )
        self.iteration, self.closed = 0, 0
        self.best: float | None = None
        self.best_iteration = 0
        self.last_loss: float | None = None
        self._sums: dict[str, Tensor | float] = {}
        self._summed = 0
        self._unseen: list[tuple[Tensor, list[str]]] = []
        self._moving = [b for b in buffers if b.is_floating_point()]  # what steps may change without gradients

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Set the rates of single layers before the first step; see `layer_rates`."""
        layer_rates.apply(self.optimizer, layer_rates.layers_of(self.network, self.codec), rates)

    # -- where it stands ----------------------------------------------------------------------------------------------

    def progress(self) -> float:
        """Share of the run that is over."""
        elapsed = self.clock.elapsed()
        return self.limits.progress(self.iteration, elapsed, self.budget.reserve(self.limits))

    def stands(self) -> Progress:
        """The progress that the trainer is told."""
        share = self.progress() if self.iteration else 0.0  # the first step counts, also where time is over already
        return Progress(share, self.iteration, self.limits.iterations, self.iteration // self.epoch_length)

    def epoch(self) -> int:
        """Epochs begun or done."""
        return -(-self.iteration // self.epoch_length)

    def at_epoch_end(self) -> bool:
        """Whether an epoch is complete and not closed yet."""
        return self.iteration % self.epoch_length == 0 and self.iteration > self.closed

    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    # -- a step -------------------------------------------------------------------------------------------------------

    def on_device(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The arrays of a batch as tensors; the cases' names stay behind."""
        return {key: self.precision.tensor(value) for key, value in batch.items() if key != "cases"}

    def step(self, batch: Mapping[str, Any]) -> None:
        """One optimizer step on `loading`'s batch. AutolmkError where the loss is not finite."""
        self.trainer.progress = progress = self.stands()
        factor = self.doors.learning_rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.trainer.training_step(self.forward, self.codec, self.on_device(batch))
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self._account({"loss": total, **(losses if len(losses) > 1 else {})}, list(batch["cases"]))
        self.precision.update(total, self.optimizer, self.parameters)
        ranks.take_first(self._moving)
        schedule = self.trainer.configuration.schedule
        self.averaged.decay = average_decay(schedule, self.limits.expected(self.iteration, progress.share))
        self.averaged.update(self.iteration)
        self.iteration += 1

    def compile(self, batch: Mapping[str, Any]) -> None:
        """Use the compiled network from now on, where a trial with this batch works; nothing else changes."""
        before = {name: tensor.clone() for name, tensor in self.network.named_buffers()}
        random, counted = checkpoint.random_state(self.device), counts(self.codec)
        own = copy.deepcopy(dict(self.trainer.state_dict()))

        def trial(network: Any) -> None:
            forward = MixedPrecision(network, self.device, self.precision.dtype)
            losses = self.trainer.training_step(forward, self.codec, self.on_device(batch))
            torch.autograd.backward(torch.stack([loss.float() for loss in losses.values()]).sum())

        with ranks.alone():  # it may fail on one rank
            self.forward.network = compiled(self.network, trial, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, tensor in self.network.named_buffers():
                tensor.copy_(before[name])
        restore_counts(self.codec, counted)
        if own:
            self.trainer.load_state_dict(own)
        checkpoint.restore_random_state(random, self.device)

    def _account(self, losses: Mapping[str, Tensor], cases: list[str]) -> None:
        """Keep the losses of a step on these cases: the sum as that of all ranks, its parts as this rank's."""
        whole = losses["loss"].detach().clone()
        ranks.average([whole])
        for name, loss in {**losses, "loss": whole}.items():
            self._sums[name] = self._sums.get(name, 0.0) + loss.detach().double()
        self._summed += 1
        self._unseen.append((whole, cases))
        if self.device.type != "cuda" or len(self._unseen) >= LOOK_EVERY:
            self.look()

    def look(self) -> None:
        """Look at the losses since the last look. AutolmkError where one is not finite."""
        for loss, cases in self._unseen:
            self.doors.saw(float(loss), cases)
        for back, (loss, cases) in enumerate(reversed(self._unseen)):
            value = float(loss)
            if not math.isfinite(value):
                raise AutolmkError(
                    f"the loss became {value} at iteration {self.iteration - back}",
                    case=", ".join(dict.fromkeys(cases)),
                    found=f"learning rate {self.learning_rate():.3g}, {self.precision.describe()}",
                    expected="a finite number",
                    remedy="look at these cases' images and points; else train with a lower rate, such as "
                    f"--set schedule.learning_rate={self.trainer.configuration.schedule.learning_rate / 3:.1g}",
                )
        if self._unseen:
            self.last_loss = float(self._unseen[-1][0])
        self._unseen.clear()

    def epoch_means(self) -> dict[str, float]:
        """Mean losses of the steps since the last epoch's end, of all ranks."""
        return {name: total / max(1, self._summed) for name, total in self._all_sums().items()}

    def _all_sums(self) -> dict[str, float]:
        return mean_numbers({name: float(total) for name, total in self._sums.items()})

    def begin_epoch(self) -> None:
        """Begin a new epoch after one is closed."""
        self.closed = self.iteration
        self._sums, self._summed = {}, 0

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def save_latest(self) -> None:
        """Everything that `restore` needs; the first rank writes it."""
        self.look()
        sums, random = self._all_sums(), ranks.gathered(checkpoint.random_state(self.device))
        if not ranks.first():
            return
        tensors = {
            **self._weights(),
            **module_tensors(self.network, "training.network"),
            **module_tensors(self.codec, "training.codec"),
        }
        record = {
            **self._record("latest"),
            "closed": self.closed,
            "elapsed": self.clock.elapsed(),
            "budget": self.budget,
            "sums": sums,
            "summed": self._summed,
            "counts": counts(self.codec),
            "optimizer": checkpoint.pack(self.optimizer.state_dict(), "optimizer", tensors),
            "scaler": checkpoint.pack(self.precision.scaler.state_dict(), "scaler", tensors),
            "random": checkpoint.pack(random[0], "random", tensors),
            "random_of_others": checkpoint.pack(random[1:], "random_of_others", tensors),
            "memory": to_json(self.doors.memory),
            "trainer_state": self._pack_own_state(tensors),
        }
        checkpoint.save(checkpoint_file(self.folder, "latest"), tensors, record)

    def _pack_own_state(self, tensors: dict[str, Tensor]) -> Any:
        try:
            return checkpoint.pack(dict(self.trainer.state_dict()), "trainer", tensors)
        except TypeError as error:
            raise AutolmkError(
                "the trainer's state_dict returns what a checkpoint cannot hold",
                found=str(error),
                expected="dictionaries, lists and tuples of tensors, numbers, texts and None",
                remedy=f"correct {type(self.trainer).__name__}.state_dict",
            ) from None

    def save_weights(self, name: str) -> None:
        """The averaged weights alone, as checkpoint `name` (best, final); the first rank writes them."""
        self.look()
        if ranks.first():
            checkpoint.save(checkpoint_file(self.folder, name), self._weights(), self._record(name))

    def _weights(self) -> dict[str, Tensor]:
        average = self.averaged
        return {**module_tensors(average.network, "network"), **module_tensors(average.codec, "codec")}

    def _record(self, kind: str) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "kind": kind,
            "iteration": self.iteration,
            "seed": self.seed,
            "best": self.best,
            "best_iteration": self.best_iteration,
            "digest": self.digest,
            "trainer": trainer.configuration.trainer,
            "options": to_json(trainer.options),
            "landmarks": trainer.plans.landmarks,
            "channels": trainer.plans.channel_names,
            "autolmk": autolmk.__version__,
            "torch": torch.__version__,
        }

    def restore(self, latest: Checkpoint) -> None:
        """Go on exactly where `latest` was saved. AutolmkError where it belongs to another run."""
        record = latest.record
        if record.get("digest") != self.digest:
            before = read_json(self.folder / "config.json", remedy="remove the fold's folder to start over")
            raise AutolmkError(
                "the unfinished run in this folder has other plans or options",
                file=latest.file,
                found=changes(before, self.trainer),
                remedy="give the same --set as at first, restore the plans, or remove the fold's folder to start over",
            )
        if record.get("seed") != self.seed:
            raise AutolmkError(
                "the unfinished run in this folder has another seed",
                file=latest.file,
                found=record.get("seed"),
                expected=self.seed,
                remedy=f"give --seed {record.get('seed')} or none, or remove the fold's folder to start over",
            )
        restore_module(self.averaged.network, latest, "network")
        restore_module(self.averaged.codec, latest, "codec")
        restore_module(self.network, latest, "training.network")
        restore_module(self.codec, latest, "training.codec")
        try:
            self._restore_state(latest)
        except (LookupError, AttributeError, ArithmeticError, TypeError, ValueError, RuntimeError) as error:
            raise checkpoint.damaged(latest.file, f"the training state is not complete: {error!r}") from None
        self._restore_own_state(latest)

    def _restore_own_state(self, latest: Checkpoint) -> None:
        """Of the trainer. AutolmkError where it has a state and no method that takes it."""
        state = checkpoint.unpack(latest.record.get("trainer_state", {}), latest.tensors)
        if not state:
            return
        kind = type(self.trainer)
        if kind.load_state_dict is Trainer.load_state_dict:
            raise AutolmkError(
                "the unfinished run's trainer has a state of its own, which the trainer now does not take",
                file=latest.file,
                found=", ".join(state),
                expected=f"{kind.__name__}.load_state_dict",
                remedy="write load_state_dict beside state_dict, or go on with the trainer that the run began with",
            )
        random = checkpoint.random_state(self.device)
        self.trainer.load_state_dict(state)
        checkpoint.restore_random_state(random, self.device)

    def _restore_state(self, latest: Checkpoint) -> None:
        record = latest.record
        self.optimizer.load_state_dict(checkpoint.unpack(record["optimizer"], latest.tensors))
        self.precision.restore(self.optimizer, checkpoint.unpack(record["scaler"], latest.tensors))
        self.iteration, self.closed = record["iteration"], record["closed"]
        self.best, self.best_iteration = record["best"], record["best_iteration"]
        self.clock = Clock(record["elapsed"])
        held_out = self.budget.n_cases
        self.budget = from_json(ValidationBudget, record["budget"], file=latest.file, path="budget")
        self.budget = dataclasses.replace(self.budget, n_cases=held_out)
        self._sums, self._summed = dict(record["sums"]), record["summed"]
        restore_counts(self.codec, record.get("counts", {}))  # of versions that did not count: counted from here on
        self.doors.memory = from_json(Memory, record.get("memory", {}), file=latest.file, path="memory")
        self._restore_random_state(latest)

    def _restore_random_state(self, latest: Checkpoint) -> None:
        """As this rank's was; where there were fewer ranks, a fresh one of its own."""
        others = latest.record.get("random_of_others", [])
        states = [latest.record["random"], *others]
        known = ranks.rank() < len(states)
        checkpoint.restore_random_state(
            checkpoint.unpack(states[ranks.rank() if known else 0], latest.tensors), self.device
        )
        if not known:
            seed_apart(self.seed, self.iteration)


def run_digest(trainer: Trainer) -> str:
    """The digest of all that decides what is trained: plans of this configuration, and the trainer's options."""
    return digest(run_content(trainer))


def run_content(trainer: Trainer) -> dict[str, Any]:
    """The content that `run_digest` digests; config.json keeps it, so that `changes` can name what differs."""
    plans = {k: v for k, v in to_json(trainer.plans).items() if k not in ("configurations", "why")}
    return {"plans": plans, "configuration": to_json(trainer.configuration), "options": to_json(trainer.options)}


def changes(config: object, trainer: Trainer) -> str:
    """Each key whose value in a fold's config.json is not that of `trainer`, with both values, in words."""
    if not isinstance(config, dict):
        return "no record of a run"
    now = run_content(trainer)
    before = _flat({name: config.get(name) for name in now})
    after = _flat(now)
    keys = [key for key in {**after, **before} if before.get(key, NO_KEY) != after.get(key, NO_KEY)]
    if not keys:
        return f"plans of digest {config.get('plans_digest')} instead of {run_digest(trainer)}"
    said = [f"{key} was {before.get(key, NO_KEY)} and is now {after.get(key, NO_KEY)}" for key in keys[:KEYS_SAID]]
    return "; ".join(said) + (f"; and {len(keys) - KEYS_SAID} more" if len(keys) > KEYS_SAID else "")


def _flat(content: Mapping[str, Any]) -> dict[str, str]:
    """`run_content` as dotted key -> JSON; keys of the configuration as --set names them."""
    result: dict[str, str] = {}

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                if key != "why":
                    walk(item, (*path, key))
        else:
            result[".".join(path)] = json.dumps(value, ensure_ascii=False)

    configuration = {k: v for k, v in (content.get("configuration") or {}).items() if k != "options"}
    walk(configuration, ())
    walk({name: content.get(name) or {} for name in ("options", "plans")}, ())
    return result
