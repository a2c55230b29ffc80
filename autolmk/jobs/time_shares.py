"""The sharing of a run's remaining time among trainings. Pure.

Trainings run in waves, as many at a time as there are slots. As long as configurations are compared, a wave holds
trainings of the same folds, so that all of a fold are of one length; once nothing is to be compared any more, slots are
filled with whatever is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from autolmk.jobs.run_record import BEYOND, RESERVED, TimeShares

SURVIVE = 0.5  # share of the configurations that the first fold's length expects to be left after it
MARGIN = 0.15  # of what the steps after training are expected to take, that is kept beside, and
MARGIN_OF_ALL, MARGIN_SECONDS = 0.01, 3.0  # of the run's time, and s: to start and to end itself


def waves(methods: int, folds: int, slots: int, *, compared: bool) -> int:
    """The number of waves that trainings of so many configurations and folds take. compared: fold by fold, as many
    folds at once as slots hold.
    """
    if not compared or methods < 2:
        return -(-methods * folds // slots)
    together = max(1, slots // methods)
    return -(-folds // together) * -(-methods // slots)


def folds_at_once(methods: int, slots: int) -> int:
    """The number of folds that are trained before configurations are compared again."""
    return max(1, slots // methods)


def waves_to_come(methods: int, folds: int, slots: int, *, compared: bool, first: bool) -> int:
    """The number of waves to come, as `waves`; before the first comparison, with the number of configurations that
    SURVIVE expects from then on. Where more are left, the other folds are trained for less time, where fewer are, for
    more.
    """
    if not (compared and first and methods > 1):
        return waves(methods, folds, slots, compared=compared)
    now = min(folds, folds_at_once(methods, slots))
    left = math.ceil(SURVIVE * methods)
    return waves(methods, now, slots, compared=True) + waves(left, folds - now, slots, compared=True)


def length(left: float, n_waves: int, beyond: float) -> float:
    """Whole seconds of each training, where `left` s are shared by so many waves, and each training takes `beyond` s to
    start and to end; may be 0 or less."""
    return float(int(left / max(1, n_waves) - beyond))


def with_margin(reserved: Mapping[str, float], max_seconds: float) -> float:
    """s to keep for steps that are expected to take so long."""
    return (1 + MARGIN) * sum(reserved.values()) + MARGIN_OF_ALL * max_seconds + MARGIN_SECONDS


def unmeasured(max_seconds: float) -> dict[str, float]:
    """The seconds that are kept for each step where nothing is known."""
    return {step: share * max_seconds for step, share in RESERVED.items()}


def share_out(
    max_seconds: float,
    reserved: Mapping[str, float],
    *,
    methods: int,
    folds: int,
    slots: int,
    compared: bool = False,
    taken: float = 0.0,
) -> TimeShares:
    """Share out the time of a run that has not begun to train. reserved: step -> s. taken: s so far."""
    n = waves_to_come(methods, folds, slots, compared=compared, first=True)
    left = max_seconds - taken - with_margin(reserved, max_seconds)
    return TimeShares(slots, n, max(1.0, length(left, n, BEYOND)), dict(reserved))
