"""autolmk_train -num_gpus: processes of the command itself, on the CPU; and the GPU that a job of a cluster takes."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from training_tests import load

import autolmk
from autolmk.cli import several_gpus
from autolmk.cli.job import own_gpu
from autolmk.cli.several_gpus import LOST, check_number
from autolmk.cli.train import main
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.jobs.job import FREE_GPU

DATASET = "Dataset001_Tiny"
DIES = "import os, signal, sys; k = int(os.environ['RANK'])\n"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The three folders as arguments, with a preprocessed dataset in them."""
    monkeypatch.setenv("PYTHONPATH", str(Path(autolmk.__file__).parents[1]))
    module, place = load("test_training"), tmp_path / "preprocessed" / DATASET
    plans = module.tiny_plans()
    module.write_store(place / "tiny", plans)
    plans.save(place / "autolmkPlans.json")
    write_json(place / "dataset.json", {"landmarks": {}})
    return [a for n in ("raw", "preprocessed", "results") for a in (f"--{n}", str(tmp_path / n))]


def arguments(places: list[str], *more: str) -> list[str]:
    return ["1", "0", "-device", "cpu", "--workers", "0", "--threads", "1", "--epochs", "1", *places, *more]


def test_two_processes_train_a_fold(places: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One of them speaks."""
    assert main(arguments(places, "-num_gpus", "2")) == 0
    fold = tmp_path / "results" / DATASET / "heatmap__autolmkPlans__heatmap" / "fold_0"
    assert checkpoint_file(fold, "final").is_file() and read_json(fold / "config.json")["ranks"] == 2
    out, err = capfd.readouterr()
    assert out.count("finished: ") == 1 and err.count("starting on 2 devices such as cpu") == 1


def test_batches_that_cannot_be_shared(places: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(places, "-num_gpus", "3")) == 2
    err = capfd.readouterr().err
    assert err.count("cannot be shared by 3 GPUs") == 1 and "-num_gpus 2" in err and "Traceback" not in err


def standing_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Processes that run this code instead of a training."""
    popen = subprocess.Popen

    def start(command: list[str], **settings: Any) -> subprocess.Popen[bytes]:
        return popen([sys.executable, "-c", DIES + code], **settings)

    monkeypatch.setattr(several_gpus.subprocess, "Popen", start)
    monkeypatch.setattr(several_gpus, "GRACE_SECONDS", 5.0)


ENDS = [
    (f"os.kill(os.getpid(), signal.SIGKILL) if k == 1 else sys.exit({LOST})", "process 1 of the 3", "signal 9"),
    (
        f"sys.exit('no memory') if k == 2 else sys.exit({LOST})",
        "process 2 of the 3",
        "it said:\n    no memory",
    ),
    ("import time; os.kill(os.getpid(), signal.SIGKILL) if k == 0 else time.sleep(99)", "process 0", "signal 9"),
    (f"sys.exit({LOST})", "process 0 of the 3", f"exit code {LOST}"),
]


@pytest.mark.parametrize(("code", "who", "how"), ENDS)
def test_the_process_that_ended_first_is_named(code: str, who: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    standing_in(monkeypatch, code)
    if "sleep" in code:
        monkeypatch.setattr(several_gpus, "GRACE_SECONDS", 0.5)
    with pytest.raises(AutolmkError) as error:
        several_gpus.launch(["1", "0"], 3)
    assert who in str(error.value) and how in str(error.value) and "also with another -num_gpus" in str(error.value)


@pytest.mark.parametrize(("code", "expected"), [("sys.exit(2)", 2), ("sys.exit(143)", 143), ("sys.exit(0)", 0)])
def test_what_the_first_process_says_itself_is_left_to_it(
    code: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_in(monkeypatch, code)
    assert several_gpus.launch(["1", "0"], 2) == expected


def test_signals_are_handed_on_to_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    wait = f"""
import pathlib, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
pathlib.Path({str(tmp_path)!r}, str(k)).touch()
if k == 0:
    while len(list(pathlib.Path({str(tmp_path)!r}).iterdir())) < 2:
        time.sleep(0.05)
    os.kill(os.getppid(), signal.SIGTERM)
time.sleep(600)
"""
    standing_in(monkeypatch, wait)
    before = signal.getsignal(signal.SIGTERM)
    assert several_gpus.launch(["1", "0"], 2) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def args(n: int, device: str) -> argparse.Namespace:
    return argparse.Namespace(num_gpus=n, device=device)


@pytest.mark.parametrize(
    ("n", "device", "there", "words"),
    [
        (0, "auto", 4, "-num_gpus must be 1 or more"),
        (2, "cuda:1", 4, "names a single GPU"),
        (4, "auto", 2, "there are not 4 GPUs"),
        (4, "cuda", 0, "leave -num_gpus out"),
    ],
)
def test_devices_that_are_not_there(
    n: int, device: str, there: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(AutolmkError, match=words):
        check_number(args(n, device))
    check_number(args(1, device))
    check_number(args(8, "cpu"))


def test_numbers_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert several_gpus.is_rank() and several_gpus.local_processes() == 4
    for n in (1, 4, 8):
        check_number(args(n, "auto"))
    with pytest.raises(AutolmkError, match="leave -num_gpus out where torchrun"):
        check_number(args(2, "auto"))


HOLDS = """
import sys, tempfile
tempfile.gettempdir = lambda: sys.argv[1]
from autolmk.cli.job import own_gpu
with own_gpu(["-device", "cuda:free"]) as words:
    print(words[-1], flush=True)
    sys.stdin.read()
"""


def test_jobs_of_a_host_take_a_gpu_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest that is free among those that they see; where each sees one alone, all take the first."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(autolmk.__file__).parents[1]))
    words = ["1", "0", "-device", FREE_GPU]

    def taken() -> str:
        with own_gpu(words) as found:
            assert found[:3] == words[:3]
            return found[-1]

    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "cuda:0\n"
        assert taken() == "cuda:1"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
        assert taken() == "cuda:0"
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        other.kill()
    assert taken() == "cuda:0"
    with own_gpu(["-device", "cpu"]) as without:
        assert without == ["-device", "cpu"]


def test_a_gpu_that_another_job_leaves_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was held when this one asked for it, and free a moment later."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    left, tried = [AutolmkError("another process is at work in this folder")], []

    @contextmanager
    def exclusive(place: Path) -> Iterator[None]:
        tried.append(place.name)
        if left:
            raise left.pop()
        yield

    monkeypatch.setattr("autolmk.cli.job.exclusive", exclusive)
    with own_gpu([FREE_GPU]) as found:
        assert found == ["cuda:0"] and tried == ["0", "0"]


def test_outside_the_main_thread_no_process_is_left_behind() -> None:
    """There Python lets nobody catch signals."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def work() -> None:
        with several_gpus._handing_on([process]):
            pass

    with ThreadPoolExecutor(1) as pool, process:
        pool.submit(work).result()
        assert process.returncode == -signal.SIGKILL
