"""How far a run is, and the learning rate that follows from it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from autolmk.plans import Schedule

WARM_UP_ITERATIONS = 50  # at most; a tenth of a very short run
POWER = 0.9  # of the polynomial decay, as nnU-Net's (Isensee et al., Nature Methods 2021)


@dataclass(frozen=True)
class Limits:
    """What ends a run: a number of iterations, and a time (s) over all of its resumes where max_seconds is not None."""

    iterations: int
    max_seconds: float | None

    @classmethod
    def of(cls, schedule: Schedule, *, epochs: int | None = None, max_seconds: float | None = None) -> Limits:
        """The plan's limits, or what the user gives instead: `epochs` alone leaves no time limit, so that the run is a
        function of its seed; `max_seconds` leaves the plan's epochs as the other limit."""
        time_limit = max_seconds if max_seconds is not None or epochs is not None else schedule.max_seconds
        return cls((schedule.epochs if epochs is None else epochs) * schedule.iterations_per_epoch, time_limit)

    def progress(self, iteration: int, elapsed: float, reserve: float = 0.0) -> float:
        """Share of the run that is over, 0 to 1: by iterations or by time, whichever is further on.

        elapsed: seconds so far. reserve: seconds of the time limit that are kept for the final validation.
        """
        by_iterations = iteration / max(1, self.iterations)
        by_time = 0.0 if self.max_seconds is None else elapsed / max(1e-9, self.max_seconds - reserve)
        return min(1.0, max(by_iterations, by_time))


def learning_rate_factor(progress: float, iteration: int, iterations: int) -> float:
    """Of the planned rate, for the step that follows `iteration` steps: a linear warm-up, then (1 - progress)^0.9."""
    warm_up = max(1, min(WARM_UP_ITERATIONS, iterations // 10))
    return min(1.0, (iteration + 1) / warm_up) * float(max(0.0, 1.0 - progress) ** POWER)


class Clock:
    """Seconds that a run took, over all of its resumes."""

    def __init__(self, before: float = 0.0) -> None:
        self._before, self._start = before, time.monotonic()

    def elapsed(self) -> float:
        """Seconds."""
        return self._before + time.monotonic() - self._start


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

    TIMES = 20

    def reserve(self, limits: Limits) -> float:
        """Seconds of the time limit to keep for the final validation: its expected length, at most the whole share."""
        if limits.max_seconds is None or self.n_cases == 0:
            return 0.0
        return min(self.share * limits.max_seconds, (self.seconds_per_case or 0.0) * self.n_cases)

    def due(self, progress: float) -> bool:
        """Whether a twentieth of the run has been completed since the last validation."""
        return self.n_cases > 0 and int(progress * self.TIMES + 1e-9) > int(self.last_progress * self.TIMES + 1e-9)

    def affordable(self, progress: float, elapsed: float) -> int:
        """How many cases may be looked at now, 0 for none."""
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
