"""Readers and writers of landmark files, one module a format. `read` and `write` choose by the file's ending."""

from __future__ import annotations

from pathlib import Path

from autolmk.annotations import csv, fcsv, mrk_json
from autolmk.annotations.annotation import FRAMES, Annotation, Frame, NamesFrom
from autolmk.annotations.csv import read_table, write_table
from autolmk.errors import AutolmkError
from autolmk.landmarks import Landmarks

__all__ = [
    "ENDINGS",
    "FRAMES",
    "Annotation",
    "Frame",
    "NamesFrom",
    "ending_of",
    "read",
    "read_table",
    "write",
    "write_table",
]

ENDINGS = (".mrk.json", ".fcsv", ".csv", ".tsv")  # of files that hold the points of one case
JSON = ".json"  # a markups file of 3D Slicer too, if it says so


def ending_of(file: Path) -> str | None:
    """The ending in `ENDINGS` that the file's name has, ".json" if it holds markups all the same, else None."""
    named = next((ending for ending in ENDINGS if file.name.lower().endswith(ending)), None)
    return JSON if named is None and file.name.lower().endswith(JSON) and mrk_json.is_markups(file) else named


def read(file: Path, *, label: NamesFrom = "label") -> Annotation:
    """The points of one case, as the file holds them.

    label: where a Slicer file has the landmarks' names, see `name_of` (AFIDs have them as descriptions).
    AutolmkError where the file is missing, damaged or of another kind.
    """
    ending = ending_of(file)
    if ending in (".mrk.json", JSON):
        return mrk_json.read(file, label=label)
    if ending == ".fcsv":
        return fcsv.read(file, label=label)
    if ending in (".csv", ".tsv"):
        return csv.read(file, label=label)
    raise _unknown_ending(file)


def write(file: Path, landmarks: Landmarks, *, unit: str = "mm") -> None:
    """Write landmarks in LPS, as the file's ending says, atomically. unit: "mm", or "px" for images without a size."""
    ending = ending_of(file)
    if ending == ".mrk.json":
        mrk_json.write(file, landmarks, unit=unit)
    elif ending == ".fcsv":
        fcsv.write(file, landmarks)
    elif ending in (".csv", ".tsv"):
        csv.write(file, landmarks)
    else:
        raise _unknown_ending(file)


def _unknown_ending(file: Path) -> AutolmkError:
    return AutolmkError(
        "this kind of landmark file is not known",
        file=file,
        found=file.name,
        expected=f"a name that ends with one of {', '.join(ENDINGS)}",
        remedy="export the points from 3D Slicer as .mrk.json",
    )
