"""The facts that a run tells its trainer: how far it is, what happened, and how its training and held-out cases go.

Shapes: L landmarks, P physical axes. Everything in mm (or pixels, for images without physical size).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from autolmk.detections import Detections
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks

EventKind = Literal["started", "iteration_completed", "epoch_completed", "validation_completed", "completed"]
EVENTS: tuple[EventKind, ...] = get_args(EventKind)


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    share: 0 to 1, by steps or by time, whichever is further on. iteration: steps done. iterations: steps of the whole
    run; where a time limit ends it, the most that there can be. epoch: epochs completed.
    """

    share: float = 0.0
    iteration: int = 0
    iterations: int = 1
    epoch: int = 0


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    kind: as ignite names its events; `started` comes again where a run is resumed. numbers: `epoch_completed`: mean
    losses and the learning rate; `validation_completed`: all metrics; else empty.
    """

    kind: EventKind
    progress: Progress
    numbers: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """A training case, and how training went on it so far.

    landmarks: as annotated. subject: whom it shows. seen: in how many batches it was. loss: moving average, over about
    the last ten, of the losses of these batches; None before the first.
    """

    landmarks: Landmarks
    subject: str
    seen: int = 0
    loss: float | None = None


@dataclass(frozen=True, eq=False)
class HeldOutCase:
    """A held-out case that was just predicted.

    truth: as annotated. found: candidates, log-odds and likelihoods. errors: (L,) distance in mm from the best
    candidate to the truth; the image's diagonal where there is no candidate; NaN unless the truth is present.
    """

    truth: Landmarks
    found: Detections
    errors: FloatArray
