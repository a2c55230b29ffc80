"""A point-distribution model of the training landmarks: where the others make a landmark likely, and how surely.

Cases are brought into the pose of the mean shape (`pose.mean_shape`); there coordinates are Gaussian, with a
covariance that few cases suffice for: the empirical correlations shrunk toward none as far as their scatter asks for
(Ledoit and Wolf, J. Multivariate Analysis 2004, in the form of Schaefer and Strimmer, SAGMB 2005), kept as modes and a
diagonal.
In an image the pose is unknown too: similarity transforms are modes of large variance, so that a landmark's expected
place is its conditional Gaussian given the others, pose and shape at once (universal kriging). Points that do not fit
lose their say, step by step (Geman-McClure weights).

Legend: N cases, L landmarks, P physical axes, M modes. Everything in mm, or pixels without physical size; NaN: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy  # loads its parts when they are used: scipy.stats takes 0.7 s

from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks
from autolmk.shapes.pose import BoolArray, Similarity, fit_similarity, mean_shape

FEWEST_CASES, FEWEST_SEEN = 5, 3  # with a pose; that show a landmark
FLATNESS = 0.05  # second principal extent over the first below which landmarks lie on a line
SCALE_MARGIN = 1.25  # beyond the smallest and the largest training configuration
PSEUDO_CASES = 4.0  # of mean variance, added to those that a landmark's variance is measured on
EXPLAINED = 0.995  # of the shrunken correlations' variance, by the modes that are kept
WIDTH = 3.0  # standardised distance at which a point's weight is a quarter
REWEIGHTED, CONVERGED = 8, 1e-2  # times at most; change of all weights that ends it
LEAST_WEIGHT = 1e-4
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9975, 0.999, 1.0)
PARTS = 8  # at most, into which the training cases are divided for calibration


@dataclass(frozen=True, eq=False)
class Expectation:
    """The place of each landmark that the others make likely. place: (L, P) mm, NaN where nothing can be said.
    covariance: (L, P, P) mm^2 of the true place around it. weight: (L,) 0 to 1, how much each was believed. pose: mean
    shape to image.
    """

    place: FloatArray
    covariance: FloatArray
    weight: FloatArray
    pose: Similarity | None

    def distance(self, points: FloatArray, noise: FloatArray | float = 0.0) -> FloatArray:
        """The Mahalanobis distance (L, ...) of points (L, ..., P); noise: mm an axis, their own error, a number or
        (L,).
        """
        n, p = self.place.shape
        away = (points - self.place.reshape(n, *(1,) * (points.ndim - 2), p)).reshape(n, -1, p)
        own = np.broadcast_to(np.asarray(noise, dtype=np.float64), (n,))
        total = np.where(np.isfinite(self.covariance), self.covariance, 0.0) + own[:, None, None] ** 2 * np.eye(p)
        total += 1e-12 * np.maximum(1.0, np.trace(total, axis1=1, axis2=2))[:, None, None] * np.eye(p)
        square = np.einsum("lkp,lpq,lkq->lk", away, np.linalg.inv(total), away)
        return np.asarray(np.sqrt(np.maximum(square, 0.0)).reshape(points.shape[:-1]))


@dataclass(frozen=True)
class ShapeModel:
    """A point distribution model. names: L. mean: (L, P) mm, the mean shape, None for landmarks that fewer than three
    cases show. modes: (M, L, P) mm, one standard deviation each. variance: (L, P) mm^2 besides the modes. scale_bounds:
    of a case over the mean shape. n_cases: that it was measured on. distances: quantiles, at `LEVELS`, of the
    standardised distance of training points from where a model without their case expects them; inflation: brings their
    median to that of a Gaussian.
    """

    names: tuple[str, ...]
    mean: tuple[tuple[float | None, ...], ...]
    modes: tuple[tuple[tuple[float, ...], ...], ...]
    variance: tuple[tuple[float, ...], ...]
    scale_bounds: tuple[float, float]
    n_cases: int
    inflation: float = 1.0
    distances: tuple[float, ...] = ()

    @cached_property
    def points(self) -> FloatArray:
        """The mean shape (L, P), NaN where unknown."""
        return np.array(self.mean, dtype=np.float64)

    @property
    def known(self) -> BoolArray:
        """A mask of the landmarks that the model knows, (L,)."""
        return _known(self.points)

    @cached_property
    def covariance(self) -> FloatArray:
        """The covariance (L * P, L * P) mm^2 in the mean shape's pose, similarity transforms included."""
        n, p = self.points.shape
        modes = np.array(self.modes, dtype=np.float64).reshape(-1, n * p)
        pose = _pose_modes(self.points).reshape(-1, n * p)
        shape = modes.T @ modes + np.diag(np.array(self.variance, dtype=np.float64).ravel())
        return np.asarray(self.inflation**2 * shape + pose.T @ pose)

    @cached_property
    def own_variance(self) -> FloatArray:
        """The variance of each landmark by itself, (L,) mm^2 an axis, in the mean shape's pose."""
        modes = np.array(self.modes, dtype=np.float64).reshape(-1, *self.points.shape)
        variance = np.array(self.variance) + (modes**2).sum(axis=0)
        return np.asarray(self.inflation**2 * variance.mean(axis=1))

    def expectation(
        self,
        points: FloatArray,
        weight: FloatArray | None = None,
        noise: FloatArray | float = 0.0,
        *,
        start: Similarity | None = None,
    ) -> Expectation:
        """The expectation of each landmark, given the other points (L, P) mm, NaN for none, trusted by weight (L,) 0 to
        1, default 1.

        noise: mm an axis, of the points' own errors, a number or (L,). Nothing can be said, NaN, with P points or
        fewer, or where they lie on a line. start: a pose from which to
        begin, instead of a robust search. ValueError where the points are not those of the model's landmarks.
        """
        n, p = self.points.shape
        if points.shape != (n, p):
            raise ValueError(f"a shape model of {n} landmarks on {p} axes needs points ({n}, {p}), got {points.shape}")
        trust = np.ones(n) if weight is None else np.clip(np.nan_to_num(weight), 0.0, 1.0)
        used = np.isfinite(points).all(axis=1) & self.known & (trust > 0)
        nothing = Expectation(np.full((n, p), np.nan), np.full((n, p, p), np.nan), np.zeros(n), None)
        if used.sum() <= p or on_a_line(points[used]) or on_a_line(self.points[used]):
            return nothing
        own = np.broadcast_to(np.asarray(noise, dtype=np.float64), (n,))
        pose, believed = self._pose(points, np.where(used, trust, 0.0), own, start)
        own = own / pose.scale
        in_pose = pose.inverse().apply(points) - self.points
        for _ in range(REWEIGHTED):
            mean, covariance = self._conditional(in_pose, believed, own)
            square = _squares(in_pose - mean, covariance + own[:, None, None] ** 2 * np.eye(p))
            again = np.where(used, np.maximum(trust * (1 + square / WIDTH**2) ** -2.0, LEAST_WEIGHT), 0.0)
            moved, believed = float(np.abs(again - believed).max()), again
            if moved < CONVERGED:
                break
        mean, covariance = self._conditional(in_pose, believed, own)
        turn = pose.scale * pose.rotation
        return Expectation(pose.apply(self.points + mean), turn @ covariance @ turn.T, believed, pose)

    def _pose(
        self, points: FloatArray, trust: FloatArray, noise: FloatArray, start: Similarity | None
    ) -> tuple[Similarity, FloatArray]:
        """The pose in which the mean shape fits the points (L, P), and how much each is believed (L,): a robust search,
        or one step from `start`."""
        used = trust > 0
        if start is None:
            fit = fit_similarity(self.points[used], points[used], trust[used], scale_bounds=self.scale_bounds)
            believed = np.zeros(len(trust))
            believed[used] = np.maximum(fit.weights, LEAST_WEIGHT)
            return fit.similarity, believed
        square = ((points - start.apply(self.points)) ** 2).mean(axis=1)
        usual = start.scale**2 * self.own_variance + noise**2
        weight = (1 + np.where(used, square, np.inf) / (WIDTH**2 * np.maximum(usual, 1e-12))) ** -2.0
        believed = np.where(used, np.maximum(trust * weight, LEAST_WEIGHT), 0.0)
        fit = fit_similarity(
            self.points[used], points[used], believed[used], robust=False, scale_bounds=self.scale_bounds
        )
        return fit.similarity, believed

    def _conditional(
        self, observed: FloatArray, weight: FloatArray, noise: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """(means (L, P), covariances (L, P, P)) of each landmark's deviation from the mean shape given those observed
        of the others, (L, P). A weight below 1 (0: not observed) adds to the variance that a landmark has by itself."""
        n, p = observed.shape
        seen, rest = np.flatnonzero(weight > 0), np.flatnonzero((weight <= 0) & self.known)
        blocks = self.covariance.reshape(n, p, n, p)
        error = noise**2 + self.own_variance * (1 / np.maximum(weight, LEAST_WEIGHT) - 1)
        among = blocks[seen][:, :, seen].reshape(len(seen) * p, -1)
        inverse = np.linalg.inv(among + np.diag(np.repeat(error[seen], p)))
        pulled = inverse @ observed[seen].ravel()
        mean, covariance = np.full((n, p), np.nan), np.full((n, p, p), np.nan)
        diagonal = inverse.reshape(len(seen), p, len(seen), p)[np.arange(len(seen)), :, np.arange(len(seen)), :]
        left_out = np.linalg.inv(diagonal)  # of the observation given the other observations, its error included
        mean[seen] = observed[seen] - np.einsum("lpq,lq->lp", left_out, pulled.reshape(-1, p))
        covariance[seen] = _positive(left_out - error[seen, None, None] * np.eye(p))
        for i in rest:
            across = blocks[i][:, seen].reshape(p, -1)
            mean[i] = across @ pulled
            covariance[i] = _positive(blocks[i, :, i] - across @ inverse @ across.T)
        return mean, covariance

    def threshold(self, false_alarms: float) -> float:
        """Standardised distance that this share of correct points exceeds: measured on training points that their model
        did not see. ValueError outside 0 to 0.5."""
        if not 0 <= false_alarms <= 0.5:
            raise ValueError(f"a share of false alarms must be from 0 to 0.5, got {false_alarms}")
        return float(np.interp(1 - false_alarms, LEVELS, self.distances))


def why_no_shape(truth: Sequence[Landmarks]) -> str | None:
    """The reason why these cases, with the same names in the same order, cannot tell a shape model; None where they
    can.
    """
    if len(truth) < FEWEST_CASES:
        return (
            f"a shape needs {FEWEST_CASES} annotated cases, and there {'is' if len(truth) == 1 else 'are'} {len(truth)}"
        )
    present = np.stack([case.present for case in truth])
    p = truth[0].points.shape[1]
    known: BoolArray = np.asarray(present.sum(axis=0) >= FEWEST_SEEN)
    if known.sum() < p + 2:
        return f"{known.sum()} landmarks are shown by {FEWEST_SEEN} cases or more, and a shape needs {p + 2}"
    posed = [case.points for case, enough in zip(truth, present[:, known].sum(axis=1) > p, strict=True) if enough]
    if len(posed) < FEWEST_CASES:
        return f"{len(posed)} cases show more than {p} landmarks, and a shape needs {FEWEST_CASES}"
    return "the landmarks lie on a line, which tells no pose" if all(map(on_a_line, posed)) else None


def fit_shape_model(truth: Sequence[Landmarks]) -> ShapeModel | None:
    """Fit a shape model to cases with the same names in the same order, landmarks that are not present left out; None
    where `why_no_shape` gives a reason.
    """
    if why_no_shape(truth) is not None:
        return None
    cases = np.stack([case.points for case in truth])
    p = cases.shape[2]
    known: BoolArray = np.asarray(np.isfinite(cases).all(axis=2).sum(axis=0) >= FEWEST_SEEN)
    cases[:, ~known] = np.nan
    shape = mean_shape(cases)
    kept = [i for i, pose in enumerate(shape.poses) if pose is not None and np.isfinite(cases[i, :, 0]).sum() > p]
    poses = [pose for i, pose in enumerate(shape.poses) if pose is not None and i in kept]
    in_pose = np.stack([pose.inverse().apply(cases[i]) for i, pose in zip(kept, poses, strict=True)])
    scales = [pose.scale for pose in poses]
    bounds = (min(scales) / SCALE_MARGIN, max(scales) * SCALE_MARGIN)
    model = _of_residuals(truth[0].names, in_pose - shape.points, shape.points, bounds)
    return _calibrated(model, in_pose, poses)


def on_a_line(points: FloatArray) -> bool:
    """Whether the finite points (N, P) lie on a line, nearly, or at one place, or are fewer than three."""
    finite = points[np.isfinite(points).all(axis=1)]
    if len(finite) < 3:
        return True
    extent = np.linalg.svd(finite - finite.mean(axis=0), compute_uv=False)
    return bool(extent[1] <= FLATNESS * extent[0])


def _of_residuals(
    names: Sequence[str], residuals: FloatArray, mean: FloatArray, bounds: tuple[float, float]
) -> ShapeModel:
    """A model, not yet calibrated, of deviations (N, L, P) from the mean shape (L, P), NaN where not present."""
    n, landmarks, p = residuals.shape
    seen: BoolArray = np.asarray(np.isfinite(residuals).all(axis=2))
    counts = np.repeat(np.maximum(seen.sum(axis=0), 1), p)
    x = np.where(seen[..., None], residuals, 0.0).reshape(n, -1)
    known = np.repeat(_known(mean), p)
    raw = (x**2).sum(axis=0) / np.maximum(counts - 1, 1)
    spread = np.sqrt((counts * raw + PSEUDO_CASES * raw[known].mean()) / (counts + PSEUDO_CASES))
    scale = np.sqrt(np.maximum((x**2).sum(axis=0), 1e-300))
    unit = np.where(known, x / scale, 0.0)  # its scalar products are correlations, weakened where cases are missing
    shrinkage = _shrinkage(unit)
    _, strength, modes = np.linalg.svd(np.sqrt(1 - shrinkage) * unit, full_matrices=False)
    power = np.cumsum(strength**2) / max(float((strength**2).sum()), 1e-300)
    kept = int(np.searchsorted(power, EXPLAINED)) + 1 if shrinkage < 1 else 0
    scaled = (strength[:kept, None] * modes[:kept]) * spread
    rest = np.where(known, np.maximum(spread**2 - (scaled**2).sum(axis=0), 1e-6 * spread**2), 0.0)
    return ShapeModel(
        names=tuple(names),
        mean=tuple(tuple(None if np.isnan(v) else float(v) for v in row) for row in mean),
        modes=tuple(tuple(tuple(map(float, row)) for row in mode) for mode in scaled.reshape(-1, landmarks, p)),
        variance=tuple(tuple(map(float, row)) for row in rest.reshape(landmarks, p)),
        scale_bounds=(float(bounds[0]), float(bounds[1])),
        n_cases=n,
    )


def _shrinkage(unit: FloatArray) -> float:
    """0 to 1: the share by which correlations, the scalar products of columns (N, V), are best shrunk toward none:
    sum of their variances over sum of their squares (Schaefer and Strimmer 2005, eq. 8)."""
    n = len(unit)
    correlation = unit.T @ unit
    squares = (unit**2).T @ (unit**2)
    variance = (n * squares - correlation**2) / max(n - 1, 1)
    off = ~np.eye(len(correlation), dtype=bool)
    return float(np.clip(variance[off].sum() / max(float((correlation[off] ** 2).sum()), 1e-300), 0.0, 1.0))


def _calibrated(model: ShapeModel, in_pose: FloatArray, poses: Sequence[Similarity]) -> ShapeModel:
    """With the distances of each case's points (N, L, P), in the mean pose, from what the other cases expect."""
    n, _, p = in_pose.shape
    parts = np.arange(n) % min(n, PARTS)
    found = []
    for part in np.unique(parts):
        others = in_pose[parts != part]
        count = np.isfinite(others).all(axis=2).sum(axis=0)
        mean = np.where(count[:, None] > 0, np.nansum(others, axis=0) / np.maximum(count, 1)[:, None], np.nan)
        mean[count < FEWEST_SEEN - 1] = np.nan
        without = _of_residuals(model.names, others - mean, mean, model.scale_bounds)
        for i in map(int, np.flatnonzero(parts == part)):
            points = poses[i].apply(in_pose[i])
            found.append(without.expectation(points, start=poses[i]).distance(points))
    distances = np.concatenate(found)
    distances = distances[np.isfinite(distances)]
    if not len(distances):
        return replace(model, distances=tuple(float(np.sqrt(scipy.stats.chi2.ppf(level, p))) for level in LEVELS))
    inflation = float(np.median(distances)) / float(np.sqrt(scipy.stats.chi2.median(p)))
    inflation = max(inflation, 1e-3)
    return replace(model, inflation=inflation, distances=tuple(map(float, np.quantile(distances / inflation, LEVELS))))


def _known(points: FloatArray) -> BoolArray:
    """(L,) which rows of (L, P) are places."""
    return np.asarray(np.isfinite(points).all(axis=1))


def _pose_modes(mean: FloatArray) -> FloatArray:
    """(P + P (P - 1) / 2 + 1, L, P) mm: translations, rotations and scale, to first order, as large as the shape."""
    known = _known(mean)
    p = mean.shape[1]
    centred = np.where(known[:, None], mean - mean[known].mean(axis=0), 0.0)
    size = float(np.sqrt((centred**2).sum() / max(known.sum(), 1)))
    modes = [np.where(known[:, None], size * axis, 0.0) for axis in np.eye(p)]
    for i in range(p):
        for j in range(i + 1, p):
            turn = np.zeros((p, p))
            turn[i, j], turn[j, i] = 1.0, -1.0
            modes.append(centred @ turn)
    return np.stack([*modes, centred])


def _squares(away: FloatArray, covariance: FloatArray) -> FloatArray:
    """(L,) squared Mahalanobis distances of (L, P); infinite where unknown."""
    result = np.full(len(away), np.inf)
    known: BoolArray = np.asarray(np.isfinite(away).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2)))
    solved = np.linalg.solve(covariance[known], away[known][..., None])[..., 0]
    result[known] = np.maximum((away[known] * solved).sum(axis=1), 0.0)
    return result


def _positive(covariance: FloatArray) -> FloatArray:
    """The same (..., P, P), symmetric and positive in spite of rounding."""
    values, vectors = np.linalg.eigh((covariance + np.swapaxes(covariance, -1, -2)) / 2)
    values = np.maximum(values, 1e-9 * np.maximum(values.max(axis=-1, keepdims=True), 1e-12))
    return np.asarray((vectors * values[..., None, :]) @ np.swapaxes(vectors, -1, -2))
