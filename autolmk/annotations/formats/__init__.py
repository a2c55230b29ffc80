"""Formats of other programs that `autolmk_import` reads and `autolmk_convert` writes: one module a format, and the
registry of all.

A module says what its format looks like (`sniff`), and turns a file or a folder into cases (`read`). Nothing is guessed
that the files do not say: a reader stops, with what each choice would give for the first case.
"""

from __future__ import annotations

from pathlib import Path

from autolmk.annotations.formats import (
    acsv,
    amira,
    bids,
    bigwarp,
    cldetection,
    coco,
    deeplabcut,
    imagej,
    isbi2015,
    labelme,
    mitk,
    morphologika,
    nnlandmark,
    nts,
    pts,
    qupath,
    sleap,
    slicer,
    tps,
    verse,
    wide_csv,
)
from autolmk.annotations.formats.exported import Export, ExportedCase, Writer
from autolmk.annotations.formats.imported import Format, Imported, ImportedCase, Options
from autolmk.errors import AutolmkError
from autolmk.files.serialization import near

__all__ = [
    "FORMATS",
    "WRITERS",
    "Export",
    "ExportedCase",
    "Format",
    "Imported",
    "ImportedCase",
    "Options",
    "Writer",
    "format_named",
    "suggestion",
    "writer_named",
]

# in the order in which they are tried: the most particular first
FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (
        *(nnlandmark, isbi2015, bids, slicer, deeplabcut, sleap, bigwarp, qupath, imagej, wide_csv),
        *(tps, coco, labelme, cldetection, verse, pts, morphologika, nts, amira, mitk, acsv),
    )
}

WRITERS: dict[str, Writer] = {
    writer.name: writer
    for writer in (
        *(slicer.MARKUPS, slicer.FIDUCIALS, wide_csv.WRITER, tps.WRITER, morphologika.WRITER, nts.WRITER),
        *(bids.WRITER, coco.WRITER, nnlandmark.WRITER),
    )
}


def format_named(name: str) -> Format:
    """The format of that name, however it is spelt. AutolmkError where there is none."""
    plain = plain_spelling(name)
    for known in FORMATS.values():
        if plain in (plain_spelling(known.name), *known.aliases):
            return known
    raise AutolmkError(
        f"there is no format {name!r}{near(name, FORMATS)}",
        found=name,
        expected=f"one of {', '.join(sorted(FORMATS))}",
        remedy="choose one with --format",
    )


def writer_named(name: str) -> Writer:
    """The format of that name that can be written, however it is spelt. AutolmkError where there is none."""
    plain = {plain_spelling(known): writer for known, writer in WRITERS.items()}
    if plain_spelling(name) in plain:
        return plain[plain_spelling(name)]
    raise AutolmkError(
        f"points cannot be converted to {name!r}{near(name, WRITERS)}",
        found=name,
        expected=f"one of {', '.join(WRITERS)}",
        remedy="choose one with --to",
    )


def looks_like(path: Path) -> Format | None:
    """The format that a file or folder looks like; None where it looks like none. Never raises."""
    for known in FORMATS.values():
        try:
            if known.sniff(Path(path)):
                return known
        except (OSError, ValueError, IndexError, KeyError, AutolmkError):
            continue
    return None


def suggestion(path: Path) -> str | None:
    """A sentence that says what a file or folder looks like and how to import it; None where it looks like nothing."""
    known = looks_like(path)
    if known is None:
        return None
    return f"this looks like {known.name}: autolmk_import --format {known.name} SOURCE -o RAW_DATASET"


def plain_spelling(name: str) -> str:
    """Letters and digits of a name in lower case, by which names that users spell differently are the same."""
    return "".join(c for c in name.lower() if c.isalnum())
