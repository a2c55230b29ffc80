"""autolmk_run: which jobs it runs, in which order, what it skips, what it refuses, and the batch file."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_tests import load

from autolmk.cli import run as command
from autolmk.cli import train
from autolmk.cli.run_hours import devices
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json
from autolmk.jobs import dispatch, race, run_clock
from autolmk.jobs.job import Job, JobResult, Place
from autolmk.phantom import write_phantom
from autolmk.plans import Plans

DATASET = "Dataset001_Tiny"
MODEL = "heatmap__autolmkPlans__heatmap"


tiny = load("test_training")


class Ran:
    """Instead of processes: remembers the jobs, and makes their outputs."""

    def __init__(self, code: int = 0) -> None:
        self.jobs: list[Job] = []
        self.places: list[Place] = []
        self.code = code

    def __call__(self, jobs: Sequence[Job], *, places: Sequence[Place], **settings: Any) -> list[JobResult]:
        self.jobs += jobs
        self.places = list(places)
        for job in jobs:
            for file in OUTPUTS.get(job.command[0], ()):
                self.make(FOLDERS[0] / file)
            for output in job.outputs:
                self.make(output)
        return [JobResult(job, self.code if 3 in job.accepted else 0, 1.0) for job in jobs]

    def make(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("made")

    def names(self) -> list[str]:
        found = [job.name for job in self.jobs]
        self.jobs.clear()
        return found


FOLDERS: list[Path] = []
OUTPUTS = {
    "find_best_configuration": ["best/recipe.json", "best/inference_information.json"],
    "predict": ["predictions/imagesTs/landmarks.csv"],
    "evaluate": ["predictions/imagesTs/evaluation/summary.json"],
    "report": ["report.html"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a dataset that is planned and preprocessed: configurations heatmap and second, five folds."""
    plans: Plans = tiny.tiny_plans(max_seconds=60.0)  # a time, so that no pace has to be measured
    second = dataclasses.replace(plans.configurations["heatmap"])
    plans = dataclasses.replace(plans, configurations={"heatmap": second, "second": second})
    place = tmp_path / "preprocessed" / DATASET
    tiny.write_store(place / "tiny", tiny.tiny_plans())
    plans.save(place / "autolmkPlans.json")
    for name in ("imagesTr", "imagesTs", "landmarksTs"):
        (tmp_path / "raw" / DATASET / name).mkdir(parents=True)
        (tmp_path / "raw" / DATASET / name / "case_0000.nii").write_text("1")
    FOLDERS[:] = [tmp_path / "results" / DATASET]
    return tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    result = Ran()
    monkeypatch.setattr(dispatch, "run_jobs", result)
    monkeypatch.setattr(race.Race, "_judged", lambda self, folds: ({}, {}))
    monkeypatch.setattr(race.Race, "_narrowed", lambda self, *found: ({}, ()))
    monkeypatch.setattr(run_clock, "time", SimpleNamespace(monotonic=lambda: 0.0))  # no step takes any time
    return result


def run(folder: Path, *arguments: str) -> int:
    places = [a for n in ("raw", "preprocessed", "results") for a in (f"--{n}", str(folder / n))]
    return command.main(["1", "-device", "cpu", "--jobs", "2", *places, *arguments])


def test_all_steps_in_order_and_nothing_twice(folder: Path, ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("-f", "0", "1", "--max-time", "120s", "--seed", "3")
    assert run(folder, *arguments) == 0
    out = capsys.readouterr().out
    assert "4 trainings, 2 at a time" in out and "32 s each at first, 84 s in all" in out
    for place in ("report.html", "best", "predictions/imagesTs", "run/logs"):
        assert str(folder / "results" / DATASET / place) in out or place == "run/logs"
    trainings = [" ".join(job.command) for job in ran.jobs if job.command[0] == "train"]
    assert trainings[2].startswith(f"train {DATASET} heatmap 1 -p autolmkPlans --max-time ")
    assert " --seed 3 --raw " in trainings[2]
    trained = ["heatmap fold 0", "second fold 0", "heatmap fold 1", "second fold 1"]
    assert ran.names() == ["prepare", *trained, "find_best", "predict", "evaluate", "report"]

    assert run(folder, *arguments) == 0
    assert ran.names() == []
    said = capsys.readouterr()
    assert said.err.count("done already") == 6 and "training: 4 of 4 done already" in said.err
    assert "4 trainings, 4 done" in said.out
    kept = read_json(folder / "results" / DATASET / "run" / "run.json")["runs"]["autolmkPlans"]
    assert kept["shares"]["waves"] == 2 and set(kept["lengths"]) == {"0", "1"} and kept["judged"] == ["0"]


def test_only_what_changed_is_done_again(folder: Path, ran: Ran) -> None:
    assert run(folder, "-f", "0", "1") == 0
    ran.names()
    (folder / "raw" / DATASET / "landmarksTs" / "case_0000.nii").write_text("corrected")
    assert run(folder, "-f", "0", "1") == 0
    assert ran.names() == ["evaluate", "report"]
    (folder / "raw" / DATASET / "imagesTs" / "new_0000.nii").write_text("2")
    (folder / "results" / DATASET / MODEL / "fold_0" / "checkpoint_final.safetensors").unlink()
    assert run(folder, "-f", "0", "1") == 0
    assert ran.names() == ["heatmap fold 0", "find_best", "predict", "evaluate", "report"]


def test_a_prediction_that_was_broken_off_is_continued(folder: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setitem(OUTPUTS, "predict", [])

        def breaks(jobs: Sequence[Job], **settings: Any) -> list[JobResult]:
            if jobs[0].name == "predict":
                raise KeyboardInterrupt
            return ran(jobs, **settings)

        broken.setattr(dispatch, "run_jobs", breaks)
        assert run(folder, "-f", "0", "1") == 130
    ran.names()
    assert run(folder, "-f", "0", "1") == 0
    assert "--continue_prediction" in ran.jobs[0].command and ran.names() == ["predict", "evaluate", "report"]
    (folder / "results" / DATASET / "best" / "recipe.json").write_text("another model")
    assert run(folder, "-f", "0", "1") == 0
    assert "--continue_prediction" not in ran.jobs[0].command and ran.names()[0] == "predict"


@pytest.mark.parametrize(
    ("until", "n"), [("prepare", 1), ("train", 3), ("find_best", 4), ("predict", 5), ("evaluate", 6), ("report", 7)]
)
def test_until(until: str, n: int, folder: Path, ran: Ran) -> None:
    assert run(folder, "-c", "heatmap", "-f", "0", "1", "--until", until) == 0
    assert len(ran.names()) == n


def test_all_folds_of_the_split_and_every_method_by_default(folder: Path, ran: Ran) -> None:
    assert run(folder, "--until", "train") == 0
    assert len(ran.names()) == 1 + 2 * 5 and [p.cores for p in ran.places] == [max(1, (os.cpu_count() or 1) // 2)] * 2


def test_one_model_on_all_cases_needs_no_choice(folder: Path, ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "-c", "heatmap", "-f", "all", "-o", str(folder / "out")) == 0
    predict = next(job for job in ran.jobs if job.name == "predict")
    assert " ".join(predict.command).startswith(
        f"predict -i {folder / 'raw' / DATASET / 'imagesTs'} -o {folder / 'out'} "
    )
    assert " ".join(predict.command[5:13]) == f"-d {DATASET} -c heatmap -p autolmkPlans -f all"
    assert ran.names() == ["prepare", "heatmap fold all", "predict", "evaluate"]
    assert "find_best: left out, as fold `all` holds no case out" in capsys.readouterr().err


def test_without_test_cases(folder: Path, ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "raw" / DATASET / "landmarksTs" / "case_0000.nii").unlink()
    assert run(folder, "-f", "0", "1") == 0
    assert "evaluate" not in ran.names()
    (folder / "raw" / DATASET / "imagesTs" / "case_0000.nii").unlink()
    assert run(folder, "-f", "0", "1") == 0
    assert "predict: left out, as there are no images in" in capsys.readouterr().err


def test_single_cases_that_failed_end_in_exit_code_3(folder: Path, ran: Ran) -> None:
    ran.code = 3
    assert run(folder, "-f", "0", "1") == 3
    assert ran.names()[-1] == "report"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "0", "5"], "no fold 5"),
        (["-f", "zero"], "no fold 'zero'"),
        (["-c", "heatmab"], "did you mean 'heatmap'"),
        (["-f", "all"], "fold `all` holds no case out"),
        (["-c", "heatmap", "-f", "all", "0"], "fold `all` holds no case out"),
        (["--max-time", "soon"], "a time cannot be read"),
        (["--max-time", "9s", "--epochs", "1"], "length of training is given twice"),
        (["--epochs", "0"], "--epochs must be 1 or more"),
        (["--preset", "XL"], "planned already, otherwise"),
        (["-pl", "apga"], "planned already, otherwise"),
        (["--scheduler", "here"], "a scheduler's address cannot be read"),
    ],
)
def test_what_is_refused(
    arguments: list[str], message: str, folder: Path, ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *arguments) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert set(ran.names()) <= {"prepare"}


def test_arguments_that_finished_trainings_contradict(
    folder: Path, ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "-f", "0", "1", "--seed", "1") == 0
    ran.names()
    assert run(folder, "-f", "0", "1", "--seed", "2") == 2
    assert "--seed was 1 and is now 2" in capsys.readouterr().err and ran.names() == []
    assert run(folder, "-f", "0", "1", "2", "--seed", "1") == 0
    assert ran.names()[:2] == ["heatmap fold 2", "second fold 2"]


def test_dry_run_shows_the_commands_and_writes_nothing(
    folder: Path, ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    assert run(folder, "--dry-run", "-f", "0", "1") == 0
    out = capsys.readouterr().out
    assert out.count("autolmk_train ") == 4 and "autolmk_report" in out and ran.names() == []
    assert "expected: about" in out and "h of training" in out and "--max-time such as" in out
    assert sorted(folder.rglob("*")) == before


def test_dry_run_after_a_run_needs_no_arguments_again(
    folder: Path, ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "-f", "0", "1", "--epochs", "3", "--seed", "4") == 0
    record = (folder / "results" / DATASET / "run" / "run.json").read_bytes()
    for arguments in ((), ("--epochs", "9"), ("--max-time", "8h", "-f", "0", "1", "2")):
        assert run(folder, "--dry-run", *arguments) == 0
    assert "autolmk_run would refuse this" in capsys.readouterr().err
    assert (folder / "results" / DATASET / "run" / "run.json").read_bytes() == record


@pytest.mark.parametrize("show", [("--dry-run",), ("--print-jobs", "slurm")])
def test_what_only_shows_plans_where_nothing_is_planned(
    show: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantom(tmp_path / "raw" / DATASET, n_train=4, n_test=1, ndim=2, size=48)
    assert run(tmp_path, *show, "-pl", "heatmap", "--preset", "XS") == 0
    said = capsys.readouterr()
    assert said.out.count("autolmk_train ") == 4 and "autolmk_preprocess " in said.out
    assert "expected: about 0.83 h of training" in said.out + said.err  # 4 of 25 minutes, two at a time
    assert not (tmp_path / "results").exists()
    assert {p.name for p in (tmp_path / "preprocessed" / DATASET).iterdir()} >= {"autolmkPlans.json"}


def test_cuda_that_is_not_there_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert run(folder, "-device", "cuda", "-f", "0", "1") == 2
    assert "there is no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("gpus", [0, 2])
def test_other_devices_than_cuda_are_no_silent_change_to_the_cpu_or_to_cuda(
    gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    for name in ("mps", "xpu", "tpu"):
        with pytest.raises(AutolmkError, match=f"device '{name}'"):
            devices(name)
    assert devices("cpu") == devices("cpu:0") == []
    assert devices("auto") == [f"cuda:{k}" for k in range(gpus)]


def test_a_dataset_that_is_not_planned_is_planned_first(
    folder: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "preprocessed" / DATASET / "autolmkPlans.json"
    plans = file.read_text()
    file.unlink()

    def plan(jobs: Sequence[Job], **settings: Any) -> list[JobResult]:
        if jobs[0].name == "prepare":
            file.write_text(plans)
        return ran(jobs, **settings)

    monkeypatch.setattr(dispatch, "run_jobs", plan)
    assert run(folder, "-c", "heatmap", "-f", "0", "1", "--preset", "XS", "--until", "train") == 0
    assert " ".join(ran.jobs[0].command[1:10]).startswith(f"-d {DATASET} -overwrite_plans_name autolmkPlans -c heatmap")
    out = capsys.readouterr().out
    assert out.index("not planned yet") < out.index("prepare: check") < out.index("2 trainings, 2 at a time")


# -- SLURM ------------------------------------------------------------------------------------------------------------

SBATCH = """#!/bin/bash
# Runs each job at once, where those that it waits for succeeded; its number is a line number in the list of jobs.
number=$(($(wc -l < "$JOBS") + 1))
for argument in "$@"; do
    case $argument in
        --dependency=afterok:*) for id in ${argument#*afterok:}; do
            for one in ${id//:/ }; do sed -n "${one}p" "$JOBS" | grep -q " 0$" || exit 1; done; done ;;
        --output=*) log=${argument#*=} ;;
        --job-name=*) name=${argument#*=} ;;
        --wrap=*) command=${argument#*=} ;;
    esac
done
bash -c "$command" >> "$log" 2>&1
echo "$name $* $?" >> "$JOBS"
echo "$number;cluster"
"""


def submit(script: str, place: Path, *, commands: bool) -> tuple[str, list[str]]:
    """Run a batch file with a stand-in for sbatch; (what it says, a line a job). commands: autolmk's own, else
    stand-ins that write down how they are called."""
    file, jobs, programs = place / "jobs.sh", place / "jobs.txt", place / "bin"
    programs.mkdir()
    names = ["sbatch"] if commands else ["sbatch", *(f"autolmk_{name}" for name in STEP_COMMANDS)]
    for name in names:
        (programs / name).write_text(SBATCH if name == "sbatch" else CALLED)
        (programs / name).chmod(0o755)
    if not commands:
        script = script.replace("export PATH=", "# export PATH=")
    file.write_text(script)
    jobs.touch()
    subprocess.run(["bash", "-n", file], check=True)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "JOBS": str(jobs)}
    done = subprocess.run(["bash", file, "--partition=x"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + jobs.read_text()
    return done.stdout, jobs.read_text().splitlines()


STEP_COMMANDS = ("preprocess", "train", "find_best_configuration", "predict", "evaluate", "report")
CALLED = '#!/bin/bash\necho "$(basename "$0") $*" >> "$JOBS.called"\n[[ $0 == *predict ]] && exit 3\nexit 0\n'


def test_a_batch_file_for_slurm(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It submits the very commands, which know their options; predicting leaves a case out, and the rest goes on."""
    (folder / "raw").rename(folder / "raw data")
    places = [*("--raw", str(folder / "raw data")), *("--results", str(folder / "results"))]
    assert run(folder, *places, "-f", "0", "1", "--seed", "3", "--print-jobs", "slurm") == 0
    said, jobs = submit(capsys.readouterr().out, folder, commands=False)
    assert said == f"submitted: {' '.join(f'{k};cluster' for k in range(1, 7))}\n"
    assert [job.split()[0] for job in jobs] == [
        "prepare", "heatmap_fold_0", "second_fold_0", "heatmap_fold_1", "second_fold_1",
        "find_best_predict_evaluate_report",
    ]  # fmt: skip
    assert all(job.endswith(" 0") and "--partition=x" in job for job in jobs)
    called = [line.split() for line in (folder / "jobs.txt.called").read_text().splitlines()]
    assert [words[0] for words in called][5:] == [f"autolmk_{name}" for name in STEP_COMMANDS[2:]]
    parser = train._parser()
    for words, (fold, configuration) in zip(called[1:5], itertools.product("01", ["heatmap", "second"]), strict=True):
        parsed = parser.parsed([w for w in words[1:] if w != "data"])
        assert (parsed.dataset, parsed.where, parsed.seed) == (DATASET, [configuration, fold], 3)


def test_nothing_is_printed_of_a_dataset_that_nobody_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw" / DATASET).mkdir(parents=True)
    assert run(tmp_path, "-f", "0", "--print-jobs", "slurm") == 2
    assert "nothing was written; mend the faults" in capsys.readouterr().err
    assert run(tmp_path, "-f", "0", "-c", "heatmap", "--max-time", "100s", "--print-jobs", "slurm") == 0
    said = capsys.readouterr().out
    assert "autolmk_plan_and_preprocess -d" in said and "--max-time 63s" in said


@pytest.mark.long
def test_a_batch_file_for_slurm_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a raw dataset on, with autolmk's own commands."""
    write_phantom(tmp_path / "raw" / "Dataset001_Phantom", n_train=4, n_test=1, ndim=2, size=48)
    chosen = ["-c", "heatmap", "-f", "0", "--epochs", "1", "-pl", "heatmap", "--preset", "XS", "--until", "train"]
    assert run(tmp_path, *chosen, "--print-jobs", "slurm") == 0
    _, jobs = submit(capsys.readouterr().out, tmp_path, commands=True)
    assert len(jobs) == 2 and all(job.endswith(" 0") for job in jobs) and "--dependency=afterok:1 " in jobs[1]
    fold = tmp_path / "results" / "Dataset001_Phantom" / MODEL / "fold_0"
    assert (fold / "checkpoint_final.safetensors").is_file()


def test_the_batch_file_waits_and_asks_for_gpus(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "-f", "0", "1", "--print-jobs", "slurm", "-device", "cuda") == 0
    lines = capsys.readouterr().out.splitlines()
    trainings = [line for line in lines if line.startswith("train_")]
    (rest,) = [line for line in lines if line.startswith("rest=")]
    assert len(trainings) == 4 and all("--gres=gpu:1" in line and "-device cuda" in line for line in trainings)
    assert all("--dependency=afterok:${prepare%%;*} " in line for line in trainings)
    assert "--dependency=afterok:${train_0%%;*}:${train_1%%;*}:${train_2%%;*}:${train_3%%;*} " in rest
    assert rest.index("autolmk_find_best_configuration") < rest.index("autolmk_predict") < rest.index("autolmk_report")
    assert "[ $? -eq 3 ]" in rest and sys.executable.rpartition("/")[0] in "\n".join(lines)
