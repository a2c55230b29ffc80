"""The error radius: how far a point may be off, in mm, such that the promise holds for new cases.

A scale for each point's error is learned on held-out cases, from what is computed alike for new ones: the width of its
peak, its distance from where the other landmarks make it likely, its log-odds, and how hard the landmark is. Split
conformal prediction then makes a radius of it that covers the promised share, whatever that scale is worth: the scale
decides how the radius is shared out among points, not whether it holds.

Shapes: N cases, L landmarks, F statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autolmk.conformal import conformal_quantile
from autolmk.errors import counted
from autolmk.geometry import FloatArray
from autolmk.shape import BoolArray

LOGARITHMIC = ("spread", "shape_residual")  # statistics that count by their logarithm; others as they are
GROUPS = 10  # of cases: the scale of each is learned on the others
LEAST_ERROR = 0.05  # of the median error: shorter ones say no more to the scale
FURTHEST = 4.0  # standard deviations that a statistic counts at most
PENALTY = 1.0  # of the statistics' coefficients, in residual variances
FEWEST_CASES = 4  # that a scale is learned on; with fewer all points have one


@dataclass(frozen=True)
class ErrorRadius:
    """level: share of points that the radius covers. quantile: of error over scale; None where the cases are too few
    for the level, see why. mean: of error over scale. landmark: name -> logarithm of its scale. centre, width: of each
    statistic on held-out cases; slope: of the logarithm of the scale, a width."""

    level: float
    n_cases: int
    why: str
    quantile: float | None
    mean: float
    landmark: dict[str, float]
    centre: dict[str, float]
    width: dict[str, float]
    slope: dict[str, float]

    def radius(self, statistics: Mapping[str, FloatArray]) -> FloatArray:
        """(L,) mm, of statistics (L,) of the landmarks in their order; NaN where the level is declined."""
        if self.quantile is None:
            return np.full(len(self.landmark), np.nan)
        return self.quantile * self.scale(statistics)

    def expected(self, statistics: Mapping[str, FloatArray]) -> FloatArray:
        """(L,) mm: the mean error of such points, to rank them by; also where the level is declined."""
        return self.mean * self.scale(statistics)

    def scale(self, statistics: Mapping[str, FloatArray]) -> FloatArray:
        """(..., L) mm. A statistic that a point lacks counts as an average one."""
        logarithm = np.array(list(self.landmark.values()), dtype=np.float64)
        for name, slope in self.slope.items():
            values = (_transformed(name, statistics[name]) - self.centre[name]) / self.width[name]
            logarithm = logarithm + slope * np.clip(np.nan_to_num(values), -FURTHEST, FURTHEST)
        return np.asarray(np.exp(logarithm))


def fit_error_radius(
    statistics: Mapping[str, FloatArray], errors: FloatArray, *, names: Sequence[str], level: float = 0.9, seed: int = 0
) -> ErrorRadius:
    """On held-out cases: statistics (N, L) each, NaN where a point lacks one; errors (N, L) mm, NaN where the landmark
    is not annotated as present.

    Scores error / scale are those of scales learned on other cases. The quantile is `conformal.conformal_quantile`: the
    case is the unit, and levels above n / (n + 1) of n cases are declined. seed: which cases are learned on together.
    """
    known = np.isfinite(errors).any(axis=1)
    errors, statistics = errors[known], {name: values[known] for name, values in statistics.items()}
    n = len(errors)
    fitted = _Scale.fit(statistics, errors)
    groups = np.random.default_rng(seed).permutation(n) % min(GROUPS, max(n, 1))
    scores = np.full(errors.shape, np.nan)
    for group in np.unique(groups):
        rest, own = groups != group, groups == group
        scale = fitted if not rest.any() else _Scale.fit({k: v[rest] for k, v in statistics.items()}, errors[rest])
        model = scale.radius(names, level, n, "", None, 1.0)
        scores[own] = errors[own] / model.scale({k: v[own] for k, v in statistics.items()})
    quantile = conformal_quantile([row[np.isfinite(row)] for row in scores], level)
    declined = not np.isfinite(quantile)
    why = f"of {counted(n, 'held-out case')}, each with a scale that was learned on others"
    if declined:
        needed = int(np.ceil(level / (1 - level) - 1e-9))
        why = f"{counted(n, 'held-out case')} cannot bound {level:.0%} of the points of a new one: {needed} are needed"
    mean = float(np.nanmean(scores)) if np.isfinite(scores).any() else 1.0
    return fitted.radius(names, level, n, why, None if declined else float(quantile), mean)


@dataclass(frozen=True, eq=False)
class _Scale:
    """Fit of log error = landmark + slopes . statistics. landmark: (L,)."""

    landmark: FloatArray
    centre: dict[str, float]
    width: dict[str, float]
    slope: dict[str, float]

    @classmethod
    def fit(cls, statistics: Mapping[str, FloatArray], errors: FloatArray) -> _Scale:
        """Ridge regression whose landmark effects are drawn to their mean as far as few cases leave them uncertain
        (empirical Bayes; Efron and Morris, JASA 1973)."""
        seen = np.isfinite(errors)
        if not seen.any():
            return cls(np.zeros(errors.shape[1]), {}, {}, {})
        y = np.log(np.maximum(errors, max(LEAST_ERROR * float(np.nanmedian(errors)), 1e-9)))
        features, centre, width = _standardised(statistics, seen)
        names = list(features) if seen.any(axis=1).sum() >= FEWEST_CASES else []
        rows, landmarks = np.nonzero(seen)
        design = np.zeros((len(rows), 1 + errors.shape[1] + len(names)))
        design[:, 0] = 1.0
        design[np.arange(len(rows)), 1 + landmarks] = 1.0
        for i, name in enumerate(names):
            design[:, 1 + errors.shape[1] + i] = features[name][seen]
        penalty = np.concatenate([[0.0], np.full(errors.shape[1], _shrinkage(y)), np.full(len(names), PENALTY)])
        solved = np.linalg.lstsq(
            design.T @ design + np.diag(penalty) + 1e-9 * np.eye(len(penalty)), design.T @ y[seen], rcond=None
        )[0]
        slopes = dict(zip(names, solved[1 + errors.shape[1] :].tolist(), strict=True))
        kept = ({name: part[name] for name in names} for part in (centre, width))
        return cls(solved[0] + solved[1 : 1 + errors.shape[1]], *kept, slopes)

    def radius(
        self, names: Sequence[str], level: float, n: int, why: str, quantile: float | None, mean: float
    ) -> ErrorRadius:
        """As data."""
        landmark = dict(zip(names, self.landmark.tolist(), strict=True))
        return ErrorRadius(level, n, why, quantile, mean, landmark, self.centre, self.width, self.slope)


def _transformed(name: str, values: FloatArray) -> FloatArray:
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.log(values) if name in LOGARITHMIC else values
    return np.where(np.isfinite(result), result, np.nan)


def _standardised(
    statistics: Mapping[str, FloatArray], seen: BoolArray
) -> tuple[dict[str, FloatArray], dict[str, float], dict[str, float]]:
    """(standardised, 0 where a point has none; centres; widths) of those statistics that vary."""
    features, centre, width = {}, {}, {}
    for name, values in statistics.items():
        x = _transformed(name, values)
        own = x[seen & np.isfinite(x)]
        if len(own) > 1 and own.std() > 1e-9:
            centre[name], width[name] = float(own.mean()), float(own.std())
            features[name] = np.clip(np.nan_to_num((x - centre[name]) / width[name]), -FURTHEST, FURTHEST)
    return features, centre, width


def _shrinkage(y: FloatArray) -> float:
    """Residual variance over the variance between landmarks, of log errors (N, L), by the method of moments."""
    count = np.isfinite(y).sum(axis=0)
    used = count > 1
    if used.sum() < 2:
        return 1.0
    columns = y[:, used]
    within = float((np.nanvar(columns, axis=0, ddof=1) * (count[used] - 1)).sum() / (count[used] - 1).sum())
    between = float(np.nanmean(columns, axis=0).var(ddof=1) - within * np.mean(1 / count[used]))
    return within / max(between, 0.01 * within, 1e-9)
