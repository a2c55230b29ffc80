"""autolmk_train: arguments, folders, errors, and a whole tiny run."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from training_tests import load

from autolmk.cli.duration import seconds_of
from autolmk.cli.train import _apply, _plans, main
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, to_json, write_json
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.methods import sources
from autolmk.paths import folders
from autolmk.plans import Plans

DATASET = "Dataset001_Tiny"
MINE = "from autolmk.trainers.heatmap import HeatmapTrainer\n\n\nclass Mine(HeatmapTrainer):\n    pass\n"


tiny = load("test_training")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a preprocessed dataset in it."""
    plans: Plans = tiny.tiny_plans()
    place = tmp_path / "preprocessed" / DATASET
    tiny.write_store(place / "tiny", plans)
    plans.save(place / "autolmkPlans.json")
    write_json(place / "dataset.json", {"landmarks": {}})
    write_json(place / "dataset_fingerprint.json", {})
    return tmp_path


def run(folder: Path, *arguments: str) -> int:
    places = [a for n in ("raw", "preprocessed", "results") for a in (f"--{n}", str(folder / n))]
    return main(["-device", "cpu", "--workers", "0", "--threads", "1", *places, *arguments])


def model(folder: Path, trainer: str = "heatmap") -> Path:
    return folder / "results" / DATASET / f"{trainer}__autolmkPlans__heatmap"


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_a_fold_is_trained_validated_and_not_trained_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "1", "0", "--epochs", "1", "--seed", "5") == 0
    assert "finished" in capsys.readouterr().out
    found = model(folder)
    source = folder / "preprocessed" / DATASET
    for copied, original in (
        ("plans.json", "autolmkPlans.json"),
        ("dataset.json",) * 2,
        ("dataset_fingerprint.json",) * 2,
    ):
        assert (found / copied).read_bytes() == (source / original).read_bytes()
    config = read_json(found / "fold_0" / "config.json")
    assert config["seed"] == 5 and config["iterations"] == 5
    splits = read_json(source / "splits_final.json")
    assert config["val_cases"] == splits[0]["val"] and len(splits) == 5
    final = checkpoint_file(found / "fold_0", "final")
    before = final.read_bytes()
    assert run(folder, "Dataset001_Tiny", "heatmap", "0", "--epochs", "1") == 0
    assert "trained for 5 iterations: it is not trained again" in capsys.readouterr().err
    for length, said in (("--epochs 9", "45 iterations"), ("--max-time 20m", "at most 20 min or 20 iterations")):
        assert run(folder, "1", "0", *length.split()) == 2
        error = complaint(capsys)
        assert "finished, with another length" in error and "found: 5 iterations" in error
        assert f"expected: {said}" in error and "remove the fold's folder" in error
    write_json(found / "fold_0" / "config.json", {**config, "iterations": 20, "max_seconds": 1201.0})
    assert run(folder, "1", "0", "--max-time", "20m") == 2
    error = complaint(capsys)  # both are 20 minutes to the eye
    assert "20 iterations (1201.0 s)" in error and "20 iterations (1200.0 s)" in error
    write_json(found / "fold_0" / "config.json", config)
    assert final.read_bytes() == before
    summary = found / "fold_0" / "validation" / "summary.json"
    whole = summary.read_bytes()
    summary.unlink()
    assert run(folder, "1", "0", "--val") == 0
    assert summary.read_bytes() == whole
    assert run(folder, "1", "0", "-val_best") == 0
    assert (found / "fold_0" / "validation_best" / "landmarks.csv").is_file()
    assert "MRE" in capsys.readouterr().out
    assert run(folder, "1", "0", "--set", "schedule.learning_rate=0.5") == 2
    error = complaint(capsys)
    assert "finished, with other plans or options" in error
    assert "found: schedule.learning_rate was 0.01 and is now 0.5\n" in error


def test_validating_cases_without_a_point_says_so() -> None:
    from autolmk.training.validation import sentence

    numbers = {"mre": None, "median": None, "sdr": {"4": None}, "cases": 2, "points": 0, "seconds": 1.0}
    assert sentence(numbers, "mm") == "no annotated point"


def test_fold_all_holds_nothing_out(folder: Path) -> None:
    assert run(folder, "1", "all", "--epochs", "1") == 0
    config = read_json(model(folder) / "fold_all" / "config.json")
    assert len(config["train_cases"]) == 8 and config["val_cases"] == []
    assert not (model(folder) / "fold_all" / "validation").exists()


def test_a_users_trainer_settings_and_pretrained_weights(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(folder, "1", "0", "--epochs", "1") == 0
    weights = checkpoint_file(model(folder) / "fold_0", "final")
    (folder / "mine.py").write_text(MINE)
    monkeypatch.chdir(folder)
    arguments = ["-tr", "mine.py:Mine", "--set", "n_candidates=2", "--set", "schedule.learning_rate=1e-4"]
    assert run(folder, "1", "1", "--epochs", "1", *arguments, "-pretrained_weights", str(weights)) == 0
    assert "landmarks taken: bright, dark, rare" in capsys.readouterr().err
    mine = model(folder, "Mine")
    config = read_json(mine / "fold_1" / "config.json")
    assert config["options"] == {"n_candidates": 2}
    assert config["configuration"]["schedule"]["learning_rate"] == 1e-4
    assert config["trainer"] == f"{folder / 'mine.py'}:Mine" and config["pretrained"]["landmarks"] == list(tiny.NAMES)
    assert (mine / "trainer_source" / "mine.py").read_text() == MINE
    record = checkpoint.read_record(checkpoint_file(mine / "fold_1", "final"))
    assert record["options"] == {"n_candidates": 2}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["1", "7"], ["no fold 7", "0, 1, 2, 3, 4, or all"]),
        (["1", "first"], ["no fold 'first'"]),
        (["2", "0"], ["no dataset '2'", DATASET]),
        (["1", "heatmaps", "0"], ["no configuration 'heatmaps'", "did you mean 'heatmap'"]),
        (["1", "heatmap", "0", "-c", "other"], ["not clear what to train"]),
        (["1", "0", "-p", "autolmkPlan"], ["no plans 'autolmkPlan'", "autolmkPlans", "(from --preprocessed)"]),
        (["1", "0", "-tr", "heatmpa"], ["no trainer", "did you mean 'heatmap'"]),
        (["1", "0", "-tr", "nowhere.py:A"], ["file does not exist", "nowhere.py"]),
        (["1", "0", "-num_gpus", "2", "-device", "cuda:0"], ["names a single GPU", "-num_gpus 2"]),
        (["1", "0", "--max-time", "20"], ["time cannot be read", "90s, 20m, 3h"]),
        (["1", "0", "--set", "n_candidate=3"], ["'n_candidate'", "did you mean 'n_candidates'"]),
        (["1", "0", "--set", "schedule.learning_rat=3"], ["did you mean 'learning_rate'"]),
        (["1", "0", "--set", "schedule.epochs=many"], ["schedule.epochs", "a whole number"]),
        (["1", "0", "--set", "trainer=x"], ["-tr names another"]),
        (["1", "0", "--set", "normalization=[]"], ["made by other plans"]),
        (["1", "0", "-device", "cuda:77"], ["no device 'cuda:77'"]),
        (["1", "0", "-pretrained_weights", "none.safetensors"], ["missing", "none.safetensors"]),
        (["1", "0", "--logger", "tensorbord"], ["did you mean 'tensorboard'"]),
        (["1", "0", "--val"], ["checkpoint is missing", "checkpoint_final"]),
        (["1", "0", "--epochs", "0"], ["--epochs must be 1 or more"]),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *arguments) == 2
    error = complaint(capsys)
    for word in words:
        assert word in error, error
    assert not (folder / "results").exists() or "normalization" in arguments[-1]  # nothing is begun


def test_an_unknown_option_gets_near_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(folder, "1", "0", "--epoch", "3")
    assert ended.value.code == 2 and "did you mean" in complaint(capsys)


def test_data_that_is_not_preprocessed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (folder / "preprocessed" / DATASET / "tiny").iterdir():
        file.unlink()
    assert run(folder, "1", "0") == 2
    assert "not preprocessed" in (error := complaint(capsys)) and "autolmk_plan_and_preprocess" in error


def test_new_cases_since_the_split(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "1", "0", "--epochs", "1") == 0
    store = tiny.Store(folder / "preprocessed" / DATASET / "tiny")
    stored = store.load("case0")
    store.write("case9", dataclasses.replace(stored, array=stored.image().array, identifier="case9", subject="case9"))
    capsys.readouterr()
    assert run(folder, "1", "1", "--epochs", "1") == 2
    assert "case9 new since the splits were made" in complaint(capsys)


def test_plans_that_changed_under_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "1", "0", "--epochs", "1") == 0
    tiny.tiny_plans(learning_rate=0.5).save(folder / "preprocessed" / DATASET / "autolmkPlans.json")
    capsys.readouterr()
    assert run(folder, "1", "1", "--epochs", "1") == 2
    assert "plans changed since this model folder was begun" in complaint(capsys)
    assert not (model(folder) / "fold_1").exists()


def test_an_edited_trainer_cannot_join_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text(MINE)
    assert run(folder, "1", "0", "--epochs", "1", "-tr", f"{folder}/mine.py:Mine") == 0
    (folder / "mine.py").write_text(MINE + "# edited\n")
    assert run(folder, "1", "1", "--epochs", "1", "-tr", f"{folder}/mine.py:Mine") == 2
    assert "source changed" in complaint(capsys)


def test_the_trainers_of_all_stages_travel_with_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An own trainer of the first stage too, and once that stage has a checkpoint, both must stay as they are."""
    preprocessed, file = folder / "preprocessed" / DATASET, folder / "mine.py"
    file.write_text(MINE)

    def save(learning_rate: float) -> None:
        plans = load("test_stages").staged_plans()
        first, fine = (plans.configurations[name] for name in ("heatmap", "fine"))
        schedule = dataclasses.replace(first.schedule, learning_rate=learning_rate)
        first = dataclasses.replace(first, trainer=f"{file}:Mine", schedule=schedule)
        dataclasses.replace(plans, configurations={"heatmap": first, "fine": fine}).save(
            preprocessed / "autolmkPlans.json"
        )

    monkeypatch.setattr("autolmk.training.stages.train_stages", lambda *_, **__: True)
    save(0.01)
    assert run(folder, "1", "fine", "0") == 2
    said = complaint(capsys)
    assert all(word in said for word in ("not run unasked", f"class Mine of {file}", "--trust-code"))
    assert run(folder, "1", "fine", "0", "--trust-code") == 0
    found = folder / "results" / DATASET / "fine__autolmkPlans__fine"
    assert list(sources.kept_sources(found)) == [f"{file}:Mine"]
    assert (found / "trainer_source" / "mine.py").read_text() == MINE
    begun = found / "fold_0" / "heatmap" / "checkpoint_latest.safetensors"
    begun.parent.mkdir(parents=True)
    begun.touch()
    save(0.02)
    assert run(folder, "1", "fine", "0", "--trust-code") == 2
    assert "plans changed since this model folder was begun" in complaint(capsys)
    save(0.01)
    file.write_text(MINE + "# edited\n")
    assert run(folder, "1", "fine", "0", "--trust-code") == 2
    assert "source changed" in complaint(capsys)


def test_the_default_is_a_whole_method(folder: Path) -> None:
    """Not the stage that it builds on, though that stands before it; the first of several methods."""
    file = folder / "preprocessed" / DATASET / "autolmkPlans.json"
    plans = Plans.load(file)
    (one,) = plans.configurations.values()
    last = dataclasses.replace(
        one, previous_stage="first", windows=dataclasses.replace(one.windows, kind="landmark"), why={}
    )
    configurations = {"first": one, "last": last, "other": one}
    dataclasses.replace(plans, configurations=configurations, why={"order.1": "last: it is finer"}).save(file)
    found = folders(*(folder / name for name in ("raw", "preprocessed", "results")))
    assert _plans(found, DATASET, "autolmkPlans", None, None)[1] == "last"


@pytest.mark.parametrize(
    ("base", "expected"), [("heatmap:HeatmapTrainer", "other"), ("coarse_to_fine:FineTrainer", "last"), (None, "other")]
)
def test_a_trainer_of_ones_own_gets_the_method_that_it_extends(folder: Path, base: str | None, expected: str) -> None:
    """And one that extends none, a method of one look, whatever is expected to be best."""
    file = folder / "preprocessed" / DATASET / "autolmkPlans.json"
    plans = Plans.load(file)
    (one,) = plans.configurations.values()
    windows = dataclasses.replace(one.windows, kind="landmark")
    last = dataclasses.replace(one, trainer="fine", previous_stage="first", windows=windows)
    dataclasses.replace(plans, configurations={"first": one, "last": last, "other": one}).save(file)
    module, _, name = (base or ":Trainer").partition(":")
    place = f"autolmk.trainers.{module}" if module else "autolmk.methods.trainer"
    body = "pass" if module else "build_codec = build_network = loss = None"
    mine = folder / "mine.py"
    mine.write_text(f"from {place} import {name}\n\n\nclass Mine({name}):\n    {body}\n")
    found = folders(*(folder / part for part in ("raw", "preprocessed", "results")))
    assert _plans(found, DATASET, "autolmkPlans", None, f"{mine}:Mine")[1] == expected


def test_times() -> None:
    assert [seconds_of(t) for t in ("90s", "20m", "3h", "1h30m", "0.5min", "2d")] == [90, 1200, 10800, 5400, 30, 172800]
    for text in ("", "0s", "h", "20", "-3m", "3 h"):
        with pytest.raises(AutolmkError, match="time"):
            seconds_of(text)


def test_settings_reach_into_the_configuration() -> None:
    value: dict[str, Any] = to_json(tiny.tiny_plans().configurations["heatmap"])
    for setting in ("batch_size=7", "windows.holding=0.5", "own=text", "options.two=[1]", "previous_stage=null"):
        _apply(value, setting)
    assert value["batch_size"] == 7 and value["windows"]["holding"] == 0.5 and value["previous_stage"] is None
    assert value["options"] == {"own": "text", "two": [1]}


def test_help_needs_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from autolmk.cli.train import _parser; _parser().format_help(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
