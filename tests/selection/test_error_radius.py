"""The error radius covers what it promises, adapts to the point, and declines where cases are too few."""

from __future__ import annotations

import numpy as np
import pytest

from autolmk.files.serialization import from_json, to_json
from autolmk.geometry import FloatArray
from autolmk.selection.error_radius import ErrorRadius, fit_error_radius

L = 12
NAMES = tuple(f"l{i}" for i in range(L))
HARD = np.exp(np.linspace(-0.7, 0.7, L))


def draw(rng: np.random.Generator, n: int) -> tuple[dict[str, FloatArray], FloatArray]:
    """Errors that are larger in hard cases, for hard landmarks, and where peaks are wide; some points unknown."""
    spread = np.exp(rng.normal(0, 0.4, (n, L)))
    scale = HARD * spread * np.exp(rng.normal(0, 0.3, (n, 1)))
    errors = scale * np.linalg.norm(rng.normal(size=(n, L, 3)), axis=2)
    errors[rng.random((n, L)) < 0.1] = np.nan
    residual = scale * np.exp(rng.normal(0, 0.5, (n, L)))
    return {"spread": spread, "shape_residual": residual, "log_odds": rng.normal(4, 1, (n, L))}, errors


def coverage(model: ErrorRadius, statistics: dict[str, FloatArray], errors: FloatArray) -> float:
    radius = np.array([model.radius({k: v[i] for k, v in statistics.items()}) for i in range(len(errors))])
    known = np.isfinite(errors)
    return float(np.mean([(errors[i] <= radius[i])[known[i]].mean() for i in range(len(errors))]))


def test_new_cases_are_covered_as_promised() -> None:
    rng = np.random.default_rng(0)
    new = draw(rng, 300)
    shares = [coverage(fit_error_radius(*draw(rng, 36), names=NAMES, level=0.9, seed=0), *new) for _ in range(30)]
    assert 0.88 <= np.mean(shares) <= 0.95


def test_the_radius_follows_what_the_error_depends_on() -> None:
    rng = np.random.default_rng(1)
    statistics, errors = draw(rng, 200)
    model = fit_error_radius(statistics, errors, names=NAMES, level=0.9, seed=0)
    usual = {"spread": np.ones(L), "shape_residual": HARD, "log_odds": np.full(L, 4.0)}
    wide = model.radius({**usual, "spread": np.full(L, 2.0)}) / model.radius(usual)
    assert (wide > 1.2).all()
    assert model.radius(usual)[-1] > 2 * model.radius(usual)[0]
    new, truth = draw(rng, 200)
    expected = np.array([model.expected({k: v[i] for k, v in new.items()}) for i in range(200)])
    known = np.isfinite(truth)
    assert expected[known].mean() == pytest.approx(truth[known].mean(), rel=0.1)
    assert np.corrcoef(np.log(expected[known]), np.log(truth[known]))[0, 1] > 0.5
    constant = fit_error_radius({}, errors, names=NAMES, level=0.9, seed=0)
    adapted = np.median([model.radius({k: v[i] for k, v in new.items()}) for i in range(200)])
    assert adapted < np.median(constant.radius({}))


def test_too_few_cases_are_declined_with_a_reason() -> None:
    statistics, errors = draw(np.random.default_rng(2), 8)
    model = fit_error_radius(statistics, errors, names=NAMES, level=0.9, seed=0)
    assert model.quantile is None and np.isnan(model.radius({k: v[0] for k, v in statistics.items()})).all()
    assert "8 held-out cases" in model.why and "at least 9" in model.why
    assert np.isfinite(model.expected({k: v[0] for k, v in statistics.items()})).all()
    assert fit_error_radius(statistics, errors, names=NAMES, level=0.8, seed=0).quantile is not None
    nine = draw(np.random.default_rng(2), 9)
    assert fit_error_radius(*nine, names=NAMES, level=0.9, seed=0).quantile is not None


def test_what_a_point_lacks_is_told_apart_and_nothing_breaks_without_data() -> None:
    statistics, errors = draw(np.random.default_rng(3), 40)
    lacking = np.random.default_rng(4).random(errors.shape) < 0.2
    statistics["spread"][lacking] = np.nan
    errors[lacking] *= 3.0
    statistics["log_odds"][0, 0] = -np.inf
    model = fit_error_radius(statistics, errors, names=NAMES, level=0.9, seed=0)
    row = {k: v[0] for k, v in statistics.items()}
    assert np.isfinite(model.radius(row)).all()
    usual = {"spread": np.ones(L), "shape_residual": HARD, "log_odds": np.full(L, 4.0)}
    assert (model.radius({**usual, "spread": np.full(L, np.nan)}) > 1.5 * model.radius(usual)).all()
    with pytest.raises(ValueError, match="spread"):
        model.radius({"log_odds": row["log_odds"]})
    with pytest.raises(ValueError, match="known error"):
        fit_error_radius(statistics, np.full_like(errors, np.nan), names=NAMES, level=0.9, seed=0)
    never = errors.copy()
    never[:, 5] = np.nan
    model = fit_error_radius(statistics, never, names=NAMES, level=0.9, seed=0)
    assert model.unjudged == (NAMES[5],) and np.isnan(model.radius(row)[5]) and np.isfinite(model.expected(row)[5])


def test_it_is_data() -> None:
    model = fit_error_radius(*draw(np.random.default_rng(4), 20), names=NAMES, level=0.9, seed=0)
    assert from_json(ErrorRadius, to_json(model)) == model
