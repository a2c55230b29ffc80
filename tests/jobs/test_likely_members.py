"""Which configurations will be united: the best one alone, or two whose errors make up for each other."""

from __future__ import annotations

import dataclasses

import numpy as np
from held_out import held_out

from autolmk.fold.held_out import CrossValidation
from autolmk.jobs.likely_members import likely_members

STAGES = {"a": 1, "b": 2}


def scattered(name: str, error: float, seed: int, folds: tuple[int, ...] = (0, 1)) -> CrossValidation:
    """12 cases with errors in random directions, those of two models independent."""
    model = held_out(name, [0.0] * 12, folds)
    rng = np.random.default_rng(seed)
    found = {
        case: dataclasses.replace(one, candidates=one.candidates + rng.normal(0, error, one.candidates.shape))
        for case, one in model.detections.items()
    }
    return dataclasses.replace(model, detections=found)


def test_the_best_one_alone_where_the_other_adds_nothing() -> None:
    assert likely_members({"a": scattered("a", 0.5, 1), "b": scattered("b", 5.0, 2)}, STAGES) == ("a",)


def test_both_where_their_errors_are_independent() -> None:
    assert set(likely_members({"a": scattered("a", 1.0, 1), "b": scattered("b", 1.0, 2)}, STAGES) or ()) == {"a", "b"}


def test_one_fold_does_not_tell() -> None:
    models = {name: scattered(name, 1.0, seed, (0,)) for seed, name in enumerate("ab")}
    assert likely_members(models, STAGES) is None
