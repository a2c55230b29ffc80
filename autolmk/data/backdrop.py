"""Backdrops: what training windows show beyond the image, so that a network learns what is no part of the anatomy.

In prediction an image may be larger than any that was trained on, and hold padding, noise or other anatomy around what
is looked for. A backdrop is one value (often the one that prediction pads with), or a random texture with intensities
of the image itself: noise, clouds or blobs. It holds no landmark by construction, and needs no second image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used
from scipy.special import ndtr

from autolmk.geometry import FloatArray, Geometry
from autolmk.image import FloatImage

PADDED, EVEN = 0.3, 0.2  # shares of backdrops that are what prediction pads with, and another single value
BEYOND = 0.5  # of an image's range, by which a single value may lie outside of it, as padding does
COARSEST = 4  # a texture's structures are at most this part of a window wide
CARTOON, LEVELS = 0.5, 6  # share of textures that are even regions with sharp edges; of so many intensities at most
ALL_ALIKE = 0.5  # share of textures that hold all of the image's range alike, not as often as the image does
GRAIN = 0.5  # standard deviation of noise in backdrops, in that of the image, at most; half of them have none
SAMPLES = 4096  # voxels by which an image's intensities are known
QUANTILES = 65
SOFTEST = 3.0  # voxels over which an image may fade into its backdrop


def depth_in(image: Geometry, window: Geometry) -> FloatImage:
    """The depth of each voxel of the window inside the image, (*window.shape), in voxels of the image; negative beyond
    its border.
    """
    matrix, offset = window.map_to(image)
    places = np.ogrid[tuple(slice(n) for n in window.shape)]
    result = np.full(window.shape, np.inf, dtype=np.float32)
    for row, first, n in zip(matrix, offset, image.shape, strict=True):
        along = sum((step * place for step, place in zip(row, places, strict=True)), np.asarray(first))
        across = (along + 0.5).astype(np.float32)
        np.minimum(result, across, out=result)
        np.minimum(result, n - across, out=result)
    return result


def paint(
    rng: np.random.Generator, data: FloatImage, depth: FloatImage, fill: Sequence[float], *, blank: bool
) -> FloatImage:
    """data (C, *S) of a window with a backdrop where `depth` (*S) is negative; a new array, a function of `rng` alone.

    fill: (C,) what prediction shows beyond an image. blank: the backdrop covers the image, too.
    """
    known = _intensities(data, depth)
    values = np.reshape(np.asarray(fill, dtype=np.float32), (-1, *(1,) * depth.ndim))
    if known is not None and rng.random() >= PADDED:
        values = _values(rng, known, depth.shape)
    if blank:
        return np.array(np.broadcast_to(values, data.shape))
    share = np.clip(depth / max(rng.uniform(-SOFTEST, SOFTEST), 1e-3) + 0.5, 0.0, 1.0)
    return np.where(share < 1, values + share * (data - values), data).astype(np.float32)


def _intensities(data: FloatImage, depth: FloatImage) -> npt.NDArray[np.float32] | None:
    """(C, QUANTILES) of the voxels that show the image; None where there are none."""
    shown = np.flatnonzero(depth > 0)
    if not len(shown):
        return None
    some = shown[:: max(1, len(shown) // SAMPLES)]
    return np.quantile(data.reshape(len(data), -1)[:, some], np.linspace(0, 1, QUANTILES), axis=1).T


def _values(rng: np.random.Generator, known: npt.NDArray[np.float32], shape: tuple[int, ...]) -> FloatImage:
    """(C, *shape) of one value and noise, or of a texture and noise. known: see `_intensities`."""
    column = (-1, *(1,) * len(shape))
    lowest, highest = known[:, 0].reshape(column), known[:, -1].reshape(column)
    if rng.random() < EVEN / (1 - PADDED):
        place = rng.uniform(-BEYOND, 1 + BEYOND)
        values = np.broadcast_to(lowest + place * (highest - lowest), (len(known), *shape))
    else:
        low, high = np.sort(rng.random(2))
        rank = low + (high - low) * _texture(rng, shape)
        levels = np.linspace(0, 1, known.shape[1])
        even = np.linspace(known[:, 0], known[:, -1], known.shape[1], axis=1)
        values = np.stack([np.interp(rank, levels, of) for of in (even if rng.random() < ALL_ALIKE else known)])
    noise = GRAIN * max(0.0, rng.uniform(-1, 1)) * known.std(axis=1).reshape(column)
    if noise.any():
        values = values + noise * rng.standard_normal(values.shape, np.float32)
    return values.astype(np.float32)


def _texture(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """(*shape) from 0 to 1: noise, clouds or even regions of a random width, from a voxel to a part of the window."""
    width = np.exp(rng.uniform(0, np.log(max(1.0, max(shape) / COARSEST))))
    step = max(1.0, width / 2)
    coarse = scipy.ndimage.gaussian_filter(
        rng.standard_normal([int(n / step) + 3 for n in shape], np.float32), width / step
    )
    coarse /= max(float(coarse.std()), 1e-6)
    smooth = scipy.ndimage.affine_transform(
        coarse, np.full(len(shape), 1 / step), rng.random(len(shape)), output_shape=shape, order=1, mode="nearest"
    )
    rank = ndtr(smooth)
    if rng.random() < CARTOON:
        levels = rng.random(rng.integers(2, LEVELS + 1))
        rank = levels[np.searchsorted(np.sort(rng.random(len(levels) - 1)), rank)]
    return np.asarray(rank)
