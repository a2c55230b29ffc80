"""The time of a run counts over all calls, and survives a kill but for a few seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from autolmk.jobs import run_clock
from autolmk.jobs.run_clock import RunClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    result = [1000.0]
    monkeypatch.setattr(run_clock, "time", SimpleNamespace(monotonic=lambda: result[0]))
    return result


def test_time_adds_up_over_calls_and_plans_do_not_mix(now: list[float], tmp_path: Path) -> None:
    file = tmp_path / "seconds.json"
    for call in range(3):
        with RunClock(file, "mine") as clock:
            now[0] += 20
            assert clock.seconds() == 20 * (call + 1)
    with RunClock(file, "others") as clock:
        assert clock.seconds() == 0
    assert RunClock(file, "mine").seconds() == 60
    again = RunClock(file, "mine")
    again.restart()
    assert again.seconds() == 0


def test_it_is_written_down_on_the_way(
    now: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    """As before a kill, after which nothing is written any more."""
    monkeypatch.setattr(run_clock, "KEPT_EVERY", 0.01)
    file, before = tmp_path / "seconds.json", threading.active_count()
    with RunClock(file, "mine"):
        now[0] += 33
        wait_until(lambda: run_clock._read(file) == {"mine": 33.0})
    assert threading.active_count() == before


@pytest.mark.parametrize("content", ["", "[1]", '{"mine": "long"}', '{"mine": -5}'])
def test_a_damaged_file_counts_from_the_start(content: str, now: list[float], tmp_path: Path) -> None:
    (tmp_path / "seconds.json").write_text(content)
    assert RunClock(tmp_path / "seconds.json", "mine").seconds() == 0
