"""The contribution of one case to a fingerprint: small enough to keep for all cases, so that each image is
read once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autolmk.data.foreground import QUANTILES, Foreground, find_foreground
from autolmk.data.label_maps import UNKNOWN
from autolmk.fingerprint.appearance import Appearance, appearances
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import FloatImage, Image
from autolmk.landmarks import Landmarks

SAMPLES = 10_000  # foreground voxels a channel that a case contributes


@dataclass(frozen=True, eq=False)
class ChannelSummary:
    """The summary of one channel. samples: up to 10,000 foreground voxels, see `autolmk.data.foreground`. low, high:
    over the whole foreground. quantiles: (3,) its 5th, 50th and 95th percentile. told_apart: background or padding was
    found around it. scales: mean and standard deviation by which the schemes `foreground` and `robust` would normalise
    the channel. at_landmarks: (L,), NaN where none.
    """

    samples: FloatImage
    low: float
    high: float
    quantiles: tuple[float, ...]
    told_apart: bool
    scales: tuple[tuple[float, float], tuple[float, float]]
    at_landmarks: FloatArray


@dataclass(frozen=True, eq=False)
class CaseSummary:
    """The summary of one case. geometry: of the image as it lies in its file. landmarks: in the dataset's order.
    labels: values in the label map but 0 and 255; None without one. appearances: of its channels; empty where nobody
    looked.
    """

    subject: str
    geometry: Geometry
    landmarks: Landmarks
    channels: tuple[ChannelSummary, ...]
    labels: tuple[int, ...] | None = None
    appearances: tuple[Appearance, ...] = ()


def summarise(image: Image, landmarks: Landmarks, *, subject: str, case: str) -> CaseSummary:
    """Summarise one case. Which voxels are sampled depends on the case's name alone."""
    voxels = image.geometry.to_voxels(landmarks.points)
    inside = np.asarray(image.geometry.contains(voxels))
    nearest = np.clip(np.round(np.where(inside[:, None], voxels, 0)), 0, np.array(image.geometry.shape) - 1).astype(int)
    seed = int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "little")
    channels = []
    padding = image.padding or (None,) * len(image.array)
    for channel, declared in zip(image.array, padding, strict=True):
        values = np.where(inside, channel[tuple(nearest.T)].astype(np.float64), np.nan)
        found = find_foreground(channel, declared)
        inner = found.values
        chosen = np.random.default_rng(seed).integers(0, inner.size, min(SAMPLES, inner.size))
        quantiles = tuple(float(q) for q in np.percentile(inner, QUANTILES))
        low, high = float(inner.min()), float(inner.max())
        scales = _scale(found), _scale(find_foreground(channel, declared, background=False))
        channels.append(ChannelSummary(inner[chosen], low, high, quantiles, not found.whole, scales, values))
    return CaseSummary(subject, image.geometry, landmarks, tuple(channels), appearances=appearances(image))


def _scale(found: Foreground) -> tuple[float, float]:
    """Mean and standard deviation, 1 where nothing varies."""
    values = found.typical()
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)) or 1.0


def label_values(labels: npt.NDArray[np.uint8]) -> tuple[int, ...]:
    """The values in a label map (*S) that stand for something."""
    return tuple(int(v) for v in np.unique(labels) if v not in (0, UNKNOWN))
