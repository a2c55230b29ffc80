"""One training on several GPUs: a process for each, started here by -num_gpus, or on several machines by torchrun."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from autolmk import progress_bars
from autolmk.errors import AutolmkError

LOST = 75  # exit code of a process that ended because another one did
STARTED_HERE = "AUTOLMK_RANKS_MEET_AT"  # environment variable: a file, where the processes find each other
POLL_SECONDS = 0.2
GRACE_SECONDS = 30.0  # for the others to end by themselves, once one ended
ASKED = (129, 130, 143)  # exit codes of what was asked to stop
WORDS = 2000  # characters, at most, of what a process said last
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def is_rank() -> bool:
    """Whether this process is one of several that were started to train together."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


def local_processes() -> int:
    """The number of processes that run on this machine, and share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_rank() else 1


def check_number(args: argparse.Namespace) -> None:
    """Raise AutolmkError where -num_gpus and -device do not fit together, or not to this machine."""
    n, started = args.num_gpus, os.environ.get("WORLD_SIZE", "1")
    if n < 1:
        raise AutolmkError("-num_gpus must be 1 or more", found=n, remedy="correct it, or leave it out")
    if is_rank():
        if n not in (1, int(started), local_processes()):
            raise AutolmkError(
                "-num_gpus contradicts what started the processes",
                found=f"-num_gpus {n}, {started} processes",
                remedy="leave -num_gpus out where torchrun starts them",
            )
        return
    if n == 1 or args.device == "cpu":
        return
    if args.device not in ("auto", "cuda"):
        raise AutolmkError(
            f"-device {args.device} names a single GPU",
            found=f"-num_gpus {n}",
            expected="-device cuda, or none",
            remedy="choose among GPUs with the environment variable CUDA_VISIBLE_DEVICES=0,2",
        )
    import torch

    there = torch.cuda.device_count()
    if there < n:
        raise AutolmkError(
            f"there are not {n} GPUs",
            found=f"{there} that torch can use",
            remedy=f"give -num_gpus {there}" if there > 1 else "leave -num_gpus out",
        )


@contextlib.contextmanager
def joined(args: argparse.Namespace) -> Iterator[None]:
    """Join the other processes, if this is one of several: on a device of its own, which -device says from now on; all
    but the first one are silent.
    """
    if not is_rank():
        yield
        return
    from autolmk import ranks
    from autolmk.networks.precision import choose_device

    number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if args.device != "cpu":
        args.device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
    device = choose_device(args.device)
    if number > 0:
        logging.getLogger("autolmk").setLevel(logging.ERROR)
        progress_bars.hide()
    meet_at = os.environ.get(STARTED_HERE)
    with ranks.joined("env://" if meet_at is None else Path(meet_at).as_uri(), number, size, device):
        try:
            yield
        except ranks.RanksLost:
            if meet_at is not None:  # whoever started the processes says which one ended
                raise SystemExit(LOST) from None
            raise


def launch(words: Sequence[str], n: int) -> int:
    """Run autolmk_train with these arguments in n processes of this machine; the exit code.

    What they are sent (SIGTERM, SIGINT, SIGHUP, SIGUSR1) is handed on. AutolmkError where one ends otherwise than the
    first one says itself: the others end, too.
    """
    with tempfile.TemporaryDirectory(prefix="autolmk_") as folder:
        said = [Path(folder) / f"rank_{k}.log" for k in range(n)]
        with contextlib.ExitStack() as stack:
            logs = [None, *(stack.enter_context(file.open("wb")) for file in said[1:])]
            processes = [_start(words, k, n, Path(folder), log) for k, log in enumerate(logs)]
            with _handing_on(processes):
                codes = _wait(processes)
        return _outcome(codes, said)


def _start(words: Sequence[str], k: int, n: int, folder: Path, log: IO[bytes] | None) -> subprocess.Popen[bytes]:
    numbers = {"RANK": k, "LOCAL_RANK": k, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
    environment = {**os.environ, **{name: str(value) for name, value in numbers.items()}}
    environment[STARTED_HERE] = str(folder / "meet")
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine, whatever its name resolves to
    command = [sys.executable, "-m", "autolmk.cli.job", str(os.getpid()), "train", *words]
    return subprocess.Popen(  # a session of its own: Ctrl-C reaches it once, through this process
        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


@contextlib.contextmanager
def _handing_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Within the block, processes get the signals that this one gets; at its end none of them is left. Outside the main
    thread nothing is handed on."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    caught = SIGNALS if threading.current_thread() is threading.main_thread() else []
    caught = [number for number in caught if signal.getsignal(number) is not signal.SIG_IGN]  # as under nohup
    before = {number: signal.signal(number, hand_on) for number in caught}
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """Exit codes, once all ended, or some time after one ended with a code of failure; None: it did not end."""
    end: float | None = None
    while True:
        codes = [process.poll() for process in processes]
        if None not in codes or (end is not None and time.monotonic() > end):
            return codes
        if end is None and any(codes):
            end = time.monotonic() + GRACE_SECONDS
        time.sleep(POLL_SECONDS)


def _outcome(codes: Sequence[int | None], said: Sequence[Path]) -> int:
    """The exit code of all. AutolmkError where another process than the first one ended in failure, or one was
    killed."""
    first = codes[0]
    if first is not None and ((first > 0 and first != LOST) or not any(codes)):
        return first  # it has said why
    killed = [k for k, code in enumerate(codes) if code is not None and code < 0]
    failed = [k for k, code in enumerate(codes) if code not in (None, 0, LOST, *ASKED)]
    lost = [k for k, code in enumerate(codes) if code]
    k = [*killed, *failed, *lost][0]
    code = codes[k]
    assert code is not None
    words = said[k].read_text(errors="replace").strip()[-WORDS:] if said[k].is_file() else ""
    raise AutolmkError(
        f"process {k} of the {len(codes)} that trained together ended, and so all of them",
        found=(f"killed by signal {-code}, most often for want of memory" if code < 0 else f"exit code {code}")
        + (f"; it said:\n{words}" if words else ""),
        remedy="give the same command again, also with another -num_gpus: training goes on from the last checkpoint",
    )
