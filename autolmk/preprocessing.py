"""From a raw case to a stored one: oriented, resampled, normalised."""

from __future__ import annotations

import numpy as np

from autolmk.errors import AutolmkError
from autolmk.image import FloatImage, Image
from autolmk.plans import Configuration, Normalization

EPSILON = 1e-8
SPLINE_ORDER = 3


def preprocess_image(image: Image, configuration: Configuration) -> tuple[Image, tuple[float, ...]]:
    """(image in canonical orientation, normalised, at the configuration's spacing; fill (C,) for what lies outside it).

    Training and prediction go through this one function. fill: the median of the border voxels of each channel.
    AutolmkError where the image does not suit the plans or holds values that are not finite.
    """
    _expect(image, configuration)
    image = image.canonical()
    channels = [normalize(c, n) for c, n in zip(image.array, configuration.normalization, strict=True)]
    target = image.geometry.resampled(configuration.spacing)
    resampled = Image(np.stack(channels), image.geometry).resample(target, order=SPLINE_ORDER)
    for before, after in zip(channels, resampled.array, strict=True):
        np.clip(after, before.min(), before.max(), out=after)  # a spline overshoots at edges
    return resampled, tuple(border_median(c) for c in resampled.array)


def normalize(channel: FloatImage, normalization: Normalization) -> FloatImage:
    """A channel (*S) in the scheme of the plans, see `plans.Normalization`."""
    if normalization.scheme == "none":
        return channel
    if normalization.scheme == "ct":
        clipped = np.clip(channel, normalization.low, normalization.high)
        return np.asarray((clipped - normalization.mean) / max(normalization.std, EPSILON), dtype=np.float32)
    if normalization.scheme == "zscore":
        mean, std = float(channel.mean(dtype=np.float64)), float(channel.std(dtype=np.float64))
        return np.asarray((channel - mean) / max(std, EPSILON), dtype=np.float32)
    low, high = float(channel.min()), float(channel.max())
    return np.asarray((channel - low) / max(high - low, EPSILON), dtype=np.float32)


def border_median(channel: FloatImage) -> float:
    """Median of the voxels (*S) on the faces of the array."""
    faces = [channel.take(i, axis=a).ravel() for a in range(channel.ndim) for i in (0, -1)]
    return float(np.median(np.concatenate(faces)))


def _expect(image: Image, configuration: Configuration) -> None:
    if image.geometry.ndim != len(configuration.spacing):
        raise AutolmkError(
            "an image has another number of axes than the plans",
            found=f"{image.geometry.ndim}D, shape {image.geometry.shape}",
            expected=f"{len(configuration.spacing)}D",
            remedy="give images like those of the training set",
        )
    if len(image.array) != len(configuration.normalization):
        raise AutolmkError(
            "an image has another number of channels than the plans",
            found=len(image.array),
            expected=len(configuration.normalization),
            remedy="give every channel that the training set has, named CASE_0000, CASE_0001, ...",
        )
    if not np.isfinite(image.array).all():
        raise AutolmkError(
            "an image holds values that are not finite",
            found=f"{int((~np.isfinite(image.array)).sum())} of {image.array.size} voxels are NaN or infinite",
            remedy="replace them, by the background's value where they stand for it",
        )
