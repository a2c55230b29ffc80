"""Prediction: all that is said of one image, by one stage or by a whole model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from autolmk.detections import Detections
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks
from autolmk.postprocessing.flags import row_flags
from autolmk.selection import Conclusion
from autolmk.selection.results import FLAGS, Result


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of a stage or a model for one image.

    landmarks: mm, with status and likelihood. candidates: (L, K, P) mm, the first is the landmark's best position
    even where it is called absent; NaN where there is none. log_odds: (L, K), -inf there. looks: windows seen.
    detections: the same before groups were put on one slice, with the widths of the peaks. conclusion: of a recipe.
    reach: (L,) mm within which later stages look for members of rows, see `row_choice.Chosen`; empty without rows.
    """

    landmarks: Landmarks
    candidates: FloatArray
    log_odds: FloatArray
    looks: int
    detections: Detections
    conclusion: Conclusion | None = None
    reach: FloatArray = field(default_factory=lambda: np.empty(0))

    def result(self) -> Result:
        """The tables' view of this prediction, as it is written."""
        if self.conclusion is not None:
            return replace(Result.of_conclusion(self.conclusion), landmarks=self.landmarks)
        flags = ["; ".join(reasons) for reasons in row_flags(self.detections, self.landmarks.present)]
        return Result(self.landmarks, self.candidates[:, 0], self.detections, {FLAGS: flags})

    def best(self, *, separate: bool = False) -> FloatArray:
        """Best positions (L, P) in mm; separate: before groups were put on one slice."""
        return self.detections.best if separate else np.asarray(self.candidates[:, 0])
