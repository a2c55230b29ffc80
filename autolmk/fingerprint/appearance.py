"""The appearance of an image in a few numbers that tell it from others; a fingerprint keeps those of each training
image.

A new image is compared with them by `training_range`. All but `level` and `width` stay the same where grey values are
scaled or shifted, as scanners without an absolute scale do. Shapes: C channels, *S spatial.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autolmk.data.foreground import find_foreground
from autolmk.image import Image, border

ROBUST_STD = 1.4826  # times the median absolute deviation: the standard deviation of a Gaussian
SAMPLES = 200_000  # voxels of a channel that are looked at
TAILS = (0.5, 99.5)  # percentiles between which the range of grey values lies
LEAST_NOISE = 1e-3  # of that range: below, images count as equally smooth


@dataclass(frozen=True)
class Appearance:
    """The appearance of one channel of one image, padding left out (see `content`). The range of grey values goes from
    their 0.5th to their 99.5th percentile.

    background, foreground: places of the medians of border and foreground in that range, 0 to 1. noise: robust standard
    deviation of second differences between neighbouring foreground voxels, along the smoothest axis, as a share of
    that range. extreme: share of voxels further outside it than it is wide. clipped: share of voxels that hold the
    lowest or the highest value. padding: share of the image that is padding. grey_values: how many different ones.
    level: median of the foreground, and width: of the range, in the file's own grey values.
    """

    background: float
    foreground: float
    noise: float
    extreme: float
    clipped: float
    padding: float
    grey_values: int
    level: float
    width: float


def appearances(image: Image) -> tuple[Appearance, ...]:
    """The appearance of each channel of an image. The same image always gives the same numbers."""
    return tuple(appearance(channel) for channel in image.array)


def appearance(channel: npt.NDArray[np.floating]) -> Appearance:
    """The appearance of one channel (*S). Values that are not finite do not count."""
    inner = content(channel)
    places = _places(inner.shape)
    shown = _is_foreground(inner, places)
    values = inner[places].astype(np.float64)
    finite = np.isfinite(values)
    every = values[finite] if finite.any() else np.zeros(1)
    low, high = (float(v) for v in np.percentile(every, TAILS))
    if not high > low:
        low, high = float(every.min()), float(every.max())
    width = max(high - low, float(np.finfo(np.float32).tiny))
    front = values[finite & shown]
    faces = border(inner)
    faces = faces[np.isfinite(faces)]
    level = float(np.median(front if front.size else every))
    behind = float(np.median(faces)) if faces.size else low
    return Appearance(
        background=float(np.clip((behind - low) / width, 0, 1)),
        foreground=float(np.clip((level - low) / width, 0, 1)),
        noise=max(_noise(inner, places, shown) / width, LEAST_NOISE),
        extreme=float(((every > high + width) | (every < low - width)).mean()),
        clipped=float(((every == np.nanmin(inner)) | (every == np.nanmax(inner))).mean()) if finite.any() else 1.0,
        padding=1 - inner.size / channel.size,
        grey_values=len(np.unique(every)),
        level=level,
        width=width,
    )


def content(channel: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """A channel (*S) without padding: without the outermost planes that hold a single value each. The whole channel
    where nothing else is in it."""
    inner = channel
    for axis in range(channel.ndim):
        start, stop = 0, inner.shape[axis]
        while start < stop and _is_flat(inner, axis, start):
            start += 1
        while stop > start and _is_flat(inner, axis, stop - 1):
            stop -= 1
        if start >= stop:
            return channel
        inner = inner[(slice(None),) * axis + (slice(start, stop),)]
    return inner


def _is_foreground(
    channel: npt.NDArray[np.floating], places: tuple[npt.NDArray[np.intp], ...]
) -> npt.NDArray[np.bool_]:
    """Which of N places, D times (N,), lie in no background, by the median of the voxels around each; without
    background, or with values that are not finite, all."""
    found = find_foreground(np.asarray(channel, dtype=np.float32)) if np.isfinite(channel).all() else None
    if found is None or found.background is None:
        return np.ones(len(places[0]), dtype=bool)
    around = []
    for steps in itertools.product((-1, 0, 1), repeat=channel.ndim):
        near = (np.clip(p + step, 0, n - 1) for p, step, n in zip(places, steps, channel.shape, strict=True))
        around.append(channel[tuple(near)])
    return np.asarray(np.abs(np.median(around, axis=0) - found.background) > found.margin)


def _is_flat(channel: npt.NDArray[np.floating], axis: int, place: int) -> bool:
    plane = np.take(channel, [place], axis=axis)
    return bool((plane == plane.flat[0]).all()) and plane.size > 1


def _places(shape: tuple[int, ...]) -> tuple[npt.NDArray[np.intp], ...]:
    """Voxels anywhere: all of a small image, else random ones, always the same."""
    total = int(np.prod(shape))
    chosen = np.arange(total) if total <= SAMPLES else np.random.default_rng(0).integers(0, total, SAMPLES)
    return np.unravel_index(chosen, shape)


def _noise(
    channel: npt.NDArray[np.floating], places: tuple[npt.NDArray[np.intp], ...], wanted: npt.NDArray[np.bool_]
) -> float:
    """Robust standard deviation of noise that is independent between voxels: a second difference of it has 6 times its
    variance. Structure adds to it, least along the smoothest axis."""
    found = []
    for axis, n in enumerate(channel.shape):
        inside = wanted & (places[axis] > 0) & (places[axis] < n - 1)
        if not inside.any():
            continue
        middle = tuple(p[inside] for p in places)
        sides = [tuple(p + step if a == axis else p for a, p in enumerate(middle)) for step in (-1, 1)]
        second = channel[sides[0]] + channel[sides[1]] - 2.0 * channel[middle]
        second = second[np.isfinite(second)]
        if second.size:
            found.append(ROBUST_STD * float(np.median(np.abs(second))) / np.sqrt(6))
    return min(found, default=0.0)
