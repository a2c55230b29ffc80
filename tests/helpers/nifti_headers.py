"""Generated NIfTI headers, consistent and contradictory, with what must come of them; used by tests and benchmarks."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from autolmk import imageio
from autolmk.errors import AutolmkError

UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
Expected = Literal["read", "qform and sform", "sform and pixdim", "sheared", "no unit", "without a size"]


@dataclass(frozen=True)
class Header:
    """A file, the truth in LPS mm as (4, 4) from voxels (i, j, k), and what must come of it."""

    data: bytes
    ending: str
    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    expected: Expected
    values: npt.NDArray[np.float64]


def headers(seed: int, n: int) -> list[Header]:
    """`n` different ones."""
    return [_header(Random(f"{seed}-{i}")) for i in range(n)]


def check(header: Header, file: Path) -> str:
    """ "read" or why it was refused. AssertionError where that is not as it must be, or a position is 1e-6 mm off."""
    file.write_bytes(header.data)
    try:
        image = imageio.read_image([file])
    except AutolmkError as error:
        said = str(error)
        assert header.expected != "read" and header.expected in said, (header.expected, said)
        return header.expected
    assert header.expected == "read", (header.expected, "was read")
    corners = np.array(np.meshgrid(*[(0, m - 1) for m in header.shape], indexing="ij")).reshape(3, -1).T
    truth = corners @ header.affine[:3, :3].T + header.affine[:3, 3]
    found = image.geometry.to_physical(corners[:, ::-1])
    assert np.abs(found - truth).max() <= 1e-6 * max(1.0, np.abs(truth).max()), (found, truth)
    np.testing.assert_allclose(image.array[0], header.values.T, rtol=1e-6)
    assert imageio.read_geometry(file).affine.tolist() == image.geometry.affine.tolist()
    return "read"


def _header(random: Random) -> Header:
    order, version = random.choice("<>"), random.choice((1, 1, 2))
    shape = tuple(random.randint(1, 6) for _ in range(3))
    sizes = np.array([random.choice((0.25, 0.5, 1.0, 3.0)) for _ in range(3)])
    unit = random.choice((0, 2, 2, 2, 3, 1))
    turn = Rotation.from_euler(
        "xyz", [random.choice((0, 90, 180, -90)) + random.uniform(-20, 20) for _ in range(3)], degrees=True
    )
    side = random.choice((1.0, -1.0))
    offset = np.array([random.uniform(-100, 100) for _ in range(3)])
    quaternion = turn.as_quat()  # x, y, z, w
    quaternion = quaternion if quaternion[3] >= 0 else -quaternion
    b, c, d = np.float32(quaternion[:3]).astype(float) if version == 1 else quaternion[:3]
    forms = random.choice(("both", "both", "qform", "sform", "none"))
    fault = random.choice(("", "", "", "apart", "scales", "sheared", "unit", "size", "near"))
    q = _exact(_qform(b, c, d, sizes, side, offset), version) if forms in ("both", "qform") else None
    s = _exact(_qform(b, c, d, sizes, side, offset), version)
    expected: Expected = "read"
    if fault == "apart" and forms == "both":
        s[:3, 3] += random.uniform(0.5, 20) * sizes.max()
        expected = "qform and sform"
    elif fault == "near" and forms == "both":
        s[:3, 3] += 0.01 * sizes.min()
    elif fault == "scales" and forms == "sform" and max(shape) > 2:
        s[:3, :3] *= 1.5
        expected = "sform and pixdim"
    elif fault == "sheared" and forms in ("both", "sform"):
        s[:3, 0] += 0.1 * s[:3, 1]
        expected = "sheared"
    elif fault == "unit":
        unit, expected = random.choice((4, 5, 6, 7)), "no unit"
    elif fault == "size":
        expected = "without a size" if shape[0] > 1 else "read"
    s = _exact(s, version)
    pixdim = [side, *sizes, 0, 0, 0, 0]
    if fault == "size" and expected != "read":
        pixdim[1] = random.choice((0.0, float("nan")))
    elif fault == "size":
        expected = "read"
    used = s if forms in ("both", "sform") else q if q is not None else None
    affine = np.diag([*sizes, 1.0]) if used is None else np.diag([-1.0, -1.0, 1.0, 1.0]) @ used
    affine = affine * np.array([UNITS.get(unit, 1.0)] * 3 + [1.0])[:, None]
    slope, inter = random.choice(((0.0, 0.0), (1.0, 0.0), (2.0, -5.0), (0.5, 100.0), (float("nan"), 0.0)))
    kind, code = random.choice((("i2", 4), ("u1", 2), ("f4", 16), ("f8", 64), ("u2", 512), ("i4", 8), ("i1", 256)))
    stored = np.array([random.randint(0, 100) for _ in range(int(np.prod(shape)))], order + kind)
    values = stored.reshape(shape, order="F").astype(float)
    if slope and np.isfinite(slope):
        values = values * slope + inter
    fields = {"code": code, "bits": stored.itemsize * 8, "slope": slope, "inter": inter, "unit": unit, "pixdim": pixdim}
    fields |= {
        "q": int(q is not None) * random.randint(1, 4),
        "s": int(forms in ("both", "sform")) * random.randint(1, 4),
    }
    fields |= {"quaternion": (b, c, d), "offset": offset, "srow": s[:3].ravel(), "shape": shape}
    raw = (_nifti1 if version == 1 else _nifti2)(order, fields) + stored.tobytes()
    packed = random.random() < 0.4
    ending = random.choice((".nii", ".nii.gz"))
    return Header(gzip.compress(raw, 1, mtime=0) if packed else raw, ending, shape, affine, expected, values)  # type: ignore[arg-type]


def _qform(
    b: float, c: float, d: float, sizes: npt.NDArray[np.float64], side: float, offset: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_quat([b, c, d, a]).as_matrix() * sizes * [1, 1, side]
    affine[:3, 3] = offset
    return affine


def _exact(affine: npt.NDArray[np.float64], version: int) -> npt.NDArray[np.float64]:
    """As the file can hold it; the offset of a qform too."""
    return affine.astype(np.float32).astype(float) if version == 1 else affine


def _nifti1(order: str, f: dict) -> bytes:  # type: ignore[type-arg]
    h = bytearray(352)
    struct.pack_into(order + "i", h, 0, 348)
    struct.pack_into(order + "8h", h, 40, 3, *f["shape"], 1, 1, 1, 1)
    struct.pack_into(order + "hh", h, 70, f["code"], f["bits"])
    struct.pack_into(order + "8f", h, 76, *f["pixdim"])
    struct.pack_into(order + "3f", h, 108, 352.0, f["slope"], f["inter"])
    h[123] = f["unit"]
    struct.pack_into(order + "hh", h, 252, f["q"], f["s"])
    struct.pack_into(order + "6f", h, 256, *f["quaternion"], *f["offset"])
    struct.pack_into(order + "12f", h, 280, *f["srow"])
    h[344:348] = b"n+1\0"
    return bytes(h)


def _nifti2(order: str, f: dict) -> bytes:  # type: ignore[type-arg]
    h = bytearray(544)
    struct.pack_into(order + "i", h, 0, 540)
    h[4:12] = b"n+2\0\r\n\x1a\n"
    struct.pack_into(order + "hh", h, 12, f["code"], f["bits"])
    struct.pack_into(order + "8q", h, 16, 3, *f["shape"], 1, 1, 1, 1)
    struct.pack_into(order + "8d", h, 104, *f["pixdim"])
    struct.pack_into(order + "q", h, 168, 544)
    struct.pack_into(order + "dd", h, 176, f["slope"], f["inter"])
    struct.pack_into(order + "ii", h, 344, f["q"], f["s"])
    struct.pack_into(order + "6d", h, 352, *f["quaternion"], *f["offset"])
    struct.pack_into(order + "12d", h, 400, *f["srow"])
    struct.pack_into(order + "i", h, 500, f["unit"])
    return bytes(h)
