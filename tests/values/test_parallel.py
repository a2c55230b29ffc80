"""Cases in several processes: none takes others with it, and none outlives the run. The kills are real."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from autolmk.errors import AutolmkError
from autolmk.parallel import default_workers, map_cases

STARTS_LATE = """
import multiprocessing, os, sys, time
from autolmk.parallel import die_with_parent

def work():
    while os.getppid() == multiprocessing.parent_process().pid:
        time.sleep(0.01)
    die_with_parent()
    time.sleep(3600)

if __name__ == "__main__":
    worker = multiprocessing.get_context(sys.argv[1]).Process(target=work)
    worker.start()
    print(worker.pid, flush=True)
    worker.join()
"""


def work(marker: Path, item: str) -> str:
    if item == "refused":
        raise AutolmkError("refused", case=item)
    if item == "killed":
        os._exit(9)
    (marker / item).touch()
    return item.upper()


def test_a_process_that_dies_costs_its_own_case_only(tmp_path: Path) -> None:
    cases = {name: name for name in ("a", "refused", "killed", "b", "c", "d")}
    results = dict(map_cases(partial(work, tmp_path), cases, workers=2))
    assert {k: v for k, v in results.items() if isinstance(v, str)} == {c: c.upper() for c in "abcd"}
    assert isinstance(results["refused"], AutolmkError) and results["refused"].case == "refused"
    assert isinstance(results["killed"], AutolmkError) and "died" in str(results["killed"])


def mark_and_sleep(marker: Path, item: str) -> None:
    (marker / f"{os.getpid()}.pid").touch()
    time.sleep(3600)


def run_map(marker: Path) -> None:
    list(map_cases(partial(mark_and_sleep, marker), {"a": "a", "b": "b"}, workers=2))


def test_workers_die_with_a_killed_parent(
    tmp_path: Path, wait_until: Callable[..., None], alive: Callable[..., list[int]]
) -> None:
    parent = multiprocessing.get_context("spawn").Process(target=run_map, args=(tmp_path,))
    parent.start()
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    workers = [int(file.stem) for file in tmp_path.glob("*.pid")]
    parent.kill()
    parent.join()
    wait_until(lambda: not alive(workers))


@pytest.mark.skipif(sys.platform == "win32", reason="a process there keeps the number of its dead parent")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods()[:2])
def test_a_worker_whose_parent_died_while_it_started_ends_too(
    method: str, tmp_path: Path, wait_until: Callable[..., None], alive: Callable[..., list[int]]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(STARTS_LATE)
    with subprocess.Popen([sys.executable, program, method], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        wait_until(lambda: not alive([worker]))


def test_workers_follow_memory() -> None:
    assert default_workers(10**9, memory=10**8) == 1
    assert default_workers(1, memory=10**9) >= 1
