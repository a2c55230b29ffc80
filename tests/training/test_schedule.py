"""The weights' average follows the length that a run really has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autolmk.codecs import HeatmapCodec
from autolmk.planning import rules
from autolmk.plans import Schedule
from autolmk.training.averaging import Averaged
from autolmk.training.schedule import Limits, average_decay


def schedule(epochs: int, max_seconds: float | None, planned_steps: float) -> Schedule:
    return Schedule(epochs, 250, max_seconds, 1e-3, 0.05, rules.ema_decay(planned_steps)[0], 0.1)


@pytest.mark.parametrize(
    ("epochs", "max_seconds", "planned"), [(300, None, 75_000), (1000, 1500.0, 2500), (1000, 9000.0, 15_000)]
)
@pytest.mark.parametrize("steps", [300, 2500, 15_000, 75_000])
def test_the_horizon_is_the_rule_s_for_the_run_s_own_length(
    epochs: int, max_seconds: float | None, planned: float, steps: float
) -> None:
    """Whatever was planned: 2,500 steps of a plan of 75,000, whose horizon is 1,000, average over 100."""
    found = 1 / (1 - average_decay(schedule(epochs, max_seconds, planned), steps))
    assert found == pytest.approx(rules.ema_horizon(steps), rel=0.01)


def test_a_horizon_of_the_user_s_is_kept_at_the_plan_s_length_and_scaled_elsewhere() -> None:
    plan = Schedule(300, 100, None, 1e-3, 0.05, 0.98, 0.1)  # 30,000 steps, for which the rule says 1,000
    assert [round(1 / (1 - average_decay(plan, n))) for n in (30_000, 3000, 300_000)] == [50, 5, 50]
    without = Schedule(300, 100, None, 1e-3, 0.05, 0.0, 0.1)
    assert average_decay(without, 300_000) == 0.0


def test_the_expected_length_is_that_of_the_iterations_or_of_the_pace_so_far() -> None:
    free, timed = Limits(5000, None), Limits(5000, 100.0)
    assert free.expected(10, free.progress(10, 99.0)) == 5000
    assert timed.expected(0, 0.0) == 5000
    assert timed.expected(300, timed.progress(300, 10.0)) == pytest.approx(3000)  # 300 steps in a tenth of the time
    assert timed.expected(300, timed.progress(300, 1.0)) == 5000  # a quick machine ends by its iterations
    assert timed.expected(300, timed.progress(300, 10.0, reserve=50.0)) == pytest.approx(1500)


def test_early_weights_are_forgotten_whatever_the_horizon() -> None:
    """A horizon of 1,000 in a run of 2,500 steps: of the first half of the run less than a thousandth is left, because
    the average is at most over a ninth of the steps so far."""
    network = nn.Linear(1, 1, bias=False)
    averaged = Averaged(network, HeatmapCodec(1, (8, 8), (1, 1), (1.0, 1.0)), decay=0.999)
    for step in range(2500):
        with torch.no_grad():
            network.weight.fill_(float(step < 1250))
        averaged.update(step)
    assert 0 < float(averaged.network.get_parameter("weight")) < 2e-2
