"""Progress: a bar on a terminal; in a log, a plain line every tenth."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest

from autolmk.parallel import map_cases
from autolmk.progress_bars import ProgressBar, duration, has_bars, hide, tracked


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def shown_again() -> Iterator[None]:
    yield
    hide(False)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that the log gets."""
    lines: list[str] = []
    monkeypatch.setattr("autolmk.progress_bars.logger.info", lambda text, *values: lines.append(text % values))
    return lines


@pytest.mark.parametrize(("total", "lines"), [(1, 1), (3, 3), (10, 10), (37, 10), (1000, 10)])
def test_a_log_gets_a_line_every_tenth(total: int, lines: int, said: list[str]) -> None:
    with ProgressBar(total, "predicting", delay=0) as progress:
        for _ in range(total):
            progress.update()
    assert len(said) == lines
    assert said[-1].startswith(f"predicting: {total} of {total} case{'s' * (total > 1)} in ")
    assert all("\r" not in line and "\x1b" not in line for line in said)


def test_what_is_over_soon_says_nothing(said: list[str]) -> None:
    with ProgressBar(20, "predicting", delay=1e9) as progress:
        for _ in range(20):
            progress.update()
    assert said == []


def test_time_left_is_in_proportion(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("autolmk.progress_bars.time.monotonic", lambda: clock[0])
    progress = ProgressBar(4, "checking")
    clock[0] += 30
    progress.update()
    assert said == ["checking: 1 of 4 cases in 30 s, about 90 s left"]
    clock[0] += 150
    progress.update(2)
    assert said[1:] == ["checking: 3 of 4 cases in 3 min, about 60 s left"]


def test_a_terminal_gets_a_bar(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert has_bars()
    with ProgressBar(4, "predicting", delay=0) as progress:
        for _ in range(4):
            progress.update()
    assert "predicting" in stream.getvalue() and "\r" in stream.getvalue()
    assert said == []


@pytest.mark.parametrize("terminal", [True, False])
def test_hidden_progress_says_nothing(terminal: bool, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    hide()
    with ProgressBar(4, "predicting", delay=0) as progress:
        progress.update(4)
    assert stream.getvalue() == "" and said == [] and not has_bars()


def test_every_item_comes_through_whether_progress_is_shown_or_not(said: list[str]) -> None:
    assert list(tracked([1, 2, 3], "a")) == list(tracked(iter([1, 2, 3]), "b", shown=False)) == [1, 2, 3]
    assert dict(map_cases(str, {"a": 1, "b": 2}, workers=0, progress="reading")) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "unknown time"), (45, "45 s"), (720, "12 min"), (12000, "3 h 20 min")]
)
def test_lengths_of_time(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words
