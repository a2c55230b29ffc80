"""heatmap: a U-Net with a channel a landmark, whose softmax says in which voxel it lies, or that it is elsewhere.

documentation/methods/heatmap.md describes the method; planners/heatmap.py derives its numbers from the fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autolmk.codecs import HeatmapCodec, HeatmapTarget, Target
from autolmk.methods.losses import spatial_cross_entropy
from autolmk.methods.trainer import Trainer
from autolmk.networks.unet import build_unet, check_sides


class HeatmapTrainer(Trainer):
    """The baseline: one look at one resolution."""

    @dataclass(frozen=True)
    class Options(Trainer.Options):
        """The options of this trainer. n_candidates: places kept a landmark and window, for ranking over windows and
        between mirror partners.
        """

        n_candidates: int = 5

    options: Options

    def build_network(self) -> nn.Module:
        """U-Net (B, C, *patch) -> logits (B, L, *patch / output stride)."""
        configuration = self.configuration
        check_sides(configuration.architecture, configuration.patch_size)
        return build_unet(configuration.architecture, self.n_channels, self.n_landmarks, len(configuration.patch_size))

    def build_codec(self) -> HeatmapCodec:
        """A Gaussian a landmark, of the plan's width in mm."""
        configuration = self.configuration
        return HeatmapCodec(
            self.n_landmarks,
            configuration.patch_size,
            configuration.architecture.output_stride,
            [sigma / spacing for sigma, spacing in zip(configuration.sigma, configuration.spacing, strict=True)],
            n_candidates=self.options.n_candidates,
        )

    def loss(self, output: Any, target: Target, status: Tensor) -> Tensor:
        """The spatial cross-entropy of logits (B, L, *O), with "elsewhere"."""
        assert isinstance(target, HeatmapTarget)
        return spatial_cross_entropy(output, target, status)
