"""The schedules that plans name."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from autolmk.conformance.examples import example_plans
from autolmk.methods.learning_rate import learning_rate_factor
from autolmk.methods.progress import Progress
from autolmk.trainers.heatmap import HeatmapTrainer


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    factors = [learning_rate_factor(i / 1000, i, 1000) for i in range(1001)]
    assert factors[0] == pytest.approx(1 / 50) and factors[49] > 0.9 and max(factors) <= 1
    assert all(a > b for a, b in itertools.pairwise(factors[50:]))
    assert factors[999] < 0.003 and factors[1000] == 0
    assert learning_rate_factor(0.0, 0, 8) == 1.0  # a very short run does not only warm up


def test_published_rates_are_the_published_ones() -> None:
    """APGA: 1e-3, 6.05e-4, 3.09e-4, 1.11e-4, 1.23e-5 from epochs 5, 15, 25, 35 and 45 of 80 on, then up again: its
    parabola ends after 45 of them. Noothout et al.: constant, or cosines of 10,000, 20,000 ... 160,000 iterations."""
    rates = [1e-3 * learning_rate_factor(e / 80, 0, 8000, "apga") for e in (5, 15, 25, 35, 45, 55, 65, 75)]
    wanted = [1e-3, 6.05e-4, 3.09e-4, 1.11e-4, 1.23e-5, 1.23e-5, 1.11e-4, 3.09e-4]
    assert rates == pytest.approx(wanted, rel=5e-3)
    rising = [learning_rate_factor(i / 8000, i, 8000, "apga") for i in range(501)]
    assert 0 < rising[0] < 0.01 and all(a < b for a, b in itertools.pairwise(rising[:499])) and rising[500] == 1.0
    starts = (0, 10, 30, 70, 150)
    cosine = [learning_rate_factor(k / 310, 0, 1, "restarts") for k in (*starts, 5, 20, 50, 110, 230, 310)]
    assert cosine == pytest.approx([1.0] * 5 + [0.5] * 5 + [0.0], abs=1e-9)
    assert max(learning_rate_factor(k / 310 - 1e-6, 0, 1, "restarts") for k in (*starts[1:], 310)) < 1e-6
    assert {learning_rate_factor(p / 7, 3, 100, "constant") for p in range(8)} == {1.0}


@pytest.mark.parametrize("rate", ["polynomial", "constant", "restarts", "apga"])
def test_a_trainer_s_own_rate_is_the_plan_s(rate: str) -> None:
    """Of a shipped trainer, as nothing else schedules it."""
    plans = example_plans(2)
    configuration = plans.configuration("example")
    schedule = dataclasses.replace(configuration.schedule, rate=rate)
    trainer = HeatmapTrainer(plans, dataclasses.replace(configuration, schedule=schedule))
    for i in range(0, 1001, 50):
        expected = learning_rate_factor(i / 1000, i, 1000, rate)
        assert trainer.learning_rate(Progress(i / 1000, i, 1000, i // 100)) == expected
