"""SIGKILL in the middle of autolmk_run, in a training that it started and in a worker of a Dask cluster: the same
command finishes, nothing is trained twice, no process is left over. On phantoms, with processes as a user has them.

Training is planned to take an hour, so that it is under way when the kill comes; a file `finish` ends it after that.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from test_kill import processes_of

from autolmk.cli import extract_fingerprint, plan_experiment, preprocess
from autolmk.fold.log import read_log
from autolmk.phantom import write_phantom
from autolmk.plans import Plans

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sessions, SIGKILL")

NAME, FOLDS, SECONDS = "Dataset001_Phantom", 2, 3600.0
RUN = ["1", "-f", "0", "1", "-device", "cpu", "--until", "train", "--jobs", "2"]
LIMIT = 600.0  # s that a command may take
Start = Callable[..., subprocess.Popen[str]]
Wait = Callable[..., None]


@dataclass(frozen=True)
class Runs:
    """autolmk_run in a folder, as often as needed; what it says goes to log.txt there."""

    place: Path
    start_command: Start
    wait_until: Wait

    def start(self, *more: str) -> subprocess.Popen[str]:
        with (self.place / "log.txt").open("a") as stream:
            return self.start_command("run", *RUN, *more, place=self.place, stdout=stream, stderr=stream)

    def finish(self, process: subprocess.Popen[str]) -> str:
        try:
            assert process.wait(LIMIT) == 0, self.said()
        finally:
            process.kill()
        self.wait_until(lambda: not processes_of(process.pid))
        assert all(self.is_finished(fold) for fold in range(FOLDS))
        return self.said()

    def said(self) -> str:
        logs = sorted(self.place.glob("results/*/run/logs/*.log"))
        return "\n".join(file.read_text() for file in (self.place / "log.txt", *logs))

    def fold(self, fold: int) -> Path:
        return self.place / "results" / NAME / "heatmap__autolmkPlans__heatmap" / f"fold_{fold}"

    def can_go_on(self, fold: int) -> bool:
        return (self.fold(fold) / "checkpoint_latest.safetensors").exists()

    def is_finished(self, fold: int) -> bool:
        return (self.fold(fold) / "checkpoint_final.safetensors").exists()

    def trainer(self, fold: int) -> psutil.Process:
        """The process that trains a fold."""
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            ours = words[1:3] == ["-m", "autolmk.cli.job"] and str(self.place / "results") in words
            if ours and words[4] == "train" and words[7] == str(fold):
                return process
        raise AssertionError(f"nothing trains fold {fold}: {self.said()}")

    def steps(self, fold: int) -> int:
        """That the log of a fold tells of."""
        return max((entry["iteration"] for entry in read_log(self.fold(fold))), default=0)

    def end_training(self, process: subprocess.Popen[str], *folds: int) -> None:
        """Once each of these folds made steps again."""
        for fold in folds:
            before = self.steps(fold)
            self.wait_until(lambda fold=fold, before=before: self.steps(fold) > before, process, LIMIT)
            (self.fold(fold) / "finish").touch()
        self.wait_until(lambda: all(map(self.is_finished, folds)), None, LIMIT)

    def began(self, fold: int) -> int:
        """How often training of a fold was begun from nothing."""
        log = (self.place / "results" / NAME / "run" / "logs" / f"heatmap_fold_{fold}.log").read_text()
        return log.count("$ autolmk_train") - log.count("going on from iteration")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planned, preprocessed phantom whose plans end training after an hour."""
    place = tmp_path_factory.mktemp("prepared")
    write_phantom(place / "raw" / NAME, n_train=12, n_test=1, ndim=2, size=48)
    folders = [argument for name in ("raw", "preprocessed") for argument in (f"--{name}", str(place / name))]
    assert extract_fingerprint.main(["-d", "1", "-np", "0", *folders]) == 0
    assert plan_experiment.main(["-d", "1", "-pl", "heatmap", "--preset", "XS", "-device", "cpu", *folders]) == 0
    assert preprocess.main(["-d", "1", "-np", "0", *folders]) == 0
    file = place / "preprocessed" / NAME / "autolmkPlans.json"
    plans = Plans.load(file)
    (configuration,) = plans.configurations.values()
    schedule = replace(configuration.schedule, iterations_per_epoch=5, max_seconds=SECONDS)
    replace(plans, configurations={"heatmap": replace(configuration, schedule=schedule)}).save(file)
    return place


@pytest.fixture
def runs(prepared: Path, tmp_path: Path, start_command: Start, wait_until: Wait) -> Runs:
    (tmp_path / "raw").symlink_to(prepared / "raw")
    shutil.copytree(prepared / "preprocessed", tmp_path / "preprocessed")
    return Runs(tmp_path, start_command, wait_until)


def digests(folder: Path) -> dict[str, str]:
    """Of a fold's files, with the time at which each was written."""
    return {
        file.name: f"{file.stat().st_mtime_ns} {hashlib.sha256(file.read_bytes()).hexdigest()}"
        for file in folder.iterdir()
        if file.is_file()
    }


def test_kills_of_a_training_and_of_the_run(runs: Runs, wait_until: Wait, alive: Callable[..., list[int]]) -> None:
    """The killed training is tried again, alone, after the other one has ended; then the whole run is killed."""
    process = runs.start()
    wait_until(lambda: runs.can_go_on(0) and runs.can_go_on(1), process, LIMIT)
    first = runs.trainer(0)
    first.kill()
    runs.end_training(process, 1)
    wait_until(lambda: "heatmap fold 1: done" in runs.said(), process, LIMIT)
    kept = digests(runs.fold(1))
    before = runs.steps(0)
    wait_until(lambda: runs.steps(0) > before, process, LIMIT)
    second = runs.trainer(0)
    assert second.pid != first.pid
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(process.pid))
    assert not alive([first.pid, second.pid]) and not runs.is_finished(0)

    process = runs.start()
    runs.end_training(process, 0)
    said = runs.finish(process)
    assert digests(runs.fold(1)) == kept
    assert "heatmap fold 0 was killed; it is tried once more, alone" in said
    assert "training: 1 of 2 done already" in said
    assert runs.began(0) == runs.began(1) == 1


@pytest.fixture
def cluster(tmp_path: Path, wait_until: Wait) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """(address of a Dask scheduler, its two worker processes, of one thread each)."""
    file, place = tmp_path / "scheduler.json", tmp_path / "dask"
    place.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--scheduler-file", str(file)]
        log = (place / f"{module}.log").open("ab")
        with log:
            return subprocess.Popen(
                [*command, "--no-dashboard"],
                cwd=place, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    started = [start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")]
    wait_until(file.exists, started[0])
    workers = [
        start("dask_worker", "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", "--local-directory", str(place))
        for _ in range(2)
    ]
    address = json.loads(file.read_text())["address"]
    try:
        yield address, workers
    finally:
        for process in [*workers, *started]:
            process.kill()
            process.wait()


def worker_of(trainer: psutil.Process, workers: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    (found,) = [worker for worker in workers if worker.pid == trainer.ppid()]
    return found


def test_kill_of_a_dask_worker(
    runs: Runs, cluster: tuple[str, list[subprocess.Popen[bytes]]], wait_until: Wait, alive: Callable[..., list[int]]
) -> None:
    """Its training goes on at the other worker, after the one there, and the run does not even fail."""
    address, workers = cluster
    process = runs.start("--scheduler", address)
    wait_until(lambda: runs.can_go_on(0) and runs.can_go_on(1), process, LIMIT)
    trainers = [runs.trainer(fold) for fold in range(FOLDS)]
    assert {trainer.ppid() for trainer in trainers} == {worker.pid for worker in workers}
    worker_of(trainers[0], workers).kill()
    wait_until(lambda: not alive([trainers[0].pid]))
    runs.end_training(process, 1, 0)
    runs.finish(process)
    assert runs.began(0) == runs.began(1) == 1
    for worker in workers:
        wait_until(lambda session=worker.pid: not set(processes_of(session)) - {session})


@pytest.mark.long
def test_kill_of_a_run_on_a_dask_cluster(
    runs: Runs, cluster: tuple[str, list[subprocess.Popen[bytes]]], wait_until: Wait, alive: Callable[..., list[int]]
) -> None:
    """The workers do not go on training for nobody: the next run finds the folds free, and finishes them."""
    address, workers = cluster
    process = runs.start("--scheduler", address)
    wait_until(lambda: runs.can_go_on(0) and runs.can_go_on(1), process, LIMIT)
    orphans = [runs.trainer(fold).pid for fold in range(FOLDS)]
    process.kill()
    process.wait()
    process = runs.start("--scheduler", address)
    wait_until(lambda: not alive(orphans), process, LIMIT)
    runs.end_training(process, 0, 1)
    runs.finish(process)
    assert runs.began(0) == runs.began(1) == 1
    for worker in workers:
        wait_until(lambda session=worker.pid: not set(processes_of(session)) - {session})
