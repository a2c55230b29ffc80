"""The table of measurements in autolmk_evaluate: how far predicted and annotated values agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autolmk.evaluation.agreement import Agreement
    from autolmk.evaluation.bootstrap import Estimate


def agreement_table(agreements: Mapping[str, Agreement]) -> str:
    """The agreement as a readable table: a row a measurement, intervals in brackets."""
    rows = [["measurement", "cases", "unit", "bias", "SD", "limits of agreement", "within radius", "median radius"]]
    for name, found in agreements.items():
        n = f"{found.n} ({found.missing} missing)" if found.missing else str(found.n)
        limits = "-" if found.sd is None else f"{_number(found.lower.value)} to {_number(found.upper.value)}"
        row = [name, n, found.unit or "1", _estimate(found.bias), _number(found.sd), limits]
        rows.append([*row, _estimate(found.coverage, 100, " %"), _number(found.median_radius)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    notes = ["predicted minus annotated; limits: bias ∓ 1.96 SD (Bland and Altman 1986); [95 % intervals over cases]"]
    return "\n".join([*(line.rstrip() for line in lines), "", *notes])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _estimate(estimate: Estimate, factor: float = 1.0, unit: str = "") -> str:
    if estimate.value is None:
        return "-"
    text = f"{_number(factor * estimate.value)}{unit}"
    if estimate.low is None or estimate.high is None:
        return f"{text} [-]"
    return f"{text} [{_number(factor * estimate.low)}, {_number(factor * estimate.high)}]"
