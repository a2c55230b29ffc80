"""Trainer: the whole surface that a method, shipped or a user's own, must fill.

Shapes: B batch, C channels, L landmarks, D image axes, *S spatial (array order z, y, x).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from autolmk import ranks
from autolmk.codecs import Codec, Target
from autolmk.data.augmentation import IntensityAugmentation
from autolmk.data.training_sample import TrainingSample
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json
from autolmk.image import FloatImage
from autolmk.methods.learning_rate import learning_rate_factor
from autolmk.methods.outline import outline
from autolmk.methods.progress import Event, HeldOutCase, Progress, TrainingCase
from autolmk.methods.registry import load_class, place_in_plugin
from autolmk.plans import Configuration, Plans


def build(trainer: Trainer) -> tuple[nn.Module, Codec]:
    """The trainer's network and codec. AutolmkError where the numbers of the plans do not fit together, or ask for more
    memory than there is, which is counted before any is taken."""
    try:
        _require_memory(trainer)
        return trainer.build_network(), trainer.build_codec()
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AssertionError, MemoryError) as error:
        if place_in_plugin(error) is not None:
            raise
        raise AutolmkError(
            "the numbers of a configuration do not fit together",
            found=str(error) or type(error).__name__,
            expected=f"a configuration that the trainer {trainer.configuration.trainer} can build",
            remedy="correct what was edited in the plans or with --set, or plan again",
        ) from error


def _require_memory(trainer: Trainer) -> None:
    """ValueError where the network's weights alone would not fit into this machine's memory. torch's meta device has no
    data; a user's network that cannot be built on it is not counted."""
    try:
        with outline():
            network = trainer.build_network()
    except Exception as error:
        if place_in_plugin(error) is None:
            raise
        return
    tensors = itertools.chain(network.parameters(), network.buffers())
    needed, there = sum(t.numel() * t.element_size() for t in tensors), psutil.virtual_memory().total
    if needed > there:
        raise ValueError(f"a network of {needed / 2**30:.0f} GiB, where this machine has {there / 2**30:.0f}")


class Trainer(ABC):
    """Describes a method: network, codec, loss. Constructing one is free: no file, no device, no weights.

    Three methods are required, the others have defaults; `training.fit` and `prediction` run them all alike. What the
    methods return is checked where it is used: an AutolmkError names the method, what was found and what was expected.

    looks_at: "image" where the network sees windows that hold many landmarks; "landmarks" where it sees a window a
    landmark, cut around what the previous stage found (`Windows.kind` "landmark"): it is then called with data
    (B, W, C, *patch) and landmarks (B, W), which landmark each window answers for, and its output's second axis is W.
    A network that must see all landmarks, in order, refuses `Windows.per_sample` with a ValueError in `build_network`.
    best_by, best_is: checkpoint_best has the lowest, or highest, value of this metric on held-out cases.
    progress: how far the run is; the loop sets it before each step.
    rank: which of the processes that train together this is; 0, the first or only one, is the one to write files.
    """

    looks_at: ClassVar[Literal["image", "landmarks"]] = "image"
    best_by: ClassVar[str] = "mre"
    best_is: ClassVar[Literal["lowest", "highest"]] = "lowest"

    @dataclass(frozen=True)
    class Options:
        """A method's own numbers, typed; set in plans.json under `options` or by `--set key=value`."""

    def __init__(self, plans: Plans, configuration: Configuration, options: Mapping[str, Any] | None = None) -> None:
        self.plans, self.configuration, self.progress = plans, configuration, Progress()
        self.rank = ranks.rank()
        if (configuration.windows.kind == "landmark") != (self.looks_at == "landmarks"):
            raise AutolmkError(
                f"the trainer {configuration.trainer} does not look at windows of this kind",
                found=f"windows.kind {configuration.windows.kind!r}",
                expected="landmark" if self.looks_at == "landmarks" else "whole or random",
                remedy="correct the plans, or choose a configuration that this trainer suits",
            )
        self._given = dict(options or {})
        values = {**configuration.options, **self._given}
        self.options = from_json(type(self).Options, values, path="options")

    def anew(self, configuration: Configuration | None = None) -> Self:
        """A trainer of the same plans and options as if just constructed; for another configuration, where given."""
        return type(self)(self.plans, configuration or self.configuration, self._given)

    @property
    def n_channels(self) -> int:
        """The number C of input channels."""
        return len(self.plans.channel_names)

    @property
    def n_landmarks(self) -> int:
        """The number L of landmarks."""
        return len(self.plans.landmarks)

    # -- required -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def build_network(self) -> nn.Module:
        """A module that maps (B, C, *patch_size) float to the output that the codec decodes."""

    @abstractmethod
    def build_codec(self) -> Codec:
        """The pair of encode (points -> target) and decode (output -> candidates)."""

    @abstractmethod
    def loss(self, output: Any, target: Target, status: Tensor) -> Tensor | dict[str, Tensor]:
        """Scalar, or named scalars whose sum is minimised. status: (B, L) int8 of `Status`; unknown is masked."""

    # -- optional: what is learnt, and how -----------------------------------------------------------------------------

    def initialise(self, network: nn.Module) -> None:
        """Set the first weights of `build_network`'s module, in place; nothing by default.

        It is called whenever training begins or goes on, with the network on its device and torch's random numbers
        seeded; then the weights of -pretrained_weights, or of the checkpoint that is resumed, take their place.
        """
        return

    def build_optimizer(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """AdamW at the plan's learning rate and weight decay.

        parameters: (name, parameter) pairs, as torch's optimizers take them; names begin with `network.` or `codec.`.
        Each group's `lr` is the rate that `learning_rate` scales.
        """
        schedule = self.configuration.schedule
        return torch.optim.AdamW(list(parameters), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)

    def learning_rate(self, progress: Progress) -> float:
        """Factor of the optimizer's rates in the coming step, 0 or more; by default the plan's `schedule.rate`."""
        rate = self.configuration.schedule.rate
        return learning_rate_factor(progress.share, progress.iteration, progress.iterations, rate)

    def training_step(self, network: nn.Module, codec: Codec, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named losses of one batch: `data` (B, C, *S), `voxels` (B, L, D), `status` (B, L), all on the device; see
        `loading.Batch`. `self.progress` says how far the run is."""
        which = (batch["landmarks"],) if "landmarks" in batch else ()
        output = network(batch["data"], *which)
        target = codec.encode(batch["voxels"], batch["status"], *which)
        losses = self.loss(output, target, batch["status"])
        return losses if isinstance(losses, dict) else {"loss": losses}

    def prediction_network(self, network: nn.Module) -> nn.Module:
        """The part of `build_network`'s module that prediction needs, sharing its weights: all of it by default."""
        return network

    # -- optional: what is shown ---------------------------------------------------------------------------------------

    def build_augmentation(self) -> Callable[[np.random.Generator, FloatImage], FloatImage]:
        """Intensity augmentation of a window: (C, *S) float32 -> the same form, a function of its arguments alone."""
        return IntensityAugmentation(self.configuration.augmentation.intensity)

    def augment(self, rng: np.random.Generator, sample: TrainingSample) -> TrainingSample:
        """The window to train on, changed in space or around its points before its intensities are; unchanged by
        default.

        A function of its arguments alone, called where batches are prepared, which may be another process:
        `self.progress` says nothing there, `sample.iteration` does. What the plans turn, scale and shift was turned,
        scaled and shifted before.
        """
        return sample

    def case_weights(self, cases: Mapping[str, TrainingCase]) -> Mapping[str, float] | None:
        """The weights with which training cases are drawn, relative to the others: a number of 0 or more a case, not
        all 0; None, the default: all equally often.

        It is asked when a run begins and at each epoch's end, and the checkpoint keeps the answer. A function of
        `cases` and of `state_dict` alone. Where it changes, batches that workers made ahead are made again.
        """
        return None

    # -- optional: what is measured, and what follows from it ----------------------------------------------------------

    def metrics(self, cases: Mapping[str, HeldOutCase]) -> Mapping[str, float | None]:
        """Named numbers of a validation beside `mre`, `median` and `sdr_2` ... `sdr_4`; None where there is nothing to
        measure. They are logged; `best_by` and `stop_early` may use them."""
        return {}

    def stop_early(self, validations: Sequence[Mapping[str, float | None]]) -> bool:
        """Whether training ends now, with the final validation; never by default.

        It is asked after each validation. validations: the metrics of all so far, the last one last, with the `share`
        and the `iteration` at which they were measured. Validations come at most 20 times a run.
        """
        return False

    def on_event(self, event: Event) -> None:
        """Be told what happened; nothing by default. It cannot alter the run: there is nothing in an event to change,
        and random states are put back. What it remembers belongs into `state_dict`."""
        return

    # -- optional: what a run remembers --------------------------------------------------------------------------------

    def state_dict(self) -> Mapping[str, Any]:
        """State of this trainer's own, which the checkpoint keeps: nested dictionaries (of texts), lists and tuples of
        tensors, numbers, texts and None. Whatever a later step depends on and no other part of the run holds."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, its tensors on the CPU; after `initialise`, where a run is resumed."""
        return


def named_parameters(network: nn.Module, codec: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that an optimizer gets: (name, parameter) pairs, `network.*` and `codec.*`."""
    return [*network.named_parameters(prefix="network"), *codec.named_parameters(prefix="codec")]


def trainer_class(specification: str) -> type[Trainer]:
    """The trainer that a user named: a shipped one's name, file.py:Class or module:Class. Errors as of `load_class`."""
    found: type[Trainer] = load_class("trainer", specification, Trainer)
    return found
