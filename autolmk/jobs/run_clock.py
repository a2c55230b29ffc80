"""The wall time that a run has taken, over all calls of the command, kills included."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json

FILE_NAME = "seconds.json"
KEPT_EVERY = 10.0  # s: as much is forgotten at a kill, at most


class RunClock:
    """A clock that counts wall time inside `with`, and writes it down every few seconds. file: of all runs of a
    dataset, plans' name -> s. A file that is missing or damaged counts from 0.
    """

    def __init__(self, file: Path, plans_name: str) -> None:
        self.file, self.plans_name = file, plans_name
        self._begun, self._before = time.monotonic(), _read(file).get(plans_name, 0.0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_on, daemon=True)

    def __enter__(self) -> RunClock:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.keep()

    def restart(self) -> None:
        """Another run begins: what earlier calls took does not count."""
        self._before = 0.0

    def seconds(self) -> float:
        """The seconds counted so far."""
        return self._before + time.monotonic() - self._begun

    def keep(self) -> None:
        """Write down the time so far; those of other plans stay."""
        write_json(self.file, {**_read(self.file), self.plans_name: round(self.seconds(), 1)})

    def _keep_on(self) -> None:
        while not self._over.wait(KEPT_EVERY):
            self.keep()


def _read(file: Path) -> dict[str, float]:
    try:
        value = read_json(file, remedy="remove it") if file.is_file() else {}
    except AutolmkError:
        return {}
    known = value.items() if isinstance(value, dict) else ()
    return {str(name): float(s) for name, s in known if isinstance(s, int | float) and s >= 0}
