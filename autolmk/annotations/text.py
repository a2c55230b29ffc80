"""Reading text files and numbers, with the file and the place in every error."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Sequence
from pathlib import Path

from autolmk.errors import AutolmkError
from autolmk.files import serialization

NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf(inity)?)", re.IGNORECASE | re.ASCII)
FRACTION = re.compile(r"[+-]?\d*([.,])\d+(?:[eE][+-]?\d+)?", re.ASCII)
SEPARATOR = re.compile(r'\s*"?sep=(.)"?[,;\t ]*\n', re.IGNORECASE)  # Excel's own first line
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(file: Path) -> str:
    """The content of a file in UTF-8, or in UTF-16 if it begins with a byte order mark, as spreadsheets save "Unicode
    text"; line breaks as LF. AutolmkError where it cannot be read or is no text."""
    data = serialization.read_limited(file, serialization.LARGEST_TEXT)
    if data.startswith(UTF16):
        text = _utf16(data, file)
    else:
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


def _utf16(data: bytes, file: Path) -> str:
    try:
        return data.decode("utf-16").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise AutolmkError(
            "a text file is not in UTF-16, as it says", file=file, found=str(error), remedy="save it as UTF-8"
        ) from None


def read_number(text: str, *, file: Path, where: str) -> float:
    """A float with a decimal point; NaN for a blank and for R's NA. AutolmkError otherwise."""
    text = text.strip()
    if text in ("", "NA", "<NA>", "N/A", "NULL", "null"):
        return math.nan
    if NUMBER.fullmatch(text):
        return float(text)
    raise AutolmkError(
        f"{where} is not a number",
        file=file,
        found=repr(text),
        expected="a number with a decimal point, such as 12.5",
        remedy="mend the file",
    )


class DecimalSigns:
    """The decimal signs of a table's numbers, of which there must be one: a second one separates thousands."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seen: dict[str, str] = {}

    def add(self, text: str, where: str) -> None:
        """Look at a number of the table. AutolmkError where an earlier one has the other sign."""
        match = FRACTION.fullmatch(text.strip())
        if match is None:
            return
        self.seen.setdefault(match[1], f"{text.strip()} ({where})")
        if len(self.seen) > 1:
            raise AutolmkError(
                "a table has numbers with decimal points and numbers with commas",
                file=self.file,
                found=" and ".join(self.seen.values()),
                expected="one decimal sign, and nothing between thousands",
                remedy="save the table anew, without separators of thousands",
            )


def whole_or_nothing(point: Sequence[float], *, file: Path, where: str, case: str | None = None) -> bool:
    """Whether a point has a position. AutolmkError where it has some of its coordinates and lacks others."""
    known = [math.isfinite(x) for x in point]
    if any(known) and not all(known):
        raise AutolmkError(
            "a point has only some of its coordinates",
            file=file,
            case=case,
            found=f"{', '.join('nothing' if not k else f'{x:g}' for x, k in zip(point, known, strict=True))} {where}",
            expected="all of them, or none where the landmark has no position",
            remedy="complete the point, or remove what is left of it",
        )
    return all(known)


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
