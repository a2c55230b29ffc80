"""Image: an array and its Geometry; resampling to any other Geometry in one interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used

from autolmk.geometry import FloatArray, Geometry

FloatImage = npt.NDArray[np.float32]
LowPass = Literal["crossed", "widest"]

LOW_PASS_ABOVE = 1.3  # output spacing over input spacing from which an image is smoothed before it is sampled
FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))


@dataclass(frozen=True, eq=False)
class Image:
    """An image and its geometry. array: (C, *S) float32; geometry: of its S axes. padding: the lowest and highest value
    of each channel that its file declares to show nothing; None where it declares none. Raises ValueError where they
    disagree.
    """

    array: FloatImage
    geometry: Geometry
    padding: tuple[tuple[float, float] | None, ...] | None = None

    def __post_init__(self) -> None:
        if self.array.shape[1:] != self.geometry.shape or self.array.ndim != self.geometry.ndim + 1:
            raise ValueError(f"array {self.array.shape} must be (C, {', '.join(map(str, self.geometry.shape))})")
        if self.padding is not None and len(self.padding) != len(self.array):
            raise ValueError(f"padding of {len(self.padding)} channels, for {len(self.array)}")

    def canonical(self) -> Image:
        """The image in canonical orientation (axes permuted and reversed, nothing interpolated); the array is
        contiguous.
        """
        permutation, flips = self.geometry.canonical_axes()
        array = self.array.transpose(0, *(p + 1 for p in permutation))
        array = np.flip(array, tuple(f + 1 for f in flips))
        return Image(np.ascontiguousarray(array), self.geometry.canonical(), self.padding)

    def resample(
        self,
        target: Geometry,
        *,
        order: int = 1,
        fill: Sequence[float] | None = None,
        low_pass: LowPass | None = "crossed",
    ) -> Image:
        """The image on the grid `target`: crop, pad, rotate and resample in one interpolation, see `resample`."""
        return Image(resample(self.array, self.geometry, target, order=order, fill=fill, low_pass=low_pass), target)


def resample(
    array: npt.NDArray[np.floating],
    source: Geometry,
    target: Geometry,
    *,
    order: int = 1,
    fill: Sequence[float] | None = None,
    low_pass: LowPass | None = "crossed",
) -> FloatImage:
    """`array` (C, *source.shape) sampled on `target`: (C, *target.shape) float32.

    order: of the spline, 0 for label maps. fill: one value a channel for what lies outside; None repeats the border.
    low_pass: where an output voxel is more than 1.3 times as wide as an input voxel, smooth first, with the Gaussian
    that takes the input's point spread to the output's (Cardoso et al., MICCAI 2015), see `low_pass_sigma`; never for
    order 0. A target whose voxels are the source's own, mirrored perhaps, is cut out exactly: nothing is interpolated.
    """
    matrix, offset = target.map_to(source)
    if order > 0 and low_pass is not None:
        array = _smooth(array, low_pass_sigma(matrix, low_pass))
    diagonal = np.diag(matrix)
    straight = np.abs(matrix - np.diag(diagonal)).max() < 1e-9
    start = np.round(offset).astype(int)
    if straight and np.allclose(np.abs(diagonal), 1, atol=1e-9) and np.abs(offset - start).max() < 1e-6:
        backward = diagonal < 0
        exact = _crop(array, start - backward * (np.array(target.shape) - 1), target.shape, fill)
        return np.ascontiguousarray(np.flip(exact, tuple(np.flatnonzero(backward) + 1)))
    result = np.empty((len(array), *target.shape), dtype=np.float32)
    for channel, plane in enumerate(array):
        scipy.ndimage.affine_transform(
            np.asarray(plane, dtype=np.float32),
            np.diag(matrix) if straight else matrix,
            offset,
            output=result[channel],
            output_shape=target.shape,
            order=order,
            mode="nearest" if fill is None else "grid-constant",
            cval=0.0 if fill is None else float(fill[channel]),
        )
    return result


def border(channel: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The voxels (*S) on the faces of an array, in one row. Axes of a single voxel have no faces: a slice has edges."""
    faces = [channel.take(i, axis=a).ravel() for a in range(channel.ndim) for i in (0, -1) if channel.shape[a] > 1]
    return np.concatenate(faces) if faces else channel.reshape(-1)


def low_pass_sigma(matrix: FloatArray, low_pass: LowPass) -> FloatArray:
    """The standard deviation, (D,) source voxels, of the Gaussian that smooths each source axis before sampling with
    `matrix` (D, D), target voxel to source voxel; 0 where none is needed.

    `crossed`: an axis is smoothed by how far one walks along it until one target voxel is crossed, 1 / |inverse(matrix)
    column|. So a grid that is turned, but as dense as before, blurs nothing: of slices 12 times as thick as their
    pixels, turned by 14 degrees, a pixel's axis is crossed once in 1.03 pixels; turned by 90 degrees, once in 12.
    `widest`: by the target axis that runs furthest along it, which blurs such slices by 2.9 pixels; as older plans were
    trained.
    """
    if low_pass == "crossed":
        step = 1 / np.linalg.norm(np.linalg.inv(matrix), axis=0)
    else:
        step = np.abs(matrix).max(axis=1)
    return np.where(step > LOW_PASS_ABOVE, FWHM_TO_SIGMA * np.sqrt(np.maximum(step**2 - 1, 0)), 0.0)


def _smooth(array: npt.NDArray[np.floating], sigma: FloatArray) -> npt.NDArray[np.floating]:
    """Smoothed by a Gaussian of sigma (D,) voxels."""
    if not sigma.any():
        return array
    return np.stack(
        [scipy.ndimage.gaussian_filter(np.asarray(c, dtype=np.float32), sigma, mode="nearest") for c in array]
    )


def _crop(
    array: npt.NDArray[np.floating], start: npt.NDArray[np.int_], shape: Sequence[int], fill: Sequence[float] | None
) -> FloatImage:
    stop = start + np.array(shape)
    size = np.array(array.shape[1:])
    inside = tuple(slice(int(a), int(b)) for a, b in zip(start.clip(0, size), stop.clip(0, size), strict=True))
    if fill is None:
        indices = [np.arange(a, b).clip(0, n - 1) for a, b, n in zip(start, stop, size, strict=True)]
        return np.asarray(array[np.ix_(np.arange(len(array)), *indices)], dtype=np.float32)
    result = np.empty((len(array), *shape), dtype=np.float32)
    result[:] = np.asarray(fill, dtype=np.float32).reshape(-1, *(1,) * len(shape))
    where = tuple(slice(int(s.start - a), int(s.stop - a)) for s, a in zip(inside, start, strict=True))
    if all(s.stop > s.start for s in inside):
        result[(slice(None), *where)] = array[(slice(None), *inside)]
    return result
