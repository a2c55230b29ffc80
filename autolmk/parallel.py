"""One function over many cases, in several processes: bounded memory, progress, no case that takes others with it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from autolmk.errors import AutolmkError
from autolmk.progress_bars import tracked

T = TypeVar("T")
R = TypeVar("R")

PR_SET_PDEATHSIG = 1
PARENT_WATCH_SECONDS = 2.0


def default_workers(bytes_per_case: int, *, memory: int | None = None) -> int:
    """Processes that the processors, and the memory in bytes (default: half of what is free), allow; at least one."""
    if memory is None:
        memory = _free_memory() // 2
    return max(1, min(processors(), memory // max(bytes_per_case, 1)))


def map_cases(
    function: Callable[[T], R], cases: Mapping[str, T], *, workers: int, progress: str | None = None
) -> Iterator[tuple[str, R | AutolmkError]]:
    """Apply a function to cases in processes; yield (case, result or the AutolmkError that it raised) in the order in
    which they end.

    The processes are spawned: function (which travels to each process once) and items must be picklable. At most
    2 x workers cases are under way. A process that dies (out of memory) costs its own case only: those that were under
    way are tried again one at a time. workers 0: in this process. progress: what the work is called where its progress
    is shown; None shows none. Exceptions other than AutolmkError are faults of the program and end the map.
    """
    results = _in_process(function, cases) if workers < 1 else _in_pool(function, cases, workers)
    yield from tracked(results, progress or "", total=len(cases), shown=progress is not None)


def die_with_parent() -> None:
    """Call in a process that multiprocessing started: it ends as soon as its parent is gone, even if that was killed,
    and even if that was before this call."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started_by = multiprocessing.parent_process()
    end_with(os.getppid() if started_by is None or started_by.pid is None else started_by.pid)


def end_with(parent: int) -> None:
    """End this process as soon as the process that started it is gone, even if that was killed, and even if that was
    before this call. On Linux it ends with the thread that started it, which must therefore wait for it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if _is_gone(parent):
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_gone(parent: int) -> bool:
    if sys.platform == "win32":  # where a process keeps the number of its dead parent
        import psutil

        return not psutil.pid_exists(parent)
    return os.getppid() != parent


def _watch(parent: int) -> None:
    while not _is_gone(parent):
        time.sleep(PARENT_WATCH_SECONDS)
    os._exit(1)


def _in_process(function: Callable[[T], R], cases: Mapping[str, T]) -> Iterator[tuple[str, R | AutolmkError]]:
    for case, item in cases.items():
        yield case, _attempt(function, item)


def _attempt(function: Callable[[T], R], item: T) -> R | AutolmkError:
    try:
        return function(item)
    except AutolmkError as error:
        return error
    except MemoryError:
        return _out_of_memory()


_function: Callable[[Any], Any] | None = None  # of a worker process


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    die_with_parent()
    _function = function


def _run(item: Any) -> Any:
    assert _function is not None
    return _attempt(_function, item)


def _pool(workers: int, function: Callable[[T], R]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (function,))


def _in_pool(
    function: Callable[[T], R], cases: Mapping[str, T], workers: int
) -> Iterator[tuple[str, R | AutolmkError]]:
    waiting = list(cases)[::-1]
    while waiting:
        with _pool(workers, function) as pool:
            running: dict[Future[R | AutolmkError], str] = {}
            broken: list[str] = []
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * workers:
                        running[pool.submit(_run, cases[waiting[-1]])] = waiting[-1]
                        waiting.pop()
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        result = done.result()
                        yield running.pop(done), result
            except BrokenProcessPool:
                broken = list(running.values())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        for case in broken:
            yield case, _alone(function, cases[case])


def _alone(function: Callable[[T], R], item: T) -> R | AutolmkError:
    """Run one case in a process of its own, whose death is an error of this case alone."""
    with _pool(1, function) as pool:
        try:
            result: R | AutolmkError = pool.submit(_run, item).result()
            return result
        except BrokenProcessPool:
            return _out_of_memory()


def _out_of_memory() -> AutolmkError:
    return AutolmkError(
        "the process that read the case died",
        found="most likely too little memory",
        remedy="use fewer processes (-np), or a machine with more memory; see whether the image is damaged",
    )


def _free_memory() -> int:
    """Bytes that may be used now: of the machine, or of the container where that is less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            with open(limit) as a, open(used) as b:
                most, now = a.read().strip(), b.read().strip()
        except OSError:
            continue
        if most.isdigit():
            free = min(free, max(0, int(most) - int(now)))
    return free
