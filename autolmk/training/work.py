"""The work of a training run, and what a user chose for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autolmk.data.stage_windows import Placement
from autolmk.data.store import Store
from autolmk.fold.log import Logger
from autolmk.methods.trainer import Trainer
from autolmk.prediction.prediction import Prediction


@dataclass(frozen=True, eq=False)
class StageWork:
    """One stage of the plans: its name, its trainer and the cases preprocessed for it."""

    name: str
    trainer: Trainer
    store: Store


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The user's choices for a run.

    seed: None takes that of the run that is resumed, else 0. workers: processes that load. epochs, max_seconds: see
    `schedule.Limits.of`. pretrained: a checkpoint to start from. compile: try torch.compile (CUDA). loggers: makes
    those of a stage from its folder. share: of the length that is asked for or planned, which this run takes. rates:
    layer -> factor of its rate, see `layer_rates`; None: no layer has a rate of its own.
    """

    device: str = "auto"
    seed: int | None = None
    workers: int = 0
    epochs: int | None = None
    max_seconds: float | None = None
    pretrained: Path | None = None
    compile: bool = True
    loggers: Callable[[Path], Sequence[Logger]] | None = None
    share: float = 1.0
    rates: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Earlier:
    """The facts that a later stage's training knows of those before it. placement: of its windows, from their errors on
    cases that they had not seen. predict: case -> what they say of it.
    """

    placement: Placement
    predict: Callable[[str], Prediction]


@dataclass(frozen=True)
class Work:
    """The work of a fit. earlier: what a later stage builds on. outer: folders of the stages after it, where `stop` and
    `finish` may lie too. refit_of: folder of a finished run of the same plans on a part of these cases; its weights are
    the start, and what its held-out cases told is kept, where this run holds none out.
    """

    trainer: Trainer
    store: Store
    train_cases: tuple[str, ...]
    val_cases: tuple[str, ...]
    folder: Path
    settings: Settings
    earlier: Earlier | None = None
    outer: tuple[Path, ...] = ()
    refit_of: Path | None = None
