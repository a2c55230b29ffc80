"""Files that are not the image that their name says, and the errors that say so."""

from __future__ import annotations

import os
from pathlib import Path

from autolmk.errors import AutolmkError

TEXTUAL = (b"AE", b"CS", b"DA", b"DT", b"IS", b"LO", b"SH", b"TM", b"UI", b"UL")  # kinds of the first tags of a file
FIRST = tuple(bytes((n, 0)) for n in (0x00, 0x01, 0x05, 0x08, 0x10, 0x12, 0x14, 0x16, 0x18, 0x20))  # their elements


def is_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM files do, without being the index of a medium (DICOMDIR)."""
    if not os.path.isfile(file) or file.name.upper() == "DICOMDIR":
        return False
    with file.open("rb") as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or is_bare_dicom(start)


def is_bare_dicom(start: bytes) -> bool:
    """Whether a file begins with DICOM's first tags themselves: without a preamble, as some devices still write."""
    if start[:2] == b"\x00\x08":  # big endian, which is always explicit
        return start[2:3] == b"\0" and start[4:6] in TEXTUAL
    if start[:2] not in (b"\x02\x00", b"\x08\x00") or start[2:4] not in FIRST:
        return False
    length = int.from_bytes(start[4:8], "little")
    return start[4:6] in TEXTUAL or (length <= 1024 and length % 2 == 0)


def is_nifti_pair(file: Path) -> bool:
    """Whether a file is the header of a NIfTI image whose voxels are in the file .img beside it; not one of Analyze."""
    try:
        with file.open("rb") as stream:
            start = stream.read(348)
    except OSError:
        return False
    return (start[344:347] == b"ni1" or start[4:7] == b"ni2") and voxels_beside(file) is not None


def voxels_beside(header: Path) -> Path | None:
    """The file .img of a header .hdr; None where there is none."""
    names = (header.name[:-4] + ending for ending in (".img", ".IMG"))
    return next((file for name in names if (file := header.with_name(name)).is_file()), None)


def foreign(file: Path, kind: str) -> AutolmkError:
    """The error of a file that is not of the kind that its name says: empty, a pointer of git, a page of HTML, ..."""
    try:
        with file.open("rb") as stream:
            text = stream.read(200)
    except OSError as error:
        return unreadable(file, error)
    if not text:
        return truncated(file, "an empty file", "an image")
    if b"annex/objects" in text or text.startswith(b"version https://git-lfs"):
        return AutolmkError(
            "a file is a pointer to an image, not the image",
            file=file,
            found=text.decode(errors="replace").strip().splitlines()[0][:100],
            expected="the image itself",
            remedy="fetch it: git annex get, datalad get or git lfs pull",
        )
    page = text.lstrip().lower().startswith((b"<!doctype html", b"<html"))
    return AutolmkError(
        f"a file is no {kind} image",
        file=file,
        found="a web page, such as a server's error" if page else f"it begins with {text[:12]!r}",
        expected=f"the header of {kind}",
        remedy="download it again"
        if page
        else "rename it if it is of another kind, else copy or export it again from the source",
    )


def unreadable(file: Path, error: OSError) -> AutolmkError:
    """The error of a file that the system does not open."""
    return AutolmkError(
        "an image cannot be opened", file=file, found=error.strerror or str(error), remedy="check its permissions"
    )


def truncated(file: Path, found: str, expected: str) -> AutolmkError:
    """The error of a file that lacks its end."""
    return AutolmkError(
        "an image file is truncated",
        file=file,
        found=found,
        expected=expected,
        remedy="copy or export it again from the source",
    )
