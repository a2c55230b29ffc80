"""Generated NRRD headers, consistent and contradictory, with what must come of them; used by tests and benchmarks."""

from __future__ import annotations

import bz2
import gzip
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from autolmk import imageio
from autolmk.errors import AutolmkError

UNITS = {"mm": 1.0, "um": 1e-3, "microns": 1e-3, "cm": 10.0, "m": 1e3, "": 1.0}
SPACES = {
    "left-posterior-superior": (1, 1, 1), "LPS": (1, 1, 1), "right-anterior-superior": (-1, -1, 1), "RAS": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "scanner-xyz": (1, 1, 1), "3D-right-handed": (1, 1, 1),
}  # fmt: skip
TYPES = {"short": "i2", "uchar": "u1", "uint16": "u2", "float": "f4", "double": "f8", "int8": "i1", "long long": "i8"}
FAULTS = {
    "sheared": "sheared",
    "spacings": "spacing",
    "unit": "lengths in",
    "zero": "steps along the axes",
    "short": "truncated",
    "outside": "outside its folder",
    "kind": "a direction for axes of space",
    "time": "too many axes",
    "type": "not supported",
    "space": "not supported",
    "huge": "truncated",
}


@dataclass(frozen=True)
class Header:
    """A file, the truth in LPS mm as (4, 4) from voxels (i, j, k), and what must come of it: "" where it is read."""

    data: bytes
    beside: bytes | None
    ending: str
    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    expected: str
    values: npt.NDArray[np.float64]
    noticed: tuple[str, ...]
    sized: bool


def headers(seed: int, n: int) -> list[Header]:
    """`n` different ones."""
    return [_header(Random(f"nrrd-{seed}-{i}")) for i in range(n)]


def check(header: Header, file: Path) -> str:
    """ "read" or why it was refused. AssertionError where that is not as it must be, or a position is 1e-6 mm off."""
    file.write_bytes(header.data)
    if header.beside is not None:
        (file.parent / "voxels.bin").write_bytes(header.beside)
    try:
        with imageio.noticed() as notices:
            image = imageio.read_image([file])
    except AutolmkError as error:
        assert header.expected and header.expected in str(error), (header.expected, str(error), header.data[:600])
        return header.expected
    assert not header.expected, (header.expected, "was read", header.data[:600])
    sizes = np.linalg.norm(header.affine[:3, :3], axis=0)
    expected = {*header.noticed, *(("unusual size",) if header.sized and sizes.max() > 100 else ())}
    assert {part for part in expected if any(part in str(n) for n in notices)} == expected, notices
    assert len(notices) == len(expected), notices
    corners = np.array(np.meshgrid(*[(0, m - 1) for m in header.shape], indexing="ij")).reshape(3, -1).T
    truth = corners @ header.affine[:3, :3].T + header.affine[:3, 3]
    found = image.geometry.to_physical(corners[:, ::-1])
    assert np.abs(found - truth).max() <= 1e-6 * max(1.0, np.abs(truth).max()), (found, truth)
    np.testing.assert_allclose(image.array, header.values, rtol=1e-6)
    assert imageio.read_geometry(file).affine.tolist() == image.geometry.affine.tolist()
    assert imageio.has_physical_size(file) == header.sized
    return "read"


def _header(random: Random) -> Header:
    shape = tuple(random.randint(2, 6) for _ in range(3))
    channels, place = random.choice((1, 1, 1, 2, 3)), random.choice((0, 3))
    form = random.choice(("directions", "directions", "directions", "spacings", "none"))
    fault = random.choice(("", "", "", "", *FAULTS))
    if form != "directions" and fault in ("sheared", "spacings", "unit", "zero", "kind", "space"):
        fault = ""
    if channels == 1 and fault == "kind":
        fault = ""
    fields, affine, noticed = _grid(random, shape, form, fault)
    every = list(shape)
    if fault == "time":
        channels = 2
    if channels > 1:
        every.insert(place, channels)
        kind = (
            "time" if fault == "time" else random.choice(("vector", "list", "RGB-color" if channels == 3 else "vector"))
        )
        words = ["domain" if form == "none" else "space"] * 3
        words.insert(place, "space" if fault == "kind" else kind)
        fields["kinds"] = " ".join(words)
        for key, fill in (("space directions", "none"), ("spacings", "NaN")):
            if key in fields:
                parts = fields[key].split(" ")
                parts.insert(place, fill)
                fields[key] = " ".join(parts)
    elif random.random() < 0.3:
        fields["kinds"] = "domain domain domain"
    kind, code = random.choice(list(TYPES.items()))
    order = random.choice("<>")
    stored = np.array([random.randint(0, 100) for _ in range(int(np.prod(every)))], order + code)
    values = stored.reshape(every, order="F").astype(float)
    values = (
        values[None].transpose(0, 3, 2, 1) if channels == 1 else np.moveaxis(values, place, 0).transpose(0, 3, 2, 1)
    )
    fields |= {"type": "block" if fault == "type" else kind, "endian": "little" if order == "<" else "big"}
    sizes = [10**9, 10**9, *every[2:]] if fault == "huge" else every
    fields |= {"dimension": str(len(every)), "sizes": " ".join(map(str, sizes))}
    data, beside, ending = _file(random, fields, stored, fault)
    return Header(data, beside, ending, shape, affine, FAULTS.get(fault, ""), values, noticed, form != "none")  # type: ignore[arg-type]


def _grid(
    random: Random, shape: tuple[int, ...], form: str, fault: str
) -> tuple[dict[str, str], npt.NDArray[np.float64], tuple[str, ...]]:
    steps = np.array([random.choice((0.25, 0.5, 1.0, 3.0)) for _ in range(3)])
    affine, room = np.eye(4), "how it lies in the room"
    if form == "none":
        return {}, affine, ()
    if form == "spacings":
        affine[:3, :3] = np.diag(steps)
        return {"spacings": _listed(steps)}, affine, (room,)
    angles = [random.choice((0, 90, 180, -90)) + random.uniform(-20, 20) for _ in range(3)]
    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * [1, 1, random.choice((1, -1))]
    matrix, origin = axes * steps, np.array([random.uniform(-100, 100) for _ in range(3)])
    if fault == "sheared":
        matrix[:, 0] += 0.1 * matrix[:, 1]
    if fault == "zero":
        matrix[:, 1] = 0
    space, unit = random.choice(list(SPACES)), random.choice(list(UNITS))
    directions = " ".join("(" + ",".join(repr(float(x)) for x in matrix[:, a]) + ")" for a in range(3))
    fields = {"space directions": directions, "space origin": "(" + ",".join(repr(float(x)) for x in origin) + ")"}
    fields["space"] = "left-up-there" if fault == "space" else space
    if fault == "unit" or random.random() < 0.5:
        fields["space units"] = " ".join([f'"{"pixels" if fault == "unit" else unit}"'] * 3)
    else:
        unit = "mm"
    if fault == "spacings" or random.random() < 0.2:
        fields["spacings"] = _listed(steps * (1.5 if fault == "spacings" else 1.0))
    if random.random() < 0.3:
        fields["measurement frame"] = "(1,0,0) (0,1,0) (0,0,1)"
    signs = np.array(SPACES[space])
    affine[:3, :3], affine[:3, 3] = signs[:, None] * matrix * UNITS[unit], signs * origin * UNITS[unit]
    said = (
        *(("not in mm",) if UNITS[unit] != 1 else ()),
        *((room,) if space in ("scanner-xyz", "3D-right-handed") else ()),
    )
    return fields, affine, said


def _file(
    random: Random, fields: dict[str, str], stored: npt.NDArray[np.generic], fault: str
) -> tuple[bytes, bytes | None, str]:
    encoding = random.choice(("raw", "raw", "gzip", "gz", "bzip2", "hex", "ascii"))
    if fault in ("short", "huge"):
        encoding = random.choice(("raw", "gzip", "hex")) if fault == "huge" else "raw"
    raw = stored.tobytes()[: -1 if fault == "short" else None]
    if encoding == "ascii":
        raw = " ".join(map(str, stored.tolist())).encode()
    packed = bz2.compress(raw) if encoding == "bzip2" else raw
    if encoding in ("gzip", "gz"):
        packed = gzip.compress(raw, mtime=0)  # not the time of day: every process must make the same tests
    packed = raw.hex().encode() if encoding == "hex" else packed
    fields = {**fields, "encoding": encoding}
    detached = fault == "outside" or random.random() < 0.25
    if detached:
        fields["data file"] = random.choice(
            ("/etc/voxels.bin", "../voxels.bin", "a/../../voxels.bin", "C:\\voxels.bin")
        )
        fields["data file"] = (
            fields["data file"] if fault == "outside" else random.choice(("voxels.bin", "./voxels.bin"))
        )
    names = list(fields)
    random.shuffle(names)
    end = random.choice(("\n", "\r\n"))
    lines = ["NRRD0005", "# a comment", "who:=a program: of its own", *(f"{n}: {fields[n]}" for n in names)]
    head = (end.join(lines) + end).encode()
    if detached:
        return head, packed, random.choice((".nhdr", ".nrrd"))
    return head + end.encode() + packed, None, ".nrrd"


def _listed(values: npt.NDArray[np.float64]) -> str:
    return " ".join(repr(float(v)) for v in values)
