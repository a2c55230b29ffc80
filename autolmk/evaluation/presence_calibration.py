"""Calibration: from a detector's log-odds to the probability that a landmark is present.

Log-odds say what an image shows, at even odds beforehand; the prior adds how often a landmark is present at all, its
prevalence among the training cases (Bayes' rule). So likelihoods are probabilities before any calibration too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used
from scipy import special

from autolmk.geometry import FloatArray

LARGEST = 50.0  # log-odds beyond this, infinite ones too, say no more
SLOPES = (0.05, 5.0)
PRIOR_STD = 2.0  # of log slope and of intercept, around 0


@dataclass(frozen=True)
class PresenceCalibration:
    """likelihood = 1 / (1 + exp(-(slope * log_odds + intercept + prior)))."""

    slope: float = 1.0
    intercept: float = 0.0

    def likelihood(self, log_odds: npt.ArrayLike, prior: npt.ArrayLike = 0.0) -> FloatArray:
        """log_odds (...), -inf where nothing was found -> probability of presence (...), NaN where log_odds is NaN.
        prior: log-odds of presence before the image is seen."""
        x = np.clip(np.asarray(log_odds, dtype=np.float64), -LARGEST, LARGEST)
        return np.asarray(special.expit(self.slope * x + self.intercept + np.asarray(prior)), dtype=np.float64)


def fit_presence(log_odds: npt.ArrayLike, present: npt.ArrayLike, prior: npt.ArrayLike = 0.0) -> PresenceCalibration:
    """Platt scaling on held-out cases: log_odds (N,) and whether the landmark was annotated as present (N,) bool.
    prior: (N,) log-odds of presence before the image is seen, which stay as they are.

    Targets are those of Platt (1999), (N+ + 1) / (N+ + 2) and 1 / (N- + 2), and slope and intercept have a weak prior
    around 1 and 0. So separable classes give finite odds, and where one class is missing the slope stays near 1 and the
    intercept moves no further than what was seen asks for. NaN log-odds are left out. Raises ValueError where shapes
    differ.
    """
    x = np.clip(np.asarray(log_odds, dtype=np.float64), -LARGEST, LARGEST)
    y = np.asarray(present, dtype=bool)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"log_odds and present must be two vectors of one length, got {x.shape} and {y.shape}")
    known = ~np.isnan(x)
    x, y, before = x[known], y[known], np.broadcast_to(np.asarray(prior, dtype=np.float64), x.shape)[known]
    target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))

    def cost(parameters: FloatArray) -> tuple[float, FloatArray]:
        slope, intercept = np.exp(parameters[0]), parameters[1]
        z = slope * x + intercept + before
        value = (np.logaddexp(0, z) - target * z).sum() + (parameters**2).sum() / (2 * PRIOR_STD**2)
        error = special.expit(z) - target
        return value, np.array([slope * (error * x).sum(), error.sum()]) + parameters / PRIOR_STD**2

    bounds = [(np.log(SLOPES[0]), np.log(SLOPES[1])), (-LARGEST, LARGEST)]
    found = scipy.optimize.minimize(cost, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds).x
    return PresenceCalibration(float(np.exp(found[0])), float(found[1]))
