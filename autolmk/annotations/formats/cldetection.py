"""CL-Detection 2023: one JSON file for all images, {"points": [{"name", "point": [x, y, image], "scale"}, ...]}.

The third number of a point is the image's, from 1; scale is the size of a pixel in mm. The images are pictures named by
that number, such as 1.png or 001.bmp, as the organisers' script extracts them from the stack of the download.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import coordinate, field, json_of, number, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files, stem_of
from autolmk.errors import some


def read(path: Path, options: Options) -> Imported:
    """The cases of one file, or of one of training and one of test."""
    source = ImportedFiles(path, options)
    collector = Collector(source, "voxel")
    files = [f for f in source.files((".json",)) if _looks(head_of(f))] or [source.only_file((".json",))]
    for file in files:
        test = options.split and "test" in file.name.lower()
        for image, (points, pixel) in _by_image(file).items():
            found = [f for f in source.all_images() if _number(stem_of(f)) == image]
            if len(found) > 1:
                wrong(file, f"image {image}", some([f.name for f in found]), "one image of that number")
            in_test = test or (options.split and bool(found) and "test" in found[0].parent.name.lower())
            images = (found[0],) if found else None
            names = sorted(points, key=lambda n: (len(n), n))
            collector.add(
                str(image), images, names, [points[n] for n in names], file=file, test=in_test, spacing=(pixel, pixel)
            )
    return collector.result("scale is the size of a pixel in mm")


def _by_image(file: Path) -> dict[int, tuple[dict[str, list[float]], float]]:
    """image -> (landmark -> x, y), mm a pixel."""
    found: dict[int, tuple[dict[str, list[float]], float]] = {}
    for i, entry in enumerate(field(json_of(file), "points", list, file, "the file")):
        where = f"points[{i}]"
        name = str(field(entry, "name", (str, int), file, where))
        x, y, image = _three(field(entry, "point", list, file, where), file, where)
        scale: Any = field(entry, "scale", (str, int, float), file, where)
        pixel = number(str(scale), file, f"scale of {where}")
        points, known = found.setdefault(image, ({}, pixel))
        if name in points:
            wrong(file, where, f"landmark {name} of image {image} a second time", "each landmark once")
        if not pixel > 0 or pixel != known:
            wrong(file, f"scale of {where}", scale, f"a positive number, the same in all points of image {image}")
        points[name] = [x, y]
    return found


def _three(point: list[Any], file: Path, where: str) -> tuple[float, float, int]:
    if len(point) != 3:
        wrong(file, f"point of {where}", point[:5], "[x, y, number of the image]")
    x, y, image = (coordinate(v, file, f"point of {where}") for v in point)
    if not image >= 0 or image != int(image):
        wrong(file, f"point of {where}", point, "[x, y, number of the image]")
    return x, y, int(image)


def _number(stem: str) -> int | None:
    match = re.fullmatch(r"\D*0*(\d{1,9})(_0000)?", stem)
    return int(match[1]) if match else None


def _looks(text: str) -> bool:
    return '"points"' in text and '"point"' in text and '"scale"' in text


def sniff(path: Path) -> bool:
    """Whether a JSON file holds points with images' numbers and scales."""
    return any(_looks(head_of(f)) for f in some_files(path, (".json",)))


FORMAT = Format(
    "cldetection",
    "JSON of CL-Detection 2023, with pictures named by number",
    sniff,
    read,
    ("--images", "--keep-split", "--first-pixel"),
    ("cldetection2023", "cldet"),
)
