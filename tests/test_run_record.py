"""How the time of a run is shared out, and what a rerun may change."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from autolmk.errors import AutolmkError
from autolmk.jobs.run_record import RESERVED, Record, Wanted, decided, load_record, save_record, share_out, stamp

FILE = Path("run.json")
SIX = Wanted(("a", "b"), ("0", "1", "2"), max_seconds=6600.0)


def decide(earlier: Record | None, wanted: Wanted, slots: int = 2, *, begun: bool = True) -> Record:
    return decided(earlier, wanted, lambda: slots, begun=begun, file=FILE)


@pytest.mark.parametrize(
    ("trainings", "slots", "waves", "seconds"),
    [(6, 2, 3, 1760), (5, 2, 3, 1760), (6, 4, 2, 2640), (1, 8, 1, 5280), (6, 1, 6, 880)],
)
def test_time_is_shared_by_waves(trainings: int, slots: int, waves: int, seconds: float) -> None:
    shares = share_out(6600.0, trainings, slots)
    assert (shares.waves, shares.training) == (waves, seconds)
    assert sum(shares.reserved.values()) == pytest.approx(0.2 * 6600) and set(shares.reserved) == set(RESERVED)
    assert shares.waves * shares.training + sum(shares.reserved.values()) <= 6600


def test_a_rerun_keeps_the_shares_whatever_the_machine_allows_now(tmp_path: Path) -> None:
    first = decide(None, SIX, slots=2, begun=False)
    save_record(tmp_path / "run.json", "autolmkPlans", first)
    save_record(tmp_path / "run.json", "others", Record(Wanted(("c",), ("all",)), None))
    read = load_record(tmp_path / "run.json", "autolmkPlans")
    assert read == first and load_record(tmp_path / "run.json", "unknown") is None
    assert decide(read, SIX, slots=1).shares == first.shares
    assert load_record(tmp_path / "missing.json", "autolmkPlans") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_seconds": 3600.0}, "--max-time was 6600 s and is now 3600 s"),
        ({"max_seconds": None, "epochs": 5}, "--epochs was not given and is now 5"),
        ({"seed": 1}, "--seed was not given and is now 1"),
        ({"folds": ("0", "1")}, "-f was 0 1 2 and is now 0 1"),
        ({"configurations": ("a",)}, "-c was a b and is now a"),
        ({"preset": "M"}, "--preset was not given and is now M"),
    ],
)
def test_other_arguments_are_refused_once_something_is_trained(changes: dict[str, Any], said: str) -> None:
    first, other = decide(None, SIX, begun=False), dataclasses.replace(SIX, **changes)
    with pytest.raises(AutolmkError, match="begun with other arguments") as error:
        decide(first, other)
    assert said in str(error.value)
    assert decide(first, other, begun=False).wanted == other


def test_more_folds_may_come_where_no_time_is_shared() -> None:
    first = decide(None, Wanted(("a",), ("0",)), begun=False)
    more = Wanted(("a", "b"), ("0", "1"))
    assert decide(first, more).wanted == more
    assert more.trainings() == [("a", "0"), ("a", "1"), ("b", "0"), ("b", "1")]


def test_a_stamp_tells_of_every_change(tmp_path: Path) -> None:
    file = tmp_path / "images" / "a.nii"
    file.parent.mkdir()
    file.write_text("1")
    before = stamp([file.parent, tmp_path / "missing"], ["x"])
    assert stamp([file.parent, tmp_path / "missing"], ["x"]) == before != stamp([file.parent], ["y"])
    os.utime(file, ns=(1, 1))
    assert stamp([file.parent], ["x"]) != before
    file.write_text("22")
    bigger = stamp([file.parent], ["x"])
    (tmp_path / "images" / "b.nii").write_text("1")
    assert len({before, bigger, stamp([file.parent], ["x"])}) == 3


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{"version": 99}')
    with pytest.raises(AutolmkError, match="another version") as error:
        load_record(file, "autolmkPlans")
    assert str(file) in str(error.value)
