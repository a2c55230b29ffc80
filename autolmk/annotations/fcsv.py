"""The older fiducial files of 3D Slicer (.fcsv): a comment header, then one line of comma-separated fields a point.

`# CoordinateSystem = LPS|RAS`, or the codes 0 (RAS) and 1 (LPS) of older versions. A file without that line does not
say in which frame it is: Slicer itself has read such files as RAS in some versions and as LPS in others. Only the lists
of 3D Slicer 3 are known to be RAS, which had no other frame; their columns begin with the label.

Slicer opens files with CRLF line ends on other systems as if the CR were the last field's, and saves them with a CR
inside each record: lines that begin with a comma go on with the record before.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from autolmk.annotations.annotation import Annotation, Frame, NamesFrom, name_of, remark_on_names
from autolmk.annotations.text import read_number, read_text, unquotable, whole_or_nothing
from autolmk.errors import AutolmkError
from autolmk.files.serialization import write_bytes
from autolmk.landmarks import Landmarks, Status

COLUMNS = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID"]
FRAME_CODES: dict[str, Frame] = {"LPS": "LPS", "1": "LPS", "RAS": "RAS", "0": "RAS"}
# Slicer 5 appends two unnamed fields, the position's status and whether the point was made automatically
STATUS_CODES = {"0": Status.UNKNOWN, "1": Status.UNKNOWN, "2": Status.PRESENT, "3": Status.ABSENT}
STATUS_CODE = {Status.UNKNOWN: 0, Status.PRESENT: 2, Status.ABSENT: 3}


def read(file: Path, *, label: NamesFrom = "label") -> Annotation:
    """The points of the file; a point whose coordinates are blank or nan is unknown. AutolmkError on other content."""
    frame: Frame | None = None
    columns = COLUMNS
    names: list[str] = []
    texts: list[tuple[str, str]] = []
    points: list[list[float]] = []
    status: list[Status] = []
    for number, line in _records(read_text(file)):
        if line.startswith("#"):
            key, _, value = (part.strip(" ,;\t") for part in line[1:].partition("="))  # commas: of a spreadsheet
            if key.lower() == "coordinatesystem":
                frame = _frame(value, file, number)
            elif key.lower() == "columns":
                columns = [c.strip().lower() for c in value.split(",")]
        else:
            fields = _fields(line, file, number)
            name, point, state = _point(fields, columns, (label, len(names) + 1), file, number)
            row = dict(zip(columns, fields, strict=False))
            texts.append((row.get("label", ""), row.get("desc", "")))
            names.append(name)
            points.append(point)
            status.append(state)
    remark_on_names(file, texts, label)
    if frame is None and columns[0] == "label":
        frame = "RAS"
    return Annotation(
        tuple(names), np.array(points, dtype=np.float64).reshape(-1, 3), np.array(status, dtype=np.int8), frame
    )


def _records(text: str) -> list[tuple[int, str]]:
    """(line number, line) of each record and comment that is not blank."""
    found: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(",") and found and not found[-1][1].startswith("#"):
            found[-1] = (found[-1][0], found[-1][1] + line)
        elif line.strip():
            found.append((number, line))
    return found


def _fields(line: str, file: Path, number: int) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error as error:
        raise AutolmkError(
            f"line {number} of a .fcsv file is damaged", file=file, found=str(error), remedy="mend or export it again"
        ) from None


def write(file: Path, landmarks: Landmarks, *, numbered: bool = False) -> None:
    """Write points in LPS. A landmark that is not present gets nan coordinates: no reader takes those for a point.

    numbered: labels are 1, 2, ... and the names are the descriptions, as AFIDs have it.
    """
    buffer = io.StringIO()
    buffer.write("# Markups fiducial file version = 5.6\n# CoordinateSystem = LPS\n")
    buffer.write(f"# columns = {','.join(COLUMNS)}\n")
    for i, (name, point, state) in enumerate(zip(landmarks.names, landmarks.points, landmarks.status, strict=True)):
        unquotable(name, file)
        present = state == Status.PRESENT
        xyz = [repr(float(x)) for x in point] + ["0.0"] * (3 - len(point)) if present else ["nan"] * 3
        label, description = (str(i + 1), name) if numbered else (name, "")
        fields = [str(i + 1), *xyz, "0", "0", "0", "1", "1", str(int(present)), "0", label, description, ""]
        buffer.write(",".join([*fields, str(STATUS_CODE[Status(state)]), "0"]) + "\n")
    write_bytes(file, buffer.getvalue().encode())


def _frame(value: str, file: Path, line: int) -> Frame:
    if value.upper() not in FRAME_CODES:
        raise AutolmkError(
            "the coordinate system of a .fcsv file is not known",
            file=file,
            found=f"{value!r} in line {line}",
            expected="LPS or RAS, or the older codes 1 (LPS) and 0 (RAS)",
            remedy="save the points in 3D Slicer again, as .mrk.json",
        )
    return FRAME_CODES[value.upper()]


def _point(
    fields: list[str], columns: list[str], naming: tuple[NamesFrom, int], file: Path, line: int
) -> tuple[str, list[float], Status]:
    """naming: where the name is, and the point's place in the file."""
    row = dict(zip(columns, (f.strip() for f in fields), strict=False))
    if not {"x", "y", "z"} <= row.keys():
        raise AutolmkError(
            f"line {line} of a .fcsv file has too few fields",
            file=file,
            found=",".join(fields)[:200],
            expected=f"the fields {','.join(columns)}",
            remedy="save the points in 3D Slicer again, as .mrk.json",
        )
    name = name_of(row.get("label", ""), row.get("desc", ""), naming[1], naming[0])
    if not name:
        raise AutolmkError(
            f"line {line} of a .fcsv file has no {naming[0]}",
            file=file,
            found=",".join(fields)[:200],
            expected=f"the landmark's name as its {naming[0]}",
            remedy="name the point in 3D Slicer, or choose with names_from in dataset.json where the names are",
        )
    point = [read_number(row[axis], file=file, where=f"{axis} in line {line}") for axis in "xyz"]
    located = whole_or_nothing(point, file=file, where=f"in line {line}")
    state = Status.PRESENT if located else Status.UNKNOWN
    if len(columns) == len(COLUMNS) and len(fields) > len(COLUMNS):
        code = fields[len(COLUMNS)].strip()
        state = STATUS_CODES.get(code, state)
    return name, point, state
