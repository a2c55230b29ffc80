"""Commands on a tiny phantom, run unbroken and as told, and whether two places hold the same. Used by kills.py."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from autolmk.fold import checkpoint
from autolmk.phantom import write_phantom

NAME = "Dataset001_Phantom"
LIMIT = 300.0  # s that a command may take
NAMESPACE = ("unshare", "-m", "sh", "-c")
# $0: the folder. It is copied onto a tmpfs over itself, which is filled up; what lies there afterwards is copied back.
FULL = """keep=$(mktemp -d) && mount --bind . "$keep" && size=$(($(du -sk . | cut -f1) * 2 + 4096)) &&
mount -t tmpfs -o size=${size}k tmpfs "$0" && cp -a "$keep"/. "$0"/ && cd "$0" || exit 99
dd if=/dev/zero of=.fill bs=4k 2>/dev/null; truncate -s -4096 .fill
"$@"; code=$?; rm .fill; rm -r "$keep"/* && cp -a "$0"/. "$keep"/ || exit 98
umount "$keep"; rmdir "$keep"; exit $code"""
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
