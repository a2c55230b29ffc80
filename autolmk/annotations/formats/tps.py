"""TPS files (tpsDig, geomorph): blocks of LM= or LM3=, CURVES=, IMAGE=, ID= and SCALE=.

Three things that no TPS file says are never guessed: whether y is counted from the picture's lower edge (tpsDig) or its
upper one; whether SCALE is still to be applied, and what it means; whether a negative coordinate is a missing point.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autolmk.annotations.formats.collect import Collector, height_of, numbered
from autolmk.annotations.formats.exported import Export, Writer, cannot_hold, names_file, numbers
from autolmk.annotations.formats.imported import Format, Imported, Options, undecided
from autolmk.annotations.formats.missing import without_codes
from autolmk.annotations.formats.parsing import number, rows_of_numbers, whole, wrong
from autolmk.annotations.formats.source import Images, ImportedFiles, head_of, some_files, text_of
from autolmk.files.serialization import write_bytes
from autolmk.geometry import FloatArray


@dataclass
class Specimen:
    """One block. line: where it begins. points: (n, 2 or 3) as in the file; curves: the same, by curve."""

    line: int
    points: FloatArray
    curves: list[FloatArray] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)


def read(path: Path, options: Options) -> Imported:
    """The specimens of all TPS files of the source."""
    source = ImportedFiles(path, options)
    files = source.files((".tps",))
    specimens = [(file, specimen) for file in files for specimen in specimens_of(file)]
    flat = all(s.points.shape[1] == 2 for _, s in specimens)
    collector = Collector(source, "voxel" if flat else None)
    for file, specimen in specimens:
        images = _image(specimen, source, file)
        names, points = _chosen(specimen, file, options)
        points, spacing = _unscaled(specimen, points, file, options)
        if points.shape[1] == 2 and images is not None:
            points = _from_above(points, images, collector.first_pixel, file, options)
        key = specimen.keys.get("IMAGE") or specimen.keys["ID"]
        collector.add(key, images, names, points, file=file, spacing=spacing)
    return collector.result(f"y is counted from the {options.y_from}" if flat else "LM3: points in space")


def specimens_of(file: Path) -> list[Specimen]:
    """The blocks of a file, as they stand there. AutolmkError names the line of what is no TPS."""
    lines = [(i, text.strip()) for i, text in enumerate(text_of(file).split("\n"), start=1)]
    lines = [(i, text) for i, text in lines if text]
    specimens: list[Specimen] = []
    at = 0
    while at < len(lines):
        line, text = lines[at]
        key, equals, value = (part.strip() for part in text.partition("="))
        key = key.upper()
        if not equals or not (key in ("LM", "LM3") or specimens):
            wrong(file, f"line {line}", text[:80], "a line such as LM=12, IMAGE=a.jpg, ID=1 or SCALE=0.01")
        at += 1
        if key in ("LM", "LM3", "POINTS", "POINTS3"):
            n, width = whole(value, file, f"line {line}", most=100_000), 3 if key.endswith("3") else 2
            points = np.array(rows_of_numbers(lines[at : at + n], width, file)).reshape(-1, width)
            if len(points) < n:
                wrong(file, f"line {line}", f"{len(points)} points", f"{n} points, as it says")
            at += n
            if key.startswith("LM"):
                specimens.append(Specimen(line, points))
            else:
                specimens[-1].curves.append(points)
        elif key in specimens[-1].keys:
            wrong(file, f"line {line}", f"a second {key}=", "LM= at the beginning of the next specimen")
        else:
            specimens[-1].keys[key] = value
    if not specimens:
        wrong(file, "content", "no LM=", "a TPS file")
    return specimens


def _image(specimen: Specimen, source: ImportedFiles, file: Path) -> Images | None:
    keys = specimen.keys
    name = keys.get("IMAGE") or keys.get("ID")
    if not name:
        wrong(file, f"specimen in line {specimen.line}", "neither IMAGE= nor ID=", "the name of its picture")
    return source.image(name, file, f"the specimen in line {specimen.line}")


def _chosen(specimen: Specimen, file: Path, options: Options) -> tuple[list[str], FloatArray]:
    """Names and points: the landmarks, and those of the curves where they are wanted."""
    names, points = numbered(len(specimen.points)), specimen.points
    if not specimen.curves:
        return names, points
    counts = ", ".join(str(len(c)) for c in specimen.curves)
    if options.curves is None:
        choices = {
            "ignore": f"{len(points)} landmarks, and {counts} points of curves left aside",
            "points": f"{len(points)} landmarks and {counts} points of curves, named curve1_1, curve1_2, ...",
        }
        raise undecided(f"the specimen in line {specimen.line} has curves", file, "--curves", choices)
    if options.curves == "ignore":
        return names, points
    for c, curve in enumerate(specimen.curves, start=1):
        names = [*names, *(f"curve{c}_{i}" for i in numbered(len(curve)))]
        if curve.shape[1] != points.shape[1]:
            wrong(file, f"specimen in line {specimen.line}", "a curve in 3D beside landmarks in 2D", "one of them")
        points = np.concatenate([points, curve])
    return names, points


def _unscaled(
    specimen: Specimen, points: FloatArray, file: Path, options: Options
) -> tuple[FloatArray, tuple[float, ...] | None]:
    """The points in pixels, NaN where missing, and the size of a pixel where SCALE says it."""
    if (points < 0).any() and points.shape[1] == 2:
        row = int(np.flatnonzero((points < 0).any(axis=1))[0])
        where = f"point {row + 1} of the specimen in line {specimen.line}, {points[row].tolist()}"
        if options.negatives is None:
            choices = {"missing": f"{where}, has no position", "real": f"{where}, lies outside its picture"}
            raise undecided("a file has negative coordinates", file, "--negatives", choices)
        if options.negatives == "missing":
            points = np.where((points < 0).any(axis=1, keepdims=True), np.nan, points)
    if options.negatives != "real":
        points = without_codes(points, numbered(len(points)), f"the specimen in line {specimen.line}", file, options)
    text = specimen.keys.get("SCALE", "")
    if not text or points.shape[1] == 3:
        return points, None
    scale = number(text, file, f"SCALE of the specimen in line {specimen.line}", comma=True)
    if not scale > 0:
        wrong(file, f"SCALE of the specimen in line {specimen.line}", text, "a positive number, or no SCALE=")
    if options.scale is None:
        first = points[np.isfinite(points).all(axis=1)][:1].reshape(-1)
        choices = {
            "ignore": f"point 1 is at {first.tolist()} px, and pixels have no size",
            "mm": f"point 1 is at {first.tolist()} px, and a pixel is {scale:g} mm wide",
            "applied": f"point 1 is at {(first / scale).tolist()} px: the coordinates are multiplied by SCALE already",
        }
        raise undecided(f"the specimen in line {specimen.line} has SCALE={text}", file, "--scale", choices)
    if options.scale == "applied":
        points = points / scale
    return points, (scale, scale) if options.scale == "mm" else None


def _from_above(points: FloatArray, images: Images, first_pixel: float, file: Path, options: Options) -> FloatArray:
    height = height_of(images[0])
    turned = points.copy()
    turned[:, 1] = height - 1 + 2 * first_pixel - points[:, 1]
    if options.y_from is None:
        rows = np.flatnonzero(np.isfinite(points).all(axis=1))[:1]
        choices = {
            side: "; ".join(
                f"point {r + 1} of {images[0].name} at x {p[r, 0]:g}, y {p[r, 1]:g} from its upper edge" for r in rows
            )
            for side, p in (("bottom", turned), ("top", points))
        }
        raise undecided(
            f"a TPS file does not say where y is counted from (tpsDig: the bottom); {images[0].name} has {height} rows",
            file, "--y-from", choices,
        )  # fmt: skip
    return turned if options.y_from == "bottom" else points


def sniff(path: Path) -> bool:
    """Whether a file begins a TPS block."""
    return any(
        re.match(r"\s*LM3?\s*=\s*\d+\s*\n", head_of(f), re.IGNORECASE) is not None
        for f in some_files(path, (".tps", ".txt"))
    )


FORMAT = Format(
    "tps",
    "TPS of tpsDig and geomorph",
    sniff,
    read,
    ("--images", "--y-from", "--scale", "--negatives", "--curves", "--frame", "--first-pixel"),
    ("tpsdig", "geomorph"),
)


def _write(export: Export, folder: Path) -> Sequence[str]:
    """landmarks.tps, and landmark_names.txt, as TPS numbers its points."""
    coordinates = [export.coordinates(case) for case in export.cases]
    every = np.concatenate(coordinates)
    lacking, negative = bool(np.isnan(every).any()), bool((every < 0).any())
    if export.planar and lacking and negative:
        i = next(i for i, points in enumerate(coordinates) if (points < 0).any())
        row = int(np.flatnonzero((coordinates[i] < 0).any(axis=1))[0])
        found = f"{export.landmark_names[row]} of {export.cases[i].identifier} at {coordinates[i][row].tolist()}"
        cannot_hold("both missing points and points outside their picture", "TPS", found,
                    "no negative coordinates, which are its code for missing points",
                    "convert to csv or nts, or take the case out")  # fmt: skip
    code = "-1 -1" if export.planar else "NA NA NA"
    text = []
    for case, points in zip(export.cases, coordinates, strict=True):
        rows = [numbers(p) if np.isfinite(p).all() else code for p in points]
        size = export.pixel_size(case) if export.planar else None
        scale = [] if size is None else [f"SCALE={size!r}"]
        text += [f"LM{'' if export.planar else '3'}={len(points)}", *rows, f"IMAGE={case.image_name}",
                 f"ID={case.identifier}", *scale]  # fmt: skip
    write_bytes(folder / "landmarks.tps", ("\n".join(text) + "\n").encode())
    write_bytes(folder / "landmark_names.txt", names_file(export).encode())
    if not export.planar:
        said = "LM3: x, y and z are mm in LPS; NA NA NA is a point that is not present"
    else:
        edge = {"bottom": "lower", "top": "upper"}[export.y_from]
        said = f"x and y are pixels, y is counted from the {edge} edge, SCALE is mm a pixel and not yet applied"
        said += "; negative coordinates are real" if negative else "; -1 -1 is a point that is not present"
    return [said, *filter(None, [export.missing()])]


WRITER = Writer("tps", "TPS of tpsDig and geomorph, all specimens in a file", _write)
