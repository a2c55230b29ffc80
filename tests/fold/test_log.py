"""The run's log, console, picture and loggers; schedule and budget."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from autolmk.errors import AutolmkError
from autolmk.fold import log as log_module
from autolmk.fold.log import LOG_NAME, PICTURE_NAME, RunLog, build_loggers, check_loggers, duration, read_log, time_left
from autolmk.plans import Schedule
from autolmk.training.schedule import Limits, StepRate, ValidationBudget

EPOCH = {"loss": 2.0, "learning_rate": 0.1, "epoch": 1}


@pytest.fixture(autouse=True)
def drawn(pictures_of_progress: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Here pictures are drawn; how many entries each one shows."""
    found: list[int] = []

    def draw(entries: list[Mapping[str, Any]], unit: str) -> bytes:
        found.append(len(entries))
        return pictures_of_progress(entries, unit)

    monkeypatch.setattr(log_module, "progress_picture", draw)
    return found


class Recorder:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def begin(self, run: Mapping[str, Any]) -> None:
        self.calls.append(("begin", dict(run)))

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.calls.append(("log", (iteration, dict(values))))

    def end(self) -> None:
        self.calls.append(("end", None))


def test_entries_are_lines_and_reach_other_loggers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, drawn: list[int]
) -> None:
    other = Recorder()
    log = RunLog(tmp_path, keep_until=0, unit="mm", loggers=[other])
    with caplog.at_level(logging.INFO, "autolmk"):
        log.add("epoch", 10, 1.23456, EPOCH, message="one")
        log.add("epoch", 20, 2.0, {**EPOCH, "loss": float("nan")}, message="too soon to be said")
        log.add("validation", 20, 2.5, {"mre": 1.5, "median": 1.0, "cases": 3}, message="said")
    log.draw()
    log.close()
    assert drawn == [1, 3]  # early, so that it is there to be seen; at the end; and never the same picture twice
    lines = [json.loads(line) for line in (tmp_path / LOG_NAME).read_text().splitlines()]
    assert lines == read_log(tmp_path) == log.entries
    assert lines[0] == {"kind": "epoch", "iteration": 10, "elapsed": 1.235, **EPOCH} and lines[1]["loss"] is None
    assert [r.message for r in caplog.records] == ["one", "said"]
    kinds = [kind for kind, _ in other.calls]
    assert kinds == ["log", "log", "log", "end"]
    assert other.calls[2][1][0] == 20 and other.calls[2][1][1]["validation_mre"] == 1.5
    assert (tmp_path / PICTURE_NAME).read_bytes().startswith(b"\x89PNG")


def test_a_resume_forgets_what_its_checkpoint_has_not_seen(tmp_path: Path) -> None:
    log = RunLog(tmp_path, keep_until=0, unit="mm")
    for iteration in (10, 20, 30):
        log.add("epoch", iteration, 1.0, EPOCH)
    with (tmp_path / LOG_NAME).open("a") as stream:
        stream.write('{"kind": "epo')  # killed amid a line
    again = RunLog(tmp_path, keep_until=20, unit="mm")
    again.add("epoch", 25, 1.0, EPOCH)
    assert [e["iteration"] for e in read_log(tmp_path)] == [10, 20, 25]
    assert RunLog(tmp_path, keep_until=99, unit="mm", fresh=True).entries == read_log(tmp_path) == []


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).write_text('{"kind"\n{"kind": "epoch", "iteration": 1}\n')
    with pytest.raises(AutolmkError, match=r"(?s)damaged.*training_log.jsonl.*line 1"):
        read_log(tmp_path)


def test_unknown_and_missing_loggers(tmp_path: Path) -> None:
    with pytest.raises(AutolmkError, match="did you mean 'tensorboard'"):
        build_loggers(["tensorbord"], tmp_path)
    assert build_loggers([], tmp_path) == []


def test_a_logger_that_is_not_installed_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name, module in (("wandb", "wandb"), ("mlflow", "mlflow"), ("tensorboard", "torch.utils.tensorboard")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(AutolmkError, match=rf"(?s){name} is not installed.*autolmk\[{name}\]"):
            check_loggers([name])
        with pytest.raises(AutolmkError, match="is not installed"):
            build_loggers([name], tmp_path)


def test_times_are_readable() -> None:
    assert [duration(s) for s in (5, 90, 600, 12_000, None)] == ["5 s", "90 s", "10 min", "3 h 20 min", "unknown time"]
    assert time_left(0.25, 30.0) == pytest.approx(90) and time_left(0, 5) is None


# -- schedule ---------------------------------------------------------------------------------------------------------

SCHEDULE = Schedule(
    epochs=10,
    iterations_per_epoch=100,
    max_seconds=50.0,
    learning_rate=1.0,
    weight_decay=0.0,
    ema_decay=0.9,
    validation_share=0.1,
)


def test_limits_follow_what_the_user_gives() -> None:
    assert Limits.of(SCHEDULE) == Limits(1000, 50.0)
    assert Limits.of(SCHEDULE, epochs=3) == Limits(300, None)
    assert Limits.of(SCHEDULE, max_seconds=7.0) == Limits(1000, 7.0)
    assert Limits.of(SCHEDULE, epochs=3, max_seconds=7.0) == Limits(300, 7.0)
    assert Limits.of(SCHEDULE, share=0.4) == Limits(400, 20.0)
    assert Limits.of(SCHEDULE, epochs=1, share=0.4) == Limits(100, None)  # an epoch at least


def test_progress_is_the_share_that_is_further_on() -> None:
    limits = Limits(1000, 50.0)
    assert limits.progress(100, 40.0) == pytest.approx(0.8)
    assert limits.progress(900, 10.0) == pytest.approx(0.9)
    assert limits.progress(0, 45.0, reserve=5.0) == 1.0
    assert Limits(1000, None).progress(100, 1e9) == pytest.approx(0.1)


def simulated(share: float, n_cases: int, per_case: float, steps: float = 100.0) -> tuple[float, int, float]:
    """A run of `steps` seconds of training in 200 epochs: (share of time spent validating, times, cases each)."""
    budget, elapsed, times = ValidationBudget(share, n_cases), 0.0, 0
    for epoch in range(1, 201):
        elapsed += steps / 200
        progress = epoch / 200
        n = budget.affordable(progress, elapsed) if budget.due(progress) else 0
        if n:
            elapsed += n * per_case
            budget.took(n, n * per_case, progress)
            times += 1
    final = n_cases * per_case
    return (budget.spent + final) / (elapsed + final), times, budget.chosen or 0


@pytest.mark.parametrize(("n_cases", "per_case"), [(2, 0.01), (5, 0.1), (20, 0.05), (30, 0.2), (10, 0.5)])
def test_validation_stays_within_its_share(n_cases: int, per_case: float) -> None:
    share, times, cases = simulated(0.1, n_cases, per_case)
    final_alone = n_cases * per_case / (100 + n_cases * per_case)
    assert share <= max(0.1, final_alone) + 0.01
    assert times >= 3 and 1 <= cases <= n_cases


def test_cheap_validation_is_complete_and_frequent() -> None:
    _, times, cases = simulated(0.1, 5, 0.001)
    assert times == 20 and cases == 5


def test_dear_validation_happens_at_the_end_alone() -> None:
    _, times, _ = simulated(0.1, 50, 1.0)
    assert times == 1  # one look at one case, to know what it costs


def test_time_is_kept_for_the_final_validation() -> None:
    budget = ValidationBudget(0.1, 10)
    limits = Limits(10**9, 100.0)
    assert budget.reserve(limits) == 0
    budget.took(1, 0.5, 0.05)
    assert budget.reserve(limits) == pytest.approx(5)
    budget.took(1, 5.0, 0.1)
    assert budget.reserve(limits) == pytest.approx(50)  # all that it needs, at most half of the limit
    budget.took(1, 3.0, 0.1)
    assert budget.reserve(limits) == pytest.approx(30)  # though the share is a tenth
    assert budget.reserve(Limits(100, None)) == 0


def test_a_first_case_is_timed_where_no_epoch_ends() -> None:
    budget, limits = ValidationBudget(0.1, 10), Limits(10**9, 100.0)
    assert not budget.must_time(0.04, limits) and budget.must_time(0.06, limits) and not budget.must_time(1.0, limits)
    assert not budget.must_time(0.06, Limits(100, None)) and not ValidationBudget(0.1, 0).must_time(0.06, limits)
    budget.took(1, 0.5, 0.06)
    assert not budget.must_time(0.5, limits)


def test_time_is_kept_for_searches_at_the_end() -> None:
    budget, limits = ValidationBudget(0.1, 10, searches=True), Limits(10**9, 100.0)
    budget.took(1, 0.5, 0.06)
    assert budget.reserve(limits) == pytest.approx(10)


def said_of(seconds_a_step: float, limits: Limits, first: float = 30.0, **seconds: float) -> list[tuple[int, str]]:
    """What is said after which step; the very first step takes `first` seconds."""
    rate, said = StepRate(), []
    for step in range(1, 200):
        sentence = rate.shortage(step, first + (step - 1) * seconds_a_step, limits, **seconds)
        said += [(step, sentence)] if sentence is not None else []
    return said


def test_a_time_limit_of_few_steps_is_said_once_and_early() -> None:
    ((step, sentence),) = said_of(10.0, Limits(10_000, 1000.0), reserve=70.0)
    assert step == 3 and "about 91 steps of 10 s, fewer than 500" in sentence
    assert "--max-time about 93 min or more" in sentence  # 1.1 * (30 + 499 * 10 + 70) s
    ((step, sentence),) = said_of(0.3, Limits(10_000, 70.0), first=10.3)
    assert step == 6 and "about 200 steps" in sentence  # at 2 % of the limit


def test_enough_steps_or_no_time_limit_need_no_word() -> None:
    assert not said_of(0.1, Limits(10_000, 100.0))
    assert not said_of(10.0, Limits(10_000, None))
    assert not said_of(10.0, Limits(80, 1000.0))  # the user asked for no more
