"""APGA: one residual encoder, a decoder for landmarks and one for label maps, skips gated by a task (FDT).

Every skip passes the Feature Decoupling Transformer: a half of it a task says by voxel and by channel what of the skip
that task's decoder sees. Prediction needs the encoder, the landmarks' decoder and their half of the FDT, see
`LandmarkPath`; the rest only teaches them.

Shapes: B batch, C features, L landmarks, G label maps, *S input voxels, *O output cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.helper import (
    convert_dim_to_conv_op,
    get_matching_batchnorm,
    get_matching_instancenorm,
)
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from autolmk.networks.unet import NEGATIVE_SLOPE, Head, cumulative_strides
from autolmk.plans import Architecture

HEADS = 16  # of the FDT, both tasks together; fewer where that leaves a head less than 2 channels
SQUEEZE = 16  # channels of the bottlenecks of both gates


def build_apga(
    architecture: Architecture,
    n_channels: int,
    n_landmarks: int,
    n_maps: int,
    ndim: int,
    *,
    fdt: bool = True,
    published: bool = False,
) -> APGA:
    """The network of `architecture`, whose n_conv_per_stage counts the stem's convolutions, then residual blocks.

    n_maps 0: without the decoder for label maps. fdt False: skips as they are. published: batch norm, ReLU also after
    the last layer; else instance norm, leaky ReLU and a linear head. The output may be finer than the first stage: it
    is then reached by interpolation. Raises ValueError where the architecture's lists disagree or widths do not suit.
    """
    blocks = BlockStyle(ndim, published)
    network = APGA(architecture, n_channels, (n_landmarks, n_maps), blocks, fdt)
    if not published:
        network.apply(InitWeights_He(NEGATIVE_SLOPE))
    return network


class BlockStyle:
    """Makes blocks of convolutions of one kind. No convolution before a norm has a bias, but the published plain ones:
    it does nothing there."""

    def __init__(self, ndim: int, published: bool) -> None:
        self.ndim, self.published = ndim, published
        self.convolution: Any = convert_dim_to_conv_op(ndim)
        matching = get_matching_batchnorm if published else get_matching_instancenorm
        self.normalization: Any = matching(self.convolution)

    def activation(self) -> nn.Module:
        """The activation: ReLU, or leaky ReLU."""
        return nn.ReLU(inplace=True) if self.published else nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def normalized(
        self, n_in: int, n_out: int, kernel: Sequence[int], stride: Sequence[int], *, bias: bool = False
    ) -> list[nn.Module]:
        """A convolution and its norm."""
        padding = [k // 2 for k in kernel]
        convolution = self.convolution(n_in, n_out, list(kernel), list(stride), padding, bias=bias)
        return [convolution, self.normalization(n_out, eps=1e-5, affine=True)]

    def plain(
        self, n: int, n_in: int, n_out: int, kernel: Sequence[int], stride: Sequence[int] | None = None
    ) -> nn.Sequential:
        """n times convolution, norm, activation; the first one strides."""
        one, layers = (1,) * len(kernel), []
        for i in range(n):
            step = one if i or stride is None else stride
            layers += self.normalized(n_out if i else n_in, n_out, kernel, step, bias=self.published)
            layers.append(self.activation())
        return nn.Sequential(*layers)

    def head(self, n_in: int, n_out: int) -> nn.Module:
        """The head from features to outputs: linear and in float32, or as published."""
        return (
            self.plain(2, n_in, n_out, (3,) * self.ndim) if self.published else Head(self.convolution(n_in, n_out, 1))
        )


class ResidualBlock(nn.Module):
    """He et al., Deep Residual Learning, CVPR 2016: two convolutions, a strided 1x1 shortcut where shapes change."""

    def __init__(self, blocks: BlockStyle, n_in: int, n_out: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        one = (1,) * len(kernel)
        self.path = nn.Sequential(
            *blocks.normalized(n_in, n_out, kernel, stride),
            blocks.activation(),
            *blocks.normalized(n_out, n_out, kernel, one),
        )
        changes = n_in != n_out or max(stride) > 1
        self.shortcut = nn.Sequential(*(blocks.normalized(n_in, n_out, one, stride) if changes else ()))
        self.activation = blocks.activation()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (B, n_in, *S) -> (B, n_out, *S / stride)."""
        result: Tensor = self.activation(self.path(x) + self.shortcut(x))
        return result


class Encoder(nn.Module):
    """A stem of plain convolutions, then stages of residual blocks."""

    def __init__(self, architecture: Architecture, n_channels: int, blocks: BlockStyle) -> None:
        super().__init__()
        a, n_in = architecture, n_channels
        lists = (a.kernel_sizes, a.strides, a.n_conv_per_stage)
        if any(len(values) != len(a.features_per_stage) for values in lists):
            raise ValueError(
                "kernel_sizes, strides and n_conv_per_stage must have as many entries as features_per_stage"
            )
        self.stages = nn.ModuleList()
        for i, n_out in enumerate(a.features_per_stage):
            kernel, stride, n = a.kernel_sizes[i], a.strides[i], a.n_conv_per_stage[i]
            if i == 0:
                stage = blocks.plain(n, n_in, n_out, kernel, stride)
            else:
                first = ResidualBlock(blocks, n_in, n_out, kernel, stride)
                one = (1,) * len(stride)
                stage = nn.Sequential(first, *(ResidualBlock(blocks, n_out, n_out, kernel, one) for _ in range(n - 1)))
            self.stages.append(stage)
            n_in = n_out

    def forward(self, data: Tensor) -> list[Tensor]:
        """Encode data: (B, channels, *S) -> the output of each stage, finest first."""
        found = [data]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found[1:]


class TaskAttention(nn.Module):
    """One task's half of the FDT: a gate by voxel times a gate by channel for a skip of C features.

    Query, key and value are those of the task's heads alone, C / 2 channels. The attention is a softmax over the
    channels of a head, voxel by voxel.
    """

    def __init__(self, features: int, convolution: Any) -> None:
        super().__init__()
        half = features // 2
        self.channels_per_head = features // heads_of(features)
        self.query, self.key, self.value = (convolution(features, half, 1) for _ in range(3))
        self.voxel_gate = nn.Sequential(
            convolution(half, SQUEEZE, 1), nn.ReLU(inplace=True), convolution(SQUEEZE, features, 1)
        )
        self.pooling = nn.Conv1d(3, 1, 1)
        self.channel_gate = nn.Sequential(
            nn.Linear(features, SQUEEZE), nn.ReLU(inplace=True), nn.Linear(SQUEEZE, features)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the attention: (B, C, *S) -> (gated (B, C, *S), query (B, C / 2, *S), which deep supervision
        looks at).
        """
        query = self.query(x)
        product = query * self.key(x) * self.channels_per_head**-0.5
        attention = product.unflatten(1, (-1, self.channels_per_head)).softmax(2).flatten(1, 2)
        voxels = torch.sigmoid(self.voxel_gate(attention * self.value(x)))
        flat = voxels.flatten(2)
        pooled = torch.stack((flat.amax(2), flat.mean(2), flat.amin(2)), 1)
        channels = torch.sigmoid(self.channel_gate(self.pooling(pooled)[:, 0]))
        return x * (voxels * channels.view(*channels.shape, *(1,) * (x.ndim - 2))), query


def heads_of(features: int) -> int:
    """The number of the FDT's heads at a width: 16, or the most that leaves each head at least 2 channels. ValueError
    where none does.
    """
    for heads in range(HEADS, 0, -2):
        if features % heads == 0 and features // heads >= 2:
            return heads
    raise ValueError(f"features_per_stage must be even, and 4 or more, where skips are gated by task, got {features}")


class Branch(nn.Module):
    """A task's decoder, with its half of the FDT at every skip. stages: indices of the encoder's, coarsest first."""

    def __init__(
        self, architecture: Architecture, stages: Sequence[int], n_outputs: int, blocks: BlockStyle, fdt: bool
    ) -> None:
        super().__init__()
        a = architecture
        self.stage_indices = tuple(stages)
        self.attention, self.decoder = nn.ModuleList(), nn.ModuleList()
        below = a.features_per_stage[-1]
        for stage, n in zip(stages, a.n_conv_per_stage_decoder, strict=True):
            features = a.features_per_stage[stage]
            if fdt:
                self.attention.append(TaskAttention(features, blocks.convolution))
            self.decoder.append(blocks.plain(n, below + features, features, a.kernel_sizes[stage]))
            below = features
        last = cumulative_strides(a.strides)[stages[-1] if stages else -1]
        self.beyond = tuple(s // o for s, o in zip(last, a.output_stride, strict=True))
        self.head = blocks.head(below, n_outputs)

    def forward(self, skips: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The encoder's outputs -> (output (B, n_outputs, *O), queries of the FDT, coarsest first)."""
        x, queries = skips[-1], []
        for i, stage in enumerate(self.stage_indices):
            skip = skips[stage]
            if self.attention:
                skip, query = self.attention[i](skip)
                queries.append(query)
            x = self.decoder[i](torch.cat((resized(x, skip.shape[2:]), skip), 1))
        if max(self.beyond) > 1:
            x = resized(x, [n * f for n, f in zip(x.shape[2:], self.beyond, strict=True)])
        return self.head(x), queries


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize features linearly in each axis, (B, C, *S) -> (B, C, *size), cells about their centres."""
    return F.interpolate(x, tuple(size), mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


class APGA(nn.Module):
    """Encoder, a branch for landmarks and perhaps one for label maps, and heads that supervise the FDT. See
    `build_apga`."""

    def __init__(
        self, architecture: Architecture, n_channels: int, n_outputs: tuple[int, int], blocks: BlockStyle, fdt: bool
    ) -> None:
        super().__init__()
        a = architecture
        stages = stages_up_to(a)
        self.encoder = Encoder(a, n_channels, blocks)
        self.branches, self.supervision = nn.ModuleDict(), nn.ModuleDict()
        for name, n in zip(("landmarks", "labels"), n_outputs, strict=True):
            if n:
                self.branches[name] = Branch(a, stages, n, blocks, fdt)
                halves = [a.features_per_stage[stage] // 2 for stage in stages] if fdt else []
                self.supervision[name] = nn.ModuleList(Head(blocks.convolution(half, n, 1)) for half in halves)

    def forward(self, data: Tensor) -> dict[str, list[Tensor]]:
        """Apply the network: (B, channels, *S) -> for `landmarks` and `labels` the output (B, L or G, *O), then those
        that supervise the FDT, finest first.
        """
        skips = self.encoder(data)
        result = {}
        for name, branch in self.branches.items():
            output, queries = branch(skips)
            heads: Any = self.supervision[name]
            deep = [head(query) for head, query in zip(heads, queries, strict=True)]
            result[name] = [output, *reversed(deep)]
        return result


class LandmarkPath(nn.Module):
    """The part of an APGA that finds landmarks, of the same weights."""

    def __init__(self, network: APGA) -> None:
        super().__init__()
        self.encoder, self.branch = network.encoder, network.branches["landmarks"]

    def forward(self, data: Tensor) -> Tensor:
        """Apply the landmarks' part: (B, channels, *S) -> (B, L, *O)."""
        output: Tensor = self.branch(self.encoder(data))[0]
        return output


def stages_up_to(architecture: Architecture) -> tuple[int, ...]:
    """Indices of the stages that a decoder climbs to, coarsest first: all but the last, up to the output's stride.

    ValueError where no stage has that stride and the first is no multiple of it, or where lists' lengths disagree.
    """
    a, scales = architecture, cumulative_strides(architecture.strides)
    if a.output_stride in scales:
        finest = scales.index(a.output_stride)
    elif all(s % o == 0 for s, o in zip(scales[0], a.output_stride, strict=True)):
        finest = 0
    else:
        raise ValueError(f"output_stride must be that of a stage, one of {scales}, or divide it, got {a.output_stride}")
    stages = tuple(range(len(scales) - 2, finest - 1, -1))
    if len(a.n_conv_per_stage_decoder) != len(stages):
        raise ValueError(f"n_conv_per_stage_decoder must have {len(stages)} entries, coarsest first")
    return stages


def published_architecture(ndim: int = 3, base: int = 32) -> Architecture:
    """The architecture of the published network: four stages of stride 2, three residual blocks in each but
    the stem.
    """
    return Architecture(
        features_per_stage=tuple(base * 2**i for i in range(4)),
        kernel_sizes=((3,) * ndim,) * 4,
        strides=((2,) * ndim,) * 4,
        n_conv_per_stage=(2, 3, 3, 3),
        n_conv_per_stage_decoder=(2, 2, 2),
        output_stride=(1,) * ndim,
        residual=True,
    )
