"""The grid of a NIfTI file, by the rules of `autolmk.nifti_header`, for a runner that has no nibabel."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.nifti_header import ras_affine

ENDINGS = (".nii", ".nii.gz")
SIZE = 348  # bytes of a NIfTI-1 header
FIELDS: dict[str, tuple[str, int]] = {  # name -> type, offset in bytes
    "sizeof_hdr": ("i4", 0),
    "dim": ("8i2", 40),
    "pixdim": ("8f4", 76),
    "xyzt_units": ("u1", 123),
    "qform_code": ("i2", 252),
    "sform_code": ("i2", 254),
    **{f"quatern_{name}": ("f4", 256 + 4 * i) for i, name in enumerate("bcd")},
    **{f"qoffset_{name}": ("f4", 268 + 4 * i) for i, name in enumerate("xyz")},
    **{f"srow_{name}": ("4f4", 280 + 16 * i) for i, name in enumerate("xyz")},
}


def grid_of(file: Path, size: tuple[int, ...], form: Any) -> Geometry:
    """The geometry of a NIfTI-1 file of `size` voxels (i, j[, k]); form: which one counts where two disagree.

    AutolmkError where the header contradicts itself or is of another kind.
    """
    with file.open("rb") as stream:
        data = stream.read(SIZE)
    if data[:2] == b"\x1f\x8b":
        with gzip.open(file) as stream:
            data = stream.read(SIZE)
    layout: dict[str, Any] = {
        "names": list(FIELDS),
        "offsets": [offset for _, offset in FIELDS.values()],
        "itemsize": SIZE,
    }
    for order in "<>":
        formats = [kind[:-2] + order + kind[-2:] for kind, _ in FIELDS.values()]
        record: Any = {**layout, "formats": formats}
        header = np.frombuffer(data[:SIZE].ljust(SIZE, b"\0"), np.dtype(record))[0]
        if int(header["sizeof_hdr"]) == SIZE:
            return _geometry(file, header, size, form)
    raise AutolmkError(
        "this runner cannot read that", file=file, found="no NIfTI-1 header", remedy="convert the file to NIfTI-1"
    )


def _geometry(file: Path, header: Any, size: tuple[int, ...], form: Any) -> Geometry:
    try:
        affine, _ = ras_affine(header, form)
    except ValueError as error:
        raise AutolmkError(
            "a NIfTI header contradicts itself", file=file, found=str(error), remedy="correct the header"
        ) from None
    return Geometry.from_ras(size, affine)
