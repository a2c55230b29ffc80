"""coarse_to_fine, fine stage: windows around the points of the coarse stage, see planners/coarse_to_fine.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autolmk.codecs import HeatmapCodec, HeatmapTarget, Target
from autolmk.losses import spatial_cross_entropy
from autolmk.networks.unet import check_sides
from autolmk.networks.windows import SharedUNet
from autolmk.trainer import Trainer


class FineTrainer(Trainer):
    """Fine stage: a heatmap in each landmark's own window."""

    looks_at = "landmarks"

    @dataclass(frozen=True)
    class Options(Trainer.Options):
        """n_candidates: places kept a window."""

        n_candidates: int = 3

    options: Options

    def build_network(self) -> nn.Module:
        """(B, W, C, *patch), (B, W) -> logits (B, W, *patch / output stride)."""
        c = self.configuration
        check_sides(c.architecture, c.patch_size)
        return SharedUNet(c.architecture, self.n_channels, self.n_landmarks, len(c.patch_size))

    def build_codec(self) -> HeatmapCodec:
        """A Gaussian a window, of the plan's width in mm."""
        c = self.configuration
        sigma = [s / v for s, v in zip(c.sigma, c.spacing, strict=True)]
        return HeatmapCodec(
            self.n_landmarks, c.patch_size, c.architecture.output_stride, sigma, self.options.n_candidates
        )

    def loss(self, output: Any, target: Target, status: Tensor) -> Tensor:
        """Spatial cross-entropy, with "elsewhere"; the output is used up."""
        assert isinstance(target, HeatmapTarget)
        return spatial_cross_entropy(output, target, status, in_place=True)
