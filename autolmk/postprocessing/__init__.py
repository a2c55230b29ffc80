"""Postprocessing: steps between a model's detections and its landmarks, each kept only if it helps on held-out cases.

`choose_steps` decides on held-out cases; the `Postprocessing` that it returns is applied to new ones, and judges which
points stay implausible.
"""

from autolmk.postprocessing.choose import choose_steps
from autolmk.postprocessing.context import Context
from autolmk.postprocessing.flags import Judgement
from autolmk.postprocessing.pipeline import STEPS, Decision, Postprocessing

__all__ = ["STEPS", "Context", "Decision", "Judgement", "Postprocessing", "choose_steps"]
