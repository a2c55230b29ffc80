"""How time is shared by waves of trainings: numbers of waves, and that all of the time is used and no more."""

from __future__ import annotations

import pytest

from autolmk.jobs.run_record import BEYOND, RESERVED
from autolmk.jobs.time_shares import length, share_out, unmeasured, waves, waves_to_come, with_margin


@pytest.mark.parametrize(
    ("methods", "folds", "slots", "compared", "n"),
    [
        (2, 3, 2, False, 3),
        (1, 5, 2, False, 3),
        (2, 3, 4, False, 2),
        (3, 3, 2, False, 5),
        (3, 3, 2, True, 6),  # a fold of 3 takes 2 waves
        (4, 5, 2, True, 10),
        (2, 5, 4, True, 3),  # 2 folds at once
        (1, 5, 2, True, 3),
        (4, 1, 9, True, 1),
    ],
)
def test_waves(methods: int, folds: int, slots: int, compared: bool, n: int) -> None:
    assert waves(methods, folds, slots, compared=compared) == n


def test_the_first_fold_is_given_time_as_if_half_of_the_methods_were_left_after_it() -> None:
    assert waves_to_come(4, 5, 2, compared=True, first=True) == 2 + 4
    assert waves_to_come(4, 4, 2, compared=True, first=False) == 8
    assert waves_to_come(3, 3, 2, compared=True, first=True) == 2 + 2
    assert waves_to_come(1, 4, 2, compared=True, first=False) == waves_to_come(4, 1, 2, compared=False, first=True) == 2


def test_all_of_the_time_is_used_and_no_more() -> None:
    """6 trainings on 2 slots of 6600 s, of which prediction takes 600: 3 waves fill what is left, within 3 s."""
    shares = share_out(6600.0, {"predict": 600.0}, methods=2, folds=3, slots=2)
    kept = with_margin({"predict": 600.0}, 6600.0)
    assert shares.waves == 3 and kept == pytest.approx(600 * 1.15 + 66 + 3)
    used = shares.waves * (shares.training + BEYOND) + kept
    assert 6600 - 3 < used <= 6600
    assert length(100.0, 2, 10.0) == 40.0 and length(10.0, 1, 20.0) < 0
    assert share_out(60.0, {}, methods=9, folds=9, slots=1).training == 1.0


def test_shares_where_nothing_is_measured() -> None:
    assert sum(unmeasured(1000.0).values()) == pytest.approx(1000 * sum(RESERVED.values())) == pytest.approx(200)
