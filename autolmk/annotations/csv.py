"""Tables of points (.csv, .tsv).

Three kinds, told apart by their header:
- the dataset's table, all cases in one file: case, landmark, x, y, z and optionally status, likelihood, error_radius;
- the same without the column case, for one case;
- 3D Slicer's control-point table, for one case: label, l, p, s or label, r, a, s, and optionally defined. Its columns
  say in which frame it is; the others do not.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from autolmk.annotations.annotation import Annotation, Frame, NamesFrom, name_of
from autolmk.annotations.text import SEPARATOR, DecimalSigns, read_number, read_text, whole_or_nothing
from autolmk.errors import AutolmkError, some
from autolmk.escaping import cell, uncell
from autolmk.files.serialization import near, write_bytes
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks, Status, normal

STATUS = {
    "present": Status.PRESENT,
    "defined": Status.PRESENT,
    "absent": Status.ABSENT,
    "missing": Status.ABSENT,
    "unknown": Status.UNKNOWN,
    "undefined": Status.UNKNOWN,
}
TABLE_COLUMNS = ("case", "landmark", "x", "y", "z", "status", "likelihood", "error_radius")
BLANK = ("", "NA", "<NA>", "N/A", "NULL", "NAN")
DECIMALS = (*"xyzlpsra", "likelihood", "error_radius")  # columns of numbers
SYNONYMS = {"landmark": ("name", "point", "label", "landmark_name", "landmarks"), "case": ("image", "file", "subject")}
SLICER_COLUMNS = ("label", "l", "p", "s", "defined", "selected", "visible", "locked", "description", "status")


def read(file: Path, *, label: NamesFrom = "label") -> Annotation:
    """The points of one case. AutolmkError where the table is damaged or holds several cases."""
    header, rows = _rows(file)
    if "case" in header:
        raise AutolmkError(
            "this table holds the points of several cases",
            file=file,
            found="the column 'case'",
            expected="the points of one case",
            remedy="name the table of the whole dataset landmarks.csv",
        )
    if {"l", "p", "s"} <= set(header) or {"r", "a", "s"} <= set(header):
        return _read_control_points(file, header, rows, label)
    return _annotation(file, header, list(rows))


def read_table(file: Path, *, twice: bool = False) -> dict[str, Annotation]:
    """The points of all cases of a dataset's table, by case, in the table's order. AutolmkError where it is damaged.

    twice: whether a landmark may stand twice in a case, as in annotations, of which the check says so.
    """
    header, rows = _rows(file)
    _require(file, header, ("case", "landmark", "x", "y"))
    cases: dict[str, list[Annotation]] = {}
    for case, run in groupby(rows, key=lambda row: row[1]["case"]):
        together = list(run)
        if not case:
            raise AutolmkError(
                f"line {together[0][0]} names no case",
                file=file,
                expected="a value in the column 'case'",
                remedy="name the case, or remove the line",
            )
        cases.setdefault(case, []).append(_annotation(file, header, together))
    found = {case: _joined(parts) for case, parts in cases.items()}
    for case, annotation in found.items() if not twice else ():
        require_once(annotation, file, case)
    return found


def require_once(annotation: Annotation, file: Path, case: str | None = None) -> None:
    """Raise AutolmkError where a landmark stands twice."""
    names = annotation.names
    if len(set(names)) < len(names):
        raise AutolmkError(
            "a landmark stands twice",
            file=file,
            case=case,
            found=some(sorted({name for name in names if names.count(name) > 1})),
            expected="each landmark once",
            remedy="remove the wrong one of the two, or make the file again",
        )


def _joined(parts: Sequence[Annotation]) -> Annotation:
    """The points of a case whose rows do not stand together."""
    if len(parts) == 1:
        return parts[0]
    names = tuple(name for part in parts for name in part.names)
    if len({part.points.shape[1] for part in parts}) > 1:  # a part of the rows leaves z blank
        parts = [replace(part, points=np.pad(part.points[:, :3], ((0, 0), (0, 3 - part.points.shape[1])),
                                             constant_values=math.nan)) for part in parts]  # fmt: skip
    points, status, likelihood, error_radius = (
        np.concatenate([getattr(part, field) for part in parts])
        for field in ("points", "status", "likelihood", "error_radius")
    )
    return Annotation(names, points, status, None, likelihood, error_radius)


def write_table(
    file: Path, points: Mapping[str, Landmarks | Annotation], *, best: Mapping[str, FloatArray] | None = None
) -> None:
    """Write a dataset's table: Landmarks in LPS, Annotations with their numbers as they are. 2D points get no z.

    best: (L, P) a case, written where a landmark is not present: where it would be if it were there after all.
    """
    third = any(marks.points.shape[1] == 3 for marks in points.values())
    columns = [c for c in TABLE_COLUMNS if c != "z" or third]
    rows: list[list[str]] = []
    for case, marks in points.items():
        rows += table_rows(case, marks, columns, best=None if best is None else best[case])
    write_rows(file, columns, rows)


def table_rows(
    case: str,
    marks: Landmarks | Annotation,
    columns: Sequence[str],
    *,
    best: FloatArray | None = None,
    more: Mapping[str, Sequence[float | str]] | None = None,
) -> list[list[str]]:
    """A row a landmark of one case, with those `columns` of a dataset's or a prediction's table.

    best: (L, P), written where a landmark is not present. more: column -> a number or text a landmark.
    """
    rows = []
    for i, name in enumerate(marks.names):
        present = marks.status[i] == Status.PRESENT
        point = marks.points[i] if present or best is None else best[i]
        row = {"case": case, "landmark": name, "status": Status(marks.status[i]).name.lower()}
        row |= {axis: _text(x) for axis, x in zip("xyz", point, strict=False)}
        row |= {"likelihood": _text(marks.likelihood[i]), "error_radius": _text(marks.error_radius[i])}
        for column, values in (more or {}).items():
            value = values[i]
            row[column] = value if isinstance(value, str) else _text(value)
        rows.append([row.get(column, "") for column in columns])
    return rows


def write(file: Path, landmarks: Landmarks) -> None:
    """Write one case as 3D Slicer's control-point table, in LPS, with the column status, which Slicer ignores."""
    rows = []
    for name, point, status in zip(landmarks.names, landmarks.points, landmarks.status, strict=True):
        present = status == Status.PRESENT
        xyz = [repr(float(x)) for x in point] + ["0.0"] * (3 - len(point)) if present else [""] * 3
        rows.append([name, *xyz, str(int(present)), "1", "1", "0", "", Status(status).name.lower()])
    write_rows(file, SLICER_COLUMNS, rows)


def read_rows(file: Path, columns: Sequence[str], *, remedy: str = "mend the table") -> list[dict[str, str]]:
    """The rows of a table that has at least these columns: what `write_rows` wrote. AutolmkError, with this remedy,
    where the table is damaged or lacks one of them."""
    try:
        header, rows = _rows(file)
        missing = [column for column in columns if column not in header]
        if not missing:
            return [row for _, row in rows]
    except AutolmkError as error:
        raise AutolmkError(
            error.problem, file=file, found=error.found, expected=error.expected, remedy=remedy
        ) from None
    raise AutolmkError(
        f"a table is damaged: it lacks {', '.join(missing)}",
        file=file,
        found=", ".join(header)[:200],
        expected=", ".join(columns),
        remedy=remedy,
    )


def write_rows(file: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table atomically, separated by tabs where the name ends with .tsv, else by commas. What a spreadsheet would run
    as a formula gets an apostrophe, which reading takes away again."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t" if file.name.lower().endswith(".tsv") else ",", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(text) for text in row] for row in rows)
    write_bytes(file, buffer.getvalue().encode())


def _text(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def _rows(file: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The header in lower case, and (line number, row) of every line that is not blank."""
    text = read_text(file)
    hint = SEPARATOR.match(text)
    text = text[hint.end() :] if hint else text
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)

    def lines() -> Iterator[tuple[int, list[str]]]:
        try:
            for fields in reader:
                if any(f.strip() for f in fields):
                    yield reader.line_num, [uncell(f.strip()) for f in fields]
        except csv.Error as error:
            raise AutolmkError(
                f"line {reader.line_num} of a table is damaged", file=file, found=str(error), remedy="mend the table"
            ) from None

    content = lines()
    _, header = next(content, (0, []))
    header = [h.lower() for h in header]
    while header and not header[-1]:
        header.pop()  # separators at the end of every line, as spreadsheets leave them
    header = _renamed(header)
    twice = sorted({h for h in header if header.count(h) > 1})
    if not header or twice:
        found = f"{twice} twice" if twice else "nothing"
        raise AutolmkError(
            "a table needs a first line with the names of its columns",
            file=file,
            found=found,
            remedy="begin the file with a line such as landmark,x,y,z",
        )

    signs = DecimalSigns(file)

    def named() -> Iterator[tuple[int, dict[str, str]]]:
        for line, fields in content:
            while len(fields) > len(header) and not fields[-1]:
                fields.pop()
            if len(fields) != len(header):
                raise AutolmkError(
                    f"line {line} of a table has the wrong number of fields",
                    file=file,
                    found=f"{len(fields)}: {delimiter.join(fields)[:200]}",
                    expected=f"{len(header)}: {delimiter.join(header)}",
                    remedy="mend the table; decimal numbers need a point, not a comma",
                )
            row = dict(zip(header, fields, strict=True))
            if delimiter != ",":  # where a comma may be the decimal sign
                for column in DECIMALS:
                    signs.add(row.get(column, ""), f"line {line}")
                row |= {column: row[column].replace(",", ".") for column in DECIMALS if column in row}
            yield line, row

    return header, named()


def _renamed(header: list[str]) -> list[str]:
    """With `landmark` for other words for it, where the table has no such column."""
    if "landmark" in header or {"l", "p", "s"} <= set(header) or {"r", "a", "s"} <= set(header):
        return header
    other = next((word for word in SYNONYMS["landmark"] if word in header), None)
    return ["landmark" if column == other else column for column in header]


def _require(file: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    missing = [c for c in columns if c not in header]
    if missing:
        meant = next((f"; is {w!r} meant?" for m in missing for w in SYNONYMS.get(m, ()) if w in header), "")
        meant = meant or near(missing[0], header)
        raise AutolmkError(
            f"a table lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}{meant}",
            file=file,
            found=", ".join(header)[:200],
            expected=", ".join(c for c in TABLE_COLUMNS if c in (*columns, "z", "status")),
            remedy="name the columns in the table's first line",
        )


def _annotation(file: Path, header: Sequence[str], rows: Sequence[tuple[int, dict[str, str]]]) -> Annotation:
    _require(file, header, ("landmark", "x", "y"))
    axes = [c for c in "xyz" if c in header]
    if "z" in axes and all(row["z"].upper() in BLANK for _, row in rows) and any(row["x"] for _, row in rows):
        axes.remove("z")  # a column that is left blank: pictures
    points, status = [], []
    for line, row in rows:
        if not row["landmark"]:
            raise AutolmkError(
                f"line {line} names no landmark",
                file=file,
                expected="a value in the column 'landmark'",
                remedy="name the landmark, or remove the line",
            )
        point = [read_number(row[a], file=file, where=f"{a} in line {line}") for a in axes]
        points.append(point)
        located = whole_or_nothing(point, file=file, where=f"in line {line}", case=row.get("case"))
        status.append(_status(row.get("status", ""), located, file, line))
    extra = {
        name: np.array([read_number(r.get(name, ""), file=file, where=f"{name} in line {n}") for n, r in rows])
        for name in ("likelihood", "error_radius")
    }
    return Annotation(
        tuple(sys.intern(normal(row["landmark"])) for _, row in rows),
        np.array(points, dtype=np.float64).reshape(-1, len(axes)),
        np.array(status, dtype=np.int8),
        None,
        extra["likelihood"],
        extra["error_radius"],
    )


def _status(text: str, located: bool, file: Path, line: int) -> Status:
    if not text:
        return Status.PRESENT if located else Status.UNKNOWN
    if text.lower() not in STATUS:
        raise AutolmkError(
            f"line {line} has an unknown status{near(text, STATUS)}",
            file=file,
            found=repr(text),
            expected="present, absent or unknown",
            remedy="mend the table",
        )
    return STATUS[text.lower()]


def _read_control_points(
    file: Path, header: Sequence[str], rows: Iterator[tuple[int, dict[str, str]]], label: NamesFrom
) -> Annotation:
    column = "description" if label == "description" else "label"
    _require(file, header, () if label == "order" else (column,))
    frame: Frame = "LPS" if {"l", "p", "s"} <= set(header) else "RAS"
    names: list[str] = []
    points, status = [], []
    for line, row in rows:
        name = name_of(row.get("label", ""), row.get("description", ""), len(names) + 1, label)
        if not name:
            raise AutolmkError(
                f"line {line} has no {label}",
                file=file,
                expected=f"a value in the column {label!r}",
                remedy="fill the field in, or remove the line",
            )
        point = [read_number(row[a], file=file, where=f"{a} in line {line}") for a in frame.lower()]
        located = whole_or_nothing(point, file=file, where=f"in line {line}")
        defined = located and row.get("defined", "1").lower() not in ("0", "false")
        names.append(name)
        points.append(point if defined else [math.nan] * 3)
        status.append(_status(row.get("status", ""), defined, file, line))
    return Annotation(
        tuple(names), np.array(points, dtype=np.float64).reshape(-1, 3), np.array(status, dtype=np.int8), frame
    )
