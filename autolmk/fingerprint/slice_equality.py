"""Landmarks that lie on one slice more often than chance puts them there.

A viewer shows slices, so two points that nobody meant to share one often do: where a slice is thick, landmarks of a
similar height fall on the same one in most cases. How often depends on how much their difference across the slices
varies, and that is told by how the anatomy tilts against the slices from case to case, as all other landmarks show.

Legend: N cases, L landmarks, P physical axes (x, y, z), D array axes, U units: landmarks, where those that mostly share
a slice count as one. NaN marks a landmark that is not present. Places are in slices unless they are said to be in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used: scipy.stats takes 0.7 s

from autolmk.geometry import FloatArray, Geometry

EQUAL_SHARE = 0.9  # of the cases that show both landmarks
EQUAL_CASES = 5  # at least
EQUAL = 0.01  # slices: what rounding in headers and files may make of equality
WITHIN_ROUNDING = 0.9  # of the largest difference that rounded coordinates can make; a whole one is the next step
VARIES = 1.0  # slices, standard deviation of a landmark's place: else its slice never changes
LEAST_TILT = 0.005  # of the distance between two landmarks: nobody places patients more alike than this
LEAST_SCATTER = 0.05  # slices: nobody clicks at one height more alike than this by chance
TILT_ERRORS = 2.0  # squared standard errors that a tilt must exceed to count
SPARE_UNITS = 4  # landmarks beyond the axes that tell a tilt and leave some to judge it by
SCATTER_SHARE = 0.5  # of the scatter along the slices that a pair is sure to have across them
CLICKED = 0.2  # of the other landmarks' places that lie on slices, where points are put on slices; chance makes 4 %
MAD_TO_WIDTH = 1.4826  # standard deviation over median absolute deviation of a normal distribution
CHANCE = 0.05  # of datasets without groups in which one may be found
DECIMALS = tuple(10.0**-k for k in range(-1, 6))  # mm: steps that coordinates may be rounded to


@dataclass(frozen=True, eq=False)
class _Axis:
    """Of one array axis. place: (N, L) slices. thickness: (N,) mm. tolerance: (N,) slices, below which places are
    equal."""

    place: FloatArray
    thickness: FloatArray
    tolerance: FloatArray


def equal_slices(points: FloatArray, geometries: Sequence[Geometry], shape: FloatArray) -> npt.NDArray[np.bool_]:
    """Find landmarks on equal slices, (D, L, L): whether two of them lie on one slice across an axis in 90 % of the
    cases that show both, at least five, and chance does so in at most 5 % of datasets like this one.

    points: (N, L, P) mm. shape: (L, P) mm, the mean shape. Equal means exactly, up to rounding. Under chance the number
    of equal cases is binomial (Poisson-binomial, bounded by the mean: Hoeffding 1956), and p-values are Bonferroni's
    over all pairs whose places differ by at most a slice in the median.
    """
    step = np.array([_decimal_step(case) for case in points])
    axes = [_axis(points, geometries, step, k) for k in range(geometries[0].ndim)]
    tried = [_pairs(axis) for axis in axes]
    number = max(1, sum(len(pairs) for pairs in tried))
    result = np.zeros((len(axes), points.shape[1], points.shape[1]), dtype=bool)
    for k, (axis, pairs) in enumerate(zip(axes, tried, strict=True)):
        often, count, total = _counts(axis, pairs)
        if not often.any():
            continue
        scatter = _scatter(axes, k, pairs[often], shape)
        chance = _chance(
            axis, pairs[often], shape, _units(pairs[often], len(shape), shape.shape[1] + SPARE_UNITS), scatter
        )
        p_value = scipy.stats.binom.sf(count[often] - 1, total[often], chance)
        first, second = pairs[often][p_value * number <= CHANCE].T
        result[k, first, second] = result[k, second, first] = True
    return result


def _axis(points: FloatArray, geometries: Sequence[Geometry], step: FloatArray, axis: int) -> _Axis:
    place = np.stack([g.to_voxels(case)[:, axis] for case, g in zip(points, geometries, strict=True)])
    inverse = np.stack([np.linalg.inv(g.matrix)[axis] for g in geometries])
    rounding = np.abs(inverse).sum(axis=1) * step
    thickness = np.array([g.spacing[axis] for g in geometries])
    return _Axis(place, thickness, np.maximum(EQUAL, WITHIN_ROUNDING * rounding))


def _decimal_step(case: FloatArray) -> float:
    """The power of ten that all coordinates (L, P) are multiples of, mm; 0 where they are not rounded."""
    values = case[np.isfinite(case)]
    for step in DECIMALS:
        if len(values) and (np.abs(values - step * np.round(values / step)) < 1e-7 + 1e-12 * np.abs(values)).all():
            return step
    return 0.0


def _pairs(axis: _Axis) -> npt.NDArray[np.int_]:
    """(M, 2) pairs that could share a slice: shown together often enough, within a slice in the median, and on a slice
    that changes."""
    seen = np.isfinite(axis.place)
    varies = [
        place[ok].std() > VARIES if ok.sum() > 1 else False for place, ok in zip(axis.place.T, seen.T, strict=True)
    ]
    rows = np.flatnonzero(varies)
    first, second = (rows[side] for side in np.triu_indices(len(rows), k=1))
    found = [np.zeros((0, 2), dtype=np.int_)]
    for i in rows:
        others = second[first == i]
        others = others[(seen[:, others] & seen[:, i : i + 1]).sum(axis=0) >= EQUAL_CASES]
        near = np.nanmedian(np.abs(axis.place[:, others] - axis.place[:, i : i + 1]), axis=0)
        others = others[near <= max(1.0, float(np.median(axis.tolerance)))]
        found.append(np.column_stack([np.full(len(others), i), others]))
    return np.concatenate(found)


def _counts(axis: _Axis, pairs: npt.NDArray[np.int_]) -> tuple[npt.NDArray[np.bool_], FloatArray, FloatArray]:
    """(M,) each: whether equal in enough cases, in how many, of how many."""
    apart = np.abs(axis.place[:, pairs[:, 0]] - axis.place[:, pairs[:, 1]])
    total = np.isfinite(apart).sum(axis=0)
    count = (apart <= axis.tolerance[:, None]).sum(axis=0)
    return count >= EQUAL_SHARE * total, count, total


def _units(pairs: npt.NDArray[np.int_], n: int, least: int) -> npt.NDArray[np.int_]:
    """(L,) number of each landmark's unit. Those that mostly share a slice are none, -1, as theirs may not follow the
    anatomy; they count as one where fewer than `least` others are left."""
    connected = np.zeros((n, n), dtype=bool)
    connected[pairs[:, 0], pairs[:, 1]] = True
    units = np.asarray(scipy.sparse.csgraph.connected_components(connected, directed=False)[1], dtype=np.int_)
    alone = np.bincount(units)[units] == 1
    return np.where(alone, units, -1) if alone.sum() >= least else units


def _chance(
    axis: _Axis, pairs: npt.NDArray[np.int_], shape: FloatArray, units: npt.NDArray[np.int_], scatter: FloatArray
) -> FloatArray:
    """(M,) the mean probability over cases that freely annotated pairs of the same mean height are equal.

    Points that take places in steps of q are equal with probability E[(1 - |t + u| / q)+]: t what the case's tilt makes
    of the pair's distance, u normal: what nobody can keep below 0.5 % of it or a twentieth of a slice,
    and the pair's scatter, (M,) mm.
    """
    between = shape[pairs[:, 0]] - shape[pairs[:, 1]]
    tilt = _tilts(axis, between, shape, units) / axis.thickness[:, None]
    sure = np.hypot(LEAST_TILT * np.linalg.norm(between, axis=1), scatter) / axis.thickness[:, None]
    width = np.maximum(sure, LEAST_SCATTER)
    step = _steps(axis, pairs)
    chance = (_ramp(tilt + step, width) - 2 * _ramp(tilt, width) + _ramp(tilt - step, width)) / step
    seen = np.isfinite(axis.place[:, pairs[:, 0]] + axis.place[:, pairs[:, 1]])
    return np.asarray(np.where(seen, chance.clip(0, 1), 0).sum(axis=0) / seen.sum(axis=0))


def _scatter(axes: Sequence[_Axis], k: int, pairs: npt.NDArray[np.int_], shape: FloatArray) -> FloatArray:
    """(M,) mm: how much anatomy and annotator make a pair's difference across the slices vary, beside the pose: half of
    what they do along the slices, on the axis where it is least. What the steps of the places make of it is taken off.
    """
    least = np.full(len(pairs), np.inf)
    alone = np.arange(len(shape))
    for axis in (*axes[:k], *axes[k + 1 :]):
        place = axis.place * axis.thickness[:, None]
        fits = [_plane(case, shape, alone) for case in place]
        told = [i for i, fit in enumerate(fits) if fit[2]]
        if len(told) < EQUAL_CASES:
            return np.zeros(len(pairs))
        rest = np.stack([place[i] - shape @ fits[i][0] for i in told])
        apart = rest[:, pairs[:, 0]] - rest[:, pairs[:, 1]]
        steps = _steps(axis, pairs) * axis.thickness[:, None]
        some = np.isfinite(apart).any(axis=0)  # else the pair is not told here
        spread = np.zeros(len(pairs))
        middle = np.nanmedian(apart[:, some], axis=0)
        spread[some] = MAD_TO_WIDTH * np.nanmedian(np.abs(apart[:, some] - middle), axis=0)
        least = np.minimum(least, np.maximum(0, spread**2 - np.median(steps, axis=0) ** 2 / 6))
    return np.asarray(SCATTER_SHARE * np.sqrt(least))


def _ramp(x: FloatArray, width: FloatArray) -> FloatArray:
    """E[(x + u)+] for u normal of this standard deviation."""
    z = x / np.maximum(width, 1e-9)
    return np.asarray(x * scipy.stats.norm.cdf(z) + width * scipy.stats.norm.pdf(z))


def _tilts(axis: _Axis, between: FloatArray, shape: FloatArray, units: npt.NDArray[np.int_]) -> FloatArray:
    """(N, M) mm, at least 0: how far each case's tilt moves the two ends of (M, P) apart across the slices, against the
    mean tilt. The tilt is the gradient of a plane fitted to the places of all units over the mean shape; what may be
    the fit's error is taken off.
    """
    place = axis.place * axis.thickness[:, None]
    fits = [_plane(case, shape, units) for case in place]
    degrees = sum(fit[2] for fit in fits)
    told = np.array([fit[2] > 0 for fit in fits])
    result = np.zeros((len(place), len(between)))
    if not told.any():
        return result
    gradients = np.stack([fit[0] for fit in fits])
    _, _, main = np.linalg.svd(gradients[told])
    gradients *= np.where(gradients @ main[0] < 0, -1.0, 1.0)[:, None]  # files may count their slices from either end
    variance = sum(fit[3] for fit in fits) / degrees
    moved = (gradients - gradients[told].mean(axis=0)) @ between.T
    error = variance * np.stack([np.einsum("mp,pq,mq->m", between, fit[1], between) for fit in fits])
    result[told] = np.sqrt(np.maximum(0, moved**2 - TILT_ERRORS * error)[told])
    return result


def _plane(
    place: FloatArray, shape: FloatArray, units: npt.NDArray[np.int_]
) -> tuple[FloatArray, FloatArray, int, float]:
    """(gradient (P,), its covariance for a variance of 1 (P, P), degrees of freedom left, sum of squared residuals) of
    places (L,) in mm over the mean shape; 0 degrees where too few units are present."""
    p = shape.shape[1]
    seen = np.isfinite(place) & np.isfinite(shape).all(axis=1) & (units >= 0)
    numbers, row = np.unique(units[seen], return_inverse=True)
    if len(numbers) < p + 2:
        return np.zeros(p), np.zeros((p, p)), 0, 0.0
    size = np.bincount(row)
    height = np.bincount(row, weights=place[seen]) / size
    middle = np.stack([np.bincount(row, weights=x) for x in shape[seen].T], axis=1) / size[:, None]
    height, middle = height - height.mean(), middle - middle.mean(axis=0)
    covariance = np.linalg.pinv(middle.T @ middle, rcond=1e-6, hermitian=True)
    gradient = covariance @ (middle.T @ height)
    return gradient, covariance, len(numbers) - p - 1, float(((height - middle @ gradient) ** 2).sum())


def _steps(axis: _Axis, pairs: npt.NDArray[np.int_]) -> FloatArray:
    """(N, M) slices: the steps in which both places of a pair come.

    Whoever clicks in a viewer of slices puts every point on one, at a voxel's middle or its edge. Where all landmarks
    but those of these pairs lie anywhere, theirs lie on slices for another reason.
    """
    case = np.array([_lattice(place, e) for place, e in zip(axis.place, axis.tolerance, strict=True)])
    known = case[np.isfinite(case)]
    case = np.where(np.isfinite(case), case, known.max() if len(known) else 1.0)
    centred = np.abs(2 * axis.place - np.round(2 * axis.place)) <= 2 * EQUAL
    others = np.setdiff1d(np.arange(axis.place.shape[1]), pairs)
    others = others[np.isfinite(axis.place[:, others]).any(axis=0)]
    clicked = not len(others) or centred[:, others].sum() >= CLICKED * np.isfinite(axis.place[:, others]).sum()
    whole = (centred[:, pairs[:, 0]] & centred[:, pairs[:, 1]] & clicked).astype(np.float64)
    return np.asarray(np.maximum(whole, np.maximum(case, 2 * axis.tolerance)[:, None]))


def _lattice(place: FloatArray, tolerance: float) -> float:
    """The step that all places (L,) of a case are multiples of, from the lowest one; 0 without one, NaN where all are
    equal."""
    places = np.sort(place[np.isfinite(place)])
    gaps = np.diff(places)
    gaps = gaps[gaps > tolerance]
    if not len(gaps):
        return float("nan")
    if len(gaps) == 1:
        return 1.0 if abs(gaps[0] - round(gaps[0])) <= EQUAL else 0.0
    number = np.round((places - places[0]) / gaps.min())
    step = float((places[-1] - places[0]) / number[-1])
    off = np.abs(places - places[0] - step * number)
    return step if (off <= max(tolerance, EQUAL)).all() else 0.0
