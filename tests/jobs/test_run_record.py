"""How the time of a run is shared out, and what a rerun may change."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from autolmk.errors import AutolmkError
from autolmk.jobs.run_record import (
    GivenUp,
    Record,
    TimeShares,
    Wanted,
    decided,
    load_record,
    save_record,
    stamp,
)
from autolmk.jobs.time_shares import share_out

FILE = Path("run.json")
SIX = Wanted(("a", "b"), ("0", "1", "2"), max_seconds=6600.0)


def shares(wanted: Wanted, slots: int) -> TimeShares:
    assert wanted.max_seconds is not None
    methods, folds = len(wanted.configurations), len(wanted.folds)
    return share_out(wanted.max_seconds, {"predict": 600.0}, methods=methods, folds=folds, slots=slots)


def decide(earlier: Record | None, wanted: Wanted, slots: int = 2, *, begun: bool = True) -> Record:
    return decided(earlier, wanted, lambda: shares(wanted, slots), begun=begun, file=FILE)


def test_a_rerun_keeps_what_was_decided_whatever_the_machine_allows_now(tmp_path: Path) -> None:
    lost = GivenUp(("0",), 7, 2.0, "a", 1.0, 1.0, 0.5, 0.1)
    first = dataclasses.replace(
        decide(None, SIX, slots=2, begun=False), lengths={"0": 900.0, "1": 800.0}, given_up={"b": lost}, judged=("0",)
    )
    save_record(tmp_path / "run.json", "autolmkPlans", first)
    save_record(tmp_path / "run.json", "others", Record(Wanted(("c",), ("all",)), None))
    read = load_record(tmp_path / "run.json", "autolmkPlans")
    assert read == first and load_record(tmp_path / "run.json", "unknown") is None
    assert decide(read, SIX, slots=1) == first
    assert decide(read, SIX, slots=1).kept().trainings() == [("a", "0"), ("a", "1"), ("a", "2")]
    assert decide(read, SIX, slots=1, begun=False).given_up == {}, "nothing is trained: all is decided anew"
    assert load_record(tmp_path / "missing.json", "autolmkPlans") is None


def test_a_record_of_an_earlier_version_keeps_its_one_length(tmp_path: Path) -> None:
    """Its trainings were all begun with 1760 s."""
    old = {"slots": 2, "waves": 3, "training": 1760.0, "reserved": {"prepare": 396.0}}
    wanted = {"configurations": ["a", "b"], "folds": ["0", "1", "2"], "max_seconds": 6600.0}
    text = {"version": 1, "runs": {"p": {"wanted": wanted, "shares": old, "expected": {}, "done": {}, "begun": {}}}}
    (tmp_path / "run.json").write_text(json.dumps(text))
    read = load_record(tmp_path / "run.json", "p")
    assert decide(read, SIX).lengths == {"0": 1760.0, "1": 1760.0, "2": 1760.0}


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
    assert more.trainings() == [("a", "0"), ("b", "0"), ("a", "1"), ("b", "1")]


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
