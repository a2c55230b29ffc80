"""The loop of a training run: steps, epochs, validations, checkpoints, and the end; see `training`."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from autolmk import ranks
from autolmk.data.loading import BatchSource, Drawing, TrainingLoader
from autolmk.errors import AutolmkError
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.log import Console, RunLog, duration, time_left
from autolmk.fold.measured import Measured
from autolmk.prediction.stage import Member, Stage
from autolmk.progress_bars import tracked
from autolmk.training.doors import own_numbers
from autolmk.training.drawing import adopted, choose_drawing
from autolmk.training.rows import adopted_rows, tell_rows, training_rows
from autolmk.training.schedule import MEASURED_CASES, StepRate
from autolmk.training.sharing import Settlement, rows_of_rank
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
from autolmk.training.work import Work

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
SAVE_AFTER, SAVE_EVERY = 15.0, 300.0  # s between checkpoints: at least (but for epochs' ends), at most
SAVE_SHARE = 0.02  # of the time, at most, is spent on writing them, as long as SAVE_EVERY holds
OVERRUN_SAID = 1.0  # s beyond the time limit, from which on it is said
logger = logging.getLogger(__name__)


class Loop:
    """Training and its end: steps, epochs, validations, checkpoints. All ranks run it alike; the first one writes."""

    def __init__(
        self, work: Work, run: Run, measured: Measured, log: RunLog, console: Console, signals: Signals
    ) -> None:
        self.work, self.run, self.measured = work, run, measured
        self.log, self.console, self.asked = log, console, Settlement(signals)
        self._saved = time.monotonic()
        self._save_seconds = 0.0
        self._waited = 0.0
        self._rate, self._spent_before = StepRate(), run.budget.spent
        self._compiled = not work.settings.compile

    def announce(self) -> None:
        """Say what is about to happen."""
        work, run, limits = self.work, self.run, self.run.limits
        start = f"going on from iteration {run.iteration}" if run.iteration else "starting"
        logger.info(
            "%s: %s on %s (%s), %d training and %d held-out cases, %s",
            work.folder,
            start,
            run.device if ranks.size() == 1 else f"{ranks.size()} devices such as {run.device}",
            run.precision.describe(),
            len(work.train_cases),
            len(work.val_cases),
            limits.describe(),
        )
        parts = run.network.modules()
        if ranks.size() > 1 and any(isinstance(part, BATCH_NORMS) for part in parts):
            batch = work.trainer.configuration.batch_size
            said = "the network has batch norm: each device normalises by its own part of a batch, %d of %d windows"
            logger.warning(said, batch // ranks.size(), batch)
        self.asked.settle(run.clock)
        run.doors.tell("started", run.stands())
        for other in self.log.loggers:
            other.begin({"folder": str(work.folder), "seed": run.seed, "iterations": limits.iterations})

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
                self.asked.settle(self.run.clock, save=self._save_due(SAVE_AFTER))
                self.run.doors.tell("iteration_completed", self.run.stands())
                self._warn_of_few_steps()
                self.console.show(self.run.progress(), self.run.clock.elapsed(), self.run.last_loss)
                if self.run.at_epoch_end() and not self._close_epoch():
                    return False
                loader.draw_by(self.run.doors.weights(self.work.train_cases))
                if not self._time_a_case():
                    return False
                if self.asked.stop():
                    return False
                if self.asked.save():
                    self._save()
                if self.run.progress() >= 1.0 or self.run.doors.memory.ended or self.asked.finish():
                    return True
        return True

    def _loader(self) -> TrainingLoader:
        trainer, run = self.work.trainer, self.run
        source = BatchSource(
            self.work.store,
            self.work.train_cases,
            trainer.plans,
            trainer.configuration,
            trainer.build_augmentation(),
            run.seed,
            self.measured.placement,
            self.measured.shape(trainer.plans.landmarks),
            Drawing(trainer.anew().augment if run.doors.augments else None, run.doors.weights(self.work.train_cases)),
            rows_of_rank(trainer.configuration),
        )
        return TrainingLoader(
            source,
            first_iteration=run.iteration,
            iterations=max(0, run.limits.iterations - run.iteration),
            workers=self.work.settings.workers,
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
                if self.asked.stop():  # a scheduler's signal reaches the workers too
                    return
                raise
            self._waited += time.monotonic() - before
            yield batch

    # -- between steps ------------------------------------------------------------------------------------------------

    def _save_due(self, at_least: float) -> bool:
        """Whether this rank would write a checkpoint now; the first one decides."""
        return time.monotonic() - self._saved >= min(SAVE_EVERY, max(at_least, self._save_seconds / SAVE_SHARE))

    def _save(self) -> None:
        self.asked.save()  # what was asked for is done now
        start = time.monotonic()
        self.run.save_latest()
        self._saved = time.monotonic()
        self._save_seconds = self._saved - start

    def _save_if_due(self) -> None:
        if ranks.of_first(self._save_due(0.0)):
            self._save()

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
            self._save_if_due()
            try:
                self._validate(cases, progress)
            except Interrupted:
                return False
        run.begin_epoch()  # what follows comes once, as whatever was saved before it does not know that the epoch ended
        run.doors.tell("epoch_completed", run.stands(), told)
        if cases and run.doors.ask_to_stop():
            logger.info("the trainer ends training after iteration %d", run.iteration)
        self._weigh()
        self._save_if_due()
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
                self._validate(1, progress)
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
            interrupted=self.asked.signals.stop,
            progress=bar,
        )

    def _validate(self, n: int, progress: float) -> None:
        """During training, on n cases with the averaged weights; keeps the best ones. 1: one a rank, so that what a
        case costs is measured."""
        run, cases = self.run, subset(self.work.val_cases, max(n, ranks.size()) if n == 1 else n)
        validation = self._predict(cases, final=False)
        run.budget.took(len(cases), validation.seconds, progress)
        self.asked.settle(run.clock)
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
        run, work, validation = self.run, self.work, None
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
            comparable = run.best is None or run.budget.chosen == len(work.val_cases)
            self._judge(validation, run.doors.numbers(validation), "final weights, all held-out cases", keep=comparable)
        if ranks.first():
            self._write(validation)
            self.asked.signals.finished()  # before the weights: what is asked for after them is for what comes next
        run.doors.tell("completed", run.stands())
        run.save_weights("final")
        if ranks.first():
            checkpoint_file(work.folder, "latest").unlink(missing_ok=True)
        logger.info("finished after %d iterations in %s", run.iteration, duration(run.clock.elapsed()))
        return True

    def _write(self, validation: Validation | None) -> None:
        """What the final validation tells, and the log's end; the first rank does it."""
        run, work, plans = self.run, self.work, self.work.trainer.plans
        training = partial(training_rows, work.store, work.train_cases, self.measured, plans)
        if validation is not None:
            self.measured, validation = tell_rows(self._stage(), validation, training)
            self.measured, validation = choose_drawing(self._stage(), validation)
            self.measured, validation = calibrate(self._stage(), validation)
            write_results(work.folder / "validation", validation, plans, work.trainer.configuration)
        elif work.refit_of is not None:
            self.measured = self.measured.held_out_as(Measured.load(work.refit_of))
        else:
            first_stage = work.trainer.configuration.previous_stage is None
            rows = adopted_rows(work.folder, run.digest, training) if first_stage else None
            self.measured = dataclasses.replace(self.measured, errors=adopted(work.folder, run.digest), rows=rows)
        self.measured.save(work.folder)
        run.clock.hold(None)
        self._end(0.0 if validation is None else validation.seconds)
        self.log.draw()

    def _measure_decoding(self) -> None:
        """Let the codec measure on held-out cases how to decode, and decode so from now on."""
        stage, cases = self._stage(), subset(self.work.val_cases, MEASURED_CASES)
        codec = stage.members[0].codec
        found = ranks.of_first(
            codec.measure(held_out_windows(stage, self.work.store, cases, interrupted=self.asked.stop))
        )
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
