"""LabelMe's JSON: one file a picture; of its shapes, those of the type point.

Coordinates are in pixels of a picture whose upper left corner is 0, so that the centre of the first pixel is 0.5.
"""

from __future__ import annotations

from pathlib import Path

from autolmk.annotations.formats.collect import Collector, require_size
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import coordinate, field, json_of, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files


def read(path: Path, options: Options) -> Imported:
    """The cases of a folder, or of one file."""
    source = ImportedFiles(path, options)
    collector = Collector(source, "voxel", first_pixel=0.5)
    files = [f for f in source.files((".json",)) if _looks(head_of(f, 2**22))] or source.files((".json",))[:1]
    others = 0
    for file in files:
        names, points = [], []
        content = json_of(file)
        for i, shape in enumerate(field(content, "shapes", list, file, "the file")):
            where = f"shapes[{i}]"
            if field(shape, "shape_type", str, file, where) != "point":
                others += 1
                continue
            at = field(shape, "points", list, file, where)
            if len(at) != 1 or not isinstance(at[0], list) or len(at[0]) != 2:
                wrong(file, f"points of {where}", f"{at!r}"[:80], "[[x, y]]")
            names.append(str(field(shape, "label", (str, int), file, where)))
            points.append([coordinate(v, file, f"points of {where}") for v in at[0]])
        name = field(content, "imagePath", str, file, "the file")
        images = source.image(name, file, "imagePath")
        require_size(images, content.get("imageWidth"), content.get("imageHeight"), file)
        collector.add(file.stem, images, names, points, file=file)
    left = [f"{others} shapes that are no points are left aside"] if others else []
    return collector.result(*left)


def _looks(text: str) -> bool:
    return '"shapes"' in text and '"shape_type"' in text


def sniff(path: Path) -> bool:
    """Whether JSON files hold LabelMe's shapes."""
    return any(_looks(head_of(f)) for f in some_files(path, (".json",)))


FORMAT = Format(
    "labelme", "points of LabelMe, a .json a picture", sniff, read, ("--images", "--by-name", "--first-pixel")
)
