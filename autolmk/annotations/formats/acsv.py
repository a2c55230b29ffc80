"""Slicer 3's and 4's annotations (.acsv): a file a point, `point|x|y|z|sel|vis`, in RAS. A folder of them is a case.

A file is named by its line `# Name =`, else by its own name. Rulers and boxes have two points, and are refused.
"""

from __future__ import annotations

import re
from pathlib import Path

from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import number, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files, text_of


def read(path: Path, options: Options) -> Imported:
    """The cases of a folder of folders, or of one folder."""
    source = ImportedFiles(path, options)
    collector = Collector(source, "RAS")
    folders: dict[Path, list[Path]] = {}
    for file in source.files((".acsv",)):
        folders.setdefault(file.parent, []).append(file)
    for folder, files in folders.items():
        named = [_point(file) for file in files]
        stem = folder.name
        images = next((im for _, _, im in source.pairs([folder / f"{stem}.acsv"], (".acsv",))), None)
        collector.add(stem, images, [n for n, _ in named], [p for _, p in named], file=files[0])
    return collector.result("each folder is a case")


def _point(file: Path) -> tuple[str, list[float]]:
    name, points, columns = file.stem, [], ["type", "x", "y", "z"]
    for line, text in enumerate(text_of(file).split("\n"), start=1):
        if match := re.match(r"#\s*Name\s*=\s*(\S.*)", text, re.IGNORECASE):
            name = match[1].strip()
        elif match := re.match(r"#\s*pointColumns\s*=\s*(.+)", text, re.IGNORECASE):
            columns = [c.strip() for c in match[1].split("|")]
        elif text.startswith("point|"):
            fields = text.split("|")
            if not {"x", "y", "z"} <= set(columns) or len(fields) < len(columns):
                wrong(file, f"line {line}", text[:80], "|".join(columns))
            points.append([number(fields[columns.index(a)], file, f"{a} in line {line}") for a in "xyz"])
    if len(points) != 1:
        wrong(file, "content", f"{len(points)} points", "one point: a fiducial",
              "remove files of rulers and boxes from the folder")  # fmt: skip
    return name, points[0]


def sniff(path: Path) -> bool:
    """Whether a file has Slicer's columns of points."""
    return any("pointColumns" in head_of(f) for f in some_files(path, (".acsv",)))


FORMAT = Format("acsv", ".acsv of 3D Slicer 3 and 4, a folder of points a case", sniff, read, ("--images",))
