"""Errors of points: measured on held-out cases, by landmark and width of peak, whatever the gross ones among them."""

from __future__ import annotations

import numpy as np
import pytest

from autolmk.fold.point_errors import PointErrors, fit_point_errors
from autolmk.geometry import FloatArray

NAMES = tuple(f"p{i:02d}" for i in range(40))


def looks(deviation: FloatArray, p: int = 3, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """(found, truth) (N, L, P) with errors of deviation (N, L) mm an axis."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(-50, 50, (*deviation.shape, p))
    return truth + rng.normal(size=truth.shape) * deviation[..., None], truth


@pytest.mark.parametrize("p", [2, 3])
def test_each_landmark_has_its_own_error_and_gross_ones_hardly_count(p: int) -> None:
    own = np.geomspace(0.05, 0.8, len(NAMES))
    found, truth = looks(np.tile(own, (60, 1)), p)
    found[:6] += 30.0  # a tenth of the cases is lost
    errors = fit_point_errors(found, truth, np.full(found.shape[:2], np.nan), NAMES)
    ratio = np.array([errors.noise[name] for name in NAMES]) / own
    assert 0.9 < np.median(ratio) < 1.15 and ratio.min() > 0.7 and ratio.max() < 1.5
    assert errors.cases == 60 and not errors.drawn and errors.steepness == 0.0


@pytest.mark.parametrize("p", [2, 3])
def test_points_astray_are_as_far_off_as_landmarks_lie_apart(p: int) -> None:
    found, truth = looks(np.full((30, 40), 0.3), p)
    truth[:, 7], truth[3, 5:] = np.nan, np.nan
    errors = fit_point_errors(found, truth, np.full((30, 40), np.nan), NAMES, np.full((30, 40), 5.0))
    assert errors.astray == pytest.approx(100 / np.sqrt(12), rel=0.03)  # uniform over 100 mm
    alone = fit_point_errors(found[:, :1], truth[:, :1], np.full((30, 1), np.nan), NAMES[:1], np.full((30, 1), 5.0))
    assert alone.astray == 0.0
    assert PointErrors.pooled([errors, alone]).astray == errors.astray  # the other tells nothing


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (-3.0, 0.5), (1.0, 1.5)])
def test_how_far_log_odds_tell_gross_errors_is_recovered(a: float, b: float) -> None:
    rng = np.random.default_rng(2)
    found, truth = looks(np.full((40, 40), 0.3))
    log_odds = rng.normal(2.0, 2.0, (40, 40))
    gross = rng.random((40, 40)) < 1 / (1 + np.exp(b * log_odds - a))
    found[gross] += 20.0
    errors = fit_point_errors(found, truth, np.full((40, 40), np.nan), NAMES, log_odds)
    assert errors.doubts == pytest.approx((a, b), abs=0.4)


def test_where_no_point_is_gross_none_is_doubted() -> None:
    """Nine cases of 40 points at even odds, all right: the next such point is wrong at less than one in 100."""
    found, truth = looks(np.full((9, 40), 0.3))
    a, b = fit_point_errors(found, truth, np.full((9, 40), np.nan), NAMES, np.zeros((9, 40))).doubts
    assert a < np.log(0.01) and b == pytest.approx(1.0, abs=0.01)


def test_few_cases_draw_landmarks_toward_each_other() -> None:
    """Alike landmarks on 7 cases: their medians scatter by a third, what is believed of them far less."""
    found, truth = looks(np.full((7, 40), 0.3))
    errors = fit_point_errors(found, truth, np.full((7, 40), np.nan), NAMES)
    assert np.std(np.log(list(errors.noise.values()))) < 0.1
    assert errors.usual == pytest.approx(0.3, rel=0.15)


def test_wide_peaks_tell_large_errors_and_no_further_than_was_seen() -> None:
    rng = np.random.default_rng(1)
    deviation = rng.choice([0.05, 0.1, 0.3], (20, 40))
    spread = np.hypot(0.5, deviation) * rng.lognormal(0, 0.01, deviation.shape)
    found, truth = looks(deviation)
    errors = fit_point_errors(found, truth, spread, NAMES)
    of = {v: float(np.sqrt(errors.variance(("p00",), np.array([np.hypot(0.5, v)]))[0])) for v in (0.05, 0.1, 0.3)}
    assert of[0.05] < 0.09 and 0.05 < of[0.1] < 0.14 and 0.2 < of[0.3] < 0.5
    widest = np.array([errors.width[name] for name in NAMES]) * errors.widths[1]
    np.testing.assert_allclose(errors.variance(NAMES, np.full(40, 50.0)), errors.variance(NAMES, widest))


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize(("tails", "low", "high"), [(2.0, 1.5, 3.0), (4.0, 3.0, 6.0), (0.0, 0.0, 0.0)])
def test_heavy_tails_of_errors_are_measured(p: int, tails: float, low: float, high: float) -> None:
    """A Student t of so many degrees of freedom, on 7 cases; and a Gaussian, of images that differ threefold too."""
    rng = np.random.default_rng(4)
    factor = np.sqrt(tails / rng.chisquare(tails, (7, 40))) if tails else np.ones((7, 40))
    for images in (np.ones((7, 1)), np.geomspace(0.5, 1.5, 7)[:, None]):
        found, truth = looks(0.2 * factor * images, p)
        errors = fit_point_errors(found, truth, np.full((7, 40), np.nan), NAMES)
        assert low <= errors.tails <= high


def test_widths_that_tell_nothing_count_for_nothing() -> None:
    rng = np.random.default_rng(2)
    found, truth = looks(np.full((7, 40), 0.2))
    errors = fit_point_errors(found, truth, rng.lognormal(0, 0.3, (7, 40)), NAMES)
    assert errors.steepness < 0.5


def test_images_that_differ_make_the_errors_less_certain() -> None:
    alike, truth = looks(np.full((12, 40), 0.2))
    nothing = np.full((12, 40), np.nan)
    assert fit_point_errors(alike, truth, nothing, NAMES).certain > 0.75
    levels = np.repeat(np.geomspace(0.05, 0.8, 12)[:, None], 40, axis=1)
    differing, truth = looks(levels)
    errors = fit_point_errors(differing, truth, nothing, NAMES)
    surely = float(np.median(np.sqrt(errors.variance(NAMES, nothing[0]))))
    assert (levels[:, 0] > surely).mean() >= 0.75


def test_landmarks_that_no_case_shows_have_the_usual_error() -> None:
    found, truth = looks(np.full((8, 40), 0.2))
    truth[:, 3] = np.nan
    found[0, 5] = np.nan
    errors = fit_point_errors(found, truth, np.full((8, 40), 0.5), NAMES)
    assert "p03" not in errors.noise and "p05" in errors.noise
    assert errors.variance(("p03",), np.array([0.5]))[0] == pytest.approx(errors.certain * errors.usual**2)
    nobody = fit_point_errors(found, np.full_like(truth, np.nan), np.full((8, 40), 0.5), NAMES)
    assert nobody.usual == 0.0 and nobody.cases == 8


def test_exact_points_are_measured_too() -> None:
    _, truth = looks(np.zeros((6, 40)))
    errors = fit_point_errors(truth, truth, np.ones((6, 40)), NAMES)
    assert errors.usual < 1e-5 and np.isfinite(list(errors.noise.values())).all()


def test_most_held_out_cases_decide_for_all_folds() -> None:
    def fold(cases: int, drawn: bool, noise: float = 0.1) -> PointErrors:
        return PointErrors(noise={"a": noise}, usual=noise, width={"a": 1.0}, cases=cases, drawn=drawn)

    assert PointErrors.pooled([fold(4, True), fold(4, True), fold(7, False)]).drawn
    assert not PointErrors.pooled([fold(4, True), fold(4, False)]).drawn
    one = fold(5, True)
    assert PointErrors.pooled([one]) is one
    both = PointErrors.pooled([fold(4, True, 0.3), fold(4, True, 0.4)])
    assert both.noise["a"] == pytest.approx(np.sqrt(0.125)) and both.cases == 8
    with pytest.raises(ValueError, match="no fold"):
        PointErrors.pooled([])


@pytest.mark.parametrize("wrong", [{"usual": -1.0}, {"widths": (2.0, 1.0)}, {"certain": 0.0}, {"noise": {"a": -0.1}}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"0 or more|factors above 0"):
        PointErrors(**wrong)  # type: ignore[arg-type]
