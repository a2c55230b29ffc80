"""Times as users write them."""

from __future__ import annotations

import re

from autolmk.errors import AutolmkError

UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(text: str) -> float:
    """Read a time such as 90s, 20m, 3h or 1h30m, in seconds. AutolmkError otherwise."""
    if not re.fullmatch(r"(\d+(\.\d+)?(s|min|m|h|d))+", text):
        raise AutolmkError(
            "a time cannot be read",
            found=text,
            expected="such as 90s, 20m, 3h or 1h30m",
            remedy="give --max-time a number and a unit, without spaces",
        )
    seconds = sum(float(n) * UNITS[unit] for n, _, unit in re.findall(r"(\d+(\.\d+)?)(s|min|m|h|d)", text))
    if seconds <= 0:
        raise AutolmkError(
            "a time must be longer than nothing", found=text, remedy="give --max-time more time, or leave it out"
        )
    return seconds
