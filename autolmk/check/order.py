"""The place of each landmark as seen from its neighbours and from all landmarks, compared with what is typical.

A curved spine is far from the mean shape everywhere, but each vertebra still lies where its neighbours let expect it.
So each landmark spans a frame: its own place, the scale of the case's pose, and the rotation that brings its nearest
landmarks into order (robustly, Geman-McClure). In it, each neighbour has a place that is typical over the cases, and a
typical distance from it. The pose of the whole case is one frame more, of all landmarks.

Legend: N cases, L landmarks, P physical axes, K neighbours. In the frame and the size of the mean shape.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used: scipy.stats takes 0.7 s
from scipy.spatial import cKDTree

from autolmk.geometry import FloatArray
from autolmk.shapes.pose import MeanShape

IntArray = npt.NDArray[np.int_]
BoolArray = npt.NDArray[np.bool_]

NEIGHBOURS = 8  # that a landmark is seen from
FEWEST_SHOWN = 5  # cases that say what is typical of a relation
REWEIGHTED = 6  # times
PRIOR = 0.03  # weight of the pose of the whole case in a local rotation: what neighbours on a line leave open
LEAST_TYPICAL = 0.5  # of the median relation's typical distance: the least that counts as typical
MOST_STRANGE = 2.0  # times that a whole case may be stranger than others before that is held against it
LIMIT = 4.0  # standard deviations from the typical place from which a relation is broken, if they are Gaussian
HIGH = 0.85  # quantile that tells it
FAULTY = 3.0  # times the usual such quantile of a case, beyond which a case does not say how heavy tails are
TAIL = 3.0  # power of how much heavier than Gaussian the tails are, by which that limit is raised
AGREEING = ((2, 1.6), (3, 0.75))  # frames that must see the same, and over how much of that limit
OUTLYING = 1.9  # times that limit, from which a point at no other's place is an outlier
NEARER = 0.5  # distance from another landmark's place over that from its own, below which a landmark took it
COINCIDENT = 0.1  # distance of two landmarks over their typical one, below which they may be at one place
SAME = 1e-3  # below which they are
SURELY_APART = {False: 5.0, True: 3.0}  # standard deviations that they must be nearer than usual; if at the very same


@dataclass(frozen=True, eq=False)
class Relations:
    """The relations in F frames, of which the last is that of the whole case. members: F times (K,) landmarks that are
    seen in each. offsets: F times (N, K, P), places: F times (K, P), the typical ones. strange: F times (N, K),
    distance from the typical place over what is typical of the relation and of the case. limits: of that, in the frames
    of landmarks and in that of all.
    """

    members: tuple[IntArray, ...]
    offsets: tuple[FloatArray, ...]
    places: tuple[FloatArray, ...]
    strange: tuple[FloatArray, ...]
    limits: tuple[float, float]


def aligned(shape: MeanShape, points: FloatArray) -> FloatArray:
    """Points (N, L, P) in the frame of the mean shape; NaN without a pose."""
    result = np.full_like(points, np.nan)
    for i, pose in enumerate(shape.poses):
        if pose is not None and pose.scale > 0:
            result[i] = pose.inverse().apply(points[i])
    return result


def relations(mean: FloatArray, cases: FloatArray, training: BoolArray) -> Relations:
    """Measure the relations in cases (N, L, P), aligned to the mean shape (L, P). training: (N,) those that say what is
    typical.
    """
    known: IntArray = np.flatnonzero(np.isfinite(mean).all(axis=1))
    tree = cKDTree(mean[known])
    members, offsets = [], []
    for j in known.tolist():
        _, near = tree.query(mean[j], min(NEIGHBOURS + 1, len(known)))
        near = np.array([k for k in known[np.atleast_1d(near)].tolist() if k != j], dtype=np.int_)
        members.append(near)
        offsets.append(_turned(mean[near] - mean[j], cases[:, near] - cases[:, [j]]))
    members.append(known)
    offsets.append(cases[:, known])
    places = [_median(o[training]) for o in offsets]
    away = [np.linalg.norm(o - p, axis=2) for o, p in zip(offsets, places, strict=True)]
    local, first = _strangeness(away[:-1], training, mean.shape[1])
    whole, second = _strangeness(away[-1:], training, mean.shape[1])
    return Relations(tuple(members), tuple(offsets), tuple(places), (*local, *whole), (first, second))


def _turned(typical: FloatArray, seen: FloatArray) -> FloatArray:
    """Offsets of the neighbours (N, K, P), turned so that they fit the mean shape's (K, P)."""
    shown = np.asarray(np.isfinite(seen).all(axis=2))
    y, p = np.where(shown[..., None], seen, 0.0), typical.shape[1]
    weight = shown.astype(np.float64)
    for _ in range(REWEIGHTED):
        covariance = np.einsum("nk,kp,nkq->npq", weight, typical, y)
        size = np.einsum("nk,k->n", weight, (typical**2).sum(axis=1))
        u, _, vt = np.linalg.svd(covariance + (PRIOR * size + 1e-12)[:, None, None] * np.eye(p))
        sign = np.ones(u.shape[:2])
        sign[:, -1] = np.sign(np.linalg.det(u @ vt))
        back = (u * sign[:, None]) @ vt  # takes typical to seen as row vectors: seen ~ typical @ back
        residual = np.linalg.norm(y - typical @ back, axis=2)
        width = 2 * np.nanmedian(np.where(shown, residual, np.inf), axis=1)
        width = np.where(np.isfinite(width), np.maximum(width, 1e-9), 1.0)
        weight = shown * (1 + (residual / width[:, None]) ** 2) ** -2.0
    return np.asarray(seen @ np.swapaxes(back, 1, 2))


def _median(values: FloatArray) -> FloatArray:
    """Over the first axis, NaN where too few are finite."""
    result = np.full(values.shape[1:], np.nan)
    enough = np.isfinite(values).sum(axis=0) >= FEWEST_SHOWN
    result[enough] = np.nanmedian(values[:, enough], axis=0)
    return result


def _strangeness(away: list[FloatArray], training: BoolArray, p: int) -> tuple[list[FloatArray], float]:
    """Distances F times (N, K) over what is typical of the relation and of the case; and the limit, which a heavier
    tail than a Gaussian's raises."""
    widths = np.cumsum([a.shape[1] for a in away])[:-1]
    stacked = np.concatenate(away, axis=1)
    typical = _median(stacked[training])
    if not np.isfinite(typical).any():
        return [np.full_like(a, np.nan) for a in away], np.inf
    ratio = stacked / np.maximum(typical, max(LEAST_TYPICAL * float(np.nanmedian(typical)), 1e-9))
    ratio *= scipy.stats.chi(p).median()
    shown = np.asarray(np.isfinite(ratio).any(axis=1))
    case = np.ones(len(ratio))
    case[shown] = np.nanquantile(ratio[shown], 0.25, axis=1)
    case = np.clip(case / max(float(np.median(case[training & shown])), 1e-12), 1.0, MOST_STRANGE)
    ratio = ratio / case[:, None]
    upper = np.full(len(ratio), np.nan)
    upper[shown] = np.nanquantile(ratio[shown], HIGH, axis=1)
    strange = upper > FAULTY * np.nanmedian(upper[training])
    pool = ratio[training & ~strange] if np.isfinite(ratio[training & ~strange]).any() else ratio[training]
    middle, high = np.quantile(pool[np.isfinite(pool)], [0.5, HIGH])
    heavier = (high / max(middle, 1e-12)) / (scipy.stats.chi(p).ppf(HIGH) / scipy.stats.chi(p).median())
    return np.split(ratio, widths, axis=1), LIMIT * max(1.0, float(heavier)) ** TAIL


def misplaced(found: Relations, mean: FloatArray, case: int) -> dict[int, int]:
    """The landmarks of a case that lie at another's place, as several frames see it, and whose place that is. mean: (L,
    P) mm, the mean shape.
    """
    seen: dict[tuple[int, int], list[float]] = {}
    n, known = len(found.members) - 1, found.members[-1]
    for f, (members, strange) in enumerate(zip(found.members, found.strange, strict=True)):
        with np.errstate(invalid="ignore"):
            over = strange[case] / found.limits[f == n]
            broken = np.flatnonzero(over > AGREEING[-1][1])
        if not len(broken):
            continue
        places = mean - (mean[known[f]] if f < n else 0.0)
        places[members] = found.places[f]
        for b in broken.tolist():
            apart = np.linalg.norm(places - found.offsets[f][case, b], axis=1)
            own, apart[members[b]] = apart[members[b]], np.inf
            other = int(np.nanargmin(apart))
            if apart[other] < NEARER * own:
                seen.setdefault((int(members[b]), other), []).append(float(over[b]))
    result: dict[int, int] = {}
    for (landmark, other), votes in sorted(seen.items(), key=lambda item: (-len(item[1]), -max(item[1]))):
        if any(sum(vote > least for vote in votes) >= count for count, least in AGREEING):
            result.setdefault(landmark, other)
    return result


def outlying(found: Relations, case: int) -> list[int]:
    """Landmarks of a case that lie far off as the whole case and at least half of their neighbours see it."""
    n = len(found.members) - 1
    seen, far = Counter[int](), Counter[int]()
    for f in range(n):
        strange = found.strange[f][case]
        for k, z in zip(found.members[f].tolist(), strange.tolist(), strict=True):
            seen[k] += z == z
            far[k] += z > OUTLYING * found.limits[0]
    whole = dict(zip(found.members[-1].tolist(), found.strange[-1][case].tolist(), strict=True))
    return [
        k
        for k, z in whole.items()
        if z > OUTLYING * found.limits[1] and far[k] >= max(AGREEING[0][0], (seen[k] + 1) // 2)
    ]


def coincident(cases: FloatArray, training: BoolArray) -> dict[int, list[tuple[int, int, float]]]:
    """Pairs of landmarks of a case that are at one place, but lie surely apart elsewhere, with their typical distance.

    cases: (N, L, P), of one scale.
    """
    result: dict[int, list[tuple[int, int, float]]] = {}
    reach = _median(cases[training])
    reach = reach[np.isfinite(reach).all(axis=1)]
    if len(reach) < 2:
        return {}
    radius = COINCIDENT * float(np.linalg.norm(reach.max(axis=0) - reach.min(axis=0)))
    known: dict[tuple[int, int], tuple[float, float]] = {}
    for c, case in enumerate(cases):
        shown = np.flatnonzero(np.isfinite(case).all(axis=1))
        if len(shown) < 2:
            continue
        close = cKDTree(case[shown]).query_pairs(radius, output_type="ndarray")
        for i, j in np.sort(shown[close], axis=1).tolist():
            if (i, j) not in known:
                known[i, j] = _apart(cases[training, i] - cases[training, j])
            typical, spread = known[i, j]
            distance = float(np.linalg.norm(case[i] - case[j]))
            surely = SURELY_APART[distance < SAME * typical]
            if distance < COINCIDENT * typical and typical - distance > surely * spread:
                result.setdefault(c, []).append((i, j, typical))
    return result


def _apart(offsets: FloatArray) -> tuple[float, float]:
    """Median and robust standard deviation of the length of (N, P); NaN where too few."""
    lengths = np.linalg.norm(offsets, axis=1)
    lengths = lengths[np.isfinite(lengths)]
    if len(lengths) < FEWEST_SHOWN:
        return np.nan, np.nan
    middle = float(np.median(lengths))
    return middle, 1.4826 * float(np.median(np.abs(lengths - middle)))
