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
import hashlib
import json
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
from dataclasses import dataclass
from pathlib import Path

import psutil

from autolmk.files.locks import LOCK_FILE, is_locked
from autolmk.fold import checkpoint
from autolmk.phantom import write_phantom

NAME = "Dataset001_Phantom"
LIMIT = 300.0  # s that a command may take
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ROOM = "4 KiB"
FILE_LIMIT = 2000  # bytes
NAMESPACE = ("unshare", "-m", "sh", "-c")
# $0: the folder. It is copied onto a tmpfs over itself, which is filled up; what lies there afterwards is copied back.
FULL = """keep=$(mktemp -d) && mount --bind . "$keep" && size=$(($(du -sk . | cut -f1) * 2 + 4096)) &&
mount -t tmpfs -o size=${size}k tmpfs "$0" && cp -a "$keep"/. "$0"/ && cd "$0" || exit 99
dd if=/dev/zero of=.fill bs=4k 2>/dev/null; truncate -s -4096 .fill
"$@"; code=$?; rm .fill; rm -r "$keep"/* && cp -a "$0"/. "$keep"/ || exit 98
umount "$keep"; rmdir "$keep"; exit $code"""
ATTEMPTS = 5  # at a moment at which the command still runs
N_TRAIN, N_TEST, SIZE = 12, 4, 32
TELL_OF_TIME = (
    *("run.json", "training_log.jsonl", "progress.png", "checkpoint_best.safetensors", "config.json"),
    *("inference_instructions.txt", "report.html", "summary.json"),
)
SPEED = "--epochs 4 --set schedule.iterations_per_epoch=3 --seed 7 -device cpu --threads 1"


@dataclass(frozen=True)
class Command:
    """needs: the commands before it. writes: folders, of which the first one is its own, that a fresh start lacks."""

    name: str
    arguments: str
    needs: tuple[str, ...]
    writes: tuple[str, ...]


COMMANDS = {
    c.name: c
    for c in (
        Command("preprocess", "-d 1 -np 2", (), (f"preprocessed/{NAME}/spacing_*",)),
        Command("train", f"1 0 {SPEED} --workers 1", ("preprocess",), (f"results/{NAME}/*__*/fold_0",)),
        Command("find_best_configuration", "1 -f 0 1", ("preprocess", "train", "train_1"), (f"results/{NAME}/best",)),
        Command("predict", f"-d 1 -f 0 -i raw/{NAME}/imagesTs -o predictions -device cpu --continue_prediction",
                ("preprocess", "train"), ("predictions",)),
        Command("run",
                "1 -f 0 1 -device cpu --epochs 1 --jobs 1 -pl heatmap --preset XS -o predictions --until predict",
                (), (f"preprocessed/{NAME}", f"results/{NAME}", "predictions")),
    )
}  # fmt: skip
TRAIN_1 = Command("train", f"1 1 {SPEED} --workers 1", (), ())


class Bench:
    """Unbroken runs in `folder`, once; beside them what is tried."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.base = folder / "base"
        self.seconds: dict[str, float] = {}
        if not (self.base / "ready").exists():
            shutil.rmtree(self.base, ignore_errors=True)
            write_phantom(self.base / "raw" / NAME, n_train=N_TRAIN, n_test=N_TEST, ndim=2, size=SIZE)
            planning = "-d 1 -pl heatmap --preset XS -device cpu"
            for name, arguments in (("extract_fingerprint", "-d 1 -np 0"), ("plan_experiment", planning)):
                self.finish(Command(name, arguments, (), ()), self.base)
            (self.base / "ready").touch()

    def unbroken(self, name: str) -> Path:
        """A place where a command ran to its end after all that it needs."""
        place, mark = self.folder / f"whole_{name}", self.folder / f"whole_{name}.json"
        if not mark.exists():
            shutil.rmtree(place, ignore_errors=True)
            self.fresh(name, place)
            started = time.monotonic()
            self.finish(COMMANDS[name], place)
            mark.write_text(json.dumps(time.monotonic() - started))
        self.seconds[name] = json.loads(mark.read_text())
        return place

    def fresh(self, name: str, place: Path) -> Path:
        """A new folder with all that a command needs, and nothing that it writes."""
        needs = COMMANDS[name].needs
        source = self.base
        if needs:
            source = self.folder / ("prepared_" + "_".join(needs))
            if not (source / "ready").exists():
                shutil.rmtree(source, ignore_errors=True)
                shutil.copytree(self.base, source, ignore=shutil.ignore_patterns("ready"))
                for need in needs:
                    self.finish(TRAIN_1 if need == "train_1" else COMMANDS[need], source)
                (source / "ready").touch()
        skip = ["ready", *(["preprocessed"] if name == "run" else [])]
        shutil.copytree(source, place, ignore=shutil.ignore_patterns(*skip))
        return place

    def start(
        self, command: Command, place: Path, wrapper: tuple[str, ...] = (), **settings: object
    ) -> subprocess.Popen[bytes]:
        """Begin a command in a session of its own; what it says goes to `place`.log."""
        folders = [word for kind in ("raw", "preprocessed", "results") for word in (f"--{kind}", kind)]
        code = f"import sys; from autolmk.cli.{command.name} import main; sys.exit(main())"
        words = [sys.executable, "-c", code, *command.arguments.split(), *folders]
        if wrapper:
            words = [*wrapper, str(place), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        log = place.with_name(f"{place.name}.log")
        with log.open("ab") as stream:
            return subprocess.Popen(
                words, cwd=place, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
                env=environment, **settings,
            )  # fmt: skip

    def start_on_full_tmpfs(self, command: Command, place: Path) -> subprocess.Popen[bytes]:
        """Begin a command in a namespace in which the place is a full tmpfs."""
        return self.start(command, place, wrapper=(*NAMESPACE, FULL))

    def finish(self, command: Command, place: Path) -> None:
        """Run a command to its end. AssertionError, with what it said last, unless that is a good one."""
        process = self.start(command, place)
        code = wait(process)
        assert code == 0, f"exit code {code}: {said(place)}"
        nothing_runs(process.pid)


def wait(process: subprocess.Popen[bytes]) -> int:
    """The exit code; AssertionError where a command hangs."""
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"no end within {LIMIT:.0f} s") from None


def said(place: Path) -> str:
    """The last lines of the log of a place."""
    return place.with_name(f"{place.name}.log").read_text(errors="replace")[-1500:]


def nothing_runs(session: int) -> None:
    """AssertionError where a process of the session still runs after a while."""
    end = time.monotonic() + 60
    while left := [p for p in psutil.pids() if _session(p) == session]:
        assert time.monotonic() < end, f"processes are left over: {left}"
        time.sleep(0.1)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid) if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else -1
    except (ProcessLookupError, psutil.NoSuchProcess):
        return -1


def results(place: Path) -> dict[str, str]:
    """File -> digest; of checkpoints that of the tensors, of what tells of time nothing but that it is there."""
    found = {}
    for file in sorted(place.rglob("*")):
        name = str(file.relative_to(place))
        if file.is_dir() or name.startswith("raw/"):
            continue
        if file.name in TELL_OF_TIME or "/run/" in name:
            found[name] = ""
        elif file.suffix == ".safetensors":
            tensors = checkpoint.load(file).tensors
            joined = b"".join(k.encode() + tensors[k].numpy().tobytes() for k in sorted(tensors))
            found[name] = hashlib.sha256(joined).hexdigest()
        else:
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def same(place: Path, whole: Path) -> None:
    """AssertionError unless both hold the same."""
    ours, theirs = results(place), results(whole)
    assert ours.keys() == theirs.keys(), f"other files: {sorted(ours.keys() ^ theirs.keys())[:8]}"
    differing = [name for name in ours if ours[name] != theirs[name]]
    assert not differing, f"other contents: {differing[:8]}"


# -- what is tried ----------------------------------------------------------------------------------------------------


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
