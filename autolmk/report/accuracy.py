"""The accuracy of the predictions: headline figures, cumulative errors, errors by landmark."""

from __future__ import annotations

import numpy as np

from autolmk.evaluation import Scores
from autolmk.evaluation.bootstrap import MIN_CASES
from autolmk.report.blocks import Block, Figure, Fold, Gallery, Section, TableBlock, Text, section
from autolmk.report.charts import Axis, ChartRow, Series, axis, lines, whiskers
from autolmk.report.results import Results
from autolmk.report.sources import FIND_BEST, Sources
from autolmk.report.wording import LEAST_CASES, enough, interval, number, percent, whiskers_are

SHOWN = 0.99  # of the points, that the cumulative curve shows
STEPS = 150


def accuracy(sources: Sources) -> Section:
    """Held-out and test cases side by side."""
    blocks: list[Block] = []
    if sources.held_out is None:
        text = "No held-out predictions yet: autolmk_train writes those of its fold once it is done."
        blocks.append(Text(text, missing=True))
    elif sources.final is None:
        said = f"The held-out cases are those of {sources.names.of(sources.held_out_of)}, the trained model that errs "
        said += f"least on them; {FIND_BEST} would also combine and correct models."
        blocks.append(Text(said, missing=True))
    if sources.test is None:
        text = "No evaluated predictions of test cases: autolmk_predict and autolmk_evaluate make them."
        blocks.append(Text(text, missing=True))
    if sources.results:
        blocks += [*_headline(sources), _note(sources), Gallery((_cumulative(sources), _by_landmark(sources)))]
        blocks += [Fold(f"Errors by landmark, {r.name}", (_table(r, sources.unit),)) for r in sources.results]
    return section("accuracy", "Accuracy", blocks)


def _headline(sources: Sources) -> list[Block]:
    unit, rows = sources.unit, []
    for results in sources.results:
        scores = results.evaluation.overall
        n_cases = results.evaluation.n_cases
        row = [results.name, str(n_cases), str(scores.n)]
        row += [interval(enough(e, n_cases)) for e in (scores.mre, scores.median)]
        rows.append((*row, f"{scores.swaps} of {scores.n_swappable}", str(scores.missing)))
    head = ("", "cases", "points", f"MRE ({unit})", f"median ({unit})", "swapped", "no place")
    radii = list(dict.fromkeys(r for results in sources.results for r in results.evaluation.overall.sdr))
    rates = [
        (f"{r} {unit}", *(interval(x.evaluation.overall.sdr.get(r), share=True) for x in sources.results))
        for r in radii
    ]
    names = ("within", *(results.name for results in sources.results))
    return [
        TableBlock("Radial errors of all landmarks", head, "lrrrrrr", tuple(rows)),
        TableBlock("Successful detection rate (SDR)", names, "l" + "r" * len(sources.results), tuple(rates)),
    ]


def _note(sources: Sources) -> Text:
    return Text(
        f"In brackets, 95 % intervals over cases: of means and medians from {LEAST_CASES} cases on, because with fewer "
        "an interval is easily wider than the value is large, and of shares, which are exact, from "
        f"{MIN_CASES} on. SDR: share of points at most that "
        "far from their annotation. Every point that is annotated as present counts at its best candidate, even where "
        "it was predicted absent; a point without any place counts as far away as its image is large. Swapped: nearer "
        "to the mirror partner's place than to its own."
    )


def _cumulative(sources: Sources) -> Figure:
    pooled = np.concatenate([results.errors() for results in sources.results])
    end = float(np.quantile(pooled, SHOWN)) * 1.1 if len(pooled) else 1.0
    steps = np.linspace(0, max(end, 1e-6), STEPS)
    series, beyond = [], []
    for i, results in enumerate(sources.results):
        errors = np.sort(results.errors())
        share = 100 * np.searchsorted(errors, steps, side="right") / max(len(errors), 1)
        series.append(Series(results.name, tuple(zip(steps.tolist(), share.tolist(), strict=True)), i, "line", i))
        beyond.append(f"{int((errors > steps[-1]).sum())} of {len(errors)} ({results.name})")
    x, y = Axis(f"radial error ({sources.unit})", 0, float(steps[-1])), Axis("points at most that far (%)", 0, 100)
    said = f"Cumulative errors. Further away than shown: {', '.join(beyond)}."
    return Figure(said, lines(series, x, y, f"Cumulative distribution of radial errors. {said}"))


def _by_landmark(sources: Sources) -> Figure:
    """In the order of the landmarks, worst first where there are held-out results."""
    tables = [results.evaluation.landmarks for results in sources.results]
    names = sorted(tables[0], key=lambda name: -(tables[0][name].mre.value or 0.0))
    rows = [
        ChartRow(name, tuple(enough(t[name].mre, t[name].n) if name in t else None for t in tables)) for name in names
    ]
    shown = [v for row in rows for e in row.values if e for v in (e.value, e.high) if v is not None]
    whisker = whiskers_are(e for row in rows for e in row.values)
    x = axis(f"mean radial error ({sources.unit})", shown)
    said = f"Mean radial error of each landmark{whisker}, largest first."
    return Figure(said, whiskers(rows, [r.name for r in sources.results], x, f"Dots with whiskers. {said}"))


def _table(results: Results, unit: str) -> TableBlock:
    rows = [_row(name, scores) for name, scores in results.evaluation.landmarks.items()]
    rows.append(_row("overall", results.evaluation.overall, results.evaluation.n_cases))
    radii = list(results.evaluation.overall.sdr)[:3]
    head = (
        "landmark",
        "points",
        f"MRE ({unit})",
        f"SD ({unit})",
        f"median ({unit})",
        *(f"SDR {r} {unit}" for r in radii),
    )
    head = (*head, "missed", "swapped")
    return TableBlock(
        f"In the order of dataset.json, {results.evaluation.n_cases} cases",
        head,
        "l" + "r" * (len(head) - 1),
        tuple(rows),
        frozenset([len(rows) - 1]),
    )


def _row(name: str, scores: Scores, n_cases: int = 0) -> tuple[str, ...]:
    """n_cases: of all landmarks together. A single landmark has one point a case, which tells its median too badly for
    an interval to say anything."""
    median = interval(enough(scores.median, n_cases)) if n_cases else number(scores.median.value)
    row = [name, str(scores.n), interval(enough(scores.mre, n_cases or scores.n)), number(scores.sd), median]
    row += [percent(e.value) for e in list(scores.sdr.values())[:3]]
    swaps = f"{scores.swaps} of {scores.n_swappable}" if scores.n_swappable else "–"
    return (*row, str(scores.presence.missed), swaps)
