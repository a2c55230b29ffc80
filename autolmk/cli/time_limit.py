"""autolmk_run's --max-time: what of it is left for training, once what the steps behind it take is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autolmk.cli import later_hours

if TYPE_CHECKING:
    from autolmk.jobs.run_record import Record, TimeShares, Wanted
    from autolmk.jobs.workflow import Request
    from autolmk.plans import Plans

SWITCH = 0.03  # of a run's time that is kept for a predictor of more members than are likely


class Limit:
    """The time limit of one call. pace: as measured before. until: the steps that are done at all."""

    def __init__(self, request: Request, plans: Plans, pace: later_hours.Pace, until: Sequence[str]) -> None:
        self.request, self.plans, self.pace, self.until = request, plans, pace, until
        self._found: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, ...] | None] = {}

    def left(self, record: Record, taken: float) -> float | None:
        """s for training, of which `taken` s are over for the whole run; None without a limit."""
        from autolmk.jobs.time_shares import with_margin

        seconds = record.wanted.max_seconds
        if seconds is None or record.shares is None:
            return None
        return seconds - taken - with_margin(self.reserved(record, seconds), seconds)

    def reserved(self, record: Record, seconds: float) -> dict[str, float]:
        """The seconds to keep for each step behind training. For prediction: what the likely members of the chosen
        predictor take, and up to SWITCH of all time more, as others may be chosen.
        """
        from autolmk.jobs.workflow import after_training

        steps = after_training(self.request, self.plans, record.kept())
        applying = [step.name for step in steps if step.job is not None and step.name in self.until]
        found = self._expected(record)
        members = self._likely(record) if "predict" in applying and "predict" in found else None
        if members is not None:
            likely = self._expected(record, members)["predict"]
            found["predict"] = min(found["predict"], likely + SWITCH * seconds)
        found = {step: s for step, s in found.items() if step in applying}
        return later_hours.complete(found, applying, seconds)

    def _expected(self, record: Record, members: Sequence[str] | None = None) -> dict[str, float]:
        return later_hours.seconds_of_steps(self.request, self.plans, record, self.pace, members)

    def _likely(self, record: Record) -> tuple[str, ...] | None:
        """None while nothing tells. Found once for the same folds and configurations."""
        from autolmk.fold.held_out import read_crossval
        from autolmk.jobs.likely_members import likely_members
        from autolmk.jobs.workflow import ALL, finished_folds, fold_folder

        names = record.kept().configurations
        folds = [fold for fold in finished_folds(self.request, self.plans, record) if fold != ALL]
        key = (names, tuple(folds))
        if len(names) < 2 or len(folds) < 2:
            return None
        if key not in self._found:
            folders = {name: fold_folder(self.request, self.plans, name, folds[0]).parent for name in names}
            models = {name: read_crossval(folder, [int(f) for f in folds]) for name, folder in folders.items()}
            stages = {name: len(self.plans.chain(name)) for name in names}
            self._found[key] = likely_members(models, stages)
        return self._found[key]

    def shares(self, asked: Wanted, slots: int, *, taken: float, compared: bool = True) -> TimeShares:
        """The shares of a new run's time, as is to be expected now. compared: configurations may be given up."""
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
