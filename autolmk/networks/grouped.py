"""Plain U-Nets side by side in one module, each with weights of its own: grouped convolutions, no loop over networks.

Shapes: B batch, G networks, F features of one of them, *S spatial. Channels of one network lie together: (B, G F, *S).
dynamic_network_architectures' blocks know no groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autolmk.networks.unet import NEGATIVE_SLOPE, decoder_stages
from autolmk.plans import Architecture

GROUPED = True  # else one convolution a network; `benchmarks/gpu.py --parts layout` measures both, not run so far


class _SideBySide(nn.modules.conv._ConvNd):
    """A convolution of groups, computed as GROUPED says; the weights are the same."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if GROUPED or self.groups == 1:
            whole: Tensor = super()._conv_forward(x, weight, bias)
            return whole
        biases = [None] * self.groups if bias is None else bias.chunk(self.groups)
        parts = zip(x.chunk(self.groups, 1), weight.chunk(self.groups), biases, strict=True)
        convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
        return torch.cat([convolve(a, w, b, self.stride, self.padding, self.dilation) for a, w, b in parts], 1)


class Conv1d(_SideBySide, nn.Conv1d):
    """Grouped convolution in 1D, see `GROUPED`."""


class Conv2d(_SideBySide, nn.Conv2d):
    """Grouped convolution in 2D, see `GROUPED`."""


class Conv3d(_SideBySide, nn.Conv3d):
    """Grouped convolution in 3D, see `GROUPED`."""


CONVOLUTIONS: dict[int, Any] = {1: Conv1d, 2: Conv2d, 3: Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS: dict[int, Any] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class Block(nn.Sequential):
    """Convolution without bias, instance norm, leaky ReLU; n, out: channels of all groups together."""

    def __init__(
        self, n: int, out: int, kernel: Sequence[int], stride: Sequence[int] | None = None, *, groups: int = 1
    ) -> None:
        ndim, padding = len(kernel), tuple((k - 1) // 2 for k in kernel)
        step = (1,) * ndim if stride is None else tuple(stride)
        super().__init__(
            CONVOLUTIONS[ndim](n, out, tuple(kernel), step, padding, groups=groups, bias=False),
            NORMS[ndim](out, eps=1e-5, affine=True),
            nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
        )


class GroupedUNet(nn.Module):
    """`groups` U-Nets of one plain architecture, without heads: `encode`, then `decode` up to the output stride.

    Raises ValueError where the lists of the architecture disagree, or where it asks for residual blocks.
    """

    def __init__(self, architecture: Architecture, n_channels: int, groups: int, ndim: int) -> None:
        super().__init__()
        a, stages = architecture, decoder_stages(architecture)
        if a.residual:
            raise ValueError("networks side by side have plain blocks: architecture.residual must be false")
        self.groups, self.stages = groups, tuple(stages)
        self.encoder, self.upsamplings, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        before = n_channels
        for features, kernel, stride, n in zip(
            a.features_per_stage, a.kernel_sizes, a.strides, a.n_conv_per_stage, strict=True
        ):
            self.encoder.append(self._stack(before, features, kernel, stride, n))
            before = features
        for stage, n in zip(stages, a.n_conv_per_stage_decoder, strict=True):
            below, features, step = a.features_per_stage[stage + 1], a.features_per_stage[stage], a.strides[stage + 1]
            self.upsamplings.append(
                TRANSPOSED[ndim](groups * below, groups * features, step, step, groups=groups, bias=False)
            )
            self.decoder.append(self._stack(2 * features, features, a.kernel_sizes[stage], None, n))
        self.features = a.features_per_stage[stages[-1] if stages else -1]

    def _stack(
        self, before: int, features: int, kernel: Sequence[int], stride: Sequence[int] | None, n: int
    ) -> nn.Sequential:
        g = self.groups
        first = Block(g * before, g * features, kernel, stride, groups=g)
        return nn.Sequential(first, *(Block(g * features, g * features, kernel, groups=g) for _ in range(n - 1)))

    def encode(self, x: Tensor) -> list[Tensor]:
        """Encode data: (B, G C, *S) -> features of each stage."""
        found = []
        for stage in self.encoder:
            x = stage(x)
            found.append(x)
        return found

    def decode(self, deep: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Deepest features and those of every stage -> (B, G F, *S / output stride)."""
        x = deep
        for stage, upsampling, block in zip(self.stages, self.upsamplings, self.decoder, strict=True):
            x = block(self._beside(upsampling(x), skips[stage]))
        return x

    def _beside(self, one: Tensor, other: Tensor) -> Tensor:
        """Channels of each network after each other."""
        both = [t.view(t.shape[0], self.groups, -1, *t.shape[2:]) for t in (one, other)]
        return torch.cat(both, 2).flatten(1, 2)
