"""Files .pts of two kinds, told by their first lines.

300-W: version: 1, n_points: 68, { x y ... }, in pixels, 1 at the centre of the first, a file a picture.
Landmark Editor: Version 1.0, the number of points, NAME x y z ..., in the units of its surface: --frame says the frame.
"""

from __future__ import annotations

import re
from pathlib import Path

from autolmk.annotations.formats.collect import Collector, numbered
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import number, rows_of_numbers, whole, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files, text_of

IBUG = re.compile(r"\s*version\s*:\s*\d+\s*\n+\s*n_points\s*:", re.IGNORECASE)
EDITOR = re.compile(r"\s*version\s+\d+(\.\d+)?\s*\n+\s*\d+\s*\n", re.IGNORECASE)


def read(path: Path, options: Options) -> Imported:
    """The cases of a folder, or of one file; all of one kind."""
    source = ImportedFiles(path, options)
    files = source.files((".pts",))
    kinds = {_kind(f) for f in files}
    if len(kinds) != 1 or None in kinds:
        odd = next(f for f in files if _kind(f) in (None, "editor"))
        wrong(odd, "first lines", head_of(odd, 80)[:60], "version: 1 and n_points: (300-W), or Version 1.0 and a "
              "number (Landmark Editor), the same in all files")  # fmt: skip
    ibug = kinds == {"300-W"}
    collector = Collector(source, "voxel", first_pixel=1.0) if ibug else Collector(source, None)
    for stem, file, images in source.pairs(files, (".pts",)):
        names, points = (_ibug if ibug else _editor)(file)
        collector.add(stem, images, names, points, file=file)
    return collector.result("files of 300-W" if ibug else "files of Landmark Editor")


def _ibug(file: Path) -> tuple[list[str], list[list[float]]]:
    lines = [(i, t.strip()) for i, t in enumerate(text_of(file).split("\n"), start=1) if t.strip()]
    n = whole(lines[1][1].partition(":")[2], file, f"line {lines[1][0]}")
    if [t for _, t in lines[2:3]] != ["{"] or lines[-1][1] != "}" or len(lines) != n + 4:
        wrong(file, "content", f"{len(lines) - 4} lines between the braces", f"{{, {n} lines x y, and }}")
    return numbered(n), rows_of_numbers(lines[3:-1], 2, file)


def _editor(file: Path) -> tuple[list[str], list[list[float]]]:
    lines = [(i, t.strip()) for i, t in enumerate(text_of(file).split("\n"), start=1) if t.strip()]
    n = whole(lines[1][1], file, f"line {lines[1][0]}")
    if len(lines) != n + 2:
        wrong(file, "content", f"{len(lines) - 2} points", f"{n} points, as line {lines[1][0]} says")
    names, points = [], []
    for line, text in lines[2:]:
        fields = text.split()
        if len(fields) != 4:
            wrong(file, f"line {line}", text[:80], "NAME x y z")
        names.append(fields[0])
        point = [number(f, file, f"line {line}") for f in fields[1:]]
        points.append([float("nan")] * 3 if point == [9999.0] * 3 else point)  # Landmark Editor's code for missing
    return names, points


def _kind(file: Path) -> str | None:
    text = head_of(file)
    return "300-W" if IBUG.match(text) else "editor" if EDITOR.match(text) else None


def sniff(path: Path) -> bool:
    """Whether a file has the first lines of either kind."""
    return any(_kind(f) is not None for f in some_files(path, (".pts",)))


FORMAT = Format(
    "pts",
    ".pts of 300-W or of Landmark Editor",
    sniff,
    read,
    ("--images", "--frame", "--first-pixel"),
    ("300w", "ibug", "landmarkeditor", "pts300w"),
)
