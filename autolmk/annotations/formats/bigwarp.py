"""BigWarp's landmarks: no header; name, whether active, the moving image's coordinates, the target image's.

A file holds points of two images; --side says which is imported. 2D coordinates are in pixels, 0 at the centre of the
first; 3D ones are in the units of the image, and --frame says the frame. Infinity is a point of the other side alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from autolmk.annotations.formats.calibrated import in_pixels
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.imported import Format, Imported, Options, undecided
from autolmk.annotations.formats.parsing import Table, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files

FIRST = re.compile(r'"?[^,"]*"?\s*,\s*"?(true|false)"?\s*(,\s*"?[^,"]+"?\s*){4,6}', re.IGNORECASE)


def read(path: Path, options: Options) -> Imported:
    """The cases of a folder, or of one file."""
    source = ImportedFiles(path, options)
    files = [f for f in source.files((".csv",)) if _looks(f)]
    if not files:
        wrong(path, "source", "no rows name,true,x,y,...", "landmarks of BigWarp")
    collector: Collector | None = None
    for stem, file, images in source.pairs(files, (".csv",)):
        table = Table(file)
        width = len(table.rows[0][1])
        if width not in (6, 8):
            wrong(file, f"line {table.rows[0][0]}", f"{width} fields", "6 in 2D, 8 in 3D")
        rows, n = table.body(0, width), (width - 2) // 2
        sides = {"moving": slice(2, 2 + n), "target": slice(2 + n, width)}
        if options.side is None:
            choices = {
                side: f"point {rows[0][1][0]} of {stem} at {', '.join(rows[0][1][at])}" for side, at in sides.items()
            }
            raise undecided("a file of BigWarp holds points of two images", file, "--side", choices)
        at = sides[options.side]
        points = [[table.number(v, line, "a coordinate") for v in row[at]] for line, row in rows]
        placed = in_pixels(points, images, file, options) if n == 2 else points
        collector = collector or Collector(source, "voxel" if n == 2 else None)
        collector.add(stem, images, [row[0] for _, row in rows], placed, file=file)
    assert collector is not None
    return collector.result(f"points of the {options.side} image; those that are switched off too")


def _looks(file: Path) -> bool:
    first = head_of(file).lstrip().partition("\n")[0]
    return FIRST.fullmatch(first.strip()) is not None


def sniff(path: Path) -> bool:
    """Whether a table has no header, and true or false as the second field."""
    return any(_looks(f) for f in some_files(path, (".csv",)))


FORMAT = Format(
    "bigwarp",
    "landmarks of BigWarp: moving and target columns",
    sniff,
    read,
    ("--side", "--images", "--scale", "--frame"),
)
