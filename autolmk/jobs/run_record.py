"""The record of an autolmk_run: arguments, how time is shared out, what was given up, what is done.

It stands in results/DATASET/run/run.json and lets the same command go on as it was decided, however often it is broken
off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autolmk.errors import AutolmkError, counted
from autolmk.files.serialization import from_json, read_json, to_json, write_json

FILE_NAME = "run.json"
VERSION = 1
STEPS = ("prepare", "train", "find_best", "predict", "evaluate", "report")
RESERVED = {"prepare": 0.06, "find_best": 0.04, "predict": 0.08, "evaluate": 0.01, "report": 0.01}  # where unmeasured
BEYOND = 10.0  # s that a training is expected to take beyond its length, until it was measured
REMEDY = "restore it, or remove it: trained folds are kept, and the time is shared out anew"


@dataclass(frozen=True)
class Wanted:
    """The choices that decide what is trained, and for how long. max_seconds: wall time of the whole run. planner,
    preset: None where they are left to the planner.
    """

    configurations: tuple[str, ...]
    folds: tuple[str, ...]
    max_seconds: float | None = None
    epochs: int | None = None
    seed: int | None = None
    planner: tuple[str, ...] | None = None
    preset: str | None = None

    def trainings(self) -> list[tuple[str, str]]:
        """The trainings as (configuration, fold), a fold of all configurations before the next fold, so that they can
        be compared.
        """
        return [(configuration, fold) for fold in self.folds for configuration in self.configurations]

    def conflicts(self, earlier: Wanted) -> list[str]:
        """The differences, in words, from an earlier run so that its trainings and new ones would not belong together.
        More configurations or folds are a conflict only where they share one time.
        """
        found = []
        for key, name in _OPTIONS.items():
            before, now = getattr(earlier, key), getattr(self, key)
            shared = key not in ("configurations", "folds") or self.max_seconds is not None
            if before != now and shared:
                found.append(f"{name} was {_said(key, before)} and is now {_said(key, now)}")
        return found


_OPTIONS = {
    "configurations": "-c",
    "folds": "-f",
    "max_seconds": "--max-time",
    "epochs": "--epochs",
    "seed": "--seed",
    "planner": "-pl",
    "preset": "--preset",
}


@dataclass(frozen=True)
class GivenUp:
    """A configuration that is not worth more training, and why: the folds and the number of held-out cases that it was
    judged by, its mean error on them and that of the best one; its relative loss, the lower end of that where there are
    cases enough, and how much was tolerated, see `giving_up`. for_time: it may be as good, but the time does not
    suffice to train all that are left for long enough, see `narrowing`; without any fold, it was not trained at all.
    """

    folds: tuple[str, ...]
    cases: int
    mre: float
    best: str
    best_mre: float
    loss: float
    surely: float | None
    tolerated: float
    for_time: bool = False

    @property
    def hopeless(self) -> bool:
        """Whether it surely errs more than is tolerated."""
        return self.surely is not None and self.surely > self.tolerated

    def describe(self, unit: str) -> str:
        """Say in words why it was given up; unit: mm or px."""
        folds = f"fold{'s' * (len(self.folds) > 1)} {', '.join(self.folds)}"
        said = (
            f"on {counted(self.cases, 'held-out case')} of {folds} it errs by {self.mre:.3g} {unit}, {self.best} by "
            f"{self.best_mre:.3g}"
        )
        if self.for_time:
            return f"the time does not suffice to train all that are left for long enough; {said}"
        surely = "" if self.surely is None else f", and surely {self.surely:+.0%}"
        return (
            f"{said}: {self.loss:+.0%}{surely} (lower end of the 95 % interval, cases paired; "
            f"{self.tolerated:+.0%} would be tolerated)"
        )


@dataclass(frozen=True)
class TimeShares:
    """The shares of a run's wall time, s, as they were planned at first. slots: jobs at a time. waves: of trainings.
    training: each of them, as long as `Record.lengths` says nothing else. reserved: by step, for all that is no
    training.
    """

    slots: int
    waves: int
    training: float
    reserved: dict[str, float]


@dataclass(frozen=True)
class Record:
    """The record of one run with plans of one name. done: step -> digest of what it was made from. begun: the same, of
    a step that may have been broken off. expected: configuration -> seconds of a training, where it had to be measured.

    lengths: fold -> seconds of each training of it, decided when the first one began. given_up: configuration -> why
    its other folds are not trained. judged: folds after which configurations were compared. left_out: folds for which
    no time was left. beyond: configuration -> seconds that a training takes beyond its length, to start and to end.
    """

    wanted: Wanted
    shares: TimeShares | None
    expected: dict[str, float | None] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)
    begun: dict[str, str] = field(default_factory=dict)
    lengths: dict[str, float] = field(default_factory=dict)
    given_up: dict[str, GivenUp] = field(default_factory=dict)
    judged: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    beyond: dict[str, float] = field(default_factory=dict)

    def kept(self) -> Wanted:
        """The choices that are still wanted: without configurations that were given up, and folds for which no time was
        left.
        """
        return replace(
            self.wanted,
            configurations=tuple(name for name in self.wanted.configurations if name not in self.given_up),
            folds=tuple(fold for fold in self.wanted.folds if fold not in self.left_out),
        )


def load_record(file: Path, plans_name: str) -> Record | None:
    """Load the record of the run with plans of that name; None where there was none. AutolmkError where the file is
    damaged.
    """
    return _records(file).get(plans_name)


def save_record(file: Path, plans_name: str, record: Record) -> None:
    """Keep it, atomically; records of runs with other plans stay."""
    write_json(file, {"version": VERSION, "runs": {**_records(file), plans_name: record}})


def decided(
    earlier: Record | None, wanted: Wanted, shares: Callable[[], TimeShares], *, begun: bool, file: Path
) -> Record:
    """The record to go on with: the earlier one, or a new one where nothing was trained yet.

    shares: shares out the time of a new run that has a limit. begun: whether any training was. AutolmkError where it
    was, with arguments that do not suit those given now. Trainings that an earlier version began keep its one length.
    """
    if earlier is None or not begun:
        return Record(wanted, None if wanted.max_seconds is None else shares())
    differing = wanted.conflicts(earlier.wanted)
    if differing:
        raise AutolmkError(
            "this run was begun with other arguments; what is trained already and what is asked for now would not "
            "belong together",
            file=file,
            found="; ".join(differing),
            remedy="give the arguments as at first; or plan under another name (-p NAME) to begin another run; or "
            "remove the folders of what was trained",
        )
    if begun and earlier.shares is not None and not earlier.lengths:
        earlier = replace(earlier, lengths=dict.fromkeys(wanted.folds, earlier.shares.training))
    return replace(earlier, wanted=wanted)


def stamp(files: Iterable[Path], settings: Sequence[str] | Mapping[str, str] = ()) -> str:
    """Digest of names, sizes and times of change of files, those in folders included, and of settings."""
    listed = []
    for place in files:
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in found:
            if file.is_file() and not file.name.startswith("."):
                status = file.stat()
                listed.append([str(file), status.st_size, status.st_mtime_ns])
    text = json.dumps([listed, to_json(settings)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _records(file: Path) -> dict[str, Record]:
    if not file.is_file():
        return {}
    value = read_json(file, remedy=REMEDY)
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise AutolmkError(
            "the record of a run is of another version, or damaged",
            file=file,
            expected=f"version {VERSION}",
            remedy=REMEDY,
        )
    return from_json(dict[str, Record], value.get("runs"), file=file, path="runs")


def _said(key: str, value: object) -> str:
    if value is None:
        return "not given"
    if key == "max_seconds":
        return f"{value:g} s"
    return " ".join(value) if isinstance(value, tuple) else str(value)
