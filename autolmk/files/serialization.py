"""Strict JSON <-> frozen dataclass: wrong keys and values are errors that name file, path and near names."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
import os
import stat
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from autolmk.errors import AutolmkError, counted
from autolmk.files import strict_json
from autolmk.files.atomic import replacing

T = TypeVar("T")
LARGEST_TEXT = 2**28  # bytes of a table or another text
LARGEST_NUMBER = {int: 2**63, float: 1e25}  # that a field of a dataclass may hold; NaN and infinity it may not
LONGEST_NAME, MOST_NAMES, LONGEST_FOUND = 200, 2000, 500  # characters or names that messages look at


def from_json(cls: type[T], value: Any, *, file: Path | str | None = None, path: str = "") -> T:
    """A value of type `cls` from parsed JSON.

    Understands dataclasses, str, bool, int, float, None, Any, Literal, Enum, unions, list[T], tuple[T, ...],
    tuple[A, B] and dict[str, T]. file and path only serve the message of the AutolmkError that any disagreement raises.
    """
    return typing.cast(T, _convert(cls, value, file, path))


def to_json(value: Any) -> Any:
    """JSON-ready form of dataclasses, mappings, sequences, enums and numpy scalars or arrays; NaN becomes None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy
        return to_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(file: Path, *, remedy: str | None = None, nan: bool = False) -> Any:
    """Parsed JSON of a UTF-8 file. AutolmkError, with this remedy, where it is missing, unreadable, no JSON or beyond
    the bounds of `strict_json`. nan: the file may hold NaN and Infinity, as those of some other programs do."""
    text = read_text(file, remedy=remedy, largest=strict_json.LARGEST)
    try:
        return strict_json.parse(text, nan=nan)
    except (ValueError, RecursionError) as error:
        raise AutolmkError(
            "a file is not valid JSON",
            file=file,
            found=str(error),
            expected="JSON in UTF-8",
            remedy=remedy or "mend or remake it",
        ) from None


def read_text(file: Path, *, remedy: str | None = None, largest: int = LARGEST_TEXT) -> str:
    """The content of a UTF-8 file of at most `largest` bytes, with or without a byte order mark, line breaks as LF.
    AutolmkError, with this remedy, where it cannot be read."""
    data = read_limited(file, largest, remedy=remedy)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise AutolmkError(
            "a text file is not in UTF-8",
            file=file,
            found=str(error),
            expected="text in UTF-8",
            remedy=remedy or "save it as UTF-8",
        ) from None


def read_limited(file: Path, largest: int, *, remedy: str | None = None) -> bytes:
    """The content of a file of at most `largest` bytes. AutolmkError, with this remedy, where it is larger, no ordinary
    file (a device, a pipe, a folder) or cannot be read."""
    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise OSError(None, "a device or a pipe")
        with open(file, "rb") as stream:
            data = stream.read(largest + 1)
        if len(data) > largest:
            raise OSError(None, f"{status.st_size} bytes, where at most {largest} make sense")
        return data
    except FileNotFoundError:
        raise AutolmkError("a file is missing", file=file, remedy=remedy or "check the path") from None
    except OSError as error:
        raise AutolmkError(
            "a file cannot be read",
            file=file,
            found=error.strerror or str(error),
            remedy=remedy or "check that it is a file and that you may read it",
        ) from None


def write_json(file: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write `to_json(value)` atomically: readers see the old file or the whole new one. Bytes of a path that are no
    UTF-8 become question marks."""
    text = json.dumps(to_json(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(file, text.encode(errors="replace"))


def write_bytes(file: Path, data: bytes) -> None:
    """Write a file atomically and durably (temporary file, fsync, rename). AutolmkError where the disk refuses."""
    try:
        with replacing(file) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise AutolmkError(
            "a file cannot be written",
            file=file,
            found=error.strerror or str(error),
            remedy="free disk space, or choose another folder that you may write to",
        ) from None


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing. AutolmkError where the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AutolmkError(
            "a folder cannot be made",
            file=folder,
            found=error.strerror or str(error),
            remedy="choose another folder, one that you may write to; or move the file away that is in its place",
        ) from None


def near(name: str, known: typing.Iterable[str]) -> str:
    """The question ', did you mean ...?', or '', for messages."""
    if len(name) > LONGEST_NAME:
        return ""  # comparing takes the square of the length
    names = [one for one in itertools.islice(known, MOST_NAMES) if len(one) <= LONGEST_NAME]
    matches = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""


def _fail(
    file: Path | str | None, path: str, found: object, expected: str, remedy: str | None = None
) -> typing.NoReturn:
    raise AutolmkError(
        f"wrong value at {path or 'the top level'}",
        file=file,
        found=str(found)[:LONGEST_FOUND],
        expected=expected,
        remedy=remedy or ("correct it" if file is None else "correct the file"),
    )


def _convert(cls: Any, value: Any, file: Path | str | None, path: str) -> Any:
    origin, arguments = typing.get_origin(cls), typing.get_args(cls)
    if cls is Any:
        return value
    if cls is None or cls is type(None):
        return None if value is None else _fail(file, path, repr(value), "null")
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, file, path)
    if origin is Literal:
        if any(value == known and type(value) is type(known) for known in arguments):
            return value
        return _fail(
            file, path, repr(value), f"one of {', '.join(map(repr, arguments))}{near(str(value), map(str, arguments))}"
        )
    if dataclasses.is_dataclass(cls):
        return _convert_dataclass(cls, value, file, path)
    if isinstance(cls, type) and issubclass(cls, Enum):
        try:
            return cls(value)
        except (ValueError, TypeError):
            return _fail(file, path, repr(value), f"one of {[m.value for m in cls]}")
    if origin in (list, tuple):
        return _convert_sequence(origin, arguments, value, file, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            return _fail(file, path, _kind(value), "an object {...}")
        return {str(k): _convert(arguments[1], v, file, f"{path}.{k}".lstrip(".")) for k, v in value.items()}
    return _convert_scalar(cls, value, file, path)


def _convert_union(members: tuple[Any, ...], value: Any, file: Path | str | None, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    errors = []
    for member in members:
        if member is type(None):
            continue
        try:
            return _convert(member, value, file, path)
        except AutolmkError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    return _fail(file, path, repr(value), " or ".join(str(e.expected) for e in errors))


def _convert_dataclass(cls: Any, value: Any, file: Path | str | None, path: str) -> Any:
    if not isinstance(value, Mapping):
        _fail(file, path, _kind(value), f"an object {{...}} ({cls.__name__})")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in value:
        if key not in fields:
            known = ", ".join(fields)
            _fail(
                file,
                f"{path}.{key}".lstrip("."),
                f"the key {key!r}",
                f"one of {known}{near(str(key), fields)}",
                "remove or rename it",
            )
    arguments = {}
    for name, field in fields.items():
        here = f"{path}.{name}".lstrip(".")
        if name in value:
            arguments[name] = _convert(hints[name], value[name], file, here)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            _fail(file, here, "nothing", f"the key {name!r}", "add it")
    try:
        return cls(**arguments)
    except (ValueError, OverflowError) as error:
        return _fail(file, path, str(error), f"a valid {cls.__name__}")


def _convert_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, file: Path | str | None, path: str) -> Any:
    if not isinstance(value, (list, tuple)):
        _fail(file, path, _kind(value), "a list [...]")
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            _fail(file, path, counted(len(value), "value"), counted(len(arguments), "value"))
        return tuple(
            _convert(a, v, file, f"{path}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True))
        )
    return origin(_convert(arguments[0], v, file, f"{path}[{i}]") for i, v in enumerate(value))


def _convert_scalar(cls: Any, value: Any, file: Path | str | None, path: str) -> Any:
    if cls in (int, float) and isinstance(value, (int, float)) and not abs(value) < LARGEST_NUMBER[cls]:
        return _fail(file, path, _kind(value), f"a finite number within \u00b1{LARGEST_NUMBER[cls]:.3g}")
    if cls is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, cls) and not (isinstance(value, bool) and cls is not bool):
        return value
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    return _fail(file, path, _kind(value), names.get(cls, cls.__name__))


def _kind(value: Any) -> str:
    """What a value is, and which, for messages."""
    if value is None:
        return "null"
    if isinstance(value, (dict, list)):
        return "an object {...}" if isinstance(value, dict) else "a list [...]"
    names = {str: "the text", bool: "the value", int: "the number", float: "the number"}
    return f"{names.get(type(value), type(value).__name__)} {value!r}"[:200]
