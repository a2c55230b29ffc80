"""The choice of postprocessing steps, made on held-out cases, and the effect of the pipeline, judged on others.

A step's parameters are fitted on the cases of all folds but one and tried on that one, in turn; it is kept if that
helps beyond chance. What a pipeline so chosen is worth is judged once more outside: for every fold, steps and
parameters are chosen on the cases of the other folds alone (nested cross-validation), and the returned predictions are
those. Cases of one fold alone are divided at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autolmk.detections import Detections
from autolmk.files.serialization import to_json
from autolmk.fold.held_out import CrossValidation
from autolmk.postprocessing import presence, shape_prior
from autolmk.postprocessing.context import Context, PostprocessingStep
from autolmk.postprocessing.evidence import held_out, localisation, verdict
from autolmk.postprocessing.evidence import presence as presence_evidence
from autolmk.postprocessing.flags import FlagLimits, Judgement, judge, measure_limits
from autolmk.postprocessing.pipeline import STEPS, Decision, Postprocessing
from autolmk.progress_bars import ProgressBar
from autolmk.shapes.point_distribution import ShapeModel, fit_shape_model

PARTS = 4  # at most, that the cases of one fold are divided into


def choose_steps(
    crossval: CrossValidation,
    context: Context,
    *,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Postprocessing, CrossValidation, dict[str, Judgement], list[dict[str, Any]]]:
    """Choose the steps; return (pipeline fitted on all held-out cases; predictions of the held-out cases by pipelines
    chosen without their fold; what shapes of the other folds' cases say of these; evidence: a JSON-ready dict a step).

    seed: of the division of cases where one fold is left. With fewer than two cases nothing is kept.
    """
    shapes = _Shapes(crossval)
    parts = _parts(crossval, crossval.cases, seed)
    after: dict[str, Detections] = {}
    model_of: dict[str, ShapeModel | None] = {}
    with ProgressBar(len(parts) + 1, "postprocessing", unit="choice", shown=progress) as bar:
        for part in parts if len(parts) > 1 else []:
            others = [case for case in crossval.cases if case not in part]
            _, steps = _decided(shapes, others, context, seed)
            for case in part:
                after[case], model_of[case] = _applied(crossval.detections[case], steps), shapes.of(others)
            bar.update()
        decisions, _ = _decided(shapes, crossval.cases, context, seed)
        bar.update()
    nested = replace(crossval, detections={**crossval.detections, **after})
    limits = FlagLimits()
    if after:
        noise = shape_prior.noise_of([(found.as_found(), truth) for found, truth in held_out(nested, nested.cases)])
        limits = measure_limits(nested.detections, nested.truth, model_of, noise, context.sometimes_absent)
    why = shape_prior.no_shape(held_out(crossval, crossval.cases))
    result = Postprocessing(tuple(decisions), shapes.of(crossval.cases), why or "", limits, context.sometimes_absent)
    judged = {
        case: judge(found, model_of.get(case), limits, context.sometimes_absent)
        for case, found in nested.detections.items()
    }
    return result, nested, judged, [decision.to_dict() for decision in decisions]


class _Shapes:
    """Shape models of sets of cases, each fitted once."""

    def __init__(self, crossval: CrossValidation) -> None:
        self.crossval = crossval
        self._models: dict[frozenset[str], ShapeModel | None] = {}

    def of(self, cases: Sequence[str]) -> ShapeModel | None:
        """None where they tell none."""
        key = frozenset(cases)
        if key not in self._models:
            shown = held_out(self.crossval, sorted(key))
            known = shape_prior.no_shape(shown) is None
            self._models[key] = fit_shape_model([truth for _, truth in shown]) if known else None
        return self._models[key]


def _parts(crossval: CrossValidation, cases: Sequence[str], seed: int) -> list[list[str]]:
    """The cases by fold; those of a single fold at random in up to four parts."""
    folds = sorted({crossval.fold_of[case] for case in cases})
    if len(folds) > 1:
        return [[case for case in cases if crossval.fold_of[case] == fold] for fold in folds]
    order = np.random.default_rng(seed).permutation(sorted(cases)).tolist()
    return [sorted(order[i::PARTS]) for i in range(min(PARTS, len(order)))]


def _decided(
    shapes: _Shapes, cases: Sequence[str], context: Context, seed: int
) -> tuple[list[Decision], list[PostprocessingStep]]:
    """The decision on each step, in order, each after those kept before it, and the kept ones fitted on all cases."""
    crossval = shapes.crossval
    parts = _parts(crossval, cases, seed)
    current = {case: crossval.detections[case] for case in cases}  # fitted on the other parts
    fitted = dict(current)  # fitted on all cases
    decisions, steps = [], []
    for name in STEPS:
        decision, after = _tried(name, shapes, current, parts, context)
        if decision.kept:
            step = _fitted(name, shapes, fitted, cases, context)
            assert not isinstance(step, str), step  # it could be fitted on fewer of the same cases
            current = after
            fitted = {case: step.apply(found) for case, found in fitted.items()}
            steps.append(step)
            decision = replace(decision, parameters=dict(to_json(step)))
        decisions.append(decision)
    return decisions, steps


def _tried(
    name: str,
    shapes: _Shapes,
    current: Mapping[str, Detections],
    parts: Sequence[Sequence[str]],
    context: Context,
) -> tuple[Decision, dict[str, Detections]]:
    """A step fitted on all parts but one, and tried on that one, in turn."""
    if len(parts) < 2:
        return Decision(name, False, "there are too few held-out cases to try it on"), dict(current)
    after: dict[str, Detections] = {}
    for part in parts:
        others = [case for other in parts if other is not part for case in other]
        step = _fitted(name, shapes, current, others, context)
        if isinstance(step, str):
            return Decision(name, False, step), dict(current)
        after |= {case: step.apply(current[case]) for case in part}
    order = sorted(after)
    truth = [shapes.crossval.truth[case] for case in order]
    sides = [current[case] for case in order], [after[case] for case in order]
    if name == presence.PresenceStep.name:
        evidence = presence_evidence(*sides, truth, context.sometimes_absent)
    else:
        evidence = localisation(*sides, truth)
    kept, why = verdict(evidence, context.unit)
    return Decision(name, kept, why, evidence), after


def _fitted(
    name: str,
    shapes: _Shapes,
    current: Mapping[str, Detections],
    cases: Sequence[str],
    context: Context,
) -> PostprocessingStep | str:
    """The step, fitted on what `current` says of these cases, or why it cannot be."""
    known = {"model": shapes.of(cases)} if name == shape_prior.ShapePriorStep.name else {}
    step: PostprocessingStep | str = STEPS[name][1](
        [(current[case], shapes.crossval.truth[case]) for case in cases], context, **known
    )
    return step


def _applied(found: Detections, steps: Sequence[PostprocessingStep]) -> Detections:
    for step in steps:
        found = step.apply(found)
    return found
