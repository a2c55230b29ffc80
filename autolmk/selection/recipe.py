"""Recipe: how the final predictor goes from what its models say to what is written, chosen on held-out cases.

    Detections of models --combination--> Detections --postprocessing--> Detections --> Landmarks, error radii

The same few lines run for held-out cases, for `autolmk_predict -m PACKED_FOLDER` and for the commands that work on
folders of predictions. It is data: recipe.json in the packed folder.

Shapes: L landmarks. Everything in mm (or pixels).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autolmk.dataset.description import Measurement
from autolmk.detections import Detections
from autolmk.errors import AutolmkError
from autolmk.evaluation.measurements import MeasurementCalibration
from autolmk.files.serialization import from_json, read_json, write_json
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks, decided
from autolmk.paths import plain_name
from autolmk.postprocessing import Judgement, Postprocessing
from autolmk.selection.ensembling import Combination, combine
from autolmk.selection.error_radius import ErrorRadius

RECIPE = "recipe.json"
VERSION = 1
REMEDY = "run autolmk_find_best_configuration again"


@dataclass(frozen=True)
class RecipeMember:
    """A model that the recipe combines. model: its folder's name, TRAINER__PLANS__CONFIGURATION. folds: that are
    averaged, such as "0", "1", or "all".
    """

    model: str
    folds: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raise ValueError where the names are not those of a model's folder and its folds."""
        plain_name(self.model, "a member's model")
        if not self.folds or any(fold != "all" and not (fold.isascii() and fold.isdecimal()) for fold in self.folds):
            raise ValueError(f'a member\'s folds are numbers or "all", got {list(self.folds)}')
        if len(set(self.folds)) < len(self.folds):
            raise ValueError(f"a member's fold stands twice: {list(self.folds)}")


@dataclass(frozen=True, eq=False)
class Conclusion:
    """The final result of one case. landmarks: with error radii. detections: after combination and postprocessing.
    expected_error: (L,) mm, for ranking. flags: of each landmark, why a person should look at it; mostly empty.
    """

    landmarks: Landmarks
    detections: Detections
    expected_error: FloatArray
    flags: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Recipe:
    """The final predictor's recipe. landmarks: names in order. sometimes_absent: the only ones that may be called
    absent. members: models, in the order of the combination. measurements, measurement_calibration: that dataset.json
    declares, see `measurements`.
    """

    dataset_name: str
    unit: Literal["mm", "px"]
    landmarks: tuple[str, ...]
    sometimes_absent: tuple[str, ...]
    members: tuple[RecipeMember, ...]
    combination: Combination
    postprocessing: Postprocessing
    error_radius: ErrorRadius | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict)
    measurement_calibration: MeasurementCalibration | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        """Raise ValueError where the parts are not of the same models and landmarks."""
        models, shape = tuple(member.model for member in self.members), self.postprocessing.shape
        plain_name(self.dataset_name, "dataset_name")
        if len(set(models)) < len(models):
            raise ValueError(f"a member stands twice: {list(models)}")
        if not models or models != self.combination.members:
            raise ValueError(f"a combination of {self.combination.members} for the members {models}")
        scale = self.landmarks if self.error_radius is None else tuple(self.error_radius.scale.landmarks)
        if scale != self.landmarks or (shape is not None and shape.names != self.landmarks):
            raise ValueError("an error radius or a shape of other landmarks, or in another order")

    @classmethod
    def load(cls, folder: Path) -> Recipe:
        """recipe.json of a packed folder, or that file. AutolmkError where it is missing, damaged or of another
        version."""
        file = folder / RECIPE if folder.is_dir() else folder
        value = read_json(file, remedy=REMEDY)
        if isinstance(value, dict) and value.get("version") != VERSION:
            raise AutolmkError(
                "a recipe of another version",
                file=file,
                found=value.get("version"),
                expected=f"version {VERSION}",
                remedy=f"update autolmk, or {REMEDY}",
            )
        result = from_json(cls, value, file=file)
        try:
            _ = result.postprocessing.steps
        except AutolmkError as error:
            raise AutolmkError(
                error.problem, file=file, found=error.found, expected=error.expected, remedy=error.remedy
            ) from None
        return result

    def save(self, folder: Path) -> None:
        """Write recipe.json into the folder, atomically."""
        write_json(folder / RECIPE, self)

    def conclude(self, found: Sequence[Detections]) -> Conclusion:
        """Combine the members' detections of one case, given in their order, into the final result."""
        for one in found:
            self.require_names(one)
        return self.finish(combine(found, self.combination))

    def finish(self, combined: Detections) -> Conclusion:
        """Turn detections that are already combined into the final result."""
        self.require_names(combined)
        finished = self.postprocessing.apply(combined)
        judged = self.postprocessing.judge(finished)
        return concluded(finished, judged, self.error_radius, self.sometimes_absent)

    def require_names(self, found: Detections) -> None:
        """Raise AutolmkError where detections are of other landmarks than the recipe."""
        if found.names != self.landmarks:
            different = sorted(set(found.names) ^ set(self.landmarks))
            raise AutolmkError(
                "these predictions are of other landmarks than the recipe",
                found=", ".join(different[:10]) or "the same names in another order",
                expected=f"the landmarks of {self.dataset_name}",
                remedy="use predictions of a model of that dataset",
            )


def concluded(
    finished: Detections, judged: Judgement, error_radius: ErrorRadius | None, sometimes_absent: Sequence[str]
) -> Conclusion:
    """Draw the final result from postprocessed detections and their judgement."""
    statistics = error_statistics(finished, judged)
    radius = expected = np.full(len(finished.names), np.nan)
    if error_radius is not None:
        radius, expected = error_radius.radius(statistics), error_radius.expected(statistics)
    found = np.isfinite(finished.best).all(axis=1)
    landmarks = decided(finished.names, finished.best, finished.likelihood, sometimes_absent)
    landmarks = dataclasses.replace(landmarks, error_radius=np.where(found, radius, np.nan))
    return Conclusion(landmarks, finished, np.where(found, expected, np.nan), judged.flags)


def error_statistics(found: Detections, judged: Judgement) -> dict[str, Any]:
    """The statistics, (L,) each, by which the error radius is scaled, computed alike for held-out and for new cases."""
    return {"spread": found.spread, "shape_residual": judged.shape_residual, "log_odds": found.log_odds[:, 0]}
