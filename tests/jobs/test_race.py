"""The trainings of a run, with a clock that only trainings move: which, in which order, how long, what is given up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from held_out import held_out

from autolmk.conformance.examples import example_plans
from autolmk.errors import AutolmkError
from autolmk.files.serialization import write_json
from autolmk.jobs import race
from autolmk.jobs.job import Job, JobResult
from autolmk.jobs.race import Means, Race
from autolmk.jobs.run_record import Record, TimeShares, Wanted
from autolmk.jobs.workflow import Request, trainings
from autolmk.paths import folders
from autolmk.plans import Plans

UNIT = example_plans(trainer="heatmap").configurations["example"]
AFTER = 100.0  # s that later steps take
ERRORS = {"a": 1.0, "b": 1.0, "c": 3.0, "d": 4.0}  # so that c and d are given up


class World:
    """Trainings take their length and `beyond` s more, all of a wave at once. stop: s at which the run is killed."""

    def __init__(self, tmp_path: Path, names: str, folds: int, *, limit: float | None, slots: int, **more: Any) -> None:
        self.now, self.limit, self.slots, self.beyond = 0.0, limit, slots, 20.0
        self.stop = float("inf")
        configurations = dict.fromkeys(names, UNIT)
        self.plans: Plans = dataclasses.replace(example_plans(trainer="heatmap"), configurations=configurations)
        places = folders(tmp_path / "raw", tmp_path / "preprocessed", tmp_path / "results", {})
        self.request = Request("Dataset001_A", places, "plans", max_seconds=limit, **more)
        split = [{"train": [], "val": [f"c{f}{i}" for i in range(8)]} for f in range(folds)]
        write_json(tmp_path / "preprocessed" / "Dataset001_A" / "splits_final.json", split)
        wanted = Wanted(tuple(names), tuple(map(str, range(folds))), limit)
        self.record = Record(wanted, None if limit is None else TimeShares(slots, 1, 1.0, {}))
        self.waves: list[list[str]] = []
        self.cores: list[int] = []
        self.said: list[str] = []

    def run(self, jobs: Sequence[Job], slots: int) -> list[JobResult]:
        self.waves.append([job.name.replace(" fold ", "") for job in jobs])
        self.cores.append(slots)
        end = self.now + max(job.seconds or 0.0 for job in jobs) + self.beyond
        if end > self.stop:
            self.now = self.stop
            raise KeyboardInterrupt
        for job in jobs:
            for file in job.outputs:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        self.now = end
        return [JobResult(job, 0, (job.seconds or 0.0) + self.beyond) for job in jobs]

    def left(self, record: Record) -> float | None:
        return None if self.limit is None else self.limit - AFTER - self.now

    def keep(self, record: Record) -> None:
        self.record = record

    def race(self) -> Record:
        means = Means(self.run, self.slots, self.left, self.keep, self.said.append)
        return Race(self.request, self.plans, self.record, means).all()

    def lengths(self) -> dict[str, float]:
        return {fold: seconds + self.beyond for fold, seconds in self.record.lengths.items()}


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """Instead of detections on disk: 8 cases a fold, with errors as ERRORS says."""
    calls: list[tuple[str, list[int]]] = []

    def read(model: Path, folds: Sequence[int]) -> Any:
        name = model.name.rpartition("__")[2]
        calls.append((name, list(folds)))
        noise = np.random.default_rng(ord(name)).lognormal(0, 0.02, 8 * len(folds))
        return held_out(name, [ERRORS[name] * factor for factor in noise], folds)

    monkeypatch.setattr(race, "read_crossval", read)
    monkeypatch.setattr(race, "steps_of", lambda fold, stages: 5000)
    return calls


def test_hopeless_ones_are_given_up_and_their_time_goes_to_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, "abcd", 5, limit=2000.0, slots=2)
    record = world.race()
    assert world.waves == [["a0", "b0"], ["c0", "d0"], ["a1", "b1"], ["a2", "b2"], ["a3", "b3"], ["a4", "b4"]]
    assert set(record.given_up) == {"c", "d"} and record.given_up["c"].best == "a"
    assert record.judged == ("0", "1", "2", "3") and record.kept().configurations == ("a", "b")
    assert 1900 - 5 < world.now <= 1900, "neither a fold more nor less than the time that is left"
    assert world.lengths()["4"] > 300 and len(record.lengths) == 5
    assert any(word.startswith("\nc is given up: on 8 held-out cases") for word in world.said)


def test_of_one_that_is_left_as_many_folds_as_there_is_room_for_train_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ERRORS, "b", 3.0)
    world = World(tmp_path, "abcd", 5, limit=2000.0, slots=2)
    world.race()
    assert world.waves == [["a0", "b0"], ["c0", "d0"], ["a1", "a2"], ["a3", "a4"]]
    assert 1895 < world.now <= 1900 and world.record.judged == ("0",)
    assert world.lengths()["1"] == pytest.approx((1900 - 2 * world.lengths()["0"]) / 2, abs=2)


def test_who_are_alike_are_all_trained_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "cd":
        monkeypatch.setitem(ERRORS, name, 1.05)
    world = World(tmp_path, "abcd", 3, limit=3000.0, slots=2)
    record = world.race()
    assert record.given_up == {} and len(world.waves) == 6 and 2890 < world.now <= 2900


def test_one_core_a_training_as_long_as_they_are_compared(tmp_path: Path) -> None:
    """Of three configurations on two slots, the third one is alone, and gets no more of the machine than the others."""
    world = World(tmp_path, "abc", 2, limit=2000.0, slots=2)
    world.race()
    assert world.waves == [["a0", "b0"], ["c0"], ["a1", "b1"]] and world.cores[:2] == [2, 2]
    one = World(tmp_path / "one", "a", 3, limit=2000.0, slots=2)
    one.race()
    assert one.waves == [["a0", "a1"], ["a2"]] and one.cores == [2, 1]


@pytest.mark.parametrize(("slots", "waves"), [(1, 8), (4, 2), (8, 2)])
def test_more_or_less_room(slots: int, waves: int, tmp_path: Path) -> None:
    """With room for two folds of all, both are trained before anything is compared."""
    world = World(tmp_path, "abcd", 3, limit=2000.0, slots=slots)
    world.race()
    assert len(world.waves) == waves and 1900 - waves - 5 < world.now <= 1900
    assert set(world.record.given_up) == {"c", "d"}


def test_all_are_kept_on_demand(tmp_path: Path, judged: list[Any]) -> None:
    world = World(tmp_path, "abcd", 3, limit=3000.0, slots=2, keep_all=True)
    record = world.race()
    assert record.given_up == {} and judged == [] and sum(map(len, world.waves)) == 12
    assert 2890 < world.now <= 2900


def test_in_a_short_time_the_best_is_trained_for_long_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All err alike, but a training needs 900 s to be of use, and fold 0 has 300: so one is left, on two folds, and
    fold 0, trained for a third of the time, does not join it."""
    for name in "bcd":
        monkeypatch.setitem(ERRORS, name, 1.02)
    monkeypatch.setattr(race, "steps_of", lambda fold, stages: 333)
    world = World(tmp_path, "abcd", 5, limit=2000.0, slots=2)
    record = world.race()
    assert world.waves == [["a0", "b0"], ["c0", "d0"], ["a1", "a2"]] and record.left_out == ("3", "4", "0")
    assert {name: why.for_time for name, why in record.given_up.items()} == {"b": True, "c": True, "d": True}
    assert record.kept().folds == ("1", "2") and 1895 < world.now <= 1900
    assert world.lengths()["1"] > 3.5 * world.lengths()["0"]
    assert any("fold 0: trained for too short a time" in word for word in world.said)


def test_folds_that_were_asked_for_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "bcd":
        monkeypatch.setitem(ERRORS, name, 1.02)
    monkeypatch.setattr(race, "steps_of", lambda fold, stages: 333)
    world = World(tmp_path, "abcd", 3, limit=2000.0, slots=2)
    world.request = dataclasses.replace(world.request, folds=("0", "1", "2"))
    record = world.race()
    assert record.left_out == () and record.kept().trainings() == [("a", "0"), ("a", "1"), ("a", "2")]


def test_few_held_out_cases_keep_their_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 cases a fold: all folds together hold 10 out, so that none is left out, not even a short one."""
    monkeypatch.setattr(race, "steps_of", lambda fold, stages: 100)

    def few(model: Path, folds: Sequence[int]) -> Any:
        return held_out(model.name.rpartition("__")[2], [1.0 + 0.1 * i for i in range(2 * len(folds))], folds)

    monkeypatch.setattr(race, "read_crossval", few)
    world = World(tmp_path, "ab", 5, limit=2000.0, slots=2)
    split = [{"train": [], "val": [f"c{f}{i}" for i in range(2)]} for f in range(5)]
    write_json(tmp_path / "preprocessed" / "Dataset001_A" / "splits_final.json", split)
    assert world.race().left_out == ()


@pytest.mark.parametrize("slots", [1, 3])
def test_without_a_limit_folds_take_as_long_as_planned(slots: int, tmp_path: Path) -> None:
    world = World(tmp_path, "abc", 3, limit=None, slots=slots)
    record = world.race()
    assert world.waves == [["a0", "b0", "c0"], ["a1", "b1"], ["a2", "b2"]]
    assert record.lengths == {} and set(record.given_up) == {"c"} and record.beyond == {}
    assert all("--max-time" not in job.command for job in trainings(world.request, world.plans, record))


@pytest.mark.parametrize("stop", [100.0, 500.0, 700.0, 1000.0, 1500.0, 1890.0])
def test_a_run_that_was_broken_off_goes_on_with_the_same_decisions(stop: float, tmp_path: Path) -> None:
    """What was trained is not trained again; what was decided stays; the end is that of an unbroken run."""
    unbroken = World(tmp_path / "unbroken", "abcd", 5, limit=2000.0, slots=2)
    unbroken.race()
    world = World(tmp_path / "broken", "abcd", 5, limit=2000.0, slots=2)
    world.stop = stop
    with pytest.raises(KeyboardInterrupt):
        world.race()
    decided, done = world.record, [name for wave in world.waves[:-1] for name in wave]
    world.waves, world.stop, world.now = [], float("inf"), world.now - (stop - _begun(unbroken, stop))
    record = world.race()
    again = [name for wave in world.waves for name in wave]
    assert not set(done) & set(again)
    assert {fold: record.lengths[fold] for fold in decided.lengths} == decided.lengths
    assert record.given_up == unbroken.record.given_up and record.lengths == pytest.approx(
        unbroken.record.lengths, abs=1
    )


def _begun(world: World, stop: float) -> float:
    """When the wave began that runs at `stop`: its trainings go on from there, as their own clocks say."""
    begun = 0.0
    for wave in world.waves:
        end = begun + world.lengths()[wave[0][1:]]
        if end > stop:
            return begun
        begun = end
    return begun


def test_a_kill_between_the_last_training_of_a_fold_and_its_judgement(tmp_path: Path) -> None:
    world = World(tmp_path, "abcd", 5, limit=2000.0, slots=2)
    world.stop = 1000.0
    with pytest.raises(KeyboardInterrupt):
        world.race()
    world.record = dataclasses.replace(world.record, given_up={}, judged=())
    world.stop = float("inf")
    assert set(world.race().given_up) == {"c", "d"}


def test_a_run_that_is_too_short_to_compare_begins_with_what_is_expected_most_of(tmp_path: Path) -> None:
    """150 s for 20 trainings on one slot: one method on the 3 folds that 40 s each allow, and nothing is an error."""
    world = World(tmp_path, "abcd", 5, limit=250.0, slots=1)
    record = world.race()
    assert world.waves == [["a0"], ["a1"], ["a2"]] and record.left_out == ("3", "4")
    assert set(record.given_up) == {"b", "c", "d"} and all(not lost.folds for lost in record.given_up.values())
    assert any("b, c, d, fold 3, fold 4: left out at once" in word for word in world.said)
    named = World(tmp_path / "named", "ab", 2, limit=200.0, slots=1)
    named.request = dataclasses.replace(named.request, configurations=("a", "b"), folds=("0", "1"))
    named.beyond = 5.0
    named.race()
    assert sum(map(len, named.waves)) == 4 and named.record.given_up == {}


def test_time_that_is_gone(tmp_path: Path) -> None:
    """Before the first fold it is an error; later, folds are left out, and what there is, is used."""
    with pytest.raises(AutolmkError, match="no time is left for training") as error:
        World(tmp_path / "none", "ab", 3, limit=105.0, slots=2).race()
    assert "--max-time" in str(error.value)
    world = World(tmp_path / "late", "ab", 3, limit=1000.0, slots=2)
    world.beyond = 500.0  # much longer than anybody could know
    record = world.race()
    assert record.left_out in (("2",), ("2", "1"))
    assert record.kept().folds == tuple(fold for fold in "012" if fold not in record.left_out)


def test_a_kill_teaches_nothing_about_what_a_training_takes_beyond_its_length(tmp_path: Path) -> None:
    world = World(tmp_path, "a", 4, limit=4000.0, slots=1)
    world.race()
    assert world.record.beyond == {"a": world.beyond}
    slow = World(tmp_path / "slow", "a", 4, limit=4000.0, slots=1)
    slow.beyond = 900.0  # as of a training that was killed and trained again
    slow.race()
    assert slow.record.beyond == {}
