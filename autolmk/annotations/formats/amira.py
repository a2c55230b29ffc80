"""Amira's and Avizo's .landmarkAscii: define Markers N, Markers { float[3] Coordinates } @1, a line x y z a point.

The file says no frame: Amira's coordinates are those of its bounding box, so --frame says what they are. It says no
names either: points are numbered.
"""

from __future__ import annotations

import re
from pathlib import Path

from autolmk.annotations.formats.collect import Collector, numbered
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import rows_of_numbers, whole, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files, text_of

ENDINGS = (".landmarkascii", ".landmarksascii", ".landmarks", ".am")
HEADER = re.compile(r"\s*#\s*(AmiraMesh|Avizo|HyperMesh)\b.*ASCII", re.IGNORECASE)


def read(path: Path, options: Options) -> Imported:
    """The cases of a folder, or of one file."""
    source = ImportedFiles(path, options)
    collector = Collector(source, None)
    for stem, file, images in source.pairs(source.files(ENDINGS), ENDINGS):
        points = points_of(file)
        collector.add(stem, images, numbered(len(points)), points, file=file)
    return collector.result("points are numbered as they stand in the file")


def points_of(file: Path) -> list[list[float]]:
    """x, y, z of each marker. AutolmkError where the file is binary or holds several sets."""
    text = text_of(file)
    if HEADER.match(text) is None:
        wrong(file, "first line", text[:60].partition("\n")[0], "# AmiraMesh 3D ASCII 2.0 or # Avizo 3D ASCII",
              "save the landmarks in Amira as LandmarkAscii")  # fmt: skip
    count = re.search(r"define\s+Markers\s+(\d{1,9})", text)
    sets = re.search(r"NumSets\s+(\d{1,9})", text)
    section = re.search(r"Markers\s*\{\s*(?:float|double)\[3\]\s+Coordinates\s*\}\s*=?\s*@(\d+)", text)
    if count is None or section is None:
        wrong(file, "header", "no Markers", "define Markers N and Markers { float[3] Coordinates } @1")
    if sets is not None and sets[1] != "1":
        wrong(
            file, "header", f"NumSets {sets[1]}", "NumSets 1", "save the landmarks of each image in a file of their own"
        )
    start = re.search(rf"^\s*@{section[1]}\s*$", text, re.MULTILINE)
    if start is None:
        wrong(file, "content", f"no line @{section[1]}", f"the points after a line @{section[1]}")
    first = text.count("\n", 0, start.end()) + 1
    lines = []
    for i, line in enumerate(text[start.end() :].split("\n")):
        if line.strip().startswith("@"):
            break
        if line.strip():
            lines.append((first + i, line.strip()))
    n = whole(count[1], file, "define Markers")
    if len(lines) != n:
        wrong(file, "content", f"{len(lines)} points", f"{n}, as define Markers says")
    return rows_of_numbers(lines, 3, file)


def sniff(path: Path) -> bool:
    """Whether a file has Amira's header and markers."""
    return any(HEADER.match(t := head_of(f)) is not None and "Markers" in t for f in some_files(path, ENDINGS))


FORMAT = Format(
    "amira", ".landmarkAscii of Amira and Avizo", sniff, read, ("--images", "--frame"), ("landmarkascii", "avizo")
)
