"""Agreement of predicted with annotated measurements: bias and limits of agreement (Bland and Altman, Lancet 1986).

A case gives one value a measurement, so cases are the sample. Intervals, of 95 %, are those of normal differences: of
the bias by Student's t, of the limits by Bland and Altman (Statistical Methods in Medical Research 1999, 8:135),
variance s^2 (1 / n + 1.96^2 / (2 (n - 1))); of the coverage exact binomial (`bootstrap.shares`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy  # loads its parts when they are used: scipy.stats takes 0.7 s

from autolmk.annotations import Annotation
from autolmk.dataset.description import Measurement
from autolmk.evaluation.bootstrap import LEVEL, MIN_CASES, Estimate, shares
from autolmk.evaluation.measurements import TABLE, MeasuredValue, measure, measured, read_measurements, unit_of
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks, Status

WITHIN = 1.96  # standard deviations to either side of the bias hold 95 % of normal differences


@dataclass(frozen=True)
class Agreement:
    """The agreement of one measurement, predicted minus annotated, in `unit` ("" for a ratio).

    n: cases with both values. missing: annotated cases of which the prediction gives no value. bias, sd: mean and
    standard deviation of the differences. lower, upper: limits of agreement, bias ∓ 1.96 sd. mean_absolute: of the
    differences. coverage: share of the n_radius cases with an error radius whose true value lies within it.
    median_radius: of theirs.
    """

    unit: str
    n: int
    missing: int
    bias: Estimate
    sd: float | None
    lower: Estimate
    upper: Estimate
    mean_absolute: float | None
    n_radius: int
    coverage: Estimate
    median_radius: float | None


@dataclass(frozen=True)
class Pair:
    """One measurement of one case, in `unit`. error: predicted minus truth; None where one of them is."""

    case: str
    measurement: str
    truth: float | None
    predicted: float | None
    error: float | None
    error_radius: float | None
    unit: str


def compare(
    truth: Mapping[str, Landmarks],
    predicted: Mapping[str, Mapping[str, MeasuredValue]],
    measurements: Mapping[str, Measurement],
    *,
    unit: str,
) -> tuple[Pair, ...]:
    """A pair a case of `truth` and measurement. predicted: case -> measurement -> what was predicted; what it lacks is
    missing. unit: of the points, mm or px."""
    pairs = []
    for case, marks in truth.items():
        values = measure(marks.points, marks.names, measurements)
        for name, value in zip(measurements, values, strict=True):
            found = predicted.get(case, {}).get(name, MeasuredValue(None, None))
            true = float(value) if math.isfinite(value) else None
            error = None if true is None or found.value is None else found.value - true
            kind = unit_of(measurements[name], unit)
            pairs.append(Pair(case, name, true, found.value, error, found.error_radius, kind))
    return tuple(pairs)


def pairs_of(
    truth: Mapping[str, Landmarks],
    predictions: Mapping[str, Annotation],
    folder: Path,
    measurements: Mapping[str, Measurement],
    *,
    unit: str,
) -> tuple[Pair, ...]:
    """`compare` of a folder of predictions: values of the points that are called present; error radii as
    measurements.csv in the folder says, else as they follow from those of the points. AutolmkError where that table is
    damaged."""
    predicted: dict[str, dict[str, MeasuredValue]] = {}
    for case, marks in truth.items():
        if case in predictions:
            predicted[case] = measured(called_present(predictions[case], marks.points.shape[1]), measurements)
    written = read_measurements(folder / TABLE) if (folder / TABLE).is_file() else {}
    for case in written.keys() & predicted.keys():
        predicted[case] |= {name: value for name, value in written[case].items() if name in measurements}
    return compare(truth, predicted, measurements, unit=unit)


def called_present(found: Annotation, p: int) -> Landmarks:
    """The points of a prediction that it calls present and gives a place; p: physical axes."""
    points = found.points[:, :p]
    there = found.present & np.isfinite(points).all(axis=1)
    status = np.where(there, Status.PRESENT, Status.ABSENT).astype(np.int8)
    return Landmarks(found.names, points, status, found.likelihood, found.error_radius)


def agreements(pairs: tuple[Pair, ...]) -> dict[str, Agreement]:
    """The agreement of predicted and annotated values, by measurement, in the order in which they first occur."""
    return {name: _agreement([p for p in pairs if p.measurement == name]) for name in dict.fromkeys(_names(pairs))}


def _names(pairs: tuple[Pair, ...]) -> list[str]:
    return [pair.measurement for pair in pairs]


def _agreement(pairs: list[Pair]) -> Agreement:
    both = [p for p in pairs if p.error is not None]
    errors = np.array([p.error for p in both], dtype=np.float64)
    held = [(abs(p.error), p.error_radius) for p in both if p.error is not None and p.error_radius is not None]
    hits = np.array([[float(error <= radius)] for error, radius in held]).reshape(-1, 1)
    n = len(errors)
    sd = float(errors.std(ddof=1)) if n > 1 else None
    bias, lower, upper = _limits(errors, sd)
    return Agreement(
        unit=pairs[0].unit,
        n=n,
        missing=sum(p.truth is not None and p.predicted is None for p in pairs),
        bias=bias,
        sd=sd,
        lower=lower,
        upper=upper,
        mean_absolute=float(np.abs(errors).mean()) if n else None,
        n_radius=len(held),
        coverage=shares(hits, np.ones_like(hits))[0] if held else Estimate(None),
        median_radius=float(np.median([radius for _, radius in held])) if held else None,
    )


def _limits(errors: FloatArray, sd: float | None) -> tuple[Estimate, Estimate, Estimate]:
    """Bias, lower and upper limit of agreement, with intervals from `MIN_CASES` cases on."""
    n = len(errors)
    if not n:
        return Estimate(None), Estimate(None), Estimate(None)
    bias = float(errors.mean())
    if sd is None:
        return Estimate(bias), Estimate(None), Estimate(None)
    t = float(scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1))
    of_bias, of_limit = t * sd / math.sqrt(n), t * sd * math.sqrt(1 / n + WITHIN**2 / (2 * (n - 1)))

    def estimate(value: float, half: float) -> Estimate:
        return Estimate(value, value - half, value + half) if n >= MIN_CASES else Estimate(value)

    return (
        estimate(bias, of_bias),
        estimate(bias - WITHIN * sd, of_limit),
        estimate(bias + WITHIN * sd, of_limit),
    )
