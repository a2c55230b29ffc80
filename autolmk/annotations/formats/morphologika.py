"""Morphologika: sections [individuals], [landmarks], [dimensions], [names], [rawpoints]; a file of all specimens.

Specimens are found among the images by their names. In 2D, y is counted from the top or the bottom: --y-from says it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autolmk.annotations.formats.collect import Collector, numbered
from autolmk.annotations.formats.exported import Export, Writer, cannot_hold, names_file, numbers
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import rows_of_numbers, whole, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files, stem_of, text_of
from autolmk.annotations.formats.specimens import add_specimens
from autolmk.errors import some
from autolmk.files.serialization import write_bytes

ENDINGS = (".txt", ".morphologika")
Lines = list[tuple[int, str]]


def read(path: Path, options: Options) -> Imported:
    """The specimens of one file."""
    source = ImportedFiles(path, options)
    files = [f for f in source.files(ENDINGS) if _looks(f)]
    if len(files) != 1:
        wrong(path, "source", f"{len(files)} files with [rawpoints]", "one file", "name the file itself as the source")
    file = files[0]
    sections = _sections(file)
    counts = [_count(sections, key, file) for key in ("individuals", "landmarks", "dimensions")]
    n, k, dimensions = counts
    if dimensions not in (2, 3):
        wrong(file, "[dimensions]", dimensions, "2 or 3")
    rows = [(i, t) for i, t in sections.get("rawpoints", []) if not t.startswith("'")]
    if len(rows) != n * k:
        wrong(file, "[rawpoints]", f"{len(rows)} points", f"{n} × {k}, as [individuals] and [landmarks] say")
    beside = [t.lstrip("'# ") for _, t in sections.get("rawpoints", []) if t[0] == "'"]
    names = [t for _, t in sections.get("names", [])] or beside
    if len(names) != n:
        wrong(file, "[names]", f"{len(names)} names", f"{n}, as [individuals] says")
    _require_order(names, beside, file)
    points = np.array(rows_of_numbers(rows, dimensions, file)).reshape(n, k, dimensions)
    collector = Collector(source, "voxel" if dimensions == 2 else None)
    add_specimens(collector, names, numbered(k), points, file)
    return collector.result("specimens are the images of the same names")


def _require_order(names: list[str], beside: list[str], file: Path) -> None:
    """AutolmkError where the comments in [rawpoints] name the same specimens in another order than [names]."""
    pairs = list(zip((stem_of(Path(n)) for n in names), (stem_of(Path(b)) for b in beside), strict=False))
    odd = [f"{a!r} and {b!r}" for a, b in pairs if a != b]
    if odd and len(names) == len(beside) and sorted(a for a, _ in pairs) == sorted(b for _, b in pairs):
        wrong(file, "order of the specimens", f"{some(odd)} at the same place of [names] and [rawpoints]",
              "the same order in both")  # fmt: skip


def _sections(file: Path) -> dict[str, Lines]:
    sections: dict[str, Lines] = {}
    current: Lines | None = None
    for line, raw in enumerate(text_of(file).split("\n"), start=1):
        text = raw.strip()
        if match := re.fullmatch(r"\[([^\]]+)\]", text):
            key = match[1].strip().lower()
            if key in sections:
                wrong(file, f"line {line}", f"a second [{key}]", "each section once")
            current = sections.setdefault(key, [])
        elif text and current is not None:
            current.append((line, text))
        elif text:
            wrong(file, f"line {line}", text[:80], "a section such as [individuals]")
    return sections


def _count(sections: dict[str, Lines], key: str, file: Path) -> int:
    lines = sections.get(key, [])
    if len(lines) != 1:
        wrong(file, f"[{key}]", f"{len(lines)} lines", "one number")
    return whole(lines[0][1], file, f"[{key}]", most=100_000)


def _looks(file: Path) -> bool:
    text = head_of(file).lower()
    return "[individuals]" in text and "[landmarks]" in text


def sniff(path: Path) -> bool:
    """Whether a text file has Morphologika's sections."""
    return any(_looks(f) for f in some_files(path, ENDINGS))


FORMAT = Format(
    "morphologika",
    "Morphologika, all specimens in a file",
    sniff,
    read,
    ("--images", "--y-from", "--frame", "--first-pixel"),
)


def _write(export: Export, folder: Path) -> Sequence[str]:
    """landmarks.txt, and landmark_names.txt, as Morphologika numbers its points."""
    coordinates = [export.coordinates(case) for case in export.cases]
    lacking = [
        f"{name} of {case.identifier}"
        for case in export.cases
        for name, present in zip(case.landmarks.names, case.landmarks.present, strict=True)
        if not present
    ]
    if lacking:
        cannot_hold("points that are not present", "Morphologika", some(lacking), "all landmarks in all cases",
                    "leave out these cases or landmarks, or convert to tps or nts")  # fmt: skip
    odd = [c.image_name for c in export.cases if c.image_name.startswith(("'", "#", "["))]
    if odd:
        cannot_hold("the name of a case", "Morphologika", some(odd), "a name that does not begin with ', # or [",
                    "rename the image")  # fmt: skip
    rows = []
    for case, points in zip(export.cases, coordinates, strict=True):
        rows += [f"'{case.identifier}", *map(numbers, points)]
    sections = {
        "individuals": [str(len(export.cases))],
        "landmarks": [str(len(export.landmark_names))],
        "dimensions": ["2" if export.planar else "3"],
        "names": [case.image_name for case in export.cases],
        "rawpoints": rows,
    }
    text = "\n".join("\n".join([f"[{key}]", *lines]) for key, lines in sections.items())
    write_bytes(folder / "landmarks.txt", (text + "\n").encode())
    write_bytes(folder / "landmark_names.txt", names_file(export).encode())
    edge = {"bottom": "lower", "top": "upper"}[export.y_from]
    return [f"x and y are pixels, y is counted from the {edge} edge" if export.planar else "x, y and z are mm in LPS"]


WRITER = Writer("morphologika", "Morphologika, all specimens in a file", _write)
