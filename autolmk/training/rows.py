"""Rows of look-alikes, as a fold's held-out cases tell them: which landmarks are in them, how far log-odds tell them
apart, and how often the row that is chosen is right.

Members are found by `row_groups` on held-out cases, how they lie is measured by `row_statistics` on training cases.
Rows are chosen as a whole only where that mends at least twice as many gross errors on the held-out cases as it makes,
more than chance would (a sign test over the points that change), and where the mean error of all points is smaller.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used: scipy.stats takes 0.7 s

from autolmk.data.store import Store
from autolmk.detections import Detections
from autolmk.fold.measured import Measured
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks, Status
from autolmk.plans import Plans
from autolmk.prediction.row_choice import pose
from autolmk.prediction.row_search import Choice, Problem, search
from autolmk.prediction.stage import Assigned, Stage
from autolmk.shapes.row import Row, Rows
from autolmk.training.drawing import finished_folds
from autolmk.training.row_groups import groups_of
from autolmk.training.row_statistics import TrainingRows, measure_row
from autolmk.training.validation import CaseResult, Validation

Bools = npt.NDArray[np.bool_]

TEMPERATURES = tuple(float(t) for t in np.geomspace(0.5, 16.0, 11))
PRIOR = (math.log(1.5), 1.0)  # mean and standard deviation of a temperature's logarithm
FITTED_ON, FEWEST_FITTED, MOST_FITTED = 600, 6, 24  # members, and cases, at least and at most, spread evenly
LEVELS = (0.02, 0.1, 0.25)  # quantiles of right places' log-odds; the first where no member is ever missing
DOUBT = 0.02  # share of cases in which the truth may be anything
CHANCE = 0.05
HALF = 0.5  # of the distance to the neighbour, beyond which a point is a gross error
logger = logging.getLogger(__name__)


def training_rows(store: Store, cases: Sequence[str], measured: Measured, plans: Plans) -> TrainingRows:
    """The cases on which rows are measured: a fold's training cases, in the frame of their preprocessed images."""
    stored = [store.load(case) for case in cases]
    shape = measured.shape(plans.landmarks)
    points = None if shape is None else shape.points
    return TrainingRows([one.landmarks for one in stored], [one.geometry for one in stored], points)


def tell_rows(
    stage: Stage, validation: Validation, training: Callable[[], TrainingRows]
) -> tuple[Measured, Validation]:
    """Find the rows that held-out cases show; return (what the stage's fold measured, with these rows; the same
    predictions as they now read).

    validation: of candidates as they were found, which the stage must leave so. training: gives what rows are measured
    on, asked where there are any. Later stages are left alone.
    """
    plans, (measured,) = stage.plans, stage.measured
    if stage.configuration.previous_stage is not None:
        return measured, validation
    found = {case: result.prediction.detections for case, result in validation.results.items()}
    truth = {case: result.truth for case, result in validation.results.items()}
    rows = measure_rows(found, truth, plans.pair_indices(), training)
    measured = dataclasses.replace(measured, rows=rows)
    logger.info("rows of look-alikes: %s", rows.why)
    if not rows.rows or not rows.used:
        return measured, validation
    stage, results = dataclasses.replace(stage, measured=(measured,)), {}
    for case, result in validation.results.items():
        old = found[case]
        chosen = stage.in_order_of_rows(old.candidates, old.log_odds, old.geometry)
        spread, in_rows = _spread(chosen.candidates[:, 0], old), (chosen.probability, chosen.reach)
        assigned = Assigned(chosen.candidates, chosen.log_odds, spread, np.empty((0, 0)), *in_rows)
        prediction = stage.conclude(assigned, result.prediction.looks, old.geometry)
        results[case] = CaseResult(result.truth, prediction, result.diagonal)
    chosen_as_rows = Validation(results, validation.seconds)
    alone, together = (float(each.errors().mean()) for each in (validation, chosen_as_rows))
    if together >= alone:
        why = f"{rows.why}; but all points' mean error is {together:.3g} {plans.unit} so, {alone:.3g} each by itself"
        logger.info("rows of look-alikes: %s", why)
        return dataclasses.replace(measured, rows=dataclasses.replace(rows, used=False, why=why)), validation
    return measured, chosen_as_rows


def adopted_rows(folder: Path, digest: str, training: Callable[[], TrainingRows]) -> Rows:
    """Adopt, for a fold in `folder` without held-out cases, the rows that the finished folds beside it found, see
    `drawing.finished_folds`, as its own training cases show them.
    """
    known = [one.rows for one in finished_folds(folder, digest) if one.rows is not None]
    if not known:
        return Rows(why="no case is held out, and no numbered fold of these plans is finished that could tell")
    pooled = Rows.pooled(known)
    measured = [measure_row(row.names, training()) for row in pooled.rows]
    return dataclasses.replace(pooled, rows=tuple(row for row in measured if row is not None))


def measure_rows(
    found: Mapping[str, Detections],
    truth: Mapping[str, Landmarks],
    partner: Sequence[int],
    training: Callable[[], TrainingRows],
) -> Rows:
    """The rows that held-out cases show, how their evidence is weighed, and how often the choice is right.

    found: of candidates as a model found them. partner: (L,) mirror partners, own for none.
    """
    if any(one.geometry.ndim < one.geometry.physical_ndim for one in found.values()):
        return Rows(cases=len(found), why="none: the images are single slices in space, in which a row may turn over")
    groups = groups_of([(found[case], truth[case]) for case in found], partner)
    if not groups:
        return Rows(cases=len(found), why=f"none: no landmarks are mistaken for each other on {len(found)} cases")
    known, names = training(), next(iter(found.values())).names
    measured = [measure_row([names[i] for i in group], known) for group in groups]
    rows = Rows(tuple(row for row in measured if row is not None), cases=len(found))
    if not rows.rows:
        return dataclasses.replace(rows, why="none: no training case shows two landmarks that are mistaken")
    shown = [_Shown.of(found[case], truth[case], row, known.shape) for case in found for row in rows.rows]
    judged = [one for one in shown if one is not None]
    return _judged(_weighed(rows, judged), judged)


@dataclass(frozen=True, eq=False)
class _Shown:
    """A row in a held-out case. right: (M, N) the places where each member is; none where it is absent, or shown by no
    channel. known: (M,) whether annotators looked. present: (M,). before: (M,) whether its best candidate is right."""

    problem: Problem
    right: Bools
    known: Bools
    present: Bools
    before: Bools

    @classmethod
    def of(cls, found: Detections, truth: Landmarks, row: Row, shape: FloatArray | None) -> _Shown | None:
        """None where no member shows a place, or none is known."""
        problem = pose(row, found.candidates, found.log_odds, found.names, found.geometry, shape)
        if problem is None:
            return None
        which = problem.which
        points = np.where(truth.present[which, None], truth.points[which], np.nan)
        limit = HALF * _to_neighbour(points, row)
        right = np.linalg.norm(problem.places[None] - points[:, None], axis=2) <= limit[:, None]
        before = np.linalg.norm(found.candidates[which, 0] - points, axis=1) <= limit
        known = np.asarray(truth.status[which] != Status.UNKNOWN)
        return cls(problem, right, known, truth.present[which], before) if known.any() else None

    def is_right(self, choice: Choice) -> Bools:
        """(B, M) whether members are where rows (B, M) put them; of missing ones, whether no channel shows them."""
        there = choice >= 0
        return np.where(there, self.right[np.arange(choice.shape[1]), choice], ~self.right.any(axis=1))

    def log_likelihood(self, temperature: float, level: float) -> float:
        """Of the members' true places, mean over the members."""
        found = search(self.problem, temperature, level)
        share = (self.is_right(found.choice) * found.share[:, None]).sum(axis=0)[self.known]
        return float(np.log((1 - DOUBT) * share + DOUBT * DOUBT).mean())


def _to_neighbour(points: FloatArray, row: Row) -> FloatArray:
    """(M,) mm from members at points (M, P) to the nearest other one; the usual distance where none is known."""
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    apart = np.where(np.isfinite(apart) & ~np.eye(len(apart), dtype=bool), apart, np.inf).min(axis=1)
    return np.where(np.isfinite(apart), np.minimum(apart, 2 * np.array(row.neighbour)), row.neighbour)


def _weighed(rows: Rows, shown: Sequence[_Shown]) -> Rows:
    """With the temperature and the level under which the true places are the likeliest."""
    members = float(np.mean([len(row.names) for row in rows.rows]))
    most = int(np.clip(FITTED_ON / members, FEWEST_FITTED, MOST_FITTED)) * len(rows.rows)
    chosen = shown[:: max(-(-len(shown) // most), 1)]
    at_right, missing = [], 0
    for one in shown:
        at_right += one.problem.odds[one.right].tolist()
        missing += int((one.known & ~one.present).sum())
    if not at_right:
        return rows
    levels = [float(np.quantile(at_right, q)) for q in LEVELS]

    def best(options: Sequence[tuple[float, float]]) -> tuple[float, float]:
        total = np.array([-(((math.log(t) - PRIOR[0]) / PRIOR[1]) ** 2) / 2 for t, _ in options])
        for one in chosen:
            total += [one.log_likelihood(*option) for option in options]
            one.problem.forget()
        return options[int(total.argmax())]

    temperature, _ = best([(t, levels[0]) for t in TEMPERATURES[::2]])
    i = TEMPERATURES.index(temperature)
    temperature, _ = best([(t, levels[0]) for t in TEMPERATURES[max(i - 1, 0) : i + 2]])
    level = best([(temperature, v) for v in levels])[1] if missing else levels[0]
    return dataclasses.replace(rows, temperature=temperature, level=level)


def _judged(rows: Rows, shown: Sequence[_Shown]) -> Rows:
    """With how often the choice is right, beside each member's best candidate."""
    wrong, made, mended = [0, 0], 0, 0
    points, right, expected = 0, 0.0, 0.0
    for one in shown:
        found = search(one.problem, rows.temperature, rows.level)
        one.problem.forget()
        placed = found.choice[0] >= 0
        after = one.is_right(found.choice[:1])[0]
        points += int(one.present.sum())
        wrong[0] += int((one.present & ~one.before).sum())
        wrong[1] += int((one.present & ~(after & placed)).sum())
        made += int((one.present & one.before & ~(after & placed)).sum())
        mended += int((one.present & ~one.before & after & placed).sum())
        judged = placed & one.known
        if judged.any():
            right += float(after[judged].mean())
            expected += float(found.marginal[judged].mean())
    used = 2 * made <= mended and _more_than_chance(mended, made)
    members = "; ".join(", ".join(row.names) for row in rows.rows)
    why = (
        f"{members}: of {points} points of {rows.cases} held-out cases {wrong[0]} lay beyond half the way to a "
        f"neighbour each by itself, {wrong[1]} as a whole"
        + ("" if used else ", so that they are not chosen as a whole")
    )
    return dataclasses.replace(rows, used=used, right=right, expected=max(expected, 0.0), why=why)


def _more_than_chance(mended: int, made: int) -> bool:
    """Sign test, one-sided: whether changes that only toss a coin would mend so many of the points that they change."""
    return mended > 0 and float(scipy.stats.binomtest(mended, mended + made, alternative="greater").pvalue) <= CHANCE


def _spread(points: FloatArray, before: Detections) -> FloatArray:
    """(L,) widths of the peaks at points (L, P): those that any landmark's best candidate had there, NaN for others."""
    result = np.full(len(points), np.nan)
    for i, point in enumerate(points):
        same = np.flatnonzero((before.best == point).all(axis=1))
        if len(same):
            result[i] = before.spread[same[0]]
    return result
