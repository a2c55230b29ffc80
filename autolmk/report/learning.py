"""Learning curves of every fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autolmk.fold.log import duration, read_log
from autolmk.report.blocks import Block, Figure, Gallery, Section, Text, section
from autolmk.report.charts import Axis, Series, axis, lines
from autolmk.report.sources import Sources, TrainedModel
from autolmk.report.wording import as_number

POINTS = 200  # of a curve, at most


def learning(sources: Sources) -> Section:
    """A chart of the loss and one of the held-out error a stage of a model, a line a fold."""
    blocks: list[Block] = []
    for model in sources.models:
        chain = model.plans.chain(model.configuration)
        for stage in chain:
            logs = {fold: read_log(model.log_folder(fold, stage)) for fold in model.folds}
            logs = {fold: entries for fold, entries in logs.items() if entries}
            name = sources.names.of(model.name)
            title = name if len(chain) == 1 else f"{name}, stage {stage}"
            if logs:
                blocks.append(Gallery(tuple(_charts(title, model, logs))))
    if not blocks:
        blocks = [Text("No fold has a training log yet: autolmk_train writes it.", missing=True)]
    return section("learning", "Learning curves", blocks)


def _charts(title: str, model: TrainedModel, logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Figure]:
    losses = _curves(logs, "epoch", "loss")
    errors = _curves(logs, "validation", "mre")
    took = max((as_number(entries[-1].get("elapsed")) or 0.0 for entries in logs.values()), default=0.0)
    folds = f"{len(logs)} fold{'s' if len(logs) > 1 else ''}, {duration(took)} the longest"
    figures = []
    for curves, label, logarithmic, said in (
        (losses, "training loss", False, f"{title}: mean training loss of an epoch ({folds})."),
        (errors, f"held-out MRE ({model.plans.unit})", True, f"{title}: mean radial error of the held-out cases."),
    ):
        values = [y for one in curves for _, y in one.points]
        steps = [x for one in curves for x, _ in one.points]
        if values:
            logarithmic = logarithmic and min(values) > 0
            x = Axis("iteration", 0, max([*steps, 1]))
            y = axis(label, values, zero=not logarithmic and min(values) >= 0, logarithmic=logarithmic)
            figures.append(Figure(said, lines(curves, x, y, f"Line chart of the {label} by iteration. {said}")))
    return figures


def _curves(logs: Mapping[str, Sequence[Mapping[str, Any]]], kind: str, key: str) -> list[Series]:
    """A line a fold; long ones thinned out."""
    curves = []
    for i, (fold, entries) in enumerate(logs.items()):
        known = [(as_number(e.get("iteration")), as_number(e.get(key))) for e in entries if e.get("kind") == kind]
        points = [(x, y) for x, y in known if x is not None and y is not None]
        step = max(1, -(-len(points) // POINTS))
        kept = points[::step] + (points[-1:] if points and (len(points) - 1) % step else [])
        style = "both" if len(kept) == 1 else "line"
        curves.append(Series(f"fold {fold}", tuple(kept), i, style, i))  # type: ignore[arg-type]
    return curves
