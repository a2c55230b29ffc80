"""The events of a prediction run, for programs that watch it: each a name and JSON-ready fields."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from autolmk.errors import AutolmkError

Tell = Callable[[str, Mapping[str, Any]], None]


class Events:
    """Counts cases and hands events on to `tell`, one at a time, from whatever thread; without `tell` to nobody.

    total: cases that the run is to predict.
    """

    def __init__(self, tell: Tell | None, total: int) -> None:
        self.total, self._tell, self._ended = total, tell, 0
        self._lock = threading.Lock()

    def case(self, case: str) -> None:
        """A case is begun."""
        self._say("case", case)

    def stage(self, case: str, stage: str) -> None:
        """A step of a case begins: predict or write. Reading ahead of its turn is not told."""
        self._say("stage", case, stage=stage)

    def warning(self, case: str, message: str) -> None:
        """Something is odd about a case, which is predicted all the same."""
        self._say("warning", case, message=message)

    def done(self, case: str, file: str) -> None:
        """A case is predicted and `file`, its points, is written."""
        self._say("done", case, ends=True, file=file)

    def failed(self, case: str, error: AutolmkError) -> None:
        """A case cannot be predicted."""
        self._say("failed", case, ends=True, **fields(error))

    def _say(self, event: str, case: str, *, ends: bool = False, **more: Any) -> None:
        with self._lock:
            self._ended += ends
            if self._tell is not None:
                self._tell(event, {"case": case, "ended": self._ended, "total": self.total, **more})


def fields(error: AutolmkError) -> dict[str, Any]:
    """The parts of an error's message, None where it names none, and the whole `message`."""
    said = {name: getattr(error, name) for name in ("problem", "file", "found", "expected", "remedy")}
    return {k: None if v is None else str(v) for k, v in said.items()} | {"message": str(error)}
