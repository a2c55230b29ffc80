"""The size of a model's errors, point by point, as held-out cases and the widths of peaks tell it.

The logarithm of a point's squared error is that of its variance plus the scatter of chi-square. Each landmark has a
variance of its own, from the median over held-out cases, drawn toward that of all landmarks as far as few cases leave
it uncertain (empirical Bayes; Efron and Morris, JASA 1973). The variance goes with a power of the peak's width, by
ridge regression within landmarks. Gross errors hardly count in either.

Shapes: N held-out cases, L landmarks, P physical axes. Everything in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy  # loads its parts when they are used: scipy.stats takes 0.7 s
from scipy import special

from autolmk.geometry import FloatArray

FLOOR = 1e-4  # of the median squared error, below which an error is not smaller: two exact points are no certainty
OUTLYING = (-4.0, 2.5)  # of a logarithm of squared errors: what lies beyond counts as these in the power of widths
TAILS = (1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0)  # degrees of freedom that are tried
CLEARLY = 3.0  # natural logarithm of the likelihood ratio that heavy tails need
GROSS = 6.0  # medians of all errors, beyond which one is gross
DOUBTS = (3.0, 0.5)  # standard deviations of the two numbers of `doubts` before any case is seen
STEEPNESS = 10.0  # standard deviation of the power before any case is seen. A peak is as wide as its heatmap at least,
STEEPEST = 30.0  # and hardly wider by the error: a little wider a peak means a much larger error


@dataclass(frozen=True)
class PointErrors:
    """The size of a model's errors. noise: landmark -> mm an axis, of its errors where its peak has the usual width.
    usual: the same of landmarks that no held-out case shows. width: landmark -> mm, the median width of its peaks.
    steepness: the power of a width over the usual one with which variances go. widths: the smallest and the largest
    such ratio on held-out cases; none beyond is believed. certain: 0 to 1, factor on variances that two thirds of these
    images and more lie above, of what widths do not tell. tails: degrees of freedom of the Student t that errors
    follow, 0 for a Gaussian. astray: mm an axis, the errors of points that are at another structure altogether; 0: not
    looked at, as in models trained before. doubts: (a, b), the logarithm of the odds of which is a - b times a peak's
    own log-odds. cases: that all this was measured on. drawn: whether points are drawn toward the mean shape, because
    that lowers the errors of held-out cases; why. fully: whether they are drawn as if all their misfit were error,
    which may cost unusual anatomy its place: only of a stage whose points merely say where a later one looks.
    ValueError where a number is out of its range.
    """

    noise: dict[str, float] = field(default_factory=dict)
    usual: float = 0.0
    width: dict[str, float] = field(default_factory=dict)
    steepness: float = 0.0
    widths: tuple[float, float] = (1.0, 1.0)
    certain: float = 1.0
    tails: float = 0.0
    astray: float = 0.0
    doubts: tuple[float, float] = (0.0, 1.0)
    cases: int = 0
    drawn: bool = False
    fully: bool = False
    why: str = ""

    def __post_init__(self) -> None:
        if (
            min(
                self.usual,
                self.steepness,
                self.tails,
                self.astray,
                self.cases,
                *self.noise.values(),
                *self.width.values(),
            )
            < 0
        ):
            raise ValueError("errors, widths and numbers of cases must be 0 or more")
        if not 0 < self.widths[0] <= self.widths[1] or not 0 < self.certain <= 1:
            raise ValueError(f"widths must be two factors above 0, certain up to 1: {self.widths}, {self.certain}")

    def variance(self, names: Sequence[str], spread: FloatArray) -> FloatArray:
        """The variance (L,) of these points' errors, mm^2 an axis, on the safe side; spread: (L,) mm, widths of their
        peaks, NaN where a codec tells none.
        """
        noise = np.array([self.noise.get(name, self.usual) for name in names])
        usual = np.array([self.width.get(name, np.nan) for name in names])
        ratio = np.where((usual > 0) & (spread > 0), spread / np.where(usual > 0, usual, 1.0), 1.0)
        return np.asarray(self.certain * noise**2 * ratio.clip(*self.widths) ** self.steepness)

    @classmethod
    def pooled(cls, folds: Sequence[PointErrors]) -> PointErrors:
        """Pool the errors of several folds, for the mean of what they find: means of variances and of the logarithms of
        widths; drawn where the folds that found it better held out more than half of all cases, fully where more than
        half of those cases are of folds that do so. ValueError without folds.
        """
        if not folds:
            raise ValueError("the errors of no fold cannot be pooled")
        if len(folds) == 1:
            return folds[0]
        names = sorted({name for fold in folds for name in fold.noise})
        noise = {n: float(np.sqrt(np.mean([f.noise[n] ** 2 for f in folds if n in f.noise]))) for n in names}
        width = {
            n: float(np.exp(np.mean([np.log(f.width[n]) for f in folds if f.width.get(n, 0.0) > 0])))
            for n in names
            if any(f.width.get(n, 0.0) > 0 for f in folds)
        }
        cases, drawing = sum(f.cases for f in folds), sum(f.cases for f in folds if f.drawn)
        return cls(
            noise=noise,
            usual=float(np.sqrt(np.mean([f.usual**2 for f in folds]))),
            width=width,
            steepness=float(np.mean([f.steepness for f in folds])),
            widths=(min(f.widths[0] for f in folds), max(f.widths[1] for f in folds)),
            certain=float(np.exp(np.mean([np.log(f.certain) for f in folds]))),
            tails=_mean_tails(folds),
            astray=float(np.mean([f.astray for f in folds if f.astray > 0] or [0.0])),
            doubts=_mean_doubts(folds),
            cases=cases,
            drawn=2 * drawing > cases,
            fully=2 * sum(f.cases for f in folds if f.drawn and f.fully) > drawing,
            why=f"folds with {drawing} of {cases} held-out cases found it better",
        )


def fit_point_errors(
    found: FloatArray,
    truth: FloatArray,
    spread: FloatArray,
    names: Sequence[str],
    log_odds: FloatArray | None = None,
) -> PointErrors:
    """Fit errors to the best points found (N, L, P) mm in held-out cases, NaN where there is none, and their truth (N,
    L, P), NaN where not present; spread: (N, L) mm, widths of the peaks, NaN where not known; log_odds: (N, L) of the
    points; without them none is thought to be at another structure. Says nothing of drawing.
    """
    p = truth.shape[2]
    square = ((found - truth) ** 2).mean(axis=2)
    square[:, np.isnan(square).all(axis=0)] = np.nan
    if not np.isfinite(square).any():
        return PointErrors(cases=len(found))
    log_square = np.log(np.maximum(square, max(FLOOR * float(np.nanmedian(square)), 1e-12)))
    middle = float(np.log(scipy.stats.chi2.median(p) / p))
    known = np.isfinite(log_square).any(axis=0)
    level, overall = _levels(log_square[:, known], p, middle)
    width = _column_medians(np.where(np.isfinite(square), spread, np.nan)[:, known])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(np.log(spread[:, known] / width), nan=0.0, posinf=0.0, neginf=0.0)
    usual = special.digamma(p / 2) + np.log(2 / p)  # mean of the logarithm of chi-square over its degrees of freedom
    left = (log_square[:, known] - level - usual).clip(*OUTLYING)
    seen = np.isfinite(left)
    scatter = max(float(np.var(left[seen])), 1e-6)
    slope = float((ratio * left)[seen].sum()) / (float((ratio**2)[seen].sum()) + scatter / STEEPNESS**2)
    slope = float(np.clip(slope, 0.0, STEEPEST))
    rows = [name for name, one in zip(names, known, strict=True) if one]
    return PointErrors(
        noise={name: float(np.exp(value / 2)) for name, value in zip(rows, level, strict=True)},
        usual=float(np.exp(overall / 2)),
        width={name: float(value) for name, value in zip(rows, width, strict=True) if np.isfinite(value)},
        steepness=slope,
        widths=(float(np.exp(ratio[seen].min())), float(np.exp(ratio[seen].max()))),
        certain=_certain(left - slope * ratio, scatter),
        tails=_tails(log_square[:, known] - level - slope * ratio, p, middle),
        astray=0.0 if log_odds is None else _extent(truth),
        doubts=(0.0, 1.0) if log_odds is None else _doubts(np.sqrt(square), log_odds),
        cases=len(found),
    )


def _extent(truth: FloatArray) -> float:
    """mm an axis: how far a case's landmarks (N, L, P) lie around their centre, as points at another structure do
    around their own; 0 where no case shows two.
    """
    shown = [case[np.isfinite(case).all(axis=1)] for case in truth]
    around = [((case - case.mean(axis=0)) ** 2).mean() for case in shown if len(case) > 1]
    return float(np.sqrt(np.mean(around))) if around else 0.0


def _doubts(error: FloatArray, log_odds: FloatArray) -> tuple[float, float]:
    """(a, b) of the odds exp(a - b * log-odds) that a point is grossly wrong: logistic regression on errors (N, L) and
    log-odds (N, L), with Gaussian priors around what log-odds mean by themselves, (0, 1). A steeper one than 0 alone.
    """
    known = np.isfinite(error) & np.isfinite(log_odds)
    sign = np.where(error[known] > GROSS * float(np.median(error[known])), -1.0, 1.0) if known.any() else np.zeros(0)
    odds = log_odds[known]

    def cost(ab: FloatArray) -> float:
        likely = float(np.logaddexp(0.0, sign * (ab[0] - ab[1] * odds)).sum())
        return likely + float((ab[0] / DOUBTS[0]) ** 2 + ((ab[1] - 1) / DOUBTS[1]) ** 2) / 2

    a, b = scipy.optimize.minimize(cost, (0.0, 1.0), bounds=((None, None), (0.0, None))).x
    return float(a), float(b)


def _levels(log_square: FloatArray, p: int, middle: float) -> tuple[FloatArray, float]:
    """(logarithm of each landmark's variance (L,), that of all together) from logarithms of squared errors (N, L);
    middle: the median of such a logarithm where the variance is 1."""
    overall = float(np.nanmedian(log_square)) - middle
    own = _column_medians(log_square) - middle
    count = np.isfinite(log_square).sum(axis=0)
    uncertain = np.pi / 2 * float(special.polygamma(1, p / 2)) / count  # variance of a median
    between = max(float(np.mean((own - overall) ** 2 - uncertain)), 0.0)
    return np.asarray(overall + between / (between + uncertain) * (own - overall)), overall


def _certain(left: FloatArray, scatter: float) -> float:
    """One standard deviation below the middle, as a factor: of how images differ in the logarithm of their variance.
    left: (N, L) what landmark and width do not explain; scatter: its variance from point to point."""
    count = np.isfinite(left).sum(axis=1)
    rows = np.flatnonzero(count)
    if len(rows) < 2:
        return 1.0
    means = np.array([float(np.nanmean(left[i])) for i in rows])
    between = float(np.var(means, ddof=1) - np.mean(scatter / count[rows]))
    return float(np.exp(-np.sqrt(max(between, 0.0))))


def _tails(log_square: FloatArray, p: int, middle: float) -> float:
    """Degrees of freedom of errors on p axes, from logarithms of their mean squares (N, L) of which each image's median
    is taken out, as that of chi-square over p is `middle`: those of the highest likelihood; 0 where a Gaussian is no
    less likely by `CLEARLY`. So images that differ do not count as points that do."""
    rows = [row[np.isfinite(row)] for row in log_square]
    square = np.exp(np.concatenate([row - np.median(row) + middle for row in rows if len(row)]))
    likelihood = {0.0: float(scipy.stats.chi2(p).logpdf(p * square).sum() + len(square) * np.log(p))}
    for tails in TAILS:
        scale = t_scale(tails, p)
        likelihood[tails] = float(scipy.stats.f(p, tails).logpdf(square / scale).sum() - len(square) * np.log(scale))
    best = max(likelihood, key=likelihood.__getitem__)
    return best if likelihood[best] > likelihood[0.0] + CLEARLY else 0.0


def t_scale(tails: float, p: int) -> float:
    """Factor on a variance that leaves the median of squares what a Gaussian's is, where errors on p axes follow a
    Student t of so many degrees of freedom."""
    return float(scipy.stats.chi2.median(p) / p / scipy.stats.f.median(p, tails))


def _mean_tails(folds: Sequence[PointErrors]) -> float:
    """Of several folds, weighted by cases: the mean of the inverse, which is 0 for a Gaussian."""
    inverse = sum(f.cases / f.tails for f in folds if f.tails > 0) / max(sum(f.cases for f in folds), 1)
    return 1 / inverse if inverse > 0 else 0.0


def _mean_doubts(folds: Sequence[PointErrors]) -> tuple[float, float]:
    """Of the folds that know how far off points astray are."""
    known = [fold.doubts for fold in folds if fold.astray > 0] or [PointErrors().doubts]
    return float(np.mean([a for a, _ in known])), float(np.mean([b for _, b in known]))


def _column_medians(values: FloatArray) -> FloatArray:
    """(L,) medians of the finite values of (N, L), NaN where there is none."""
    columns = (column[np.isfinite(column)] for column in values.T)
    return np.array([float(np.median(column)) if len(column) else np.nan for column in columns])
