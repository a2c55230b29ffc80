"""Generated MetaImage headers, consistent and contradictory, with what must come of them; for tests and benchmarks."""

from __future__ import annotations

import zlib
from random import Random

import numpy as np
import numpy.typing as npt
from nrrd_headers import Header
from nrrd_headers import check as check
from scipy.spatial.transform import Rotation

UNITS = {"mm": 1.0, "um": 1e-3, "cm": 10.0, "?": 1.0}
TYPES = {"SHORT": "i2", "UCHAR": "u1", "USHORT": "u2", "FLOAT": "f4", "DOUBLE": "f8", "CHAR": "i1", "LONG_LONG": "i8"}
FAULTS = {
    "sheared": "sheared",
    "scaled": "axes of length",
    "synonyms": "stands twice",
    "unit": "lengths in",
    "zero": "without a size",
    "negative": "negative size",
    "short": "truncated",
    "huge": "truncated",
    "outside": "outside its folder",
    "list": "not supported",
    "time": "too many axes",
    "type": "not supported",
    "default": "absence of TransformMatrix",
}


def headers(seed: int, n: int) -> list[Header]:
    """`n` different ones."""
    return [_header(Random(f"metaimage-{seed}-{i}")) for i in range(n)]


def _header(random: Random) -> Header:
    shape = tuple(random.randint(2, 6) for _ in range(3))
    fault = random.choice(("", "", "", "", "", *FAULTS))
    dims = 4 if fault == "time" or random.random() < 0.2 else 3
    channels = random.choice((1, 1, 1, 2, 3))
    every = [*shape, 2 if fault == "time" else 1][:dims]
    fields, affine, noticed, sized = _grid(random, dims, fault)
    kind, code = random.choice(list(TYPES.items()))
    order = random.choice("<>")
    stored = np.array([random.randint(0, 100) for _ in range(channels * int(np.prod(every)))], order + code)
    values = stored[: channels * int(np.prod(shape))].reshape((channels, *shape), order="F").astype(float)
    values = values.transpose(0, 3, 2, 1)
    if random.random() < 0.2 and fault == "":
        fields |= {"ElementToIntensityFunctionSlope": "2", "ElementToIntensityFunctionOffset": "-5"}
        values, noticed = values * 2 - 5, (*noticed, "scales its values")
    if channels > 1 or random.random() < 0.3:
        fields["ElementNumberOfChannels"] = str(channels)
    fields["ElementType"] = (
        "MET_OTHER" if fault == "type" else f"MET_{kind}" + random.choice(("", "_ARRAY")) * (channels > 1)
    )
    fields[random.choice(("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))] = str(order == ">")
    fields["DimSize"] = " ".join(map(str, [10**9, 10**9, *every[2:]] if fault == "huge" else every))
    data, beside, ending = _file(random, fields, stored, fault, dims)
    return Header(data, beside, ending, shape, affine, FAULTS.get(fault, ""), values, noticed, sized)  # type: ignore[arg-type]


def _grid(
    random: Random, dims: int, fault: str
) -> tuple[dict[str, str], npt.NDArray[np.float64], tuple[str, ...], bool]:
    steps = np.array([random.choice((0.25, 0.5, 1.0, 3.0)) for _ in range(3)])
    angles = [random.choice((0, 90, 180, -90)) + random.uniform(-20, 20) for _ in range(3)]
    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * [1, 1, random.choice((1, -1))]
    origin, unit = np.array([random.uniform(-100, 100) for _ in range(3)]), random.choice(list(UNITS))
    fields: dict[str, str] = {}
    noticed: list[str] = []
    size = random.choice(("spacing", "spacing", "spacing", "both", "differ", "size", "none"))
    size = "spacing" if fault in ("zero", "negative") else size
    shown = steps * {"zero": 0, "negative": -1}.get(fault, 1)
    if size in ("spacing", "both", "differ"):
        fields["ElementSpacing"] = _listed([*shown, 1][:dims])
    if size in ("both", "differ", "size"):
        fields["ElementSize"] = _listed([*(steps * (0.5 if size == "differ" else 1)), 1][:dims])
    noticed += {"differ": ["of another size"], "size": ["ElementSize alone"]}.get(size, [])
    steps = np.ones(3) if size == "none" else steps
    placed = (random.random() < 0.8 and fault != "default") or fault in ("sheared", "scaled", "synonyms")
    if placed:
        matrix = axes.copy()
        matrix[:, 0] += 0.1 * matrix[:, 1] if fault == "sheared" else 0
        matrix[:, 0] /= np.linalg.norm(matrix[:, 0])
        full = np.eye(dims)
        full[:3, :3] = matrix * (0.5 if fault == "scaled" else 1)
        name, other = random.sample(("TransformMatrix", "Rotation", "Orientation"), 2)
        fields[name] = _listed(full.T.ravel())
        if fault == "synonyms":
            fields[other] = _listed((full.T + 0.1).ravel())
        fields[random.choice(("Offset", "Origin", "Position"))] = _listed([*origin, 0][:dims])
        letters = _coming(axes)
        wrong = random.random() < 0.2
        if random.random() < 0.7:
            letters = letters.translate(str.maketrans({letters[0]: _other(letters[0])})) if wrong else letters
            fields["AnatomicalOrientation"] = letters
            noticed += ["contradicts its matrix"] if wrong else []
    else:
        axes, origin = np.eye(3), np.zeros(3)
        if fault == "default":
            fields["AnatomicalOrientation"] = random.choice(("LAI", "RAS", "AIR", "LPS", "RPI"))
        noticed += ["how it lies in the room"] if size != "none" else []
    if fault == "unit" or random.random() < 0.4:
        fields["DistanceUnits"] = "furlong" if fault == "unit" else unit
        noticed += ["not in mm"] if UNITS[unit] != 1 else []
    else:
        unit = "mm"
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * steps * UNITS[unit], origin * UNITS[unit]
    return fields, affine, tuple(noticed), size != "none"


def _file(
    random: Random, fields: dict[str, str], stored: npt.NDArray[np.generic], fault: str, dims: int
) -> tuple[bytes, bytes | None, str]:
    encoding = "raw" if fault in ("short", "huge") else random.choice(("raw", "raw", "zlib", "text"))
    raw = stored.tobytes()[: -1 if fault == "short" else None]
    packed = zlib.compress(raw) if encoding == "zlib" else raw
    packed = " ".join(map(str, stored.tolist())).encode() if encoding == "text" else packed
    fields |= {"BinaryData": str(encoding != "text"), "CompressedData": str(encoding == "zlib")}
    if encoding == "zlib" and random.random() < 0.7:
        fields["CompressedDataSize"] = str(len(packed))
    detached = fault in ("outside", "list") or random.random() < 0.3
    name = "LOCAL"
    if detached:
        name = random.choice(("voxels.bin", "./voxels.bin"))
        name = random.choice(("/etc/voxels.bin", "..\\voxels.bin", "../voxels.bin")) if fault == "outside" else name
        name = random.choice(("a.raw 1 5 1", "b 1 2")) if fault == "list" else name
        if encoding == "raw" and random.random() < 0.5 and fault == "":
            fields["HeaderSize"] = random.choice(("-1", "7"))
            packed = b"\1" * 7 + packed
    names = list(fields)
    random.shuffle(names)
    end = random.choice(("\n", "\r\n"))
    lines = [
        "ObjectType = Image",
        f"NDims = {dims}",
        *(f"{n} = {fields[n]}" for n in names),
        f"ElementDataFile = {name}",
    ]
    head = (end.join(lines) + end).encode()
    return (head, packed, ".mhd") if detached else (head + packed, None, ".mha")


def _coming(axes: npt.NDArray[np.float64]) -> str:
    """From where each axis comes, by its largest part."""
    letters = (("R", "L"), ("A", "P"), ("I", "S"))
    part = np.abs(axes).argmax(axis=0)
    return "".join(letters[p][int(axes[p, a] < 0)] for a, p in enumerate(part))


def _other(letter: str) -> str:
    return dict(zip("RLAPIS", "LRPASI", strict=True))[letter]


def _listed(values: npt.ArrayLike) -> str:
    return " ".join(repr(float(v)) for v in np.asarray(values))
