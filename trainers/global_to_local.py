"""global_to_local: cells of an image vote where each landmark lies, then cells of a window around the vote do so again.

documentation/methods/global_to_local.md describes the method; planners/global_to_local.py derives its numbers from the
fingerprint. Noothout et al., IEEE Transactions on Medical Imaging 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autolmk.codecs import CellCodec, CellTarget, Target
from autolmk.codecs.cells import Voting
from autolmk.landmarks import Status
from autolmk.networks.cells import GlobalCells, LocalCells, Norm
from autolmk.networks.unet import cumulative_strides
from autolmk.plans import Configuration
from autolmk.trainer import Trainer


@dataclass(frozen=True)
class CellOptions(Trainer.Options):
    """Of both stages. voting: how cells' votes are weighted, a rule of `codecs.cells.RULES`, or that which suits the
    held-out cases best. class_weight: of the classification loss against that of displacements; at most a window's
    number of cells counts. norm: see `networks.cells`. n_candidates: places kept a landmark and window."""

    voting: Literal["measured"] | Voting = "measured"
    class_weight: float = 20.0
    norm: Norm = "group"
    n_candidates: int = 5

    def __post_init__(self) -> None:
        if not self.class_weight > 0 or self.n_candidates < 1:
            raise ValueError("class_weight must be above 0 and n_candidates 1 or more")


class GlobalTrainer(Trainer):
    """First stage: a fully convolutional network answers for all landmarks, from every cell of the image."""

    Options = CellOptions
    options: CellOptions

    def build_network(self) -> nn.Module:
        """(B, C, *patch) -> (B, L, 1 + D, *cells)."""
        c = self.configuration
        prior = -math.log(self.build_codec().n_cells)
        return GlobalCells(
            c.architecture, self.n_channels, self.n_landmarks, len(c.patch_size), norm=self.options.norm, prior=prior
        )

    def build_codec(self) -> CellCodec:
        """Cells of the network's strides."""
        return cell_codec(self.configuration, self.options)

    def loss(self, output: Any, target: Target, status: Tensor) -> dict[str, Tensor]:
        """See `cell_losses`."""
        return cell_losses(output, target, status, self.options.class_weight)


class LocalTrainer(Trainer):
    """Second stage: a small network of its own a landmark, in a window around what the first stage found."""

    looks_at = "landmarks"
    Options = CellOptions
    options: CellOptions

    def build_network(self) -> nn.Module:
        """(B, L, C, *patch), (B, L) -> (B, L, 1 + D, *cells). ValueError for windows of some landmarks only."""
        c = self.configuration
        if c.windows.per_sample is not None:
            raise ValueError(
                f"each landmark has a network of its own: windows.per_sample must be null, got {c.windows.per_sample}"
            )
        prior = -math.log(self.build_codec().n_cells)
        return LocalCells(
            c.architecture, self.n_channels, self.n_landmarks, len(c.patch_size), norm=self.options.norm, prior=prior
        )

    def build_codec(self) -> CellCodec:
        """Cells of the network's strides."""
        return cell_codec(self.configuration, self.options)

    def loss(self, output: Any, target: Target, status: Tensor) -> dict[str, Tensor]:
        """See `cell_losses`."""
        return cell_losses(output, target, status, self.options.class_weight)


def cell_codec(configuration: Configuration, options: CellOptions) -> CellCodec:
    """A cell spans the product of the network's strides."""
    cell_size = cumulative_strides(configuration.architecture.strides)[-1]
    return CellCodec(configuration.patch_size, cell_size, voting=options.voting, n_candidates=options.n_candidates)


def cell_losses(output: Tensor, target: Target, status: Tensor, class_weight: float) -> dict[str, Tensor]:
    """Mean absolute error of logarithmic displacements over all cells, of present landmarks; weighted cross-entropy of
    "in this cell" over all cells, of landmarks that are present or absent. 0 where there is none.

    output: (B, L, 1 + D, *O). An absent landmark is in no cell and has no displacement; an unknown one is masked.
    """
    assert isinstance(target, CellTarget)
    logits, n_axes, n_cells = output[:, :, 0].flatten(2), len(target.displacements), output[0, 0, 0].numel()
    error = output.new_zeros(status.shape)
    for axis, wanted in enumerate(target.displacements):
        along = wanted.to(output.dtype).view(*status.shape, *(-1 if a == axis else 1 for a in range(n_axes)))
        error = error + (output[:, :, 1 + axis] - along).abs().flatten(2).mean(2) / n_axes
    held = target.cells >= 0
    positive = logits.gather(2, target.cells.clamp(min=0)[..., None])[..., 0]
    entropy = (F.softplus(logits).sum(2) - torch.where(held, positive, 0.0)) / n_cells
    return {
        "displacement": mean_of(error, status == Status.PRESENT),
        "class": min(class_weight, n_cells) * mean_of(entropy, status != Status.UNKNOWN),
    }


def mean_of(values: Tensor, which: Tensor) -> Tensor:
    """Of values (B, L) where `which`; 0 where there is none."""
    return torch.where(which, values, 0.0).sum() / which.sum().clamp(min=1)
