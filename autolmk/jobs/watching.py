"""The display of running jobs: a line with all of them, or what the only one says."""

from __future__ import annotations

import codecs
import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from tqdm import tqdm

from autolmk.errors import AutolmkError
from autolmk.fold.log import duration
from autolmk.jobs.job import Job, JobResult
from autolmk.progress_bars import TENTHS, has_bars

LOOK_SECONDS = 2.0
logger = logging.getLogger(__name__)


class Watch:
    """A display, inside `with`, of how far `jobs` are, from their logs and those of training, wherever they run. label:
    what the line is called. echo: takes what a single job says.
    """

    def __init__(self, jobs: Sequence[Job], label: str, echo: Callable[[str], None] | None = None) -> None:
        self.jobs, self.ended_names = list(jobs), set[str]()
        self._echo = echo if len(self.jobs) == 1 else None
        self._begun = {job.name: _size(job) for job in self.jobs}
        self._read = self._begun[self.jobs[0].name]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._bar = tqdm(
            total=len(self.jobs),
            desc=label,
            bar_format="{desc} {n:.2f} of {total} |{bar:20}| {elapsed}{postfix}",
            delay=2,
            leave=False,
            disable=bool(self._echo) or not has_bars(),
        )
        self._label, self._spoken = label, 0  # tenths of the work that a line told of, where there is no bar

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        self._bar.close()

    def ended(self, result: JobResult) -> None:
        """Say that a job ended, and how."""
        self.ended_names.add(result.job.name)
        if len(self.jobs) > 1 and not result.killed:
            how = "done" if result.good else "stopped" if result.stopped else f"FAILED (exit code {result.code})"
            n = f"{len(self.ended_names)} of {len(self.jobs)}"
            logger.info("%s: %s after %s (%s)", result.job.name, how, duration(result.seconds), n)

    def status(self) -> tuple[float, str]:
        """The number of jobs done, with shares of those that run, and what runs, in words."""
        running, total = [], float(len(self.ended_names))
        for job in self.jobs:
            if job.name in self.ended_names or _size(job) <= self._begun[job.name]:
                continue
            share = _progress(job)
            running.append(job.name if share is None else f"{job.name} {share:.0%}")
            total += share or 0.0
        return total, ", ".join(running)

    def _look_on(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        if self._echo is not None:
            self._follow(self.jobs[0], self._echo)
            return
        total, running = self.status()
        if not self._bar.disable:
            self._bar.n = total
            self._bar.set_postfix_str(running)
        elif (tenth := int(TENTHS * total / len(self.jobs))) > self._spoken:
            self._spoken = tenth
            still = running or ("all done" if total >= len(self.jobs) else "waiting")
            logger.info("%s: %.2f of %d; %s", self._label, total, len(self.jobs), still)

    def _follow(self, job: Job, echo: Callable[[str], None]) -> None:
        if _size(job) > self._read:
            with job.log.open("rb") as stream:
                stream.seek(self._read)
                new = stream.read()
            self._read += len(new)
            echo(self._decoder.decode(new))


def _size(job: Job) -> int:
    """Bytes of its log."""
    return job.log.stat().st_size if job.log.is_file() else 0


def _progress(job: Job) -> float | None:
    try:
        return job.progress()
    except (AutolmkError, OSError, KeyError):
        return None  # a log that is being written just now: it is only for the eye
