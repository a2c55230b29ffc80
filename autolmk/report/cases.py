"""The worst points with pictures, and the cases they are in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autolmk.dataset import Dataset
from autolmk.dataset.raw import Case
from autolmk.evaluation import Point
from autolmk.geometry import FloatArray
from autolmk.progress_bars import tracked
from autolmk.report.blocks import Block, Figure, Fold, Gallery, Section, TableBlock, Text, section
from autolmk.report.pictures import picture
from autolmk.report.results import Results
from autolmk.report.sources import Sources
from autolmk.report.wording import number, percent

WORST, CASES = 12, 8  # points with a picture, cases in the table; of held-out and of test cases each
MARKS = "Ring: annotation. Cross: prediction."
SLICES = (
    "Slices through the annotation; superior and anterior are up, the patient's left is on the right. The letters at "
    "the edges name the patient's sides: R and L right and left, A and P front and back, I and S below and above."
)


@dataclass(frozen=True, eq=False)
class Shown:
    """A point to be pictured. annotated, predicted: (P,), NaN where there is none."""

    case: str
    landmark: str
    annotated: FloatArray
    predicted: FloatArray
    caption: str


def worst(sources: Sources, *, progress: bool) -> Section:
    """The worst of the held-out and of the test cases."""
    blocks: list[Block] = [_worst_of(sources, results, progress) for results in sources.results]
    if not blocks:
        text = (
            "No evaluated predictions yet: autolmk_train predicts held-out cases, autolmk_evaluate judges test cases."
        )
        return section("worst", "Worst cases", [Text(text, missing=True)])
    return section("worst", "Worst cases", [Text(legend(sources)), *blocks])


def legend(sources: Sources) -> str:
    """The meaning of the marks on the pictures."""
    return MARKS if sources.fingerprint is not None and sources.fingerprint.ndim == 2 else f"{MARKS} {SLICES}"


def _worst_of(sources: Sources, results: Results, progress: bool) -> Fold:
    ranked = sorted((p for p in results.evaluation.points if p.error is not None), key=lambda p: -(p.error or 0.0))
    blocks: list[Block] = [_cases(results, sources.unit)]
    if sources.raw is None:
        text = "Pictures need the images: the raw dataset is not where --raw says."
        blocks.append(Text(text, missing=True))
    else:
        shown = [s for s in (_shown(sources, results, p) for p in ranked[:WORST]) if s is not None]
        drawn = pictures(sources.raw, results.split, shown, results.name, unit=sources.unit, progress=progress)
        blocks.append(Gallery(tuple(drawn)))
    return Fold(f"{results.name[:1].upper()}{results.name[1:]}", tuple(blocks))


def _cases(results: Results, unit: str) -> TableBlock:
    errors: dict[str, list[Point]] = {}
    for point in results.evaluation.points:
        if point.error is not None:
            errors.setdefault(point.case, []).append(point)
    order = sorted(errors, key=lambda case: -float(np.mean([p.error or 0.0 for p in errors[case]])))
    rows = []
    for case in order[:CASES]:
        values = [p.error or 0.0 for p in errors[case]]
        furthest = max(errors[case], key=lambda p: p.error or 0.0)
        row = [case, str(len(values)), number(float(np.mean(values))), number(float(np.median(values)))]
        rows.append((*row, f"{furthest.landmark}, {number(furthest.error)}"))
    head = ("case", "points", f"MRE ({unit})", f"median ({unit})", f"furthest point ({unit})")
    return TableBlock(f"Cases with the largest errors, {results.name}", head, "lrrrl", tuple(rows))


def _shown(sources: Sources, results: Results, point: Point) -> Shown | None:
    truth = sources.truth_of(results).get(point.case)
    if truth is None or point.landmark not in truth.names:
        return None
    annotated = truth.points[truth.names.index(point.landmark)]
    found, place = results.predicted.get(point.case), np.full(len(annotated), np.nan)
    if found is not None and point.landmark in found.names:
        place = found.points[found.names.index(point.landmark), : len(annotated)]
    radius = results.radius(point.case, point.landmark)
    parts = ["no place found" if point.missing else f"{number(point.error)} {sources.unit} off"]
    parts += [f"error radius {number(radius)} {sources.unit}"] if math.isfinite(radius) else []
    parts += ["left/right swapped"] if point.swapped else []
    if point.predicted_status != "present":
        parts.append(f"called {point.predicted_status}, likelihood {percent(point.likelihood)}")
    return Shown(point.case, point.landmark, annotated, place, f"{point.landmark} in {point.case}: {', '.join(parts)}")


def pictures(
    dataset: Dataset, split: Literal["Tr", "Ts"], shown: Sequence[Shown], what: str, *, unit: str, progress: bool
) -> list[Figure]:
    """A figure a point, in the given order; each image is read once. unit: of the scale bars, mm or px. AutolmkError
    where an image cannot be read."""
    cases: dict[str, Case] = {case.identifier: case for case in dataset.cases(split)}
    wanted = list(dict.fromkeys(s.case for s in shown if s.case in cases))
    drawn: dict[int, Figure] = {}
    for name in tracked(wanted, f"pictures, {what}", shown=progress):
        image = dataset.read_image(cases[name]).canonical()
        for i, one in enumerate(shown):
            if one.case == name:
                svg = picture(image, one.annotated, one.predicted, f"Image around {one.caption}.", unit=unit)
                drawn[i] = Figure(f"{one.caption}.", svg, wide=image.geometry.ndim == 3)
    return [drawn[i] for i in sorted(drawn)]
