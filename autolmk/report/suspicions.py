"""Suspected annotation errors, with evidence and pictures."""

from __future__ import annotations

import logging

import numpy as np

from autolmk.errors import AutolmkError
from autolmk.evaluation.agreement import called_present
from autolmk.fold.held_out import CrossValidation
from autolmk.report.annotation_doubts import FOLDER, LEARNT, Doubt, doubts
from autolmk.report.blocks import Block, Gallery, Section, TableBlock, Text, section
from autolmk.report.cases import Shown, pictures
from autolmk.report.sources import Sources
from autolmk.report.wording import NOTHING, level, number, percent

PICTURED = 12
RULE = (
    "Listed are annotations that lie unusually far from where models that never saw the case put the landmark. The "
    "limit is such that one dataset in twenty would have a point listed if all annotations were right. The models must "
    "also agree at least three times better with each other than with the annotation. Where all models err alike it "
    "looks the same: look before you correct."
)
logger = logging.getLogger(__name__)


def find_doubts(sources: Sources) -> tuple[Doubt, ...] | str:
    """Find doubted annotations, or say why there cannot be any."""
    if not sources.crossvals:
        return "No held-out detections yet: autolmk_train writes those of its fold once it is done."
    held_out, p = sources.held_out, 3
    for crossval in sources.crossvals.values():
        p = next(iter(crossval.detections.values())).geometry.physical_ndim
    final = None
    if sources.final is not None and held_out is not None:
        final = {case: called_present(found, p) for case, found in held_out.predicted.items()}
    judges = able(sources)
    if not judges:
        return _unable(sources)
    try:
        return doubts(judges, final)
    except AutolmkError as error:
        return f"Annotations cannot be judged: {error.problem}, {error.found or error.expected}."


def able(sources: Sources) -> dict[str, CrossValidation]:
    """Models whose held-out errors are small enough to tell a wrong annotation from their own error."""
    return {name: crossval for name, crossval in sources.crossvals.items() if sources.skills[name].enough}


def _unable(sources: Sources) -> str:
    said = [f"{sources.names.of(name)} {number(s.error)} and {number(s.guess)}" for name, s in sources.skills.items()]
    return (
        "Annotations are not judged, because no model is good enough for it yet: its median held-out error must be at "
        f"most {level(LEARNT)} of that of a guess, which answers with each landmark's mean position and sees no image. "
        f"Error and that of the guess, in {sources.unit}: {'; '.join(said)}."
    )


def suspicions(sources: Sources, found: tuple[Doubt, ...] | str, *, progress: bool) -> Section:
    """A table, the rule behind it, and pictures of the most doubtful."""
    title = "Suspected annotation errors"
    if isinstance(found, str):
        return section("suspected", title, [Text(found, missing=True)])
    judges = [sources.names.of(name) for name in able(sources)]
    judged = f"{len(judges)} models, on the cases that all of them held out" if len(judges) > 1 else judges[0]
    judged += _left_out(sources)
    if not found:
        return section("suspected", title, [Text(f"None is suspected, by {judged}."), Text(RULE)])
    text = f"{len(found)} suspected, by {judged}. The folder {FOLDER} beside this report holds them for 3D Slicer."
    blocks: list[Block] = [Text(text), Text(RULE), _table(found, sources.unit)]
    if sources.raw is None:
        blocks.append(Text("Pictures need the images: the raw dataset is not where --raw says.", missing=True))
    else:
        shown = [_shown(doubt, sources.unit) for doubt in found[:PICTURED]]
        drawn = pictures(sources.raw, "Tr", shown, "suspected", unit=sources.unit, progress=progress)
        blocks.append(Gallery(tuple(drawn)))
    return section("suspected", title, blocks)


def _left_out(sources: Sources) -> str:
    """Models that may not judge."""
    names = [sources.names.of(name) for name, one in sources.skills.items() if not one.enough]
    return f" ({', '.join(names)} may not judge: too large errors)" if names else ""


def _table(found: tuple[Doubt, ...], unit: str) -> TableBlock:
    rows = []
    for doubt in found:
        row = [doubt.case, doubt.landmark, number(doubt.distance), f"{doubt.times:.1f} ×", number(doubt.disagreement)]
        row += [number(doubt.error_radius), percent(doubt.likelihood)]
        rows.append((*row, doubt.nearest or NOTHING))
    head = ["case", "landmark", f"distance ({unit})", "of the usual", f"models' spread ({unit})"]
    head += [f"error radius ({unit})", "likelihood", "lies where models see"]
    return TableBlock("Annotations that models doubt, most doubtful first", tuple(head), "llrrrrrl", tuple(rows))


def _shown(doubt: Doubt, unit: str) -> Shown:
    said = f"annotated {number(doubt.distance)} {unit} from where the models see it"
    if doubt.nearest:
        said += f", where they see {doubt.nearest}"
    caption = f"{doubt.landmark} in {doubt.case}: {said}"
    return Shown(doubt.case, doubt.landmark, np.array(doubt.annotated), np.array(doubt.suggested), caption)
