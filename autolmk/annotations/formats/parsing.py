"""Numbers, tables and JSON of foreign files, with the file and the place in every error."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from autolmk.annotations.formats.source import text_of
from autolmk.annotations.text import SEPARATOR, DecimalSigns
from autolmk.errors import AutolmkError

MISSING = {"", "nan", "na", "n/a", "null", "none", "-", "#n/a", "inf", "+inf", "infinity", "-inf", "-infinity"}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
LARGEST = 1e9  # no coordinate of an image, in pixels or mm, is larger
MAX_DEPTH = 100


def number(text: str, file: Path, where: str, *, comma: bool = False) -> float:
    """A float; NaN for what stands for a missing value. AutolmkError for anything else.

    comma: whether a comma may be the decimal sign, as in tables that do not separate by commas.
    """
    text = text.strip()
    if text.lower() in MISSING:
        return math.nan
    plain = text.replace(",", ".") if comma and text.count(",") == 1 and "." not in text else text
    if len(plain) > 60 or NUMBER.fullmatch(plain) is None:
        wrong(file, where, repr(text[:80]), "a number such as 12.5, or nothing where a point is missing")
    return bounded(float(plain), file, where)


def bounded(value: float, file: Path, where: str) -> float:
    """The value. AutolmkError where no coordinate can be as large."""
    if abs(value) > LARGEST:
        wrong(file, where, value, f"a coordinate of at most {LARGEST:g}")
    return value


def whole(text: str, file: Path, where: str, *, most: int = 1_000_000) -> int:
    """A count from 0 to `most`. AutolmkError for anything else."""
    text = text.strip()
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) > most:
        wrong(file, where, repr(text[:80]), f"a whole number from 0 to {most}")
    return int(text)


def wrong(file: Path, where: str, found: object, expected: str, remedy: str = "correct the file") -> NoReturn:
    """Raise the AutolmkError of a value that is not as the format has it."""
    raise AutolmkError(f"wrong {where}", file=file, found=found, expected=expected, remedy=remedy)


class Table:
    """The rows of a table (.csv, .tsv, .txt), each with its line. comma: whether a comma may be the decimal sign."""

    def __init__(self, file: Path, *, delimiters: str = ",;\t") -> None:
        self.file = file
        text = text_of(file)
        declared = SEPARATOR.match(text)
        if declared:
            text = text[declared.end() :]
        first = text.lstrip("\n").partition("\n")[0]
        delimiter = declared.group(1) if declared else max(delimiters, key=first.count)
        skipped = 1 if declared else 0
        reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
        self.comma = delimiter != ","
        self.signs = DecimalSigns(file)
        self.rows: list[tuple[int, list[str]]] = []
        try:
            for fields in reader:
                if any(f.strip() for f in fields):
                    self.rows.append((reader.line_num + skipped, [f.strip() for f in fields]))
        except csv.Error as error:
            wrong(file, f"line {reader.line_num + skipped}", str(error), "fields that are separated and quoted alike")
        if not self.rows:
            wrong(file, "table", "nothing", "a header and rows")

    def body(self, header: int, width: int) -> list[tuple[int, list[str]]]:
        """The rows after the first `header` ones. AutolmkError where one has another number of fields than `width`."""
        rows = []
        for line, fields in self.rows[header:]:
            while len(fields) > width and not fields[-1]:
                fields = fields[:-1]
            if len(fields) != width:
                wrong(self.file, f"line {line}", f"{len(fields)} fields", f"{width} fields, as in the header")
            rows.append((line, fields))
        return rows

    def number(self, text: str, line: int, column: str) -> float:
        """A number of the table, NaN where it is missing."""
        if self.comma:
            self.signs.add(text, f"line {line}")
        return number(text, self.file, f"{column} in line {line}", comma=self.comma)


def json_of(file: Path) -> Any:
    """Parsed JSON. AutolmkError where it is none, or is nested more deeply than any annotation."""
    text = text_of(file)
    depth = deepest = 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text):
        character = token.group()[0]
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        wrong(file, "JSON", f"{deepest} lists and objects inside each other", f"at most {MAX_DEPTH}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        wrong(file, "JSON", str(error)[:200], "valid JSON")


def field(value: Any, key: str, kind: type | tuple[type, ...], file: Path, where: str) -> Any:
    """value[key], which must be there and of this kind. AutolmkError otherwise."""
    if not isinstance(value, dict) or key not in value:
        wrong(
            file, where, "no key" if isinstance(value, dict) else f"{value!r}"[:80], f"an object with the key {key!r}"
        )
    if not isinstance(value[key], kind) or (isinstance(value[key], bool) and kind is not bool):
        names = {dict: "an object", list: "a list", str: "a text", (int, float): "a number"}
        wrong(file, f"{key} of {where}", f"{value[key]!r}"[:80], names.get(kind, "another kind of value"))
    return value[key]


def coordinate(value: Any, file: Path, where: str) -> float:
    """A number of JSON; NaN for null. AutolmkError for anything else."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        wrong(file, where, f"{value!r}"[:80], "a number")
    if isinstance(value, int) and abs(value) > LARGEST:
        wrong(file, where, "an enormous number", f"a coordinate of at most {LARGEST:g}")
    return math.nan if not math.isfinite(value) else bounded(float(value), file, where)


def rows_of_numbers(lines: Sequence[tuple[int, str]], width: int, file: Path) -> list[list[float]]:
    """A point a line, of `width` numbers that blanks or commas separate, or blanks alone and with decimal commas."""
    result = []
    for line, text in lines:
        fields = text.split()
        if len(fields) == width and any(re.search(r"\d,\d", f) for f in fields):
            fields = [f.replace(",", ".", 1) for f in fields]
        else:
            fields = text.replace(",", " ").split()
        if len(fields) != width:
            wrong(file, f"line {line}", text[:80], f"{width} numbers")
        result.append([number(f, file, f"line {line}") for f in fields])
    return result
