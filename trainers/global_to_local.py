"""global_to_local: cells of an image vote where each landmark lies, then cells of a window around the vote do so again.

documentation/methods/global_to_local.md describes the method; planners/global_to_local.py derives its numbers from the
fingerprint. Noothout et al., IEEE Transactions on Medical Imaging 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autolmk import ranks
from autolmk.codecs import CellCodec, CellTarget, Target
from autolmk.codecs.cells import Voting, displacement
from autolmk.landmarks import Status
from autolmk.methods.losses import balanced, weighted
from autolmk.methods.trainer import Trainer
from autolmk.networks.cells import GlobalCells, LocalCells, Norm
from autolmk.networks.unet import cumulative_strides
from autolmk.plans import Configuration


@dataclass(frozen=True)
class CellOptions(Trainer.Options):
    """The options of both stages. voting: how cells' votes are weighted, a rule of `codecs.cells.RULES`, or that which
    suits the held-out cases best. losses: see `cell_losses`; with those published each cell is asked by itself whether
    it holds a landmark. class_weight: of the classification loss near against that of displacements. alpha: the same of
    the published losses; None: as many as a network has landmarks, about as published. norm: see `networks.cells`.
    optimizer: AdamW, or AMSGrad (Reddi et al., ICLR 2018) as published. n_candidates: places kept a landmark and
    window.
    """

    voting: Literal["measured"] | Voting = "measured"
    losses: Literal["near", "published"] = "near"
    class_weight: float = 0.1
    alpha: float | None = None
    norm: Norm = "group"
    optimizer: Literal["adamw", "amsgrad"] = "adamw"
    n_candidates: int = 5

    def __post_init__(self) -> None:
        if not self.class_weight > 0 or self.n_candidates < 1:
            raise ValueError("class_weight must be above 0 and n_candidates 1 or more")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError("alpha must be above 0, or null")


class GlobalTrainer(Trainer):
    """First stage: a fully convolutional network answers for all landmarks, from every cell of the image."""

    Options = CellOptions
    options: CellOptions

    def build_network(self) -> nn.Module:
        """Build the network: (B, C, *patch) -> (B, L, 1 + D, *cells)."""
        c = self.configuration
        prior = -math.log(self.build_codec().n_cells)
        return GlobalCells(
            c.architecture, self.n_channels, self.n_landmarks, len(c.patch_size), norm=self.options.norm, prior=prior
        )

    def build_codec(self) -> CellCodec:
        """Cells of the network's strides."""
        return cell_codec(self.configuration, self.options)

    def loss(self, output: Any, target: Target, status: Tensor) -> dict[str, Tensor]:
        """The losses of the cells, see `cell_losses`."""
        return cell_losses(output, target, status, self.options, self.n_landmarks)

    def build_optimizer(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """Build the optimizer that the options name."""
        return amsgrad(parameters, self) if self.options.optimizer == "amsgrad" else super().build_optimizer(parameters)


class LocalTrainer(Trainer):
    """Second stage: a small network of its own a landmark, in a window around what the first stage found."""

    looks_at = "landmarks"
    Options = CellOptions
    options: CellOptions

    def build_network(self) -> nn.Module:
        """Build the networks: (B, L, C, *patch), (B, L) -> (B, L, 1 + D, *cells). ValueError for windows of some
        landmarks only.
        """
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
        """The losses of the cells, see `cell_losses`."""
        return cell_losses(output, target, status, self.options)

    def build_optimizer(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """Build the optimizer that the options name."""
        return amsgrad(parameters, self) if self.options.optimizer == "amsgrad" else super().build_optimizer(parameters)


def amsgrad(parameters: Iterable[tuple[str, nn.Parameter]], trainer: Trainer) -> torch.optim.Optimizer:
    """Adam in the AMSGrad variant, at the plan's learning rate; weight decay as L2 penalty."""
    schedule = trainer.configuration.schedule
    return torch.optim.Adam(
        list(parameters), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, amsgrad=True
    )


def cell_codec(configuration: Configuration, options: CellOptions) -> CellCodec:
    """A cell spans the product of the network's strides."""
    cell_size = cumulative_strides(configuration.architecture.strides)[-1]
    return CellCodec(
        configuration.patch_size,
        cell_size,
        voting=options.voting,
        exclusive=options.losses == "near",
        n_candidates=options.n_candidates,
    )


def cell_losses(
    output: Tensor, target: Target, status: Tensor, options: CellOptions, landmarks_a_network: int = 1
) -> dict[str, Tensor]:
    """Mean absolute error of logarithmic displacements over the cells, of present landmarks; weighted cross-entropy of
    "in this cell", of landmarks that are present or absent. 0 where there is none.

    output: (B, L, 1 + D, *O). An absent landmark is in no cell and has no displacement; an unknown one is masked.
    `near`: a cell r cells off counts (1 + r)^-D, so that every doubling of the distance counts alike and votes are
    sharp where they are needed, and windows that do not hold a landmark tell no displacement to it; classes are one
    choice among all cells and "elsewhere", whose logit is 0; times class_weight. `published`, as Noothout et al.: mean
    |t_hat - t| + alpha * binary cross-entropy, both means over all cells; alpha None: `landmarks_a_network`. In both,
    the classes of windows that hold a landmark and of others weigh as `balanced` says,
    which changes nothing where one kind alone occurs.
    """
    assert isinstance(target, CellTarget)
    logits, near = output[:, :, 0].flatten(2), options.losses == "near"
    error, away = output.new_zeros(output[:, :, 0].shape), output.new_zeros(output[:, :, 0].shape)
    for axis, (wanted, size) in enumerate(zip(target.displacements, target.cell_size, strict=True)):
        shape = (*status.shape, *(-1 if a == axis else 1 for a in range(len(target.displacements))))
        error = error + (output[:, :, 1 + axis] - wanted.to(output.dtype).view(shape)).abs()
        away = away + (displacement(wanted) / size).square().to(output.dtype).view(shape)
    weight = ((1 + away.sqrt()) ** -len(target.cell_size) if near else torch.ones_like(away)).flatten(2)
    apart = (weight * error.flatten(2)).sum(2) / weight.sum(2) / len(target.cell_size)
    held = target.cells >= 0
    weights, offset = balanced(held, status, target.share)
    logits = logits + offset.to(logits.dtype)[..., None]
    own = torch.where(held, logits.gather(2, target.cells.clamp(min=0)[..., None])[..., 0], 0.0)
    if near:
        entropy = torch.cat([logits, torch.zeros_like(logits[..., :1])], 2).logsumexp(2) - own
        classes = options.class_weight * weighted(entropy, weights)
    else:
        alpha = landmarks_a_network if options.alpha is None else options.alpha
        classes = alpha * weighted((F.softplus(logits).sum(2) - own) / logits.shape[2], weights)
    return {"displacement": mean_of(apart, held if near else status == Status.PRESENT), "class": classes}


def mean_of(values: Tensor, which: Tensor) -> Tensor:
    """The mean of values (B, L) where `which` holds; 0 where there is none."""
    return torch.where(which, values, 0.0).sum() / ranks.normaliser(which).to(values.dtype)
