"""A job: one command of autolmk in a process of its own, with a log file, ended when nobody wants it any more."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autolmk.errors import AutolmkError
from autolmk.files.locks import LOCK_FILE, is_locked
from autolmk.fold.log import LOG_NAME, read_log

MAX_LOADERS = 12  # processes that load for one training
POLL_SECONDS = 0.5
GRACE_SECONDS = 120.0  # for a training that is asked to stop, to save
LOCK_SECONDS = 180.0  # to wait until the training of a run that was killed is gone
FREE_GPU = "cuda:free"  # the lowest GPU of a host that no other job there uses, which the job's process finds out
TAIL_LINES, TAIL_BYTES = 8, 20_000  # of a log that an error shows
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """A place where a job runs. device: as -device takes it, or `FREE_GPU`. cores: of the processor, for this job."""

    device: str
    cores: int


@dataclass(frozen=True)
class Job:
    """A command to run in a process of its own. name: for messages. command: an autolmk command without the prefix,
    then its arguments. log: what it says is appended there. outputs: files; once all are there the job is done. takes:
    what the place decides, as far as the command has such options. accepted: exit codes of success. folder: of a fold
    that it trains. seconds: that training is planned to take, None where nobody knows.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    outputs: tuple[Path, ...] = ()
    takes: tuple[Literal["device", "threads"], ...] = ()
    accepted: tuple[int, ...] = (0,)
    folder: Path | None = None
    seconds: float | None = None

    @property
    def done(self) -> bool:
        """Whether all outputs are there; never without any."""
        return bool(self.outputs) and all(file.exists() for file in self.outputs)

    def arguments(self, place: Place) -> list[str]:
        """All arguments of the command at a place. The cores are shared between the process and those that load."""
        found = list(self.command[1:])
        if "device" in self.takes:
            found += ["-device", place.device]
        if "threads" in self.takes:
            loaders = min(MAX_LOADERS, place.cores // 2)
            found += ["--workers", str(loaders), "--threads", str(max(1, place.cores - loaders))]
        return found

    def progress(self) -> float | None:
        """Share of the planned time that training took so far, from 0 to 1; None where nothing can be said."""
        if self.folder is None or not self.seconds or not self.folder.is_dir():
            return None
        last = [entries[-1]["elapsed"] for log in self.folder.rglob(LOG_NAME) if (entries := read_log(log.parent))]
        return min(1.0, sum(last) / self.seconds) if last else None


@dataclass(frozen=True)
class JobResult:
    """The end of a job. code: exit code, negative for the signal that ended it. stopped: it was asked to, as nobody
    wanted it any more. said: the last lines of its log.
    """

    job: Job
    code: int
    seconds: float
    stopped: bool = False
    said: str = ""

    @property
    def good(self) -> bool:
        """Whether the job did what it was to do."""
        return not self.stopped and self.code in self.job.accepted

    @property
    def killed(self) -> bool:
        """Whether a signal ended it, and not ours."""
        return not self.stopped and self.code < 0


def run_job(job: Job, place: Place, wanted: Callable[[], bool] = lambda: True) -> JobResult:
    """Run a job in a process of its own, and wait for it.

    The process ends when this one does, even if this one is killed. wanted: asked again and again; once it says no, a
    training may still save, and then the job is stopped. Failure is a result, not an exception.
    """
    started = time.monotonic()
    if not wanted():
        return JobResult(job, 1, 0.0, stopped=True)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        _say(log.fileno(), job, f"$ autolmk_{' '.join([job.command[0], *job.arguments(place)])}")
        begin = job.log.stat().st_size
        if not _is_free(job, wanted):
            held = f"another process still trains into {job.folder}; end it first"
            return JobResult(job, 1, time.monotonic() - started, stopped=not wanted(), said=held)
        code, stopped = _run(command_line(job, place), log.fileno(), wanted)
    return JobResult(job, code, time.monotonic() - started, stopped, tail(job.log, begin))


def command_line(job: Job, place: Place) -> list[str]:
    """The command line of the job's process: the command with the place's options, by this Python."""
    return [sys.executable, "-m", "autolmk.cli.job", str(os.getpid()), job.command[0], *job.arguments(place)]


def tail(log: Path, begin: int = 0) -> str:
    """The last lines of a log after byte `begin`; of lines that a progress bar wrote over, what was left."""
    with log.open("rb") as stream:
        stream.seek(max(begin, log.stat().st_size - TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    lines = [line.rstrip().split("\r")[-1] for line in text.split("\n")]
    return "\n".join([line for line in lines if line][-TAIL_LINES:])


def failure(results: Sequence[JobResult]) -> AutolmkError:
    """The error that tells of the failed jobs, of which there is at least one."""
    first, *others = results
    more = "".join(f"; {other.job.name} {_end_of(other)}, see {other.job.log}" for other in others)
    return AutolmkError(
        f"{first.job.name} {_end_of(first)}{more}",
        file=first.job.log,
        found="its last words:\n    " + (first.said or "none").replace("\n", "\n    "),
        remedy="mend what it says, then give the same command again: what is done is kept",
    )


def _end_of(result: JobResult) -> str:
    if result.stopped:
        return "was stopped"
    if result.code < 0:
        return f"was killed (signal {-result.code}), most often for want of memory"
    return f"failed with exit code {result.code}"


def _is_free(job: Job, wanted: Callable[[], bool]) -> bool:
    """Wait, for some time, until nobody trains into the job's folder any more: what a killed run started may need a
    moment to end."""
    end = time.monotonic() + LOCK_SECONDS
    said = False
    while job.folder is not None and any(is_locked(lock.parent) for lock in job.folder.rglob(LOCK_FILE)):
        if time.monotonic() > end or not wanted():
            return False
        if not said:
            logger.info("%s: waiting until another process has left %s", job.name, job.folder)
            said = True
        time.sleep(POLL_SECONDS)
    return True


def _run(command: Sequence[str], output: int, wanted: Callable[[], bool]) -> tuple[int, bool]:
    """(exit code, whether it was stopped because nobody wanted it)."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        while True:
            try:
                return process.wait(POLL_SECONDS), False
            except subprocess.TimeoutExpired:
                if not wanted():
                    return _stop(process), True
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ask it to save and end, and kill it if it does not; its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def _say(output: int, job: Job, text: str) -> None:
    os.write(output, f"\n[{time.strftime('%Y-%m-%d %H:%M:%S')}] {job.name}\n{text}\n".encode())
