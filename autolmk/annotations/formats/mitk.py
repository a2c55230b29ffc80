"""MITK's point sets (.mps): XML, one set and one time step a file, in mm in LPS, as MITK's world is. Points are named
by their ids."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import number, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files, text_of


def read(path: Path, options: Options) -> Imported:
    """The cases of a folder, or of one file."""
    source = ImportedFiles(path, options)
    collector = Collector(source, "LPS")
    for stem, file, images in source.pairs(source.files((".mps",)), (".mps",)):
        collector.add(stem, images, *_points(file), file=file)
    return collector.result("points are named by their ids")


def _points(file: Path) -> tuple[list[str], list[list[float]]]:
    text = text_of(file).strip()
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        wrong(file, "XML", "a document type", "a point set of MITK, which has none")
    try:
        root = ElementTree.fromstring(text.encode())
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        wrong(file, "XML", str(error), "a point set of MITK")
    series = root.findall("./point_set/time_series")
    if root.tag != "point_set_file" or len(series) != 1:
        wrong(file, "content", f"{len(series)} time steps in <{root.tag}>", "one point set of one time step",
              "save each point set in a file of its own")  # fmt: skip
    _require_identity(series[0], file)
    names, points = [], []
    for i, point in enumerate(series[0].findall("point")):
        values = [(point.findtext(tag) or "").strip() for tag in ("id", "x", "y", "z")]
        if not all(values):
            wrong(file, f"point {i + 1}", values, "id, x, y and z")
        names.append(values[0])
        points.append([number(v, file, f"point {values[0]}") for v in values[1:]])
    return names, points


def _require_identity(series: ElementTree.Element, file: Path) -> None:
    """The geometry of a point set would move its points; MITK writes none that does."""
    matrix, offset = series.find("./Geometry3D/IndexToWorld"), series.find("./Geometry3D/Offset")
    given = [] if matrix is None else [matrix.get(f"m_{r}_{c}", "0") for r in range(3) for c in range(3)]
    moved = [] if offset is None else [offset.get(a, "0") for a in "xyz"]
    values = [number(v, file, "Geometry3D") for v in (*given, *moved)]
    expected = [*(np.eye(3).ravel() if given else ()), *([0.0] * len(moved))]
    if not np.allclose(values, expected):
        wrong(file, "Geometry3D", values, "the identity: a point set that is not moved",
              "save the points in MITK without a transformation")  # fmt: skip


def sniff(path: Path) -> bool:
    """Whether a file is a point set of MITK."""
    return any("<point_set" in head_of(f) for f in some_files(path, (".mps",)))


FORMAT = Format("mitk", ".mps of MITK", sniff, read, ("--images",), ("mps",))
