"""Whether an image file is whole, for those formats whose truncated files ITK reads without an error."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

from autolmk.errors import AutolmkError

CHUNK = 1 << 22


def check(file: Path, ending: str) -> None:
    """AutolmkError where a NIfTI, PNG or JPEG file is empty or truncated, or where the file may not be read."""
    try:
        size = file.stat().st_size
        if size == 0:
            raise _truncated(file, "an empty file", "an image")
        if ending in (".nii", ".nii.gz"):
            _check_nifti(file, ending == ".nii.gz", size)
    except OSError as error:
        raise AutolmkError(
            "an image cannot be opened", file=file, found=error.strerror or str(error), remedy="check its permissions"
        ) from None


def is_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM files do, without being the index of a medium (DICOMDIR)."""
    if not file.is_file() or file.name.upper() == "DICOMDIR":
        return False
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def nifti_size(header: bytes) -> int | None:
    """Bytes that a NIfTI-1 file with this header of 348 bytes needs; None where it is no such header."""
    for order in "<>":
        if len(header) < 348 or struct.unpack_from(order + "i", header)[0] != 348:
            continue
        dim = struct.unpack_from(order + "8h", header, 40)
        bits, offset = struct.unpack_from(order + "h", header, 72)[0], struct.unpack_from(order + "f", header, 108)[0]
        if not 1 <= dim[0] <= 7 or not math.isfinite(offset):
            return None
        voxels = math.prod(max(1, int(n)) for n in dim[1 : dim[0] + 1])
        return int(offset) + voxels * int(bits) // 8
    return None


def _check_nifti(file: Path, compressed: bool, size: int) -> None:
    try:
        with gzip.open(file) if compressed else file.open("rb") as stream:
            header = stream.read(348)
        _check_spacing(file, header)
        needed = nifti_size(header)
        if not compressed:
            if needed is not None and size < needed:
                raise _truncated(file, f"{size} bytes", f"{needed} bytes")
            return
        if needed is None or _gzip_says(file) == needed % 2**32:
            return
        unpacked = 0
        with gzip.open(file) as stream:  # several members, or bytes after the image: the only way is to unpack it
            while chunk := stream.read(CHUNK):
                unpacked += len(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _truncated(file, str(error), "a whole .nii.gz file") from None
    if unpacked < needed:
        raise _truncated(file, f"{unpacked} bytes after unpacking", f"{needed} bytes")


def _check_spacing(file: Path, header: bytes) -> None:
    """AutolmkError where a NIfTI-1 header gives voxels no size along an axis: ITK would silently read 1 mm."""
    order = next((o for o in "<>" if len(header) >= 348 and struct.unpack_from(o + "i", header)[0] == 348), None)
    if order is None:
        return
    dim, size = struct.unpack_from(order + "4h", header, 40), struct.unpack_from(order + "4f", header, 76)
    axes = [i for i in range(1, 1 + min(dim[0], 3)) if dim[i] > 1]
    if any(size[i] == 0 or not math.isfinite(size[i]) for i in axes):
        raise AutolmkError(
            "an image does not say how large its voxels are",
            file=file,
            found=f"pixdim {', '.join(f'{x:g}' for x in size[1:])}",
            expected="mm along each axis",
            remedy="export it again from the source, or write the spacing into the header",
        )


def _gzip_says(file: Path) -> int:
    """The size after unpacking, modulo 2**32, that the last four bytes of a gzip file state (RFC 1952)."""
    with file.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        return int(struct.unpack("<I", stream.read(4))[0])


def _truncated(file: Path, found: str, expected: str) -> AutolmkError:
    return AutolmkError(
        "an image file is truncated",
        file=file,
        found=found,
        expected=expected,
        remedy="copy or export it again from the source",
    )
