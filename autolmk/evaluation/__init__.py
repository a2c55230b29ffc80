"""Evaluation: predicted against annotated landmarks, statistics over cases, measurements and how far they agree.

Nothing here needs torch.
"""

from __future__ import annotations

from autolmk.evaluation.accuracy import (
    OVERALL,
    RADII,
    Evaluation,
    Point,
    Scores,
    evaluate,
    penalties,
    point_errors,
    swapped_points,
)

__all__ = [
    "Evaluation",
    "OVERALL",
    "Point",
    "RADII",
    "Scores",
    "evaluate",
    "penalties",
    "point_errors",
    "swapped_points",
]
