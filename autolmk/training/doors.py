"""The questions of a run to its trainer beside network, codec and loss, and what of the answers a checkpoint
must hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from autolmk import ranks
from autolmk.errors import AutolmkError, some
from autolmk.evaluation import penalties, point_errors
from autolmk.fold.checkpoint import random_state, restore_random_state
from autolmk.landmarks import Landmarks
from autolmk.methods.progress import Event, EventKind, HeldOutCase, Progress, TrainingCase
from autolmk.methods.trainer import Trainer
from autolmk.training.validation import Validation, flat_numbers

Numbers = Mapping[str, float | None]
RECENT = 10  # batches that the moving average of a case's loss is over


@dataclass
class Memory:
    """The memory of a run for its trainer; JSON-ready.

    weights: of the cases, in force. seen, losses: as of `TrainingCase`, of those whose weights the trainer asks for.
    validations: as of `Trainer.stop_early`. ended: whether the trainer ended the run.
    """

    weights: dict[str, float] | None = None
    seen: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    validations: list[dict[str, float | None]] = field(default_factory=list)
    ended: bool = False


class Doors:
    """Asks the trainer, checks the answers, and keeps the global random states out of them. Every rank asks its own
    trainer, so that what trainers remember is alike, and all go by the first one's answer."""

    def __init__(self, trainer: Trainer, device: torch.device) -> None:
        self.trainer, self.device, self.memory = trainer, device, Memory()
        kind = type(trainer)
        self.augments = kind.augment is not Trainer.augment
        self.weighs = kind.case_weights is not Trainer.case_weights
        self._listens = kind.on_event is not Trainer.on_event

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Random numbers that the trainer draws within change nothing of the run."""
        before = random_state(self.device)
        try:
            yield
        finally:
            restore_random_state(before, self.device)

    def _wrong(self, method: str, found: object, expected: str) -> AutolmkError:
        return AutolmkError(
            f"the trainer's {method} returns what cannot be used",
            found=found,
            expected=expected,
            remedy=f"correct {type(self.trainer).__name__}.{method}; autolmk.testing.check_trainer checks a trainer",
        )

    def learning_rate(self, progress: Progress) -> float:
        """Factor for the coming step. AutolmkError where it is no number of 0 or more."""
        factor = self.trainer.learning_rate(progress)
        if not isinstance(factor, (int, float)) or not math.isfinite(factor) or factor < 0:
            raise self._wrong("learning_rate", f"{factor!r} at {progress}", "a factor, a finite number of 0 or more")
        return float(factor)

    def tell(self, kind: EventKind, progress: Progress, numbers: Numbers | None = None) -> None:
        """Let the trainer know of an event."""
        self.trainer.progress = progress
        if self._listens:
            with self._aside():
                self.trainer.on_event(Event(kind, progress, dict(numbers or {})))

    # -- cases ---------------------------------------------------------------------------------------------------------

    def saw(self, loss: float, cases: Sequence[str]) -> None:
        """Account for a step on these cases, in the order of the steps."""
        if not self.weighs:
            return
        seen, losses = self.memory.seen, self.memory.losses
        for case in dict.fromkeys(cases):
            before = seen.get(case, 0)
            losses[case] = losses.get(case, 0.0) + (loss - losses.get(case, 0.0)) / min(before + 1, RECENT)
            seen[case] = before + 1

    def weigh(self, cases: Mapping[str, tuple[Landmarks, str]]) -> None:
        """Ask how often each case is to be drawn from now on. cases: (landmarks, subject) of each training case.
        AutolmkError where the answer has no number of 0 or more for each case, or only zeros."""
        told = {
            name: TrainingCase(marks, subject, self.memory.seen.get(name, 0), self.memory.losses.get(name))
            for name, (marks, subject) in cases.items()
        }
        with self._aside():
            answer = ranks.of_first(self.trainer.case_weights(told))
        if answer is None:
            self.memory.weights = None
            return
        differing = sorted(set(answer) ^ set(cases))
        if differing:
            raise self._wrong("case_weights", f"other cases than asked for: {some(differing)}", "a number a case")
        bad = [name for name, weight in answer.items() if not (math.isfinite(weight) and weight >= 0)]
        if bad or not sum(answer.values()) > 0:
            found = f"{answer[bad[0]]} for {some(bad)}" if bad else "0 for every case"
            raise self._wrong("case_weights", found, "finite numbers of 0 or more, not all 0")
        self.memory.weights = {name: float(answer[name]) for name in cases}

    def weights(self, cases: Sequence[str]) -> tuple[float, ...] | None:
        """The cases' weights in force, in the order of the cases; None: all equally often."""
        known = self.memory.weights
        return None if known is None else tuple(known[name] for name in cases)

    # -- validations ---------------------------------------------------------------------------------------------------

    def numbers(self, validation: Validation) -> dict[str, float | None]:
        """All metrics, the trainer's own among them. AutolmkError where these have a name that is taken, or are no
        numbers, or where `best_by` names none."""
        shipped = flat_numbers(validation.numbers())
        truth = {case: result.truth for case, result in validation.results.items()}
        penalty = penalties(truth, validation.diagonals())
        cases = {
            case: HeldOutCase(
                result.truth,
                result.prediction.detections,
                point_errors(result.truth, result.prediction.best(), penalty[case])[0],
            )
            for case, result in validation.results.items()
        }
        with self._aside():
            own = ranks.of_first(self.trainer.metrics(cases))
        taken = sorted(set(own) & set(shipped))
        if taken:
            raise self._wrong("metrics", f"{some(taken)}, measured by autolmk already", "names of its own")
        bad = [name for name, value in own.items() if value is not None and not isinstance(value, (int, float))]
        if bad:
            raise self._wrong("metrics", f"{own[bad[0]]!r} for {some(bad)}", "numbers, or None")
        found = {**shipped, **{name: _finite(value) for name, value in own.items()}}
        if self.trainer.best_by not in found:
            raise self._wrong("metrics", f"best_by {self.trainer.best_by!r}", f"one of {', '.join(found)}")
        return found

    def improves(self, numbers: Numbers, best: float | None) -> bool:
        """Whether the chosen metric is better than the best so far; not where there is nothing to measure."""
        value = numbers[self.trainer.best_by]
        if value is None or best is None:
            return value is not None
        return value < best if self.trainer.best_is == "lowest" else value > best

    def remember(self, numbers: Numbers, progress: Progress) -> None:
        """Keep the metrics of a validation."""
        entry = {**numbers, "share": progress.share, "iteration": progress.iteration}
        self.memory.validations.append({name: value for name, value in entry.items() if not isinstance(value, str)})

    def ask_to_stop(self) -> bool:
        """Whether the trainer ends the run after the last validation; once it did, it is not asked again."""
        if not self.memory.ended and type(self.trainer).stop_early is not Trainer.stop_early:
            with self._aside():
                asked = self.trainer.stop_early([dict(entry) for entry in self.memory.validations])
                self.memory.ended = ranks.of_first(bool(asked))
        return self.memory.ended


def own_numbers(numbers: Numbers, validation: Validation) -> dict[str, float | None]:
    """The numbers that the trainer measured itself."""
    shipped = flat_numbers(validation.numbers())
    return {name: value for name, value in numbers.items() if name not in shipped}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
