"""The configurations that are not worth more training, judged on the cases that the same folds of all of them held out.

Like is compared with like: the same held-out cases, at the final weights of trainings of the same length. The cases are
drawn with replacement, those of two configurations together (studentised bootstrap, `evaluation.bootstrap`), and the
lower end of the 95 % interval of the relative loss counts: a configuration is given up where it surely errs more than
`TOLERATED` beyond the best one. Ensembles may still gain by one that errs less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autolmk.evaluation.bootstrap import Estimate, resample_cases
from autolmk.evaluation.comparison import N_RESAMPLES, relative_loss
from autolmk.fold.held_out import CrossValidation, common_cases
from autolmk.fold.log import read_log
from autolmk.geometry import FloatArray
from autolmk.jobs.run_record import GivenUp
from autolmk.paths import MEASURING
from autolmk.selection.model_selection import case_errors

TOLERATED = 0.10  # relative loss that trainings of the same length may show
FEW_STEPS, TOLERATED_EARLY = 500, 1.0  # in shorter trainings errors still fall fast, so ranks may change


def judged(models: Mapping[str, CrossValidation], steps: Mapping[str, int]) -> dict[str, GivenUp]:
    """Judge each configuration by its held-out cases of the same folds: what would be said if it were given up; those
    that are to be are `hopeless`. steps: configuration -> training steps of its shortest stage. Fewer than 5 cases tell
    nothing.
    """
    cases = common_cases(models)
    held_out = {name: model.restricted(cases) for name, model in models.items()}
    totals = {name: _totals(model) for name, model in held_out.items()}
    best = min(totals, key=lambda name: float(totals[name][:, 0].sum()))
    draws = resample_cases(len(cases), N_RESAMPLES, 0)
    folds = tuple(map(str, held_out[best].folds))
    result = {}
    for name, found in totals.items():
        loss = relative_loss(found, totals[best], draws) if name != best else Estimate(0.0)
        few = min(steps[name], steps[best]) < FEW_STEPS
        result[name] = GivenUp(
            folds, len(cases), _mean(found), best, _mean(totals[best]), loss.value or 0.0, loss.low,
            TOLERATED_EARLY if few else TOLERATED,
        )  # fmt: skip
    return result


def steps_of(fold: Path, stages: Sequence[str]) -> int:
    """Training steps of the shortest of the stages, given first to last, of which a fold's folder holds the last and
    each other one lies inside the next; 0 where no log tells. What a stage was trained for to be measured counts too.
    """
    found, place = [], fold
    for before in (*reversed(stages[:-1]), None):
        found.append(sum(_steps(part) for part in (place, place / MEASURING)))
        place = place if before is None else place / before
    return min(found)


def _steps(folder: Path) -> int:
    return max((entry["iteration"] for entry in read_log(folder)), default=0)


def _totals(model: CrossValidation) -> FloatArray:
    """(N, 2) sum of errors and number of points of each case."""
    errors = case_errors(model)
    return np.array([(e.sum(), len(e)) for e in errors], dtype=np.float64).reshape(len(errors), 2)


def _mean(totals: FloatArray) -> float:
    return float(totals[:, 0].sum() / max(1.0, totals[:, 1].sum()))
