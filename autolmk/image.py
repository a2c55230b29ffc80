"""Image: an array and its Geometry; resampling to any other Geometry in one interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autolmk.geometry import FloatArray, Geometry

FloatImage = npt.NDArray[np.float32]

LOW_PASS_ABOVE = 1.3  # output spacing over input spacing from which an image is smoothed before it is sampled
FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))


@dataclass(frozen=True, eq=False)
class Image:
    """array: (C, *S) float32; geometry: of its S axes. padding: the lowest and highest value of each channel that its
    file declares to show nothing; None where it declares none. Raises ValueError where they disagree."""

    array: FloatImage
    geometry: Geometry
    padding: tuple[tuple[float, float] | None, ...] | None = None

    def __post_init__(self) -> None:
        if self.array.shape[1:] != self.geometry.shape or self.array.ndim != self.geometry.ndim + 1:
            raise ValueError(f"array {self.array.shape} must be (C, {', '.join(map(str, self.geometry.shape))})")
        if self.padding is not None and len(self.padding) != len(self.array):
            raise ValueError(f"padding of {len(self.padding)} channels, for {len(self.array)}")

    def canonical(self) -> Image:
        """In canonical orientation (axes permuted and reversed, nothing interpolated); the array is contiguous."""
        permutation, flips = self.geometry.canonical_axes()
        array = self.array.transpose(0, *(p + 1 for p in permutation))
        array = np.flip(array, tuple(f + 1 for f in flips))
        return Image(np.ascontiguousarray(array), self.geometry.canonical(), self.padding)

    def resample(self, target: Geometry, *, order: int = 1, fill: Sequence[float] | None = None) -> Image:
        """This image on the grid `target`: crop, pad, rotate and resample in one interpolation, see `resample`."""
        return Image(resample(self.array, self.geometry, target, order=order, fill=fill), target)


def resample(
    array: npt.NDArray[np.floating],
    source: Geometry,
    target: Geometry,
    *,
    order: int = 1,
    fill: Sequence[float] | None = None,
    low_pass: bool = True,
) -> FloatImage:
    """`array` (C, *source.shape) sampled on `target`: (C, *target.shape) float32.

    order: of the spline, 0 for label maps. fill: one value a channel for what lies outside; None repeats the border.
    low_pass: where an output voxel is more than 1.3 times as wide as an input voxel, smooth first, with the Gaussian
    that takes the input's point spread to the output's (Cardoso et al., MICCAI 2015); never for order 0.
    """
    matrix, offset = target.map_to(source)
    if order > 0 and low_pass:
        array = _smooth(array, matrix)
    straight = np.abs(matrix - np.diag(np.diag(matrix))).max() < 1e-9
    start = np.round(offset).astype(int)
    if straight and np.allclose(np.diag(matrix), 1, atol=1e-9) and np.abs(offset - start).max() < 1e-6:
        return _crop(array, start, target.shape, fill)
    result = np.empty((len(array), *target.shape), dtype=np.float32)
    for channel, plane in enumerate(array):
        ndimage.affine_transform(
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


def _smooth(array: npt.NDArray[np.floating], matrix: FloatArray) -> npt.NDArray[np.floating]:
    """Gaussian smoothing (in source voxels) before sampling with `matrix`, target voxel to source voxel."""
    step = np.abs(matrix).max(axis=1)  # source voxels crossed, along each source axis, by the widest target axis
    sigma = np.where(step > LOW_PASS_ABOVE, FWHM_TO_SIGMA * np.sqrt(np.maximum(step**2 - 1, 0)), 0.0)
    if not sigma.any():
        return array
    return np.stack([ndimage.gaussian_filter(np.asarray(c, dtype=np.float32), sigma, mode="nearest") for c in array])


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
