"""Fusion of windows whose landmarks lie on one slice: fused features, axis attention, the key slice.

After Prior Guided 3D Landmark Localization (MIDL 2023), rebuilt from its description; documentation/methods/
coarse_to_fine.md says what differs.

Shapes: B batch, N windows of the group, F features, *A cells of the deepest stage, A of them along the group's axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autolmk.networks.grouped import Block
from autolmk.networks.unet import NEGATIVE_SLOPE, Head

REDUCTION = 4  # of the features, in the bottleneck of the channel attention


class SliceFusion(nn.Module):
    """Fuses the deepest features of a group's windows and gives each window its own and the fused ones back.

    axis: array axis across the slice. features, steps: of each stage, and its stride along the axis; first stage first.
    shared: one set of weights for the windows, else each has its own. key_slice: whether to say which slice it is.
    """

    def __init__(
        self,
        axis: int,
        n_windows: int,
        ndim: int,
        features: Sequence[int],
        steps: Sequence[int],
        *,
        shared: bool,
        key_slice: bool,
    ) -> None:
        super().__init__()
        f, kernel = features[-1], (1,) * ndim
        self.shared = shared
        self.fuse = Block(n_windows * f, f, kernel)
        self.attention = AxisAttention(axis, f)
        copies = 1 if shared else n_windows
        self.merge = Block(copies * 2 * f, copies * f, kernel, groups=copies)
        self.key_slice = KeySlice(axis, features, steps) if key_slice else None

    def forward(self, deep: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fuse the windows' features (B, N, F, *A) into those from which the decoders start, of the same shape; logits
        (B, n) of the slices, n voxels.
        """
        fused = self.attention(self.fuse(deep.flatten(1, 2)))
        both = torch.cat((fused[:, None].expand_as(deep), deep), 2)
        merged = self.merge(both.flatten(0, 1) if self.shared else both.flatten(1, 2)).view_as(deep)
        return merged, None if self.key_slice is None else self.key_slice(fused)


class AxisAttention(nn.Module):
    """Weights along the axis, between 0 and 1: one a channel and slice, times one a slice."""

    def __init__(self, axis: int, features: int) -> None:
        super().__init__()
        self.axis = axis
        hidden = max(1, features // REDUCTION)
        self.channel = nn.Sequential(
            nn.Conv1d(features, hidden, 1), nn.LeakyReLU(NEGATIVE_SLOPE), nn.Conv1d(hidden, features, 1)
        )
        self.spatial = nn.Conv1d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention: (B, F, *A) -> (B, F, *A)."""
        highest, mean = strips(x, self.axis)
        channel = torch.sigmoid(self.channel(highest) + self.channel(mean))
        spatial = torch.sigmoid(self.spatial(torch.stack((highest.amax(1), mean.mean(1)), 1)))
        return x * along(channel * spatial, self.axis, x.ndim)


class KeySlice(nn.Module):
    """Network that tells on which slice of the windows the landmarks lie: 1-D convolutions up to the windows' own
    voxels.
    """

    def __init__(self, axis: int, features: Sequence[int], steps: Sequence[int]) -> None:
        super().__init__()
        self.axis = axis
        layers: list[nn.Module] = []
        width = 2 * features[-1]
        for wanted, step in zip(features[-2::-1], steps[:0:-1], strict=True):
            layers += [nn.Upsample(scale_factor=step, mode="linear")] if step > 1 else []
            layers.append(Block(width, wanted, (3,)))
            width = wanted
        layers += [nn.Upsample(scale_factor=steps[0], mode="linear")] if steps[0] > 1 else []
        self.layers = nn.Sequential(*layers)
        self.head = Head(nn.Conv1d(width, 1, 1, bias=False))  # softmax does not see a bias

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the slices: (B, F, *A) -> (B, n) float32."""
        logits: Tensor = self.head(self.layers(torch.cat(strips(x, self.axis), 1)))
        return logits[:, 0]


def strips(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The maximum and the mean over each slice: (B, F, *A) -> (B, F, A) both."""
    plane = [d for d in range(2, x.ndim) if d != 2 + axis]
    return x.amax(plane), x.mean(plane)


def along(strip: Tensor, axis: int, ndim: int) -> Tensor:
    """Lay a strip along an array axis: (B, F, A) -> (B, F, *) with `ndim` axes, of length 1 except `axis`."""
    return strip.view(*strip.shape[:2], *(strip.shape[2] if d == 2 + axis else 1 for d in range(2, ndim)))
