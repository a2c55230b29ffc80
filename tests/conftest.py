"""One thread: on small arrays torch's thread pool costs more than it gives, and tests share the machine.

The fixtures are functions for tests that start, watch and kill processes.
"""

from __future__ import annotations

import gc
import importlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import psutil
import pytest
import torch

from autolmk.cli.main import module_of
from autolmk.fold import log

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it and hand that on


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Where AUTOLMK_CPU_SECONDS names a file, a line for each test: CPU seconds, its own and those of the processes
    that it started and that ended, and its name."""
    before = sum(os.times()[:4])
    result = yield
    file = os.environ.get("AUTOLMK_CPU_SECONDS")
    if file:
        with open(file, "a") as stream:
            stream.write(f"{sum(os.times()[:4]) - before:.2f} {item.nodeid}\n")
    return result


def pytest_collection_finish() -> None:
    """What is there by now stays: collections of garbage need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def pictures_of_progress() -> Generator[Callable[..., bytes]]:
    """Trainings inside the tests' process write one and the same picture: drawing takes longer than training a tiny
    network. tests/fold/test_log.py and trainings in processes of their own draw; this is the function that does."""
    draw = log.progress_picture
    same = draw([], "mm")
    log.progress_picture = lambda entries, unit: same
    yield draw
    log.progress_picture = draw


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs a command in this process, with the folders below tmp_path, which is the current folder, and gives what it
    printed. Quicker than `start_command` by the imports of a process."""
    monkeypatch.chdir(tmp_path)
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"autolmk_{name}", str(tmp_path / name))

    def run(name: str, *arguments: str) -> str:
        code = importlib.import_module(f"autolmk.cli.{module_of(name)}").main(list(arguments))
        out, error = capsys.readouterr()
        assert code == 0, f"{name}: exit {code}\n{out}\n{error}"
        assert "Traceback" not in error
        return out + error

    return run


@pytest.fixture(scope="session")
def start_command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[str]]:
    """Starts an installed command with the folders below `place`, in a session of its own: what it starts is in it."""
    fonts = tmp_path_factory.mktemp("matplotlib")  # lists the fonts of the machine once, not in each home

    def start(name: str, *arguments: str, place: Path, **streams: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [Path(sys.executable).parent / f"autolmk_{name}", *arguments],
            cwd=place,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(place),
                "MPLCONFIGDIR": str(fonts),
                "autolmk_raw": str(place / "raw"),
                "autolmk_preprocessed": str(place / "preprocessed"),
                "autolmk_results": str(place / "results"),
                "OMP_NUM_THREADS": "1",
                "PYTHONFAULTHANDLER": "1",
            },
            text=True,
            start_new_session=True,
            **streams,
        )

    return start


@pytest.fixture(scope="session")
def said_by() -> Callable[..., tuple[str, str]]:
    """What a command of `start_command` says on its pipes until it ends; one that hangs is ended, and the failure tells
    what it and all that it started were doing."""

    def said(process: subprocess.Popen[str], seconds: float = 1200) -> tuple[str, str]:
        try:
            return process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            left = subprocess.run(
                ["ps", "-s", str(process.pid), "-o", "pid,stat,time,args"], capture_output=True, text=True
            )
            os.killpg(process.pid, signal.SIGABRT)  # whereupon Python prints where each thread is
            out, error = process.communicate(timeout=60)
            pytest.fail(f"hangs:\n{left.stdout}\n{out}\n{error}")

    return said


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Waits for a condition; fails once `process`, if given, is not there any more, and after `seconds`."""

    def wait(condition: Callable[[], bool], process: subprocess.Popen | None = None, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "timed out"
            assert process is None or process.poll() is None, "the process ended too soon"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def alive() -> Callable[[Iterable[int]], list[int]]:
    """Those of some processes that still run; one that ended and waits for its parent to notice does not."""

    def running(pids: Iterable[int]) -> list[int]:
        return [pid for pid in pids if _status(pid) not in (None, psutil.STATUS_ZOMBIE)]

    return running


@pytest.fixture(scope="session")
def children_of() -> Callable[[int], list[int]]:
    """The processes that a process started, and those that they started."""
    return lambda pid: [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _status(pid: int) -> str | None:
    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return None
