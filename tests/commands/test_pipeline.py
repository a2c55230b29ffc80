"""Raw images and points in, landmarks out: the commands that a user types, on a small phantom."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autolmk import annotations
from autolmk.dataset import Dataset
from autolmk.landmarks import Landmarks
from autolmk.paths import MEASURING
from autolmk.phantom import write_phantom
from autolmk.phantom.anatomy import POINTS

NAME = "Dataset001_Phantom"
IN_TURN = ("-npp", "0", "-nps", "0")


@pytest.fixture
def installed(
    start_command: Callable[..., subprocess.Popen[str]], said_by: Callable[..., tuple[str, str]], tmp_path: Path
) -> Callable[..., str]:
    """Runs an installed command with the folders below tmp_path, and gives what it printed."""

    def run(name: str, *arguments: str) -> str:
        process = start_command(name, *arguments, place=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, error = said_by(process)
        assert process.returncode == 0, f"{name}: exit {process.returncode}\n{out}\n{error}"
        assert "Traceback" not in error
        return out + error

    return run


@pytest.mark.parametrize(("ndim", "size", "way"), [(3, 32, "command"), (2, 48, "installed")])
def test_phantom_from_raw_to_evaluation(
    ndim: int, size: int, way: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command: Callable[..., str] = request.getfixturevalue(way)
    few = ("-np", "0") if way == "command" else ()  # installed, it starts processes as for a user
    raw = tmp_path / "raw" / NAME
    write_phantom(raw, n_train=8, n_test=2, ndim=ndim, size=size)
    command("check", "-d", "1", *few)
    command("plan_and_preprocess", "-d", "1", "-pl", "heatmap", "--preset", "XS", *few)
    plans = json.loads((tmp_path / "preprocessed" / NAME / "autolmkPlans.json").read_text())
    assert plans["landmarks"] == list(POINTS[ndim]) and plans["unit"] == ("mm" if ndim == 3 else "px")
    command("train", "1", "0", "--epochs", "1", "--workers", "0", "--threads", "1")
    (model,) = (tmp_path / "results" / NAME).iterdir()
    assert (model / "fold_0" / "checkpoint_final.safetensors").is_file()
    predictions = tmp_path / "predictions"
    command("predict", "-i", str(raw / "imagesTs"), "-o", str(predictions), "-d", "1")
    table = annotations.read_table(predictions / "landmarks.csv")
    assert sorted(table) == ["phantom_008", "phantom_009"]
    for case, listed in table.items():
        single = annotations.read(predictions / f"{case}.mrk.json")
        assert set(single.names) == set(listed.names) == set(POINTS[ndim])
    said = command("evaluate", "-i", str(predictions), "-d", "1")
    assert "MRE" in said and ("mm" if ndim == 3 else "px") in said
    summary = json.loads((predictions / "evaluation" / "summary.json").read_text())
    assert summary["overall"]["missing"] == 0
    assert summary["overall"]["mre"]["value"] < error_of_the_mean_position(raw)


@pytest.mark.parametrize(
    ("method", "ndim", "size"), [("apga", 2, 48), ("coarse_to_fine", 2, 48), ("global_to_local", 3, 32)]
)
def test_every_method_stops_goes_on_and_predicts(
    method: str, ndim: int, size: int, tmp_path: Path, command: Callable[..., str]
) -> None:
    """From raw images to points for Slicer, broken off in each stage. Steps end it, not time."""
    raw = tmp_path / "raw" / NAME
    write_phantom(raw, n_train=6, n_test=1, ndim=ndim, size=size)
    command("plan_and_preprocess", "-d", "1", "-pl", method, "--preset", "XS", "-np", "0")
    plans = json.loads((tmp_path / "preprocessed" / NAME / "autolmkPlans.json").read_text())
    trainer, before = (plans["configurations"][method][key] for key in ("trainer", "previous_stage"))
    fold = tmp_path / "results" / NAME / f"{trainer}__autolmkPlans__{method}" / "fold_0"
    fold.mkdir(parents=True)
    (fold / "stop").touch()
    train = ("train", "1", method, "0", "--max-time", "8h", "--workers", "0", "--threads", "1")
    assert "the same command goes on from here" in command(*train)
    assert not list(fold.rglob("checkpoint_final.safetensors"))
    if before is not None:
        (fold / "finish").touch()  # what measures the first stage, after its next step
        waiting = threading.Thread(target=stop_behind, args=(fold / before, fold))
        waiting.start()
        assert "the same command goes on from here" in command(*train)
        waiting.join()
        assert (fold / before / "checkpoint_final.safetensors").is_file()
        assert not (fold / "checkpoint_final.safetensors").exists()
    (fold / "finish").touch()
    assert "finished" in command(*train) and (fold / "checkpoint_final.safetensors").is_file()
    predictions = tmp_path / "predictions"
    command("predict", "-i", str(raw / "imagesTs"), "-o", str(predictions), "-d", "1", "-c", method, *IN_TURN)
    found = annotations.read(predictions / "phantom_006.mrk.json")
    assert set(found.names) == set(POINTS[ndim])
    assert np.isfinite(found.points).all(axis=1).sum() >= len(found.names) - 3  # of which three may be absent


def stop_behind(earlier: Path, fold: Path) -> None:
    """Ask the earlier stage to finish as soon as it is measured, and the fold to stop as soon as it is finished."""
    for place, request in ((earlier / MEASURING, "finish"), (earlier, "stop")):
        until = time.monotonic() + 600
        while not (place / "checkpoint_final.safetensors").is_file() and time.monotonic() < until:
            time.sleep(0.01)
        (fold / request).touch()


def error_of_the_mean_position(raw: Path) -> float:
    """Mean distance of the test cases' points from the mean training position of each landmark: no image looked at."""
    dataset = Dataset.open(raw)
    marks = {}
    for split in ("Tr", "Ts"):
        cases = dataset.cases(split)
        marks[split] = np.stack([dataset.read_landmarks(c, dataset.read_image(c).geometry).points for c in cases])
    return float(np.nanmean(np.linalg.norm(marks["Ts"] - np.nanmean(marks["Tr"], axis=0), axis=2)))


@pytest.mark.long
def test_demo_reaches_its_bounds(tmp_path: Path, installed: Callable[..., str]) -> None:
    """What `make demo` runs; its exit code says whether errors and presence are as good as promised."""
    said = installed("demo", "--folder", str(tmp_path / "demo"))
    assert said.count("reached") == 3


def test_one_command_from_raw_images_to_the_report(tmp_path: Path, command: Callable[..., str]) -> None:
    raw, results = tmp_path / "raw" / NAME, tmp_path / "results" / NAME
    write_phantom(raw, n_train=12, n_test=2, ndim=2, size=48)
    run = ("run", "1", "-pl", "heatmap", "--preset", "XS", "-f", "0", "1", "--epochs", "1", "--jobs", "2")
    said = command(*run)
    assert "train" in said and "report" in said
    information = json.loads((results / "best" / "inference_information.json").read_text())
    assert information["chosen"] == "heatmap__autolmkPlans__heatmap" and information["n_cases"] >= 4
    predictions = results / "predictions" / "imagesTs"
    table = annotations.read_table(predictions / "landmarks.csv")
    assert sorted(table) == ["phantom_012", "phantom_013"]
    assert (predictions / "review.csv").is_file()
    overall = json.loads((predictions / "evaluation" / "summary.json").read_text())["overall"]
    assert overall["n"] == sum((marks.status == 1).sum() for marks in truth_of(raw).values())
    page = (results / "report.html").read_text()
    assert "phantom_012" in page and len(page) < 15e6
    trained = {file: file.stat().st_mtime_ns for file in results.rglob("checkpoint_final.safetensors")}
    command(*run)
    assert {file: file.stat().st_mtime_ns for file in results.rglob("checkpoint_final.safetensors")} == trained
    elsewhere = tmp_path / "elsewhere"
    command("predict", "-i", str(raw / "imagesTs"), "-o", str(elsewhere), "-d", "1")
    again = annotations.read_table(elsewhere / "landmarks.csv")
    for case, marks in table.items():
        np.testing.assert_array_equal(again[case].points, marks.points)


def truth_of(raw: Path) -> dict[str, Landmarks]:
    """Of the test cases."""
    dataset = Dataset.open(raw)
    return {c.identifier: dataset.read_landmarks(c, dataset.read_image(c).geometry) for c in dataset.cases("Ts")}
