"""apga: landmarks and label maps of them from one encoder, each by a decoder whose skips the other does not share.

documentation/methods/apga.md describes the method; planners/apga.py derives its numbers from the fingerprint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autolmk.codecs import MIN_SIGMA, Codec, HeatmapCodec, HeatmapTarget, Target
from autolmk.codecs.constants import constant
from autolmk.codecs.heatmap import HeightCodec
from autolmk.methods.losses import soft_dice, spatial_cross_entropy, squared_error
from autolmk.methods.trainer import Trainer
from autolmk.networks.apga import APGA, LandmarkPath, build_apga
from autolmk.networks.unet import check_sides

HEIGHT = 255.0  # of published heatmaps
HALVED = 0.5  # weight of each coarser supervision over the one before, as nnU-Net's; published: all 1


class ApgaTrainer(Trainer):
    """Anatomy-aware landmark detection: predicting where the anatomy is teaches the encoder where its landmarks are."""

    @dataclass(frozen=True)
    class Options(Trainer.Options):
        """The options of this trainer. n_candidates: places kept a landmark and window. fdt: gate skips by task.
        pseudo_label: learn the plan's label maps too; label_weight: of their loss. parity: the published batch norm,
        ReLU head and squared error.
        """

        n_candidates: int = 5
        fdt: bool = True
        pseudo_label: bool = True
        label_weight: float = 1.0
        parity: bool = False

    options: Options

    def build_network(self) -> nn.Module:
        """Build the network: (B, C, *patch) -> a dict, see `networks.apga.APGA`."""
        c, options = self.configuration, self.options
        check_sides(c.architecture, c.patch_size)
        n_maps = len(c.label_maps) if options.pseudo_label else 0
        outputs = (self.n_landmarks, n_maps, len(c.patch_size))
        return build_apga(c.architecture, self.n_channels, *outputs, fdt=options.fdt, published=options.parity)

    def build_codec(self) -> HeatmapCodec:
        """A Gaussian a landmark, of the plan's width in mm; in parity of height 255."""
        arguments = (self.n_landmarks, self.configuration.patch_size, self.configuration.architecture.output_stride)
        if self.options.parity:
            return HeightCodec(*arguments, self._sigma(), self.options.n_candidates, height=HEIGHT)
        return HeatmapCodec(*arguments, self._sigma(), self.options.n_candidates)

    def prediction_network(self, network: nn.Module) -> nn.Module:
        """The network without the label maps' decoder and their half of the FDT: (B, C, *patch) -> (B, L, *patch /
        stride).
        """
        assert isinstance(network, APGA)
        return LandmarkPath(network)

    def loss(self, output: Any, target: Target, status: Tensor) -> Tensor:
        """The spatial cross-entropy with "elsewhere"; in parity squared error."""
        assert isinstance(target, HeatmapTarget)
        if self.options.parity:
            return squared_error(output, target, status, HEIGHT)
        return spatial_cross_entropy(output, target, status)

    def training_step(self, network: nn.Module, codec: Codec, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of a step: `landmarks`; `supervision`: of the FDT's queries, at every scale; `labels`: of label
        maps, at all scales.
        """
        found, voxels, status = network(batch["data"]), batch["voxels"], batch["status"]
        output, *deep = found["landmarks"]
        target = codec.encode(voxels, status)
        losses = {"landmarks": self.loss(output, target, status)}
        if deep:
            weights = self._weights(len(deep) + 1)[1:]
            at_scales = [self.loss(one, self._target(voxels, one.shape[2:], target.share), status) for one in deep]
            losses["supervision"] = _sum(weights, at_scales)
        if "labels" in found:
            overlaps = [soft_dice(p, batch["labels"]) for p in self._probabilities(found["labels"])]
            losses["labels"] = self.options.label_weight * _sum(self._weights(len(overlaps)), overlaps)
        return losses

    def _sigma(self) -> list[float]:
        """(D,) voxels."""
        c = self.configuration
        return [sigma / spacing for sigma, spacing in zip(c.sigma, c.spacing, strict=True)]

    def _weights(self, n: int) -> list[float]:
        return [1.0 if self.options.parity else HALVED**i for i in range(n)]

    def _target(self, voxels: Tensor, cells: Sequence[int], share: Tensor | None) -> HeatmapTarget:
        """Of an output of (D,) cells: Gaussians as wide as the codec's, but wide enough for these cells.

        Its logit of elsewhere is fixed, as the biases of the output shift it as well. share: as of `Target`.
        """
        patch = self.configuration.patch_size
        stride = [n // m for n, m in zip(patch, cells, strict=True)]
        sigma = tuple(max(MIN_SIGMA, s / k) for s, k in zip(self._sigma(), stride, strict=True))
        step = constant(stride, voxels.device)
        elsewhere = torch.full((self.n_landmarks,), math.log(math.prod(cells)), device=voxels.device)
        return HeatmapTarget((voxels.double() - (step - 1) / 2) / step, sigma, elsewhere, share=share)

    def _probabilities(self, labels: Sequence[Tensor]) -> list[Tensor]:
        """(B, G, *O) each, of logits; the published first output is at least 0."""
        first, *deep = labels
        return [torch.tanh(first) if self.options.parity else torch.sigmoid(first), *map(torch.sigmoid, deep)]


def _sum(weights: Sequence[float], losses: Sequence[Tensor]) -> Tensor:
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
