"""The loop of a training run: steps, epochs, validations, checkpoints, and the end; see `training`."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autolmk.data.loading import Drawing, TrainingLoader
from autolmk.data.stage_windows import Placement
from autolmk.data.store import Store
from autolmk.errors import AutolmkError
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.log import Console, Logger, RunLog, duration, time_left
from autolmk.fold.measured import Measured
from autolmk.methods.trainer import Trainer
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.stage import Member, Stage
from autolmk.progress_bars import tracked
from autolmk.training.doors import own_numbers
from autolmk.training.drawing import adopted, choose_drawing
from autolmk.training.rows import adopted_rows, tell_rows, training_rows
from autolmk.training.schedule import MEASURED_CASES, StepRate
from autolmk.training.signals import Signals
from autolmk.training.state import Run
from autolmk.training.validation import (
    Interrupted,
    Validation,
    calibrate,
    held_out_windows,
    sentence,
    subset,
    validate,
    write_results,
)

SAVE_AFTER, SAVE_EVERY = 15.0, 300.0  # s between checkpoints: at least (but for epochs' ends), at most
SAVE_SHARE = 0.02  # of the time, at most, is spent on writing them, as long as SAVE_EVERY holds
OVERRUN_SAID = 1.0  # s beyond the time limit, from which on it is said
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The user's choices for a run, see `fit`. share: of the length that is chosen or planned. rates: of single layers,
    see `layer_rates`.
    """

    device: str
    seed: int | None
    workers: int
    epochs: int | None
    max_seconds: float | None
    pretrained: Path | None
    compile: bool
    loggers: Callable[[Path], Sequence[Logger]] | None
    share: float = 1.0
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Earlier:
    """The facts that a later stage's training knows of those before it. placement: of its windows, from their errors on
    cases that they had not seen. predict: case -> what they say of it.
    """

    placement: Placement
    predict: Callable[[str], Prediction]


@dataclass(frozen=True)
class Work:
    """The work of a fit. earlier: for a later stage. refit_of: folder of a finished run on a part of these cases."""

    trainer: Trainer
    store: Store
    train_cases: tuple[str, ...]
    val_cases: tuple[str, ...]
    folder: Path
    settings: Settings
    earlier: Earlier | None = None
    refit_of: Path | None = None


class Loop:
    """Training and its end: steps, epochs, validations, checkpoints."""

    def __init__(
        self, work: Work, run: Run, measured: Measured, log: RunLog, console: Console, signals: Signals
    ) -> None:
        self.work, self.run, self.measured = work, run, measured
        self.log, self.console, self.signals = log, console, signals
        self._saved = time.monotonic()
        self._save_seconds = 0.0
        self._waited = 0.0
        self._rate, self._spent_before = StepRate(), run.budget.spent
        self._compiled = not work.settings.compile

    def announce(self) -> None:
        """Say what is about to happen."""
        run, limits = self.run, self.run.limits
        start = f"going on from iteration {run.iteration}" if run.iteration else "starting"
        logger.info(
            "%s: %s on %s (%s), %d training and %d held-out cases, %s",
            self.work.folder,
            start,
            run.device,
            run.precision.describe(),
            len(self.work.train_cases),
            len(self.work.val_cases),
            limits.describe(),
        )
        run.doors.tell("started", run.stands())
        for other in self.log.loggers:
            other.begin({"folder": str(self.work.folder), "seed": run.seed, "iterations": limits.iterations})

    def train(self) -> bool:
        """Train until the run's iterations or time are over, at least one step; False where it was asked to stop
        before.
        """
        if self.run.at_epoch_end() and not self._close_epoch():
            return False
        if self.run.doors.memory.ended or (self.run.iteration and self.run.progress() >= 1.0):
            return True
        if not self.run.iteration:
            self._weigh()
        with self._loader() as loader:
            for batch in self._timed(loader):
                if not self._compiled:  # in a resumed run too
                    self._compiled = True
                    self.run.compile(batch)
                self.run.step(batch)
                self.run.doors.tell("iteration_completed", self.run.stands())
                self._warn_of_few_steps()
                self.console.show(self.run.progress(), self.run.clock.elapsed(), self.run.last_loss)
                if self.run.at_epoch_end() and not self._close_epoch():
                    return False
                loader.draw_by(self.run.doors.weights(self.work.train_cases))
                if not self._time_a_case():
                    return False
                if self.signals.stop():
                    return False
                if self.signals.save() or self._save_due(SAVE_AFTER):
                    self._save()
                if self.run.progress() >= 1.0 or self.run.doors.memory.ended or self.signals.finish():
                    return True
        return True

    def _loader(self) -> TrainingLoader:
        trainer, run = self.work.trainer, self.run
        return TrainingLoader(
            self.work.store,
            self.work.train_cases,
            trainer.plans,
            trainer.configuration,
            trainer.build_augmentation(),
            seed=run.seed,
            first_iteration=run.iteration,
            iterations=max(0, run.limits.iterations - run.iteration),
            workers=self.work.settings.workers,
            placement=self.measured.placement,
            shape=self.measured.shape(trainer.plans.landmarks),
            drawing=Drawing(
                trainer.anew().augment if run.doors.augments else None, run.doors.weights(self.work.train_cases)
            ),
        )

    def _weigh(self) -> None:
        """Let the trainer say how often each case is drawn from now on."""
        if not self.run.doors.weighs:
            return
        stored = {case: self.work.store.load(case) for case in self.work.train_cases}
        self.run.doors.weigh({case: (one.landmarks, one.subject) for case, one in stored.items()})

    def _timed(self, loader: TrainingLoader) -> Iterator[Any]:
        """Batches, counting the time that training waits for them."""
        while True:
            before = time.monotonic()
            try:
                batch = next(loader)
            except StopIteration:
                return
            except AutolmkError:
                if self.signals.stop():  # a scheduler's signal reaches the workers too
                    return
                raise
            self._waited += time.monotonic() - before
            yield batch

    # -- between steps ------------------------------------------------------------------------------------------------

    def _save_due(self, at_least: float) -> bool:
        return time.monotonic() - self._saved >= min(SAVE_EVERY, max(at_least, self._save_seconds / SAVE_SHARE))

    def _save(self) -> None:
        start = time.monotonic()
        self.run.save_latest()
        self._saved = time.monotonic()
        self._save_seconds = self._saved - start

    def _log_epoch(self) -> tuple[float, float, dict[str, float]]:
        """Log the steps since the last epoch's end; gives (progress, seconds so far, what its event tells)."""
        run = self.run
        run.look()
        elapsed, progress, means = run.clock.elapsed(), run.progress(), run.epoch_means()
        values = {
            "epoch": run.epoch(),
            "progress": progress,
            "learning_rate": run.learning_rate(),
            **means,
            "waited_for_data": round(self._waited, 3),
            **_device_memory(run.device),
        }
        left = duration(time_left(progress, elapsed))
        said = f"epoch {run.epoch()}: loss {means['loss']:.4g}, {100 * progress:.1f} %, {left} left"
        self.log.add("epoch", run.iteration, elapsed, values, message=said)
        self._waited = 0.0
        return progress, elapsed, {**means, "learning_rate": run.learning_rate()}

    def _close_epoch(self) -> bool:
        """Log, save, and validate if it is due; False where validation was interrupted. Done again if it was killed."""
        run = self.run
        progress, elapsed, told = self._log_epoch()
        cases = run.budget.affordable(progress, elapsed) if run.budget.due(progress) else 0
        if cases:
            if self._save_due(0.0):
                self._save()
            try:
                self._validate(subset(self.work.val_cases, cases), progress)
            except Interrupted:
                return False
        run.begin_epoch()  # what follows comes once, as whatever was saved before it does not know that the epoch ended
        run.doors.tell("epoch_completed", run.stands(), told)
        if cases and run.doors.ask_to_stop():
            logger.info("the trainer ends training after iteration %d", run.iteration)
        self._weigh()
        if self._save_due(0.0):
            self._save()
        return True

    def _warn_of_few_steps(self) -> None:
        run, budget = self.run, self.run.budget
        shortage = self._rate.shortage(
            run.iteration,
            run.clock.elapsed(),
            run.limits,
            reserve=budget.reserve(run.limits),
            validating=budget.spent - self._spent_before,
        )
        if shortage is not None:
            logger.warning(shortage)

    def _time_a_case(self) -> bool:
        """Amid an epoch too, so that time is kept for the final validation of a slow run; False where interrupted."""
        run = self.run
        progress = run.progress()
        if run.budget.must_time(progress, run.limits):
            try:
                self._validate(subset(self.work.val_cases, 1), progress)
            except Interrupted:
                return False
        return True

    def _stage(self) -> Stage:
        """The averaged weights, ready to predict."""
        trainer, average = self.work.trainer, self.run.averaged
        member = Member(trainer.prediction_network(average.network), average.codec, self.measured.untrained)
        return Stage(trainer.plans, trainer.configuration, (member,), (self.measured,), self.run.device)

    def _predict(self, cases: Sequence[str], *, final: bool) -> Validation:
        """Before the end without searches: a network that has learnt little calls much elsewhere, and would search in
        vain for longer than it trains."""
        bar = partial(tracked, label="final validation", shown=final)
        return validate(
            self._stage(),
            self.work.store,
            cases,
            before=None if self.work.earlier is None else self.work.earlier.predict,
            search=final,
            interrupted=self.signals.stop,
            progress=bar,
        )

    def _validate(self, cases: Sequence[str], progress: float) -> None:
        """During training, with the averaged weights; keeps the best ones."""
        run = self.run
        validation = self._predict(cases, final=False)
        run.budget.took(len(cases), validation.seconds, progress)
        whole = run.budget.chosen == len(cases)  # a look at one case only measures what a look costs
        numbers = run.doors.numbers(validation)
        best = whole and run.doors.improves(numbers, run.best)
        if whole:
            run.doors.remember(numbers, run.stands())
        self._judge(validation, numbers, "best so far" if best else "", keep=whole)

    def _judge(self, validation: Validation, numbers: Mapping[str, float | None], note: str, *, keep: bool) -> None:
        """Log, and keep the weights where the chosen metric is the best so far and comparable. numbers: all metrics."""
        run, unit = self.run, self.work.trainer.plans.unit
        if keep and run.doors.improves(numbers, run.best):
            run.best, run.best_iteration = numbers[self.work.trainer.best_by], run.iteration
            run.save_weights("best")
        own = "".join(
            f", {name} {value:.4g}" for name, value in own_numbers(numbers, validation).items() if value is not None
        )
        said = f"validation at iteration {run.iteration} ({len(validation.results)} cases): "
        said += sentence(validation.numbers(), unit) + own
        self.log.add(
            "validation",
            run.iteration,
            run.clock.elapsed(),
            numbers,
            message=f"{said} ({note})" if note else said,
        )
        run.doors.tell("validation_completed", run.stands(), numbers)

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> bool:
        """Validate all held-out cases with the final averaged weights and write everything; False where interrupted.

        checkpoint_final comes last: whoever sees it sees all the rest.
        """
        run, work, took = self.run, self.work, 0.0
        plans, configuration = work.trainer.plans, work.trainer.configuration
        training = partial(training_rows, work.store, work.train_cases, self.measured, plans)
        if run.iteration == 0:
            raise AutolmkError(
                "training has no step to take",
                found=run.limits.describe(),
                expected="one iteration or more",
                remedy="plan, or --set, epochs and iterations an epoch of 1 or more",
            )
        if run.iteration > run.closed:  # time was over amid an epoch
            _, _, told = self._log_epoch()
            run.begin_epoch()
            run.doors.tell("epoch_completed", run.stands(), told)
        self._save()
        if work.val_cases:
            try:
                self._measure_decoding()
                validation = self._predict(work.val_cases, final=True)
            except Interrupted:
                return False
            took = validation.seconds
            comparable = run.best is None or run.budget.chosen == len(work.val_cases)
            self._judge(validation, run.doors.numbers(validation), "final weights, all held-out cases", keep=comparable)
            self.measured, validation = tell_rows(self._stage(), validation, training)
            self.measured, validation = choose_drawing(self._stage(), validation)
            self.measured, validation = calibrate(self._stage(), validation)
            write_results(work.folder / "validation", validation, plans, configuration)
        elif work.refit_of is not None:
            self.measured = self.measured.held_out_as(Measured.load(work.refit_of))
        else:
            rows = adopted_rows(work.folder, run.digest, training) if configuration.previous_stage is None else None
            self.measured = dataclasses.replace(self.measured, errors=adopted(work.folder, run.digest), rows=rows)
        self.measured.save(work.folder)
        self._end(took)
        self.log.draw()
        self.signals.finished()  # before the weights: what is asked for after them is for what comes next
        run.doors.tell("completed", run.stands())
        run.save_weights("final")
        checkpoint_file(work.folder, "latest").unlink(missing_ok=True)
        logger.info("finished after %d iterations in %s", run.iteration, duration(run.clock.elapsed()))
        return True

    def _measure_decoding(self) -> None:
        """Let the codec measure on held-out cases how to decode, and decode so from now on."""
        stage, cases = self._stage(), subset(self.work.val_cases, MEASURED_CASES)
        codec = stage.members[0].codec
        found = codec.measure(held_out_windows(stage, self.work.store, cases, interrupted=self.signals.stop))
        codec.adopt(found)
        self.measured = dataclasses.replace(self.measured, decoding=found)

    def _end(self, took: float) -> None:
        """Log the end, and say by how much the time limit was overrun. took: seconds of the final validation."""
        run, limit = self.run, self.run.limits.max_seconds
        elapsed, kept = run.clock.elapsed(), run.budget.reserve(run.limits)
        over = 0.0 if limit is None else max(0.0, elapsed - limit)
        values = {"max_seconds": limit, "overrun": over, "final_validation": took, "kept_for_it": kept}
        self.log.add("end", run.iteration, elapsed, values)
        if limit is not None and over >= OVERRUN_SAID:
            cause = f"the final validation took {duration(took)}, {duration(kept)} had been kept for it"
            logger.warning(
                "the time limit of %s was overrun by %s%s", duration(limit), duration(over), f": {cause}" * (took > 0)
            )


def _device_memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {"peak_memory_gb": round(torch.cuda.max_memory_allocated(device) / 2**30, 3)}
