"""A table: a row an image, with two or three columns a landmark, or a row a point: image, landmark, x, y.

Columns are told by their names, in any order: Nasion_x, Nasion.x, Nasion x, Nasion-X, x_Nasion, Nasion(x), NasionX,
p1x, x1. The column of images is called image, image file, file, filename, img, path, name, id or case, else it is the
first one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autolmk.annotations.csv import write_rows
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.exported import Export, Writer, cannot_hold
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import Table, wrong
from autolmk.annotations.formats.source import ImportedFiles, head_of, some_files
from autolmk.errors import some
from autolmk.escaping import cell

ENDINGS = (".csv", ".tsv", ".txt")
SEPARATED_AFTER = re.compile(r"(.+?)\s*(?:[ _.\-:/]\s*([xyzXYZ])|[(\[]\s*([xyzXYZ])\s*[)\]])")
SEPARATED_BEFORE = re.compile(r"([xyzXYZ])(?:[ _.\-:/]\s*(.+)|[(\[]\s*(.+?)\s*[)\]])")
CAMEL = re.compile(r"([A-Za-z].*[a-z0-9])([XYZ])")
UNIT = re.compile(r"(.*?[xyzXYZ])[ _]?[(\[]?(?:px|pixels?|pix)[)\]]?")
NUMBERED = re.compile(r"([xyzXYZ])(\d+)|([A-Za-z]*\d+)([xyzXYZ])")
IMAGE = ("image", "image file", "image_file", "image name", "image_name", "imagename", "file", "file name", "file_name",
         "filename", "img", "path", "name", "id", "image id", "image_id", "case", "specimen")  # fmt: skip
NO_POINT = (
    "spacing",
    "pixel_size",
    "pixelsize",
    "pixel spacing",
    "pixel_spacing",
    "pixelspacing",
    "dpi",
    "origin",
    "pixel size",
    "voxel_size",
    "size",
    "image_size",
    "imagesize",
    "shape",
    "resolution",
    "image",
    "offset",
    "scale",
    "bbox",
)  # beside x and y
LONG = ("landmark", "name", "point", "label", "landmark_name", "keypoint", "bodypart", "feature", "node")
SPACING = ("spacing(mm)", "spacing", "pixel_size", "pixel size", "spacing_mm")


def axis_of(column: str) -> tuple[str, str] | None:
    """The landmark and the axis that a column's name says; None where it says none."""
    column = unit[1] if (unit := UNIT.fullmatch(column)) else column
    if match := SEPARATED_AFTER.fullmatch(column):
        return match[1].strip(), (match[2] or match[3]).lower()
    if match := SEPARATED_BEFORE.fullmatch(column):
        return (match[2] or match[3]).strip(), match[1].lower()
    if match := NUMBERED.fullmatch(column):
        return (match[2], match[1].lower()) if match[1] else (match[3], match[4].lower())
    if match := CAMEL.fullmatch(column):
        return match[1], match[2].lower()
    return None


def read(path: Path, options: Options) -> Imported:
    """The cases of a table."""
    source = ImportedFiles(path, options)
    file = source.only_file((".csv", ".tsv"))
    table = Table(file)
    header = table.rows[0][1]
    while header and not header[-1]:
        header = header[:-1]
    image = next((i for name in IMAGE for i, h in enumerate(header) if h.lower() == name), 0)
    if axis_of(header[image]) is not None and header[image].lower() not in IMAGE:
        wrong(file, "header", some(header), "a first column with the names of the images")
    long = _long(header)
    if long is not None:
        return _read_long(table, header, image, long, source)
    columns = _columns(header, file)
    size = next((i for i, h in enumerate(header) if h.lower() in SPACING), None)
    volumes = {len(axes) for axes in columns.values()} == {3}
    collector = Collector(source, None if volumes else "voxel")
    for line, row in table.body(1, len(header)):
        if not row[image]:
            wrong(file, f"line {line}", "no image", f"a value in the column {header[image]!r}")
        points = [[table.number(row[i], line, header[i]) for _, i in sorted(axes.items())] for axes in columns.values()]
        pixel = None if size is None else table.number(row[size], line, header[size])
        spacing = (pixel, pixel) if pixel is not None and pixel > 0 else None
        images = source.image(row[image], file, f"line {line}")
        collector.add(row[image], images, list(columns), points, file=file, spacing=spacing)
    rest = [
        h for i, h in enumerate(header) if i not in (image, size) and all(i not in a.values() for a in columns.values())
    ]
    ignored = [f"columns that are not points are left aside: {some(rest)}"] if rest else []
    ignored += [f"{header[size]!r} is the size of a pixel in mm"] if size is not None else []
    return collector.result(f"the column {header[image]!r} names the images", *ignored)


def _long(header: list[str]) -> dict[str, int] | None:
    """Column of each of landmark, x, y (and z) in a table of a row a point; None where it has a row an image."""
    lower = [h.lower() for h in header]
    axes = {a: lower.index(a) for a in "xyz" if lower.count(a) == 1}
    name = next((lower.index(word) for word in LONG if lower.count(word) == 1), None)
    named_images = any(h in IMAGE for i, h in enumerate(lower) if i != name)
    return {"landmark": name, **axes} if {"x", "y"} <= set(axes) and name is not None and named_images else None


def _read_long(table: Table, header: list[str], image: int, at: dict[str, int], source: ImportedFiles) -> Imported:
    """A row a point: image, landmark, x, y."""
    if image == at["landmark"]:
        image = next(i for word in IMAGE for i, h in enumerate(header) if h.lower() == word and i != image)
    axes = [a for a in "xyz" if a in at]
    cases: dict[str, tuple[list[str], list[list[float]]]] = {}
    for line, row in table.body(1, len(header)):
        if not row[image]:
            wrong(table.file, f"line {line}", "no image", f"a value in the column {header[image]!r}")
        names, points = cases.setdefault(row[image], ([], []))
        names.append(row[at["landmark"]])
        points.append([table.number(row[at[a]], line, header[at[a]]) for a in axes])
    collector = Collector(source, None if "z" in axes else "voxel")
    for key, (names, points) in cases.items():
        collector.add(key, source.image(key, table.file, "the table"), names, points, file=table.file)
    return collector.result(f"a row a point: {header[image]!r} names the images, {header[at['landmark']]!r} the points")


def _columns(header: list[str], file: Path) -> dict[str, dict[str, int]]:
    """landmark -> axis -> column. AutolmkError where a landmark lacks an axis."""
    columns: dict[str, dict[str, int]] = {}
    for i, name in enumerate(header):
        found = axis_of(name)
        if found is None or name.lower() in (*IMAGE, *SPACING) or found[0].lower() in NO_POINT:
            continue
        axes = columns.setdefault(found[0], {})
        if found[1] in axes:
            wrong(file, "header", f"two columns for {found[1]} of {found[0]!r}", "each column once")
        axes[found[1]] = i
    kinds = {tuple(sorted(axes)) for axes in columns.values()}
    if not columns or len(kinds) > 1 or next(iter(kinds)) not in (("x", "y"), ("x", "y", "z")):
        odd = [f"{name}: {', '.join(sorted(axes))}" for name, axes in columns.items() if set(axes) != set("xy")]
        found_text = some(odd) if columns else some(header)
        wrong(
            file,
            "header",
            found_text,
            "columns such as image,Nasion_x,Nasion_y,Sella_x,Sella_y: x and y of each landmark, or x, y and z of each",
        )
    return columns


def sniff(path: Path) -> bool:
    """Whether a table has a row an image."""
    for file in some_files(path, ENDINGS):
        lines = head_of(file).splitlines()[:1]
        if not lines:
            continue
        header = [h.strip().strip('"') for h in re.split(r"[,;\t]", lines[0])]
        named = [h for h in header if axis_of(h) is not None]
        if (len(named) >= 2 and len(header) > len(named)) or _long(header) is not None:
            return True
    return False


FORMAT = Format(
    "csv",
    "table, a row an image (image,Nasion_x,Nasion_y,...) or a row a point (image,landmark,x,y)",
    sniff,
    read,
    ("--images", "--first-pixel", "--frame"),
    ("widecsv", "wide", "tsv", "table"),
)


def _write(export: Export, folder: Path) -> Sequence[str]:
    """points.csv: pixels of pictures, mm in LPS of volumes; blank where a landmark is not present."""
    axes = "xy" if export.planar else "xyz"
    names = [f"{name}_{axis}" for name in export.landmark_names for axis in axes]
    odd = [
        n
        for n in export.landmark_names
        if cell(n) != n or axis_of(f"{n}_x") != (n, "x") or f"{n}_x" in IMAGE or n.lower() in NO_POINT
    ]
    if odd:
        cannot_hold("a landmark's name", "a wide table", some([repr(name) for name in odd]),
                    "names without blanks at their ends, which no spreadsheet runs as a formula",
                    "rename the landmark")  # fmt: skip
    sizes = [_square(export, i) for i in range(len(export.cases))] if export.planar else [None]
    sized = all(size is not None for size in sizes)
    rows = []
    for i, case in enumerate(export.cases):
        points = export.pixels(case) if export.planar else case.landmarks.points
        values = [repr(float(x)) if np.isfinite(x) else "" for x in points.ravel()]
        rows.append([case.image_name, *([repr(sizes[i])] if sized else []), *values])
    write_rows(folder / "points.csv", ["image", *(["spacing(mm)"] if sized else []), *names], rows)
    frame = "x and y are pixels, 0 at the first one's centre" if export.planar else "x, y and z are mm in LPS"
    return [f"{frame}; a landmark that is not present is left blank", *filter(None, [export.missing()])]


def _square(export: Export, i: int) -> float | None:
    """The side of a picture's pixels in mm; None where they have no size, or are not square."""
    geometry = export.cases[i].plane
    if geometry is None or export.unit == "px" or not np.isclose(geometry.spacing[0], geometry.spacing[1], rtol=1e-6):
        return None
    return geometry.spacing[1]


WRITER = Writer("csv", "wide table of all cases, a row an image", _write)
