"""The context in which steps are fitted: held-out cases, and what the plans say of the landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from autolmk.detections import Detections
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks
from autolmk.plans import Plans, SliceGroup

HeldOut = Sequence[tuple[Detections, Landmarks]]  # of cases that the model did not see, with the truth


@dataclass(frozen=True)
class Context:
    """The context in which steps are fitted. names: L, in the detections' order. sometimes_absent: the landmarks that
    may be called absent. co_slice_groups: those annotated on one slice. pairs: left/right partners. unit: mm or px.
    """

    names: tuple[str, ...]
    sometimes_absent: tuple[str, ...] = ()
    co_slice_groups: tuple[SliceGroup, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    unit: str = "mm"

    @classmethod
    def of(cls, plans: Plans) -> Context:
        """The context that these plans give."""
        return cls(plans.landmarks, plans.sometimes_absent, plans.co_slice_groups, plans.pairs, plans.unit)


class PostprocessingStep(Protocol):
    """A frozen dataclass of JSON-able parameters. `fit` of its module gives it, from held-out cases and the
    context, or a text that says why they do not tell it."""

    name: ClassVar[str]

    def apply(self, found: Detections) -> Detections:
        """The detections of one case after this step."""


def errors_of(found: Detections, truth: Landmarks) -> FloatArray:
    """The errors (L,) mm from the best candidates to the truth, NaN where either has no place."""
    return np.asarray(np.linalg.norm(found.best - truth.points, axis=1))
