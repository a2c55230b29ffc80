"""Points drawn toward the fitted mean shape, each as far as its own peak leaves it uncertain: empirical Bayes.

A network's point is the anatomy plus an error. How large errors are is known from held-out cases and the width of the
peak (`PointErrors`), how far anatomy strays from the fitted mean shape from training cases that did not shape it. Both
being Gaussian, the best estimate is the precision-weighted mean of point and shape (James and Stein, 1961; Efron and
Morris, JASA 1973). But a patient is not a training case: the whole image may stray further than those did, by a factor
of which nothing is known before (1 or more), and each landmark by a factor of its own with the tails of a Student t of
half a degree of freedom, so that a point that is sure and far off stays where it is (global and local scales: Carvalho,
Polson and Scott, Biometrika 2010). Where points suffice the mean shape is fitted by an affine map, so that a head that
is longer or flatter than all others stays so. What lies further from the fit than its error explains counts as anatomy,
unless held-out errors have heavy tails, or the point is at another structure: as likely as points of such log-odds were
on held-out cases, and then it tells nothing of its landmark's place.

Shapes: L landmarks, P physical axes, N points; G factors of the image, K of a landmark, E of an error. All in mm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autolmk.fold.measured import Measured
from autolmk.fold.point_errors import PointErrors, t_scale
from autolmk.geometry import FloatArray
from autolmk.prediction.assignment import ShapePrior
from autolmk.shapes.pose import FEWEST_POINTS, FEWEST_SHAPES, Similarity, fit_affine, fit_similarity

Indices = npt.NDArray[np.int_]

TAILS = 0.5  # degrees of freedom of a landmark's deviation
AFFINE = 3  # points, times P + 1, from which on the fit is affine: enough of what they tell is left for the errors
OF_IMAGE = np.geomspace(1.0, 16.0, 13)  # (G,) times as far as training cases, all equally likely
OF_LANDMARK = np.geomspace(0.05, 400.0, 41)  # (K,) times the variance
OF_ERROR = np.geomspace(0.05, 400.0, 31)  # (E,) times the variance
GROSS = 6.0  # of `shrink_by_misfit`: standard deviations beyond which a point's own error must be larger
GAUSSIAN = PointErrors()  # and none astray
CHI_SQUARE_MEDIAN = {2: 1.3863, 3: 2.3660}  # of P degrees of freedom


def draw(
    points: FloatArray,
    log_odds: FloatArray,
    spread: FloatArray,
    prior: ShapePrior,
    errors: Sequence[PointErrors | None],
    names: Sequence[str],
) -> FloatArray:
    """Points (L, P) as the model's folds decided on their held-out cases: drawn toward the mean shape or left.

    log_odds, spread: (L,) of the points and mm, the widths of their peaks. errors: what each fold measured; None of
    all of them is that of models trained before there were such measurements, whose points are drawn as they were then.
    """
    pooled = _pooled(errors)
    if pooled is None or (pooled.drawn and pooled.fully):
        return shrink_by_misfit(points, log_odds, prior)
    return shrink(points, log_odds, pooled.variance(names, spread), prior, pooled) if pooled.drawn else points


def draw_best(
    candidates: FloatArray,
    log_odds: FloatArray,
    spread: FloatArray,
    prior: ShapePrior | None,
    measured: Sequence[Measured],
    names: Sequence[str],
) -> FloatArray:
    """Draw the best of candidates (L, K, P) toward the mean shape, in their place, and give by how much (L, P) mm: 0
    without a prior, and of models whose folds measured no errors, whose flags judge points as they are drawn."""
    found = candidates[:, 0].copy()
    if prior is None:
        return np.zeros_like(found)
    errors = [one.errors for one in measured]
    candidates[:, 0] = draw(found, log_odds[:, 0], spread, prior, errors, names)
    return candidates[:, 0] - found if any(one is not None for one in errors) else np.zeros_like(found)


def is_drawn(errors: Sequence[PointErrors | None]) -> bool:
    """Whether `draw` moves points at all."""
    pooled = _pooled(errors)
    return pooled is None or pooled.drawn


def _pooled(errors: Sequence[PointErrors | None]) -> PointErrors | None:
    known = [one for one in errors if one is not None]
    return PointErrors.pooled(known) if known else None


def shrink(
    points: FloatArray,
    log_odds: FloatArray,
    variance: FloatArray,
    prior: ShapePrior,
    errors: PointErrors = GAUSSIAN,
) -> FloatArray:
    """Points (L, P) moved toward the fit of the mean shape; NaN rows stay NaN.

    log_odds: (L,), points above 0 (or the better half where few are) take part in the fit. variance: (L,) mm^2 an axis
    of their errors; of `errors` count how heavy these' tails are, and which points are thought to be astray. Unchanged
    where fewer than 8 points or 10 training shapes can support it.
    """
    usable, confident = _supporting(points, log_odds, prior)
    if len(confident) < FEWEST_POINTS or prior.n_cases < FEWEST_SHAPES:
        return points
    p = points.shape[1]
    fit = _fit(points, prior, confident)
    expected, columns = fit.apply(prior.points), _similarity_columns(prior.points[confident])
    if len(confident) >= AFFINE * (p + 1):
        matrix = fit_affine(prior.points[confident], points[confident], fit)
        expected, columns = prior.points @ matrix[:-1] + matrix[-1], _affine_columns(prior.points[confident])
    square = ((points - expected) ** 2).sum(axis=1)
    anatomy = np.maximum((prior.strays * fit.scale) ** 2 / p, 1e-12)
    error = variance.copy()
    error[confident] *= 1 - leverage(columns, p)  # the rest of it is in the fit
    weight, evidence = _weights(square[usable], anatomy[usable], error[usable], p, errors.tails)
    if errors.astray > 0:
        doubt = errors.doubts[0] - errors.doubts[1] * log_odds[usable]
        weight, evidence = _doubted(weight, evidence, square[usable], doubt, errors.astray, p)
    likely = evidence[:, np.isin(usable, confident)].sum(axis=1)
    share = np.exp(likely - likely.max())
    own = (share @ weight / share.sum())[:, None]
    result = points.copy()
    result[usable] = own * points[usable] + (1 - own) * expected[usable]
    return result


def _supporting(points: FloatArray, log_odds: FloatArray, prior: ShapePrior) -> tuple[Indices, Indices]:
    """Indices of the points that have a place in the mean shape, and of those among them that are confident."""
    usable = np.isfinite(points + prior.points).all(axis=1)
    threshold = min(0.0, float(np.median(log_odds[usable]))) if usable.any() else 0.0
    return np.flatnonzero(usable), np.flatnonzero(usable & (log_odds >= threshold))


def _fit(points: FloatArray, prior: ShapePrior, confident: Indices) -> Similarity:
    return fit_similarity(prior.points[confident], points[confident], scale_bounds=prior.scale_bounds).similarity


def _weights(
    square: FloatArray, anatomy: FloatArray, error: FloatArray, p: int, tails: float
) -> tuple[FloatArray, FloatArray]:
    """(share of its distance from the fit that each point keeps (G, L), log likelihood of that distance (G, L)) for
    each factor of the image; a landmark's factor, and one of its error where errors have heavy tails, are averaged out,
    by their likelihood and inverse gamma densities.

    square: (L,) mm^2 from the fit. anatomy, error: (L,) variances an axis.
    """
    strays = OF_IMAGE[:, None, None, None] ** 2 * OF_LANDMARK[:, None, None] * anatomy  # (G, K, 1, L)
    log_density = _log_density(OF_LANDMARK, TAILS)[:, None, None]
    if tails > 0:  # (E, L)
        error = t_scale(tails, p) * OF_ERROR[:, None] * error
        log_density = log_density + _log_density(OF_ERROR, tails)[:, None]
    total = strays + error
    log = (log_density - p / 2 * np.log(total) - square / (2 * total)).reshape(len(OF_IMAGE), -1, len(square))
    top = log.max(axis=1, keepdims=True)
    share = np.exp(log - top)
    sum_ = share.sum(axis=1)
    return ((strays / total).reshape(log.shape) * share).sum(axis=1) / sum_, top[:, 0] + np.log(sum_)


def _doubted(
    weight: FloatArray, evidence: FloatArray, square: FloatArray, doubt: FloatArray, astray: float, p: int
) -> tuple[FloatArray, FloatArray]:
    """The same, where points are at another structure at log-odds `doubt` (L,), and then tell nothing."""
    here = evidence - np.logaddexp(0.0, doubt)
    elsewhere = -p * np.log(astray) - square / (2 * astray**2) - np.logaddexp(0.0, -doubt)
    both = np.logaddexp(here, elsewhere)
    return weight * np.exp(here - both), both


def _log_density(factors: FloatArray, tails: float) -> FloatArray:
    """Of each factor on a variance, of a Student t of so many degrees of freedom: inverse gamma, in its logarithm."""
    density = -tails / 2 * (np.log(factors) + 1 / factors)
    return np.asarray(density - np.log(np.exp(density).sum()))


def leverage(columns: FloatArray, p: int) -> FloatArray:
    """The leverage (N,) of each point, 0 to 1: the share of each point's error, mean over its p axes, that a fit
    follows; columns: (N * p, M) how each coordinate goes with each of the fit's M parameters.
    """
    basis, _ = np.linalg.qr(columns)
    return np.asarray((basis**2).sum(axis=1).reshape(-1, p).mean(axis=1))


def _similarity_columns(points: FloatArray) -> FloatArray:
    """Of a similarity fit to points (N, P)."""
    n, p = points.shape
    centred = points - points.mean(axis=0)
    modes = [*(np.tile(axis, (n, 1)) for axis in np.eye(p)), centred]
    for i in range(p):
        for j in range(i + 1, p):
            turn = np.zeros((p, p))
            turn[i, j], turn[j, i] = 1.0, -1.0
            modes.append(centred @ turn)
    return np.stack(modes).reshape(len(modes), -1).T


def _affine_columns(points: FloatArray) -> FloatArray:
    """Of an affine fit to points (N, P)."""
    return np.kron(np.column_stack([points - points.mean(axis=0), np.ones(len(points))]), np.eye(points.shape[1]))


# -- of points that place windows, and of models without measured errors ----------------------------------------------


def shrink_by_misfit(points: FloatArray, log_odds: FloatArray, prior: ShapePrior) -> FloatArray:
    """Points (L, P) moved toward the fit of the mean shape, all misfit counting as the network's error; arguments of
    `shrink`. Models whose folds measured no errors predict so, and stages whose points say where a later one looks."""
    usable, confident = _supporting(points, log_odds, prior)
    if len(confident) < FEWEST_POINTS or prior.n_cases < FEWEST_SHAPES:
        return points
    p = points.shape[1]
    fit = _fit(points, prior, confident)
    expected = fit.apply(prior.points)
    square = ((points - expected) ** 2).sum(axis=1) / p
    anatomy = (prior.residual * fit.scale) ** 2 / p
    noise = error_variance(square[confident], anatomy[confident], p)
    own = np.maximum(noise, square / GROSS**2 - anatomy)
    weight = np.where(own > 0, anatomy / np.maximum(anatomy + own, 1e-12), 1.0)[:, None]
    result = points.copy()
    result[usable] = (weight * points + (1 - weight) * expected)[usable]
    return result


def error_variance(square: FloatArray, anatomy: FloatArray, p: int) -> float:
    """Variance an axis (mm^2) of an image's errors: with it, the median of square / (anatomy + variance) is that of
    chi-square over its degrees of freedom, so that gross errors do not count. 0 where points fit like training shapes.

    square: (N,) squared distance from the fit over P. anatomy: (N,) variance an axis of the training shapes.
    """
    median = CHI_SQUARE_MEDIAN[p] / p

    def excess(variance: float) -> float:
        return float(np.median(square / np.maximum(anatomy + variance, 1e-12))) - median

    low, high = 0.0, float(np.median(square)) / median
    if excess(low) <= 0:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high
