"""The choice of configurations and folds to leave out where the time does not suffice to train all for long enough.

Fewer folds cost the few per cent by which several networks are better than one; fewer configurations may cost the best
one. So folds go first, down to as many as hold enough cases out to choose and to measure the error by, then
configurations, those of which least is to be expected first. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autolmk.jobs.giving_up import FEW_STEPS, TOLERATED
from autolmk.jobs.run_record import GivenUp
from autolmk.jobs.time_shares import length, waves

USEFUL_STEPS = 1000  # of each stage: those of documentation/benchmarks.md made 500 to 6,000
FEWEST_FOLDS, FEWEST_CASES = 2, 9  # held out, at least, where there are so many: fewer allow no error radius of 90 %
SHORT = 0.5  # of another fold's length, below which a fold does not join the final predictor


def ranked(found: Mapping[str, GivenUp], steps: Mapping[str, int], order: Sequence[str]) -> list[str]:
    """Configurations, of which most is to be expected first: by held-out errors; where trainings were too short for
    these to tell, those that did not surely do worse, in the order of the plans."""
    if min(steps[name] for name in found) >= FEW_STEPS:
        return sorted(found, key=lambda name: found[name].mre)
    worse = {name: one.surely is not None and one.surely > TOLERATED for name, one in found.items()}
    return sorted(found, key=lambda name: (worse[name], order.index(name)))


def useful_seconds(length_so_far: float, steps: int) -> float:
    """The seconds of a training that are useful, by the steps that its shortest stage made in `length_so_far` s; 0
    where none was counted.
    """
    return length_so_far * USEFUL_STEPS / steps if steps > 0 else 0.0


def fewest_folds(folds: int, cases_a_fold: float) -> int:
    """The least number of `folds` that must be left."""
    enough = next((n for n in range(1, folds + 1) if n * cases_a_fold >= FEWEST_CASES), folds)
    return min(folds, max(FEWEST_FOLDS, enough))


def narrowed(
    useful: Sequence[float], folds: int, fewest: int, slots: int, seconds: float, beyond: float
) -> tuple[int, int]:
    """The numbers of configurations and of folds that are trained in `seconds`. useful: s that a training of each
    takes, of which most is expected first. fewest: folds that are kept at least. beyond: as of `time_shares.length`.
    """
    for methods in range(len(useful), 0, -1):
        for n in range(folds, fewest - 1, -1):
            each = length(seconds, waves(methods, n, slots, compared=True), beyond)
            if each >= max(useful[:methods]):
                return methods, n
    return 1, max(fewest, min(folds, slots))
