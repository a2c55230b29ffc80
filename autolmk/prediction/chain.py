"""The stages of a method, one after the other: the first sees the image, each later one windows around the points of
the one before. Validation during training and autolmk_predict run a method in this one way."""

from __future__ import annotations

from collections.abc import Sequence

from autolmk.prediction.first_look import look_first
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.second_look import look_again
from autolmk.prediction.stage import Prepared, Stage


def look_through(stages: Sequence[Stage], images: Sequence[Prepared]) -> Prediction:
    """Landmarks of one image, in mm; images: as each stage needs it.

    AutolmkError where a network's output is not finite, ValueError without a stage.
    """
    if not stages:
        raise ValueError("prediction needs at least one stage")
    found = look_first(stages[0], images[0])
    for stage, image in zip(stages[1:], images[1:], strict=True):
        found = look_again(stage, image, found)
    return found
