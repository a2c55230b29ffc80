"""Damage for benchmarks/fuzz.py: what disks, editors, other programs and strangers do to a file, and typing errors.

Every function takes a seeded generator, so that a number and a seed give the same damage again.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (
    "0",
    "-1",
    "1",
    "-0.0",
    "NaN",
    "Infinity",
    "-Infinity",
    "1e308",
    "1e-320",
    "1e30",
    "4294967296",
    "-2147483649",
    "9" * 400,
    "9" * 5000,
    "0.1.2",
    "1,5",
    "0x10",
    "",
    "null",
    "true",
)
TEXTS = (
    "",
    " ",
    "..",
    ".",
    "/",
    "../../victim",
    "/etc/passwd",
    "~",
    "~/x.py:Class",
    "a/b",
    "C:\\x",
    "nul",
    "x" * 300,
    "x" * 100_000,
    "a\nb",
    "\x1b[31mred",
    "a\x00b",
    "\u202eevil",
    "=1+1",
    "'; rm -rf x",
    "file.py:Class",
    "\ud800",
    "Zoë",
    "Zoe\u0308",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    10**9,
    10**30,
    -(10**400),
    1e308,
    float("nan"),
    float("inf"),
    -0.5,
    "",
    "..",
    "text",
    "../../victim",
    "file.py:Class",
    [],
    {},
    [[]],
    [None],
    {"": None},
    [1, 2, 3],
    "x" * 1000,
)


def mutate(data: bytes, name: str, random: Random) -> tuple[bytes, str]:
    """Damaged bytes of a file of this name, and what was done."""
    kinds: list[Callable[[bytes, Random], bytes]] = [flip, truncate, insert, blank, repeat, header_fields, replaced]
    if name.endswith((".json", ".mrk.json")):
        kinds = [json_value, json_value, json_key, json_deep, text_number, text_word, flip, truncate, encoded, repeat]
    elif name.endswith((".csv", ".tsv", ".fcsv", ".txt", ".tps", ".pts", ".nhdr", ".mhd")):
        kinds = [text_number, text_word, text_line, csv_field, flip, truncate, encoded, insert, replaced]
    elif name.endswith(".safetensors"):
        kinds = [tensor_header, tensor_header, tensor_header, flip, truncate, blank, replaced]
    kind = random.choice(kinds)
    try:
        return kind(data, random), kind.__name__
    except (ValueError, KeyError, IndexError, TypeError, UnicodeError, struct.error):
        return truncate(data, random), "truncate"


# -- bytes ------------------------------------------------------------------------------------------------------------


def flip(data: bytes, random: Random) -> bytes:
    """A few bytes with one bit changed."""
    result = bytearray(data or b"\0")
    for _ in range(random.choice((1, 1, 3, 20))):
        result[random.randrange(len(result))] ^= 1 << random.randrange(8)
    return bytes(result)


def truncate(data: bytes, random: Random) -> bytes:
    """The beginning, perhaps nothing of it."""
    return data[: random.choice((0, 1, len(data) // 2, max(0, len(data) - 1), random.randrange(len(data) + 1)))]


def insert(data: bytes, random: Random) -> bytes:
    """Foreign bytes somewhere."""
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.choice((1, 8, 1000))) + data[at:]


def blank(data: bytes, random: Random) -> bytes:
    """A stretch of zeros or of ones, as a disk leaves it."""
    at, n = random.randrange(len(data) + 1), random.choice((1, 16, 512))
    return data[:at] + random.choice((b"\0", b"\xff")) * min(n, len(data) - at) + data[at + n :]


def repeat(data: bytes, random: Random) -> bytes:
    """Everything twice, or its end twice."""
    return data + (data if random.random() < 0.5 else data[len(data) // 2 :])


def replaced(data: bytes, random: Random) -> bytes:
    """Something else under this name."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    others = (
        b"<!DOCTYPE html><html></html>\n",
        pointer,
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"PK\x03\x04",
        b"II*\0",
        b"GIF89a",
        b"%PDF-1.7",
        b"{}",
        b"[]",
        b"\0" * 400,
        b"\x1f\x8b",
        b"\n" * 50,
    )
    return random.choice(others)


def header_fields(data: bytes, random: Random) -> bytes:
    """An extreme number in the first 400 bytes, where headers hold sizes, types and offsets."""
    result = bytearray(data)
    fields = ("<h", "<H", "<i", "<I", "<f", "<d", ">H", ">I", "<q")
    for _ in range(random.choice((1, 2))):
        form = random.choice(fields)
        extremes = (0.0, -1.0, float("nan"), float("inf"), 1e30) if form[1] in "fd" else (0, 1, 0x7F)
        size = struct.calcsize(form)
        at = random.randrange(max(1, min(len(result), 400) - size))
        packed = (
            struct.pack(form, random.choice(extremes))
            if random.random() < 0.5
            else random.choice((b"\xff", b"\x7f", b"\0")) * size
        )
        result[at : at + size] = packed
    return bytes(result)


# -- text -------------------------------------------------------------------------------------------------------------


def _swap(pattern: str, data: bytes, words: tuple[str, ...], random: Random) -> bytes:
    text = data.decode()
    found = list(re.finditer(pattern, text))
    chosen = random.choice(found)
    return (text[: chosen.start()] + random.choice(words) + text[chosen.end() :]).encode("utf-8", "surrogatepass")


def text_number(data: bytes, random: Random) -> bytes:
    """Another number, or what should be one."""
    return _swap(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", data, NUMBERS, random)


def text_word(data: bytes, random: Random) -> bytes:
    """Another word: a path, a control character, far too long, right to left."""
    return _swap(r"[A-Za-z_]\w*", data, TEXTS, random)


def text_line(data: bytes, random: Random) -> bytes:
    """A line twice, missing, moved or joined with the next."""
    lines = data.decode().splitlines(keepends=True)
    at = random.randrange(len(lines))
    change = random.randrange(4)
    if change == 0:
        lines.insert(at, lines[at])
    elif change == 1:
        del lines[at]
    elif change == 2:
        lines.insert(random.randrange(len(lines)), lines.pop(at))
    else:
        lines[at] = lines[at].rstrip("\r\n")
    return "".join(lines).encode()


def csv_field(data: bytes, random: Random) -> bytes:
    """A field more, a field less, a quote that is not closed, a field of 200,000 characters."""
    lines = data.decode().split("\n")
    at = random.randrange(len(lines))
    change = random.choice((",", ",,x", '"', ',"' + "y" * 200_000 + '"', ";", "\t", "\r", "\0"))
    lines[at] = lines[at].rsplit(",", 1)[0] if random.random() < 0.3 else lines[at] + change
    return "\n".join(lines).encode()


def encoded(data: bytes, random: Random) -> bytes:
    """In another encoding, with other line ends or a byte order mark."""
    text = data.decode()
    return random.choice(
        (
            text.encode("utf-16"),
            text.encode("utf-8-sig"),
            text.replace("\n", "\r").encode(),
            text.replace("\n", "\r\n").encode(),
            ("\u00e4" + text).encode("latin-1", "replace"),
            text.replace(",", ";").replace(".", ",").encode(),
        )
    )


# -- JSON -------------------------------------------------------------------------------------------------------------


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in _places(item, (*path, key)))]


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def json_value(data: bytes, random: Random) -> bytes:
    """Another value at a random place."""
    value = json.loads(data)
    path = random.choice(_places(value))
    new = random.choice((*VALUES, *TEXTS))
    if not path:
        return _dumped(new)
    _at(value, path[:-1])[path[-1]] = new
    return _dumped(value)


def json_key(data: bytes, random: Random) -> bytes:
    """A key that is missing, has another name or stands twice; a list with one more or one less."""
    value = json.loads(data)
    path = random.choice([p for p in _places(value) if isinstance(_at(value, p), (dict, list)) and _at(value, p)])
    holder = _at(value, path)
    if isinstance(holder, list):
        holder.append(holder[0]) if random.random() < 0.5 else holder.pop()
        return _dumped(value)
    key = random.choice(list(holder))
    item = holder.pop(key)
    if random.random() < 0.6:
        holder[random.choice((key + "x", *TEXTS))] = item
    text = _dumped(value)
    return text.replace(b"{", b'{"a": 1, "a": 2, ', 1) if random.random() < 0.1 else text


def json_deep(data: bytes, random: Random) -> bytes:
    """Thousands of brackets, or an integer of thousands of digits."""
    n = random.choice((900, 5000, 100_000))
    return random.choice((b"[" * n, b"[" * n + b"]" * n, b'{"a":' * n + b"1" + b"}" * n, b'{"a": ' + b"9" * n + b"}"))


def tensor_header(data: bytes, random: Random) -> bytes:
    """The header of a safetensors file with another value, its length kept right, or with a wrong length."""
    (length,) = struct.unpack_from("<Q", data)
    change = random.choice((json_value, json_value, json_key, text_number, json_deep, flip))
    header = change(data[8 : 8 + length], random)
    stated = random.choice((len(header), len(header), len(header), len(header), 0, 2**40, 2**63, len(data)))
    return struct.pack("<Q", stated) + header + data[8 + length :]


# -- arguments --------------------------------------------------------------------------------------------------------


def mutate_arguments(arguments: list[str], random: Random) -> tuple[list[str], str]:
    """One or two arguments that are missing, doubled, in another order or of another kind."""
    result = list(arguments)
    for _ in range(random.choice((1, 1, 2))):
        at, change = random.randrange(len(result) or 1), random.randrange(6)
        odd = random.choice((*NUMBERS, *(text for text in TEXTS if "\0" not in text and "\ud800" not in text)))[:1000]
        if not result or change == 0:
            result.insert(at, odd)
        elif change == 1:
            del result[at]
        elif change == 2:
            result.insert(at, result[at])
        elif change == 3:
            result.insert(random.randrange(len(result)), result.pop(at))
        else:
            result[at] = odd
    return result, "arguments"
