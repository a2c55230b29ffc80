"""coarse_to_fine: a coarse look at the whole image, then a fine one in a window a landmark.

`coordinates` is the paper's coarse stage, coordinate regression; `heatmap` can take its place. `fine` sees windows
around the coarse points. documentation/methods/coarse_to_fine.md describes both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autolmk import ranks
from autolmk.codecs import Codec, HeatmapCodec, HeatmapTarget, Target
from autolmk.codecs.constants import constant
from autolmk.codecs.coordinates import CoordinateCodec, CoordinateTarget
from autolmk.codecs.slices import Group, SliceCodec, SliceTarget
from autolmk.landmarks import Status
from autolmk.methods.losses import balanced, spatial_cross_entropy, weighted
from autolmk.methods.trainer import Trainer
from autolmk.networks.resnet import Norm, PublishedResNet, ResNet
from autolmk.networks.unet import check_sides
from autolmk.networks.windows import CorrelatedUNets, OwnUNets, SharedUNet


class CoordinateTrainer(Trainer):
    """Coarse stage: coordinates of all landmarks from one look at the whole image."""

    @dataclass(frozen=True)
    class Options(Trainer.Options):
        """The options of this trainer. beta: voxels below which an error counts quadratically. presence_weight: of the
        loss that says whether a landmark is in the window; 0: nothing says so, coordinates are all that is learnt, as
        published. norm: see `networks.resnet`; `published`: ResNet as published, with batch norm.
        """

        beta: float = 1.0
        presence_weight: float = 0.1
        norm: Norm = "instance"

        def __post_init__(self) -> None:
            if not (self.beta > 0 and self.presence_weight >= 0):
                raise ValueError("beta must be above 0 and presence_weight 0 or more")

    options: Options

    def build_network(self) -> nn.Module:
        """Residual network (B, C, *patch) -> (B, L, D + 1), without presence (B, L, D)."""
        c, ndim = self.configuration, len(self.configuration.patch_size)
        check_sides(c.architecture, c.patch_size)
        each = ndim + (self.options.presence_weight > 0)
        kind = PublishedResNet if self.options.norm == "published" else ResNet
        network = kind(c.architecture, self.n_channels, self.n_landmarks * each, ndim)
        return nn.Sequential(network, nn.Unflatten(1, (self.n_landmarks, each)))

    def build_codec(self) -> CoordinateCodec:
        """Points as coordinates of the window."""
        return CoordinateCodec(self.configuration.patch_size, self.options.presence_weight > 0)

    def loss(self, output: Any, target: Target, status: Tensor) -> dict[str, Tensor]:
        """Smooth L1 of the coordinates of present landmarks inside the window; cross-entropy of "in this window",
        weighted as `balanced` says."""
        assert isinstance(target, CoordinateTarget)
        patch, options = self.configuration.patch_size, self.options
        beta = 2 * options.beta / constant(patch, output.device, torch.float32)
        holding = (status == Status.PRESENT) & (target.places.abs() <= 1).all(-1)
        places = target.places.masked_fill(~holding[..., None], 0.0).to(output.dtype)
        error = (output[..., : len(patch)] - places).abs()
        smooth = torch.where(error < beta, error.square() / (2 * beta), error - beta / 2).mean(-1)
        if options.presence_weight == 0:
            return {"place": _mean(smooth, holding)}
        weight, offset = balanced(holding, status, target.share)
        logits = output[..., -1] + offset.to(output.dtype)
        presence = F.binary_cross_entropy_with_logits(logits, holding.to(output.dtype), reduction="none")
        return {
            "place": _mean(smooth, holding),
            "presence": options.presence_weight * weighted(presence, weight),
        }


def _mean(values: Tensor, which: Tensor) -> Tensor:
    """Of `values` where `which`; 0 where there is none."""
    return (values * which).sum() / ranks.normaliser(which).to(values.dtype)


class FineTrainer(Trainer):
    """Fine stage: a heatmap in each landmark's own window."""

    looks_at = "landmarks"

    @dataclass(frozen=True)
    class Options(Trainer.Options):
        """The options of this trainer. n_candidates: places kept a window. weights: one U-Net for all landmarks, or one
        each, side by side. correlated: whether the windows of `windows.groups` are seen together. slice_weight: of the
        loss of each group's key slice; 0: key slices are not looked for.
        """

        n_candidates: int = 3
        weights: Literal["shared", "own"] = "shared"
        correlated: bool = False
        slice_weight: float = 0.5

        def __post_init__(self) -> None:
            if self.slice_weight < 0:
                raise ValueError("slice_weight must be 0 or more")

    options: Options

    def build_network(self) -> nn.Module:
        """Build the network: (B, W, C, *patch), (B, W) -> logits (B, W, *patch / output stride), or `SliceOutput`.
        ValueError where some landmarks of a sample are asked for (`windows.per_sample`), but weights are own or windows
        correlated.
        """
        c, options, ndim = self.configuration, self.options, len(self.configuration.patch_size)
        check_sides(c.architecture, c.patch_size)
        if options.weights == "shared" and not options.correlated:
            return SharedUNet(c.architecture, self.n_channels, self.n_landmarks, ndim)
        if c.windows.per_sample is not None:
            raise ValueError(
                f"options.weights {options.weights!r} with correlated {options.correlated} takes the windows of all "
                f"landmarks, windows.per_sample null, got {c.windows.per_sample}: plan with --set weights=own"
            )
        if not options.correlated:
            return OwnUNets(c.architecture, self.n_channels, self.n_landmarks, ndim)
        return CorrelatedUNets(
            c.architecture,
            self.n_channels,
            self.n_landmarks,
            ndim,
            self._groups(),
            shared=options.weights == "shared",
            key_slices=options.slice_weight > 0,
        )

    def build_codec(self) -> Codec:
        """A Gaussian a window, of the plan's width in mm; where key slices are looked for, one a group too."""
        c = self.configuration
        sigma = [s / v for s, v in zip(c.sigma, c.spacing, strict=True)]
        heatmaps = HeatmapCodec(
            self.n_landmarks, c.patch_size, c.architecture.output_stride, sigma, self.options.n_candidates
        )
        if not self.options.correlated or self.options.slice_weight == 0:
            return heatmaps
        return SliceCodec(heatmaps, self._groups(), c.patch_size, sigma)

    def _groups(self) -> list[Group]:
        """ValueError where the plans name no group, or a landmark that is none."""
        groups, names = self.configuration.windows.groups, self.plans.landmarks
        if not groups:
            raise ValueError("options.correlated needs windows.groups")
        unknown = sorted({name for group in groups for name in group.landmarks} - set(names))
        if unknown:
            raise ValueError(f"windows.groups name {', '.join(unknown)}, which are no landmarks")
        return [(group.axis, tuple(names.index(name) for name in group.landmarks)) for group in groups]

    def loss(self, output: Any, target: Target, status: Tensor) -> Tensor | dict[str, Tensor]:
        """Spatial cross-entropy, with "elsewhere"; of the slices too, where they are looked for."""
        if isinstance(target, HeatmapTarget):
            return spatial_cross_entropy(output, target, status)
        assert isinstance(target, SliceTarget)
        slices = [
            spatial_cross_entropy(logits[:, None], of_group, state)
            for logits, of_group, state in zip(output["slices"], target.slices, target.status, strict=True)
        ]
        return {
            "heatmap": spatial_cross_entropy(output["heatmaps"], target.heatmaps, status),
            "slice": self.options.slice_weight * torch.stack(slices).mean(),
        }
