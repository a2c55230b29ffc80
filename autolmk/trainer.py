"""Trainer: the whole surface that a method, shipped or a user's own, must fill.

Shapes: B batch, C channels, L landmarks, D image axes, *S spatial (array order z, y, x).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autolmk.augmentation import IntensityAugmentation
from autolmk.codecs import Codec, Target
from autolmk.errors import AutolmkError
from autolmk.plans import Configuration, Plans
from autolmk.registry import place_in_plugin
from autolmk.serialization import from_json


def build(trainer: Trainer) -> tuple[nn.Module, Codec]:
    """The trainer's network and codec. AutolmkError where the numbers of the plans do not fit together."""
    try:
        return trainer.build_network(), trainer.build_codec()
    except ValueError as error:
        if place_in_plugin(error) is not None:
            raise
        raise AutolmkError(
            "the numbers of a configuration do not fit together",
            found=str(error),
            expected=f"a configuration that the trainer {trainer.configuration.trainer} can build",
            remedy="correct what was edited in the plans or with --set, or plan again",
        ) from error


class Trainer(ABC):
    """Describes a method: network, codec, loss. Constructing one is free: no file, no device, no weights.

    Three methods are required, three have defaults; `training.fit` and `inference` run them all alike.
    """

    @dataclass(frozen=True)
    class Options:
        """A method's own numbers, typed; set in plans.json under `options` or by `--set key=value`."""

    def __init__(self, plans: Plans, configuration: Configuration, options: Mapping[str, Any] | None = None) -> None:
        self.plans, self.configuration = plans, configuration
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

    def training_step(self, network: nn.Module, codec: Codec, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named losses of one batch: `data` (B, C, *S), `voxels` (B, L, D), `status` (B, L), all on the device."""
        output = network(batch["data"])
        target = codec.encode(batch["voxels"], batch["status"])
        losses = self.loss(output, target, batch["status"])
        return losses if isinstance(losses, dict) else {"loss": losses}
