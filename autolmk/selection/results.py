"""Results on disk: the tables that predictions and held-out predictions have in common.

landmarks.csv holds a row a landmark of each case; review.csv the points that a person should look at first; truth.csv,
points.csv and summary.json stand beside held-out predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autolmk.annotations import Annotation, read_table, write_table
from autolmk.annotations.csv import table_rows, write_rows
from autolmk.detections import FOLDER as DETECTIONS
from autolmk.detections import Detections, file_of, saved_cases
from autolmk.evaluation import Evaluation, evaluate
from autolmk.files.atomic import refuse_link
from autolmk.files.serialization import write_json
from autolmk.fold.held_out import TRUTH
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks
from autolmk.postprocessing.flags import ROW
from autolmk.selection.recipe import Conclusion

TABLE, REVIEW, POINTS, SUMMARY = "landmarks.csv", "review.csv", "points.csv", "summary.json"
COLUMNS = ("case", "landmark", "x", "y", "z", "status", "likelihood", "log_odds", "error_radius")
FLAGS = "flags"  # column of predictions: why a person should look at a point
RECIPE_COLUMNS = (*COLUMNS, "expected_error", FLAGS)
OUTSIDE = "outside"  # column of predictions: what of the image lies outside the training images' range
REVIEW_COLUMNS = ("case", "landmark", "expected_error", "error_radius", "flags")
More = Mapping[str, Sequence[float | str]]  # column -> a number or text a landmark


@dataclass(frozen=True, eq=False)
class Result:
    """The result of one case. landmarks: as written. best: (L, P) mm, the best candidate, also of absent landmarks.
    detections: they come from. more: columns of a recipe's conclusion.
    """

    landmarks: Landmarks
    best: FloatArray
    detections: Detections
    more: More = field(default_factory=dict)

    @classmethod
    def of_conclusion(cls, conclusion: Conclusion) -> Result:
        """Make the result of a recipe's conclusion."""
        errors = [float(error) for error in conclusion.expected_error]
        more: More = {"expected_error": errors, FLAGS: ["; ".join(reasons) for reasons in conclusion.flags]}
        return cls(conclusion.landmarks, conclusion.detections.best, conclusion.detections, more)

    def rows(self, case: str, columns: Sequence[str]) -> list[list[str]]:
        """The rows of landmarks.csv."""
        outside = "; ".join(self.landmarks.outside)
        more = {"log_odds": self.detections.log_odds[:, 0].tolist(), OUTSIDE: [outside] * len(self.best), **self.more}
        return table_rows(case, self.landmarks, columns, best=self.best, more=more)


def read_results(folder: Path) -> dict[str, Landmarks]:
    """Read landmarks.csv: case -> landmarks with their error radii. AutolmkError where it is damaged."""
    result = {}
    for case, found in read_table(folder / TABLE).items():
        axes = 3 if found.points.shape[1] == 3 and np.isfinite(found.points[:, 2]).any() else 2
        result[case] = Landmarks(
            found.names, found.points[:, :axes], found.status, found.likelihood, found.error_radius
        )
    return result


def write_review(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """review.csv, of rows of landmarks.csv: a row without a landmark for each case that lies outside the range of the
    training images, then the points of rows that may be shifted, then the others with flags or an expected error, the
    worst first."""
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    cases = [
        {"case": case, "flags": f"outside the training images' range: {'; '.join(said)}"}
        for case, said in outside_of(columns, rows).items()
    ]
    known = [row for row in named if row.get("expected_error") or row.get(FLAGS)]
    known.sort(key=lambda row: (ROW not in row.get(FLAGS, "").split("; "), -float(row.get("expected_error") or "inf")))
    table = [[row.get(column, "") for column in REVIEW_COLUMNS] for row in [*cases, *known]]
    write_rows(folder / REVIEW, REVIEW_COLUMNS, table)


def outside_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """The remarks on cases that lie outside the range of the training images, as rows of landmarks.csv say; other cases
    are left out.
    """
    if OUTSIDE not in columns:
        return {}
    case, said = columns.index("case"), columns.index(OUTSIDE)
    return {row[case]: row[said].split("; ") for row in rows if row[said]}


def write_held_out(
    folder: Path,
    results: Mapping[str, Result],
    truth: Mapping[str, Landmarks],
    *,
    diagonals: Mapping[str, float],
    pairs: Sequence[tuple[str, str]],
    unit: str,
    more: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Predictions of cases with their truth: landmarks.csv, truth.csv, detections/, summary.json, points.csv, and
    review.csv where a recipe concluded. diagonals, pairs, unit: as of `evaluate`. more: what summary.json says besides.
    Detections of other cases are removed. AutolmkError where a link is in the place of a folder.
    """
    for place in (folder, folder / DETECTIONS):
        refuse_link(place)
    concluded = any("expected_error" in result.more for result in results.values())
    third = any(result.best.shape[1] == 3 for result in results.values())
    columns = tuple(c for c in (RECIPE_COLUMNS if concluded else COLUMNS) if c != "z" or third)
    rows = [row for case, result in results.items() for row in result.rows(case, columns)]
    write_rows(folder / TABLE, columns, rows)
    write_table(folder / TRUTH, truth)
    for stale in set(saved_cases(folder)) - set(results):
        file_of(folder, stale).unlink()
    for case, result in results.items():
        result.detections.save(folder, case)
    if concluded:
        write_review(folder, columns, rows)
    found = {
        case: Annotation(r.landmarks.names, r.best, r.landmarks.status, "LPS", r.landmarks.likelihood)
        for case, r in results.items()
    }
    evaluation = evaluate(truth, found, pairs=pairs, diagonals=diagonals, unit=unit)
    points = [{k: "" if v is None else str(v) for k, v in vars(point).items()} for point in evaluation.points]
    if points:
        write_rows(folder / POINTS, tuple(points[0]), [list(point.values()) for point in points])
    summary = {k: v for k, v in vars(evaluation).items() if k != "points"}
    write_json(folder / SUMMARY, {**summary, **(more or {})})
    return evaluation
