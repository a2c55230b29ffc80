"""The shape of a U-Net for a window's size and spacing: kernels, strides, depth, output strides. Numbers only.

The rule is nnU-Net's (Isensee et al., Nature Methods 2021): an axis is halved while it keeps at least 4 voxels and its
spacing is within a factor of 2 of the finest; kernels stay 1 along an axis until the others have come that near.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from autolmk.plans import Architecture

SMALLEST = 4  # voxels that the deepest stage keeps along an axis that was ever halved
ISOTROPIC = 2.0  # ratio of spacings up to which two axes count as equally fine


@dataclass(frozen=True)
class Topology:
    """kernels and strides a stage, lists as in `plans.Architecture`."""

    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def scale(self) -> tuple[int, ...]:
        """The number of input voxels, an axis, that a voxel of the deepest stage spans: sides of windows are multiples
        of it.
        """
        return tuple(math.prod(s[axis] for s in self.strides) for axis in range(len(self.strides[0])))

    def fitting(self, voxels: Sequence[int]) -> tuple[int, ...]:
        """The smallest window of at least `voxels` whose sides the strides divide."""
        return tuple(math.ceil(v / n) * n for v, n in zip(voxels, self.scale, strict=True))


def topology(size: Sequence[int], spacing: Sequence[float], max_stages: int) -> Topology:
    """The topology for a window of at least `size` voxels (array order) at `spacing` mm; at most `max_stages`
    stages.
    """
    voxels, step = list(size), list(spacing)
    kernels: list[tuple[int, ...]] = []
    strides = [(1,) * len(voxels)]
    wide = [False] * len(voxels)  # an axis whose kernel has become 3 keeps it
    while True:
        wide = [w or s < ISOTROPIC * min(step) for w, s in zip(wide, step, strict=True)]
        kernels.append(tuple(3 if w else 1 for w in wide))
        able = [n >= 2 * SMALLEST for n in voxels]
        finest = min((s for s, a in zip(step, able, strict=True) if a), default=0.0)
        stride = tuple(2 if a and s < ISOTROPIC * finest else 1 for a, s in zip(able, step, strict=True))
        if max(stride) == 1 or len(strides) == max_stages:
            return Topology(tuple(kernels), tuple(strides))
        strides.append(stride)
        voxels = [math.ceil(n / s) for n, s in zip(voxels, stride, strict=True)]
        step = [a * s for a, s in zip(step, stride, strict=True)]


def with_output_stride(architecture: Architecture, stages_skipped: int) -> Architecture:
    """The architecture whose decoder stops `stages_skipped` stages short of the full resolution."""
    n = len(architecture.strides)
    done = architecture.strides[: stages_skipped + 1]
    convolutions = architecture.n_conv_per_stage_decoder[:1] * (n - 1 - stages_skipped)
    return dataclasses.replace(
        architecture,
        output_stride=tuple(math.prod(s[axis] for s in done) for axis in range(len(done[0]))),
        n_conv_per_stage_decoder=convolutions,
    )
