"""Presence calibration: recovers a known curve, stays sensible with separable, missing or absurd classes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from autolmk.evaluation.presence_calibration import PresenceCalibration, fit_presence


def test_recovers_a_known_logistic_curve() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 4.0, 4000)
    y = rng.random(4000) < special.expit(0.6 * x - 1.2)
    fit = fit_presence(x, y)
    assert fit.slope == pytest.approx(0.6, abs=0.06)
    assert fit.intercept == pytest.approx(-1.2, abs=0.15)


def test_separable_classes_give_finite_odds_on_the_right_side() -> None:
    fit = fit_presence([-9.0, -7.0, -6.0, 5.0, 6.0, 8.0, 9.0, 9.5], [False] * 3 + [True] * 5)
    assert (fit.likelihood([-8.0, 7.0]).round() == [0, 1]).all()
    assert 0.001 < fit.likelihood(-5.0) < 0.5 < fit.likelihood(5.0) < 0.999


@pytest.mark.parametrize("present", [True, False])
def test_one_class_alone(present: bool) -> None:
    """What was seen is called what it was; far on the other side the network's own odds still count."""
    sign = 1 if present else -1
    x = sign * np.linspace(2, 8, 50)
    fit = fit_presence(x, np.full(50, present))
    assert ((fit.likelihood(x) > 0.5) == present).all()
    assert (fit.likelihood(-sign * 15.0) > 0.5) != present


def test_present_with_low_odds_shifts_the_threshold() -> None:
    fit = fit_presence(np.linspace(-6, 2, 60), np.ones(60, dtype=bool))
    assert fit.likelihood(-4.0) > 0.5


def test_nothing_seen_leaves_the_odds_as_they_are() -> None:
    fit = fit_presence([], [])
    assert fit == PresenceCalibration(1.0, 0.0)
    assert fit.likelihood(0.0) == 0.5


def test_likelihood_never_falls_with_the_odds_even_on_absurd_data() -> None:
    fit = fit_presence([5.0, 6.0, 7.0, -5.0, -6.0], [False, False, False, True, True])
    assert fit.slope > 0
    assert np.diff(fit.likelihood([-np.inf, -3, 0, 3, np.inf])).min() >= 0


def test_infinite_and_missing_odds() -> None:
    fit = fit_presence([-np.inf, np.nan, 4.0, 5.0], [False, True, True, True])
    assert np.isfinite([fit.slope, fit.intercept]).all()
    likelihood = fit.likelihood([-np.inf, np.nan])
    assert likelihood[0] < 0.5 and np.isnan(likelihood[1])


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one length"):
        fit_presence([1.0, 2.0], [True])


def test_the_prevalence_of_each_landmark_counts_beside_what_its_image_shows() -> None:
    """Log-odds at even odds beforehand, of landmarks that 5, 50 and 95 % of the cases show: likelihoods are the shares
    that are there, and right decisions are as many as Bayes' rule makes."""
    rng = np.random.default_rng(0)
    share = np.repeat([0.05, 0.5, 0.95], 4000)
    y = rng.random(len(share)) < share
    x = np.where(y, 1.0, -1.0) + rng.normal(0, np.sqrt(2), len(share))  # the log-odds of this are x itself
    prior = special.logit(share)
    fit = fit_presence(x, y, prior)
    assert (fit.slope, fit.intercept) == pytest.approx((1, 0), abs=0.1)
    with_prior, without = fit.likelihood(x, prior), fit_presence(x, y).likelihood(x)
    rare = share < 0.1
    assert with_prior[rare].mean() == pytest.approx(0.05, abs=0.01) and without[rare].mean() > 0.25
    right = [((p > 0.5) == y).mean() for p in (with_prior, without)]
    assert right[0] > 0.88 and right[1] < 0.80
    assert PresenceCalibration().likelihood(0.0, special.logit(0.2)) == pytest.approx(0.2)
