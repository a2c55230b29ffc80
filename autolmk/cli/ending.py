"""Signals that end a command: it clears away what it was writing, as after an interruption by the keyboard."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = ("SIGTERM", "SIGHUP")  # from a scheduler or a system that shuts down; from a terminal that was closed


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise SystemExit with 128 + the signal's number inside `with` for each of `SIGNALS`.

    One that is ignored (`nohup`) stays ignored. Outside the main thread nothing is caught. A forked worker has nothing
    to clear away: it dies of the signal.
    """
    owner, before = os.getpid(), {}

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
