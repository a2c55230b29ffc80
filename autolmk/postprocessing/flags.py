"""Flags on points that stay implausible: short reasons, with limits measured on held-out cases.

Rows of look-alikes are apart from these: their probability is calibrated, and a row below `SURE_ROW` is flagged.

Each kind of flag has a share of good points (those without a gross error) that it may raise there; together they stay
below 5 %. What is a gross error does not shape the limits, so that many of them do not hide each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autolmk.detections import Detections
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks
from autolmk.postprocessing.context import errors_of
from autolmk.postprocessing.evidence import GROSS
from autolmk.shapes.point_distribution import ShapeModel

SHAPE, UNSURE, UNLIKELY, DISAGREEING = 0.015, 0.01, 0.005, 0.005  # shares of good points that a flag may raise
BAND = 0.3  # of likelihood around 0.5, at most, in which presence is unsure
ROW, SURE_ROW = "the row may be shifted by one", 0.9  # the flag, and the probability from which it is not raised
LEAST_POINTS = 40  # good ones, to measure a limit


@dataclass(frozen=True)
class FlagLimits:
    """The limits from which points are flagged. shape: standardised distance from where the others make a point likely.
    unsure: distance of the likelihood from 0.5, of landmarks that may be absent. unlikely: likelihood of the others.
    disagreement: mm between members. None: not judged. false_alarms: share of the held-out cases' good points that any
    of them flags; gross_flagged of gross: of the gross errors there. noise: (L,) mm an axis, the points' own errors.
    """

    shape: float | None = None
    unsure: float | None = None
    unlikely: float | None = None
    disagreement: float | None = None
    false_alarms: float | None = None
    gross: int = 0
    gross_flagged: int = 0
    noise: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Judgement:
    """The judgement of one case's points. shape_residual: (L,) mm from where the other points make each likely, NaN
    where nothing can be said. flags: of each landmark, short reasons why a person should look at it.
    """

    shape_residual: FloatArray
    flags: tuple[tuple[str, ...], ...]


def judge(
    found: Detections, model: ShapeModel | None, limits: FlagLimits, sometimes_absent: Sequence[str]
) -> Judgement:
    """Judge detections after postprocessing."""
    residual, distance = shape_judgement(found, model, limits.noise)
    return Judgement(residual, tuple(flags_of(found, distance, limits, sometimes_absent)))


def shape_judgement(
    found: Detections, model: ShapeModel | None, noise: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    """The residual (L,) mm and the standardised distance (L,) of the best points from where the others make them
    likely; NaN where nothing can be said. Of points as they were found, before any were drawn toward the mean shape.
    """
    found = found.as_found()
    if model is None:
        return np.full(len(found.names), np.nan), np.full(len(found.names), np.nan)
    own = np.array(noise) if len(noise) else np.zeros(len(found.names))
    belief = np.clip(np.nan_to_num(found.likelihood, nan=1.0), 0.05, 1.0)
    expected = model.expectation(found.best, belief, own)
    return np.asarray(np.linalg.norm(found.best - expected.place, axis=1)), expected.distance(found.best, own)


def flags_of(
    found: Detections,
    distance: FloatArray,
    limits: FlagLimits,
    sometimes_absent: Sequence[str],
) -> list[tuple[str, ...]]:
    """The flags of each landmark; distance: (L,) standardised. What is called absent, or has no place, is only flagged
    as unsure."""
    may_lack = np.isin(found.names, list(sometimes_absent))
    apart, result = found.disagreement, []
    for i in range(len(found.names)):
        likelihood, reasons = found.likelihood[i], []
        shown = np.isfinite(found.best[i]).all() and not (may_lack[i] and likelihood < 0.5)
        if shown and limits.shape is not None and distance[i] > limits.shape:
            reasons.append("unusual place among the others")
        if may_lack[i] and limits.unsure is not None and abs(likelihood - 0.5) < limits.unsure:
            reasons.append("unsure whether present")
        if not may_lack[i] and limits.unlikely is not None and likelihood < limits.unlikely:
            reasons.append("hardly found")
        if shown and found.row[i] < SURE_ROW:
            reasons.append(ROW)
        if shown and apart[i] > (np.inf if limits.disagreement is None else limits.disagreement):
            reasons.append("members disagree")
        result.append(tuple(reasons))
    return result


def row_flags(found: Detections, present: npt.NDArray[np.bool_]) -> list[tuple[str, ...]]:
    """The flags of each landmark of a single model, for which nothing measured the other limits. present: (L,) as it
    calls them."""
    return [(ROW,) if shown and row < SURE_ROW else () for shown, row in zip(present, found.row, strict=True)]


def measure_limits(
    found: Mapping[str, Detections],
    truth: Mapping[str, Landmarks],
    model_of: Mapping[str, ShapeModel | None],
    noise: Sequence[float],
    sometimes_absent: Sequence[str],
) -> FlagLimits:
    """Measure limits on held-out cases after postprocessing; model_of: case -> a shape model that has not seen it."""
    cases = sorted(found)
    errors = np.stack([errors_of(found[case], truth[case]) for case in cases])
    gross_limit = GROSS * float(np.nanmedian(errors)) if np.isfinite(errors).any() else np.inf
    distances = np.stack([shape_judgement(found[case], model_of[case], noise)[1] for case in cases])
    likelihood = np.stack([found[case].likelihood for case in cases])
    may_lack = np.broadcast_to(np.isin(found[cases[0]].names, list(sometimes_absent)), errors.shape)
    good = errors <= gross_limit
    known = np.stack([np.isin(truth[case].status, (1, 2)) for case in cases])
    apart = np.stack([found[case].disagreement for case in cases])
    n_points = int(known.sum())
    away = np.abs(likelihood - 0.5)[may_lack & known]
    limits = FlagLimits(
        shape=_upper(distances[good], SHAPE),
        unsure=_band(away, UNSURE * n_points),
        unlikely=_lower(likelihood[good & ~may_lack], UNLIKELY),
        disagreement=_upper(apart[good], DISAGREEING),
        gross=int((errors > gross_limit).sum()),
        noise=tuple(map(float, noise)),
    )
    reasons = [flags_of(found[c], distances[i], limits, sometimes_absent) for i, c in enumerate(cases)]
    flagged = np.array([[bool(reason) for reason in row] for row in reasons])
    share = float(flagged[good].mean()) if good.any() else None
    return FlagLimits(
        **{**vars(limits), "false_alarms": share, "gross_flagged": int(flagged[errors > gross_limit].sum())}
    )


def _upper(values: FloatArray, share: float) -> float | None:
    """What this share of values exceeds; None where they are too few to tell."""
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, 1 - share)) if len(finite) >= LEAST_POINTS else None


def _lower(values: FloatArray, share: float) -> float | None:
    finite = values[np.isfinite(values)]
    return min(float(np.quantile(finite, share)), 0.5) if len(finite) >= LEAST_POINTS else None


def _band(away: FloatArray, allowed: float) -> float | None:
    """The largest distance from 0.5, at most `BAND`, below which no more than `allowed` values lie; None for none."""
    ordered = np.sort(away[np.isfinite(away)])
    if not len(ordered):
        return None
    return float(min(BAND, ordered[int(allowed)])) if len(ordered) > allowed else BAND
