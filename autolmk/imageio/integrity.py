"""Whether an image file is whole, for those formats whose truncated files ITK reads without an error."""

from __future__ import annotations

from pathlib import Path

from autolmk.errors import AutolmkError

CHUNK = 1 << 22


def check(file: Path, ending: str) -> None:
    """AutolmkError where a PNG or JPEG file is empty or truncated, or where the file may not be read."""
    try:
        size = file.stat().st_size
        if size == 0:
            raise _truncated(file, "an empty file", "an image")
        if ending in (".jpg", ".jpeg"):
            _check_end(file, size, b"\xff\xd8", b"\xff\xd9", "JPEG")
        elif ending == ".png":
            _check_end(file, size, b"\x89PNG", b"IEND\xaeB`\x82", "PNG")
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


def _check_end(file: Path, size: int, start: bytes, end: bytes, kind: str) -> None:
    with file.open("rb") as stream:
        if stream.read(len(start)) != start:
            return  # of another kind than its name says: ITK will tell
        stream.seek(max(0, size - CHUNK))
        if end not in stream.read():
            raise _truncated(file, f"{size} bytes without the end of the image", f"a whole {kind} file")


def _truncated(file: Path, found: str, expected: str) -> AutolmkError:
    return AutolmkError(
        "an image file is truncated",
        file=file,
        found=found,
        expected=expected,
        remedy="copy or export it again from the source",
    )
