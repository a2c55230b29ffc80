"""Networks that answer by cells: for every cell of a window and every landmark one logit ("it lies in this cell") and
the displacement from the cell to the landmark. Noothout et al., IEEE Transactions on Medical Imaging 2020.

Both are built from `plans.Architecture`: a stage halves the axes that its stride names, and a cell spans the product of
all strides. Normalisation is by groups of 8 channels: it does not depend on the batch, which holds a window or two
where images are large, and its statistics stay steady on a few cells. The published batch normalisation, with the
biases in front of it that it cancels, is there for comparison.

Shapes: B batch, C channels, L landmarks, D axes, *S input voxels, *O cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from autolmk.networks.grouped import CONVOLUTIONS
from autolmk.networks.unet import Head
from autolmk.plans import Architecture

Norm = Literal["group", "published"]

GROUP = 8  # channels that are normalised together
FIRST = 0.01  # standard deviation of the last convolutions' weights, so that outputs start at their biases
POOL: dict[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class GlobalCells(nn.Module):
    """A residual network for all landmarks of a window: stem, stages of blocks, two heads.

    Its first stage is of plain convolutions (the published one of width 16, kernel 7, stride 2), the others of residual
    blocks, after average pooling where they have a stride. n_conv_per_stage counts convolutions, then blocks.
    prior: initial logit of every cell.
    """

    def __init__(
        self,
        architecture: Architecture,
        n_channels: int,
        n_landmarks: int,
        ndim: int,
        *,
        norm: Norm = "group",
        prior: float = 0.0,
    ) -> None:
        super().__init__()
        parts = _Parts(ndim, norm)
        widths = architecture.features_per_stage
        layers: list[nn.Module] = []
        before = n_channels
        for i, (width, kernel, stride, n) in enumerate(_stages(architecture)):
            if i == 0:
                layers += parts.stack(n, before, width, kernel, stride)
            else:
                layers += parts.pooling(before, stride)
                layers += [_Block(parts, before if j == 0 else width, width, kernel) for j in range(n)]
            before = width
        self.trunk = nn.Sequential(*layers)
        self.heads = _Heads(parts, widths[-1], n_landmarks, 1)
        _initialise(self, prior)

    def forward(self, data: Tensor) -> Tensor:
        """Apply the network: (B, C, *S) -> (B, L, 1 + D, *O) float32: logit, then displacement in array order, see
        `codecs.CellCodec`.
        """
        output: Tensor = self.heads(self.trunk(data))
        return output


class LocalCells(nn.Module):
    """A small network of its own for each landmark's window, side by side as groups of one network's convolutions.

    Stages are of plain convolutions, after average pooling where they have a stride.
    """

    def __init__(
        self,
        architecture: Architecture,
        n_channels: int,
        n_landmarks: int,
        ndim: int,
        *,
        norm: Norm = "group",
        prior: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_landmarks = n_landmarks
        parts = _Parts(ndim, norm, n_landmarks)
        layers: list[nn.Module] = []
        before = n_channels
        for width, kernel, stride, n in _stages(architecture):
            layers += parts.pooling(0, stride)
            layers += parts.stack(n, before, width, kernel, (1,) * ndim)
            before = width
        self.trunk = nn.Sequential(*layers)
        self.heads = _Heads(parts, before, 1, n_landmarks)
        _initialise(self, prior)

    def forward(self, data: Tensor, landmarks: Tensor) -> Tensor:
        """Apply the networks: (B, L, C, *S), landmarks (B, L) in order -> (B, L, 1 + D, *O) float32. ValueError for
        another number.
        """
        if data.shape[1] != self.n_landmarks or landmarks.shape != data.shape[:2]:
            raise ValueError(f"each of {self.n_landmarks} landmarks needs its window, got {tuple(landmarks.shape)}")
        output: Tensor = self.heads(self.trunk(data.flatten(1, 2)))
        return output


def _stages(a: Architecture) -> list[tuple[int, tuple[int, ...], tuple[int, ...], int]]:
    """(width, kernel, stride, number of convolutions or blocks) a stage."""
    return list(zip(a.features_per_stage, a.kernel_sizes, a.strides, a.n_conv_per_stage, strict=True))


class _Parts:
    """What both networks are made of. copies: independent networks that run side by side as groups."""

    def __init__(self, ndim: int, norm: Norm, copies: int = 1) -> None:
        self.ndim, self.published, self.copies = ndim, norm == "published", copies

    def convolution(
        self, before: int, width: int, kernel: Sequence[int], stride: Sequence[int], bias: bool
    ) -> nn.Conv2d | nn.Conv3d:
        """Widths are those of one copy."""
        n = self.copies
        padding = [k // 2 for k in kernel]
        made: nn.Conv2d | nn.Conv3d = CONVOLUTIONS[self.ndim](
            n * before, n * width, tuple(kernel), tuple(stride), padding, groups=n, bias=bias
        )
        return made

    def norm(self, width: int) -> nn.Module:
        """Groups never reach over copies."""
        if self.published:
            return BATCH_NORM[self.ndim](self.copies * width)
        groups = width // GROUP if width % GROUP == 0 else 1
        return nn.GroupNorm(self.copies * groups, self.copies * width)

    def convolved(self, before: int, width: int, kernel: Sequence[int], stride: Sequence[int]) -> list[nn.Module]:
        """Convolution, norm, ReLU."""
        return [
            self.convolution(before, width, kernel, stride, bias=self.published),
            self.norm(width),
            nn.ReLU(inplace=True),
        ]

    def stack(self, n: int, before: int, width: int, kernel: Sequence[int], stride: Sequence[int]) -> list[nn.Module]:
        """n of them, the first one with the stride."""
        layers = self.convolved(before, width, kernel, stride)
        for _ in range(n - 1):
            layers += self.convolved(width, width, kernel, (1,) * self.ndim)
        return layers

    def pooling(self, width: int, stride: Sequence[int]) -> list[nn.Module]:
        """Average pooling, with norm and ReLU behind it where `width` is given; nothing without a stride."""
        if max(stride) == 1:
            return []
        after = [self.norm(width), nn.ReLU(inplace=True)] if width else []
        return [POOL[self.ndim](tuple(stride)), *after]


class _Block(nn.Module):
    """Two convolutions and a shortcut. Nothing follows the sum; a shortcut that changes the width is a convolution of
    kernel 1, with a norm in 2D only: both as published."""

    def __init__(self, parts: _Parts, before: int, width: int, kernel: Sequence[int]) -> None:
        super().__init__()
        one = (1,) * parts.ndim
        self.convolutions = nn.Sequential(*parts.stack(2, before, width, kernel, one))
        shortcut: list[nn.Module] = []
        if before != width:
            shortcut = [parts.convolution(before, width, one, one, bias=parts.published)]
            shortcut += [parts.norm(width)] if parts.ndim == 2 else []
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.convolutions(x) + self.shortcut(x)
        return result


class _Heads(nn.Module):
    """Classification and displacement, of two hidden layers each; in float32 throughout, see `unet.Head`.

    n_landmarks: of each copy; either it or the number of copies is 1.
    """

    def __init__(self, parts: _Parts, width: int, n_landmarks: int, copies: int) -> None:
        super().__init__()
        self.n_landmarks, self.ndim = n_landmarks * copies, parts.ndim
        self.classification = self._head(parts, width, n_landmarks)
        self.displacement = self._head(parts, width, n_landmarks * parts.ndim)

    @staticmethod
    def _head(parts: _Parts, width: int, n_outputs: int) -> nn.Sequential:
        one = (1,) * parts.ndim
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [Head(parts.convolution(width, width, one, one, bias=True)), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers, Head(parts.convolution(width, n_outputs, one, one, bias=True)))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, ..., *O) -> (B, L, 1 + D, *O) float32."""
        shape = (x.shape[0], self.n_landmarks, -1, *x.shape[2:])
        return torch.cat([self.classification(x).view(shape), self.displacement(x).view(shape)], 2)


def _initialise(network: GlobalCells | LocalCells, prior: float) -> None:
    """He et al.'s; the heads' last layers start at their biases, `prior` for the logits (Lin et al., ICCV 2017)."""
    network.apply(InitWeights_He(0.0))
    for head, bias in ((network.heads.classification, prior), (network.heads.displacement, 0.0)):
        last = head[-1]
        assert isinstance(last, Head) and last.convolution.bias is not None
        nn.init.normal_(last.convolution.weight, std=FIRST)
        nn.init.constant_(last.convolution.bias, bias)
