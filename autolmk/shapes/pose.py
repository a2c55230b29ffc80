"""Shape of a landmark configuration: similarity fits that outliers cannot turn, the mean shape, the mirror plane.

Legend: N cases, L landmarks, P physical axes (2 or 3). Points are (x, y[, z]) in mm; NaN marks a missing point.
No fit ever reflects: left stays left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autolmk.geometry import FloatArray

BoolArray = npt.NDArray[np.bool_]

FEWEST_POINTS = 8  # confident ones, that let a shape prior measure the errors of an image
FEWEST_SHAPES = 10  # training cases, to know how far anatomy strays
ANY_SCALE = (0.0, float("inf"))
MEDIAN_TO_WIDTH = 1.5  # width of the Geman-McClure weights over the median residual
WIDER = 2.0  # factor on it for annotated points, few of which are wrong: else a few landmarks become the anchors of all
FLOOR = 1e-6  # of that width over the size of the configuration: exact fits stay finite
STARTS = 300  # minimal subsets that a robust fit starts from
KEPT = 5  # best of them that are refined
ITERATIONS = 50
CONVERGED = 1e-4  # change of every residual over that width at which refinement ends


@dataclass(frozen=True, eq=False)
class Similarity:
    """A similarity transform, x -> scale * rotation @ x + translation. rotation: (P, P), determinant +1; translation:
    (P,) mm.
    """

    rotation: FloatArray
    scale: float
    translation: FloatArray

    @classmethod
    def identity(cls, p: int) -> Similarity:
        """The identity in P axes."""
        return cls(np.eye(p), 1.0, np.zeros(p))

    def apply(self, points: npt.ArrayLike) -> FloatArray:
        """Points (..., P) -> (..., P)."""
        return self.scale * (np.asarray(points, dtype=np.float64) @ self.rotation.T) + self.translation

    def inverse(self) -> Similarity:
        """The inverse transform. ValueError where the scale is 0."""
        if self.scale <= 0:
            raise ValueError(f"only a similarity of positive scale has an inverse, got {self.scale}")
        back = self.rotation.T
        return Similarity(back, 1 / self.scale, -(back @ self.translation) / self.scale)


@dataclass(frozen=True, eq=False)
class Fit:
    """The fit of a similarity. similarity: source to target. weights: (L,) of the last iteration, 0 for missing points,
    near 0 for outliers. residuals: (L,) mm, distance of target from fitted source, NaN for missing points.
    """

    similarity: Similarity
    weights: FloatArray
    residuals: FloatArray


@dataclass(frozen=True, eq=False)
class MeanShape:
    """The mean shape of cases. points: (L, P) mm, centred, of the cases' geometric mean size, in their mean pose; NaN
    for landmarks never seen. poses: mean shape to case, one a case; None where a case has too few points to tell its
    pose.
    """

    points: FloatArray
    poses: tuple[Similarity | None, ...]


def fit_similarity(
    source: npt.ArrayLike,
    target: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    robust: bool = True,
    scale_bounds: tuple[float, float] = ANY_SCALE,
    initial: Similarity | None = None,
) -> Fit:
    """The reflection-free similarity that takes source (L, P) nearest to target (L, P).

    weights: (L,) >= 0, prior trust in each point. Rows with NaN on either side do not count. scale_bounds: (low, high).
    Not robust: weighted least squares (Umeyama, PAMI 1991, determinant kept +1). Robust: iteratively reweighted with
    Geman-McClure weights (c^2 / (c^2 + r^2))^2, c from the median residual, refined from the best of many minimal
    subsets (RANSAC, always the same ones) or from `initial`, so that up to 40 % of the points may be anywhere.
    With fewer than P points the smallest rotation is taken, with one point none; ValueError without any.
    """
    a, b = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] not in (2, 3):
        raise ValueError(f"source and target must both be (L, 2 or 3), got {a.shape} and {b.shape}")
    prior = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=np.float64)
    used = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1) & (prior > 0)
    if not used.any():
        raise ValueError("a fit needs at least one point that both sides have")
    x, y, w = a[used], b[used], prior[used]
    fits = _least_squares(x[None], y[None], w[None], scale_bounds)
    if robust and len(x) > a.shape[1]:
        fits = _subset_fits(x, y, w, scale_bounds, fits) if initial is None else _stack([initial])
        fits, w = _best(x, y, w, _reweighted(x[None], y[None], w[None], fits, scale_bounds))
    similarity = _single(fits, 0)
    residuals, all_weights = np.full(len(a), np.nan), np.zeros(len(a))
    residuals[used], all_weights[used] = np.linalg.norm(y - similarity.apply(x), axis=1), w
    return Fit(similarity, all_weights, residuals)


def fit_affine(source: FloatArray, target: FloatArray, start: Similarity) -> FloatArray:
    """Fit the matrix (P + 1, P) that takes source (N, P), with a column of ones, nearest to target (N, P): least
    squares, reweighted from `start` by Geman-McClure weights as a robust similarity is, so that outliers hardly turn
    it.
    """
    columns, fitted = np.column_stack([source, np.ones(len(source))]), start.apply(source)
    matrix = np.empty((0, 0))
    least = _least_width(target)
    for _ in range(ITERATIONS):
        residuals = np.linalg.norm(target - fitted, axis=1)[None]
        width = _widths(residuals, np.ones_like(residuals, dtype=np.bool_), least)
        root = np.sqrt(_geman_mcclure(residuals, width))[0][:, None]
        matrix = np.linalg.lstsq(columns * root, target * root, rcond=None)[0]
        before, fitted = fitted, columns @ matrix
        if np.abs(fitted - before).max() < CONVERGED * width[0]:
            break
    return matrix


def mean_shape(points: npt.ArrayLike, present: npt.ArrayLike | None = None) -> MeanShape:
    """Generalised Procrustes analysis (Gower 1975) with missing points, robust fits, no reflection, size kept in mm.

    points: (N, L, P) mm; present: (N, L) bool, default where finite. Cases with fewer than P points (or than the
    most that any case has) have no pose and do not shape the mean. ValueError where no case has a point.
    """
    cases = np.array(points, dtype=np.float64)
    n, _, p = cases.shape
    seen = np.isfinite(cases).all(axis=2)
    if present is not None:
        seen &= np.asarray(present, dtype=bool)
    cases[~seen] = np.nan
    counts = seen.sum(axis=1)
    if not n or not counts.max():
        raise ValueError("a mean shape needs at least one case with at least one point")
    needed = min(p, int(counts.max()))
    mean = cases[int(np.argmax(counts))].copy()
    fits: list[Fit | None] = [None] * n
    for _ in range(20):
        fits = _posed(mean, cases, needed, fits)
        updated = _average(cases, fits, mean)
        both = np.isfinite(mean) & np.isfinite(updated)
        moved = float(np.abs(updated - mean)[both].max())
        grown = np.isfinite(updated).sum() > np.isfinite(mean).sum()
        mean = updated
        if not grown and moved < 1e-5 * max(_size(mean), 1e-12):
            break
    fits = _posed(mean, cases, needed, fits)
    return _standardised(mean, [None if fit is None else fit.similarity for fit in fits])


def shape_deviations(shape: MeanShape, points: npt.ArrayLike) -> FloatArray:
    """The distances (N, L) mm of points (N, L, P) from the posed mean shape; NaN where a point or the pose is
    missing.
    """
    cases = np.asarray(points, dtype=np.float64)
    result = np.full(cases.shape[:2], np.nan)
    for i, pose in enumerate(shape.poses):
        if pose is not None:
            result[i] = np.linalg.norm(cases[i] - pose.apply(shape.points), axis=1)
    return result


def left_out_deviations(shape: MeanShape, points: npt.ArrayLike) -> FloatArray:
    """The distances (N, L) mm of the points (N, L, P) that made the mean shape from the fit of what it would be without
    their case, the other cases as they lie in it; NaN where a point or the pose is missing, or no other case shows the
    landmark.
    """
    cases = np.asarray(points, dtype=np.float64)
    residuals, aligned = shape_deviations(shape, cases), np.zeros_like(cases)
    for i, pose in enumerate(shape.poses):
        if pose is not None and pose.scale > 0:
            aligned[i] = np.nan_to_num(pose.inverse().apply(cases[i]))
        else:
            residuals[i] = np.nan
    seen: BoolArray = np.isfinite(residuals)
    widths = _widths(np.nan_to_num(residuals), seen, _least_width(cases[seen]), WIDER)
    weights = np.where(seen, np.maximum(_geman_mcclure(np.nan_to_num(residuals), widths), 1e-6), 0.0)[..., None]
    total, weight = (weights * aligned).sum(axis=0), weights.sum(axis=0)
    result = np.full(cases.shape[:2], np.nan)
    for i in map(int, np.flatnonzero(seen.any(axis=1))):
        rest = weight - weights[i]
        others = np.where(rest > 1e-9, (total - weights[i] * aligned[i]) / np.maximum(rest, 1e-9), np.nan)
        if (np.isfinite(others).all(axis=1) & seen[i]).sum() >= cases.shape[2]:
            result[i] = fit_similarity(others, np.where(seen[i][:, None], cases[i], np.nan)).residuals
    return result


# -- fits -------------------------------------------------------------------------------------------------------------

_Fits = tuple[FloatArray, FloatArray, FloatArray]  # B similarities: rotation (B, P, P), scale (B,), translation (B, P)


def _single(fits: _Fits, i: int) -> Similarity:
    return Similarity(fits[0][i], float(fits[1][i]), fits[2][i])


def _stack(similarities: Sequence[Similarity]) -> _Fits:
    return (
        np.stack([s.rotation for s in similarities]),
        np.array([s.scale for s in similarities]),
        np.stack([s.translation for s in similarities]),
    )


def _residuals(x: FloatArray, y: FloatArray, fits: _Fits) -> FloatArray:
    """x, y (B or 1, n, P) -> (B, n) mm."""
    rotation, scale, translation = fits
    fitted = scale[:, None, None] * (x @ np.swapaxes(rotation, 1, 2)) + translation[:, None]
    return np.asarray(np.linalg.norm(y - fitted, axis=2))


def _least_squares(x: FloatArray, y: FloatArray, w: FloatArray, bounds: tuple[float, float]) -> _Fits:
    """Weighted least squares of B fits: x, y (B or 1, n, P), w (B, n)."""
    share = (w / np.maximum(w.sum(axis=1, keepdims=True), 1e-300))[..., None]
    mean_x, mean_y = (share * x).sum(axis=1), (share * y).sum(axis=1)
    dx, dy = x - mean_x[:, None], y - mean_y[:, None]
    variance = (share * dx**2).sum(axis=(1, 2))
    covariance = np.swapaxes(share * dy, 1, 2) @ dx
    size = np.sqrt(variance * (share * dy**2).sum(axis=(1, 2)))
    tie = 1e-9 * np.maximum(size, 1e-300)[:, None, None] * np.eye(x.shape[2])  # an open rotation becomes the smallest
    u, s, vt = np.linalg.svd(covariance + tie)
    sign = np.ones_like(s)
    sign[:, -1] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign[:, None, :]) @ vt
    known = size > 1e-12 * max(1.0, float(np.abs(y).max())) ** 2
    scale = np.where(known, (s * sign).sum(axis=1) / np.maximum(variance, 1e-300), 1.0).clip(*bounds)
    translation = mean_y - scale[:, None] * np.einsum("bij,bj->bi", rotation, mean_x)
    return rotation, scale, translation


def _subset_fits(x: FloatArray, y: FloatArray, w: FloatArray, bounds: tuple[float, float], first: _Fits) -> _Fits:
    """`first` and the best fits to subsets of P points, by the sum of bounded residuals over all points."""
    n, p = x.shape
    chosen = np.random.default_rng(0).random((STARTS, n)).argpartition(p - 1, axis=1)[:, :p]
    fits = _least_squares(x[chosen], y[chosen], w[chosen], bounds)
    residuals = _residuals(x[None], y[None], fits)
    width = max(MEDIAN_TO_WIDTH * float(np.median(residuals, axis=1).min()), FLOOR * _size(y))
    best = np.argsort(_cost(residuals, w, width), kind="stable")[:KEPT]
    return tuple(np.concatenate([a, b[best]]) for a, b in zip(first, fits, strict=True))  # type: ignore[return-value]


def _best(x: FloatArray, y: FloatArray, prior: FloatArray, fits: _Fits) -> tuple[_Fits, FloatArray]:
    """The fit of least robust cost, all judged at the narrowest width, as a batch of one, and its weights (n,)."""
    residuals = _residuals(x[None], y[None], fits)
    widths = _widths(residuals, prior[None] > 0, _least_width(y))
    i = int(np.argmin(_cost(residuals, prior, float(widths.min()))))
    weights = _geman_mcclure(residuals[i : i + 1], widths[i : i + 1])[0] * prior
    return (fits[0][i : i + 1], fits[1][i : i + 1], fits[2][i : i + 1]), weights


def _reweighted(
    x: FloatArray, y: FloatArray, prior: FloatArray, fits: _Fits, bounds: tuple[float, float], factor: float = 1.0
) -> _Fits:
    """B fits refined at once: x, y (B or 1, n, P), prior (B or 1, n), 0 where a point is missing (its x, y finite)."""
    used, least, residuals = prior > 0, _least_width(y), _residuals(x, y, fits)
    for _ in range(ITERATIONS):
        widths = _widths(residuals, used, least, factor)
        fits = _least_squares(x, y, prior * _geman_mcclure(residuals, widths), bounds)
        before, residuals = residuals, _residuals(x, y, fits)
        if (np.abs(residuals - before) < CONVERGED * widths[:, None]).all():
            break
    return fits


def _widths(residuals: FloatArray, used: BoolArray, least: float, factor: float = 1.0) -> FloatArray:
    """(B,) mm: of the Geman-McClure weights of residuals (B, n), from the median over the used ones, or `least`."""
    ordered = np.sort(np.where(used, residuals, np.inf), axis=1)
    count = np.broadcast_to(used, residuals.shape).sum(axis=1)
    rows = np.arange(len(ordered))
    median = (ordered[rows, np.maximum(count - 1, 0) // 2] + ordered[rows, count // 2]) / 2
    return np.asarray(np.maximum(factor * MEDIAN_TO_WIDTH * median, least))


def _least_width(y: FloatArray) -> float:
    """mm, for points y (..., P)."""
    return max(FLOOR * _size(y.reshape(-1, y.shape[-1])), 1e-12)


def _geman_mcclure(residuals: FloatArray, widths: FloatArray) -> FloatArray:
    return np.asarray((1 + (residuals / widths[:, None]) ** 2) ** -2.0)


def _cost(residuals: FloatArray, prior: FloatArray, width: float) -> FloatArray:
    """Geman-McClure cost, residuals (B, n) -> (B,)."""
    square = (residuals / max(width, 1e-300)) ** 2
    return np.asarray((prior * square / (1 + square)).sum(axis=1))


def _size(points: FloatArray) -> float:
    """Root mean square distance of the finite points (n, P) from their mean, mm."""
    finite = points[np.isfinite(points).all(axis=1)]
    return float(np.sqrt(((finite - finite.mean(axis=0)) ** 2).sum(axis=1).mean())) if len(finite) else 0.0


# -- mean shape -------------------------------------------------------------------------------------------------------


def _posed(mean: FloatArray, cases: FloatArray, needed: int, fits: list[Fit | None]) -> list[Fit | None]:
    """The fit of the mean (L, P) to each case (N, L, P): from scratch where there was none, else refined."""
    common = np.asarray(np.isfinite(np.where(np.isfinite(mean), cases, np.nan)).all(axis=2))
    result: list[Fit | None] = [None] * len(cases)
    again = [i for i, fit in enumerate(fits) if fit is not None and common[i].sum() > cases.shape[2]]
    for i in set(range(len(cases))) - set(again):
        result[i] = fit_similarity(mean, cases[i]) if common[i].sum() >= needed else None
    if again:
        x, y = np.nan_to_num(mean)[None], np.nan_to_num(cases[again])
        prior = common[again].astype(np.float64)
        started = _stack([fit.similarity for fit in (fits[i] for i in again) if fit is not None])
        refined = _reweighted(x, y, prior, started, ANY_SCALE, WIDER)
        residuals = _residuals(x, y, refined)
        weights = prior * _geman_mcclure(residuals, _widths(residuals, prior > 0, _least_width(y), WIDER))
        for row, i in enumerate(again):
            result[i] = Fit(_single(refined, row), weights[row], np.where(common[i], residuals[row], np.nan))
    return result


def _average(cases: FloatArray, fits: Sequence[Fit | None], mean: FloatArray) -> FloatArray:
    """Weighted mean of the cases in the mean's frame, with points that it lacked; geometric mean size."""
    total, weight = np.zeros_like(mean), np.zeros(len(mean))
    log_scales = [np.log(fit.similarity.scale) for fit in fits if fit is not None and fit.similarity.scale > 0]
    for case, fit in zip(cases, fits, strict=True):
        if fit is None or fit.similarity.scale <= 0:
            continue
        seen = np.isfinite(case).all(axis=1)
        w = np.where(np.isfinite(mean).all(axis=1), np.maximum(fit.weights, 1e-6), 1.0)[seen]
        total[seen] += w[:, None] * fit.similarity.inverse().apply(case[seen])
        weight[seen] += w
    result = np.full_like(mean, np.nan)
    known = weight > 0
    result[known] = total[known] / weight[known, None] * np.exp(np.mean(log_scales))
    return result


def _standardised(mean: FloatArray, poses: Sequence[Similarity | None]) -> MeanShape:
    """Centred, of geometric mean scale 1, in the mean pose (chordal mean of the rotations)."""
    known = [pose for pose in poses if pose is not None]
    u, _, vt = np.linalg.svd(np.sum([pose.rotation for pose in known], axis=0))
    sign = np.ones(len(u))
    sign[-1] = np.sign(np.linalg.det(u @ vt))
    turn = (u * sign) @ vt
    scale = float(np.exp(np.mean([np.log(pose.scale) for pose in known if pose.scale > 0])))
    centre = np.nanmean(mean, axis=0)
    to_old = Similarity(turn.T, 1 / scale, centre)  # standardised frame to that of `mean`
    points = to_old.inverse().apply(mean)
    return MeanShape(points, tuple(None if pose is None else _compose(pose, to_old) for pose in poses))


def _compose(outer: Similarity, inner: Similarity) -> Similarity:
    """outer after inner."""
    return Similarity(outer.rotation @ inner.rotation, outer.scale * inner.scale, outer.apply(inner.translation))
