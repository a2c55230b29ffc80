"""A folder of 3D Slicer's point lists: .mrk.json, plain .json and .fcsv, one a case, beside the images.

The frame is the one that each file states. A .fcsv file that states none needs --frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autolmk.annotations import fcsv, mrk_json
from autolmk.annotations.annotation import Annotation
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.exported import Export, Writer
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import json_of
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files, text_of
from autolmk.annotations.formats.states import add_annotation

ENDINGS = (".mrk.json", ".json", ".fcsv")


def read(path: Path, options: Options) -> Imported:
    """The cases of a folder, or of one file."""
    source = ImportedFiles(path, options)
    files = [f for f in source.files(ENDINGS) if _looks(f)] or source.files(ENDINGS)[:1]
    collector = Collector(source, "LPS")
    for stem, file, images in source.pairs(files, ENDINGS):
        add_annotation(collector, stem, images, annotation_of(file, options), file)
    return collector.result("the frame is the one that each file states")


def annotation_of(file: Path, options: Options) -> Annotation:
    """The points of a file of Slicer, by its ending."""
    label = options.names_from or "label"
    if file.name.lower().endswith(".fcsv"):
        text_of(file)  # bounds its size
        return fcsv.read(file, label=label)
    json_of(file)  # bounds its size and depth
    return mrk_json.read(file, label=label)


def _looks(file: Path) -> bool:
    text = head_of(file)
    return file.name.lower().endswith(".fcsv") or ('"markups"' in text and '"controlPoints"' in text)


def sniff(path: Path) -> bool:
    """Whether a file holds Slicer's markups."""
    return any(_looks(f) for f in some_files(path, ENDINGS))


FORMAT = Format(
    "slicer",
    "point lists of 3D Slicer: .mrk.json, .json, .fcsv, one a case",
    sniff,
    read,
    ("--images", "--names-from", "--frame"),
    ("slicerjson", "mrkjson", "fcsv", "markups"),
)


def _write_markups(export: Export, folder: Path) -> Sequence[str]:
    for case in export.cases:
        mrk_json.write(folder / f"{case.identifier}.mrk.json", case.landmarks, unit=export.unit)
    return ["each file says that its points are in LPS, and which landmarks are absent or unknown"]


def _write_fiducials(export: Export, folder: Path) -> Sequence[str]:
    for case in export.cases:
        fcsv.write(folder / f"{case.identifier}.fcsv", case.landmarks)
    return ["each file says that its points are in LPS; a landmark that is not present has nan as coordinates"]


MARKUPS = Writer("mrk.json", "point lists of 3D Slicer, a file a case", _write_markups, "never")
FIDUCIALS = Writer("fcsv", "older fiducials of 3D Slicer, a file a case", _write_fiducials, "never")
