"""The work of a training run, and what a user chose for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autolmk.data.stage_windows import Placement
from autolmk.data.store import Store
from autolmk.fold.log import Logger
from autolmk.methods.trainer import Trainer
from autolmk.prediction.prediction import Prediction


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
