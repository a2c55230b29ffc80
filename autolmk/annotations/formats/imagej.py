"""ImageJ's and Fiji's tables of multi-point selections (Results.csv, .txt, .xls as text): the columns X and Y.

Rows belong to the image that the column Label names, else to that of the table's name. Points are numbered in the order
of the rows of an image, or named by the column Name. The centre of the first pixel is 0.5. X and Y must be in pixels:
Analyze > Set Scale > Click to Remove Scale, before measuring. .roi files are binary: open them, and measure.
"""

from __future__ import annotations

from pathlib import Path

from autolmk.annotations.formats.calibrated import in_pixels
from autolmk.annotations.formats.collect import Collector, numbered
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import Table, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files
from autolmk.errors import AutolmkError, some

ENDINGS = (".csv", ".tsv", ".txt", ".xls")
BINARY = (".roi", ".zip")


def read(path: Path, options: Options) -> Imported:
    """The cases of a folder of tables, or of one."""
    source = ImportedFiles(path, options)
    binary = some_files(path, BINARY)
    if binary and not some_files(path, ENDINGS):
        raise AutolmkError(
            "ImageJ's .roi files are binary, and are not read",
            file=binary[0],
            expected="a table of points, such as Results.csv",
            remedy="open them in Fiji on their image, then Analyze > Measure, and save the table",
        )
    collector = Collector(source, "voxel", first_pixel=0.5)
    files = [f for f in source.files(ENDINGS) if _looks(f)] or source.files(ENDINGS)[:1]
    for file in files:
        _read_table(file, source, collector)
    return collector.result(
        "X and Y are in pixels, unless --scale says otherwise: no scale was set when they were measured"
    )


def _read_table(file: Path, source: ImportedFiles, collector: Collector) -> None:
    table = Table(file)
    header = [h.strip().lower() for h in table.rows[0][1]]
    if "x" not in header or "y" not in header:
        wrong(
            file, "header", some(table.rows[0][1]), "the columns X and Y", "tick Centroid in Analyze > Set Measurements"
        )
    named = next((header.index(n) for n in ("name", "landmark") if n in header), None)
    cases: dict[str, tuple[list[str], list[list[float]]]] = {}
    for line, row in table.body(1, len(header)):
        image = row[header.index("label")] if "label" in header else ""
        names, points = cases.setdefault(image, ([], []))
        names.append(numbered(len(names) + 1)[-1] if named is None else row[named])
        points.append([table.number(row[header.index(a)], line, a.upper()) for a in "xy"])
    for label, (names, points) in cases.items():
        found = None
        for name in (label, label.partition(":")[0]):
            found = found or (source.image(name, file, "the column Label") if name else None)
        if not label:
            found = next((images for _, _, images in source.pairs([file], ENDINGS)), None)
        placed = in_pixels(points, found, file, source.options)
        collector.add(label or file.stem, found, names, placed, file=file)


def _looks(file: Path) -> bool:
    first = head_of(file).lstrip("\n").partition("\n")[0].replace("\t", ",").replace(";", ",")
    header = [h.strip().strip('"') for h in first.split(",")]
    measured = {"Area", "Mean", "Min", "Max", "Label", "Slice", "Counter", "Count", "Ch", "Frame", ""} & set(header)
    return "X" in header and "Y" in header and bool(measured)


def sniff(path: Path) -> bool:
    """Whether a table has ImageJ's columns, or a file is one of its selections."""
    return any(_looks(f) for f in some_files(path, ENDINGS)) or bool(some_files(path, (".roi",)))


FORMAT = Format(
    "imagej",
    "ImageJ's and Fiji's tables of points",
    sniff,
    read,
    ("--images", "--scale", "--first-pixel"),
    ("fiji", "multipoint"),
)
