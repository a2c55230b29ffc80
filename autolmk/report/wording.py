"""Numbers in words: at most three digits that say something, intervals in brackets, a dash for what is not known."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from autolmk.evaluation.bootstrap import Estimate

NOTHING = "–"
CLOSE = "\N{NO-BREAK SPACE}"  # between what belongs on one line
LEAST_CASES = 10  # of means and medians with an interval; with fewer, it is easily wider than the value is large


def number(value: float | None) -> str:
    """Three significant digits, never an exponent."""
    if value is None or not math.isfinite(value):
        return NOTHING
    digits = 2 if value == 0 else max(0, min(6, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:.{digits}f}"
    return f"−{text[1:]}" if text.startswith("-") else text


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return NOTHING if value is None or not math.isfinite(value) else f"{100 * value:.1f}{CLOSE}%"


def interval(estimate: Estimate | None, *, share: bool = False) -> str:
    """The value and its 95 % interval, where it has one. share: of a whole, in percent."""
    if estimate is None or estimate.value is None:
        return NOTHING
    say = percent if share else number
    if estimate.low is None or estimate.high is None:
        return say(estimate.value)
    low, high = (f"{100 * v:.1f}" if share else number(v) for v in (estimate.low, estimate.high))
    return f"{say(estimate.value)} [{low},{CLOSE}{high}]".replace("-", "−")


def enough(estimate: Estimate | None, n_cases: float | None) -> Estimate | None:
    """A mean or a median, without its interval where fewer than `LEAST_CASES` cases tell it. n_cases: None is few.

    Bootstrap intervals of so few cases are often wider than the value is large, and hold the true one less often than
    they say: benchmarks/interval_cases.py measures it. Shares keep theirs, which is exact for any number of cases.
    """
    if estimate is None or (n_cases is not None and n_cases >= LEAST_CASES):
        return estimate
    return Estimate(estimate.value)


def whiskers_are(estimates: Iterable[Estimate | None]) -> str:
    """The words to add to a sentence on a chart: that its whiskers are intervals, where there is any."""
    return " with its 95 % interval over cases" if any(e and e.low is not None for e in estimates) else ""


def level(share: float | None) -> str:
    """The level of a claim as a percentage: 90 %, 97.5 %."""
    return NOTHING if share is None else f"{100 * share:g}{CLOSE}%"


def p_value(p: float | None) -> str:
    """A p-value with two significant digits."""
    return NOTHING if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def estimate(value: Any) -> Estimate | None:
    """Read an estimate from parsed JSON: an object with value, low and high, or a bare number; None for
    anything else.
    """
    if isinstance(value, dict):
        parts = [as_number(value.get(key)) for key in ("value", "low", "high")]
        return None if parts[0] is None else Estimate(*parts)
    bare = as_number(value)
    return None if bare is None else Estimate(bare)


def as_number(value: Any) -> float | None:
    """The number in parsed JSON; None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def plain(value: Any) -> str:
    """A value of parsed JSON as a reader writes it: no braces, lists within lists as a × b."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join("×".join(map(plain, v)) if isinstance(v, (list, tuple)) else plain(v) for v in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(v)}" for key, v in value.items()) or "none"
    return str(value)
