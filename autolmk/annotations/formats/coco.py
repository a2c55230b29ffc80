"""COCO keypoints: one JSON file with images, annotations and categories.

keypoints are x, y, visibility: 0 not labelled, 1 labelled but not visible, 2 visible. The first is unknown, both others
are present. Coordinates are in pixels, 0 at the centre of the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autolmk.annotations.formats.collect import Collector, numbered, require_size
from autolmk.annotations.formats.exported import Export, ExportedCase, Writer, cannot_hold
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import coordinate, field, json_of, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files
from autolmk.errors import some
from autolmk.files.serialization import write_json


def read(path: Path, options: Options) -> Imported:
    """The cases of one file; with --keep-split, of one for training and one for test, told by their names."""
    source = ImportedFiles(path, options)
    files = [f for f in source.files((".json",)) if _looks(head_of(f, 2**22))] or source.files((".json",))[:1]
    collector = Collector(source, "voxel")
    hidden = 0
    for file in files:
        hidden += _read_file(file, source, collector, options)
    labelled = (
        f"{hidden} points that are labelled but not visible are taken as present"
        if hidden
        else "visibility 0 is unknown"
    )
    return collector.result(labelled)


def _read_file(file: Path, source: ImportedFiles, collector: Collector, options: Options) -> int:
    content = json_of(file)
    images: dict[Any, str] = {}
    sizes: dict[Any, tuple[Any, Any]] = {}
    for i, image in enumerate(field(content, "images", list, file, "the file")):
        key = field(image, "id", (int, str), file, f"images[{i}]")
        if key in images:
            wrong(file, f"images[{i}]", f"id {key} a second time", "each id once")
        images[key] = field(image, "file_name", str, file, f"images[{i}]")
        sizes[key] = (image.get("width"), image.get("height"))
    names = _categories(content, file)
    chosen: dict[Any, tuple[list[str], list[list[float]]]] = {}
    hidden = 0
    for i, annotation in enumerate(field(content, "annotations", list, file, "the file")):
        where = f"annotations[{i}]"
        category = field(annotation, "category_id", (int, str), file, where)
        if (
            "keypoints" not in annotation
            or category not in names
            or options.individual not in (None, names[category][0])
        ):
            continue
        key = field(annotation, "image_id", (int, str), file, where)
        if key not in images:
            wrong(file, where, f"image_id {key}", "the id of one of images")
        points, count = _points(annotation["keypoints"], names[category][1], file, where)
        if key in chosen:
            wrong(file, where, f"a second object in {images[key]}", "one object an image, as a case has",
                  "keep one object an image; of several categories choose one with --individual")  # fmt: skip
        chosen[key] = (names[category][1] or numbered(len(points)), points)
        hidden += count
    test = options.split and any(word in file.name.lower() for word in ("test", "val"))
    for key, name in images.items():
        if key in chosen:
            found = source.image(name, file, f"the image with the id {key}")
            require_size(found, *sizes[key], file)
            collector.add(name, found, *chosen[key], file=file, test=test)
    return hidden


def _categories(content: Any, file: Path) -> dict[Any, tuple[str, list[str]]]:
    """id -> its name and the names of its keypoints."""
    found = {}
    for i, category in enumerate(field(content, "categories", list, file, "the file")):
        where = f"categories[{i}]"
        keypoints = category.get("keypoints", []) if isinstance(category, dict) else []
        if not isinstance(keypoints, list) or not all(isinstance(k, str) for k in keypoints):
            wrong(file, f"keypoints of {where}", f"{keypoints!r}"[:80], "a list of names")
        name = str(category.get("name", i)) if isinstance(category, dict) else str(i)
        found[field(category, "id", (int, str), file, where)] = (name, keypoints)
    return found


def _points(values: Any, names: list[str], file: Path, where: str) -> tuple[list[list[float]], int]:
    """x, y of each keypoint, NaN where it is not labelled; how many are labelled but not visible."""
    if not isinstance(values, list) or len(values) % 3 or (names and len(values) != 3 * len(names)):
        wrong(file, f"keypoints of {where}", f"{len(values) if isinstance(values, list) else values!r} values",
              f"x, y and visibility of {len(names) or 'all'} keypoints: {some(names)}")  # fmt: skip
    points, hidden = [], 0
    for i in range(0, len(values), 3):
        x, y, v = (coordinate(n, file, f"keypoint {i // 3 + 1} of {where}") for n in values[i : i + 3])
        if v not in (0, 1, 2):
            wrong(
                file,
                f"visibility of keypoint {i // 3 + 1} of {where}",
                v,
                "0 (not labelled), 1 (not visible) or 2 (visible)",
            )
        points.append([x, y] if v else [math.nan, math.nan])
        hidden += v == 1
    return points, hidden


def _looks(text: str) -> bool:
    return '"keypoints"' in text and '"annotations"' in text and '"images"' in text


def sniff(path: Path) -> bool:
    """Whether a JSON file holds COCO's keypoints."""
    return any(_looks(head_of(f, 2**22)) for f in some_files(path, (".json",)))


FORMAT = Format(
    "coco",
    "COCO keypoints, one object an image",
    sniff,
    read,
    ("--images", "--individual", "--keep-split", "--first-pixel"),
    ("cocokeypoints", "cocojson"),
)


def _write(export: Export, folder: Path) -> Sequence[str]:
    """annotations.json; where there are test cases, annotations_train.json and annotations_test.json."""
    if not export.planar:
        cannot_hold("points of volumes", "COCO", export.cases[0].identifier, "pictures", "convert to mrk.json or csv")
    parts = {test: [case for case in export.cases if case.test == test] for test in (False, True)}
    split = all(parts.values())
    category = {"id": 1, "name": export.name, "keypoints": list(export.landmark_names), "skeleton": []}
    for test, cases in parts.items():
        if cases:
            name = f"annotations_{'test' if test else 'train'}.json" if split else "annotations.json"
            images = [_image(case, i) for i, case in enumerate(cases, start=1)]
            objects = [_object(export, case, i) for i, case in enumerate(cases, start=1)]
            write_json(folder / name, {"images": images, "annotations": objects, "categories": [category]})
    said = "x and y are pixels, 0 at the first one's centre; visibility 2 is present, 0 is not present"
    return [said, *filter(None, [export.missing()])]


def _image(case: ExportedCase, number: int) -> dict[str, Any]:
    plane = case.plane
    if plane is None:
        cannot_hold("a case without its picture", "COCO", case.identifier, "its width and height",
                    "name the folder of the pictures with --images")  # fmt: skip
    height, width = plane.shape
    return {"id": number, "file_name": case.image_name, "width": width, "height": height}


def _object(export: Export, case: ExportedCase, number: int) -> dict[str, Any]:
    points = export.pixels(case)
    present = case.landmarks.present
    low, high = (f(points[present], axis=0) if present.any() else np.zeros(2) for f in (np.min, np.max))
    box = [*low.tolist(), *(high - low).tolist()]
    flat = [v for p, there in zip(points, present, strict=True) for v in ([*p.tolist(), 2] if there else [0, 0, 0])]
    counts = {"num_keypoints": int(present.sum()), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
    return {"id": number, "image_id": number, "category_id": 1, "keypoints": flat, **counts}


WRITER = Writer("coco", "COCO keypoints, one object an image", _write)
