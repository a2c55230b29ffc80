"""Results of one's own beside the published ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json
from autolmk.recipes.public_dataset import PublicDataset

SUMMARY = "summary.json"


@dataclass(frozen=True)
class ResultRow:
    """One row of results. mre, sd: mm or px. sdr: radius in mm -> percent."""

    method: str
    mre: float | None
    sd: float | None
    sdr: dict[float, float]
    reference: str


def own_row(results: Path) -> tuple[ResultRow, str]:
    """The row of all landmarks in summary.json of autolmk_evaluate, and its unit. AutolmkError where it is damaged."""
    file = results / SUMMARY if results.is_dir() else results
    remedy = f"name a folder that autolmk_evaluate wrote, or its {SUMMARY}"
    content = read_json(file, remedy=remedy)
    try:
        overall, unit = content["overall"], content["unit"]
        sdr = {float(radius): 100 * value for radius, entry in overall["sdr"].items() if (value := _value(entry))}
        row = ResultRow("here", _value(overall["mre"]), overall["sd"], sdr, f"{content['n_cases']} cases of {file}")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise AutolmkError(
            "this is no summary of errors", file=file, expected="overall with mre, sd and sdr, and unit", remedy=remedy
        ) from None
    if unit not in ("mm", "px"):
        raise AutolmkError("a summary has an unknown unit", file=file, found=unit, expected="mm or px", remedy=remedy)
    return row, unit


def comparison(dataset: PublicDataset, results: Path) -> str:
    """A table of the published rows and one of one's own, and what makes them differ."""
    own, unit = own_row(results)
    rows = [ResultRow(p.method, p.mre, p.sd, dict(p.sdr), p.reference) for p in dataset.published if p.mre is not None]
    radii = sorted({r for row in rows for r in row.sdr} | set(own.sdr)) or []
    header = ["method", f"MRE {unit}", "SD", *(f"SDR {r:g}" for r in radii), "reference"]
    table = [header]
    for row in [*rows, own]:
        shares = [f"{row.sdr[r]:.2f}" if r in row.sdr else "-" for r in radii]
        table.append([row.method, _number(row.mre), _number(row.sd), *shares, row.reference])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
    lines.insert(1, "-" * max(map(len, lines)))
    if unit == "px" and rows:
        lines.append("published errors are in mm, these are in pixels: they do not compare")
    if not rows:
        lines.append("no published MRE is known here")
    lines += [f"{p.method}: {p.other} ({p.reference})" for p in dataset.published if p.other]
    lines += [f"protocol: {sentence}" for sentence in dataset.protocol]
    return "\n".join(lines)


def _value(estimate: Any) -> float | None:
    value = estimate["value"]
    if value is not None and not isinstance(value, (int, float)):
        raise TypeError(value)
    return None if value is None else float(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
