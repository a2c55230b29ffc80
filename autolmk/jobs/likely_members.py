"""The configurations that the final predictor will likely combine, judged by the folds trained so far: prediction takes
as long as all of them together.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from autolmk.evaluation.comparison import Candidate, compare, simplest
from autolmk.fold.held_out import CrossValidation, common_cases
from autolmk.selection.ensembling import choose_combination
from autolmk.selection.model_selection import MOST_MEMBERS, case_errors


def likely_members(models: Mapping[str, CrossValidation], stages: Mapping[str, int]) -> tuple[str, ...] | None:
    """The configurations that are likely to be combined, from the held-out cases of the same folds, by the rule of
    `model_selection`. stages: the number of stages of each. None before two folds, without which no ensemble can be
    judged.
    """
    cases = common_cases(models)
    held_out = {name: model.restricted(cases) for name, model in models.items()}
    if len(next(iter(held_out.values())).folds) < 2:
        return None
    candidates = {name: _candidate((name,), model, stages) for name, model in held_out.items()}
    for n in range(2, min(MOST_MEMBERS, len(models)) + 1):
        for names in itertools.combinations(held_out, n):
            _, together, _ = choose_combination({name: held_out[name] for name in names}, seed=0)
            candidates[together.name] = _candidate(names, together, stages)
    return candidates[simplest(candidates, compare(candidates, seed=0))[0]].members


def _candidate(members: tuple[str, ...], found: CrossValidation, stages: Mapping[str, int]) -> Candidate:
    return Candidate(members, sum(stages[name] for name in members), 0, case_errors(found))
