"""Whether claims hold: error radii claimed against measured coverage, and predicted presence."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.integrate import trapezoid

from autolmk.evaluation.bootstrap import Estimate, shares
from autolmk.evaluation.conformal import conformal_quantile
from autolmk.geometry import FloatArray
from autolmk.report.blocks import Block, Figure, Gallery, Section, TableBlock, Text, section
from autolmk.report.charts import Axis, Series, lines
from autolmk.report.results import Results
from autolmk.report.sources import FIND_BEST, Sources
from autolmk.report.wording import as_number, interval, level, number, sentence

LEVELS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def reliability(sources: Sources) -> Section:
    """Coverage of the error radii and ROC of presence, held-out and test."""
    blocks: list[Block] = [*_radii(sources), *_presence(sources)]
    return section("reliability", "Calibration: do the claims hold?", blocks)


def scores_of(results: Results) -> dict[str, FloatArray]:
    """The error over the error radius, by case, of present points that have both; nothing for cases without any."""
    found: dict[str, list[float]] = {}
    for point in results.evaluation.points:
        radius = results.radius(point.case, point.landmark)
        if point.error is not None and math.isfinite(radius) and radius > 0:
            found.setdefault(point.case, []).append(point.error / radius)
    return {case: np.array(values) for case, values in found.items()}


def coverage(scores: Mapping[str, FloatArray], factor: Mapping[str, float] | float = 1.0) -> Estimate:
    """Share of points within their radius times `factor` (one, or one a case), with its interval over cases."""
    factors = {case: factor if isinstance(factor, (int, float)) else factor[case] for case in scores}
    hits = np.array([[float((s <= factors[case]).sum())] for case, s in scores.items()])
    return shares(hits, np.array([[float(len(s))] for s in scores.values()]))[0]


def _radii(sources: Sources) -> list[Block]:
    known = {results.name: scores_of(results) for results in sources.results}
    known = {name: scores for name, scores in known.items() if scores}
    if not known:
        text = f"The predictions have no error radii: {FIND_BEST} fits them, where there are enough held-out cases."
        return [Text(text, missing=True)]
    said = (sources.information or {}).get("error_radius")
    claimed = as_number(said.get("level")) if isinstance(said, dict) else None
    rows = []
    for results in sources.results:
        if results.name in known:
            points = [(p.case, p.landmark) for p in results.evaluation.points if p.error is not None]
            radii = np.array([r for r in (results.radius(*p) for p in points) if math.isfinite(r)])
            row = [results.name, str(len(known[results.name])), str(len(radii)), level(claimed)]
            rows.append((*row, interval(coverage(known[results.name]), share=True), number(float(np.median(radii)))))
    head = ("", "cases", "points", "claimed", "measured", f"median radius ({sources.unit})")
    blocks: list[Block] = [TableBlock("Points within their error radius", head, "lrrrrr", tuple(rows))]
    if isinstance(said, dict) and said.get("why"):
        blocks.append(Text(sentence(str(said["why"]))))
    return [*blocks, *_curve(known)]


def _curve(known: Mapping[str, Mapping[str, FloatArray]]) -> list[Block]:
    """Measured against claimed coverage at several levels: radii rescaled for each level by split conformal prediction
    on the held-out cases, for a held-out case on the others."""
    held_out = known.get("held-out cases")
    if held_out is None:
        return []
    series = [Series("as claimed", ((50.0, 50.0), (100.0, 100.0)), 5, "line", 2)]
    for i, (name, scores) in enumerate(known.items()):
        points = []
        for share in LEVELS:
            factors = {
                case: conformal_quantile([s for other, s in held_out.items() if other != case], share)
                for case in scores
            }
            if all(map(math.isfinite, factors.values())):
                measured = coverage(scores, factors).value
                points.append((100 * share, 100 * (measured or 0.0)))
        series.append(Series(name, tuple(points), i, "both", i))
    text = (
        "Measured against claimed coverage. For each level the radii are rescaled by split conformal prediction, for a "
        "held-out case on the other held-out cases, for test cases on all held-out ones. Levels that the number of "
        "cases does not support are left out."
    )
    x, y = Axis("claimed coverage (%)", 50, 100), Axis("measured coverage (%)", 50, 100)
    return [Figure(text, lines(series, x, y, f"Line chart with dots. {text}"))]


def _presence(sources: Sources) -> list[Block]:
    figures, rows = [], []
    for results in sources.results:
        judged = [p for p in results.evaluation.points if p.likelihood is not None and math.isfinite(p.likelihood)]
        varying = {p.landmark for p in judged if p.status == "absent"}
        judged = [p for p in judged if p.landmark in varying]
        present = np.array([p.status == "present" for p in judged], dtype=bool)
        if not present.any() or present.all():
            continue
        said = np.array([p.predicted_status == "present" for p in judged], dtype=bool)
        likelihood = np.array([p.likelihood for p in judged], dtype=np.float64)
        curve, area = _roc(likelihood, present)
        numbers = [int(n) for n in ((present & said).sum(), present.sum(), (~present & ~said).sum(), (~present).sum())]
        found = (f"{numbers[0]} of {numbers[1]}", f"{numbers[2]} of {numbers[3]}", number(area))
        rows.append((results.name, ", ".join(sorted(varying)), *found))
        text = f"ROC of presence, {results.name}: area {number(area)}. The dot is where predictions are called present."
        at = (100 * float((~present & said).sum()) / numbers[3], 100 * numbers[0] / numbers[1])
        series = [
            Series("", ((0.0, 0.0), (100.0, 100.0)), 5, "line", 2),
            Series("", tuple(curve), 0),
            Series("", (at,), 1, "dots"),
        ]
        x, y = Axis("absent, but called present (%)", 0, 100), Axis("present and called so (%)", 0, 100)
        figures.append(Figure(text, lines(series, x, y, f"Receiver operating characteristic. {text}")))
    if not rows:
        return [Text("No landmark is annotated as absent in an evaluated case, so presence cannot be judged.")]
    head = ("", "landmarks that are absent in some case", "present, called so", "absent, called so", "AUC")
    return [TableBlock("Presence", head, "llrrr", tuple(rows)), Gallery(tuple(figures))]


def _roc(likelihood: FloatArray, present: npt.NDArray[np.bool_]) -> tuple[list[tuple[float, float]], float]:
    """Points in percent from (0, 0) to (100, 100), and the area under them; ties go together."""
    points = [(0.0, 0.0)]
    for threshold in np.unique(likelihood)[::-1]:
        called = likelihood >= threshold
        points.append((100 * float(called[~present].mean()), 100 * float(called[present].mean())))
    x, y = np.array(points).T / 100
    return points, float(trapezoid(y, x))
