"""autolmk_run's --max-time: what of it is left for training, once what the steps behind it take is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autolmk.cli import later_hours

if TYPE_CHECKING:
    from autolmk.jobs.run_record import Record, Shares, Wanted
    from autolmk.jobs.workflow import Request
    from autolmk.plans import Plans


class Limit:
    """Of one call. pace: as measured before. until: the steps that are done at all."""

    def __init__(self, request: Request, plans: Plans, pace: later_hours.Pace, until: Sequence[str]) -> None:
        self.request, self.plans, self.pace, self.until = request, plans, pace, until

    def left(self, record: Record, taken: float) -> float | None:
        """s for training, of which `taken` s are over for the whole run; None without a limit."""
        from autolmk.jobs.time_shares import with_margin

        seconds = record.wanted.max_seconds
        if seconds is None or record.shares is None:
            return None
        return seconds - taken - with_margin(self.reserved(record, seconds), seconds)

    def reserved(self, record: Record, seconds: float) -> dict[str, float]:
        """Step -> s to keep for it, of those behind training."""
        from autolmk.jobs.workflow import after_training

        steps = after_training(self.request, self.plans, record.kept())
        applying = [step.name for step in steps if step.job is not None and step.name in self.until]
        found = later_hours.seconds_of_steps(self.request, self.plans, record, self.pace)
        found = {step: s for step, s in found.items() if step in applying}
        return later_hours.complete(found, applying, seconds)

    def shares(self, asked: Wanted, slots: int, *, taken: float, compared: bool = True) -> Shares:
        """Of a new run, as is to be expected now. compared: configurations may be given up."""
        from autolmk.jobs.run_record import Record
        from autolmk.jobs.time_shares import share_out
        from autolmk.jobs.workflow import ALL

        assert asked.max_seconds is not None
        methods, folds = len(asked.configurations), len(asked.folds)
        return share_out(
            asked.max_seconds,
            self.reserved(Record(asked, None), asked.max_seconds),
            methods=methods,
            folds=folds,
            slots=slots,
            compared=compared and not self.request.keep_all and min(methods, folds) > 1 and ALL not in asked.folds,
            taken=taken,
        )
