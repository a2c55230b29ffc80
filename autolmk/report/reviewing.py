"""The predictions that a person should look at first: cases unlike the training images, flagged points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autolmk.annotations import read_table
from autolmk.annotations.csv import read_rows
from autolmk.annotations.text import read_number
from autolmk.errors import counted
from autolmk.report.blocks import Block, Section, TableBlock, Text, section
from autolmk.report.results import PREDICTIONS
from autolmk.report.sources import Sources
from autolmk.report.wording import NOTHING, number
from autolmk.selection.results import REVIEW, REVIEW_COLUMNS

POINTS = 20  # in the table of flagged points
OUTSIDE = "outside the training images' range: "  # how review.csv says it, in a row without a landmark
REMEDY = "predict again"

_Row = dict[str, str]


def reviewing(sources: Sources) -> Section | None:
    """Read what to review in a folder of predictions; None where there is none."""
    title, table, file = "What to look at first", sources.predictions / PREDICTIONS, sources.predictions / REVIEW
    if not table.is_file():
        return None
    if not file.is_file():
        text = f"The predictions have no {REVIEW}, which says what lies outside the training images' range: {REMEDY}."
        return section("review", title, [Text(text, missing=True)])
    rows = [dict(row) for row in read_rows(file, REVIEW_COLUMNS, remedy=REMEDY)]
    n_cases = len(sources.test.predicted if sources.test is not None else read_table(table))
    blocks = [
        *_outside([row for row in rows if not row["landmark"]], n_cases, sources),
        *_flagged([row for row in rows if row["landmark"] and row["flags"]], sources),
    ]
    return section("review", title, blocks)


def _outside(rows: Sequence[_Row], n_cases: int, sources: Sources) -> list[Block]:
    """Cases that are unlike the training images, with their errors where they are known."""
    if not rows:
        said = "the only predicted case lies" if n_cases == 1 else f"all {n_cases} predicted cases lie"
        return [Text(f"{said[:1].upper()}{said[1:]} within the range of the training images.")]
    errors: dict[str, list[float]] = {}
    for point in sources.test.evaluation.points if sources.test is not None else ():
        if point.error is not None:
            errors.setdefault(point.case, []).append(point.error)
    found = []
    for row in rows:
        mean = [number(float(np.mean(errors[row["case"]]))) if row["case"] in errors else NOTHING] if errors else []
        found.append((row["case"], *mean, row["flags"].removeprefix(OUTSIDE)))
    known = (f"MRE ({sources.unit})",) if errors else ()
    lie = "lies" if len(rows) == 1 else "lie"
    text = (
        f"{len(rows)} of {counted(n_cases, 'predicted case')} {lie} outside the range of the training images. What "
        "held-out cases tell of errors need not hold there."
    )
    head = ("case", *known, "what lies outside")
    return [Text(text), TableBlock("Cases unlike the training images", head, f"l{'r' * len(known)}l", tuple(found))]


def _flagged(rows: Sequence[_Row], sources: Sources) -> list[Block]:
    """Points with a reason to doubt them, in the order of review.csv, the worst first."""
    if not rows:
        return [Text("No predicted point is flagged.")]
    errors = {(p.case, p.landmark): p.error for p in (sources.test.evaluation.points if sources.test else ())}
    found = []
    for row in rows[:POINTS]:
        expected, radius = (
            number(read_number(row[key], file=sources.predictions / REVIEW, where=f"{key} of {row['case']}"))
            for key in ("expected_error", "error_radius")
        )
        known = (number(errors.get((row["case"], row["landmark"]))),) if errors else ()
        found.append((row["case"], row["landmark"], expected, radius, *known, row["flags"]))
    unit = sources.unit
    known = (f"error ({unit})",) if errors else ()
    head = ("case", "landmark", f"expected error ({unit})", f"error radius ({unit})", *known, "why")
    more = f", the first {POINTS} of {len(rows)}" if len(rows) > POINTS else ""
    return [TableBlock(f"Flagged points{more}", head, f"llrr{'r' * len(known)}l", tuple(found))]
