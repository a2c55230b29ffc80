"""Selection: tests that keep their level, intervals that are paired, and the simplest predictor that is good enough."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from crossvals import simulated
from scipy import stats

from autolmk.evaluation.comparison import Candidate, compare, holm, paired_test, simplest
from autolmk.geometry import FloatArray
from autolmk.selection.model_selection import count_swaps


def errors(factor: float, seed: int, n: int = 40) -> tuple[FloatArray, ...]:
    """Cases that are hard for all predictors alike, times a factor, with some noise of the predictor's own."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    return tuple(factor * np.exp(shared.normal(0, 0.5)) * np.exp(own.normal(0, 0.02, 5)) for _ in range(n))


def test_the_exact_test_counts_all_flips() -> None:
    difference = np.array([1.0, 2.0, -0.5, 0.7])
    flips = np.array(list(itertools.product((-1, 1), repeat=4))) @ difference
    expected = (np.abs(flips) >= abs(difference.sum()) - 1e-9).mean()
    assert paired_test(difference, np.zeros(4), seed=0) == pytest.approx(expected)
    assert paired_test(difference, difference, seed=0) == 1.0
    library = stats.permutation_test((difference,), np.sum, permutation_type="samples", n_resamples=16).pvalue
    assert paired_test(difference, np.zeros(4), seed=0) == library
    with pytest.raises(ValueError, match="one length"):
        paired_test(difference, np.zeros(3), seed=0)


def test_random_flips_agree_with_the_t_test_where_it_holds() -> None:
    x = np.random.default_rng(1).normal(0.25, 1.0, 60)
    assert paired_test(x, np.zeros(60), seed=0) == pytest.approx(stats.ttest_1samp(x, 0).pvalue, abs=0.02)
    assert paired_test(x, np.zeros(60), seed=0) == paired_test(x, np.zeros(60), seed=0)


def test_equal_predictors_are_seldom_called_different() -> None:
    rng = np.random.default_rng(2)
    p = [paired_test(np.exp(rng.normal(0, 0.5, 12)), np.exp(rng.normal(0, 0.5, 12)), seed=0) for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) < 0.08


def test_holm_corrects_in_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_simplest_that_is_good_enough_is_chosen() -> None:
    candidates = {
        "one": Candidate(("one",), 1, 10, errors(1.005, 1)),
        "two stages": Candidate(("two stages",), 2, 10, errors(1.0, 2)),
        "both": Candidate(("one", "two stages"), 3, 20, errors(0.99, 3)),
        "bad": Candidate(("bad",), 1, 1, errors(1.3, 4)),
    }
    compared = compare(candidates, seed=0)
    best = min(compared, key=lambda name: compared[name].mre.value)
    assert compared[best].p is None and compared[best].loss_against_best.value == 0.0
    within = np.mean(np.concatenate(candidates["bad"].errors) <= 2)
    assert compared["bad"].sdr["2"].value == pytest.approx(within) and compared["bad"].sdr["2"].low < within < 1
    assert compared["bad"].p_holm < 0.01 and compared["bad"].loss_against_best.low > 0.2
    chosen, why = simplest(candidates, compared)
    assert chosen in ("one", "two stages") and "%" in why
    candidates["one"] = Candidate(("one",), 1, 10, errors(1.1, 1))
    candidates["two stages"] = Candidate(("two stages",), 2, 10, errors(1.2, 2))
    chosen, why = simplest(candidates, compare(candidates, seed=0))
    assert chosen == "both" and "lowest error" in why


def test_with_few_cases_nothing_simpler_is_surely_as_good() -> None:
    candidates = {
        "simple": Candidate(("simple",), 1, 10, errors(1.0, 1, n=3)),
        "good": Candidate(("simple", "good"), 2, 20, errors(0.9, 2, n=3)),
    }
    assert simplest(candidates, compare(candidates, seed=0))[0] == "good"


def test_candidates_must_be_judged_on_the_same_points() -> None:
    one, other = errors(1.0, 1), (*errors(1.0, 2)[:-1], np.ones(2))
    with pytest.raises(ValueError, match="same points"):
        compare({"a": Candidate(("a",), 1, 1, one), "b": Candidate(("b",), 1, 1, other)}, seed=0)


def test_swaps_of_held_out_points_are_counted() -> None:
    model = simulated(("l", "r", "mid"), cases=4, models=1)["model_0"]
    assert count_swaps(model, [("l", "r")]) == 0
    swapped = {case: replace(d, candidates=d.candidates[[1, 0, 2]]) for case, d in model.detections.items()}
    assert count_swaps(replace(model, detections=swapped), [("l", "r")]) == 8
    assert count_swaps(replace(model, detections=swapped), []) == 0
