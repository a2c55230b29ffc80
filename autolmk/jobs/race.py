"""The trainings of a run: fold by fold, in the order of the plans, without those that held-out errors show to be
hopeless, each as long as the time that is left then allows.

What is decided is recorded before it is done, so that a run that was broken off goes on with the same decisions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autolmk.data import splits
from autolmk.errors import AutolmkError, counted
from autolmk.files.serialization import read_json
from autolmk.fold.held_out import read_crossval
from autolmk.fold.log import duration
from autolmk.jobs.giving_up import judged, steps_of
from autolmk.jobs.job import Job, JobResult
from autolmk.jobs.narrowing import FEWEST_CASES, SHORT, fewest_folds, narrowed, ranked, useful_seconds
from autolmk.jobs.run_record import BEYOND, GivenUp, Record
from autolmk.jobs.time_shares import folds_at_once, length, waves, waves_to_come
from autolmk.jobs.workflow import ALL, Request, finished_folds, fold_folder, training
from autolmk.plans import Plans

LEAST_SECONDS = 2.0  # of a training: for less, folds are left out
FIRST_SECONDS = 30.0  # of a first training: for less, configurations are not even compared
MOST_BEYOND = 180.0, 0.5  # s, or share of its length, that a training takes beyond it: more is of a kill, and not usual
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Means:
    """The means of a race. run: does jobs, on so many slots. slots: trainings at a time. left: s of the run's time that
    are left for training, None without a limit. keep: writes the record down. say: tells the user.
    """

    run: Callable[[Sequence[Job], int], Sequence[JobResult]]
    slots: int
    left: Callable[[Record], float | None]
    keep: Callable[[Record], None]
    say: Callable[[str], None]


class Race:
    """All trainings that a record wants. `record` is as it was kept last."""

    def __init__(self, request: Request, plans: Plans, record: Record, means: Means) -> None:
        self.request, self.plans, self.record, self.means = request, plans, record, means

    def all(self) -> Record:
        """Train until nothing is left to train; return the record as it is then. AutolmkError where no time is left for
        any.
        """
        self._compare()  # where a call was broken off after a fold's last training
        while chosen := self._next():
            if self.record.shares is not None and not self._decide(chosen):
                continue
            self._train(chosen)
            self._compare()
        return self.record

    # -- what next ----------------------------------------------------------------------------------------------------

    @property
    def compares(self) -> bool:
        """Whether configurations may still be given up."""
        kept = self.record.kept()
        several = len(kept.configurations) > 1 and len(kept.folds) > 1
        return several and ALL not in kept.folds and not self.request.keep_all

    def _left(self) -> list[tuple[str, str]]:
        """(configuration, fold) that are still to be trained."""
        return [each for each in self.record.kept().trainings() if not self._job(*each).done]

    def _next(self) -> list[tuple[str, str]]:
        """Those that are trained at once: as many as there are slots where time is shared, of the next folds alone
        while configurations are compared."""
        left = self._left()
        if self.compares:
            folds = list(dict.fromkeys(fold for _, fold in left))
            now = folds[: folds_at_once(len(self.record.kept().configurations), self.means.slots)]
            left = [(name, fold) for name, fold in left if fold in now]
        return left if self.record.shares is None else left[: self.means.slots]

    def _job(self, name: str, fold: str) -> Job:
        return training(self.request, self.plans, self.record, name, fold)

    # -- how long -----------------------------------------------------------------------------------------------------

    def _decide(self, chosen: Sequence[tuple[str, str]]) -> bool:
        """Record how long the folds that begin now are trained; False where no time is left for them, and they are left
        out."""
        new = [fold for fold in dict.fromkeys(fold for _, fold in chosen) if fold not in self.record.lengths]
        if not new:
            return True
        seconds = self._length()
        if seconds < FIRST_SECONDS and not self.record.lengths and self._begin_with_fewer():
            return False
        if seconds < LEAST_SECONDS:
            self._leave_out(seconds)
            return False
        if self._leave_out_short(seconds):
            seconds = self._length()  # fewer networks predict faster
        self._keep(lengths={**self.record.lengths, **dict.fromkeys(new, seconds)})
        return True

    def _begin_with_fewer(self) -> bool:
        """Leave out folds, and configurations of which least is expected, where the first trainings would be too short
        to tell anything; not those that the user named. Whether any was left out."""
        record, kept = self.record, self.record.kept()
        seconds, names, folds = self.means.left(record), kept.configurations, kept.folds
        if seconds is None or self.request.keep_all or ALL in folds:
            return False
        fewest = len(folds)
        if self.request.folds is None:
            fewest = fewest_folds(fewest, self._cases(folds) / len(folds))
        useful = [FIRST_SECONDS] * len(names)
        n, n_folds = narrowed(useful, len(folds), fewest, self.means.slots, seconds, self._beyond())
        lost = names[n:] if self.request.configurations is None else ()
        if not lost and n_folds == len(folds):
            return False
        said = ", ".join([*lost, *(f"fold {fold}" for fold in folds[n_folds:])])
        self.means.say(f"\n{said}: left out at once, as the time does not suffice to train all for {FIRST_SECONDS:g} s")
        unseen = GivenUp((), 0, 0.0, names[0], 0.0, 0.0, None, 0.0, for_time=True)
        self._keep(
            given_up={**record.given_up, **dict.fromkeys(lost, unseen)}, left_out=(*record.left_out, *folds[n_folds:])
        )
        return True

    def _length(self) -> float:
        """Of each training of a fold that begins now."""
        record, slots, kept = self.record, self.means.slots, self.record.kept()
        seconds, beyond = self.means.left(record), self._beyond()
        assert seconds is not None
        left = self._left()
        if not self.compares:
            return length(seconds, -(-len(left) // slots), beyond)
        begun = [fold for _, fold in left if fold in record.lengths]
        longest = max((record.lengths[fold] for fold in begun), default=0.0)
        seconds -= waves(len(begun), 1, slots, compared=True) * (longest + beyond) if begun else 0.0
        new = [fold for fold in kept.folds if fold not in record.lengths]
        n = waves_to_come(len(kept.configurations), len(new), slots, compared=True, first=not record.judged)
        return length(seconds, n, beyond)

    def _beyond(self) -> float:
        """s that a training takes beyond its length, of the configuration that takes most."""
        return max(self.record.beyond.get(name, BEYOND) for name in self.record.kept().configurations)

    def _leave_out(self, seconds: float) -> None:
        """The last fold that has not begun, if others are there. AutolmkError otherwise."""
        *_, last = [fold for fold in self.record.kept().folds if fold not in self.record.lengths]
        if not self.record.lengths:
            raise AutolmkError(
                "no time is left for training",
                found=f"{max(0.0, seconds):.0f} s for each of {counted(len(self._left()), 'training')}",
                expected=f"{LEAST_SECONDS:g} s or more, and minutes for good points",
                remedy="give --max-time more time, or choose fewer configurations (-c) or folds (-f)",
            )
        logger.warning("no time is left for fold %s: left out", last)
        self._keep(left_out=(*self.record.left_out, last))

    def _leave_out_short(self, seconds: float) -> bool:
        """Of the final predictor: folds that were trained for much less than those that begin now, where these hold
        enough cases out; whether there are such."""
        kept = self.record.kept()
        if self.request.folds is not None or self.request.keep_all or not self.record.judged:
            return False
        short = tuple(fold for fold in kept.folds if self.record.lengths.get(fold, seconds) < SHORT * seconds)
        if not short or self._cases(set(kept.folds) - set(short)) < FEWEST_CASES:
            return False
        self.means.say(f"\nfold {', '.join(short)}: trained for too short a time to join the final predictor")
        self.record = replace(self.record, left_out=(*self.record.left_out, *short))  # kept with the new lengths
        return True

    def _cases(self, folds: Collection[str]) -> int:
        """That these folds hold out."""
        found = read_json(self.request.preprocessed / splits.FILE_NAME, remedy=splits.REMEDY)
        return sum(len(found[int(fold)]["val"]) for fold in folds)

    # -- training and comparing ---------------------------------------------------------------------------------------

    def _train(self, chosen: Sequence[tuple[str, str]]) -> None:
        jobs = [self._job(*each) for each in chosen]
        fresh = {job.name: name for job, (name, _) in zip(jobs, chosen, strict=True) if not _begun(job)}
        limited = self.record.shares is not None
        if limited:
            each = " or ".join(dict.fromkeys(duration(job.seconds or 0.0) for job in jobs))
            self.means.say(f"\ntraining {', '.join(job.name for job in jobs)}: {each} each")
        beyond = dict(self.record.beyond)
        for result in self.means.run(jobs, self.means.slots if self.compares else len(jobs)):
            planned, name = result.job.seconds or 0.0, fresh.get(result.job.name)
            more = round(result.seconds - planned, 1)
            if limited and name is not None and 0 < more <= max(MOST_BEYOND[0], MOST_BEYOND[1] * planned):
                beyond[name] = max(more, beyond.get(name, 0.0))
        if beyond != self.record.beyond:
            self._keep(beyond=beyond)

    def _compare(self) -> None:
        """Once all configurations were trained on a fold, and another one is to come: give up what is hopeless, and
        what there is no time for."""
        done = finished_folds(self.request, self.plans, self.record) if self.compares else []
        if not done or done[-1] in self.record.judged or not self._left():
            return
        found, steps = self._judged(done)
        lost = {name: why for name, why in found.items() if why.hopeless}
        self.record = replace(self.record, given_up={**self.record.given_up, **lost})  # kept once all is decided
        late, folds = self._narrowed({n: why for n, why in found.items() if n not in lost}, steps, done)
        for name, why in {**lost, **late}.items():
            self.means.say(f"\n{name} is given up: {why.describe(self.plans.unit)}")
        if folds:
            self.means.say(f"\nfold {', '.join(folds)}: left out, so that the others are trained for long enough")
        self._keep(
            given_up={**self.record.given_up, **late},
            left_out=(*self.record.left_out, *folds),
            judged=(*self.record.judged, done[-1]),
        )

    def _judged(self, folds: Sequence[str]) -> tuple[dict[str, GivenUp], dict[str, int]]:
        """(what is to be said of each configuration that is left, by these folds; its steps)."""
        names = self.record.kept().configurations
        folders: dict[str, list[Path]] = {
            name: [fold_folder(self.request, self.plans, name, fold) for fold in folds] for name in names
        }
        models = {name: read_crossval(each[0].parent, [int(f) for f in folds]) for name, each in folders.items()}
        stages = {name: self.plans.chain(name) for name in names}
        steps = {name: min(steps_of(fold, stages[name]) for fold in each) for name, each in folders.items()}
        return judged(models, steps), steps

    def _narrowed(
        self, found: Mapping[str, GivenUp], steps: Mapping[str, int], done: Sequence[str]
    ) -> tuple[dict[str, GivenUp], tuple[str, ...]]:
        """(configurations, folds) that there is no time for. Folds that the user asked for are kept."""
        seconds = self.means.left(self.record)
        if seconds is None:
            return {}, ()
        folds = [fold for fold in self.record.kept().folds if fold not in done and fold not in self.record.lengths]
        fewest = len(folds)
        if self.request.folds is None:
            fewest = fewest_folds(fewest, next(iter(found.values())).cases / len(done))
        names = ranked(found, steps, self.record.wanted.configurations)
        so_far = min(self.record.lengths.get(fold, 0.0) for fold in done)
        useful = [useful_seconds(so_far, steps[name]) for name in names]
        n, n_folds = narrowed(useful, len(folds), fewest, self.means.slots, seconds, self._beyond())
        return {name: replace(found[name], for_time=True) for name in names[n:]}, tuple(folds[n_folds:])

    def _keep(self, **changes: object) -> None:
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        self.means.keep(self.record)


def _begun(job: Job) -> bool:
    return job.folder is not None and job.folder.exists()
