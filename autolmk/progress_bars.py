"""Progress of long work: a bar on a terminal; in a log, a plain line every tenth of the work."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

TENTHS = 10
DELAY = 2.0  # s: work that is done sooner says nothing
logger = logging.getLogger(__name__)
_hidden = False


def hide(hidden: bool = True) -> None:
    """Show no progress in this process from now on, neither bars nor lines; hide(False) shows it again."""
    global _hidden
    _hidden = hidden


def has_bars() -> bool:
    """True where progress is shown as bars: stderr is a terminal, and progress is not hidden."""
    return not _hidden and sys.stderr.isatty()


class ProgressBar:
    """Shows how far `total` pieces of work, called `label`, are; use it in a `with` statement, `update` it after each.

    On a terminal (stderr) a bar, which goes away at the end. Elsewhere a line of the log each time that another tenth
    of the work is done. unit: what a piece is called. shown: False shows neither. delay: seconds for which nothing is
    shown.
    """

    def __init__(self, total: int, label: str, *, unit: str = "case", shown: bool = True, delay: float = DELAY) -> None:
        self.total, self.label, self.unit, self.delay = total, label, unit, delay
        self.done = 0
        self._spoken, self._start = 0, time.monotonic()
        self._shown = shown and not _hidden
        bar = shown and has_bars()
        self._bar = tqdm(total=total, desc=label, unit=unit, delay=delay, leave=False) if bar else None

    def update(self, pieces: int = 1) -> None:
        """Say that so many more pieces are done."""
        self.done += pieces
        if self._bar is not None:
            self._bar.update(pieces)
        elif self._shown:
            self._speak()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _speak(self) -> None:
        tenth, elapsed = TENTHS * self.done // max(self.total, 1), time.monotonic() - self._start
        if not self.total or tenth <= self._spoken or elapsed < self.delay:
            return
        self._spoken = tenth
        left = elapsed * (self.total - self.done) / self.done
        rest = f", about {duration(left)} left" if self.done < self.total else ""
        plural = "s" * (self.total != 1)
        logger.info(
            "%s: %d of %d %s in %s%s",
            *(self.label, self.done, self.total, self.unit + plural, duration(elapsed), rest),
        )

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def tracked(
    items: Iterable[T], label: str, *, total: int | None = None, unit: str = "case", shown: bool = True
) -> Iterator[T]:
    """The items, one after the other, while their progress is shown; see `ProgressBar`. total: how many there are,
    where `items` has no length."""
    if total is None:
        total = len(items) if isinstance(items, Sized) else 0
    with ProgressBar(total, label, unit=unit, shown=shown) as progress:
        for item in items:
            yield item
            progress.update()


def duration(seconds: float | None) -> str:
    """A length of time in words, such as `45 s`, `12 min` or `3 h 20 min`; None is `unknown time`."""
    if seconds is None:
        return "unknown time"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
