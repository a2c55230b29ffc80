"""Files that are not the image that their name says, and the errors that say so."""

from __future__ import annotations

import os
from pathlib import Path

from autolmk.errors import AutolmkError


def is_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM files do, without being the index of a medium (DICOMDIR)."""
    if not os.path.isfile(file) or file.name.upper() == "DICOMDIR":
        return False
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


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
