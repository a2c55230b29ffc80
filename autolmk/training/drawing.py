"""Whether a fold's points are drawn toward the mean shape: kept only where that helps on the cases that it held out.

The points' errors are fitted on all of them but a few, and these are predicted with and without drawing, in turn. It is
kept as any step of postprocessing is (`postprocessing.evidence`): where mean errors fall beyond chance and no gross
ones are added. Then the errors are fitted on all. Fold `all` holds no case out, and takes what the numbered folds found.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from autolmk.checkpoint import checkpoint_file
from autolmk.detections import Detections
from autolmk.geometry import FloatArray
from autolmk.measured import Measured
from autolmk.plans import Configuration, Plans
from autolmk.point_errors import PointErrors, fit_point_errors
from autolmk.postprocessing.evidence import localisation, verdict
from autolmk.prediction.assignment import ShapePrior
from autolmk.prediction.inference import conclude, pooled_prior
from autolmk.prediction.shrinkage import shrink
from autolmk.serialization import read_json
from autolmk.shape import FEWEST_POINTS, FEWEST_SHAPES
from autolmk.training.validation import CaseResult, Validation

PARTS = 8  # at most, that the held-out cases are divided into
logger = logging.getLogger(__name__)


def choose_drawing(
    measured: Measured, validation: Validation, plans: Plans, configuration: Configuration
) -> tuple[Measured, Validation]:
    """(with errors measured on these held-out cases, and the decision; the same predictions as they now read).

    validation: of points as they were found, which `measured` must leave so.
    """
    if not configuration.shape_prior:
        return dataclasses.replace(measured, errors=PointErrors(why="the plans do without")), validation
    found = {case: result.prediction.detections for case, result in validation.results.items()}
    truth = {case: result.truth for case, result in validation.results.items()}
    unknown = np.isin(plans.landmarks, measured.untrained)
    prior = pooled_prior([measured], plans, unknown)
    tables = _Tables(found, {case: np.where(t.present[:, None], t.points, np.nan) for case, t in truth.items()})
    errors, why = tables.errors(list(found)), _unsupported(prior, found)
    if prior is None or why is not None:
        return dataclasses.replace(measured, errors=dataclasses.replace(errors, why=str(why))), validation
    cases = list(found)
    tried = {}
    for part in (cases[i::PARTS] for i in range(min(PARTS, len(cases)))):
        others = tables.errors([case for case in cases if case not in part])
        tried |= {case: drawn(found[case], prior, others) for case in part}
    evidence = localisation([found[c] for c in cases], [tried[c] for c in cases], [truth[c] for c in cases])
    kept, why = verdict(evidence, plans.unit)
    logger.info("points are %s toward the mean shape: %s", "drawn" if kept else "not drawn", why)
    measured = dataclasses.replace(measured, errors=dataclasses.replace(errors, drawn=kept, why=why))
    if not kept:
        return measured, validation
    results = {}
    for case, result in validation.results.items():
        now = drawn(found[case], prior, errors)
        prediction = conclude(
            now.candidates.copy(), now.log_odds.copy(), now.spread, result.prediction.looks, now.geometry,
            plans, configuration, [measured], unknown,
        )  # fmt: skip
        results[case] = CaseResult(result.truth, prediction, result.diagonal)
    return measured, Validation(results, validation.seconds)


def drawn(found: Detections, prior: ShapePrior, errors: PointErrors) -> Detections:
    """A case's detections, the best points drawn toward the mean shape."""
    variance = errors.variance(found.names, found.spread)
    candidates = found.candidates.copy()
    candidates[:, 0] = shrink(candidates[:, 0], found.log_odds[:, 0], variance, prior)
    return dataclasses.replace(found, candidates=candidates)


def adopted(folder: Path, digest: str) -> PointErrors:
    """For a fold without held-out cases, in `folder`: what the finished folds beside it found that were trained by the
    same plans, of this digest."""
    folds = []
    for other in sorted(folder.parent.glob("fold_[0-9]*")):
        if checkpoint_file(other, "final").is_file():
            config = read_json(other / "config.json", remedy="restore it, or train this fold again")
            errors = Measured.load(other).errors
            if isinstance(config, dict) and config.get("plans_digest") == digest and errors is not None:
                folds.append(errors)
    if not folds:
        return PointErrors(why="no case is held out, and no numbered fold of these plans is finished that could tell")
    found = PointErrors.pooled(folds)
    said = found.why if len(folds) > 1 else f"as the only numbered fold that is finished: {found.why}"
    return dataclasses.replace(found, why=said)


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


@dataclasses.dataclass(frozen=True, eq=False)
class _Tables:
    """case -> detections; case -> (L, P) mm true points, NaN where not present."""

    found: Mapping[str, Detections]
    truth: Mapping[str, FloatArray]

    def errors(self, cases: list[str]) -> PointErrors:
        """Of the points of these cases."""
        if not cases:
            return PointErrors()
        best = np.stack([self.found[case].best for case in cases])
        spread = np.stack([self.found[case].spread for case in cases])
        names = self.found[cases[0]].names
        return fit_point_errors(best, np.stack([self.truth[case] for case in cases]), spread, names)
