"""U-Nets: shapes, gradients, precision, and the rule that shapes them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import nn

from autolmk.networks.topology import topology, with_output_stride
from autolmk.networks.unet import build_unet, cumulative_strides
from autolmk.plans import Architecture

SOLID = Architecture(
    features_per_stage=(4, 8, 16),
    kernel_sizes=((3, 3, 3),) * 3,
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    n_conv_per_stage=(2, 2, 2),
    n_conv_per_stage_decoder=(2, 2),
    output_stride=(1, 1, 1),
)
FLAT = Architecture(
    features_per_stage=(4, 8, 16),
    kernel_sizes=((3, 3),) * 3,
    strides=((1, 1), (2, 2), (2, 2)),
    n_conv_per_stage=(2, 2, 2),
    n_conv_per_stage_decoder=(1, 1),
    output_stride=(1, 1),
)
SLICES = Architecture(
    features_per_stage=(4, 8, 16),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    n_conv_per_stage=(1, 2, 2),
    n_conv_per_stage_decoder=(1, 1),
    output_stride=(1, 1, 1),
)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("skipped", [0, 1, 2])
@pytest.mark.parametrize("architecture", [SOLID, FLAT, SLICES], ids=["solid", "flat", "slices"])
def test_output_stops_at_the_output_stride_and_every_parameter_learns(
    architecture: Architecture, skipped: int, residual: bool
) -> None:
    a = dataclasses.replace(with_output_stride(architecture, skipped), residual=residual)
    ndim = len(a.strides[0])
    size = (8, 16, 16)[-ndim:]
    network = build_unet(a, n_channels=2, n_outputs=5, ndim=ndim)
    output = network(torch.randn(2, 2, *size))
    assert output.shape == (2, 5, *(n // s for n, s in zip(size, a.output_stride, strict=True)))
    output.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    if not residual:  # a residual block starts as the identity, so that its first gradients are partly 0
        still = [name for name, p in network.named_parameters() if p.grad is not None and not p.grad.any()]
        assert still == []


def test_output_stride_follows_the_strides_of_each_axis() -> None:
    assert with_output_stride(SLICES, 1).output_stride == (1, 2, 2)
    assert with_output_stride(SLICES, 2).output_stride == (2, 4, 4)
    assert cumulative_strides(SLICES.strides) == ((1, 1, 1), (1, 2, 2), (2, 4, 4))


@pytest.mark.parametrize("residual", [False, True])
def test_only_the_head_has_a_bias_and_there_is_one_head(residual: bool) -> None:
    network = build_unet(dataclasses.replace(SOLID, residual=residual), 1, 7, 3)
    convolutions = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)}
    assert [name for name, m in convolutions.items() if m.bias is not None] == ["head.convolution"]
    assert [name for name, m in convolutions.items() if m.out_channels == 7] == ["head.convolution"]


def test_head_computes_in_float32_under_autocast_and_in_a_half_precision_module() -> None:
    network = build_unet(FLAT, 1, 3, 2)
    features: list[torch.Tensor] = []
    network.head.register_forward_hook(lambda module, inputs, output: features.append(inputs[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(torch.randn(1, 1, 16, 16))
    assert features[0].dtype == torch.bfloat16  # the rest is in low precision
    head = network.head.convolution
    expected = torch.nn.functional.conv2d(features[0].float(), head.weight, head.bias)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected)
    assert not torch.equal(output, output.bfloat16().float())
    assert network.bfloat16()(torch.randn(1, 1, 16, 16).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_stride": (3, 3, 3)}, "output_stride must be that of a stage"),
        ({"n_conv_per_stage_decoder": (2,)}, "n_conv_per_stage_decoder must have 2 entries"),
        ({"strides": ((1, 1, 1), (2, 2, 2))}, "must have 3 entries"),
    ],
)
def test_lists_that_disagree_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_unet(dataclasses.replace(SOLID, **changes), 1, 3, 3)  # type: ignore[arg-type]


def test_timm_is_not_imported() -> None:
    code = "import sys, autolmk.networks.unet; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_topology_halves_axes_until_4_voxels_are_left() -> None:
    t = topology((64, 64, 64), (1.0, 1.0, 1.0), max_stages=8)
    assert t.strides == ((1, 1, 1), *((2, 2, 2),) * 4)
    assert t.kernel_sizes == ((3, 3, 3),) * 5
    assert topology((64, 64, 64), (1.0, 1.0, 1.0), max_stages=3).scale == (4, 4, 4)
    assert topology((5, 64, 64), (1.0, 1.0, 1.0), max_stages=8).scale == (1, 16, 16)


def test_topology_waits_for_coarse_axes() -> None:
    t = topology((32, 128, 128), (4.0, 1.0, 1.0), max_stages=8)
    assert t.strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert t.kernel_sizes[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))


def test_windows_fit_the_strides() -> None:
    t = topology((30, 57, 64), (1.0, 1.0, 1.0), max_stages=5)
    fitting = t.fitting((30, 57, 64))
    assert all(n % s == 0 for n, s in zip(fitting, t.scale, strict=True))
    assert fitting == (32, 64, 64)
    architecture = dataclasses.replace(
        SOLID,
        features_per_stage=(2,) * len(t.strides),
        kernel_sizes=t.kernel_sizes,
        strides=t.strides,
        n_conv_per_stage=(1,) * len(t.strides),
        n_conv_per_stage_decoder=(1,) * (len(t.strides) - 1),
    )
    assert build_unet(architecture, 1, 2, 3)(torch.zeros(1, 1, *fitting)).shape == (1, 2, *fitting)
