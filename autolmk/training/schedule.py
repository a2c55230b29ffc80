"""The progress of a run, and what follows from it: the average of its weights, and when to validate."""

from __future__ import annotations

import time
from dataclasses import dataclass

from autolmk.fold.log import duration
from autolmk.methods.learning_rate import WARM_UP_ITERATIONS
from autolmk.planning.rules import AVERAGED, ema_horizon
from autolmk.plans import Schedule

FEW_STEPS = 10 * WARM_UP_ITERATIONS  # in a shorter run the warm-up takes more than a tenth of all steps
MEASURED_CASES = 16  # held-out cases, at most, on which a codec measures how to decode


@dataclass(frozen=True)
class Limits:
    """The limits that end a run: a number of iterations, and a time (s) over all of its resumes where max_seconds is
    not None.
    """

    iterations: int
    max_seconds: float | None

    @classmethod
    def of(
        cls, schedule: Schedule, *, epochs: int | None = None, max_seconds: float | None = None, share: float = 1.0
    ) -> Limits:
        """The plan's limits, or what the user gives instead: `epochs` alone leaves no time limit, so that the run is a
        function of its seed; `max_seconds` leaves the plan's epochs as the other limit. share: of either that this run
        is to take, at least one epoch."""
        seconds = max_seconds if max_seconds is not None or epochs is not None else schedule.max_seconds
        whole = schedule.epochs if epochs is None else epochs
        part = max(min(1, whole), round(share * whole))
        return cls(part * schedule.iterations_per_epoch, None if seconds is None else share * seconds)

    def describe(self) -> str:
        """The limits in words, such as `at most 25 min or 50000 iterations`."""
        length = f"{self.iterations} iterations"
        return length if self.max_seconds is None else f"at most {duration(self.max_seconds)} or {length}"

    def progress(self, iteration: int, elapsed: float, reserve: float = 0.0) -> float:
        """Share of the run that is over, 0 to 1: by iterations or by time, whichever is further on.

        elapsed: seconds so far. reserve: seconds of the time limit that are kept for the final validation.
        """
        by_iterations = iteration / max(1, self.iterations)
        by_time = 0.0 if self.max_seconds is None else elapsed / max(1e-9, self.max_seconds - reserve)
        return min(1.0, max(by_iterations, by_time))

    def expected(self, iteration: int, progress: float) -> float:
        """Steps that the run comes to, at `iteration` with `progress` over: a time limit says it by the pace so far."""
        known = self.max_seconds is None or iteration == 0 or progress <= 0
        return float(self.iterations) if known else min(float(self.iterations), iteration / progress)


def average_decay(schedule: Schedule, steps: float) -> float:
    """The decay of the weights' average, in a run that comes to `steps` steps: the plan's, whose horizon 1 / (1 -
    decay) is for the plan's length, longer or shorter as `rules.ema_horizon` is for `steps`. A plan that is bounded by
    time says its length by the horizon alone.
    """
    if schedule.ema_decay == 0:
        return 0.0
    horizon = 1 / (1 - schedule.ema_decay)
    timed = schedule.max_seconds is not None
    planned = horizon * AVERAGED if timed else schedule.epochs * schedule.iterations_per_epoch
    return 1 - 1 / max(1.0, horizon * ema_horizon(steps) / ema_horizon(planned))


class Clock:
    """Seconds that a run took, over all of its resumes. Where several processes train together, each holds it at a time
    that all of them know, so that what follows from it is the same."""

    def __init__(self, before: float = 0.0) -> None:
        self._before, self._start = before, time.monotonic()
        self._held: float | None = None

    def elapsed(self) -> float:
        """The seconds that the run took so far, over all of its resumes; those at which it is held."""
        return self.flowing() if self._held is None else self._held

    def flowing(self) -> float:
        """The seconds that the run took so far, also where it is held."""
        return self._before + time.monotonic() - self._start

    def hold(self, seconds: float | None) -> None:
        """Stay at that time; None: flow again."""
        self._held = seconds


class StepRate:
    """The number of steps that fit the time limit, from the first measured ones. The very first step is left out:
    workers start and networks are compiled in it.
    """

    LEAST_STEPS, ENOUGH_STEPS = 2, 50  # measured: at least, and enough in any case
    LEAST_SECONDS, LEAST_SHARE = 1.0, 0.02  # measured at least: so long, and this share of the time limit

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._said = False

    def shortage(
        self, iteration: int, elapsed: float, limits: Limits, *, reserve: float = 0.0, validating: float = 0.0
    ) -> str | None:
        """The warning, given once, that fewer than FEW_STEPS steps are to be expected; asked after each step.

        elapsed: seconds so far, of them `validating` in validation. reserve: kept for the final validation.
        """
        if limits.max_seconds is None or self._said:
            return None
        if self._first is None:
            self._first = iteration, elapsed - validating
            return None
        steps, seconds = iteration - self._first[0], elapsed - validating - self._first[1]
        enough = max(self.LEAST_SECONDS, self.LEAST_SHARE * limits.max_seconds)
        if steps < self.LEAST_STEPS or (steps < self.ENOUGH_STEPS and seconds < enough):
            return None
        self._said = True
        each = max(seconds, 1e-9) / steps
        expected = iteration + int(max(0.0, limits.max_seconds - reserve - elapsed) / each)
        if expected >= min(FEW_STEPS, limits.iterations):
            return None
        better = duration(1.1 * (elapsed + (FEW_STEPS - iteration) * each + reserve))
        return (
            f"{duration(limits.max_seconds)} allow about {expected} steps of {each:.2g} s, fewer than {FEW_STEPS}: "
            f"expect poor points. Give --max-time about {better} or more, end other programs, train on a GPU, or plan "
            "with a smaller --preset"
        )


@dataclass
class ValidationBudget:
    """Keeps validation during training within a share of the run's time, the final validation of all cases included.

    Validation falls due at every twentieth of the run, at an epoch's end. Where its cost does not fit, fewer cases are
    looked at (always the same ones, so that results compare), then less often. seconds_per_case: measured, None before.
    """

    share: float
    n_cases: int  # held out
    seconds_per_case: float | None = None
    spent: float = 0.0
    chosen: int | None = None  # how many cases are looked at
    last_progress: float = 0.0
    measured: int = 0  # cases that the codec looks at too, at the end
    searches: bool = False  # at the end, what windows call elsewhere

    TIMES = 20
    AT_MOST = 0.5  # of a time limit is kept for the final validation
    SEARCH = 2.0  # seconds of a case at the end, over those of a case before

    def reserve(self, limits: Limits) -> float:
        """Seconds of the time limit to keep for the end: the expected length of the final validation and of what the
        codec measures, at most half of it."""
        if limits.max_seconds is None or self.n_cases == 0:
            return 0.0
        cases = self.n_cases * (self.SEARCH if self.searches else 1.0) + self.measured
        return min(self.AT_MOST * limits.max_seconds, (self.seconds_per_case or 0.0) * cases)

    def must_time(self, progress: float, limits: Limits) -> bool:
        """Whether a first case has to be timed now, though no epoch ends, so that `reserve` knows what to keep."""
        unknown = limits.max_seconds is not None and self.n_cases > 0 and self.seconds_per_case is None
        return unknown and 1 / self.TIMES <= progress < 1

    def due(self, progress: float) -> bool:
        """Whether a twentieth of the run has been completed since the last validation."""
        return self.n_cases > 0 and int(progress * self.TIMES + 1e-9) > int(self.last_progress * self.TIMES + 1e-9)

    def affordable(self, progress: float, elapsed: float) -> int:
        """The number of cases that may be looked at now, 0 for none."""
        if self.seconds_per_case is None:
            return 1 if self.share > 0 else 0  # to measure what one costs
        total = elapsed / max(progress, 1e-9)
        whole = (
            self.share * total - self.seconds_per_case * self.n_cases
        )  # what the final validation leaves, of the run
        if self.chosen is None:
            fits = int(whole / (self.TIMES / 2) / self.seconds_per_case)
            self.chosen = min(self.n_cases, max(fits, 3))
        cost = self.chosen * self.seconds_per_case
        return self.chosen if self.spent + cost <= whole * progress else 0

    def took(self, cases: int, seconds: float, progress: float) -> None:
        """Account for a validation."""
        self.spent += seconds
        self.last_progress = progress
        if cases:
            self.seconds_per_case = seconds / cases
