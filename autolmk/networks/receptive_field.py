"""The receptive field of a network: the box of input voxels that one output voxel depends on (Luo et al., Understanding
the effective receptive field, NeurIPS 2016; what counts most lies in the middle of it). Shapes: D image axes.
"""

from __future__ import annotations

from collections.abc import Sequence

from autolmk.networks.unet import cumulative_strides, decoder_stages
from autolmk.plans import Architecture


def unet_field(architecture: Architecture) -> tuple[int, ...]:
    """The receptive field, (D,) voxels, of an encoder and a decoder up to the output stride. Residual blocks are two
    convolutions each.
    """
    a = architecture
    each = 2 if a.residual else 1
    field, step = _encoded(a.kernel_sizes[:1], a.strides[:1], [each * a.n_conv_per_stage[0]], pooled=False)
    rest = [each * n for n in a.n_conv_per_stage[1:]]
    field, step = _encoded(a.kernel_sizes[1:], a.strides[1:], rest, pooled=False, field=field, step=step)
    steps = cumulative_strides(a.strides)
    for stage, n in zip(decoder_stages(a), a.n_conv_per_stage_decoder, strict=True):
        field = [f + n * (k - 1) * s for f, k, s in zip(field, a.kernel_sizes[stage], steps[stage], strict=True)]
    return tuple(field)


def cells_field(architecture: Architecture) -> tuple[int, ...]:
    """The receptive field, (D,) voxels, of `networks.cells.GlobalCells`: plain convolutions, then stages of average
    pooling and residual blocks of two convolutions.
    """
    a = architecture
    field, step = _encoded(a.kernel_sizes[:1], a.strides[:1], a.n_conv_per_stage[:1], pooled=False)
    blocks = [2 * n for n in a.n_conv_per_stage[1:]]
    return tuple(_encoded(a.kernel_sizes[1:], a.strides[1:], blocks, pooled=True, field=field, step=step)[0])


def _encoded(
    kernels: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    counts: Sequence[int],
    *,
    pooled: bool,
    field: Sequence[int] = (),
    step: Sequence[int] = (),
) -> tuple[list[int], list[int]]:
    """(voxels seen, input voxels between neighbouring outputs) behind stages of `counts` convolutions, whose first one
    has the stride, or which an average over `stride` voxels precedes."""
    axes = len(kernels[0]) if kernels else len(field)
    seen, apart = list(field) or [1] * axes, list(step) or [1] * axes
    for kernel, stride, n in zip(kernels, strides, counts, strict=True):
        for axis in range(axes):
            k, s = kernel[axis], stride[axis]
            first = s if pooled else k
            seen[axis] += (first - 1) * apart[axis]
            apart[axis] *= s
            seen[axis] += (n if pooled else n - 1) * (k - 1) * apart[axis]
    return seen, apart
