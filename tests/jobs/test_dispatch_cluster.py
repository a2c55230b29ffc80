"""Jobs on a Dask cluster, set up by the very lines of the documentation: one slot, none, one that is lost, and TLS."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autolmk.errors import AutolmkError
from autolmk.jobs import dispatch
from autolmk.jobs.dispatch import cluster_slots, run_jobs
from autolmk.jobs.job import FREE_GPU, Job, JobResult, Place

pytest.importorskip("distributed")
PAGE = Path(__file__).parents[2] / "documentation" / "command_line.md"
CPU = [Place("cpu", 1)]
Wait = Callable[..., None]
Started = tuple[str, list[subprocess.Popen[bytes]]]


def documented(word: str) -> list[str]:
    """The words of the only line of the page that begins `dask WORD`, variables before it left out."""
    (line,) = re.findall(rf"^(?:\w+=\S+ )*dask ({word}\b.*)$", PAGE.read_text(), re.MULTILINE)[:1]
    return shlex.split(line)


@contextmanager
def started(place: Path, wait_until: Wait, *tls: str, workers: int = 1, **environment: str) -> Iterator[Started]:
    """(address of a scheduler, itself and its workers), by the documentation's lines, on a free port of this machine
    and with the address that the scheduler says."""
    file, log = place / "scheduler.json", place / "dask.log"
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}

    def start(words: list[str], *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:], *more, *tls]
        with log.open("ab") as stream:
            return subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--no-dashboard"],
                cwd=place, env=env, stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip

    with ExitStack() as stack:
        processes = [start(documented("scheduler"), "--port", "0", "--scheduler-file", str(file))]
        stack.callback(lambda: [(process.kill(), process.wait()) for process in reversed(processes)])
        wait_until(lambda: file.exists() and file.read_text().rstrip().endswith("}"), processes[0], 300)
        address = json.loads(file.read_text())["address"]
        for _ in range(workers):
            words = [re.sub(r"^t(cp|ls)://.*", address, word) for word in documented("worker")]
            processes.append(start(words, "--no-nanny", "--local-directory", str(place)))
        yield address, processes


def jobs(place: Path, n: int) -> list[Job]:
    return [Job(f"job {k}", ("evaluate", "--help"), place / f"{k}.log") for k in range(n)]


@pytest.mark.parametrize("n", [1, 3])
def test_a_cluster_of_one_slot(n: int, tmp_path: Path, wait_until: Wait) -> None:
    """As the documentation sets it up; a worker that declares a GPU does jobs without one too."""
    with started(tmp_path, wait_until) as (address, _):
        found = run_jobs(jobs(tmp_path, n), places=CPU, label="work", folder=tmp_path, scheduler=address)
        assert [result.code for result in found] == [0] * n
        assert cluster_slots(address, gpu=True) == cluster_slots(address, gpu=False) == 1


def test_the_port_is_warned_of(tmp_path: Path, wait_until: Wait, caplog: pytest.LogCaptureFixture) -> None:
    with started(tmp_path, wait_until) as (address, _), caplog.at_level("WARNING", "autolmk"):
        cluster_slots(address, gpu=False)
    assert "can run code as you" in caplog.text and "tls://" in caplog.text
    assert "runs code" in PAGE.read_text()


def test_a_cluster_without_workers(tmp_path: Path, wait_until: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "WORKER_SECONDS", 0.1)
    with (
        started(tmp_path, wait_until, workers=0) as (address, _),
        pytest.raises(AutolmkError, match="has no worker") as error,
    ):
        run_jobs(jobs(tmp_path, 2), places=CPU, label="work", folder=tmp_path, scheduler=address)
    assert "dask worker" in str(error.value)


def test_a_cluster_whose_only_worker_is_lost(tmp_path: Path, wait_until: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run does not wait for ever."""
    monkeypatch.setattr(dispatch, "WORKER_SECONDS", 1.0)
    monkeypatch.setattr(dispatch, "LOOK_SECONDS", 0.2)
    with started(tmp_path, wait_until) as (address, processes), dispatch._client(address) as client:
        wait_until(lambda: bool(client.scheduler_info(n_workers=-1)["workers"]), seconds=300)
        task = client.submit(__import__("time").sleep, 1000, pure=False)
        processes[1].kill()
        with pytest.raises(AutolmkError, match="has no worker any more"):
            list(dispatch._as_they_end([task], client))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")
def test_tls(tmp_path: Path, wait_until: Wait) -> None:
    """With the certificates that Dask's own configuration names; without them an error says so."""
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=autolmk"]
    subprocess.run([*made, "-keyout", key, "-out", cert], check=True, capture_output=True)
    tls = ("--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    configuration = {"ca-file": cert, "client.cert": cert, "client.key": key}
    dask = pytest.importorskip("dask")
    with started(tmp_path, wait_until, *tls, "--protocol", "tls") as (address, _):
        assert address.startswith("tls://")
        with pytest.raises(AutolmkError, match="DASK_DISTRIBUTED__COMM__TLS__CA_FILE"):
            cluster_slots(address, gpu=False)
        lost = {"distributed.comm.tls.ca-file": cert, "distributed.comm.tls.client.cert": str(tmp_path / "lost.pem")}
        with dask.config.set(lost), pytest.raises(AutolmkError, match="No such file"):
            cluster_slots(address, gpu=False)
        with dask.config.set({f"distributed.comm.tls.{name}": file for name, file in configuration.items()}):
            (found,) = run_jobs(jobs(tmp_path, 1), places=CPU, label="w", folder=tmp_path, scheduler=address)
    assert found.code == 0


def test_ray_runs_a_single_job_as_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for Ray: what is run is a task of the cluster, never a call here, whatever the number of jobs."""
    tasks: list[Job] = []

    class Task:
        def options(self, **options: Any) -> Task:
            assert options == {"num_gpus": 1}
            return self

        def remote(self, job: Job, place: Place) -> JobResult:
            tasks.append(job)
            return JobResult(job, 0, 1.0)

    ray = SimpleNamespace(
        init=lambda **settings: None, shutdown=lambda: None, cluster_resources=lambda: {"GPU": 1.0, "CPU": 1.0},
        remote=lambda function: Task(), wait=lambda refs, num_returns: (refs[:1], refs[1:]), get=lambda ref: ref,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", ray)
    for n in (1, 2):
        listed = [Job(f"job {k}", ("train",), tmp_path / "log", takes=("device",)) for k in range(n)]
        found = run_jobs(listed, places=[Place("auto", 1)], label="w", folder=tmp_path, scheduler="ray")
        assert len(found) == n
    assert len(tasks) == 3


@pytest.mark.parametrize(("resources", "device"), [({"GPU": 2.0}, FREE_GPU), ({}, "auto")])
def test_jobs_of_declared_gpus_take_a_card_each(
    resources: dict[str, float], device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for Dask's client: two workers of one host, which both see all of its cards."""
    workers = {f"tcp://10.0.0.1:{port}": {"resources": resources, "nthreads": 2} for port in (1, 2)}
    places: list[tuple[str, dict[str, int]]] = []

    class Task:
        def __init__(self, job: Job) -> None:
            self.job = job

        def add_done_callback(self, told: Callable[[Task], None]) -> None:
            told(self)

        def result(self) -> JobResult:
            return JobResult(self.job, 0, 1.0)

    def submit(function: Any, job: Job, where: str, slots: dict[str, int], file: Path, **settings: Any) -> Task:
        assert settings["resources"] == ({"GPU": 1} if resources else None)
        places.append((where, slots))
        return Task(job)

    @contextmanager
    def client(address: str) -> Iterator[Any]:
        yield SimpleNamespace(status="running", submit=submit, scheduler_info=lambda n_workers: {"workers": workers})

    monkeypatch.setattr(dispatch, "_client", client)
    listed = [Job(f"job {k}", ("train",), tmp_path / "log", takes=("device",)) for k in range(4)]
    found = run_jobs(listed, places=[Place("auto", 1)], label="w", folder=tmp_path, scheduler="tcp://10.0.0.1:9")
    assert len(found) == 4 and places == [(device, {"10.0.0.1": 4})] * 4
