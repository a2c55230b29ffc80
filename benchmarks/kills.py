"""Kills, two processes at once, folders that refuse, and moved ones: the same command ends as if nothing had been.

    python benchmarks/kills.py --folder .verify/kills [--commands predict train] [--moments 10] [--seed 0]

For each of preprocess, train, predict, find_best and run on a tiny phantom: SIGKILL, SIGTERM and SIGINT at random
moments, two processes at a time, a read-only folder, a full disk, a lost loader and 1 MB of shared memory (each where
this machine lets them be made; what is left out is said), and folders that were moved. After each the same command is
given again: it must finish with the same files, and nothing else may lie there. What passed is kept in the folder, so
that the benchmark goes on where it was broken off. Exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from kill_bench import COMMANDS, LIMIT, NAMESPACE, Bench, nothing_runs, results, said, same, wait

from autolmk.files.locks import LOCK_FILE, is_locked

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ROOM = "4 KiB"
FILE_LIMIT = 2000  # bytes
ATTEMPTS = 5  # at a moment at which the command still runs


def killed(bench: Bench, name: str, place: Path, moment: int, number: signal.Signals) -> str:
    """A signal to the command alone, at a moment drawn over its whole duration; then the same command.

    A command that ended before the signal was not hit: it is tried again at another, mostly earlier moment.
    """
    command, whole = COMMANDS[name], bench.unbroken(name)
    draw = random.Random(f"{bench.seed} {name} {number} {moment}")
    for attempt in range(ATTEMPTS):
        share = draw.uniform(0.05, 1.0) * 0.8**attempt
        shutil.rmtree(place, ignore_errors=True)
        process = bench.start(command, bench.fresh(name, place))
        if hit(process, share * bench.seconds[name], number):
            break
    else:
        raise AssertionError(f"not hit in {ATTEMPTS} attempts: the command always ended before the signal")
    nothing_runs(process.pid)
    bench.finish(command, place)
    same(place, whole)
    return f"{number.name} at {100 * share:.0f} %" + (f", not hit {attempt} times before" if attempt else "")


def hit(process: subprocess.Popen[bytes], seconds: float, number: signal.Signals) -> bool:
    """Send a signal after a while, and wait for the end; whether the command still ran, and ended by the signal.

    AssertionError where it ended in any other way.
    """
    try:
        code, good = process.wait(seconds), (0,)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        code, good = wait(process), (0, -number, 128 + number)
    assert code in good, f"exit code {code}, expected one of {good}"
    return code != 0


def two_at_once(bench: Bench, name: str, place: Path) -> str:
    """The second, begun while the first holds its lock, ends with exit code 2, says who holds it, changes nothing."""
    command, whole = COMMANDS[name], bench.unbroken(name)
    first = bench.start(command, bench.fresh(name, place))
    end = time.monotonic() + LIMIT
    while first.poll() is None and not any(is_locked(file.parent) for file in place.rglob(LOCK_FILE)):
        assert time.monotonic() < end
        time.sleep(0.005)
    assert first.poll() is None, f"over before it was seen to hold a lock: {said(place)}"
    os.killpg(first.pid, signal.SIGSTOP)  # it holds the lock as long as needed
    before = results_at_a_glance(place)
    second = bench.start(command, place)
    code, words = wait(second), said(place)
    after = results_at_a_glance(place)
    os.killpg(first.pid, signal.SIGCONT)
    assert wait(first) == 0, said(place)
    assert code == 2 and "another process is at work" in words, f"exit code {code}: {words}"
    assert before == after, f"changed: {sorted(before.items() ^ after.items())[:4]}"
    same(place, whole)
    return "the second was refused"


def results_at_a_glance(place: Path) -> dict[str, tuple[int, int]]:
    """File -> size and time of change."""
    return {str(f): (f.stat().st_size, f.stat().st_mtime_ns) for f in place.rglob("*") if f.is_file()}


def full_disk(bench: Bench, name: str, place: Path) -> str:
    """Earlier results on a small tmpfs with no room left, or files that may not grow; then the same command with room.

    Where no tmpfs may be mounted, RLIMIT_FSIZE refuses instead, and this is said.
    """
    command, whole = COMMANDS[name], bench.unbroken(name)
    bench.fresh(name, place)
    before = results(place)
    if may_mount():
        how, process = f"a tmpfs with {ROOM} free", bench.start_on_full_tmpfs(command, place)
    else:
        how = f"no tmpfs may be mounted; files of at most {FILE_LIMIT} bytes (RLIMIT_FSIZE)"
        limits = (FILE_LIMIT, FILE_LIMIT)
        process = bench.start(command, place, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    code = wait(process)
    assert code in (2, 3), f"exit code {code}, and nothing was refused: {said(place)}"
    nothing_runs(process.pid)
    after = results(place)
    lost = [file for file in before if before[file] != after.get(file)]
    assert not lost, f"earlier results are not whole: {lost[:8]}"
    bench.finish(command, place)
    same(place, whole)
    return f"{how}: exit code {code}, earlier results whole, then finished"


def small_shm(bench: Bench, name: str, place: Path) -> str:
    """1 MB of shared memory, with loaders: the command finishes, or says why not and finishes with more."""
    command, whole = COMMANDS[name], bench.unbroken(name)
    if not may_mount():
        return "left out: nothing can be mounted"
    bench.fresh(name, place)
    process = bench.start(command, place, wrapper=(*NAMESPACE, 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'))
    code = wait(process)
    assert code in (0, 2, 3), f"exit code {code}: {said(place)}"
    nothing_runs(process.pid)
    bench.finish(command, place)
    same(place, whole)
    return f"exit code {code}, then finished"


def may_mount() -> bool:
    """Whether a tmpfs can be mounted in a mount namespace of its own."""
    words = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /dev/shm"]
    return shutil.which("unshare") is not None and subprocess.run(words, capture_output=True).returncode == 0


def read_only(bench: Bench, name: str, place: Path) -> str:
    """Folders that may not be written to."""
    command, whole = COMMANDS[name], bench.unbroken(name)
    bench.fresh(name, place)
    before = results(place)
    with nothing_may_be_written(place) as how:
        if how is None:
            return "left out: this user may write everywhere, and nothing can be mounted"
        process = bench.start(command, place)
        code = wait(process)
    assert results(place) == before, "a folder that may not be written to was changed"
    assert code == 2 and "what to do" in said(place), f"exit code {code}: {said(place)}"
    bench.finish(command, place)
    same(place, whole)
    return f"{how}: exit code 2, then finished"


@contextmanager
def nothing_may_be_written(place: Path) -> Iterator[str | None]:
    """By a read-only mount or by permissions; None where neither holds."""
    mounted = subprocess.run(["mount", "--bind", str(place), str(place)], capture_output=True).returncode == 0
    if mounted:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True, capture_output=True)
        try:
            yield "read-only mount"
        finally:
            subprocess.run(["umount", str(place)], check=True, capture_output=True)
        return
    if os.geteuid() == 0:
        yield None
        return
    folders = [place, *(f for f in place.rglob("*") if f.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        yield "read-only folders"
    finally:
        for folder in folders:
            folder.chmod(0o755)


def moved(bench: Bench, name: str, place: Path) -> str:
    """Killed halfway, all folders moved, the same command there."""
    command, whole = COMMANDS[name], bench.unbroken(name)
    process = bench.start(command, bench.fresh(name, place))
    try:
        process.wait(0.6 * bench.seconds[name])
    except subprocess.TimeoutExpired:
        process.kill()
    wait(process)
    nothing_runs(process.pid)
    elsewhere = place.rename(place.with_name(f"{place.name}_elsewhere"))
    bench.finish(command, elsewhere)
    same(elsewhere, whole)
    return "killed at 60 %, moved, finished"


def lost_loader(bench: Bench, name: str, place: Path) -> str:
    """A worker of the command is killed; it goes on, or the same command does."""
    command, whole = COMMANDS[name], bench.unbroken(name)
    process = bench.start(command, bench.fresh(name, place))
    end, children = time.monotonic() + 0.9 * bench.seconds[name], []
    while process.poll() is None and not children and time.monotonic() < end:
        children = [child for child in psutil.Process(process.pid).children(recursive=True) if is_worker(child)]
        time.sleep(0.02)
    for child in children[:1]:
        child.kill()
    wait(process)
    nothing_runs(process.pid)
    bench.finish(command, place)
    same(place, whole)
    return "one was killed" if children else "left out: it has none"


def is_worker(process: psutil.Process) -> bool:
    """Whether it works on cases; the process in which Python keeps track of shared memory does not."""
    try:
        return "resource_tracker" not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def trials(commands: list[str], moments: int) -> Iterator[tuple[str, Callable[[Bench, Path], str]]]:
    """(name, what is done)."""
    for name in commands:
        for moment in range(moments):
            for number in SIGNALS:
                yield f"{name}_{number.name}_{moment}", lambda b, p, n=name, m=moment, s=number: killed(b, n, p, m, s)
        others = [
            two_at_once,
            full_disk,
            read_only,
            moved,
            *([lost_loader, small_shm] if name in ("train", "preprocess") else []),
        ]
        for trial in others:
            yield f"{name}_{trial.__name__}", lambda b, p, n=name, t=trial: t(b, n, p)


def main() -> int:
    """Do what has not passed yet, print one line a trial."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=Path, default=Path(".verify/kills"))
    arguments.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    arguments.add_argument("--moments", type=int, default=10)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", default="", help="a part of the names of trials")
    args = arguments.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it and hand that on
    folder = args.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    bench, failed, done = Bench(folder, args.seed), [], 0
    for name, trial in trials(args.commands, args.moments):
        if args.only not in name:
            continue
        mark, place, started = folder / f"{name}.{args.seed}.passed", folder / name, time.monotonic()
        done += 1
        if mark.exists():
            print(f"passed before   {name}", flush=True)
            continue
        for stale in folder.glob(f"{name}*"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        try:
            outcome = trial(bench, place)
        except AssertionError as error:
            failed.append(name)
            print(f"FAILED {time.monotonic() - started:6.0f} s {name}: {error}", flush=True)
            continue
        mark.write_text(outcome)
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(place.with_name(f"{place.name}_elsewhere"), ignore_errors=True)
        print(f"passed {time.monotonic() - started:6.0f} s {name}: {outcome}", flush=True)
    print(f"{done - len(failed)} of {done} trials passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
