"""Text of others (names of cases, landmarks and files) made harmless for the place where it is shown: one function a
place. Terminals obey control characters, bidirectional marks turn a line round, spreadsheets run formulas."""

from __future__ import annotations

import re
import unicodedata

JOINERS = "\u200c\u200d"  # invisible, but part of correct spelling in several scripts
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
START = r"(?:^|(?<=[;\t\r\n]))"  # of a cell; some programs part cells at other marks than the table's
RUNS = r"(?='*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20])"
FORMULA, ESCAPED = re.compile(START + RUNS), re.compile(f"{START}'{RUNS}")


def visible(text: object, *, keep: str = "\t") -> str:
    r"""The text for a terminal, a log or a comment: control characters, line breaks, bidirectional marks and whatever
    else is invisible appear as escapes such as ``\x1b`` or ``\u202e``. keep: those that stay as they are."""
    said = str(text)
    if said.isprintable():
        return said
    return "".join(c if c in keep or not _hidden(c) else c.encode("unicode_escape").decode("ascii") for c in said)


def lines(text: object) -> str:
    """Escape text as `visible` does, but keep its line breaks, for text of several lines that autolmk itself
    composed.
    """
    return visible(text, keep="\t\n")


def indented(text: object) -> str:
    """Escape text as `lines` does, with every further line set in by four spaces, so that no part of a message looks
    like the next one.
    """
    return re.sub(r"\n(?! {4})", "\n    ", lines(text))


def html(value: object) -> object:
    """Prepare text for HTML, where the template escapes markup: text without bidirectional marks and control
    characters. Other values, and markup that is ready, stay of their kind.
    """
    if not isinstance(value, str):
        return value
    shown = lines(value)
    return value if shown == value else type(value)(shown)


def cell(text: str) -> str:
    """Prepare text for a cell of a table that spreadsheets open: an apostrophe keeps what begins as a formula from
    being one. Numbers stay as they are. Inverse: `uncell`.
    """
    return text if NUMBER.fullmatch(text) else FORMULA.sub("'", text)


def uncell(text: str) -> str:
    """Recover the text of a cell; inverse of `cell`."""
    return ESCAPED.sub("", text)


def _hidden(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Cc", "Cs", "Zl", "Zp") or (category == "Cf" and character not in JOINERS)
