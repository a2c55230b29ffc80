"""Measurements: values, their propagated error against Monte Carlo, calibration, tables, and agreement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from autolmk.dataset.description import Measurement
from autolmk.errors import AutolmkError
from autolmk.evaluation.agreement import agreements, compare
from autolmk.evaluation.measurements import (
    MeasuredValue,
    MeasurementCalibration,
    fit_factors,
    measure,
    measured,
    propagated,
    read_measurements,
    unit_of,
    write_measurements,
)
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks, Status

NAMES = ("a", "b", "c", "d")
MEASUREMENTS = {
    "width": Measurement(distance=("a", "b")),
    "depth": Measurement(distance=("b", "c")),
    "tilt": Measurement(angle=("a", "b", "c")),
    "shape": Measurement(ratio=("width", "depth")),
}
POINTS = np.array([[30.0, 0, 0], [0, 0, 0], [10, 20, 5], [1, 2, 3]])


def present(points: FloatArray, radius: float = np.nan) -> Landmarks:
    status = np.where(np.isfinite(points).all(axis=1), Status.PRESENT, Status.ABSENT).astype(np.int8)
    return Landmarks(NAMES, points, status, error_radius=np.full(len(points), radius))


def test_values() -> None:
    values = measure(POINTS, NAMES, MEASUREMENTS)
    depth = np.sqrt(525)
    assert values == pytest.approx([30, depth, np.degrees(np.arccos(10 / depth)), 30 / depth])
    assert measure(POINTS[:, :2], NAMES, MEASUREMENTS)[2] == pytest.approx(np.degrees(np.arctan2(20, 10)))
    assert [unit_of(m, "px") for m in MEASUREMENTS.values()] == ["px", "px", "degrees", ""]


def test_what_is_missing_or_degenerate_has_no_value() -> None:
    lacking = POINTS.copy()
    lacking[0] = np.nan
    np.testing.assert_array_equal(np.isnan(measure(lacking, NAMES, MEASUREMENTS)), [True, False, True, True])
    np.testing.assert_array_equal(np.isnan(measure(POINTS, ("a", "x", "c", "d"), MEASUREMENTS)), True)
    together = POINTS.copy()
    together[2] = together[1]
    np.testing.assert_array_equal(np.isnan(measure(together, NAMES, MEASUREMENTS)), [False, False, True, True])
    radius = np.array([1.0, 1.0, np.nan, 1.0])
    np.testing.assert_array_equal(np.isnan(propagated(POINTS, radius, NAMES, MEASUREMENTS)), [False, True, True, True])


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_propagation_agrees_with_monte_carlo(p: int, level: float) -> None:
    """Of 100,000 draws of the points' errors, the share within the half-width is the level."""
    rng = np.random.default_rng(1)
    points, radius = POINTS[:, :p], np.array([0.5, 1.0, 1.5, 99.0])
    sigma = radius / stats.chi.ppf(level, p)
    half = propagated(points, radius, NAMES, MEASUREMENTS, level=level)
    value = measure(points, NAMES, MEASUREMENTS)
    moved = points + rng.normal(size=(100_000, 4, p)) * sigma[:, None]
    assert np.mean(np.linalg.norm(moved[:, 1] - points[1], axis=1) <= radius[1]) == pytest.approx(level, abs=0.006)
    a, b, c = moved[:, 0], moved[:, 1], moved[:, 2]
    width, depth = np.linalg.norm(a - b, axis=1), np.linalg.norm(c - b, axis=1)
    cosine = ((a - b) * (c - b)).sum(axis=1) / width / depth
    draws = np.stack([width, depth, np.degrees(np.arccos(cosine)), width / depth], axis=1)
    within = np.mean(np.abs(draws - value) <= half, axis=0)
    np.testing.assert_allclose(within, level, atol=0.01)


def test_gradients_in_line_are_limits() -> None:
    straight = np.array([[10.0, 0, 0], [0, 0, 0], [-10, 0, 0], [0, 0, 0]])
    bent = straight + [[0, 1e-7, 0]] + 0
    bent[2] += [0, 1e-6, 0]
    tilt = {"tilt": MEASUREMENTS["tilt"]}
    radius = np.ones(4)
    assert measure(straight, NAMES, tilt)[0] == pytest.approx(180)
    assert propagated(straight, radius, NAMES, tilt) == pytest.approx(propagated(bent, radius, NAMES, tilt), rel=1e-4)


def test_factors_make_the_radius_hold() -> None:
    """Errors three times as large as claimed: a factor of about 3, and coverage as claimed; of few cases none."""
    rng = np.random.default_rng(2)
    names = list(MEASUREMENTS)
    covered = []
    for _ in range(200):
        truth = rng.normal(100, 5, size=(60, 4))
        width = rng.uniform(0.5, 2, size=(60, 4))
        values = truth + rng.normal(size=(60, 4)) * 3 * width / 1.645
        fitted = fit_factors(truth[:40], values[:40], width[:40], names, level=0.9)
        factors = np.array([fitted.factors[name] for name in names], dtype=float)
        covered.append(np.mean(np.abs(values - truth)[40:] <= factors * width[40:]))
        assert factors.min() > 1.9 and factors.max() < 6
    assert 0.885 < np.mean(covered) < 0.93
    few = fit_factors(truth[:8], values[:8], width[:8], names, level=0.9)
    assert few.n_cases == 8 and set(few.factors.values()) == {None}


def test_calibration_is_applied() -> None:
    plain = measured(present(POINTS, 1.0), MEASUREMENTS)
    calibration = MeasurementCalibration(0.9, 20, {"width": 2.0, "depth": None})
    found = measured(present(POINTS, 1.0), MEASUREMENTS, calibration)
    assert plain["width"].error_radius and found["width"].error_radius == pytest.approx(2 * plain["width"].error_radius)
    assert found["depth"] == MeasuredValue(pytest.approx(np.sqrt(525)), None)
    assert found["tilt"] == plain["tilt"]


def test_table_round_trip_and_damage(tmp_path: Path) -> None:
    lacking = POINTS.copy()
    lacking[0] = np.nan
    cases = {"one": present(POINTS, 1.0), "two, with comma": present(lacking)}
    file = write_measurements(tmp_path, cases, MEASUREMENTS, unit="mm")
    assert read_measurements(file) == {case: measured(marks, MEASUREMENTS) for case, marks in cases.items()}
    assert "two, with comma" in file.read_text() and ",degrees\n" in file.read_text()
    file.write_text(file.read_text().replace("30.0", "wide"))
    with pytest.raises(AutolmkError, match=r"case: one[\s\S]*wide"):
        read_measurements(file)
    file.write_text("case,value\n")
    with pytest.raises(AutolmkError, match="damaged"):
        read_measurements(file)


def test_agreement_of_a_known_bias() -> None:
    rng = np.random.default_rng(3)
    truth, predicted = {}, {}
    for i in range(200):
        points = POINTS + rng.normal(size=(4, 3))
        truth[f"c{i}"] = present(points)
        width = measure(points, NAMES, MEASUREMENTS)[0]
        predicted[f"c{i}"] = {"width": MeasuredValue(width + 0.5 + 0.2 * rng.normal(), 0.5)}
    predicted["c0"] = {"width": MeasuredValue(None, None)}
    pairs = compare(truth, predicted, {"width": MEASUREMENTS["width"]}, unit="mm")
    found = agreements(pairs)["width"]
    assert (found.n, found.missing, found.unit, found.n_radius) == (199, 1, "mm", 199)
    assert found.bias.value == pytest.approx(0.5, abs=0.05) and found.sd == pytest.approx(0.2, abs=0.03)
    assert found.lower.value == pytest.approx(0.5 - 1.96 * 0.2, abs=0.07)
    assert found.bias.low is not None and found.bias.low < 0.5 < (found.bias.high or 0)
    assert found.coverage.value == pytest.approx(0.5, abs=0.1) and found.median_radius == 0.5


def test_intervals_of_the_limits_cover() -> None:
    """Over 500 studies of 20 cases each, as often as claimed."""
    rng = np.random.default_rng(4)
    truth = {f"c{i}": present(POINTS) for i in range(20)}
    width = {"width": MEASUREMENTS["width"]}
    hits = np.zeros(3)
    for _ in range(500):
        predicted = {case: {"width": MeasuredValue(30 + 1 + rng.normal(), None)} for case in truth}
        found = agreements(compare(truth, predicted, width, unit="mm"))["width"]
        known = zip((found.bias, found.lower, found.upper), (1, 1 - 1.96, 1 + 1.96), strict=True)
        hits += [bool(e.low is not None and e.high is not None and e.low <= value <= e.high) for e, value in known]
    assert (hits / 500 > 0.92).all() and (hits / 500 < 0.98).all()


def test_few_cases_have_no_intervals() -> None:
    truth = {f"c{i}": present(POINTS) for i in range(4)}
    found = agreements(
        compare(truth, {c: measured(m, MEASUREMENTS) for c, m in truth.items()}, MEASUREMENTS, unit="mm")
    )
    assert found["width"].bias.value == 0 and found["width"].bias.low is None and found["width"].coverage.value is None
    nothing = agreements(compare(truth, {}, MEASUREMENTS, unit="mm"))["tilt"]
    assert nothing.n == 0 and nothing.missing == 4 and nothing.bias.value is None
