"""NTSYS-pc's matrices (.nts, .dta): comments in quotes, a line `1 20L 75 0 dim=3`, labels, a row of numbers a specimen.

The control line says: the type 1, rows, columns, whether values are missing (then the code for them), dim=2 or 3. The
letters L, B and E behind the number of rows say that their labels stand before all, or at the beginning or end of each;
L behind the number of columns that labels of the columns follow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autolmk.annotations.formats.collect import Collector, numbered
from autolmk.annotations.formats.exported import Export, Writer, cannot_hold, names_file, numbers
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import number, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files, text_of
from autolmk.annotations.formats.specimens import add_specimens
from autolmk.errors import some
from autolmk.files.serialization import write_bytes

ENDINGS = (".nts", ".dta")
CONTROL = re.compile(
    r"1\s+(\d{1,6})\s*([LBE]?)\s+(\d{1,6})\s*(L?)\s+([01])(?:\s+([+-]?\d{1,9}(?:\.\d{0,9})?(?:e[+-]?\d{1,2})?))?"
    r"\s*(?:dim\s*=\s*([23]))?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Control:
    """The numbers of the control line. rows_at: '', L, B or E."""

    rows: int
    rows_at: str
    columns: int
    columns_named: bool
    missing: float | None
    dimensions: int


def read(path: Path, options: Options) -> Imported:
    """The specimens of one file."""
    source = ImportedFiles(path, options)
    file = source.only_file(ENDINGS)
    lines = [(i, t.strip()) for i, t in enumerate(text_of(file).split("\n"), start=1)]
    lines = [(i, t) for i, t in lines if t and not t.startswith(('"', "'"))]
    if not lines:
        wrong(file, "content", "nothing", "a control line such as 1 20L 75 0 dim=3")
    control = _control(*lines[0], file)
    tokens = [(i, token) for i, text in lines[1:] for token in text.replace(",", " ").split()]
    labels, values = _split(tokens, control, file)
    matrix = np.array(values).reshape(control.rows, -1, control.dimensions)
    if control.missing is not None:
        matrix = np.where((matrix == control.missing).any(axis=2, keepdims=True), math.nan, matrix)
    collector = Collector(source, "voxel" if control.dimensions == 2 else None)
    add_specimens(collector, labels, numbered(matrix.shape[1]), matrix, file)
    return collector.result("specimens are the images of the same names")


def _control(line: int, text: str, file: Path) -> Control:
    match = CONTROL.fullmatch(text)
    if match is None or match[7] is None:
        wrong(file, f"line {line}", text[:80], "a control line such as 1 20L 75 0 dim=3")
    dimensions = int(match[7])
    missing = float(match[6]) if match[5] == "1" and match[6] else None
    if match[5] == "1" and missing is None:
        wrong(file, f"line {line}", text[:80], "the code for missing values behind the 1")
    rows, columns = int(match[1]), int(match[3])
    if not match[2]:
        wrong(file, f"line {line}", text[:80], "names of the specimens: L, B or E behind the number of rows",
              "export the file again with labels, named as the images are")  # fmt: skip
    if columns % dimensions:
        wrong(file, f"line {line}", f"{columns} columns", f"a multiple of {dimensions}")
    return Control(rows, match[2].upper(), columns, bool(match[4]), missing, dimensions)


def _split(tokens: list[tuple[int, str]], control: Control, file: Path) -> tuple[list[str], list[list[float]]]:
    """Labels of the specimens and their rows."""
    own = control.rows_at in ("B", "E")
    before = (control.rows if control.rows_at == "L" else 0) + (control.columns if control.columns_named else 0)
    width = control.columns + own
    if len(tokens) != before + control.rows * width:
        wrong(
            file,
            "content",
            f"{len(tokens)} labels and numbers",
            f"{before + control.rows * width}, as the control line says",
        )
    labels = [token for _, token in tokens[: control.rows]] if control.rows_at == "L" else []
    rows = []
    for r in range(control.rows):
        row = tokens[before + r * width : before + (r + 1) * width]
        if own:
            labels.append(row[0 if control.rows_at == "B" else -1][1])
            row = row[1:] if control.rows_at == "B" else row[:-1]
        rows.append([number(token, file, f"line {line}") for line, token in row])
    return labels, rows


def sniff(path: Path) -> bool:
    """Whether a file has a control line with dim=."""
    for file in some_files(path, (*ENDINGS, ".txt")):
        lines = [t.strip() for t in head_of(file).splitlines()]
        first = next((t for t in lines if t and not t.startswith(('"', "'"))), "")
        if (match := CONTROL.fullmatch(first)) and match[7]:
            return True
    return False


FORMAT = Format(
    "nts",
    "NTSYS-pc's .nts and .dta, all specimens in a file",
    sniff,
    read,
    ("--images", "--y-from", "--frame"),
    ("ntsys", "dta", "ntsyspc"),
)


def _write(export: Export, folder: Path) -> Sequence[str]:
    """landmarks.nts with labels of the specimens, and landmark_names.txt, as NTSYS-pc numbers its points."""
    labels = [case.image_name for case in export.cases]
    odd = [label for label in labels if re.search(r"[\s,]", label) or label.startswith(('"', "'"))]
    if odd:
        cannot_hold("the name of a case", "NTSYS-pc's format", some([repr(label) for label in odd]),
                    "names without blanks and commas, which separate its fields", "rename the images")  # fmt: skip
    coordinates = [export.coordinates(case) for case in export.cases]
    every = np.concatenate(coordinates)
    code = -999.0
    while (every == code).any():
        code *= 10
    lacking = bool(np.isnan(every).any())
    dimensions = every.shape[1]
    rows = [numbers(np.where(np.isfinite(points), points, code).ravel()) for points in coordinates]
    control = f"1 {len(labels)}L {len(export.landmark_names) * dimensions} {f'1 {code:g}' if lacking else '0'}"
    text = [f'"{len(export.landmark_names)} landmarks', f"{control} dim={dimensions}", *labels, *rows]
    write_bytes(folder / "landmarks.nts", ("\n".join(text) + "\n").encode())
    write_bytes(folder / "landmark_names.txt", names_file(export).encode())
    edge = {"bottom": "lower", "top": "upper"}[export.y_from]
    said = f"x and y are pixels, y is counted from the {edge} edge" if export.planar else "x, y and z are mm in LPS"
    said += f"; {code:g} is a point that is not present" if lacking else ""
    return [said, *filter(None, [export.missing()])]


WRITER = Writer("nts", "NTSYS-pc's .nts, all specimens in a file", _write)
