"""Whether an image file is whole, for those formats whose truncated files ITK reads without an error."""

from __future__ import annotations

from pathlib import Path

from autolmk.errors import AutolmkError


def check(file: Path, ending: str) -> None:
    """AutolmkError where a file is empty or may not be read."""
    try:
        size = file.stat().st_size
        if size == 0:
            raise _truncated(file, "an empty file", "an image")
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


def _truncated(file: Path, found: str, expected: str) -> AutolmkError:
    return AutolmkError(
        "an image file is truncated",
        file=file,
        found=found,
        expected=expected,
        remedy="copy or export it again from the source",
    )
