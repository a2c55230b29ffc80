"""Reading text files and numbers, with the file and the place in every error."""

from __future__ import annotations

import math
from pathlib import Path

from autolmk.errors import AutolmkError
from autolmk.files import serialization


def read_text(file: Path) -> str:
    """The content of a UTF-8 file, with or without a byte order mark. AutolmkError where it cannot be read
    or is no text."""
    text = serialization.read_text(file)
    if "\0" in text:
        raise AutolmkError(
            "this is not a text file",
            file=file,
            found="zero bytes",
            expected="text in UTF-8",
            remedy="export the points again as text",
        )
    return text


def read_number(text: str, *, file: Path, where: str) -> float:
    """A float with a decimal point; NaN for a blank and for R's NA. AutolmkError otherwise."""
    if text.strip() in ("", "NA", "<NA>", "N/A", "NULL", "null"):
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise AutolmkError(
            f"{where} is not a number",
            file=file,
            found=repr(text),
            expected="a number with a decimal point, such as 12.5",
            remedy="mend the file",
        ) from None


def unquotable(name: str, file: Path) -> None:
    """Raise AutolmkError where a name holds what a line of separated fields cannot hold for every reader."""
    if any(c in name for c in ',"\n\r') or name.startswith("#"):
        raise AutolmkError(
            "a landmark's name cannot be written to this format",
            file=file,
            found=repr(name),
            expected="a name without commas, quotes and line breaks that does not begin with #",
            remedy="rename the landmark, or write .mrk.json",
        )
