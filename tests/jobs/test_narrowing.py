"""What is left out where time is short: folds first, then the configurations of which least is to be expected."""

from __future__ import annotations

import pytest

from autolmk.jobs.giving_up import FEW_STEPS
from autolmk.jobs.narrowing import FEWEST_CASES, USEFUL_STEPS, fewest_folds, narrowed, ranked, useful_seconds
from autolmk.jobs.run_record import GivenUp


def found(mre: float, surely: float | None) -> GivenUp:
    return GivenUp(("0",), 7, mre, "best", 1.0, mre - 1, surely, 0.1)


def test_held_out_errors_rank_unless_trainings_were_too_short() -> None:
    """Then only who surely did worse goes behind the order of the plans."""
    each = {"a": found(1.3, 0.05), "b": found(1.0, None), "c": found(1.6, 0.3)}
    assert ranked(each, dict.fromkeys(each, FEW_STEPS), "cab") == ["b", "a", "c"]
    assert ranked(each, dict.fromkeys(each, FEW_STEPS - 1), "cab") == ["a", "b", "c"]


def test_useful_is_what_a_thousand_steps_of_each_stage_take() -> None:
    assert useful_seconds(200.0, 250) == 800.0 == 200 * USEFUL_STEPS / 250 and useful_seconds(200.0, 0) == 0.0


@pytest.mark.parametrize(
    ("folds", "cases", "least"), [(4, 7.0, 2), (4, 4.0, 3), (4, 2.0, 4), (1, 20.0, 1), (4, 50.0, 2)]
)
def test_enough_cases_are_held_out_where_there_are_so_many(folds: int, cases: float, least: int) -> None:
    assert fewest_folds(folds, cases) == least and (least * cases >= FEWEST_CASES or least == folds)


@pytest.mark.parametrize(
    ("seconds", "left"),
    [
        (8000.0, (3, 4)),  # 8 waves of 1000 s
        (7900.0, (3, 3)),  # folds first
        (4000.0, (3, 2)),
        (3900.0, (2, 3)),  # the third one costs as much as a fold
        (2000.0, (2, 2)),
        (1900.0, (1, 2)),  # both folds at once
        (400.0, (1, 2)),  # not long enough, but that is how it is
    ],
)
def test_folds_go_first_then_methods(seconds: float, left: tuple[int, int]) -> None:
    """On 2 slots, with 2 folds to be kept, and trainings that take 1000 s to be of use."""
    assert narrowed([990.0] * 3, 4, 2, 2, seconds, 10.0) == left


def test_one_that_needs_long_goes_where_others_do_not() -> None:
    assert narrowed([100.0, 5000.0], 4, 2, 2, 1000.0, 10.0) == (1, 4)
    assert narrowed([100.0, 100.0], 4, 2, 2, 1000.0, 10.0) == (2, 4)


def test_with_much_room_all_folds_train_at_once() -> None:
    assert narrowed([500.0], 4, 2, 8, 100.0, 10.0) == (1, 4)
