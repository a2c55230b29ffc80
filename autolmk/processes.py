"""Worker processes that never outlive their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess


def start_method() -> str:
    """`fork` on Linux, where a worker starts at once and knows a user's plug-ins; `spawn` elsewhere."""
    return "fork" if sys.platform == "linux" else "spawn"


def prepare_worker() -> None:
    """First call in a worker: it ends when its parent dies, even by kill -9, ignores Ctrl-C (the parent ends it), and
    computes on one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked worker inherits the handler of training
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@contextmanager
def starting() -> Iterator[None]:
    """Around the start of workers: Ctrl-C waits, so that it does not reach a worker that is not prepared yet."""
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads; workers take no lock that a thread of the parent may hold.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        if not hasattr(signal, "pthread_sigmask"):
            yield
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end(process: BaseProcess) -> None:
    """Ends a worker that holds nothing worth saving, and reaps it."""
    process.kill()
    process.join()
