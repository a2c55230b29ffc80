"""Points drawn toward the fitted mean shape, each as far as its image leaves it uncertain: empirical Bayes.

A network's points are the anatomy plus an error; the training shapes tell how far anatomy strays from the fitted mean
shape, landmark by landmark. How large the network's errors are in this image follows from how much further its points
lie from the fit than training points did. Both being Gaussian, the best estimate is the precision-weighted mean of
point and shape (James and Stein, 1961; Efron and Morris, JASA 1973). Points as near as training points stay as found.

Shapes: L landmarks, P physical axes. Everything in mm.
"""

from __future__ import annotations

import numpy as np

from autolmk.geometry import FloatArray
from autolmk.prediction.assignment import ShapePrior
from autolmk.shape import FEWEST_POINTS, FEWEST_SHAPES, fit_similarity

GROSS = 6.0  # standard deviations (of anatomy and error) further than which a point's own error must be larger
CHI_SQUARE_MEDIAN = {2: 1.3863, 3: 2.3660}  # of P degrees of freedom


def shrink(points: FloatArray, log_odds: FloatArray, prior: ShapePrior) -> FloatArray:
    """Points (L, P) moved toward the fit of the mean shape; NaN rows stay NaN.

    log_odds: (L,), points above 0 (or the better half where few are) take part in the fit. Unchanged where fewer than 8
    points or 10 training shapes can support it.
    """
    usable = np.isfinite(points + prior.points).all(axis=1)
    p = points.shape[1]
    threshold = min(0.0, float(np.median(log_odds[usable]))) if usable.any() else 0.0
    confident = np.flatnonzero(usable & (log_odds >= threshold))
    if len(confident) < FEWEST_POINTS or prior.n_cases < FEWEST_SHAPES:
        return points
    fit = fit_similarity(prior.points[confident], points[confident], scale_bounds=prior.scale_bounds).similarity
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
