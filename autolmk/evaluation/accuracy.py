"""Accuracy: predicted against annotated landmarks. Says how far, how often, how sure, and what went wrong.

Every annotated-present point counts in MRE, median and SDR at its best candidate, even where it was predicted absent;
misses are counted beside it. Nothing is hidden by leaving points out: a point without any predicted position counts as
far away as its image is large, in every one of these figures and in validation during training alike.

Shapes: N cases, L landmarks, P physical axes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used: scipy.stats takes 0.7 s

from autolmk.annotations import Annotation
from autolmk.errors import AutolmkError
from autolmk.evaluation.bootstrap import Draws, Estimate, Resamples, means, medians, shares
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks, Status

RADII = (2.0, 2.5, 3.0, 4.0, 8.0)
OVERALL = "overall"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Presence:
    """Predicted against annotated presence, where annotated. AUC: of the predicted likelihood; None where a class is
    missing or a likelihood is."""

    true_present: int
    missed: int
    false_present: int
    true_absent: int
    accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    auc: float | None


@dataclass(frozen=True)
class Scores:
    """The scores of one landmark, or of all points of all landmarks together.

    n: annotated-present points. missing: those for which the prediction gives no place at all; each counts with the
    penalty of its case (`penalties`) in mre, sd and median, and is beyond every radius. mre, sd, median: mm or px.
    sdr: radius -> share of points at most that far. swaps: points nearer to the mirror partner's true place than to
    their own, out of n_swappable whose partner is annotated too.
    """

    n: int
    missing: int
    mre: Estimate
    sd: float | None
    median: Estimate
    sdr: dict[str, Estimate]
    swaps: int
    n_swappable: int
    presence: Presence


@dataclass(frozen=True)
class Point:
    """One annotated-present or absent landmark. error: mm or px, None where truly absent; where the prediction gives no
    place it is `missing` and the error is the case's penalty."""

    case: str
    landmark: str
    error: float | None
    missing: bool
    swapped: bool
    status: str
    predicted_status: str
    likelihood: float | None


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of predictions. unit: mm or px. Intervals: 95 %, over cases, None where fewer than 5 show the
    landmark, see `bootstrap`. penalty: case -> what a point without any predicted position counts as. seed,
    n_resamples: of the bootstrap.
    """

    unit: str
    penalty: dict[str, float]
    radii: tuple[float, ...]
    n_cases: int
    seed: int
    n_resamples: int
    overall: Scores
    landmarks: dict[str, Scores]
    points: tuple[Point, ...]


@dataclass(frozen=True, eq=False)
class _Table:
    """All cases as arrays: status and predicted (N, L) int8; error (N, L), NaN where not present, the penalty where
    missing (N, L) bool; likelihood (N, L); swapped and swappable (N, L) bool."""

    status: npt.NDArray[np.int8]
    predicted: npt.NDArray[np.int8]
    error: FloatArray
    missing: npt.NDArray[np.bool_]
    likelihood: FloatArray
    swapped: npt.NDArray[np.bool_]
    swappable: npt.NDArray[np.bool_]


class Bootstrap(TypedDict, total=False):
    """The fields of `Resamples` that `evaluate` takes by keyword alone."""

    seed: int
    n_resamples: int


def evaluate(
    truth: Mapping[str, Landmarks],
    predictions: Mapping[str, Annotation],
    *,
    pairs: Sequence[tuple[str, str]] = (),
    diagonals: Mapping[str, float] | None = None,
    unit: str = "mm",
    radii: Sequence[float] = RADII,
    **bootstrap: Unpack[Bootstrap],
) -> Evaluation:
    """Compare predictions with the truth. truth: case -> landmarks, all with the same names in the same order.
    predictions: case -> points in the same frame (mm, LPS), the best candidate's place also where the status is absent.
    pairs: left/right partners by name. diagonals: case -> length of its image's diagonal, where images are known; see
    `penalties`. bootstrap: `n_resamples`, by default 2000, and `seed`, by default 0.

    AutolmkError where there is no case, where a case is not predicted, or where a prediction names a landmark twice.

    >>> truth = {"case": Landmarks(("a", "b"), [[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]], [Status.PRESENT] * 2)}
    >>> found = {"case": Annotation(("a", "b"), [[0.0, 0.0, 1.0], [9.0, 3.0, 0.0]], [Status.PRESENT] * 2)}
    >>> evaluation = evaluate(truth, found)
    >>> evaluation.overall.mre.value, evaluation.landmarks["b"].mre.value
    (2.0, 3.0)
    """
    if not truth:
        raise AutolmkError(
            "there is no annotated case to evaluate",
            expected="at least one case",
            remedy="check that the annotations are there",
        )
    _require_cases(truth, predictions)
    names = next(iter(truth.values())).names
    radii = tuple(sorted(float(r) for r in radii))
    penalty = penalties(truth, diagonals or {}, radii)
    table = _table(names, truth, predictions, pairs, penalty)
    chosen: Bootstrap = {"n_resamples": 2000, "seed": 0, **bootstrap}
    draws = Resamples(len(truth), **chosen)
    single = _scores(table, [slice(i, i + 1) for i in range(len(names))], radii, draws)
    (overall,) = _scores(table, [slice(0, len(names))], radii, draws)
    points = tuple(_points(names, list(truth), table))
    by_name = dict(zip(names, single, strict=True))
    return Evaluation(unit, penalty, radii, len(truth), draws.seed, draws.n_resamples, overall, by_name, points)


def penalties(
    truth: Mapping[str, Landmarks], diagonals: Mapping[str, float], radii: Sequence[float] = RADII
) -> dict[str, float]:
    """The error that a present point without any predicted position counts as, by case: the diagonal of the case's
    image where known, else the diagonal of the box around the true points of all cases; at least twice the largest
    radius.
    """
    present = np.concatenate([marks.points[marks.present] for marks in truth.values()])
    box = float(np.linalg.norm(np.ptp(present, axis=0))) if len(present) else 0.0
    return {case: max(diagonals.get(case, box), 2 * max(radii)) for case in truth}


def point_errors(truth: Landmarks, points: FloatArray, penalty: float) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """The errors (L,) of predicted points (L, P), NaN where the truth is not present, and whether each is missing (L,).
    What is present and has no predicted position is missing and counts with the penalty: the one rule of every MRE.
    """
    distance = np.linalg.norm(points - truth.points, axis=1)
    missing = truth.present & ~np.isfinite(distance)
    return np.where(missing, penalty, distance), missing


def swapped_points(
    truth: Landmarks, points: FloatArray, pairs: Sequence[tuple[str, str]]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Tell which predicted points (L, P), in the order of the truth, lie nearer to the true place of their mirror
    partner than to their own (L,), and for which that can be told (L,), both being present. What has no position is not
    swapped.
    """
    partner, where = dict(pairs) | {b: a for a, b in pairs}, {name: i for i, name in enumerate(truth.names)}
    other = np.array([where.get(partner.get(name, name), i) for i, name in enumerate(truth.names)], dtype=np.int_)
    swappable = truth.present & truth.present[other] & (other != np.arange(len(other)))
    own, across = (np.linalg.norm(points - places, axis=1) for places in (truth.points, truth.points[other]))
    return swappable & (across < own), swappable


def _require_cases(truth: Mapping[str, Landmarks], predictions: Mapping[str, Annotation]) -> None:
    missing = [case for case in truth if case not in predictions]
    if missing:
        raise AutolmkError(
            f"{len(missing)} of {len(truth)} annotated cases were not predicted",
            found=f"nothing for {', '.join(missing[:10])}{' ...' * (len(missing) > 10)}",
            expected="a prediction of every annotated case, or the figures would look better than they are",
            remedy="predict the missing cases (see failures.json), or leave them out knowingly with --skip-missing",
        )
    extra = [case for case in predictions if case not in truth]
    if extra:
        logger.warning("predicted but not annotated, left out: %s", ", ".join(extra[:10]) + " ..." * (len(extra) > 10))


def _table(
    names: Sequence[str],
    truth: Mapping[str, Landmarks],
    predictions: Mapping[str, Annotation],
    pairs: Sequence[tuple[str, str]],
    penalty: Mapping[str, float],
) -> _Table:
    rows = []
    for case, marks in truth.items():
        points, predicted, likelihood = _in_order(case, names, predictions[case], marks.points.shape[1])
        error, missing = point_errors(marks, points, penalty[case])
        swapped, swappable = swapped_points(marks, points, pairs)
        rows.append((marks.status, predicted, error, missing, likelihood, swapped, swappable))
    return _Table(*(np.stack(column) for column in zip(*rows, strict=True)))


def _in_order(
    case: str, names: Sequence[str], found: Annotation, p: int
) -> tuple[FloatArray, npt.NDArray[np.int8], FloatArray]:
    """Points (L, P), NaN without position; status (L,); likelihood (L,). What is not listed is predicted absent."""
    if len(set(found.names)) != len(found.names):
        twice = sorted({n for n in found.names if found.names.count(n) > 1})
        raise AutolmkError(
            "a prediction names landmarks twice",
            case=case,
            found=", ".join(twice),
            remedy="remove the wrong rows, or predict the case again",
        )
    if not set(names) & set(found.names):
        raise AutolmkError(
            "a prediction shares no landmark name with the annotation",
            case=case,
            found=", ".join(found.names[:10]),
            expected=", ".join(names[:10]),
            remedy="compare predictions and annotations of the same dataset",
        )
    points, likelihood = np.full((len(names), p), np.nan), np.full(len(names), np.nan)
    status = np.full(len(names), Status.ABSENT, dtype=np.int8)
    where = {name: i for i, name in enumerate(found.names)}
    for row, name in enumerate(names):
        if name in where:
            i = where[name]
            points[row, : found.points.shape[1]] = found.points[i, :p]
            status[row] = Status.PRESENT if found.status[i] == Status.PRESENT else Status.ABSENT
            likelihood[row] = found.likelihood[i]
    return points, status, likelihood


def _scores(table: _Table, columns: Sequence[slice], radii: Sequence[float], draws: Draws) -> list[Scores]:
    """Of each group of landmarks; one pass of resampling for all of them."""
    parts = [table.error[:, c] for c in columns]
    present = [np.isfinite(e) for e in parts]
    sums = np.stack([np.where(ok, e, 0.0).sum(1) for e, ok in zip(parts, present, strict=True)], axis=1)
    n = np.stack([ok.sum(1) for ok in present], axis=1).astype(float)
    mre = means(sums, n, draws)
    middle = medians([[row[np.isfinite(row)] for row in errors] for errors in parts], draws)
    rates = {}
    for radius in radii:
        hits = np.stack([(e <= radius).sum(1) for e in parts], axis=1).astype(float)
        rates[f"{radius:g}"] = shares(hits, n)
    result = []
    for i, (column, errors) in enumerate(zip(columns, parts, strict=True)):
        finite = errors[present[i]]
        result.append(
            Scores(
                n=int(present[i].sum()),
                missing=int(table.missing[:, column].sum()),
                mre=mre[i],
                sd=float(finite.std(ddof=1)) if len(finite) > 1 else None,
                median=middle[i],
                sdr={radius: estimates[i] for radius, estimates in rates.items()},
                swaps=int(table.swapped[:, column].sum()),
                n_swappable=int(table.swappable[:, column].sum()),
                presence=_presence(table, column),
            )
        )
    return result


def _presence(table: _Table, column: slice) -> Presence:
    status, predicted = table.status[:, column], table.predicted[:, column]
    said = predicted == Status.PRESENT
    present, absent = status == Status.PRESENT, status == Status.ABSENT
    tp, fn = int((present & said).sum()), int((present & ~said).sum())
    fp, tn = int((absent & said).sum()), int((absent & ~said).sum())
    likelihood = table.likelihood[:, column]
    return Presence(
        tp, fn, fp, tn,
        accuracy=_share(tp + tn, tp + fn + fp + tn),
        sensitivity=_share(tp, tp + fn),
        specificity=_share(tn, tn + fp),
        auc=_auc(likelihood[present], likelihood[absent]),
    )  # fmt: skip


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _auc(positive: FloatArray, negative: FloatArray) -> float | None:
    """Probability that a positive ranks above a negative, ties half (Mann and Whitney)."""
    if not len(positive) or not len(negative) or np.isnan(positive).any() or np.isnan(negative).any():
        return None
    ranks = scipy.stats.rankdata(np.concatenate([positive, negative]))
    n = len(positive)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))


def _points(names: Sequence[str], cases: Sequence[str], table: _Table) -> list[Point]:
    known = np.argwhere(table.status != Status.UNKNOWN)
    return [
        Point(
            case=cases[i],
            landmark=names[j],
            error=float(table.error[i, j]) if np.isfinite(table.error[i, j]) else None,
            missing=bool(table.missing[i, j]),
            swapped=bool(table.swapped[i, j]),
            status=Status(table.status[i, j]).name.lower(),
            predicted_status=Status(table.predicted[i, j]).name.lower(),
            likelihood=float(table.likelihood[i, j]) if np.isfinite(table.likelihood[i, j]) else None,
        )
        for i, j in known
    ]
