"""MetaImage: .mha and .mhd.

The grid is that of `ElementSpacing`, `TransformMatrix` (a row an axis) and `Offset` (the centre of the first voxel), in
LPS and `DistanceUnits`. `ElementSize`, how much of the room a voxel fills, stands in where there is no spacing, and is
noticed where it differs. Without either the image has no physical size. `AnatomicalOrientation` says from where each
axis comes (RAI is LPS's identity); it is noticed where it does not fit the matrix. Synonyms that differ are refused.
Stored values are scaled by `ElementToIntensityFunctionSlope` and `Offset`. See MetaIO's description of the format,
https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.geometry import Geometry
from autolmk.imageio.integrity import truncated
from autolmk.imageio.itk import ImageSource
from autolmk.imageio.notices import notice
from autolmk.imageio.stored import (
    LONGEST,
    Stored,
    StoredParts,
    beside,
    header_bytes,
    in_parts,
    millimetres,
    names_of_parts,
    numbers,
    require_grid,
    say_unplaced,
    say_unusual,
    senseless,
    sizes,
    too_many_axes,
    unsupported,
    whole,
)
from autolmk.nifti_header import TOLERANCE

TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4"}
TYPES |= {"ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}
SYNONYMS = {
    "rotation": "transformmatrix",
    "orientation": "transformmatrix",
    "origin": "offset",
    "position": "offset",
    "elementbyteordermsb": "binarydatabyteordermsb",
}


@dataclass(frozen=True)
class MetaImageHeader:
    """The header of a MetaImage. fields: by their lower-case names. start: of what follows the header, in bytes.

    following: the lines after it, where it says that they list files.
    """

    file: Path
    fields: dict[str, str]
    start: int
    following: tuple[str, ...] = ()

    def numbers(self, key: str, n: int) -> list[float] | None:
        """`n` numbers; None where the field is missing."""
        text = self.fields.get(key)
        return None if text is None else numbers(self.file, key, text, n)

    def flag(self, key: str, default: bool) -> bool:
        """A field of true or false."""
        text = self.fields.get(key, str(default)).lower()
        if text not in ("true", "false", "1", "0"):
            raise senseless(self.file, f"{key} = {text[:80]}", "True or False")
        return text in ("true", "1")


def inspect(file: Path) -> ImageSource:
    """The grid of a MetaImage. AutolmkError where it is damaged or unsupported, or where its header is at odds."""
    header = read_header(file)
    (n,) = sizes(file, "NDims", header.fields.get("ndims", ""), 1)
    if n > 10:
        raise senseless(file, f"NDims = {n}", "at most 10")
    shape = sizes(file, "DimSize", header.fields.get("dimsize", ""), n)
    (channels,) = sizes(file, "ElementNumberOfChannels", header.fields.get("elementnumberofchannels", "1"), 1)
    stored = _stored(header, shape, channels)
    d = min(n, 3)
    if d < 2 or any(m != 1 for m in shape[d:]):
        raise too_many_axes(file, shape)
    stored.require_whole()
    try:
        geometry, sized = _geometry(header, shape, n, d)
    except ValueError as error:
        raise senseless(file, str(error), "a grid whose axes are independent") from None
    say_unusual(file, geometry, sized)
    slope, offset = _intensity(header)

    def load() -> npt.NDArray[Any]:
        array = stored.load().reshape((channels, *shape[:d]), order="F")
        array = np.moveaxis(array, 0, -1).transpose([*reversed(range(d)), d])
        return array if (slope, offset) == (1.0, 0.0) else array * slope + offset

    return ImageSource((str(file),), geometry, sized, load)


def read_header(file: Path) -> MetaImageHeader:
    """The fields up to ElementDataFile. AutolmkError where it is no MetaImage, or synonyms differ."""
    first = (b"objecttype", b"ndims", b"comment", b"name", b"id", b"objectsubtype", b"binarydata", b"dimsize")
    data = header_bytes(file, first, "MetaImage")
    end = re.search(rb"(?im)^[ \t]*ElementDataFile[ \t]*[=:][^\n]*(\n|\Z)", data)
    if end is None:
        found = f"no line ElementDataFile in the first {min(len(data), LONGEST)} bytes"
        raise senseless(file, found, "a text header that ends with it")
    fields: dict[str, str] = {}
    for line in data[: end.end()].decode("utf-8", errors="replace").splitlines():
        match = re.fullmatch(r"\s*(\w+)\s*[=:]\s*(.*?)\s*", line)
        if match is None or not match[1]:
            continue
        key = SYNONYMS.get(match[1].lower(), match[1].lower())
        if not _same(fields.setdefault(key, match[2]), match[2]) and key != "comment":
            raise senseless(file, f"{key} stands twice: {fields[key][:80]!r}, {match[2][:80]!r}", "one of them")
    if fields.get("objecttype", "image").lower() != "image":
        raise unsupported(file, f"ObjectType = {fields['objecttype'][:80]}", "an image")
    lists = fields["elementdatafile"].upper().startswith("LIST")
    following = data[end.end() :].decode("utf-8", errors="replace").splitlines() if lists else []
    return MetaImageHeader(file, fields, end.end(), tuple(following))


def _same(one: str, other: str) -> bool:
    """Whether two fields say the same, in numbers if they hold numbers."""
    try:
        return one == other or [float(word) for word in one.split()] == [float(word) for word in other.split()]
    except ValueError:
        return False


def data_files(header: MetaImageHeader) -> list[Path]:
    """The files beside the header that hold its voxels. AutolmkError where one is missing or lies elsewhere."""
    file, name = header.file, header.fields["elementdatafile"]
    if name.upper() == "LOCAL":
        return []
    alone = name and not {"/", "\\"} & set(name) and os.path.isfile(file.parent / name)
    if not alone and (name.upper().startswith("LIST") or "%" in name):
        return [beside(file, n) for n in names_of_parts(file, name, header.following)]
    if not alone and re.search(r"\s\d+\s+\d+", name):
        raise unsupported(file, f"voxels in several files: {name[:100]!r}", "LIST, or slice%03d.raw 1 9 1")
    return [beside(file, name)]


def _stored(header: MetaImageHeader, shape: list[int], channels: int) -> Stored | StoredParts:
    file, fields = header.file, header.fields
    kind = fields.get("elementtype", "").upper()
    code = TYPES.get(kind.removeprefix("MET_").removesuffix("_ARRAY"))
    if code is None:
        raise unsupported(file, f"ElementType = {kind or 'missing'}", f"MET_{', MET_'.join(TYPES)}")
    binary, packed = header.flag("binarydata", False), header.flag("compresseddata", False)
    big = header.flag("binarydatabyteordermsb", False)
    parts = data_files(header)
    if len(parts) > 1 and packed:
        raise unsupported(file, f"packed voxels in {len(parts)} files", "raw ones")
    source, start = (parts[0], 0) if parts else (file, header.start)
    skip = whole(file, "HeaderSize", fields.get("headersize", "0"))
    if skip < -1 or (skip and (source == file or packed or not binary)):
        raise senseless(file, f"HeaderSize = {skip}", "0, or bytes to leave out of a raw file of its own")
    size = whole(file, "CompressedDataSize", fields.get("compresseddatasize", "0"))
    if packed and size > source.stat().st_size - start:
        raise truncated(source, f"{source.stat().st_size - start} bytes of packed voxels", f"{size} bytes")
    dtype = np.dtype((">" if big else "<") + code)
    start = -1 if skip == -1 else start + skip
    stored = Stored(source, start, dtype, (channels, *shape), "zlib" if packed else "raw" if binary else "text")
    return in_parts(file, stored, [(part, start) for part in parts]) if len(parts) > 1 else stored


def _geometry(header: MetaImageHeader, shape: list[int], n: int, d: int) -> tuple[Geometry, bool]:
    """(the grid, whether anything says how large a voxel is)."""
    file = header.file
    spacing, filled = header.numbers("elementspacing", n), header.numbers("elementsize", n)
    sized = spacing is not None or filled is not None
    steps = np.array((spacing or filled or [1.0] * n)[:d])
    if not np.isfinite(steps).all() or (steps == 0).any():
        raise senseless(file, f"voxels without a size: ElementSpacing {spacing}, ElementSize {filled}", "sizes in mm")
    if (steps < 0).any():
        raise senseless(file, f"voxels of a negative size: {steps.tolist()}", "positive sizes; TransformMatrix flips")
    _compare_sizes(file, spacing, filled, shape[:d])
    matrix, offset = header.numbers("transformmatrix", n * n), header.numbers("offset", n)
    axes = np.eye(d) if matrix is None else np.array(matrix).reshape(n, n)[:d, :d].T
    if np.isfinite(axes).all() and np.abs(np.linalg.norm(axes, axis=0) - 1).max() > 1e-3:
        found = f"TransformMatrix with axes of length {np.round(np.linalg.norm(axes, axis=0), 6).tolist()}"
        raise senseless(file, f"{found}, ElementSpacing {spacing}", "axes of length 1, sizes in ElementSpacing alone")
    require_grid(file, axes)
    axes = axes / np.linalg.norm(axes, axis=0)
    origin = np.zeros(d) if offset is None else np.array(offset[:d])
    if not np.isfinite(origin).all():
        raise senseless(file, f"Offset = {offset}", "finite numbers")
    scale = millimetres(file, header.fields.get("distanceunits", ""))
    geometry = Geometry.from_parts(
        shape[:d][::-1], (steps * scale)[::-1].tolist(), (origin * scale).tolist(), axes[:, ::-1]
    )
    _compare_orientation(header, geometry, matrix is not None)
    if d == 3 and sized and (offset is None or (matrix is None and "anatomicalorientation" not in header.fields)):
        missing = [k for k, v in (("TransformMatrix", matrix), ("Offset", offset)) if v is None]
        say_unplaced(file, f"{' and '.join(missing)} missing")
    centre = header.numbers("centerofrotation", n)
    if centre is not None and np.abs(centre).max() > 0 and not np.allclose(axes, np.eye(d)):
        remedy = "look whether the place is right: it is left aside, as ITK and 3D Slicer do"
        notice("a header turns its grid around another point", file, found=f"CenterOfRotation {centre}", remedy=remedy)
    return geometry, sized


def _compare_sizes(file: Path, spacing: list[float] | None, filled: list[float] | None, shape: list[int]) -> None:
    if filled is None:
        return
    if spacing is None:
        remedy = "look whether it is the distance between voxels"
        notice("a header has ElementSize alone", file, found=f"ElementSize {filled}, taken for spacing", remedy=remedy)
        return
    apart = [abs(a - b) * max(1, m - 1) / a for a, b, m in zip(spacing, filled, shape, strict=False)]
    if not max(apart) <= TOLERANCE:
        notice(
            "a header has voxels of another size than their spacing",
            file,
            found=f"ElementSpacing {spacing}, ElementSize {filled}",
            remedy="look which one is right: ElementSpacing counts",
        )


def _compare_orientation(header: MetaImageHeader, geometry: Geometry, placed: bool) -> None:
    said = header.fields.get("anatomicalorientation", "").upper().strip()
    if geometry.ndim != 3 or "?" in said or len(said) != 3:
        return
    toward = geometry.orientation()
    coming = toward.translate(str.maketrans("RLAPIS", "LRPASI"))
    if said == coming or (said == toward and placed):
        return  # a few programs write where axes go to
    found = f"AnatomicalOrientation {said}, but axes that come from {coming} by the "
    if not placed:
        raise senseless(header.file, f"{found}absence of TransformMatrix", "a TransformMatrix that says the same")
    notice(
        "the orientation of a header contradicts its matrix",
        header.file,
        found=f"{found}TransformMatrix",
        remedy="look whether left and right are right: TransformMatrix counts, as in ITK and 3D Slicer",
    )


def _intensity(header: MetaImageHeader) -> tuple[float, float]:
    """(slope, offset) of stored values."""
    slope = (header.numbers("elementtointensityfunctionslope", 1) or [1.0])[0]
    offset = (header.numbers("elementtointensityfunctionoffset", 1) or [0.0])[0]
    if not np.isfinite([slope, offset]).all() or slope == 0:
        raise senseless(header.file, f"values x {slope} + {offset}", "a finite slope that is not 0")
    if (slope, offset) != (1.0, 0.0):
        notice(
            "a header scales its values",
            header.file,
            found=f"values x {slope:g} + {offset:g}",
            remedy="nothing, if the other images are scaled too; many programs ignore it",
        )
    return slope, offset
