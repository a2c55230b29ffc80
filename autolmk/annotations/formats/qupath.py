"""QuPath's points: GeoJSON (Point and MultiPoint), or the points tool's TSV (x, y, class, name), a file an image.

A landmark is named by the annotation's name, else by its class; the points of a MultiPoint of several are numbered.
Coordinates are in pixels of full resolution, 0 at the corner of the picture, so 0.5 at the centre of the first pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import Table, coordinate, field, json_of, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files
from autolmk.errors import some

ENDINGS = (".geojson", ".json", ".tsv", ".txt")
Points = tuple[list[str], list[list[float]], int]


def read(path: Path, options: Options) -> Imported:
    """The cases of a folder, or of one file."""
    source = ImportedFiles(path, options)
    files = [f for f in source.files(ENDINGS) if _looks(f)] or source.files(ENDINGS)[:1]
    collector = Collector(source, "voxel", first_pixel=0.5)
    others = 0
    for stem, file, images in source.pairs(files, ENDINGS):
        names, points, left = _geojson(file) if file.name.lower().endswith("json") else _tsv(file)
        others += left
        collector.add(stem, images, names, points, file=file)
    return collector.result(*([f"{others} annotations that are no points are left aside"] if others else []))


def _geojson(file: Path) -> Points:
    content = json_of(file)
    features = content if isinstance(content, list) else [content]
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        features = field(content, "features", list, file, "the file")
    names: list[str] = []
    points: list[list[float]] = []
    others = 0
    for i, feature in enumerate(features):
        where = f"feature {i + 1}"
        geometry = field(feature, "geometry", dict, file, where)
        kind = geometry.get("type")
        if kind not in ("Point", "MultiPoint"):
            others += 1
            continue
        at = field(geometry, "coordinates", list, file, where)
        listed = [at] if kind == "Point" else at
        name = _name(feature.get("properties") or {}, file, where)
        names += [name] if len(listed) == 1 else [f"{name}_{k}" for k in range(1, len(listed) + 1)]
        for point in listed:
            if not isinstance(point, list) or len(point) != 2:
                wrong(file, f"coordinates of {where}", f"{point!r}"[:80], "[x, y]")
            points.append([coordinate(v, file, f"coordinates of {where}") for v in point])
    return names, points, others


def _name(properties: Any, file: Path, where: str) -> str:
    if not isinstance(properties, dict):
        wrong(file, f"properties of {where}", f"{properties!r}"[:80], "an object {...}")
    kind = properties.get("classification")
    name = properties.get("name") or (kind.get("name") if isinstance(kind, dict) else kind)
    if not isinstance(name, str):
        wrong(
            file,
            f"name of {where}",
            f"{name!r}"[:80],
            "a name or a class",
            "name the points or set their class in QuPath",
        )
    return name


def _tsv(file: Path) -> Points:
    table = Table(file, delimiters="\t,;")
    header = [h.lower() for h in table.rows[0][1]]
    if "x" not in header or "y" not in header or not {"class", "name"} & set(header):
        wrong(file, "header", some(header), "x, y, class, name")
    rows = table.body(1, len(header))
    named = [
        next((row[header.index(c)] for c in ("name", "class") if c in header and row[header.index(c)]), "")
        for _, row in rows
    ]
    names = [n if named.count(n) == 1 else f"{n}_{named[: i + 1].count(n)}" for i, n in enumerate(named)]
    return names, [[table.number(row[header.index(a)], line, a) for a in "xy"] for line, row in rows], 0


def _looks(file: Path) -> bool:
    text = head_of(file)
    if file.name.lower().endswith("json"):
        return '"geometry"' in text and '"Feature"' in text and "Point" in text
    header = text.partition("\n")[0].lower().split("\t")
    return header[:2] == ["x", "y"] and bool({"class", "name"} & set(header))


def sniff(path: Path) -> bool:
    """Whether a file is GeoJSON with points, or the points tool's table."""
    return any(_looks(f) for f in some_files(path, ENDINGS))


FORMAT = Format(
    "qupath",
    "QuPath's points: GeoJSON or TSV, a file an image",
    sniff,
    read,
    ("--images", "--first-pixel"),
    ("geojson", "qupathgeojson", "qupathtsv"),
)
