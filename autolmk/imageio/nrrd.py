"""NRRD: attached and detached headers.

The grid is that of `space`, `space directions` and `space origin` (the centre of the first voxel), in `space units`;
without them sizes are those of `spacings`, in `units`, the place that of `axis mins` with `centers`, and nothing says
how the grid lies. RAS and LAS are turned to LPS. Where `spacings` and `space directions` both speak of an axis, they
must agree. An axis without a direction, or of a kind such as `vector`, holds channels; one of time must be of one
point. NaN means that a number is not known: without any size the image has no physical size. See teem's definition of
the format, https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.geometry import Geometry
from autolmk.imageio.itk import ImageSource
from autolmk.imageio.notices import notice
from autolmk.imageio.stored import (
    LONGEST,
    Encoding,
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

TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
ENCODINGS: dict[str, Encoding] = {"raw": "raw", "gzip": "zlib", "gz": "zlib", "bzip2": "bzip2", "bz2": "bzip2"}
ENCODINGS |= {"hex": "hex", "ascii": "text", "text": "text", "txt": "text"}
SPACES = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
UNPLACED = ("scanner-xyz", "3d-right-handed")  # axes that no patient is tied to; a left-handed frame would mirror
LISTED = "data files"  # the names after "data file: LIST", a line each
SPATIAL = ("space", "domain")
CHANNELS = re.compile(
    r"list|point|vector|covariant-vector|normal|scalar|stub|(rgb|hsv|xyz|rgba)-color|\d-(vector|color|normal)"
)


@dataclass(frozen=True)
class NrrdHeader:
    """The header of an NRRD file. fields: by their lower-case names, without spaces. start: of what follows the header,
    in bytes.
    """

    file: Path
    fields: dict[str, str]
    start: int

    def axes(self, key: str, n: int) -> list[str]:
        """A word an axis; "" where the field is missing. Quoted ones may hold spaces."""
        words = re.findall(r'"[^"]*"|\S+', self.fields.get(key, ""))
        if words and len(words) != n:
            raise senseless(self.file, f"{key}: {self.fields[key][:200]!r}", f"{n} words, one an axis")
        return [word.strip('"') for word in words] or [""] * n


def inspect(file: Path) -> ImageSource:
    """The grid of a NRRD file. AutolmkError where it is damaged or unsupported, or where its header is at odds."""
    header = read_header(file)
    (n,) = sizes(file, "dimension", header.fields.get("dimension", ""), 1)
    if n > 16:
        raise senseless(file, f"dimension: {n}", "at most 16")
    shape = sizes(file, "sizes", header.fields.get("sizes", ""), n)
    stored = _stored(header, shape)
    vectors = _vectors(header, n)
    spatial, channel, alpha = _roles(header, shape, vectors)
    stored.require_whole()
    try:
        geometry, sized = _geometry(header, [shape[a] for a in spatial], spatial, vectors)
    except ValueError as error:
        raise senseless(file, str(error), "a grid whose axes are independent") from None
    say_unusual(file, geometry, sized)

    def load() -> npt.NDArray[Any]:
        rest = [a for a in range(n) if a not in spatial]
        array = stored.load().transpose([*reversed(spatial), *rest])
        array = array.reshape(*geometry.shape, shape[channel] if channel is not None else 1)
        return array[..., :-1] if alpha else array

    return ImageSource((str(file),), geometry, sized, load)


def read_header(file: Path) -> NrrdHeader:
    """The fields. AutolmkError where it is no NRRD file, or a field stands twice with other content."""
    data = header_bytes(file, (b"nrrd000",), "NRRD")
    end = re.search(rb"\r?\n\r?\n", data)
    text = data[: end.start() if end else len(data)]
    if end is None and len(data) == LONGEST:
        raise senseless(file, f"a header of more than {LONGEST} bytes", "an empty line that ends it")
    fields: dict[str, str] = {}
    for line in text.decode("utf-8", errors="replace").splitlines()[1:]:
        if fields.get("datafile", "").upper().startswith("LIST"):  # what follows is names of files
            fields[LISTED] = fields.get(LISTED, "") + line + "\n"
            continue
        key, colon, value = line.partition(": ")
        if line.startswith("#") or not colon or re.match(r"[^:]*:=", line):
            continue  # a comment, or a key of a program's own
        key = key.strip().lower().replace(" ", "")
        key = "centers" if key == "centerings" else key
        if fields.setdefault(key, value.strip()) != value.strip():
            raise senseless(file, f"{key} stands twice: {fields[key][:80]!r}, {value.strip()[:80]!r}", "one of them")
    if end is None and "datafile" not in fields:
        raise senseless(file, "a header without an empty line after it", "voxels after an empty line, or a data file")
    return NrrdHeader(file, fields, end.end() if end else len(data))


def data_files(header: NrrdHeader) -> list[Path]:
    """The files beside the header that hold its voxels. AutolmkError where one is missing or lies elsewhere."""
    name = header.fields.get("datafile")
    if name is None:
        return []
    if name.upper().startswith("LIST") or "%" in name:
        return [
            beside(header.file, n)
            for n in names_of_parts(header.file, name, header.fields.get(LISTED, "").splitlines())
        ]
    return [beside(header.file, name)]


def _stored(header: NrrdHeader, shape: list[int]) -> Stored | StoredParts:
    file, fields = header.file, header.fields
    kind = fields.get("type", "").lower()
    code = next((code for code, names in TYPES.items() if kind in names), None)
    encoding = ENCODINGS.get(fields.get("encoding", "").lower())
    if code is None or encoding is None:
        found = f"type {fields.get('type')}, encoding {fields.get('encoding')}"
        raise unsupported(file, found, f"numbers, packed as {', '.join(ENCODINGS)}")
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None and code[1] != "1" and encoding != "text":
        raise senseless(file, f"endian: {fields.get('endian')!r} of numbers of {code[1]} bytes", "little or big")
    name = fields.get("datafile")
    lines, skip = (whole(file, key, fields.get(key, "0")) for key in ("lineskip", "byteskip"))
    if lines < 0 or skip < -1 or (skip == -1 and encoding != "raw"):
        raise senseless(file, f"line skip {lines}, byte skip {skip}", "numbers from 0 on, or a byte skip of -1")
    if encoding in ("zlib", "bzip2") and skip:
        raise unsupported(file, f"byte skip {skip} inside packed voxels", "packed voxels without a skip")

    def place(source: Path, start: int) -> tuple[Path, int]:
        return source, -1 if skip == -1 else _after_lines(source, start, lines) + skip

    source, start = place(file, header.start) if name is None else (file, 0)
    stored = Stored(source, start, np.dtype((order or "<") + code), tuple(shape), encoding)
    if name is None:
        return stored
    places = [place(part, 0) for part in data_files(header)]
    if len(places) > 1:
        return in_parts(file, stored, places)
    return replace(stored, file=places[0][0], start=places[0][1])


def _after_lines(file: Path, start: int, lines: int) -> int:
    if lines:
        with file.open("rb") as stream:
            stream.seek(start)
            for _ in range(min(lines, LONGEST)):
                if not stream.readline(LONGEST):
                    break
            return stream.tell()
    return start


def _vectors(header: NrrdHeader, n: int) -> list[list[float] | None] | None:
    """`space directions`, an axis each, None for "none"; None without the field."""
    text = header.fields.get("spacedirections")
    if text is None:
        return None
    words = re.findall(r"\([^)]*\)|[^\s()]+", text)
    if len(words) != n:
        raise senseless(header.file, f"space directions: {text[:200]!r}", f"{n} vectors, one an axis")
    found = [None if w.lower() == "none" else numbers(header.file, "space directions", w.strip("()")) for w in words]
    return [None if v is None or np.isnan(v).all() else v for v in found]


def _roles(
    header: NrrdHeader, shape: list[int], vectors: list[list[float] | None] | None
) -> tuple[list[int], int | None, bool]:
    """(axes in space, the axis of channels, whether the last channel is opacity)."""
    file, n = header.file, len(shape)
    kinds = [k.lower() for k in header.axes("kinds", n)]
    spatial, channels = [], []
    for axis, kind in enumerate(kinds):
        known = kind in SPATIAL or kind == "time" or CHANNELS.fullmatch(kind)
        if kind not in ("", "none", "???") and not known:
            raise unsupported(file, f"an axis of the kind {kind!r}", "axes of space, and one of channels at most")
        placed = vectors is not None and vectors[axis] is not None
        if vectors is not None and placed == bool(CHANNELS.fullmatch(kind)) and kind not in ("", "none", "???", "time"):
            found = f"axis {axis}: kind {kind!r}, space direction {vectors[axis] or 'none'}"
            raise senseless(file, found, "a direction for axes of space, none for others")
        if kind == "time" and placed and shape[axis] > 1:
            raise senseless(
                file, f"axis {axis}: kind 'time', space direction {vectors and vectors[axis]}", "none for time"
            )
        if placed or (vectors is None and (kind in SPATIAL or kind in ("", "none", "???"))):
            spatial.append(axis)
        elif shape[axis] > 1 and kind == "time":
            raise too_many_axes(file, shape)
        else:
            channels.append(axis)
    if len(spatial) == 4 and shape[spatial[3]] == 1:
        channels.append(spatial.pop())
    wide = [a for a in channels if shape[a] > 1]
    if len(spatial) not in (2, 3) or len(wide) > 1:
        raise too_many_axes(file, shape)
    return spatial, wide[0] if wide else None, bool(wide) and kinds[wide[0]] == "rgba-color"


def _geometry(
    header: NrrdHeader, shape: list[int], spatial: list[int], vectors: list[list[float] | None] | None
) -> tuple[Geometry, bool]:
    """(the grid of the axes in space, whether anything says how large a voxel is)."""
    file, n, d = header.file, len(header.fields["sizes"].split()), len(spatial)
    spacings = _spacings(header, n, spatial)
    if vectors is None:
        return _unplaced(header, shape, spacings, spatial, n)
    matrix = np.array([vectors[a] for a in spatial if vectors[a] is not None and len(vectors[a] or ()) == d]).T
    if matrix.shape != (d, d):
        found = f"{d} axes, space directions {header.fields['spacedirections'][:200]!r}"
        raise unsupported(file, found, f"{d} directions of {d} numbers; a single slice as a volume of one slice")
    units = header.axes("spaceunits", d)
    scale = np.array([millimetres(file, unit) for unit in units])
    own = [header.axes("units", n)[a] for a in spatial]
    if any(unit and millimetres(file, unit) != s for unit, s in zip(own, scale, strict=True)):
        raise senseless(file, f"units {own}, space units {units}", "the same unit in both, or one of them")
    text = header.fields.get("spaceorigin", "")
    origin = np.array(numbers(file, "space origin", text.strip("()"), d) if text else [np.nan] * d)
    matrix = matrix * scale[:, None]
    require_grid(file, matrix)
    lengths = np.linalg.norm(matrix / scale[:, None], axis=0)
    for axis, (spacing, length, m) in enumerate(zip(spacings, lengths, shape, strict=True)):
        if abs(spacing - length) * max(1, m - 1) > TOLERANCE * length:
            found = f"axis {axis}: spacing {spacing:.6g}, space direction of length {length:.6g}"
            raise senseless(file, found, "the same number in both, or one of them")
    signs = _signs(header, d)
    if not np.isfinite(origin).all():
        say_unplaced(file, f"space origin {text or 'missing'}: the first voxel is put at 0")
        origin = np.zeros(d)
    affine = np.eye(d + 1)
    affine[:d, :d] = (signs[:, None] * matrix)[:, ::-1]
    affine[:d, d] = signs * origin * scale
    return Geometry(tuple(reversed(shape)), affine), True


def _signs(header: NrrdHeader, d: int) -> npt.NDArray[np.float64]:
    """That turn the header's space to LPS."""
    space, dimension = header.fields.get("space", "").lower(), header.fields.get("spacedimension")
    if space and dimension:
        raise senseless(header.file, f"space {space!r} and space dimension {dimension}", "one of them")
    if space in SPACES and d == 3:
        return np.array(SPACES[space], dtype=np.float64)
    if space and space not in UNPLACED:
        expected = f"one of {', '.join((*SPACES, *UNPLACED))}, of as many axes as the image"
        raise unsupported(header.file, f"space: {space} of an image with {d} axes", expected)
    if d == 3:
        found = f"space: {space}" if space else f"space missing, space dimension {dimension}"
        say_unplaced(header.file, f"{found}; its axes are taken for those of LPS")
    return np.ones(d)


def _spacings(header: NrrdHeader, n: int, spatial: list[int]) -> list[float]:
    """(D,) of the axes in space, NaN where not known."""
    text = header.fields.get("spacings")
    values = numbers(header.file, "spacings", text, n) if text else [np.nan] * n
    found = [values[a] for a in spatial]
    if any(s == 0 or np.isinf(s) for s in found):
        raise senseless(header.file, f"voxels without a size: spacings {text}", "a size along each axis, or NaN")
    if any(s < 0 for s in found):
        remedy = "nothing, if left and right are right"
        notice("a header holds negative sizes of voxels", header.file, found=f"spacings {text}", remedy=remedy)
    return [abs(s) for s in found]


def _unplaced(
    header: NrrdHeader, shape: list[int], spacings: list[float], spatial: list[int], n: int
) -> tuple[Geometry, bool]:
    """The grid without space directions."""
    file, d = header.file, len(shape)
    sized = [not np.isnan(s) for s in spacings]
    grid = tuple(reversed(shape))
    space = [f"{key}: {header.fields[key][:80]}" for key in ("spaceorigin", "axismaxs") if key in header.fields]
    if not any(sized) and not space:
        return Geometry.from_parts(grid, [1.0] * d), False
    if not all(ok or m == 1 for ok, m in zip(sized, shape, strict=True)) or "spaceorigin" in header.fields:
        found = f"spacings {header.fields.get('spacings')}, no space directions; {'; '.join(space)}"
        raise senseless(file, f"voxels without a size: {found}", "spacings or space directions of all axes in space")
    units = header.axes("units", n)
    scale = np.array([millimetres(file, units[a]) for a in spatial])
    steps = np.nan_to_num(spacings, nan=1.0)
    text = header.fields.get("axismins")
    low = np.array([(numbers(file, "axis mins", text, n) if text else [np.nan] * n)[a] for a in spatial])
    centres = [header.axes("centers", n)[a].lower() for a in spatial]
    if any(np.isfinite(x) and c not in ("cell", "node") for x, c in zip(low, centres, strict=True)):
        raise senseless(file, f"axis mins {text}, centers {centres}", "centers cell or node, which say what is at them")
    _compare_ends(header, shape, spacings, spatial, centres)
    origin = np.where(np.isfinite(low), low + [s / 2 * (c == "cell") for s, c in zip(steps, centres, strict=True)], 0.0)
    if d == 3:
        say_unplaced(file, f"spacings {header.fields.get('spacings')}, no space directions")
    return Geometry.from_parts(grid, (steps * scale)[::-1].tolist(), (origin * scale).tolist()), True


def _compare_ends(
    header: NrrdHeader, shape: list[int], spacings: list[float], spatial: list[int], centres: list[str]
) -> None:
    """AutolmkError where `axis mins` and `axis maxs` put other steps between voxels than `spacings`."""
    n, fields = len(header.fields["sizes"].split()), header.fields
    if "axismins" not in fields or "axismaxs" not in fields:
        return
    low, high = (numbers(header.file, key, fields[key], n) for key in ("axismins", "axismaxs"))
    for axis, m, spacing, centre in zip(spatial, shape, spacings, centres, strict=True):
        step = abs(high[axis] - low[axis]) / max(1, m if centre == "cell" else m - 1)
        if m > 1 and abs(step - spacing) * (m - 1) > TOLERANCE * spacing:
            found = f"axis {axis}: spacing {spacing:.6g}; {step:.6g} by axis mins, axis maxs and centers"
            raise senseless(header.file, found, "the same number in both, or one of them")
