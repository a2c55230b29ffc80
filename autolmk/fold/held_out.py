"""Cross-validation: what a model's folds say of the cases that each of them held out, with the truth.

Every choice that comes after training (which model, how models are combined, which steps follow, how large errors are)
is made on these predictions and on nothing else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autolmk.annotations import Annotation, read_table
from autolmk.detections import Detections, file_of, saved_cases
from autolmk.errors import AutolmkError, some
from autolmk.landmarks import Landmarks

logger = logging.getLogger(__name__)
VALIDATION, TRUTH = "validation", "truth.csv"  # in a fold's folder
REMEDY = "validate the fold again: autolmk_train DATASET CONFIGURATION FOLD --val"


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """The held-out detections of a model's folds. name: of the model, TRAINER__PLANS__CONFIGURATION. fold_of: case ->
    the fold that held it out. detections and truth: of each of these cases, all with the same names in the same order.
    """

    name: str
    fold_of: dict[str, int]
    detections: dict[str, Detections]
    truth: dict[str, Landmarks]

    @property
    def cases(self) -> tuple[str, ...]:
        """All held-out cases, sorted."""
        return tuple(sorted(self.fold_of))

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that held out cases, sorted."""
        return tuple(sorted(set(self.fold_of.values())))

    def held_out_by(self, fold: int) -> tuple[str, ...]:
        """Sorted cases of a fold."""
        return tuple(case for case in self.cases if self.fold_of[case] == fold)

    def restricted(self, cases: Sequence[str]) -> CrossValidation:
        """The same cross-validation with these cases alone."""
        kept = set(cases)
        return CrossValidation(
            self.name,
            {case: fold for case, fold in self.fold_of.items() if case in kept},
            {case: found for case, found in self.detections.items() if case in kept},
            {case: truth for case, truth in self.truth.items() if case in kept},
        )

    def diagonals(self) -> dict[str, float]:
        """The length of each case's image diagonal."""
        return {case: math.hypot(*d.geometry.extent) for case, d in self.detections.items()}


def read_crossval(model: Path, folds: Sequence[int]) -> CrossValidation:
    """Read the held-out detections of a model folder from fold_k/validation of these folds. AutolmkError where a fold
    was not validated, or two folds held out the same case.
    """
    fold_of: dict[str, int] = {}
    detections: dict[str, Detections] = {}
    truth: dict[str, Landmarks] = {}
    for fold in folds:
        folder = model / f"fold_{fold}" / VALIDATION
        cases = saved_cases(folder)
        if not cases or not (folder / TRUTH).is_file():
            raise AutolmkError(
                f"fold {fold} has no predictions of its held-out cases",
                file=folder,
                found="no truth.csv" if cases else "no detections",
                remedy=REMEDY,
            )
        table = read_table(folder / TRUTH)
        twice = sorted(set(cases) & set(fold_of))
        if twice or set(cases) != set(table):
            raise AutolmkError(
                "two folds held out the same case" if twice else "predictions and truth are of different cases",
                file=folder,
                found=some(twice or sorted(set(cases) ^ set(table))),
                remedy="train all folds with one splits_final.json" if twice else REMEDY,
            )
        for case in cases:
            fold_of[case] = fold
            detections[case] = Detections.load(folder, case)
            truth[case] = _truth(table[case], detections[case])
            _require_alike(folder, case, detections)
    return CrossValidation(model.name, fold_of, detections, truth)


def _require_alike(folder: Path, case: str, detections: Mapping[str, Detections]) -> None:
    """AutolmkError where a case has other landmarks or axes than the first one."""
    one, first = detections[case], next(iter(detections.values()))
    if one.names != first.names or one.geometry.physical_ndim != first.geometry.physical_ndim:
        raise AutolmkError(
            "a model's held-out cases have different landmarks",
            file=file_of(folder, case),
            found=f"{len(one.names)} on {one.geometry.physical_ndim} axes",
            expected=f"the same {len(first.names)}, in the same order, on {first.geometry.physical_ndim} axes",
            remedy=REMEDY,
        )


def _truth(found: Annotation, detections: Detections) -> Landmarks:
    p = detections.geometry.physical_ndim
    return Landmarks(found.names, found.points[:, :p], found.status).reordered(detections.names)


def common_cases(models: Mapping[str, CrossValidation]) -> tuple[str, ...]:
    """Cases that every model held out, in the same fold. AutolmkError where there are none, or where folds differ: then
    one model was trained on what another is judged by."""
    first, *others = models.values()
    cases = set(first.fold_of).intersection(*(model.fold_of for model in others))
    differing = sorted(c for c in cases if len({model.fold_of[c] for model in models.values()}) > 1)
    if differing or not cases:
        raise AutolmkError(
            "the models were not trained on the same splits",
            found=f"{some(differing)} held out in different folds"
            if differing
            else "no case that all of them held out",
            expected=f"the same folds of {', '.join(models)}",
            remedy="train the same folds of each, with one splits_final.json",
        )
    left_out = set().union(*(model.fold_of for model in models.values())) - cases
    if left_out:
        logger.warning("judged on %d cases; not all models held out %s", len(cases), some(sorted(left_out)))
    return tuple(sorted(cases))
