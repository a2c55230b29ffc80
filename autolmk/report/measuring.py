"""Agreement of predicted with annotated measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping

from autolmk.evaluation.agreement import Agreement, Pair, agreements, pairs_of
from autolmk.report.blocks import Block, Figure, Gallery, Section, TableBlock, Text, section
from autolmk.report.charts import Axis, Series, axis, lines
from autolmk.report.sources import Sources
from autolmk.report.wording import NOTHING, interval, number


def measuring(sources: Sources) -> Section | None:
    """Tables and plots after Bland and Altman; None where dataset.json declares no measurement."""
    if not sources.measurements:
        return None
    blocks: list[Block] = []
    for results in sources.results:
        truth = sources.truth_of(results)
        pairs = pairs_of(truth, results.predicted, results.folder, sources.measurements, unit=sources.unit)
        found = agreements(pairs)
        if any(a.n for a in found.values()):
            blocks.append(_table(found, results.name))
            blocks.append(Gallery(tuple(_plot(n, a, pairs, results.name) for n, a in found.items() if a.n > 1)))
    if not blocks:
        text = "dataset.json declares measurements, but no evaluated case has both their true and predicted values."
        blocks.append(Text(text, missing=True))
    else:
        text = (
            "Predicted minus annotated. Limits of agreement: bias ∓ 1.96 standard deviations, which hold 95 % of "
            "normal differences (Bland and Altman 1986). Within radius: share of true values within predicted value "
            "± radius. In brackets, 95 % intervals over cases."
        )
        blocks.insert(0, Text(text))
    return section("measurements", "Measurements", blocks)


def _table(found: Mapping[str, Agreement], name: str) -> TableBlock:
    rows = []
    for key, a in found.items():
        n = f"{a.n} ({a.missing} missing)" if a.missing else str(a.n)
        row = [key, n, a.unit or "ratio", interval(a.bias), number(a.sd), interval(a.lower), interval(a.upper)]
        rows.append((*row, interval(a.coverage, share=True), number(a.median_radius)))
    head = (
        "measurement",
        "cases",
        "unit",
        "bias",
        "SD",
        "lower limit",
        "upper limit",
        "within radius",
        "median radius",
    )
    return TableBlock(f"Agreement on the {name}", head, "lrlrrrrrr", tuple(rows))


def _plot(name: str, found: Agreement, pairs: tuple[Pair, ...], where: str) -> Figure:
    points = [
        ((p.truth + p.predicted) / 2, p.error)
        for p in pairs
        if p.measurement == name and p.truth is not None and p.predicted is not None and p.error is not None
    ]
    unit = f" ({found.unit or 'ratio'})"
    x = axis(f"mean of both{unit}", [a for a, _ in points], zero=False)
    rules = [(found.lower.value, 2), (found.bias.value, 0), (found.upper.value, 2)]
    known = [(value, dash) for value, dash in rules if value is not None and math.isfinite(value)]
    y = axis(f"predicted − annotated{unit}", [*(b for _, b in points), *(v for v, _ in known)])
    series = [Series("", ((x.low, v), (x.high, v)), 1, "line", dash) for v, dash in known]
    series.append(Series("", tuple(points), 0, "dots"))
    said = f"{name}, {where}: bias {number(found.bias.value)}, limits {number(found.lower.value)} to "
    said += f"{number(found.upper.value)}{f' {found.unit}' if found.unit else ''}." if found.sd is not None else NOTHING
    return Figure(said, lines(series, Axis(x.label, x.low, x.high), y, f"Bland-Altman plot. {said}"))
