"""Configurations are given up where they surely err more than is tolerated, and not before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from held_out import held_out

from autolmk.errors import AutolmkError
from autolmk.fold.held_out import CrossValidation
from autolmk.jobs import giving_up
from autolmk.jobs.giving_up import FEW_STEPS, TOLERATED, steps_of
from autolmk.jobs.run_record import GivenUp

MANY = 10 * FEW_STEPS


def errors(mean: float, n: int, seed: int, spread: float = 0.2) -> list[float]:
    return list(mean * np.random.default_rng(seed).lognormal(-(spread**2) / 2, spread, n))


def hopeless(models: dict[str, CrossValidation], steps: dict[str, int]) -> dict[str, GivenUp]:
    return {name: found for name, found in giving_up.judged(models, steps).items() if found.hopeless}


def judged(n: int = 8, steps: int = MANY, **means: float) -> dict[str, float]:
    """Configuration -> by how much it surely errs more, of those that are given up."""
    models = {name: held_out(name, errors(mean, n, seed)) for seed, (name, mean) in enumerate(means.items())}
    return {name: lost.surely or 0.0 for name, lost in hopeless(models, dict.fromkeys(models, steps)).items()}


def test_who_errs_twice_as_much_is_given_up_and_who_errs_alike_is_not() -> None:
    found = judged(best=1.0, alike=1.05, twice=2.0)
    assert set(found) == {"twice"} and TOLERATED < found["twice"] < 1.0


def test_few_cases_tell_nothing() -> None:
    assert judged(n=4, best=1.0, twice=3.0) == {}
    assert set(judged(n=5, best=1.0, twice=3.0)) == {"twice"}


def test_short_trainings_must_differ_more() -> None:
    """Twice as much is no reason then, five times is."""
    assert set(judged(steps=FEW_STEPS - 1, best=1.0, twice=2.0, worst=5.0)) == {"worst"}
    assert set(judged(steps=FEW_STEPS, best=1.0, twice=2.0, worst=5.0)) == {"twice", "worst"}


def test_one_gross_case_is_no_proof() -> None:
    """On all cases but one both are alike; the mean is three times as large."""
    good = errors(1.0, 8, 0)
    gross = [*good[:-1], 17 * good[-1]]
    models = {"best": held_out("best", good), "gross": held_out("gross", gross)}
    assert sum(gross) > 2.5 * sum(good) and hopeless(models, dict.fromkeys(models, MANY)) == {}


def test_cases_are_paired() -> None:
    """Hard and easy cases differ tenfold, and one configuration errs 30 % more on each of them."""
    hard = [0.3, 3.0] * 4
    rng = np.random.default_rng(0)
    more = [1.3 * e * f for e, f in zip(hard, rng.lognormal(0, 0.03, 8), strict=True)]
    models = {"a": held_out("a", hard, (0, 1)), "b": held_out("b", more, (0, 1))}
    (lost,) = hopeless(models, dict.fromkeys(models, MANY)).values()
    assert lost.folds == ("0", "1") and lost.cases == 8 and lost.best == "a"
    assert lost.loss == pytest.approx(0.3, abs=0.05) and 0.2 < (lost.surely or 0.0) < lost.loss
    said = lost.describe("mm")
    assert f"on 8 held-out cases of folds 0, 1 it errs by {lost.mre:.3g} mm, a by {lost.best_mre:.3g}" in said


@pytest.mark.parametrize("n", [5, 8])
def test_it_is_seldom_wrong(n: int) -> None:
    """Of 300 pairs that err alike, at most 1 % is given up: sure of 5 %, and 10 % are tolerated besides."""
    wrong = 0
    for seed in range(300):
        models = {name: held_out(name, errors(1.0, n, 2 * seed + k, 0.3)) for k, name in enumerate("ab")}
        wrong += len(hopeless(models, dict.fromkeys(models, MANY)))
    assert wrong <= 15


def test_only_the_same_folds_are_compared() -> None:
    with pytest.raises(AutolmkError, match="same splits"):
        hopeless({"a": held_out("a", [1.0] * 6), "b": held_out("b", [2.0] * 6, (1,))}, {"a": MANY, "b": MANY})


def test_steps_are_those_of_the_shortest_stage(tmp_path: Path) -> None:
    """A first stage that was trained in two parts, to be measured between them, made the steps of both."""
    for place, last in ((".", 40), ("middle", 50), ("middle/first", 15), ("middle/first/measuring", 20)):
        (tmp_path / place).mkdir(exist_ok=True)
        lines = [f'{{"kind": "epoch", "iteration": {i}, "elapsed": 1.0}}\n' for i in (5, last)]
        (tmp_path / place / "training_log.jsonl").write_text("".join(lines))
    assert steps_of(tmp_path, ("first", "middle", "last")) == 35
    assert steps_of(tmp_path, ("last",)) == 40 and steps_of(tmp_path / "none", ("last",)) == 0
