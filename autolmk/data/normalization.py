"""Grey values of a channel in the scheme of the plans, see `plans.Normalization`."""

from __future__ import annotations

import numpy as np

from autolmk.data.foreground import find_foreground
from autolmk.image import FloatImage, border
from autolmk.plans import Normalization

EPSILON = 1e-8
RGB_MAX = 255.0  # of photographs
LINEAR, MOST = 6.0, 10.0  # standard deviations that are kept as they are; that anything can have


def normalize(
    channel: FloatImage, normalization: Normalization, padding: tuple[float, float] | None = None
) -> FloatImage:
    """A channel (*S) in the scheme of the plans, see `plans.Normalization`. padding: the values that its file declares
    to show nothing."""
    return normalized(channel, normalization, padding)[0]


def bounded(values: FloatImage) -> FloatImage:
    """Standardised values, unchanged up to 6 standard deviations, beyond that growing as a logarithm, up to 10.

    So metal is bright, yet does not rule what a network sees, and dense bone keeps its contrast.
    """
    result = np.array(values, dtype=np.float32)
    beyond = np.abs(result) > LINEAR
    far = result[beyond]
    result[beyond] = np.sign(far) * np.minimum(LINEAR + np.log1p(np.abs(far) - LINEAR), MOST)
    return result


def normalized(
    channel: FloatImage, normalization: Normalization, padding: tuple[float, float] | None
) -> tuple[FloatImage, float | None]:
    """Normalise a channel; return it (*S) and the value outside it, None for that of its border, see `normalize`."""
    if normalization.by_foreground:
        return _by_foreground(channel, normalization, padding)
    if normalization.scheme == "none":
        return channel, None
    if normalization.scheme == "ct":
        clipped = np.clip(channel, normalization.low, normalization.high)
        clipped -= normalization.mean
        clipped /= max(normalization.std, EPSILON)
        return clipped, None
    if normalization.scheme == "zscore":
        return _scaled(channel, *_mean_and_std(channel)), None
    if normalization.scheme == "rgb":
        return np.asarray(channel / RGB_MAX, dtype=np.float32), None
    if normalization.scheme == "window":
        return _windowed(channel), None
    low, high = float(channel.min()), float(channel.max())
    return _scaled(channel, low, high - low), None


def _scaled(channel: FloatImage, zero: float, unit: float) -> FloatImage:
    return np.asarray((channel - zero) / max(unit, EPSILON), dtype=np.float32)


def _mean_and_std(values: FloatImage) -> tuple[float, float]:
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def _by_foreground(
    channel: FloatImage, normalization: Normalization, padding: tuple[float, float] | None
) -> tuple[FloatImage, float | None]:
    """As `normalized`. A foreground of a single value is scaled by the whole channel; a channel of one value is 0."""
    found = find_foreground(channel, padding, background=normalization.scheme != "robust")
    rescale = normalization.scheme == "robust_rescale"
    if rescale:
        low, high = np.percentile(found.typical(), [normalization.low, normalization.high])
        level = found.background
        low, high = (low, high) if level is None else (min(low, level), max(high, level))
        middle, unit = float(low + high) / 2, float(high - low) / (2 * LINEAR)
    else:
        middle, unit = _mean_and_std(found.typical(normalization.low, normalization.high))
    if not unit > 0:
        middle, unit = _mean_and_std(channel)
    if not unit > 0:
        unit = 1.0

    def scaled(values: FloatImage) -> FloatImage:
        result = bounded((values - np.float32(middle)) / np.float32(unit))
        return result / np.float32(2 * LINEAR) + np.float32(0.5) if rescale else result

    outside = None if found.outside is None else float(scaled(np.array([found.outside], np.float32))[0])
    return scaled(found.channel), outside


def _windowed(channel: FloatImage) -> FloatImage:
    """Scheme `window`: clipped to mean -+ 2 standard deviations of the voxels above 0, mapped to 0 ... 255."""
    above = channel[channel > 0] if (channel > 0).any() else channel
    mean, reach = float(above.mean(dtype=np.float64)), 2 * float(above.std(dtype=np.float64))
    clipped = np.clip(channel, mean - reach, mean + reach)
    return np.asarray((clipped - (mean - reach)) * (RGB_MAX / max(2 * reach, EPSILON)), dtype=np.float32)


def border_median(channel: FloatImage) -> float:
    """Median of the voxels (*S) on the faces of the array."""
    return float(np.median(border(channel)))
