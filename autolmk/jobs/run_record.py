"""What an autolmk_run decided: arguments, how time is shared out, what is done.

It stands in results/DATASET/run/run.json and lets the same command go on with the same shares, however often it is
broken off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autolmk.errors import AutolmkError
from autolmk.serialization import from_json, read_json, to_json, write_json

FILE_NAME = "run.json"
VERSION = 1
STEPS = ("prepare", "train", "find_best", "predict", "evaluate", "report")
RESERVED = {"prepare": 0.06, "find_best": 0.04, "predict": 0.08, "evaluate": 0.01, "report": 0.01}
REMEDY = "restore it, or remove it: trained folds are kept, and the time is shared out anew"


@dataclass(frozen=True)
class Wanted:
    """What decides what is trained, and for how long. max_seconds: wall time of the whole run. planner, preset: None
    where they are left to the planner."""

    configurations: tuple[str, ...]
    folds: tuple[str, ...]
    max_seconds: float | None = None
    epochs: int | None = None
    seed: int | None = None
    planner: tuple[str, ...] | None = None
    preset: str | None = None

    def trainings(self) -> list[tuple[str, str]]:
        """(configuration, fold), all folds of a configuration before the next one."""
        return [(configuration, fold) for configuration in self.configurations for fold in self.folds]

    def conflicts(self, earlier: Wanted) -> list[str]:
        """In words, what differs from an earlier run so that its trainings and new ones would not belong together.
        More configurations or folds are a conflict only where they share one time."""
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
class Shares:
    """Of the wall time of a run, s. slots: jobs at a time. waves: of trainings. training: each of them. reserved: by
    step, for all that is no training."""

    slots: int
    waves: int
    training: float
    reserved: dict[str, float]


@dataclass(frozen=True)
class Record:
    """Of one run with plans of one name. done: step -> digest of what it was made from. begun: the same, of a step that
    may have been broken off. expected: configuration -> seconds of a training, where it had to be measured."""

    wanted: Wanted
    shares: Shares | None
    expected: dict[str, float | None] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)
    begun: dict[str, str] = field(default_factory=dict)


def share_out(seconds: float, trainings: int, slots: int) -> Shares:
    """A fifth of the time is kept for what is no training (RESERVED), the rest is shared by the waves of trainings: 6
    trainings on 2 slots take 3 waves, and so does each third of the rest."""
    waves = -(-trainings // max(1, slots))
    reserved = {step: share * seconds for step, share in RESERVED.items()}
    training = (seconds - sum(reserved.values())) / max(1, waves)
    return Shares(slots, waves, float(max(1, int(training))), reserved)


def load_record(file: Path, plans_name: str) -> Record | None:
    """Of the run with plans of that name; None where there was none. AutolmkError where the file is damaged."""
    return _records(file).get(plans_name)


def save_record(file: Path, plans_name: str, record: Record) -> None:
    """Keep it, atomically; records of runs with other plans stay."""
    write_json(file, {"version": VERSION, "runs": {**_records(file), plans_name: record}})


def decided(earlier: Record | None, wanted: Wanted, slots: Callable[[], int], *, begun: bool, file: Path) -> Record:
    """The record to go on with: the earlier one, or a new one where nothing was trained yet.

    slots: tells how many trainings run at a time, by which time is shared out. begun: whether any training was.
    AutolmkError where it was, with arguments that do not suit those given now.
    """
    if earlier is None or (not begun and wanted != earlier.wanted):
        shares = None
        if wanted.max_seconds is not None:
            shares = share_out(wanted.max_seconds, len(wanted.trainings()), slots())
        return Record(wanted, shares)
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
