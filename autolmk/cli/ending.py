"""Signals that end a command: it clears away what it was writing, as after an interruption by the keyboard."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from functools import cache
from types import FrameType

SIGNALS = ("SIGTERM", "SIGHUP")  # from a scheduler or a system that shuts down; from a terminal that was closed
_forking = threading.local()  # the signals that were blocked before the fork that this thread makes


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise SystemExit with 128 + the signal's number inside `with` for each of `SIGNALS`.

    One that is ignored (`nohup`) stays ignored. Outside the main thread nothing is caught. A forked worker has nothing
    to clear away: it dies of the signal, however early that comes.
    """
    ours: list[int] = []
    if threading.current_thread() is threading.main_thread():
        _watch_forks()
        for number in _numbers():
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _end)
                ours.append(number)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]


@cache
def _watch_forks() -> None:
    """Give forked processes the system's own handling. Python forgets a signal that comes while it forks: it waits."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_hold, after_in_parent=_go_on, after_in_child=_begin)


def _hold() -> None:
    _forking.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _numbers())


def _go_on() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.blocked)


def _begin() -> None:
    for number in _numbers():
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)
    _go_on()
