"""Error radius: a distance in mm that a point's error does not exceed, with a probability that is stated and holds.

A scale model predicts from statistics of a point, which are computed in the same way on held-out and on new cases, how
large its error is expected to be. Split conformal prediction (Papadopoulos et al., ECML 2002; Lei et al., JASA
113:1094, 2018) makes that a radius: the errors of held-out cases over their predicted scales give the factor that
covers the level. The case is the unit, because its points hang together: each of n cases weighs 1 / (n + 1), shared by
its points, and one more case counts as infinite (Lee, Barber and Willett, Distribution-free inference with hierarchical
data, 2023). So for a new case that is like the held-out ones, any of its points is covered with at least that
probability, however wrong the scale model is; a good one makes radii small where points are sure.

Shapes: N cases, L landmarks, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autolmk.errors import counted
from autolmk.evaluation.conformal import conformal_quantile
from autolmk.geometry import FloatArray

LOG_PREFIX = "log_"  # of the names of statistics that are logarithms already; the others are lengths and above 0
LARGEST = 50.0  # log-odds beyond this, infinite ones too, say no more
SMALLEST = 1e-3  # of the median error: smaller ones count as that in logarithms, so that an exact hit is no outlier
FOLDS = 10
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)  # on landmark effects, in points; the best is cross-validated
OWN_PENALTY = 1.0  # on the slopes of standardised statistics


@dataclass(frozen=True)
class Term:
    """The contribution of one statistic to the log of the error: slope * (x - centre), x being its logarithm (of a
    log-odds, itself) within low to high, the range of the held-out points; `missing` where it is NaN.
    """

    centre: float
    slope: float
    missing: float
    low: float
    high: float


@dataclass(frozen=True)
class ScaleModel:
    """log of a point's scale (mm) = intercept + the terms + the landmark's effect, shrunk toward 0 as far as the cases
    do not support it. mean_ratio: mean of error over scale, so that scale * mean_ratio is the expected error (Duan's
    smearing estimate, JASA 78:605, 1983)."""

    intercept: float
    terms: dict[str, Term]
    landmarks: dict[str, float]
    mean_ratio: float

    def scales(self, statistics: Mapping[str, FloatArray]) -> FloatArray:
        """The scales (..., L) mm from statistics (..., L), landmarks in the order of `landmarks`. Raises ValueError
        where one that the model was fitted with is not given, or has another number of landmarks.
        """
        result = self.intercept + np.array(list(self.landmarks.values()))
        for name, term in self.terms.items():
            if name not in statistics or np.shape(statistics[name])[-1:] != (len(self.landmarks),):
                raise ValueError(f"the statistic {name} of {counted(len(self.landmarks), 'landmark')} is needed")
            x = _logarithm(name, statistics[name]).clip(term.low, term.high)
            result = result + np.where(np.isnan(x), term.missing, term.slope * (x - term.centre))
        return np.asarray(np.exp(result))


@dataclass(frozen=True)
class ErrorRadius:
    """The model of error radii. level: the probability, such as 0.9. n_cases: held-out cases with an annotated point.
    scale: the scale model. unjudged: landmarks that no held-out case shows, which get no radius. quantile: radius over
    scale; None where there are too few cases for the level, and then there is no radius. why: in words.
    """

    level: float
    n_cases: int
    scale: ScaleModel
    unjudged: tuple[str, ...]
    quantile: float | None
    why: str

    def radius(self, statistics: Mapping[str, FloatArray]) -> FloatArray:
        """The error radii (..., L) mm from statistics (..., L); NaN where declined. Raises ValueError as
        `ScaleModel.scales`.
        """
        scales = self.scale.scales(statistics)
        judged = np.array([name not in self.unjudged for name in self.scale.landmarks])
        return np.where(judged, scales * (np.nan if self.quantile is None else self.quantile), np.nan)

    def expected(self, statistics: Mapping[str, FloatArray]) -> FloatArray:
        """The expected errors (..., L) mm, for ranking; also where the radius is declined."""
        return self.scale.scales(statistics) * self.scale.mean_ratio


def fit_error_radius(
    statistics: Mapping[str, FloatArray],
    errors: FloatArray,
    *,
    names: Sequence[str],
    level: float = 0.9,
    seed: int,
) -> ErrorRadius:
    """Fit error radii on held-out cases: statistics (N, L), NaN where there is none, and errors (N, L) mm, NaN where
    the landmark is not annotated as present; names: of the L landmarks.

    Statistics are lengths, such as the width of a heatmap's peak, or logarithms where their name starts with log_. The
    scores that the quantile is taken of come from scale models fitted without their case, in at most 10 folds of cases
    that the seed draws; the final one is fitted on all cases. Declined where level > n / (n + 1).

    Raises ValueError where shapes disagree, the level is not in (0, 1), or no error is known.
    """
    errors = np.asarray(errors, dtype=np.float64)
    if not 0 < level < 1:
        raise ValueError(f"the level must be in (0, 1), got {level}")
    if (
        errors.ndim != 2
        or errors.shape[1] != len(names)
        or any(np.shape(v) != errors.shape for v in statistics.values())
    ):
        raise ValueError(f"errors and statistics must be (N, {len(names)}), got {errors.shape}")
    judged = np.isfinite(errors)
    shown = np.flatnonzero(judged.any(axis=1))
    if not len(shown):
        raise ValueError("an error radius needs at least one case with a known error")
    values = {name: np.asarray(v, dtype=np.float64)[shown] for name, v in statistics.items()}
    errors, judged = errors[shown], judged[shown]
    order = np.random.default_rng(seed).permutation(len(errors))
    ratios = np.full(errors.shape, np.nan)
    for part in np.array_split(order, min(FOLDS, len(errors))):
        rest = np.setdiff1d(order, part)
        if len(rest):
            model = _fit_scale({k: v[rest] for k, v in values.items()}, errors[rest], names)
            ratios[part] = errors[part] / model.scales({k: v[part] for k, v in values.items()})
    if len(errors) == 1:
        ratios = errors / _fit_scale(values, errors, names).scales(values)  # for the expected error; never a radius
    scale = _fit_scale(values, errors, names, mean_ratio=float(np.mean(ratios[judged])))
    unjudged = tuple(names[int(i)] for i in np.flatnonzero(~judged.any(axis=0)))
    found = conformal_quantile([row[np.isfinite(row)] for row in ratios], level)
    quantile = None if np.isnan(found) else found
    return ErrorRadius(level, len(errors), scale, unjudged, quantile, _why(level, len(errors), quantile))


def _why(level: float, n: int, quantile: float | None) -> str:
    if quantile is not None:
        return f"covers at least {level:.0%} of the points of a new case, from the errors of {n} held-out cases"
    least = int(np.ceil(level / (1 - level) - 1e-9))
    return (
        f"too few cases: {counted(n, 'held-out case')} can support at most {n / (n + 1):.0%}, and a radius for "
        f"{level:.0%} needs at least {least}"
    )


# -- the scale model --------------------------------------------------------------------------------------------------


def _logarithm(name: str, values: FloatArray) -> FloatArray:
    """Of a length; of what is a logarithm already, itself, bounded. NaN where there is none."""
    x = np.asarray(values, dtype=np.float64)
    if name.startswith(LOG_PREFIX):
        return x.clip(-LARGEST, LARGEST)
    return np.log(np.where(np.isnan(x), np.nan, np.maximum(x, np.exp(-LARGEST))))


def _fit_scale(
    statistics: Mapping[str, FloatArray], errors: FloatArray, names: Sequence[str], mean_ratio: float = 1.0
) -> ScaleModel:
    """Ridge regression of log errors on the standardised statistics, on whether each is missing, and on landmarks; the
    penalty on landmark effects is that of the best prediction of unseen cases."""
    judged = np.isfinite(errors)
    floor = SMALLEST * float(np.median(errors[judged])) or SMALLEST
    y = np.where(judged, np.log(np.maximum(np.where(judged, errors, 1.0), floor)), 0.0)
    features = {
        name: _feature(np.where(judged, _logarithm(name, values), np.nan)) for name, values in statistics.items()
    }
    columns = [judged.astype(np.float64)]
    for x, _, _ in features.values():
        columns += [np.where(np.isfinite(x), x, 0.0), (judged & np.isnan(x)).astype(np.float64)]
    n_own = len(columns)
    design = np.concatenate([np.stack(columns, axis=2), judged[..., None] * np.eye(len(names))], axis=2)  # (N, L, F)
    found = _ridge(design, y, n_own)
    terms = {}
    for i, (name, (x, centre, width)) in enumerate(features.items()):
        low, high = (centre + width * v for v in (np.nanmin(x), np.nanmax(x))) if np.isfinite(x).any() else (0.0, 0.0)
        terms[name] = Term(centre, float(found[1 + 2 * i]) / width, float(found[2 + 2 * i]), float(low), float(high))
    effects = {name: float(v) for name, v in zip(names, found[n_own:], strict=True)}
    return ScaleModel(float(found[0]), terms, effects, mean_ratio)


def _feature(x: FloatArray) -> tuple[FloatArray, float, float]:
    """(standardised, centre, width); all 0 where it does not vary, NaN where it is."""
    known = x[np.isfinite(x)]
    centre, width = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
    if width < 1e-9:
        return np.where(np.isnan(x), np.nan, 0.0), centre, 1.0
    return (x - centre) / width, centre, width


def _ridge(design: FloatArray, y: FloatArray, n_own: int) -> FloatArray:
    """(F,) coefficients for design (N, L, F) and y (N, L), rows of 0 where there is no point. The first is free, the
    next up to n_own have a fixed penalty, the rest one that is chosen by cross-validation over cases."""
    n_parts = min(FOLDS, len(y))
    parts = list(zip(np.array_split(design, n_parts), np.array_split(y, n_parts), strict=True))
    grams = np.stack([np.tensordot(x, x, ((0, 1), (0, 1))) for x, _ in parts])
    moments = np.stack([np.tensordot(x, z, ((0, 1), (0, 1))) for x, z in parts])
    losses = []
    for penalty in PENALTIES:
        left_out = grams.sum(axis=0) - grams + _penalties(design.shape[2], n_own, penalty)
        found = np.linalg.solve(left_out, (moments.sum(axis=0) - moments)[..., None])[..., 0]
        losses.append(sum(float(((z - x @ f) ** 2).sum()) for f, (x, z) in zip(found, parts, strict=True)))
    shrinkage = _penalties(design.shape[2], n_own, PENALTIES[int(np.argmin(losses))])
    return np.asarray(np.linalg.solve(grams.sum(axis=0) + shrinkage, moments.sum(axis=0)))


def _penalties(size: int, n_own: int, penalty: float) -> FloatArray:
    """(F, F) diagonal; that of the intercept is there only so that the equations can be solved."""
    return np.diag([1e-6, *[OWN_PENALTY] * (n_own - 1), *[penalty] * (size - n_own)])
