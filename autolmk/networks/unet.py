"""U-Net on dynamic_network_architectures' building blocks, cut to what a landmark method uses.

Against DNA's own UNetDecoder: one head only (no unused segmentation layers, so every parameter gets a gradient), a
decoder that stops at the output stride, no bias in front of a norm, and a head that computes in float32 under autocast,
because rounding moves peaks (benchmarks/decoding.py). Only modules of DNA that need no timm are imported.

Isensee et al., nnU-Net, Nature Methods 2021 (plain blocks); He et al., Bag of Tricks (ResNet-D), CVPR 2019 (residual).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_dim_to_conv_op,
    get_matching_convtransp,
    get_matching_instancenorm,
)
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.initialization.weight_init import InitWeights_He, init_last_bn_before_add_to_0
from torch import Tensor, nn

from autolmk.plans import Architecture

NEGATIVE_SLOPE = 1e-2


def build_unet(architecture: Architecture, n_channels: int, n_outputs: int, ndim: int) -> UNet:
    """The network of `architecture` with He initialisation: (B, n_channels, *S) -> (B, n_outputs, *S / output_stride).

    Every side of the input must be a multiple of the product of the strides along it.
    Raises ValueError where the lists of the architecture disagree, see `decoder_stages`.
    """
    network = UNet(architecture, n_channels, n_outputs, ndim)
    network.apply(InitWeights_He(NEGATIVE_SLOPE))
    if architecture.residual:
        network.apply(init_last_bn_before_add_to_0)
    return network


def cumulative_strides(strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """The number of input voxels, an axis, that a voxel of each stage spans."""
    steps = itertools.accumulate(strides, lambda a, b: tuple(x * y for x, y in zip(a, b, strict=True)))
    return tuple(tuple(step) for step in steps)


def decoder_stages(architecture: Architecture) -> range:
    """Indices of the encoder stages whose resolution the decoder climbs to, lowest resolution first.

    Raises ValueError where no stage has the output stride, or where the lists' lengths disagree.
    """
    a = architecture
    n = len(a.features_per_stage)
    if not len(a.kernel_sizes) == len(a.strides) == len(a.n_conv_per_stage) == n:
        raise ValueError(f"kernel_sizes, strides and n_conv_per_stage must have {n} entries, as features_per_stage has")
    scales = cumulative_strides(a.strides)
    if a.output_stride not in scales:
        raise ValueError(f"output_stride must be that of a stage, one of {scales}, got {a.output_stride}")
    stages = range(n - 2, scales.index(a.output_stride) - 1, -1)
    if len(a.n_conv_per_stage_decoder) != len(stages):
        raise ValueError(
            f"n_conv_per_stage_decoder must have {len(stages)} entries, lowest resolution first, "
            f"got {len(a.n_conv_per_stage_decoder)}"
        )
    return stages


def check_sides(architecture: Architecture, patch_size: Sequence[int]) -> None:
    """Raise ValueError unless every side of a window is a multiple of the product of the strides along it."""
    coarsest = cumulative_strides(architecture.strides)[-1]
    if len(coarsest) != len(patch_size) or any(n % s for n, s in zip(patch_size, coarsest, strict=True)):
        raise ValueError(f"patch_size must be multiples of {list(coarsest)}, the strides' products, got {patch_size}")


class UNet(nn.Module):
    """Encoder, decoder up to the output stride, one convolution of kernel 1 as the head. See `build_unet`."""

    def __init__(self, architecture: Architecture, n_channels: int, n_outputs: int, ndim: int) -> None:
        super().__init__()
        a, stages = architecture, decoder_stages(architecture)
        self.stage_indices = tuple(stages)
        convolution = convert_dim_to_conv_op(ndim)
        blocks: dict[str, Any] = {
            "conv_bias": False,
            "norm_op": get_matching_instancenorm(convolution),
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"negative_slope": NEGATIVE_SLOPE, "inplace": True},
        }
        encoder = ResidualEncoder if a.residual else PlainConvEncoder
        self.encoder = encoder(
            n_channels,
            len(a.features_per_stage),
            list(a.features_per_stage),
            convolution,
            [list(k) for k in a.kernel_sizes],
            [list(s) for s in a.strides],
            list(a.n_conv_per_stage),
            return_skips=True,
            **blocks,
        )
        upsample = get_matching_convtransp(convolution)
        self.upsamplings, self.decoder = nn.ModuleList(), nn.ModuleList()
        for stage, n_convolutions in zip(stages, a.n_conv_per_stage_decoder, strict=True):
            below, features = a.features_per_stage[stage + 1], a.features_per_stage[stage]
            step = list(a.strides[stage + 1])
            self.upsamplings.append(upsample(below, features, step, step, bias=False))
            kernel = list(a.kernel_sizes[stage])
            self.decoder.append(
                StackedConvBlocks(n_convolutions, convolution, 2 * features, features, kernel, 1, **blocks)
            )
        last = stages[-1] if stages else len(a.features_per_stage) - 1
        self.head = Head(convolution(a.features_per_stage[last], n_outputs, 1, bias=True))

    def forward(self, data: Tensor) -> Tensor:
        """Apply the network: (B, C, *S) -> (B, n_outputs, *S / output_stride) float32."""
        output: Tensor = self.head(self.features(data))
        return output

    def features(self, data: Tensor) -> Tensor:
        """The features that the head sees: (B, C, *S) -> (B, features, *S / output_stride)."""
        skips = self.encoder(data)
        x: Tensor = skips[-1]
        for stage, upsampling, block in zip(self.stage_indices, self.upsamplings, self.decoder, strict=True):
            x = block(torch.cat((upsampling(x), skips[stage]), 1))
        return x


class Head(nn.Module):
    """A convolution that computes in float32, whatever autocast or its own parameters' precision say."""

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        """Apply the head: (B, features, *S) -> (B, n_outputs, *S) float32."""
        with without_autocast(x):
            c = self.convolution
            bias = None if c.bias is None else c.bias.float()
            output: Tensor = c._conv_forward(x.float(), c.weight.float(), bias)
            return output


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Keep the precision of what is computed from x inside `with`; on torch's meta device autocast is a mode, see
    `autocast`.
    """
    device = x.device.type
    if device == "meta":
        return torch._C.DisableTorchFunction()
    has_autocast = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if has_autocast else contextlib.nullcontext()
