"""SIGTERM and SIGHUP end a command as Ctrl-C does: with its exit code, and nothing half-written."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from autolmk.cli.common import Parser, parser, run
from autolmk.cli.ending import ended_by_signals
from autolmk.files.atomic import replacing

NUMBERS = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def nothing() -> Parser:
    return parser("A command.")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_with_its_code_and_clears_away(number: int, nothing: Parser, tmp_path: Path) -> None:
    def write(args: argparse.Namespace) -> int:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), number)
        return 0

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        run(write, nothing, [])
    assert ended.value.code == 128 + number and not list(tmp_path.iterdir()) and signal.getsignal(number) is before


@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_ignored_or_handled_stays_so(number: int, nothing: Parser) -> None:
    before = signal.signal(number, signal.SIG_IGN)  # as nohup does
    try:
        assert run(lambda args: os.kill(os.getpid(), number) or 0, nothing, []) == 0
    finally:
        signal.signal(number, before)


def test_a_forked_worker_dies_of_the_signal_however_early_it_comes() -> None:
    with ended_by_signals():
        workers = [multiprocessing.get_context("fork").Process(target=_wait) for _ in range(20)]
        for worker in workers:
            worker.start()
            worker.terminate()
        for worker in workers:
            worker.join(60)
        ends = [worker.exitcode for worker in workers]
        for worker in workers:
            worker.kill()  # where it went on
    assert ends == [-signal.SIGTERM] * 20


def _wait() -> None:
    signal.pause()
