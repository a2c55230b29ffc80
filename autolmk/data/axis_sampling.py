"""Resampling onto a straight grid as one small matrix an axis: low-pass, spline and sampling are linear, and along an
axis they are one matrix, which SciPy itself makes from unit vectors. So the result is that of `image.resample` up to
float32, in a fraction of its time and memory, and alike with NumPy and with torch on any device.

Shapes: C channels, *S spatial; n input and m output voxels of an axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from autolmk.geometry import FloatArray, Geometry
from autolmk.image import low_pass_sigma

ROWS = 64  # of a matrix that are multiplied at a time: each needs only the input voxels near them
NEGLIGIBLE = 1e-7  # weight below which an input voxel does not count; one row's leave out less than 1e-6 in all


def axis_matrices(source: Geometry, target: Geometry, order: int) -> list[FloatArray]:
    """(m, n) of each axis, from voxels of `source` to voxels of `target`: the border is repeated outside, and where
    voxels get wider, the image is smoothed first, see `image.low_pass_sigma`. Both grids must be parallel.

    order: of the spline, 1 to 5.
    """
    matrix, offset = target.map_to(source)
    sigma = low_pass_sigma(matrix, "crossed")
    return [
        _axis_matrix(n, m, float(step), float(start), float(width), order)
        for n, m, step, start, width in zip(source.shape, target.shape, np.diag(matrix), offset, sigma, strict=True)
    ]


def _axis_matrix(n: int, m: int, step: float, start: float, sigma: float, order: int) -> FloatArray:
    """(m, n): what SciPy makes of n unit vectors, sampled at start, start + step, ..."""
    unit = np.eye(n)
    if sigma > 0:
        unit = ndimage.gaussian_filter1d(unit, sigma, axis=0, mode="nearest")
    result: FloatArray = ndimage.affine_transform(
        unit, np.array([step, 1.0]), np.array([start, 0.0]), output_shape=(m, n), order=order, mode="nearest"
    )
    return result


def multiplied(array: Any, matrices: Sequence[FloatArray]) -> Any:
    """(C, *S) -> (C, *m): each spatial axis multiplied by its matrix (m, n), the one that shrinks most first.

    array: of NumPy, or a torch tensor on any device; what is returned is of the same kind and type.
    """
    for axis in sorted(range(len(matrices)), key=lambda a: matrices[a].shape[0] / matrices[a].shape[1]):
        array = _along(array, matrices[axis], axis + 1)
    return array


def _along(array: Any, matrix: FloatArray, axis: int) -> Any:
    """`array` with `axis` multiplied by the matrix (m, n), a few rows at a time."""
    shape, m = tuple(array.shape), len(matrix)
    before, n, after = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    last = after == 1  # then its voxels lie side by side: the matrix goes to the right
    flat = array.reshape((before, n) if last else (before, n, after))
    result = _new(array, (before, m) if last else (before, m, after))
    for begin in range(0, m, ROWS):
        rows = matrix[begin : begin + ROWS]
        counts = np.flatnonzero((np.abs(rows) > NEGLIGIBLE).any(axis=0))
        near = slice(int(counts[0]), int(counts[-1]) + 1)
        part = _alike(array, rows[:, near])
        result[:, begin : begin + ROWS] = flat[:, near] @ part.T if last else part @ flat[:, near]
    return result.reshape((*shape[:axis], m, *shape[axis + 1 :]))


def _new(like: Any, shape: tuple[int, ...]) -> Any:
    return np.empty(shape, like.dtype) if isinstance(like, np.ndarray) else like.new_empty(shape)


def _alike(like: Any, values: FloatArray) -> Any:
    """The values as an array of the same kind, type and place."""
    return values.astype(like.dtype) if isinstance(like, np.ndarray) else like.new_tensor(values)
