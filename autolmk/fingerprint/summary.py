"""What one case contributes to a fingerprint: small enough to keep for all cases, so that each image is read once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autolmk.geometry import FloatArray, Geometry
from autolmk.image import FloatImage, Image, border
from autolmk.label_maps import UNKNOWN
from autolmk.landmarks import Landmarks

if TYPE_CHECKING:
    from autolmk.fingerprint.appearance import Appearance

SAMPLES = 10_000  # foreground voxels a channel that a case contributes
BINS = 256
ROBUST_STD = 1.4826  # standard deviation over median absolute deviation
DOMINATES = 0.75  # share of the border from which one class of voxels is background
BEYOND_NOISE = 5.0  # robust standard deviations of the background
SMALLEST_FOREGROUND = 0.02  # of the image: below, the whole image is taken


@dataclass(frozen=True, eq=False)
class ChannelSummary:
    """samples: up to 10,000 foreground voxels. low, high: over the whole foreground. at_landmarks: (L,), NaN where
    none.
    """

    samples: FloatImage
    low: float
    high: float
    at_landmarks: FloatArray


@dataclass(frozen=True, eq=False)
class CaseSummary:
    """geometry: of the image as it lies in its file. landmarks: in the dataset's order. labels: values in the label map
    but 0 and 255; None without one. appearances: of its channels; empty where nobody looked."""

    subject: str
    geometry: Geometry
    landmarks: Landmarks
    channels: tuple[ChannelSummary, ...]
    labels: tuple[int, ...] | None = None
    appearances: tuple[Appearance, ...] = ()


def summarise(image: Image, landmarks: Landmarks, *, subject: str, case: str) -> CaseSummary:
    """Of one case. Which voxels are sampled depends on the case's name alone."""
    from autolmk.fingerprint.appearance import appearances  # which looks at the foreground, below

    voxels = image.geometry.to_voxels(landmarks.points)
    inside = np.asarray(image.geometry.contains(voxels))
    nearest = np.clip(np.round(np.where(inside[:, None], voxels, 0)), 0, np.array(image.geometry.shape) - 1).astype(int)
    seed = int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "little")
    channels = []
    for channel in image.array:
        values = np.where(inside, channel[tuple(nearest.T)].astype(np.float64), np.nan)
        inner = channel[foreground(channel)]
        inner = inner[np.isfinite(inner)]
        if not inner.size:
            inner = np.zeros(1, dtype=np.float32)
        chosen = np.random.default_rng(seed).integers(0, inner.size, min(SAMPLES, inner.size))
        channels.append(ChannelSummary(inner[chosen], float(inner.min()), float(inner.max()), values))
    return CaseSummary(subject, image.geometry, landmarks, tuple(channels), appearances=appearances(image))


def label_values(labels: npt.NDArray[np.uint8]) -> tuple[int, ...]:
    """Of a label map (*S): the values that stand for something."""
    return tuple(int(v) for v in np.unique(labels) if v not in (0, UNKNOWN))


def foreground(channel: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which voxels (*S) show something, for CT, MR and photographs alike.

    Otsu's threshold (IEEE SMC 1979) parts the voxels in two. Where one part holds at least three quarters of the
    image's border, that part is background (air in CT and MR, the sheet in a photograph), and foreground is what lies
    beyond the median of the background's border voxels by more than 5 robust standard deviations of theirs and 2 % of
    the range of the image, in the direction of the other part: soft tissue too, where the threshold itself parts bone
    from the rest. Where no part does, or where less than 2 % of the image would be left, the whole image is foreground.
    Values that are not finite never are.
    """
    everything: npt.NDArray[np.bool_] = np.asarray(np.isfinite(channel))
    sample = channel.reshape(-1)[:: max(1, channel.size // 1_000_000)]
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, [0.5, 99.5]) if sample.size else (0.0, 0.0)
    faces = border(channel)
    faces = faces[np.isfinite(faces)]
    if not high > low or not faces.size:
        return everything
    threshold = _otsu(sample, float(low), float(high))
    share = float((faces > threshold).mean())
    if max(share, 1 - share) < DOMINATES:
        return everything
    sign = 1.0 if share < 0.5 else -1.0  # +1: brighter than the background
    background = faces[(faces > threshold) == (sign < 0)]
    middle = float(np.median(background))
    noise = ROBUST_STD * float(np.median(np.abs(background - middle)))
    least = min(max(BEYOND_NOISE * noise, 0.02 * float(high - low)), abs(threshold - middle))
    mask: npt.NDArray[np.bool_] = (sign * (channel - middle) > least) & everything
    return mask if mask.mean() >= SMALLEST_FOREGROUND else everything


def _otsu(sample: npt.NDArray[np.floating], low: float, high: float) -> float:
    """The threshold that separates two classes of values with the greatest variance between them."""
    counts, edges = np.histogram(np.clip(sample, low, high), bins=BINS, range=(low, high))
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * middle)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    between = np.nan_to_num(between)
    plateau = np.flatnonzero(between >= between.max() * (1 - 1e-9))  # an empty gap: its middle
    return float(edges[1:-1][plateau].mean())
