"""SIGKILL at any moment of preprocessing, training and prediction: the same command again ends as if nothing had been.

The commands are those that a user types, each in a session of its own, so that all that it starts can be found. The
kill reaches the command alone, as that of a system short of memory does; its workers must notice by themselves.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from autolmk.cli import extract_fingerprint, plan_experiment
from autolmk.fold import checkpoint
from autolmk.fold.log import read_log
from autolmk.phantom import write_phantom

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sessions, SIGKILL")

NAME = "Dataset001_Phantom"
N_TRAIN, N_TEST, SIZE = 120, 30, 48
STEPS = 60  # of training
KILLS, SEED = 10, 7
LIMIT = 300.0  # s that a command may take
TELL_OF_TIME = ("run.json", "training_log.jsonl", "progress.png", "checkpoint_best.safetensors")


@dataclass(frozen=True)
class Stage:
    """A command, the folder (a pattern) that it fills with so many files, and what it says where it goes on."""

    name: str
    arguments: str
    folder: str
    n_files: int
    going_on: str

    def results(self, place: Path) -> dict[str, Any]:
        """File -> content, which of what tells of time is left out, and of a checkpoint is the tensors."""
        (folder,) = place.glob(self.folder)
        found: dict[str, Any] = {}
        for file in folder.rglob("*"):
            if file.name == "checkpoint_final.safetensors":
                found |= {name: t.numpy().tobytes() for name, t in checkpoint.load(file).tensors.items()}
            elif file.is_file():
                found[str(file.relative_to(folder))] = "" if file.name in TELL_OF_TIME else file.read_bytes()
        return found

    def done(self, place: Path) -> float:
        """The share of its steps, where it trains, or of its files that it has made."""
        folder = next(iter(place.glob(self.folder)), place / "nothing")
        if self.name == "train":
            return max((entry["iteration"] for entry in read_log(folder)), default=0) / STEPS
        return sum(file.is_file() for file in folder.rglob("*")) / self.n_files


PREPROCESS = Stage(
    "preprocess",
    "-d 1 -np 2",
    "preprocessed/*/spacing_*",
    2 * N_TRAIN + 1,  # raw/files.json
    rf"(?!{N_TRAIN} )\b\d+ of {N_TRAIN} cases to preprocess",
)
TRAIN = Stage(
    "train",
    f"1 0 --epochs 12 --set schedule.iterations_per_epoch={STEPS // 12} --seed 7 -device cpu --threads 1 --workers 2",
    "results/*/*/fold_0",
    10 + N_TRAIN // 5,  # the detections of each held-out case among them
    r"going on from iteration \d+|is finished",
)
PREDICT = Stage(
    "predict",
    f"-d 1 -i raw/{NAME}/imagesTs -o predictions -device cpu --continue_prediction",
    "predictions",
    N_TEST + 3,  # run.json, landmarks.csv, review.csv
    r"\d+ of \d+ cases are predicted already",
)
PREDICT_OVER = dataclasses.replace(PREDICT, arguments=PREDICT.arguments.removesuffix(" --continue_prediction"))
STAGES = {stage.name: stage for stage in (PREPROCESS, TRAIN, PREDICT)}


class Runs:
    """A folder in which every stage ran unbroken, with how long each took (s); and runs beside it, to be killed."""

    def __init__(
        self, unbroken: Path, start: Callable[..., subprocess.Popen[str]], wait_until: Callable[..., None]
    ) -> None:
        self.unbroken, self._start, self._wait_until = unbroken, start, wait_until
        self.seconds: dict[str, float] = {}
        for stage in STAGES.values():
            started = time.monotonic()
            self.finish(stage, unbroken)
            self.seconds[stage.name] = time.monotonic() - started
            (folder,) = unbroken.glob(stage.folder)
            assert sum(file.is_file() for file in folder.rglob("*")) == stage.n_files

    def killed(self, stage: Stage, share: float, folder: Path) -> Path:
        """The place below `folder` where a fresh run was killed after a share of the stage's duration."""
        for attempt in range(5):
            place = self._fresh(stage, folder / f"{share:.4f}_{attempt}")
            started = time.monotonic()
            process, _ = self._begin(stage, place)
            try:
                process.wait(share * self.seconds[stage.name])
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self._nothing_is_left(process)
                return place
            self.seconds[stage.name] = time.monotonic() - started  # faster than those before
        pytest.fail("every run was over before it was to be killed")

    def killed_at_work(self, stage: Stage, share: float, folder: Path) -> Path:
        """The place below `folder` where a fresh run was killed once it had done a share of its work."""
        place = self._fresh(stage, folder / f"{share:.4f}")
        process, _ = self._begin(stage, place)
        try:
            self._wait_until(lambda: stage.done(place) >= share, process, LIMIT)
        finally:
            process.kill()
            process.wait()
        self._nothing_is_left(process)
        return place

    def finish(self, stage: Stage, place: Path) -> str:
        """Run a command to its end; gives what it said."""
        process, log = self._begin(stage, place)
        try:
            assert process.wait(LIMIT) == 0, log.read_text()
        finally:
            process.kill()
        self._nothing_is_left(process)
        return log.read_text()

    def _fresh(self, stage: Stage, place: Path) -> Path:
        """A new folder with what the stage works from."""
        place.mkdir(parents=True)
        (place / "raw").symlink_to(self.unbroken / "raw")
        made = ["splits_final.json", *(["spacing_*"] if stage is PREPROCESS else [])]
        shutil.copytree(self.unbroken / "preprocessed", place / "preprocessed", ignore=shutil.ignore_patterns(*made))
        if stage is PREDICT:
            (place / "results").symlink_to(self.unbroken / "results")
        return place

    def _begin(self, stage: Stage, place: Path) -> tuple[subprocess.Popen[str], Path]:
        log = place / "log.txt"
        with log.open("w") as stream:
            process = self._start(stage.name, *stage.arguments.split(), place=place, stdout=stream, stderr=stream)
        return process, log

    def _nothing_is_left(self, process: subprocess.Popen[str]) -> None:
        """Workers may take a moment to notice that they are alone."""
        self._wait_until(lambda: not processes_of(process.pid))


def processes_of(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.fixture(scope="module")
def runs(
    start_command: Callable[..., subprocess.Popen[str]],
    wait_until: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Runs:
    place = tmp_path_factory.mktemp("unbroken")
    write_phantom(place / "raw" / NAME, n_train=N_TRAIN, n_test=N_TEST, ndim=2, size=SIZE)
    folders = [argument for name in ("raw", "preprocessed") for argument in (f"--{name}", str(place / name))]
    assert extract_fingerprint.main(["-d", "1", "-np", "0", *folders]) == 0
    assert plan_experiment.main(["-d", "1", "-pl", "heatmap", "--preset", "XS", "-device", "cpu", *folders]) == 0
    return Runs(place, start_command, wait_until)


def repeat(stage: Stage, place: Path, share: float, runs: Runs) -> bool:
    """Give the command that was killed in `place` again, and compare with the unbroken run; whether there was something
    to go on from."""
    if stage is PREDICT:  # what a killed run left must not disturb one that starts over either
        over = shutil.copytree(place, place.with_name(f"{place.name}_over"), symlinks=True)
        runs.finish(PREDICT_OVER, over)
        assert_same(stage, over, runs.unbroken)
    started = time.monotonic()
    said = runs.finish(stage, place)
    seconds = time.monotonic() - started
    assert_same(stage, place, runs.unbroken)
    went_on = re.search(stage.going_on, said)
    print(
        f"{stage.name}: killed at {share * 100:.0f} % of {runs.seconds[stage.name]:.1f} s, ended {seconds:.1f} s after "
        f"its second start; {went_on[0] if went_on else 'nothing was done before'}"
    )
    if went_on is None:
        runs.seconds[stage.name] = seconds  # of a whole run again: the machine may have become slower
    return went_on is not None


def assert_same(stage: Stage, place: Path, unbroken: Path) -> None:
    ours, theirs = stage.results(place), stage.results(unbroken)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.parametrize("name", STAGES)
def test_one_kill(name: str, runs: Runs, tmp_path: Path) -> None:
    """In the middle of its work, whatever time that takes."""
    share = np.random.default_rng([SEED, list(STAGES).index(name)]).uniform(0.4, 0.8)
    repeat(STAGES[name], runs.killed_at_work(STAGES[name], share, tmp_path), share, runs)


@pytest.mark.long
@pytest.mark.parametrize("name", STAGES)
def test_ten_kills(name: str, runs: Runs, tmp_path: Path) -> None:
    """At moments drawn uniformly over the whole command, its start included."""
    shares = np.random.default_rng([SEED, list(STAGES).index(name)]).uniform(size=KILLS)
    went_on = [repeat(STAGES[name], runs.killed(STAGES[name], share, tmp_path), share, runs) for share in shares]
    assert any(went_on)
