"""DeepLabCut's CollectedData_*.csv: three header rows (scorer, bodyparts, coords), four with several animals.

Rows are images, by a path such as labeled-data/video/img001.png, in one column or, in newer versions, in three.
Coordinates are in pixels, 0 at the centre of the first; an empty field is a part that was not labelled.
"""

from __future__ import annotations

from pathlib import Path

from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import Table, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files
from autolmk.errors import some

LEVELS = ("scorer", "individuals", "bodyparts", "coords")


def read(path: Path, options: Options) -> Imported:
    """The cases of all tables of a project, or of one."""
    source = ImportedFiles(path, options)
    collector = Collector(source, "voxel")
    files = [f for f in source.files((".csv",)) if _header(f)]
    own = [f for f in files if f.name.lower().startswith("collecteddata")]
    left = [f.name for f in files if f not in own] if own else []  # machinelabels-iter0.csv: of a network, not refined
    files = own or files
    if not files:
        wrong(source.files((".csv",))[0], "header", "no rows scorer, bodyparts and coords", "a table of DeepLabCut")
    for file in files:
        _read_table(file, source, collector, options)
    said = [f"only CollectedData_*.csv counts, {some(left)} is left aside"] if left else []
    if any("likelihood" in head_of(f).lower() for f in files):
        said.append("there are columns likelihood: these points are a network's, unless somebody has refined them")
    return collector.result("an empty field is a part that nobody labelled", *said)


def _read_table(file: Path, source: ImportedFiles, collector: Collector, options: Options) -> None:
    table = Table(file)
    levels: dict[str, list[str]] = {}
    for _, row in table.rows[:4]:
        if row[0].lower() in LEVELS and row[0].lower() not in levels:
            levels[row[0].lower()] = row
    width = max(len(row) for row in levels.values())
    levels = {key: [*row, *[""] * (width - len(row))] for key, row in levels.items()}
    start = next((i for i in range(1, width) if levels["coords"][i : i + 1] not in ([""], [])), width)
    columns = _columns(levels, start, width, file, options)
    for line, row in table.body(len(levels), width):
        name = "/".join(part for part in row[:start] if part)
        points = [
            [table.number(row[i], line, f"{a} of {part}") for i, a in zip(at, "xy", strict=True)]
            for part, at in columns.items()
        ]
        collector.add(name, source.image(name, file, f"line {line}"), list(columns), points, file=file)


def _columns(
    levels: dict[str, list[str]], start: int, width: int, file: Path, options: Options
) -> dict[str, tuple[int, int]]:
    """part -> its columns x and y. AutolmkError where several animals are there and none is chosen."""
    animals = levels.get("individuals")
    chosen = options.individual
    if animals is not None:
        there = list(dict.fromkeys(a for a in animals[start:] if a and a != "single"))
        if chosen is None and len(there) == 1:
            chosen = there[0]
        if chosen not in (*there, "single") or (chosen is None):
            wrong(file, "choice of the animal", f"{chosen or 'none'}; the file has {some(there)}",
                  "one of them: a case has each landmark once", "choose one with --individual")  # fmt: skip
    found: dict[str, dict[str, int]] = {}
    for i in range(start, width):
        axis, part = levels["coords"][i].lower(), levels["bodyparts"][i]
        if axis not in ("x", "y", "likelihood", "visible", "visibility"):
            wrong(file, "header", f"coords {axis!r}", "x and y")
        if axis in ("x", "y") and (animals is None or animals[i] in (chosen, "single")):
            if axis in found.setdefault(part, {}):
                wrong(file, "header", f"two columns for {axis} of {part!r}", "each part once")
            found[part][axis] = i
    lacking = [part for part, axes in found.items() if len(axes) != 2]
    if lacking or not found:
        wrong(file, "header", f"{some(lacking) or 'no part'} without both x and y", "x and y of each part")
    return {part: (axes["x"], axes["y"]) for part, axes in found.items()}


def _header(file: Path) -> bool:
    first = [line.replace(";", ",").split(",")[0].strip().strip('"').lower() for line in head_of(file).splitlines()[:4]]
    return {"scorer", "bodyparts", "coords"} <= set(first)


def sniff(path: Path) -> bool:
    """Whether a table has DeepLabCut's header rows."""
    return any(_header(f) for f in some_files(path, (".csv",)))


FORMAT = Format(
    "deeplabcut",
    "DeepLabCut's CollectedData_*.csv, of one or several animals",
    sniff,
    read,
    ("--images", "--individual"),
    ("dlc", "madlc", "deeplabcutcsv"),
)
