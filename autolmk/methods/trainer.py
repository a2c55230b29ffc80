"""Trainer: the whole surface that a method, shipped or a user's own, must fill.

Shapes: B batch, C channels, L landmarks, D image axes, *S spatial (array order z, y, x).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import psutil
import torch
from torch import Tensor, nn

from autolmk.codecs import Codec, Target
from autolmk.data.augmentation import IntensityAugmentation
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json
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
        with torch.device("meta"):
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

    Three methods are required, four have defaults; `training.fit` and `prediction` run them all alike.

    looks_at: "image" where the network sees windows that hold many landmarks; "landmarks" where it sees a window a
    landmark, cut around what the previous stage found (`Windows.kind` "landmark"): it is then called with data
    (B, W, C, *patch) and landmarks (B, W), which landmark each window answers for, and its output's second axis is W.
    A network that must see all landmarks, in order, refuses `Windows.per_sample` with a ValueError in `build_network`.
    """

    looks_at: ClassVar[Literal["image", "landmarks"]] = "image"

    @dataclass(frozen=True)
    class Options:
        """A method's own numbers, typed; set in plans.json under `options` or by `--set key=value`."""

    def __init__(self, plans: Plans, configuration: Configuration, options: Mapping[str, Any] | None = None) -> None:
        self.plans, self.configuration = plans, configuration
        if (configuration.windows.kind == "landmark") != (self.looks_at == "landmarks"):
            raise AutolmkError(
                f"the trainer {configuration.trainer} does not look at windows of this kind",
                found=f"windows.kind {configuration.windows.kind!r}",
                expected="landmark" if self.looks_at == "landmarks" else "whole or random",
                remedy="correct the plans, or choose a configuration that this trainer suits",
            )
        values = {**configuration.options, **(options or {})}
        self.options = from_json(type(self).Options, values, path="options")

    @property
    def n_channels(self) -> int:
        """C, input channels."""
        return len(self.plans.channel_names)

    @property
    def n_landmarks(self) -> int:
        """L."""
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

    # -- optional -----------------------------------------------------------------------------------------------------

    def build_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW at the plan's learning rate and weight decay; the loop schedules the rate."""
        schedule = self.configuration.schedule
        return torch.optim.AdamW(list(parameters), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)

    def build_augmentation(self) -> IntensityAugmentation:
        """Intensity augmentation of a training window; spatial augmentation is a perturbed Geometry, see `sampling`."""
        return IntensityAugmentation(self.configuration.augmentation.intensity)

    def prediction_network(self, network: nn.Module) -> nn.Module:
        """The part of `build_network`'s module that prediction needs, sharing its weights: all of it by default."""
        return network

    def training_step(self, network: nn.Module, codec: Codec, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named losses of one batch: `data` (B, C, *S), `voxels` (B, L, D), `status` (B, L), all on the device; see
        `loading.Batch`."""
        which = (batch["landmarks"],) if "landmarks" in batch else ()
        output = network(batch["data"], *which)
        target = codec.encode(batch["voxels"], batch["status"], *which)
        losses = self.loss(output, target, batch["status"])
        return losses if isinstance(losses, dict) else {"loss": losses}


def trainer_class(specification: str) -> type[Trainer]:
    """The trainer that a user named: a shipped one's name, file.py:Class or module:Class. Errors as of `load_class`."""
    found: type[Trainer] = load_class("trainer", specification, Trainer)
    return found
