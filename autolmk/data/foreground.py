"""The part of an image's channel that shows the patient or specimen, told from padding and background.

Statistics of the foreground hardly move with the field of view, with a canvas around the image, or with metal:

1. **Padding**: a single value that fills at least a fifth of the image's border, or that the file declares, where it
   hangs together with the border; and a single value that fills three quarters of what lies next to such padding.
2. **Noise** is lowered by a median over three voxels along each axis in turn, which keeps edges and drops isolated
   metal. Large images are sampled, about two million voxels.
3. **Background**: the densest values of the border, with an interval that grows to three standard deviations as long as
   the border's values in it ask for more. They count only where they are rarer inside than on the border (odds of
   three, more where their interval is wide), and where the rest is at least a fifth of a box of half the image's sides
   about it. Otherwise everything but padding is foreground.

Nothing here assumes that the foreground is bright: the negative of an image gives the negative result.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used

from autolmk.image import FloatImage

BoolImage = npt.NDArray[np.bool_]

VERSION = 1  # of what is foreground; part of the digest of data that depends on it
SAMPLES = 2_000_000  # voxels looked at, about
PADDED_BORDER = 0.2  # share of the border that a single value must fill
PADDED_RING = 0.75  # share of the voxels beside padding that a single value must fill
MOST_PADDINGS = 4  # values, one around the other or side by side
DENSEST = 0.1  # share of the border's values whose shortest interval holds the background's most frequent one
WIDTH = 3.0  # standard deviations of the background, to which its interval grows
MARGIN = 2.0  # times that interval: what counts as background
FLOOR = 0.005  # of the range of values: the narrowest interval
COARSEST = 0.02  # of that range: the widest step between values that is taken for the digitiser's
RARER = 3.0  # odds of background on the border over those inside, at least
CLEARER = 40.0  # and at least so many times the share of the range of values inside that the background takes
LEAST_INSIDE = 0.2  # share of foreground in the box about it
FEWEST = 50  # voxels that statistics need
OUTLYING = 12.0  # standard deviations, as percentiles tell them, from the median: beyond, values are metal
SPREAD, SPREAD_OF_WHOLE = (10.0, 90.0), (2.0, 98.0)  # those percentiles
QUANTILES = (5.0, 50.0, 95.0)


@dataclass(frozen=True, eq=False)
class Foreground:
    """The foreground of a channel. values: (n,) float32, sampled from the smoothed foreground. whole: it is the whole
    image: neither padding nor background was found. background: the level of the background, None where none was found;
    margin: how far from it values still are background.

    channel: (*S) the image, in which padding has the background's level where background surrounds the anatomy.
    outside: the value that continues the image beyond its border; None where its border voxels must say.
    """

    values: FloatImage
    whole: bool
    background: float | None
    channel: FloatImage
    outside: float | None
    margin: float = 0.0

    def typical(self, low: float = SPREAD[0], high: float = SPREAD[1]) -> FloatImage:
        """The values without outliers such as metal: those within 12 standard deviations of the median, as the
        percentiles `low` and `high` would have them in a normal distribution. All where these percentiles are equal.

        In a whole image the anatomy may be a small share, so that the percentiles are 2 and 98 at least.
        """
        if self.whole:
            low, high = min(low, SPREAD_OF_WHOLE[0]), max(high, SPREAD_OF_WHOLE[1])
        below, middle, above = np.percentile(self.values, [low, 50, high])
        normal = NormalDist().inv_cdf(high / 100) - NormalDist().inv_cdf(low / 100)
        reach = OUTLYING * (above - below) / normal
        return self.values[np.abs(self.values - middle) <= reach] if reach > 0 else self.values


def find_foreground(
    channel: FloatImage, declared: tuple[float, float] | None = None, *, background: bool = True
) -> Foreground:
    """Find the foreground of a channel (*S), which must be finite. declared: lowest and highest value that the file
    calls padding. background: whether it is looked for; else all but padding is foreground.

    Where nothing but padding, or fewer than 50 voxels, would be left, the whole channel is foreground.
    """
    filled, padded = without_padding(channel, declared)
    if (~padded).sum() < FEWEST:
        filled, padded = channel, np.zeros(channel.shape, bool)
    smooth, masked = _smoothed(filled, padded)
    if (~masked).sum() < FEWEST:
        smooth, masked = filled, padded
    found, has_padding = _background(smooth, masked) if background else None, bool(padded.any())
    if found is None:
        return Foreground(smooth[~masked], not has_padding, None, filled, None)
    level, half, share = found
    values = smooth[~masked & (np.abs(smooth - level) > half)]
    surrounds = not has_padding or share >= PADDED_RING
    if has_padding and surrounds:
        filled = np.where(padded, np.float32(level), filled)
    return Foreground(values, False, level, filled, level if surrounds else None, half)


def foreground_quantiles(channel: FloatImage, declared: tuple[float, float] | None = None) -> tuple[float, ...]:
    """The 5th, 50th and 95th percentile of a channel's foreground (*S), as the fingerprint has them of each case."""
    return tuple(float(q) for q in np.percentile(find_foreground(channel, declared).values, QUANTILES))


# -- padding ----------------------------------------------------------------------------------------------------------


def without_padding(channel: FloatImage, declared: tuple[float, float] | None = None) -> tuple[FloatImage, BoolImage]:
    """The channel without its padding, and where that was, each (*S). Padding around another padding takes the inner
    one's value.
    """
    faces = _faces(channel.shape)
    padded = np.zeros(channel.shape, bool)
    if declared is not None:
        padded = _connected((channel >= declared[0]) & (channel <= declared[1]), faces)
    for _ in range(MOST_PADDINGS):
        value = _commonest(channel[faces & ~padded], PADDED_BORDER * faces.sum())
        edge, outer = faces & ~padded, False
        if value is None and padded.any():
            edge, outer = scipy.ndimage.binary_dilation(padded) & ~padded, True
            value = _commonest(channel[edge], PADDED_RING * edge.sum())
        if value is None:
            break
        found = _connected(channel == value, edge)
        if (padded | found).all():
            break
        if outer:
            channel = np.where(padded, value, channel)
        padded = padded | found
    return channel, padded


def _commonest(values: FloatImage, least: float) -> np.float32 | None:
    """The most frequent value, if it is there `least` times."""
    if not values.size:
        return None
    found, counts = np.unique(values, return_counts=True)
    best = int(np.argmax(counts))
    return np.float32(found[best]) if counts[best] >= max(least, 1) else None


def _connected(mask: BoolImage, edge: BoolImage) -> BoolImage:
    """The parts of `mask` that reach `edge`."""
    labels, n = scipy.ndimage.label(mask)
    reaching = np.zeros(n + 1, bool)
    reaching[labels[edge & mask]] = True
    return np.asarray(reaching[labels])


def _faces(shape: tuple[int, ...]) -> BoolImage:
    """Where the voxels on the faces of an array are; axes of a single voxel have none."""
    faces = np.zeros(shape, bool)
    for axis, n in enumerate(shape):
        if n > 1:
            np.moveaxis(faces, axis, 0)[[0, -1]] = True
    return faces


# -- background -------------------------------------------------------------------------------------------------------


def _smoothed(channel: FloatImage, padded: BoolImage) -> tuple[FloatImage, BoolImage]:
    """(medians of three voxels along each axis in turn, at every `step`-th voxel; where padding is among them)."""
    step = max(1, int(np.ceil((channel.size / SAMPLES) ** (1 / channel.ndim))))
    for axis, n in enumerate(channel.shape):
        if n < 3:
            continue
        parts = [slice(o, n - 2 + o, step) for o in range(3)]
        a, b, c = (np.moveaxis(np.moveaxis(channel, axis, 0)[part], 0, axis) for part in parts)
        channel = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
        padded = np.logical_or.reduce([np.moveaxis(np.moveaxis(padded, axis, 0)[part], 0, axis) for part in parts])
    return channel, padded


def _background(smooth: FloatImage, masked: BoolImage) -> tuple[float, float, float] | None:
    """(level, half of its interval, share of the border in it); None where there is none."""
    edge = _faces(smooth.shape)
    if masked.any():
        edge |= scipy.ndimage.binary_dilation(masked, iterations=2)
    edge &= ~masked
    border = smooth[edge].astype(np.float64)
    if border.size < FEWEST // 3:
        return None
    level, half = _interval(border, smooth[~masked])
    near = np.abs(smooth - level) <= half
    rest = ~near & ~masked
    if rest.sum() < FEWEST:
        return None
    box = _box(rest, ~masked)
    inside = near[box][~masked[box]]
    outer, inner = float(near[edge].mean()), float(inside.mean())
    tiny = 1e-3
    odds = (outer + tiny) / (1 - outer + tiny) / ((inner + tiny) / (1 - inner + tiny))
    low, high = np.percentile([*np.percentile(smooth[box][~masked[box]], [5, 95]), level], [0, 100])
    needed = max(RARER, CLEARER * half / max(float(high - low), half, 1e-300))
    return (level, half, outer) if odds >= needed and inner <= 1 - LEAST_INSIDE else None


def _interval(border: npt.NDArray[np.float64], everything: FloatImage) -> tuple[float, float]:
    """(middle, half length) of the background's values, from those of the border (n,)."""
    ordered = np.sort(border)
    count = max(2, int(DENSEST * len(ordered)))
    lengths = ordered[count - 1 :] - ordered[: len(ordered) - count + 1]
    shortest = np.flatnonzero(lengths <= lengths.min())
    start = int(shortest[len(shortest) // 2])
    level, half = float(np.median(ordered[start : start + count])), float(lengths.min())
    low, high = np.percentile(everything, [2, 98])
    floor = FLOOR * float(high - low)
    steps = np.diff(np.unique(ordered))
    step = float(steps.min()) if len(steps) else 0.0  # of whole numbers 1: the neighbours belong to the first interval
    half = max(half, floor, 1.01 * step if step <= COARSEST * float(high - low) else 0.0)
    for _ in range(50):
        within = border[np.abs(border - level) <= half]
        level = float(np.median(within))
        wanted = max(WIDTH * float(within.std()), floor)
        if wanted <= 1.001 * half or half > high - low:
            break
        half = min(wanted, 1.5 * half)
    return level, MARGIN * half


def _box(rest: BoolImage, unmasked: BoolImage) -> tuple[slice, ...]:
    """Half as long as the unmasked part along each axis, about the middle of `rest`, within that part."""
    box = []
    for axis in range(rest.ndim):
        others = tuple(a for a in range(rest.ndim) if a != axis)
        shown = np.flatnonzero(unmasked.any(axis=others))
        low, high = int(shown[0]), int(shown[-1]) + 1
        passed = np.cumsum(rest.sum(axis=others))
        middle = int(np.searchsorted(passed, passed[-1] / 2))
        size = max(1, (high - low + 1) // 2)
        start = min(max(middle - size // 2, low), high - size)
        box.append(slice(start, start + size))
    return tuple(box)
