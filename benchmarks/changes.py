"""Changes of an image that leave its anatomy what it is: more or less of it in view, other grey values, another grid,
another pose. The points follow; what leaves the image is gone.

Every change is a function of (image, points, source), where `source` holds the randomness and other images; all of them
are in `CHANGES`. Shapes: C channels, *S spatial, L landmarks, P physical axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from autolmk.data.normalization import border_median
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import FloatImage, Image

CROP, THICK = 0.8, 3.0  # share of each side that is kept; factor of the thickest spacing
METAL, BRIGHT, PIECES = 0.001, 10.0, 3  # share of voxels, value in ranges of grey values above the brightest, blobs
NOISE, BACKGROUND_NOISE = 0.1, 0.05  # standard deviation over the range of grey values
BLOCKS = 4  # pieces a side that another image is cut into, so that it shows no whole anatomy


@dataclass(frozen=True, eq=False)
class Source:
    """rng: of this case and change. other: another image of the dataset. rotation: degrees, twice the trained range."""

    rng: np.random.Generator
    other: Image
    rotation: float


@dataclass(frozen=True, eq=False)
class Changed:
    """points: (L, P) mm where they are now, as far as they are in the image, else NaN."""

    image: Image
    points: FloatArray


Change = Callable[[Image, FloatArray, Source], Changed]


@dataclass(frozen=True)
class Kind:
    """ratio: of the errors to those of the unchanged image, at most. physical: means something only where images have
    a physical size. volumes: only in 3D. scale: changes the grey values' absolute scale, which CT depends on."""

    apply: Change
    ratio: float = 1.2
    physical: bool = False
    volumes: bool = False
    scale: bool = False


def inside(image: Image, points: FloatArray) -> FloatArray:
    """The points (L, P), NaN for those that are not in the image."""
    kept = image.geometry.contains(image.geometry.to_voxels(points))
    return np.where(kept[:, None], points, np.nan)


def grey_range(channel: FloatImage) -> float:
    """Between the 0.5th and the 99.5th percentile; of images that are nearly empty between the extremes."""
    low, high = np.percentile(channel, [0.5, 99.5])
    return float(high - low) or float(np.ptp(channel))


# -- field of view ----------------------------------------------------------------------------------------------------


def canvas(factor: float, fill: str) -> Change:
    """The image anywhere in one whose sides are `factor` times as long. fill: border (the border's median), lowest (the
    lowest value), noise around the border's median, or other (pieces of another image)."""

    def change(image: Image, points: FloatArray, source: Source) -> Changed:
        shape = np.array(image.geometry.shape)
        wide = np.maximum(np.round(factor * shape).astype(int), shape + (shape > 1))
        wide[shape == 1] = 1
        start = source.rng.integers(0, wide - shape + 1)
        geometry = image.geometry.crop([-int(s) for s in start], [int(n) for n in wide])
        array = np.stack([_ground(c, fill, i, tuple(wide), source) for i, c in enumerate(image.array)])
        array[(slice(None), *(slice(s, s + n) for s, n in zip(start, shape, strict=True)))] = image.array
        return Changed(Image(array, geometry), points)

    return change


def _ground(channel: FloatImage, fill: str, number: int, shape: tuple[int, ...], source: Source) -> FloatImage:
    if fill == "lowest":
        return np.full(shape, channel.min(), dtype=np.float32)
    level = border_median(channel)
    if fill == "border":
        return np.full(shape, level, dtype=np.float32)
    if fill == "noise":
        noisy = source.rng.normal(level, BACKGROUND_NOISE * grey_range(channel), shape)
        return np.asarray(noisy.clip(channel.min(), channel.max()), dtype=np.float32)
    return _pieces(source.other.array[number], shape, source.rng)


def _pieces(channel: FloatImage, shape: tuple[int, ...], rng: np.random.Generator) -> FloatImage:
    """Blocks of another image, each from anywhere in it and reversed at random."""
    result = np.empty(shape, dtype=np.float32)
    sides = [max(1, n // BLOCKS) for n in channel.shape]
    for corner in np.ndindex(*(-(-n // s) for n, s in zip(shape, sides, strict=True))):
        place = tuple(slice(c * s, min((c + 1) * s, n)) for c, s, n in zip(corner, sides, shape, strict=True))
        start = [rng.integers(0, n - s + 1) for n, s in zip(channel.shape, sides, strict=True)]
        block = channel[tuple(slice(a, a + s) for a, s in zip(start, sides, strict=True))]
        block = np.flip(block, [axis for axis in range(block.ndim) if rng.random() < 0.5])
        result[place] = block[tuple(slice(0, p.stop - p.start) for p in place)]
    return result


def crop(image: Image, points: FloatArray, source: Source) -> Changed:
    """A part of the image, 80 % of each side, anywhere."""
    shape = np.array(image.geometry.shape)
    kept = np.maximum(np.round(CROP * shape).astype(int), 1)
    start = source.rng.integers(0, shape - kept + 1)
    geometry = image.geometry.crop([int(s) for s in start], [int(n) for n in kept])
    part = image.array[(slice(None), *(slice(s, s + n) for s, n in zip(start, kept, strict=True)))]
    result = Image(np.ascontiguousarray(part), geometry)
    return Changed(result, inside(result, points))


# -- grey values ------------------------------------------------------------------------------------------------------


def grey(function: Callable[[FloatImage, np.random.Generator], FloatImage]) -> Change:
    """Of each channel (*S) by itself; nothing moves."""

    def change(image: Image, points: FloatArray, source: Source) -> Changed:
        channels = [np.asarray(function(channel, source.rng), dtype=np.float32) for channel in image.array]
        return Changed(replace(image, array=np.stack(channels)), points)

    return change


def gamma(power: float) -> Change:
    """Between the lowest and the highest value."""

    def function(channel: FloatImage, rng: np.random.Generator) -> FloatImage:
        low, high = float(channel.min()), float(channel.max())
        return low + (high - low) * ((channel - low) / (high - low)) ** power

    return grey(function)


def noise(channel: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Independent, Gaussian."""
    return channel + rng.normal(0, NOISE * grey_range(channel), channel.shape)


def blur(channel: FloatImage, rng: np.random.Generator) -> FloatImage:
    """By a Gaussian of one voxel."""
    return np.asarray(ndimage.gaussian_filter(channel, 1.0, mode="nearest"))


def metal(image: Image, points: FloatArray, source: Source) -> Changed:
    """Bright balls, 0.1 % of all voxels together, at least two radii from any point where there is room."""
    shape = np.array(image.geometry.shape)
    radius = _ball_radius(METAL * float(shape.prod()) / PIECES, image.geometry.ndim)
    voxels = image.geometry.to_voxels(points[np.isfinite(points).all(axis=1)])
    mask = np.zeros(image.geometry.shape, dtype=bool)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    for _ in range(PIECES):
        places = source.rng.uniform(0, shape - 1, (200, len(shape)))
        room = np.linalg.norm(places[:, None] - voxels[None], axis=2).min(axis=1, initial=np.inf)
        place = places[int(np.argmax(room > 2 * radius + 3)) if (room > 2 * radius + 3).any() else int(room.argmax())]
        mask |= ((grid - np.round(place)) ** 2).sum(axis=-1) <= radius**2
    values = [np.where(mask, c.max() + BRIGHT * grey_range(c), c).astype(np.float32) for c in image.array]
    return Changed(replace(image, array=np.stack(values)), points)


def _ball_radius(voxels: float, ndim: int) -> float:
    return (voxels / np.pi) ** 0.5 if ndim == 2 else (voxels * 3 / (4 * np.pi)) ** (1 / 3)


# -- grid -------------------------------------------------------------------------------------------------------------


def respaced(factor: float) -> Change:
    """Resampled, with a low-pass where it becomes coarser; the same field of view."""

    def change(image: Image, points: FloatArray, source: Source) -> Changed:
        target = image.geometry.resampled([s * factor for s in image.geometry.spacing])
        return Changed(_sampled(image, target), points)

    return change


def thick(image: Image, points: FloatArray, source: Source) -> Changed:
    """Slices three times as thick, along the axis on which they are thickest already."""
    spacing = list(image.geometry.spacing)
    spacing[int(np.argmax(spacing))] *= THICK
    return Changed(_sampled(image, image.geometry.resampled(spacing)), points)


def _sampled(image: Image, target: Geometry) -> Image:
    """Without the overshoot of splines."""
    result = image.resample(target, order=3)
    limits = [(float(c.min()), float(c.max())) for c in image.array]
    return replace(result, array=np.stack([c.clip(*limit) for c, limit in zip(result.array, limits, strict=True)]))


def stored_otherwise(image: Image, points: FloatArray, source: Source) -> Changed:
    """The array's axes in another order and direction, which its header says: physically the same image."""
    ndim = image.geometry.ndim
    axes = tuple(int(a) for a in source.rng.permutation(ndim))
    flips = [a for a in range(ndim) if source.rng.random() < 0.5]
    if axes == tuple(range(ndim)) and not flips:
        flips = [int(source.rng.integers(ndim))]
    geometry, array = image.geometry.permuted(axes), image.array.transpose(0, *(a + 1 for a in axes))
    for axis in flips:
        geometry = geometry.mirrored(axis)
    return Changed(Image(np.ascontiguousarray(np.flip(array, [a + 1 for a in flips])), geometry), points)


def rotated(image: Image, points: FloatArray, source: Source) -> Changed:
    """The anatomy turned about the middle of the image, in the same grid; about a random axis in 3D."""
    geometry, p = image.geometry, image.geometry.physical_ndim
    angle = np.radians(source.rotation) * source.rng.choice([-1, 1])
    if p == 2:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    else:
        axis = source.rng.normal(size=3)
        turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    ground = [border_median(channel) for channel in image.array]
    seen = image.resample(geometry.window(geometry.centre, geometry.shape, turn.T), order=1, fill=ground)
    result = Image(seen.array, geometry)
    return Changed(result, inside(result, (points - geometry.centre) @ turn.T + geometry.centre))


def unchanged(image: Image, points: FloatArray, source: Source) -> Changed:
    """What all others are compared with."""
    return Changed(image, points)


CHANGES: dict[str, Kind] = {
    "as it is": Kind(unchanged),
    **{
        f"canvas x{f:g}, {fill}": Kind(canvas(f, fill))
        for f in (1.5, 2)
        for fill in ("border", "lowest", "noise", "other")
    },
    "crop to 80 %": Kind(crop),
    "intensity x100 + 500": Kind(grey(lambda channel, rng: 100 * channel + 500), scale=True),
    "gamma 0.5": Kind(gamma(0.5), 1.5),
    "gamma 2": Kind(gamma(2), 1.5),
    "0.1 % metal": Kind(metal),
    "spacing x0.5": Kind(respaced(0.5), physical=True),
    "spacing x2": Kind(respaced(2), 1.5, physical=True),
    "blur of 1 voxel": Kind(grey(blur)),
    "noise": Kind(grey(noise), 1.5),
    "thick slices": Kind(thick, physical=True, volumes=True),
    "axes flipped and permuted": Kind(stored_otherwise, physical=True),
    "twice the trained rotation": Kind(rotated, 1.5),
}


def changes_for(*, ndim: int, physical: bool) -> dict[str, Kind]:
    """Those that leave the anatomy of such images what it is, and make sense of them."""
    return {
        name: kind
        for name, kind in CHANGES.items()
        if (physical or not kind.physical) and (ndim == 3 or not kind.volumes)
    }
