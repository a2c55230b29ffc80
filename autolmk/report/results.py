"""Predictions of annotated cases and what evaluation says of them, as a report needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autolmk.annotations import Annotation, read_table
from autolmk.annotations.csv import read_rows
from autolmk.errors import AutolmkError
from autolmk.evaluation import Evaluation, Point, evaluate
from autolmk.files.serialization import from_json, read_json
from autolmk.fold.held_out import TRUTH, VALIDATION
from autolmk.landmarks import Landmarks

PREDICTIONS, SUMMARY, POINTS = "landmarks.csv", "summary.json", "points.csv"


@dataclass(frozen=True, eq=False)
class Results:
    """The results of predictions. name: in words, such as "held-out cases". split: of the raw dataset that has the
    cases' images. predicted: best places also of what is called absent. truth: None where only the raw dataset knows
    it. folder: where they lie.
    """

    name: str
    split: Literal["Tr", "Ts"]
    evaluation: Evaluation
    predicted: dict[str, Annotation]
    truth: dict[str, Landmarks] | None
    folder: Path

    def radius(self, case: str, landmark: str) -> float:
        """Predicted error radius of a point; NaN where none is given."""
        found = self.predicted.get(case)
        if found is None or landmark not in found.names:
            return float("nan")
        return float(found.error_radius[found.names.index(landmark)])

    def errors(self) -> list[float]:
        """The errors of all points that are annotated as present."""
        return [point.error for point in self.evaluation.points if point.error is not None]


def read_results(name: str, split: Literal["Tr", "Ts"], folder: Path, evaluation: Path, *, remedy: str) -> Results:
    """Read the results of a folder with landmarks.csv, and perhaps truth.csv; `evaluation` holds summary.json and
    points.csv. AutolmkError, with this remedy, where one of them is missing or damaged.
    """
    predicted = read_table(folder / PREDICTIONS)
    truth = _landmarks(read_table(folder / TRUTH)) if (folder / TRUTH).is_file() else None
    return Results(name, split, read_evaluation(evaluation, remedy=remedy), predicted, truth, folder)


def read_evaluation(folder: Path, *, remedy: str) -> Evaluation:
    """Read the evaluation from the summary.json and points.csv that evaluation wrote; keys of the summary that others
    added are left out. AutolmkError where they are missing or damaged.
    """
    file = folder / SUMMARY
    value = read_json(file, remedy=remedy)
    known = {f.name for f in fields(Evaluation)} - {"points"}
    content = {k: v for k, v in value.items() if k in known} if isinstance(value, dict) else value
    points = _points(folder / POINTS, remedy)
    if isinstance(content, dict):
        content["points"] = points
    return from_json(Evaluation, content, file=file)


def pooled(
    model: Path,
    folds: Sequence[int],
    *,
    pairs: Sequence[tuple[str, str]],
    unit: str,
    diagonals: Mapping[str, float],
) -> Results:
    """Pool the held-out cases of these folds of a model folder. diagonals: of the cases' images."""
    predicted: dict[str, Annotation] = {}
    truth: dict[str, Landmarks] = {}
    for fold in folds:
        folder = model / f"fold_{fold}" / VALIDATION
        predicted |= read_table(folder / PREDICTIONS)
        truth |= _landmarks(read_table(folder / TRUTH))
    names = next(iter(truth.values())).names
    truth = {case: marks.reordered(names) for case, marks in truth.items()}
    known = {case: length for case, length in diagonals.items() if case in truth}
    found = evaluate(truth, predicted, pairs=pairs, unit=unit, diagonals=known, n_resamples=1000)
    return Results("held-out cases", "Tr", found, predicted, truth, model)


def _landmarks(table: Mapping[str, Annotation]) -> dict[str, Landmarks]:
    """Without the third coordinate where no point has one."""
    p = 3 if any(a.points.shape[1] == 3 and np.isfinite(a.points[:, 2]).any() for a in table.values()) else 2
    return {case: Landmarks(a.names, a.points[:, :p], a.status) for case, a in table.items()}


def _points(file: Path, remedy: str) -> list[dict[str, Any]]:
    """The rows of points.csv as `Point` wants them."""
    rows: list[dict[str, Any]] = []
    for row in read_rows(file, [f.name for f in fields(Point)], remedy=remedy):
        try:
            rows.append(
                {key: row[key] for key in ("case", "landmark", "status", "predicted_status")}
                | {key: float(row[key]) if row[key] else None for key in ("error", "likelihood")}
                | {key: {"True": True, "False": False}[row[key]] for key in ("missing", "swapped")}
            )
        except (KeyError, ValueError):
            raise AutolmkError(
                "a table of evaluated points is damaged",
                file=file,
                case=row["case"],
                found=", ".join(row.values())[:500],
                remedy=remedy,
            ) from None
    return rows
