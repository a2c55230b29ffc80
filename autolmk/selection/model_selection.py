"""Model selection: from the held-out predictions of all trained models to the final predictor.

1. Each model alone, and ensembles of two and three of the best ones, are judged on the cases that their folds held out;
   how an ensemble combines its members is fitted on the other folds' cases.
2. The simplest candidate that loses at most 2 % against the best one is taken (`evaluation.comparison`).
3. Postprocessing steps and the error radius are chosen for it, and the whole pipeline is judged with these choices
   made on the other folds' cases only. Which candidate it is was chosen on all held-out cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autolmk.dataset import Measurement
from autolmk.evaluation import penalties, point_errors, swapped_points
from autolmk.evaluation.comparison import Candidate, Comparison, compare, simplest
from autolmk.evaluation.measurements import MeasurementCalibration, fit_factors, measure, propagated
from autolmk.fold.held_out import CrossValidation, common_cases
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks
from autolmk.plans import Plans
from autolmk.postprocessing import Context, Judgement, Postprocessing, choose_steps
from autolmk.progress_bars import tracked
from autolmk.selection.ensembling import Combination, choose_combination
from autolmk.selection.error_radius import ErrorRadius, fit_error_radius
from autolmk.selection.recipe import Conclusion, concluded, error_statistics

MOST_MEMBERS = 3
NO_POINT = "no held-out case has an annotated point"
BEST_MODELS = 5  # of which ensembles are made: 25 of them at most


@dataclass(frozen=True)
class Size:
    """The size of a model: its stages and its weights, of one fold."""

    n_stages: int
    n_parameters: int


@dataclass(frozen=True, eq=False)
class Choice:
    """The choice of the final predictor. candidates: all that were compared, by name. chosen: name of the one that was
    taken, and why. combination, postprocessing, error_radius: of the recipe. conclusions: held-out case -> what the
    whole pipeline comes to, steps and radius chosen on the other folds' cases. evidence: JSON-ready, of combination,
    postprocessing and error radius.
    """

    candidates: dict[str, Comparison]
    chosen: str
    why: str
    members: tuple[str, ...]
    combination: Combination
    postprocessing: Postprocessing
    error_radius: ErrorRadius | None
    conclusions: dict[str, Conclusion]
    evidence: dict[str, Any]


def case_errors(held_out: CrossValidation) -> tuple[FloatArray, ...]:
    """The errors (n_i,) mm of all annotated points of each case, in order of `cases`; the rule is
    `evaluation.point_errors`.
    """
    penalty = penalties(held_out.truth, held_out.diagonals())
    each = (
        point_errors(held_out.truth[case], held_out.detections[case].best, penalty[case])[0] for case in held_out.cases
    )
    return tuple(errors[np.isfinite(errors)] for errors in each)


def count_swaps(held_out: CrossValidation, pairs: Sequence[tuple[str, str]]) -> int:
    """Points nearer to their partner's true place than to their own, as `evaluation` counts them."""
    found, truth = held_out.detections, held_out.truth
    each = (swapped_points(truth[case], found[case].best, pairs)[0] for case in held_out.cases)
    return int(sum(swapped.sum() for swapped in each))


def choose(
    models: Mapping[str, CrossValidation],
    sizes: Mapping[str, Size],
    plans: Plans,
    *,
    most_members: int = MOST_MEMBERS,
    level: float = 0.9,
    seed: int = 0,
    progress: bool = False,
) -> Choice:
    """The final predictor, of models by name. plans: of any of them, for landmarks, groups and pairs. level: of the
    error radius. AutolmkError where the models were not trained on the same splits."""
    cases = common_cases(models)
    held_out = {name: model.restricted(cases) for name, model in models.items()}
    combined: dict[str, CrossValidation] = dict(held_out)
    members: dict[str, tuple[str, ...]] = {name: (name,) for name in models}
    first = next(iter(held_out.values()))
    sets = _ensembles(held_out, most_members) if len(first.folds) > 1 else []
    for names in tracked(sets, "comparing ensembles", unit="ensemble", shown=progress):
        _, ensemble, _ = choose_combination({n: held_out[n] for n in names}, seed=seed)
        members[ensemble.name], combined[ensemble.name] = names, ensemble
    candidates = {
        name: Candidate(
            members[name],
            sum(sizes[n].n_stages for n in members[name]),
            sum(sizes[n].n_parameters for n in members[name]),
            case_errors(model),
            count_swaps(model, plans.pairs),
        )
        for name, model in combined.items()
    }
    compared = compare(candidates, seed=seed)
    chosen, why = simplest(candidates, compared)
    combination, _, evidence = choose_combination({n: held_out[n] for n in members[chosen]}, seed=seed)
    choice = Choice(
        compared, chosen, why, members[chosen], combination, Postprocessing(), None, {}, {"combination": evidence}
    )
    return _finished(choice, combined[chosen], plans, level=level, seed=seed, progress=progress)


def _ensembles(models: Mapping[str, CrossValidation], most_members: int) -> list[tuple[str, ...]]:
    """Sets of two and more of the best models, by their own held-out errors."""
    totals = {name: float(np.concatenate(case_errors(model)).sum()) for name, model in models.items()}
    best = sorted(models, key=totals.__getitem__)[:BEST_MODELS]
    sizes = range(2, most_members + 1)
    return [names for n in sizes for names in itertools.combinations(sorted(best, key=list(models).index), n)]


def _finished(
    choice: Choice, found: CrossValidation, plans: Plans, *, level: float, seed: int, progress: bool
) -> Choice:
    """The choice with what follows the chosen candidate, all of it judged on cases that no choice has seen."""
    steps, nested, judged, reasons = choose_steps(found, Context.of(plans), seed=seed, progress=progress)
    table = _ErrorTable.of(nested, judged)
    radius = table.fit(found.cases, level, seed)
    conclusions: dict[str, Conclusion] = {}
    for cases in _groups(found):
        conclusions |= table.conclude(cases, level=level, sometimes_absent=plans.sometimes_absent, seed=seed)
    evidence = {
        **choice.evidence,
        "postprocessing": reasons,
        "error_radius": {
            "level": level,
            "n_cases": 0 if radius is None else radius.n_cases,
            "why": NO_POINT if radius is None else radius.why,
            **_coverage(conclusions, found),
        },
    }
    return replace(choice, postprocessing=steps, error_radius=radius, conclusions=conclusions, evidence=evidence)


def _groups(found: CrossValidation) -> list[tuple[str, ...]]:
    """Of cases, for each of which choices are made on the others: the folds; of a single fold a fifth of it each."""
    if len(found.folds) > 1:
        return [found.held_out_by(fold) for fold in found.folds]
    return [found.cases[i::5] for i in range(min(5, len(found.cases)))]


@dataclass(frozen=True, eq=False)
class _ErrorTable:
    """Held-out cases after all steps, what is said of them, statistics (name -> (N, L)) and errors (N, L) mm, NaN where
    not annotated as present; rows in order of their cases."""

    held_out: CrossValidation
    judged: dict[str, Judgement]
    statistics: dict[str, FloatArray]
    errors: FloatArray

    @classmethod
    def of(cls, held_out: CrossValidation, judged: dict[str, Judgement]) -> _ErrorTable:
        cases, found = held_out.cases, held_out.detections
        penalty = penalties(held_out.truth, held_out.diagonals())
        each = [error_statistics(found[case], judged[case]) for case in cases]
        errors = [point_errors(held_out.truth[c], found[c].best, penalty[c])[0] for c in cases]
        statistics = {key: np.stack([one[key] for one in each]) for key in each[0]}
        return cls(held_out, judged, statistics, np.stack(errors))

    def fit(self, cases: Sequence[str], level: float, seed: int) -> ErrorRadius | None:
        """Fit the radius on these cases; None where they have no annotated point."""
        rows = np.isin(self.held_out.cases, cases)
        if not np.isfinite(self.errors[rows]).any():
            return None
        statistics = {key: value[rows] for key, value in self.statistics.items()}
        names = self.held_out.detections[self.held_out.cases[0]].names
        return fit_error_radius(statistics, self.errors[rows], names=names, level=level, seed=seed)

    def conclude(
        self, cases: Sequence[str], *, level: float, sometimes_absent: Sequence[str], seed: int
    ) -> dict[str, Conclusion]:
        """Conclude these cases with radii of all others."""
        radius = self.fit([case for case in self.held_out.cases if case not in set(cases)], level, seed)
        found = self.held_out.detections
        return {case: concluded(found[case], self.judged[case], radius, sometimes_absent) for case in cases}


def _coverage(conclusions: Mapping[str, Conclusion], held_out: CrossValidation) -> dict[str, float | None]:
    """Share of the annotated points within their radius, each case counting alike, and the median radius."""
    shares, radii = [], []
    penalty = penalties(held_out.truth, held_out.diagonals())
    for case, conclusion in conclusions.items():
        errors, _ = point_errors(held_out.truth[case], conclusion.detections.best, penalty[case])
        radius = conclusion.landmarks.error_radius
        known = np.isfinite(errors) & np.isfinite(radius)
        radii.append(radius[np.isfinite(radius)])
        if known.any():
            shares.append(float((errors[known] <= radius[known]).mean()))
    every = np.concatenate(radii)
    return {
        "coverage": float(np.mean(shares)) if shares else None,
        "median_radius": float(np.median(every)) if len(every) else None,
    }


def calibrate_measurements(
    conclusions: Mapping[str, Conclusion],
    truth: Mapping[str, Landmarks],
    measurements: Mapping[str, Measurement],
    level: float,
) -> MeasurementCalibration | None:
    """Calibrate declared measurements on held-out cases; None without any."""
    if not measurements:
        return None
    names = next(iter(conclusions.values())).landmarks.names
    rows = []
    for case, conclusion in conclusions.items():
        found = conclusion.landmarks
        widths = propagated(found.points, found.error_radius, names, measurements, level=level)
        rows.append([measure(marks.points, names, measurements) for marks in (truth[case], found)] + [widths])
    true, values, widths = (np.array(part) for part in zip(*rows, strict=True))
    return fit_factors(true, values, widths, list(measurements), level=level)
