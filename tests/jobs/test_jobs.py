"""Jobs: processes of their own, none of which costs the others anything or outlives who started it. Kills are real."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autolmk.errors import AutolmkError
from autolmk.files.locks import exclusive
from autolmk.jobs import dispatch
from autolmk.jobs import job as job_module
from autolmk.jobs.dispatch import Pulse, check_scheduler, idle_gpus, local_places, run_jobs
from autolmk.jobs.job import Job, Place, command_line, run_job, tail
from autolmk.jobs.watching import Watch
from autolmk.parallel import processors

CPU = [Place("cpu", 1), Place("cpu", 1)]
HELD = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from autolmk.files.locks import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
WAITS = """
import sys, time, signal
from pathlib import Path
from types import SimpleNamespace
from autolmk.jobs import job as job_module
from autolmk.jobs.dispatch import run_jobs
from autolmk.jobs.job import Job, Place

SLEEPS = '''
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from autolmk.parallel import end_with
end_with(int(sys.argv[1]))
def save(number, frame):
    Path(sys.argv[2] + ".saved").touch()
    raise SystemExit(143)
signal.signal(signal.SIGTERM, save)
Path(sys.argv[2] + ".pid").write_text(str(os.getpid()))
time.sleep(3600)
'''
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    job_module.command_line = lambda job, place: [
        sys.executable, "-c", SLEEPS, str(__import__("os").getpid()), str(folder / job.name)
    ]
    both = [Job(name, (name,), folder / f"{name}.log") for name in ("a", "b")]
    run_jobs(both, places=[Place("cpu", 1)] * 2, label="waiting", folder=folder)
"""


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's command is Python code, then its arguments."""

    def line(job: Job, place: Place) -> list[str]:
        return [sys.executable, "-c", job.command[0], *job.arguments(place)]

    monkeypatch.setattr(job_module, "command_line", line)


def job(place: Path, name: str, code: str, *arguments: str, **settings: Any) -> Job:
    return Job(name, (code, *arguments), place / "logs" / f"{name}.log", **settings)


def test_a_failing_job_costs_the_others_nothing_and_is_named(python: None, tmp_path: Path) -> None:
    touch = "import sys, pathlib; pathlib.Path(sys.argv[1]).touch()"
    fails = (
        "import sys; print('one'); print('progress 1\\rprogress 2'); print('the reason', file=sys.stderr); sys.exit(2)"
    )
    listed = [job(tmp_path, "bad", fails)]
    for name in "abc":
        listed.append(job(tmp_path, name, touch, str(tmp_path / name), outputs=(tmp_path / name,)))
    with pytest.raises(AutolmkError) as error:
        run_jobs(listed, places=CPU, label="work", folder=tmp_path)
    assert all((tmp_path / name).exists() for name in "abc")
    said = str(error.value)
    assert "bad failed with exit code 2" in said and str(tmp_path / "logs" / "bad.log") in said
    assert "the reason" in said and "progress 2" in said and "progress 1" not in said
    done = run_jobs([*listed[1:]], places=CPU, label="work", folder=tmp_path)
    assert done == [], "what is done is done again"


def test_exit_codes_that_are_accepted(python: None, tmp_path: Path) -> None:
    some_failed = job(tmp_path, "predict", "import sys; sys.exit(3)", accepted=(0, 3))
    (result,) = run_jobs([some_failed], places=CPU, label="work", folder=tmp_path)
    assert result.code == 3 and result.good


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_job_is_tried_once_more_alone(python: None, tmp_path: Path) -> None:
    """`always` is killed every time, `once` the first time."""
    code = "import os, pathlib, sys, time\nstart = time.monotonic()\nplace = pathlib.Path(sys.argv[1])\n"
    code += "place.write_text(place.read_text() + 'x' if place.exists() else 'x')\n"
    code += "if place.read_text() != sys.argv[2]: os.kill(os.getpid(), 9)\n"
    once = job(tmp_path, "once", code, str(tmp_path / "once"), "xx")
    always = job(tmp_path, "always", code, str(tmp_path / "always"), "never")
    with pytest.raises(AutolmkError, match=r"^always was killed \(signal 9\)"):
        run_jobs([once, always], places=CPU, label="work", folder=tmp_path)
    assert (tmp_path / "once").read_text() == (tmp_path / "always").read_text() == "xx"


def test_one_job_a_device_at_a_time(python: None, tmp_path: Path) -> None:
    """The first job ends only once a second one has begun."""
    code = "import pathlib, sys, time\nbegin = time.time(); place = pathlib.Path(sys.argv[1])\n"
    code += "place.with_suffix('.begun').touch()\n"
    code += "while len(list(place.parent.glob('*.begun'))) < 2: time.sleep(0.01)\n"  # so that both devices are used
    code += "open(sys.argv[1], 'w').write(f'{begin} {time.time()}')\n"
    code += "open(sys.argv[1] + '.device', 'w').write(sys.argv[3])"
    listed = [job(tmp_path, f"j{k}", code, str(tmp_path / f"j{k}"), takes=("device",)) for k in range(5)]
    places = [Place("cuda:0", 1), Place("cuda:1", 1)]
    assert len(run_jobs(listed, places=places, label="work", folder=tmp_path)) == 5
    used: dict[str, list[list[float]]] = {}
    for k in range(5):
        device = (tmp_path / f"j{k}.device").read_text()
        used.setdefault(device, []).append([float(t) for t in (tmp_path / f"j{k}").read_text().split()])
    assert set(used) == {"cuda:0", "cuda:1"}
    for spans in used.values():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_cores_are_shared_out(tmp_path: Path) -> None:
    train = Job("t", ("train", "1", "0"), tmp_path / "log", takes=("device", "threads"))
    for cores, loaders, threads in ((1, "0", "1"), (2, "1", "1"), (4, "2", "2"), (64, "12", "52")):
        said = ["1", "0", "-device", "cpu", "--workers", loaders, "--threads", threads]
        assert train.arguments(Place("cpu", cores)) == said
    assert Job("e", ("evaluate", "-d", "1"), tmp_path / "log").arguments(Place("cpu", 1)) == ["-d", "1"]
    assert command_line(train, Place("cpu", 1))[:5] == [
        sys.executable,
        "-m",
        "autolmk.cli.job",
        str(os.getpid()),
        "train",
    ]


def test_places_of_this_machine() -> None:
    n = processors()
    assert [p.device for p in local_places(["cuda:0", "cuda:1"], 9, bytes_a_job=1)] == ["cuda:0", "cuda:1"]
    assert local_places(["cuda:0", "cuda:1"], 1, bytes_a_job=1) == [Place("cuda:0", n)]
    assert [p.device for p in local_places(["cuda:0"], 9, at_a_time=2, bytes_a_job=1)] == ["cuda:0"] * 2
    assert len(local_places([], 99, bytes_a_job=1)) == n
    assert local_places([], 99, bytes_a_job=10**15) == [Place("cpu", n)]


def test_idle_gpus_are_told_of(tmp_path: Path) -> None:
    """Only where fewer trainings than GPUs are left; with a line that can be given as it stands."""
    done = tmp_path / "done"
    done.touch()
    jobs = [Job(f"fold {k}", ("train", "1", "heatmap", str(k)), tmp_path / "log") for k in range(3)]
    jobs[0] = dataclasses.replace(jobs[0], outputs=(done,))
    four = [f"cuda:{k}" for k in range(4)]
    said = idle_gpus(four, jobs)
    assert said is not None and said.startswith("4 GPUs, and 2 trainings")
    assert said.endswith("\n  autolmk_train 1 heatmap 1 -num_gpus 2")
    assert str(idle_gpus(four, jobs[:2])).endswith(" 1 -num_gpus 4")
    assert str(idle_gpus(four[:3], jobs)).endswith(" 1 -num_gpus 2")
    assert idle_gpus(four[:2], jobs) is idle_gpus([], jobs) is idle_gpus(four, jobs[:1]) is None


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_job_waits_until_the_fold_is_free(python: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill, when what was started then has not ended yet; the stage of a fold counts."""
    stage = tmp_path / "fold_0" / "coarse"
    stage.mkdir(parents=True)
    train = job(tmp_path, "train", "import time; print(time.time())", folder=tmp_path / "fold_0")
    monkeypatch.setattr(job_module, "POLL_SECONDS", 0.05)
    with subprocess.Popen(
        [sys.executable, "-c", HELD, str(stage), "3600"], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        monkeypatch.setattr(job_module, "LOCK_SECONDS", 0.2)
        result = run_job(train, CPU[0])
        assert not result.good and "another process still trains into" in result.said
        holder.kill()
    assert run_job(train, CPU[0]).good


def test_a_lock_is_seen_from_another_process_alone(tmp_path: Path) -> None:
    assert not job_module.is_locked(tmp_path)
    with exclusive(tmp_path):
        code = "import sys, pathlib\nfrom autolmk.files.locks import is_locked\n"
        code += "sys.exit(int(is_locked(pathlib.Path(sys.argv[1]))))"
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == (sys.platform != "win32")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_job_outlives_who_started_it(
    number: signal.Signals, tmp_path: Path, wait_until: Callable[..., None], alive: Callable[..., list[int]]
) -> None:
    """An interruption leaves time to save, a kill does not."""
    program = tmp_path / "program.py"
    program.write_text(WAITS)
    restored = "import signal, runpy, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    restored += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    with subprocess.Popen(
        [sys.executable, "-c", restored, program, tmp_path], stderr=subprocess.PIPE, start_new_session=True
    ) as parent:
        files = [tmp_path / f"{name}.pid" for name in "ab"]
        wait_until(lambda: all(file.exists() and file.read_text() for file in files), parent)
        started = [int(file.read_text()) for file in files]
        parent.send_signal(number)
        parent.wait(300)
        wait_until(lambda: not alive(started))
    saved = [(tmp_path / f"{name}.saved").exists() for name in "ab"]
    assert saved == [number == signal.SIGINT] * 2


def test_a_heartbeat_that_stops_or_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(dispatch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    file = tmp_path / "alive"
    pulse = Pulse(file, silence=0.15, every=0.0)
    assert not Pulse(file)()
    file.write_text("0")
    for beat in range(6):
        file.write_text(str(beat))
        now[0] += 0.1
        assert pulse()
    now[0] += 0.2
    assert not pulse() and not pulse()
    again = Pulse(file, every=0.0)
    assert again()
    file.unlink()
    assert not again()


def test_nothing_is_started_that_nobody_wants(python: None, tmp_path: Path) -> None:
    result = run_job(job(tmp_path, "a", "print(1)"), CPU[0], lambda: False)
    assert result.stopped and not result.good and not (tmp_path / "logs").exists()


def test_schedulers_that_are_unknown_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AutolmkError, match="cannot be read") as error:
        check_scheduler("localhost:8786")
    assert "tcp://HOST:PORT" in str(error.value)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AutolmkError, match=r"pip install 'autolmk\[ray\]'"):
        check_scheduler("ray")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(AutolmkError, match=r"pip install 'autolmk\[dask\]'"):
        run_jobs([job(tmp_path, "a", "")], places=CPU, label="a", folder=tmp_path, scheduler="tcp://127.0.0.1:1")


def test_a_scheduler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "CONNECT_SECONDS", 1.0)
    with pytest.raises(AutolmkError, match="cannot be reached"):
        run_jobs([job(tmp_path, "a", "")], places=CPU, label="a", folder=tmp_path, scheduler="tcp://127.0.0.1:9")


def test_what_is_seen_of_running_jobs(tmp_path: Path) -> None:
    fold = tmp_path / "fold_0"
    for folder, elapsed in ((fold, 2.0), (fold / "coarse", 3.0)):
        folder.mkdir()
        line = '{"kind": "epoch", "iteration": 5, "elapsed": %s}\n'
        (folder / "training_log.jsonl").write_text(line % 1.0 + line % elapsed)
    listed = [job(tmp_path, "heatmap fold 0", "", folder=fold, seconds=10.0), job(tmp_path, "other", "")]
    watch = Watch(listed, "training")
    assert watch.status() == (0.0, "")
    (tmp_path / "logs").mkdir()
    listed[0].log.write_text("begun")
    assert watch.status() == (0.5, "heatmap fold 0 50%")


def test_a_log_gets_a_line_every_tenth_of_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("autolmk.jobs.watching.logger.info", lambda text, *values: said.append(text % values))
    listed = [job(tmp_path, str(k), "") for k in range(30)]
    watch = Watch(listed, "training")
    for one in listed:
        watch.ended_names.add(one.name)
        watch._look()
        watch._look()
    assert len(said) == 10 and said[0] == "training: 3.00 of 30; waiting" and said[-1].endswith("all done")


def test_what_a_single_job_says_is_passed_on(python: None, tmp_path: Path) -> None:
    said: list[str] = []
    single = job(tmp_path, "a", "print('Größe')")
    for _ in range(2):
        run_jobs([single], places=CPU, label="a", folder=tmp_path, echo=said.append)
    assert "".join(said).count("Größe") == 2 + 2 and tail(single.log).endswith("Größe")
