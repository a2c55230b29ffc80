"""Whether a fold's points are drawn toward the mean shape: kept only where that helps on the cases that it held out.

The points' errors are fitted on all of them but a few, and these are predicted with and without drawing, in turn. It is
kept as any step of postprocessing is (`postprocessing.evidence`): where mean errors fall beyond chance and no gross
ones are added. Then the errors are fitted on all. Fold `all` holds no case out: it takes what numbered folds found.

The points of a stage that is followed by another one only say where this looks. They are drawn in the way of the
lowest mean error, and fully where that is the lowest (`PointErrors.fully`): anatomy that they lose is found again.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autolmk.detections import Detections
from autolmk.files.serialization import read_json
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.measured import Measured
from autolmk.fold.point_errors import PointErrors, fit_point_errors
from autolmk.landmarks import Landmarks
from autolmk.postprocessing.context import errors_of
from autolmk.postprocessing.evidence import localisation, verdict
from autolmk.prediction.assignment import ShapePrior
from autolmk.prediction.shrinkage import shrink, shrink_by_misfit
from autolmk.prediction.stage import Assigned, Stage
from autolmk.shapes.pose import FEWEST_POINTS, FEWEST_SHAPES
from autolmk.training.validation import CaseResult, Validation

PARTS = 8  # at most, that the held-out cases are divided into
logger = logging.getLogger(__name__)


def choose_drawing(stage: Stage, validation: Validation) -> tuple[Measured, Validation]:
    """Decide on held-out cases whether points are drawn toward the mean shape; return (what the stage's fold measured,
    with errors and decision; the same predictions as they now read).

    validation: of points as they were found, which the stage must leave so.
    """
    plans, configuration, prior, (measured,) = stage.plans, stage.configuration, stage.prior, stage.measured
    if not configuration.shape_prior:
        return dataclasses.replace(measured, errors=PointErrors(why="the plans do without")), validation
    found = {case: result.prediction.detections for case, result in validation.results.items()}
    truth = {case: result.truth for case, result in validation.results.items()}
    before = [plans.configurations.get(c.previous_stage or "") for c in plans.configurations.values()]
    errors = measure_errors(found, truth, prior, plans.unit, looks_follow=configuration in before)
    said = ("fully drawn" if errors.fully else "drawn") if errors.drawn else "not drawn"
    logger.info("points are %s toward the mean shape: %s", said, errors.why)
    measured = dataclasses.replace(measured, errors=errors)
    if prior is None or not errors.drawn:
        return measured, validation
    stage, results = dataclasses.replace(stage, measured=(measured,)), {}
    for case, result in validation.results.items():
        now = drawn(found[case], prior, errors)
        assigned = Assigned(now.candidates, now.log_odds, now.spread, now.moved, now.row, result.prediction.reach)
        prediction = stage.conclude(assigned, result.prediction.looks, now.geometry)
        results[case] = CaseResult(result.truth, prediction, result.diagonal)
    return measured, Validation(results, validation.seconds)


def measure_errors(
    found: Mapping[str, Detections],
    truth: Mapping[str, Landmarks],
    prior: ShapePrior | None,
    unit: str,
    *,
    looks_follow: bool = False,
) -> PointErrors:
    """Measure on held-out cases how large errors are, and whether points drawn toward the mean shape `prior` lie
    nearer.

    found: of points as a model found them. unit: mm or px. looks_follow: whether a later stage looks around these
    points. ValueError without cases.
    """
    if not found:
        raise ValueError("errors are measured on one held-out case or more")
    cases = list(found)
    errors, why = _errors_of(cases, found, truth), _unsupported(prior, found)
    if prior is None or why is not None:
        return dataclasses.replace(errors, why=str(why))
    tried: dict[str, Detections] = {}
    parts = [cases[i::PARTS] for i in range(min(PARTS, len(cases)))]
    for part in parts if len(parts) > 1 else []:
        others = _errors_of([case for case in cases if case not in part], found, truth)
        tried |= {case: drawn(found[case], prior, others) for case in part}
    if looks_follow:
        full = dataclasses.replace(errors, fully=True)
        fully = {case: drawn(one, prior, full) for case, one in found.items()}
        return _nearest(errors, {"not drawn": found, "drawn": tried, "fully drawn": fully}, truth, unit)
    if not tried:
        return dataclasses.replace(errors, why="a single held-out case does not tell whether it helps")
    before, after = ([side[case] for case in cases] for side in (found, tried))
    kept, why = verdict(localisation(before, after, [truth[case] for case in cases]), unit)
    return dataclasses.replace(errors, drawn=kept, why=why)


def _nearest(
    errors: PointErrors, ways: Mapping[str, Mapping[str, Detections]], truth: Mapping[str, Landmarks], unit: str
) -> PointErrors:
    """With the way of drawing of the lowest mean error. ways: the held-out cases in each, none where it is unknown."""
    apart = {way: np.array([errors_of(side[case], truth[case]) for case in side]) for way, side in ways.items() if side}
    if not np.isfinite(apart["not drawn"]).any():
        return dataclasses.replace(errors, why="no point of the held-out cases is known")
    mean = {way: float(np.nanmean(each)) for way, each in apart.items()}
    best = min(mean, key=mean.__getitem__)
    said = ", ".join(f"{value:.3f} {unit} {way}" for way, value in mean.items())
    why = f"mean error on {len(ways['not drawn'])} held-out cases {said}; a later stage looks around the points"
    return dataclasses.replace(errors, drawn=best != "not drawn", fully=best == "fully drawn", why=why)


def drawn(found: Detections, prior: ShapePrior, errors: PointErrors) -> Detections:
    """A case's detections, the best points drawn toward the mean shape, fully where `errors` say so."""
    candidates = found.candidates.copy()
    points, log_odds = candidates[:, 0].copy(), found.log_odds[:, 0]
    if errors.fully:
        candidates[:, 0] = shrink_by_misfit(points, log_odds, prior)
    else:
        variance = errors.variance(found.names, found.spread)
        candidates[:, 0] = shrink(points, log_odds, variance, prior, errors)
    return dataclasses.replace(found, candidates=candidates, moved=candidates[:, 0] - found.best)


def adopted(folder: Path, digest: str) -> PointErrors:
    """Adopt, for a fold in `folder` without held-out cases, what the finished folds beside it found that were trained
    by the same plans, of this digest.
    """
    folds = [one.errors for one in finished_folds(folder, digest) if one.errors is not None]
    if not folds:
        return PointErrors(why="no case is held out, and no numbered fold of these plans is finished that could tell")
    found = PointErrors.pooled(folds)
    said = found.why if len(folds) > 1 else f"as the only numbered fold that is finished: {found.why}"
    return dataclasses.replace(found, why=said)


def finished_folds(folder: Path, digest: str) -> list[Measured]:
    """The measurements of the finished numbered folds beside `folder` that were trained by the same plans, of this
    digest.
    """
    folds = []
    for other in sorted(folder.parent.glob("fold_[0-9]*")):
        if checkpoint_file(other, "final").is_file():
            config = read_json(other / "config.json", remedy="restore it, or train this fold again")
            measured = Measured.load(other)
            if isinstance(config, dict) and config.get("plans_digest") == digest:
                folds.append(measured)
    return folds


def _unsupported(prior: ShapePrior | None, found: Mapping[str, Detections]) -> str | None:
    """Why nothing can be drawn; None where it can be tried."""
    if prior is None or prior.n_cases < FEWEST_SHAPES:
        return f"{0 if prior is None else prior.n_cases} training cases tell the mean shape, it takes {FEWEST_SHAPES}"
    known = int(np.isfinite(prior.points).all(axis=1).sum())
    if known < FEWEST_POINTS:
        return f"{known} landmarks have a place in the mean shape, it takes {FEWEST_POINTS}"
    if any(one.geometry.ndim < one.geometry.physical_ndim for one in found.values()):
        return "the images are single slices in space, in which a shape may turn over"
    return None


def _errors_of(cases: Sequence[str], found: Mapping[str, Detections], truth: Mapping[str, Landmarks]) -> PointErrors:
    """Of the best points of these cases."""
    best, spread = (np.stack([getattr(found[case], key) for case in cases]) for key in ("best", "spread"))
    points = np.stack([np.where(truth[case].present[:, None], truth[case].points, np.nan) for case in cases])
    log_odds = np.stack([found[case].log_odds[:, 0] for case in cases])
    return fit_point_errors(best, points, spread, found[cases[0]].names, log_odds)
