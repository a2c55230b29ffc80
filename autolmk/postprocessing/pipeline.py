"""Postprocessing: the steps that were kept, with their evidence, as one frozen value that JSON holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from autolmk.detections import Detections
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, near, to_json
from autolmk.postprocessing import co_slice, outside, presence, shape_prior
from autolmk.postprocessing.context import PostprocessingStep
from autolmk.postprocessing.evidence import Evidence
from autolmk.postprocessing.flags import FlagLimits, Judgement, judge
from autolmk.shapes.point_distribution import ShapeModel

STEPS: dict[str, tuple[type[Any], Callable[..., Any]]] = {  # in this order; each with its fit
    outside.Outside.name: (outside.Outside, outside.fit),
    shape_prior.ShapePriorStep.name: (shape_prior.ShapePriorStep, shape_prior.fit),
    co_slice.CoSlice.name: (co_slice.CoSlice, co_slice.fit),
    presence.PresenceStep.name: (presence.PresenceStep, presence.fit),
}


@dataclass(frozen=True)
class Decision:
    """A step, whether it is kept, and why. evidence: on held-out cases; None where it could not be fitted. parameters:
    of the step, fitted on all held-out cases; None unless it is kept."""

    name: str
    kept: bool
    why: str
    evidence: Evidence | None = None
    parameters: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the parameters: name, kept, why, and the evidence, with the keys `without` and `with`."""
        numbers = {} if self.evidence is None else dict(to_json(self.evidence))
        if numbers:
            numbers["with"] = numbers.pop("with_step")
        return {"name": self.name, "kept": self.kept, "why": self.why, **numbers}


@dataclass(frozen=True)
class Postprocessing:
    """The steps of postprocessing, as they were decided. decisions: in the order of the steps. shape: of the training
    landmarks; None where they tell none, see shape_why. limits: from which a point is flagged. sometimes_absent: the
    landmarks that may be called absent.
    """

    decisions: tuple[Decision, ...] = ()
    shape: ShapeModel | None = None
    shape_why: str = ""
    limits: FlagLimits = field(default_factory=FlagLimits)
    sometimes_absent: tuple[str, ...] = ()

    @cached_property
    def steps(self) -> tuple[PostprocessingStep, ...]:
        """The steps that are kept. AutolmkError where one is unknown or its parameters are wrong."""
        return tuple(_step(d) for d in self.decisions if d.kept)

    def apply(self, found: Detections) -> Detections:
        """One case's detections after all steps that were kept."""
        for step in self.steps:
            found = step.apply(found)
        return found

    def judge(self, found: Detections) -> Judgement:
        """Judge detections after `apply`."""
        return judge(found, self.shape, self.limits, self.sometimes_absent)


def _step(decision: Decision) -> PostprocessingStep:
    if decision.name not in STEPS:
        raise AutolmkError(
            f"there is no step of postprocessing {decision.name!r}{near(decision.name, STEPS)}",
            expected=f"one of {', '.join(STEPS)}",
            remedy="update autolmk, or take the step out of the file",
        )
    step: PostprocessingStep = from_json(
        STEPS[decision.name][0], decision.parameters or {}, path=f"postprocessing.{decision.name}"
    )
    return step
