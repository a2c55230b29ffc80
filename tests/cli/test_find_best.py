"""From held-out predictions to a packed model that predicts: in one command, and step by step."""

from __future__ import annotations

import csv
import json
import os
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from autolmk.cli import (
    accumulate_crossval_results,
    apply_postprocessing,
    ensemble,
    find_best_configuration,
    predict,
)
from autolmk.detections import Detections
from autolmk.fold.held_out import VALIDATION
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.selection import Recipe
from autolmk.selection.packing import pack
from autolmk.selection.results import Result, write_held_out

BLOBS = runpy.run_path(str(Path(__file__).with_name("test_cli_predict.py")))
make_model, make_images = BLOBS["make_model"], BLOBS["make_images"]
NAMES = ("bright", "dark")
CASES = {fold: [f"c{fold}{i}" for i in range(8)] for fold in range(3)}


def write_validation(model: Path, noise: float, seed: int, folds: dict[int, list[str]] = CASES) -> None:
    """Held-out predictions that err by `noise` mm an axis."""
    truths = np.random.default_rng(7)
    rng = np.random.default_rng(seed)
    for fold, cases in folds.items():
        results, truth = {}, {}
        for case in cases:
            points = truths.uniform(8, 40, (2, 3))
            truth[case] = Landmarks(NAMES, points, np.full(2, Status.PRESENT, dtype=np.int8))
            candidates = np.full((2, 2, 3), np.nan)
            candidates[:, 0] = points + rng.normal(0, noise, (2, 3))
            log_odds = np.array([[4.0, -np.inf], [3.0, -np.inf]])
            geometry = Geometry.from_parts((48, 48, 48), (1.0, 1.0, 1.0))
            found = Detections(NAMES, candidates, log_odds, np.full(2, 1.5), np.full(2, 0.98), geometry)
            marks = Landmarks(NAMES, candidates[:, 0], truth[case].status, found.likelihood)
            results[case] = Result(marks, candidates[:, 0], found)
        diagonals = dict.fromkeys(cases, 83.0)
        write_held_out(model / f"fold_{fold}" / VALIDATION, results, truth, diagonals=diagonals, pairs=(), unit="mm")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of three folds in results/Dataset001_Blobs, the second one half as good."""
    place = tmp_path_factory.mktemp("trained")
    model = make_model(place, folds=("0", "1", "2"))
    other = model.with_name("BlobTrainer__otherPlans__full")
    shutil.copytree(model, other)
    write_validation(model, 0.4, seed=1)
    write_validation(other, 0.8, seed=2)
    return place


def folders(place: Path) -> list[str]:
    return [part for name in ("raw", "preprocessed", "results") for part in (f"--{name}", str(place / name))]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def packed(trained: Path) -> Path:
    assert find_best_configuration.main(["1", *folders(trained)]) == 0
    return trained / "results" / "Dataset001_Blobs" / "best"


def test_the_choice_and_its_evidence(packed: Path) -> None:
    information = json.loads((packed / "inference_information.json").read_text())
    one, other = "BlobTrainer__autolmkPlans__full", "BlobTrainer__otherPlans__full"
    candidates = information["candidates"]
    assert set(candidates) == {one, other, f"{one} + {other}"}
    assert 0 < candidates[one]["sdr"]["2"]["value"] <= 1 and candidates[one]["swaps"] == 0
    assert candidates[one]["mre"]["value"] < 0.65 * candidates[other]["mre"]["value"]
    assert candidates[other]["p_holm"] < 0.01
    assert information["chosen"] in candidates and information["n_cases"] == 24
    assert candidates[information["chosen"]]["loss_against_best"]["high"] is None or (
        candidates[information["chosen"]]["loss_against_best"]["high"] <= 0.02
    )
    instructions = (packed / "inference_instructions.txt").read_text()
    assert f"-m {packed} --trust-code\n" in instructions and "--save_detections --trust-code\n" in instructions
    assert 0.8 <= information["error_radius"]["coverage"] <= 1
    table = rows(packed / "crossval" / "landmarks.csv")
    assert len(table) == 48 and all(float(row["error_radius"]) > 0 for row in table)
    review = rows(packed / "crossval" / "review.csv")
    expected = [float(row["expected_error"]) for row in review]
    assert expected == sorted(expected, reverse=True) and len(expected) == 48


def test_the_packed_folder_predicts_elsewhere_and_as_step_by_step(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, moved = tmp_path / "images", tmp_path / "elsewhere"
    truth = make_images(images, 2)
    shutil.copytree(packed, moved)
    rest = ["-device", "cpu", "--trust-code"]
    assert predict.main(["-i", str(images), "-o", str(tmp_path / "whole"), "-m", str(moved), *rest]) == 0
    whole = rows(tmp_path / "whole" / "landmarks.csv")
    points = {case: [[float(r[a]) for a in "xyz"] for r in whole if r["case"] == case] for case in truth}
    for case, expected in truth.items():
        np.testing.assert_allclose(points[case], expected, atol=0.15)
    assert all(float(row["error_radius"]) > 0 for row in whole)
    assert len(rows(tmp_path / "whole" / "review.csv")) == 4
    members = [m["model"] for m in json.loads((moved / "recipe.json").read_text())["members"]]
    for i, member in enumerate(members):
        arguments = ["-i", str(images), "-o", str(tmp_path / f"p{i}"), "-m", str(moved / member), "--npz"]
        assert predict.main([*arguments, *rest]) == 0
    last = tmp_path / "p0"
    if len(members) > 1:
        inputs = [str(tmp_path / f"p{i}") for i in range(len(members))]
        last = tmp_path / "combined"
        assert ensemble.main(["-i", *inputs[::-1], "-o", str(last), "-r", str(moved)]) == 0
    assert apply_postprocessing.main(["-i", str(last), "-o", str(tmp_path / "steps"), "-r", str(moved)]) == 0
    assert rows(tmp_path / "steps" / "landmarks.csv") == whole
    again = ["-i", str(tmp_path / "steps"), "-o", str(tmp_path / "twice"), "-r", str(moved)]
    assert apply_postprocessing.main(again) == 2
    assert "finished already" in capsys.readouterr().err and not (tmp_path / "twice").exists()
    case = next(iter(truth))
    assert (tmp_path / "steps" / f"{case}.mrk.json").read_bytes() == (
        tmp_path / "whole" / f"{case}.mrk.json"
    ).read_bytes()
    assert "error_radius" in (tmp_path / "whole" / f"{case}.mrk.json").read_text()


def test_two_models_are_combined_without_a_recipe(trained: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    truth = make_images(images, 1)
    place = trained / "results" / "Dataset001_Blobs"
    inputs = []
    for name in ("autolmkPlans", "otherPlans"):
        inputs.append(str(tmp_path / name))
        model = str(place / f"BlobTrainer__{name}__full")
        arguments = ["-i", str(images), "-o", inputs[-1], "-m", model, "--save_detections"]
        assert predict.main([*arguments, "-device", "cpu", "--trust-code"]) == 0
    assert ensemble.main(["-i", *inputs, "-o", str(tmp_path / "both")]) == 0
    found = rows(tmp_path / "both" / "landmarks.csv")
    np.testing.assert_allclose([[float(r[a]) for a in "xyz"] for r in found], truth["case00"], atol=0.15)


def test_refusals_are_clear(packed: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    make_images(images, 1)
    assert predict.main(["-i", str(images), "-o", str(out), "-m", str(packed), "-f", "0", "-device", "cpu"]) == 2
    assert "packed model says by itself" in capsys.readouterr().err
    assert ensemble.main(["-i", str(out), "-o", str(tmp_path / "x")]) == 2
    assert "several folders" in capsys.readouterr().err
    assert apply_postprocessing.main(["-i", str(images), "-o", str(out), "-r", str(packed)]) == 2
    assert "run.json" in capsys.readouterr().err
    assert find_best_configuration.main(["1", "-f", "7", *folders(trained)]) == 2
    assert "no trained model fits" in capsys.readouterr().err
    assert find_best_configuration.main(["1", "-c", "ful", *folders(trained)]) == 2
    assert "ful" in capsys.readouterr().err
    (packed / "recipe.json").rename(tmp_path / "kept.json")
    (packed / "recipe.json").write_text('{"version": 1, "unit": "mm"}')
    assert predict.main(["-i", str(images), "-o", str(out), "-m", str(packed), "-device", "cpu"]) == 2
    assert "recipe.json" in capsys.readouterr().err
    (tmp_path / "kept.json").replace(packed / "recipe.json")


def test_a_packed_model_that_is_older_than_what_was_trained_says_so(
    packed: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-i", str(tmp_path / "images"), "-d", "1", *folders(trained), "-device", "cpu", "--trust-code"]
    make_images(tmp_path / "images", 1)
    assert predict.main([*arguments, "-o", str(tmp_path / "now")]) == 0
    assert "older" not in capsys.readouterr().err
    later = packed.parent / "BlobTrainer__otherPlans__full" / "fold_1" / "checkpoint_final.safetensors"
    before = later.stat()
    os.utime(later, (before.st_atime, (packed / "recipe.json").stat().st_mtime + 60))
    assert predict.main([*arguments, "-o", str(tmp_path / "later")]) == 0
    os.utime(later, (before.st_atime, before.st_mtime))
    assert "trained since (BlobTrainer__otherPlans__full)" in capsys.readouterr().err


def test_a_kill_between_two_renames_loses_no_packed_model(packed: Path) -> None:
    place = packed.with_name("moved")
    shutil.copytree(packed, place.with_name(".replaced_moved"))

    def fail(folder: Path) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        pack(place, packed.parent, Recipe.load(packed), fail)
    assert Recipe.load(place) and not place.with_name(".writing_moved").exists()
    shutil.rmtree(place)


def test_names_that_fit_no_model_and_folds_given_twice(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, name in (("-p", "noPlans"), ("-tr", "NoTrainer")):
        known = "autolmkPlans" if option == "-p" else "BlobTrainer"
        assert accumulate_crossval_results.main(["1", option, known, name, *folders(trained)]) == 2
        assert name in capsys.readouterr().err
    arguments = ["1", "-p", "autolmkPlans", "-f", "1", "1", "-o", str(tmp_path / "one"), *folders(trained)]
    assert accumulate_crossval_results.main(arguments) == 0
    assert len(rows(tmp_path / "one" / "landmarks.csv")) == 16
    fold = trained / "results" / "Dataset001_Blobs" / "BlobTrainer__autolmkPlans__full" / "fold_1" / VALIDATION
    assert accumulate_crossval_results.main([*arguments[:6], "-o", str(fold), *folders(trained)]) == 2
    assert "trained fold" in capsys.readouterr().err
    table = (fold / "landmarks.csv").read_text()
    (fold / "landmarks.csv").write_text(table.replace("c10,", "c99,"))
    assert accumulate_crossval_results.main(arguments) == 2
    (fold / "landmarks.csv").write_text(table)
    assert "c10, c99" in capsys.readouterr().err


def test_results_of_folds_are_accumulated(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert accumulate_crossval_results.main(["1", "-p", "autolmkPlans", *folders(trained)]) == 0
    model = trained / "results" / "Dataset001_Blobs" / "BlobTrainer__autolmkPlans__full"
    place = model / "crossval_results_folds_0_1_2"
    assert len(rows(place / "landmarks.csv")) == len(rows(place / "points.csv")) == 48
    errors = [float(row["error"]) for row in rows(place / "points.csv")]
    summary = json.loads((place / "summary.json").read_text())
    assert summary["overall"]["mre"]["value"] == pytest.approx(np.mean(errors))
    assert f"MRE {np.mean(errors):.3f} mm" in capsys.readouterr().out


def test_a_measurement_may_be_declared_after_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(tmp_path, folds=("0",))
    write_validation(model, 0.4, seed=1, folds={0: CASES[0]})
    raw = tmp_path / "raw" / model.parent.name / "dataset.json"
    raw.parent.mkdir(parents=True)
    described = {
        "name": model.parent.name,
        "channel_names": {"0": "CT"},
        "file_ending": ".nii.gz",
        "landmarks": {name: {"index": i} for i, name in enumerate(NAMES)},
        "measurements": {"apart": {"distance": NAMES}},
    }
    raw.write_text(json.dumps(described))
    assert find_best_configuration.main(["1", *folders(tmp_path)]) == 0
    assert Recipe.load(model.parent / "best" / "recipe.json").measurements["apart"].distance == NAMES
    described["landmarks"] = {name: {"index": i} for i, name in enumerate((*NAMES, "new"))}
    described["measurements"] = {"apart": {"distance": ("bright", "new")}}
    raw.write_text(json.dumps(described))
    assert find_best_configuration.main(["1", *folders(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "not trained for" in said and "found: new" in said and str(raw) in said


def test_one_fold_of_one_case_is_enough_to_pack_a_model(tmp_path: Path) -> None:
    """Nothing can be chosen then, and the reasons are said in place of numbers."""
    model = make_model(tmp_path, folds=("0",))
    write_validation(model, 0.4, seed=1, folds={0: ["only"]})
    assert find_best_configuration.main(["1", *folders(tmp_path)]) == 0
    packed = model.parent / "best"
    information = json.loads((packed / "inference_information.json").read_text())
    assert information["error_radius"]["coverage"] is None and "too few" in information["error_radius"]["why"]
    assert not any(step["kept"] for step in information["postprocessing"])
    assert rows(packed / "crossval" / "landmarks.csv")[0]["error_radius"] == ""
