"""Notices of what is odd about an image that can be read all the same: said once, to whoever listens."""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notice:
    """Something in a file that a user should look at, worded as an AutolmkError is: what is odd, and what to do."""

    problem: str
    file: str
    found: str | None = None
    expected: str | None = None
    remedy: str | None = None

    def __str__(self) -> str:
        details = (("found", self.found), ("expected", self.expected), ("what to do", self.remedy))
        return f"{self.file}: {self.problem}" + "".join(f"; {label}: {text}" for label, text in details if text)


_listeners: contextvars.ContextVar[list[Notice] | None] = contextvars.ContextVar("notices", default=None)


def notice(problem: str, file: object, *, found: str | None = None, expected: str | None = None, remedy: str) -> None:
    """Say that something in `file` is odd: to the nearest `noticed`, else as a warning in the log."""
    said, listener = Notice(problem, str(file), found, expected, remedy), _listeners.get()
    if listener is None:
        _log(said)
    elif said not in listener:
        listener.append(said)


@cache
def _log(said: Notice) -> None:
    """Once a process, however often the file is read."""
    logger.warning("%s", said)


@contextlib.contextmanager
def noticed() -> Iterator[list[Notice]]:
    """Collect what is noticed while images are read in this thread, each notice once."""
    found: list[Notice] = []
    token = _listeners.set(found)
    try:
        yield found
    finally:
        _listeners.reset(token)
