"""Measurements between landmarks: distances, angles and ratios that dataset.json declares, and how sure they are.

The radius of a value is a half-width: the true value is claimed to lie within value ± radius with the probability that
the points' error radii are claimed at. Shapes: M measurements, L landmarks, P physical axes, N cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy  # loads its parts when they are used: scipy.stats takes 0.7 s

from autolmk.annotations.csv import read_rows, write_rows
from autolmk.dataset.description import Measurement
from autolmk.errors import AutolmkError
from autolmk.evaluation.conformal import conformal_quantile
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks

TABLE = "measurements.csv"
COLUMNS = ("case", "measurement", "value", "error_radius", "unit")
LEVEL = 0.9


@dataclass(frozen=True)
class MeasurementCalibration:
    """The calibration of measurements' error radii. level: that error radii are claimed at. n_cases: held-out cases
    that `factors` come from. factors: measurement -> what its propagated radius is multiplied with; 1 where nothing is
    known, None where the cases are too few for the level, so that no radius is given.
    """

    level: float = LEVEL
    n_cases: int = 0
    factors: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasuredValue:
    """One measurement of one case. value: mm or px, degrees, or a ratio; None where a landmark is missing.
    error_radius: half-width in the value's unit; None where it is not known."""

    value: float | None
    error_radius: float | None


def unit_of(measurement: Measurement, unit: str) -> str:
    """The unit of a measurement's value: `unit` of the points, degrees, or nothing for a ratio."""
    return "degrees" if measurement.angle else "" if measurement.ratio else unit


def measure(points: FloatArray, names: Sequence[str], measurements: Mapping[str, Measurement]) -> FloatArray:
    """Compute the measurements' values (M,) from points (L, P) mm or px: distances in their unit, angles in degrees (0
    to 180), ratios.

    NaN where a landmark is missing (NaN, or not in `names`), two ends of an angle's arm coincide, or a ratio's
    denominator is 0.
    """
    return np.array([_value_and_jacobian(m, points, names, measurements)[0] for m in measurements.values()])


def propagated(
    points: FloatArray,
    error_radius: FloatArray,
    names: Sequence[str],
    measurements: Mapping[str, Measurement],
    *,
    level: float = LEVEL,
) -> FloatArray:
    """Propagate error radii to measurements: half-widths (M,) at `level` of the values that `measure` gives, from
    error_radius (L,) at `level` of points (L, P).

    What is promised: if the errors of the points are independent, each Gaussian with the same standard deviation s
    along all P axes, and small against the distances between the points, the true value lies within value ±
    half-width with probability `level`. A radius r that holds a point with that probability means
    s = r / (quantile of the chi distribution with P degrees of freedom); the variance of the value is the sum over
    points of |gradient|^2 s^2 (first order, analytic gradients; GUM, JCGM 100:2008, 5.1.2); the half-width is the
    quantile (1 + level) / 2 of the standard normal times its root. It is not exact where radii are large against
    distances, nor for angles near 0 and 180 degrees, where the value cannot move both ways; `fit_factors` corrects it
    on held-out cases.

    NaN where the value is, or where a radius that it depends on is not known.
    """
    sigma = np.asarray(error_radius, dtype=np.float64) / scipy.stats.chi.ppf(level, points.shape[1])
    z = scipy.stats.norm.ppf((1 + level) / 2)
    widths = []
    for measurement in measurements.values():
        value, jacobian = _value_and_jacobian(measurement, points, names, measurements)
        moves = (jacobian != 0).any(axis=1)
        variance = ((jacobian**2).sum(axis=1)[moves] * sigma[moves] ** 2).sum()
        widths.append(z * math.sqrt(variance) if math.isfinite(value) and math.isfinite(variance) else math.nan)
    return np.array(widths)


def fit_factors(
    truth: FloatArray, values: FloatArray, widths: FloatArray, names: Sequence[str], *, level: float = LEVEL
) -> MeasurementCalibration:
    """Fit, on held-out cases, how much the propagated half-widths of each measurement must grow or shrink.

    truth, values, widths: (N, M), NaN where unknown; widths as they are given to new cases, that is, from radii that
    the case had no part in. Split conformal: the factor is the conformal quantile over cases of |value - truth| /
    width, so that value ± factor x width holds the truth of a new case with at least probability `level`, whatever the
    errors' distribution. None where there are fewer than level / (1 - level) cases.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = np.abs(values - truth) / widths
    known = np.isfinite(truth) & np.isfinite(values) & np.isfinite(widths) & ~np.isnan(scores)
    factors: dict[str, float | None] = {}
    for j, name in enumerate(names):
        factor = conformal_quantile([scores[i, j : j + 1] for i in np.flatnonzero(known[:, j])], level)
        factors[name] = factor if math.isfinite(factor) else None
    return MeasurementCalibration(level, int(known.any(axis=1).sum()), factors)


def measured(
    landmarks: Landmarks,
    measurements: Mapping[str, Measurement],
    calibration: MeasurementCalibration | None = None,
) -> dict[str, MeasuredValue]:
    """Compute the measurements of one case with error radii, by name, from its present landmarks and their
    error radii.
    """
    calibration = calibration or MeasurementCalibration()
    values = measure(landmarks.points, landmarks.names, measurements)
    radius = landmarks.error_radius
    widths = propagated(landmarks.points, radius, landmarks.names, measurements, level=calibration.level)
    result = {}
    for name, value, width in zip(measurements, values, widths, strict=True):
        factor = calibration.factors.get(name, 1.0)
        known = math.isfinite(width) and factor is not None
        result[name] = MeasuredValue(
            float(value) if math.isfinite(value) else None, float(width) * (factor or 0.0) if known else None
        )
    return result


def write_measurements(
    folder: Path,
    cases: Mapping[str, Landmarks],
    measurements: Mapping[str, Measurement],
    *,
    unit: str,
    calibration: MeasurementCalibration | None = None,
) -> Path:
    """measurements.csv in a folder of predictions, a row a case and measurement, atomically; its path.

    cases: case -> predicted landmarks with their error radii. unit: of the points, mm or px.
    """
    rows = []
    for case, landmarks in cases.items():
        for name, found in measured(landmarks, measurements, calibration).items():
            numbers = ["" if v is None else repr(v) for v in (found.value, found.error_radius)]
            rows.append([case, name, *numbers, unit_of(measurements[name], unit)])
    write_rows(folder / TABLE, COLUMNS, rows)
    return folder / TABLE


def read_measurements(file: Path) -> dict[str, dict[str, MeasuredValue]]:
    """Read what `write_measurements` wrote: case -> measurement -> value and error radius. AutolmkError where the table
    is missing or damaged.
    """
    result: dict[str, dict[str, MeasuredValue]] = {}
    for row in read_rows(file, COLUMNS, remedy="predict again"):
        try:
            value, radius = (float(row[key]) if row[key] else None for key in ("value", "error_radius"))
        except ValueError:
            raise AutolmkError(
                "a table of measurements is damaged",
                file=file,
                case=row["case"],
                found=", ".join(row.values())[:500],
                expected="numbers, or nothing, as value and error_radius",
                remedy="predict again",
            ) from None
        result.setdefault(row["case"], {})[row["measurement"]] = MeasuredValue(value, radius)
    return result


def _value_and_jacobian(
    measurement: Measurement, points: FloatArray, names: Sequence[str], all_of_them: Mapping[str, Measurement]
) -> tuple[float, FloatArray]:
    """The value and its derivative (L, P) by the points, 0 of what it does not depend on; NaN where it has none."""
    jacobian = np.zeros_like(points, dtype=np.float64)
    if measurement.ratio is not None:
        (above, d_above), (below, d_below) = (
            _value_and_jacobian(all_of_them[name], points, names, all_of_them) for name in measurement.ratio
        )
        if not below > 0:
            return math.nan, jacobian
        return above / below, (d_above - above / below * d_below) / below
    where = [names.index(name) if name in names else -1 for name in measurement.landmarks]
    if min(where) < 0 or not np.isfinite(points[where]).all():
        return math.nan, jacobian
    value, gradients = _distance(*points[where]) if measurement.distance else _angle(*points[where])
    jacobian[where] = gradients
    return value, jacobian


def _distance(a: FloatArray, b: FloatArray) -> tuple[float, FloatArray]:
    """Length and gradients (2, P); at length 0, where there is none, those along the first axis: |gradient| is 1."""
    difference = a - b
    length = float(np.linalg.norm(difference))
    direction = difference / length if length > 0 else np.eye(len(a))[0]
    return length, np.stack([direction, -direction])


def _angle(a: FloatArray, vertex: FloatArray, b: FloatArray) -> tuple[float, FloatArray]:
    """Degrees at the vertex and gradients (3, P); in line, where there is none, the limit in one plane."""
    lengths = float(np.linalg.norm(a - vertex)), float(np.linalg.norm(b - vertex))
    if not min(lengths) > 0:
        return math.nan, np.zeros((3, len(a)))
    u, v = (a - vertex) / lengths[0], (b - vertex) / lengths[1]
    cosine = float(np.clip(u @ v, -1, 1))
    across = v - cosine * u
    sine = float(np.linalg.norm(across))
    if sine < 1e-12:
        across = np.eye(len(u))[int(np.argmin(np.abs(u)))]
        across = across - (across @ u) * u
    p = across / np.linalg.norm(across)  # the angle shrinks as a moves along p, and as b moves along q
    q = sine * u - cosine * p
    by_a, by_b = -p / lengths[0], -q / lengths[1]
    return math.degrees(math.atan2(sine, cosine)), np.degrees(np.stack([by_a, -by_a - by_b, by_b]))
