"""Requests from outside that a training run answers between two steps: signals and files."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

STOP_FILE, FINISH_FILE = "stop", "finish"
NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")  # Windows lacks the last two


class Signals:
    """Handler of signals inside `with`: SIGTERM, SIGINT and SIGHUP (a terminal that was closed) ask to save and stop,
    SIGUSR1 asks to save and go on (as schedulers of clusters send some time before they kill). A second SIGINT
    interrupts at once. Outside the main thread nothing is caught, and what is ignored stays ignored.

    Files in `folders`, that of the fold and of the stage under way, ask too: `stop` to save and stop, `finish` to end
    what is being trained now, as if its time were over.
    """

    def __init__(self, *folders: Path) -> None:
        self.folders = folders
        self.received: int | None = None  # the signal that asked to stop
        self._save = False
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked worker: it dies of what it was sent, but has nothing to save
            if number != getattr(signal, "SIGUSR1", None):
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
        elif number == getattr(signal, "SIGUSR1", None):
            self._save = True
        elif number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            self.received = number

    def stop(self) -> bool:
        """Whether the run is asked to save and stop."""
        return self.received is not None or any((folder / STOP_FILE).exists() for folder in self.folders)

    def finish(self) -> bool:
        """Whether the run is asked to end training now."""
        return any((folder / FINISH_FILE).exists() for folder in self.folders)

    def finished(self) -> None:
        """Training ended: what asked for it is done."""
        for folder in self.folders:
            (folder / FINISH_FILE).unlink(missing_ok=True)

    def save(self) -> bool:
        """Whether a checkpoint is asked for; asked once."""
        asked, self._save = self._save, False
        return asked

    def leave(self) -> None:
        """Leave after saving: remove the stop file, and end as the signal, if there was one, says."""
        for folder in self.folders:
            (folder / STOP_FILE).unlink(missing_ok=True)
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)
