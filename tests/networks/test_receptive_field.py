"""How far networks see: the formulas against gradients of bare convolutions of the same kernels and strides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autolmk.networks.receptive_field import cells_field, unet_field
from autolmk.plans import Architecture

UNET = Architecture(
    (4, 4, 4), ((3, 3),) * 3, ((1, 1), (2, 2), (2, 1)), (2, 1, 2), (2, 1), (1, 1)
)  # fmt: skip


def seen(layers: list[nn.Module], side: int) -> tuple[int, int]:
    """Voxels of an input of side x side that the middle output depends on, along each axis."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(layer.weight, 1.0)
    data = torch.zeros(1, 1, side, side, requires_grad=True)
    out = nn.Sequential(*layers)(data)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    assert data.grad is not None
    there = data.grad[0, 0] != 0
    return int(there.any(1).sum()), int(there.any(0).sum())


def convolution(k: int, stride: tuple[int, int] = (1, 1)) -> nn.Module:
    return nn.Conv2d(1, 1, k, stride, k // 2, bias=False)


@pytest.mark.parametrize("n_decoder", [(2, 1), (1, 3)])
def test_a_unet_sees_through_its_lowest_stage(n_decoder: tuple[int, int]) -> None:
    """The whole path down and up, as one chain; where in a lower cell a voxel lies, counts for less than that cell."""
    architecture = Architecture(
        UNET.features_per_stage, UNET.kernel_sizes, UNET.strides, UNET.n_conv_per_stage, n_decoder, (1, 1)
    )
    down = [convolution(3), convolution(3), convolution(3, (2, 2)), convolution(3, (2, 1)), convolution(3)]
    up: list[nn.Module] = []
    for stride, n in zip(((2, 1), (2, 2)), n_decoder, strict=True):
        up += [nn.ConvTranspose2d(1, 1, stride, stride, bias=False), *(convolution(3) for _ in range(n))]
    found, formula = seen(down + up, 128), unet_field(architecture)
    assert all(abs(f - s) < 4 for f, s in zip(formula, found, strict=True)), (formula, found)


def test_residual_blocks_are_two_convolutions() -> None:
    plain, residual = (
        Architecture((4,), ((3, 3),), ((1, 1),), (2,), (), (1, 1), residual=flag) for flag in (False, True)
    )
    assert unet_field(plain) == (5, 5) and unet_field(residual) == (9, 9)


def test_cells_see_as_far_as_published_blocks_let_them() -> None:
    """Of four halvings' stem and stages with one block each: 73 voxels, as its own layers say."""
    one, two = (1, 1), (2, 2)
    architecture = Architecture((4,) * 5, ((7, 7), *((3, 3),) * 4), (two, two, one, one, one), (1,) * 5, (), (4, 4))
    layers: list[nn.Module] = [convolution(7, two), nn.AvgPool2d(2)]
    for _ in range(4):
        layers += [convolution(3), convolution(3)]
    assert cells_field(architecture) == (73, 73) == seen(layers, 160)
