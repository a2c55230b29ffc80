"""Centroids of vertebrae as in VerSe: a JSON list, {"direction": ["P", "I", "R"]}, then {"label", "X", "Y", "Z"}.

X, Y and Z are voxels of the image, 0 at the first one's centre, along axes that point to the letters of direction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autolmk import imageio
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.missing import without_codes
from autolmk.annotations.formats.parsing import coordinate, field, json_of, wrong
from autolmk.annotations.formats.source import Images, ImportedFiles, head_of, some_files
from autolmk.geometry import FloatArray

SUFFIXES = ("_seg-subreg_ctd.json", "_seg-vb_ctd.json", "_ctd.json", ".json")
OPPOSITE = dict(zip("LRAPSI", "RLPAIS", strict=True))
VERTEBRAE = {
    **{i: f"C{i}" for i in range(1, 8)},
    **{i + 7: f"T{i}" for i in range(1, 13)},
    **{i + 19: f"L{i}" for i in range(1, 7)},
    26: "sacrum",
    27: "coccyx",
    28: "T13",
}


def read(path: Path, options: Options) -> Imported:
    """The cases of a tree, or of one file."""
    source = ImportedFiles(path, options)
    files = [f for f in source.files((".json",)) if _looks(head_of(f))] or source.files((".json",))[:1]
    collector = Collector(source, "voxel")
    for stem, file, images in source.pairs(files, SUFFIXES):
        if "iso" in file.name.lower():
            wrong(file, "name", file.name, "voxels of the image, as in the subject based structure of VerSe",
                  "the centroids of the challenge's own structure count an image of 1 mm that is not there: fetch the "
                  "subject based structure")  # fmt: skip
        images = images or source.image(f"{stem}_ct", file, "its own name")
        content = json_of(file)
        directions, centroids = _centroids(content, file)
        if images is None:
            collector.add(stem, None, list(centroids), list(centroids.values()), file=file)
            continue
        own = np.array(list(centroids.values())).reshape(-1, 3)
        own = without_codes(own, list(centroids), stem, file, options)
        points = _in_image(own, directions, images, file)
        collector.add(stem, images, list(centroids), points + collector.first_pixel, file=file)
    return collector.result("labels 1 to 28 are C1 to C7, T1 to T12, L1 to L6, sacrum, coccyx, T13")


def _centroids(content: Any, file: Path) -> tuple[list[str], dict[str, list[float]]]:
    """The letters of the axes, and vertebra -> X, Y, Z."""
    if isinstance(content, dict):
        content = field(content, "vertebralCentroids", list, file, "the file")
    if not isinstance(content, list):
        wrong(file, "content", type(content).__name__, "a list")
    directions: list[str] = []
    found: dict[str, list[float]] = {}
    for i, entry in enumerate(content):
        if isinstance(entry, dict) and "direction" in entry:
            directions = [str(d) for d in field(entry, "direction", list, file, f"[{i}]")]
            continue
        label = field(entry, "label", int, file, f"[{i}]")
        name = VERTEBRAE.get(label, str(label))
        if name in found:
            wrong(file, f"[{i}]", f"label {label} a second time", "each vertebra once")
        found[name] = [coordinate(entry.get(a), file, f"{a} of [{i}]") for a in "XYZ"]
    if len(directions) != 3 or {frozenset((d, OPPOSITE.get(d, ""))) for d in directions} != {
        frozenset(pair) for pair in ("LR", "AP", "SI")
    }:
        wrong(file, "direction", directions, 'three letters such as ["P", "I", "R"]')
    return directions, found


def _in_image(points: FloatArray, directions: list[str], images: Images, file: Path) -> FloatArray:
    """(n, 3) voxels in the order x, y, z of the image's own axes."""
    geometry = imageio.read_geometry(images[0])
    if geometry.ndim != 3:
        wrong(file, "image", images[0].name, "a volume")
    columns = geometry.affine[:3, :3][:, ::-1]  # of the axes x, y, z, in LPS
    axes = columns / np.linalg.norm(columns, axis=0)
    size = np.array(geometry.shape[::-1])
    result = np.empty_like(points)
    taken = []
    for column, letter in enumerate(directions):
        world = "LPS".find(letter) if letter in "LPS" else "RAI".find(letter)
        axis = int(np.argmax(np.abs(axes[world])))
        same = (axes[world, axis] > 0) == (letter in "LPS")
        result[:, axis] = points[:, column] if same else size[axis] - 1 - points[:, column]
        taken.append(axis)
    if sorted(taken) != [0, 1, 2]:
        wrong(file, "direction", directions, "axes that those of the image can be told by; it is turned by 45 degrees")
    return result


def _looks(text: str) -> bool:
    return ('"direction"' in text or '"vertebralCentroids"' in text) and '"label"' in text and '"X"' in text


def sniff(path: Path) -> bool:
    """Whether a JSON file holds centroids with a direction."""
    return any(_looks(head_of(f)) for f in some_files(path, (".json",)))


FORMAT = Format(
    "verse", "centroids of vertebrae in JSON, as in VerSe", sniff, read, ("--images",), ("versecentroids", "ctd")
)
