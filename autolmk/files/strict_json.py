"""JSON of strangers: parsed only within bounds, so that no file takes more memory, time or stack than it should."""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any

LARGEST = 2**26  # bytes of a file; detections of 10,000 landmarks have about 10 million
DEEPEST = 100  # lists and objects in each other
MOST_VALUES = 5_000_000
LONGEST_NUMBER = 60  # characters
LARGEST_INTEGER = 2**64


def parse(text: str, *, nan: bool = False) -> Any:
    """Parsed JSON. ValueError where it is no JSON, is nested too deeply, holds too many values or a number that is too
    long, a key twice in one object, or, without `nan`, NaN or Infinity."""
    values = text.count(",") + text.count("[") + text.count("{")
    if values > MOST_VALUES:
        raise ValueError(f"about {values} values, more than {MOST_VALUES}")
    deepest = _depth(text)
    if deepest > DEEPEST:
        raise ValueError(f"lists and objects in each other, {deepest} deep, more than {DEEPEST}")
    found = json.loads(
        text,
        parse_int=_integer,
        parse_float=_number,
        parse_constant=float if nan else _refused,
        object_pairs_hook=_without_twins,
    )
    if "\\ud" in text or "\\uD" in text:
        json.dumps(found, ensure_ascii=False).encode()  # halves of characters cannot be written or shown again
    return found


def _depth(text: str) -> int:
    """How deep lists and objects lie in each other; brackets in texts do not count."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return 0
    outside = text.replace("\\\\", "").replace('\\"', "").split('"')[::2]
    steps = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", "".join(outside)))
    return max(accumulate(steps), default=0)


def _integer(text: str) -> int:
    if len(text) > LONGEST_NUMBER or abs(int(text)) > LARGEST_INTEGER:
        raise ValueError(f"the whole number {text[:20]}..., which is beyond all that is counted here")
    return int(text)


def _number(text: str) -> float:
    value = float(text[:LONGEST_NUMBER])
    if len(text) > LONGEST_NUMBER or not math.isfinite(value):
        raise ValueError(f"the number {text[:20]}..., which is too large or too long")
    return value


def _refused(name: str) -> float:
    raise ValueError(f"{name} where a number is expected")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:100]!r} twice in one object")
    return found
