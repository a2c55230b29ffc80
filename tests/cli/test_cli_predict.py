"""autolmk_predict: folders of images in; points, tables and pictures out; failures, refusals, kills."""

from __future__ import annotations

import csv
import gzip
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autolmk import annotations
from autolmk.cli.predict import main
from autolmk.fingerprint import FILE_NAME, fingerprint_of
from autolmk.fingerprint.summary import summarise
from autolmk.geometry import Geometry
from autolmk.imageio import read_geometry, read_image, write_image
from autolmk.landmarks import Landmarks, Status
from autolmk.prediction.predictor import Predictor

BLOBS = runpy.run_path(str(Path(__file__).parents[1] / "prediction" / "test_predictor.py"))
make_model, make_image = BLOBS["make_model"], BLOBS["make_image"]
some_geometry, some_points = BLOBS["some_geometry"], BLOBS["some_points"]


def make_images(folder: Path, count: int, ndim: int = 3) -> dict[str, np.ndarray]:
    """case -> true points."""
    truth = {}
    for i in range(count):
        geometry = some_geometry(i, ndim)
        case = f"case{i:02d}"
        truth[case] = some_points(geometry)
        image = make_image(geometry, truth[case])
        if ndim == 2:
            image = type(image)(np.round(image.array * 100 + 120), geometry)
        write_image(folder / (f"{case}_0000.nii.gz" if ndim == 3 else f"{case}.png"), image)
    return truth


def predict(*arguments: object) -> int:
    return main([str(a) for a in (*arguments, "-device", "cpu", "--trust-code")])


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "landmarks.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def outputs(folder: Path) -> dict[str, bytes]:
    """Everything but timings."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and p.name != "run.json"}


def test_a_folder_of_images(tmp_path: Path) -> None:
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    truth = make_images(images, 3)
    assert predict("-i", images, "-o", out, "-m", model) == 0
    rows = table(out)
    columns = ["case", "landmark", "x", "y", "z", "status", "likelihood", "log_odds", "error_radius"]
    columns += ["flags", "outside"]
    assert list(rows[0]) == columns
    assert [(r["case"], r["landmark"]) for r in rows] == [(c, n) for c in truth for n in ("bright", "dark")]
    for case, points in truth.items():
        read = annotations.read(out / f"{case}.mrk.json")
        assert read.names == ("bright", "dark")
        assert read.frame == "LPS"
        np.testing.assert_allclose(read.points, points, atol=0.15)
        mine = [r for r in rows if r["case"] == case]
        np.testing.assert_array_equal(read.points, [[float(r[a]) for a in "xyz"] for r in mine])
        np.testing.assert_array_equal(read.likelihood, [float(r["likelihood"]) for r in mine])
    assert set(annotations.read_table(out / "landmarks.csv")) == set(truth)
    run = json.loads((out / "run.json").read_text())
    assert run["done"] == 3
    assert run["failed"] == 0
    assert run["models"]["BlobTrainer__autolmkPlans__full"]["folds"] == ["0"]
    assert set(run["cases"]) == set(truth)
    assert run["cases"]["case00"]["seconds"]["predict"] >= 0
    assert run["versions"]["torch"]
    assert len(run["identity"]["checkpoints"]["0"]) == 64
    assert not (out / "failures.json").exists()


def test_absent_landmarks_keep_their_best_place_in_the_table(tmp_path: Path) -> None:
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    geometry = some_geometry(1)
    points = some_points(geometry)
    image = make_image(geometry, points)
    array = np.where(image.array < 0, image.array * 0.1, image.array)
    write_image(images / "a.nii.gz", type(image)(array.astype(np.float32), geometry))
    assert predict("-i", images, "-o", out, "-m", model) == 0
    bright, dark = table(out)
    assert bright["status"] == "present"
    assert dark["status"] == "absent"
    assert float(dark["likelihood"]) < 0.5
    assert float(dark["log_odds"]) < 0
    np.testing.assert_allclose([float(dark[a]) for a in "xyz"], points[1], atol=0.5)
    read = annotations.read(out / "a.mrk.json")
    np.testing.assert_array_equal(read.status, [Status.PRESENT, Status.ABSENT])
    assert np.isnan(read.points[1]).all()


def test_pictures_and_crops(tmp_path: Path) -> None:
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    truth = make_images(images, 1)
    code = predict("-i", images, "-o", out, "-m", model, "--overlays", "--save_heatmap_crops", "-npp", 0, "-nps", 0)
    assert code == 0
    picture = read_image([out / "overlays" / "case00.png"])
    green = (picture.array[1] > 200) & (picture.array[0] < 100)
    assert green.sum() > 50  # crosses and names
    crops = sorted((out / "heatmap_crops" / "case00").iterdir())
    assert [c.name for c in crops] == ["0_bright.nii.gz", "1_dark.nii.gz"]
    for crop, point in zip(crops, truth["case00"], strict=True):
        image, geometry = read_image([crop]), read_geometry(crop)
        peak = np.unravel_index(int(image.array[0].argmax()), geometry.shape)
        assert np.linalg.norm(geometry.to_physical(peak) - point) < 1.5


def test_two_dimensional_pictures(tmp_path: Path) -> None:
    model, images, out = make_model(tmp_path, ndim=2, unit="px"), tmp_path / "images", tmp_path / "out"
    truth = make_images(images, 2, ndim=2)
    assert predict("-i", images, "-o", out, "-m", model, "--save_overlays") == 0
    assert table(out)[0]["z"] == ""
    np.testing.assert_allclose(annotations.read(out / "case01.mrk.json").points[:, :2], truth["case01"], atol=0.3)
    assert read_image([out / "overlays" / "case00.png"]).array.max() > 0


def test_what_is_odd_about_a_file_is_said_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    make_images(images, 2)
    file = images / "case01_0000.nii.gz"
    raw = bytearray(gzip.decompress(file.read_bytes()))
    raw[252:256] = b"\0" * 4  # neither form is set
    file.write_bytes(gzip.compress(bytes(raw)))
    assert predict("-i", images, "-o", out, "-m", model) == 0
    cases = json.loads((out / "run.json").read_text())["cases"]
    assert "notices" not in cases["case00"] and len(cases["case01"]["notices"]) == 1
    assert "how it lies in the room" in cases["case01"]["notices"][0]
    assert capsys.readouterr().err.count("how it lies in the room") == 1


def test_the_order_of_threads_changes_nothing(tmp_path: Path) -> None:
    model, images = make_model(tmp_path), tmp_path / "images"
    make_images(images, 4)
    assert predict("-i", images, "-o", tmp_path / "a", "-m", model, "-npp", 0, "-nps", 0) == 0
    assert predict("-i", images, "-o", tmp_path / "b", "-m", model, "-npp", 3, "-nps", 3) == 0
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")


def test_bad_cases_do_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    truth = make_images(images, 3)
    file = images / "case01_0000.nii.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    (images / "empty_0000.nii.gz").write_bytes(b"")
    assert predict("-i", images, "-o", out, "-m", model) == 3
    failures = json.loads((out / "failures.json").read_text())
    assert [f["case"] for f in failures] == ["case01", "empty"]
    assert "truncated" in failures[0]["problem"]
    assert {r["case"] for r in table(out)} == {"case00", "case02"}
    assert not (out / "case01.mrk.json").exists()
    assert "Traceback" not in capsys.readouterr().err
    file.write_bytes(whole)
    (images / "empty_0000.nii.gz").unlink()
    assert predict("-i", images, "-o", out, "-m", model, "--continue_prediction") == 0
    assert {r["case"] for r in table(out)} == set(truth)
    assert not (out / "failures.json").exists()


def test_an_error_of_a_plug_in_is_the_failure_of_its_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One image makes the network raise a plain ValueError."""
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    truth = make_images(images, 3)
    bright_only = tmp_path / "bright_only.py"
    line = "        x = self.gain"
    check = "        if data.abs().amax() > 300: raise ValueError('dim')\n"
    bright_only.write_text((tmp_path / "blob_trainer.py").read_text().replace(line, check + line))
    dark = read_image([images / "case01_0000.nii.gz"])
    write_image(images / "case01_0000.nii.gz", type(dark)(dark.array * 1000, dark.geometry))
    assert predict("-i", images, "-o", out, "-m", model, "-tr", f"{bright_only}:BlobTrainer") == 3
    (failure,) = json.loads((out / "failures.json").read_text())
    assert failure["case"] == "case01" and "ValueError: dim" in failure["problem"]
    assert {r["case"] for r in table(out)} == set(truth) - {"case01"}
    assert "Traceback" not in capsys.readouterr().err


def test_continuing_predicts_only_what_is_left_and_only_in_the_same_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, images, out = make_model(tmp_path, folds=("0", "1")), tmp_path / "images", tmp_path / "out"
    make_images(images, 3)
    assert predict("-i", images, "-o", out, "-m", model, "-f", 0) == 0
    first = outputs(out)
    (out / "case01.mrk.json").unlink()
    (out / ".case02.mrk.json.autolmk-abcd1234.tmp").write_text("half")
    assert predict("-i", images, "-o", out, "-m", model, "-f", 0, "--continue_prediction") == 0
    assert outputs(out) == first
    assert list(json.loads((out / "run.json").read_text())["cases"]) == ["case01"]
    assert predict("-i", images, "-o", out, "-m", model, "--continue_prediction") == 2
    assert "made in another way" in capsys.readouterr().err
    assert outputs(out) == first


def test_a_replaced_image_is_predicted_again_and_nothing_stays_of_a_removed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    make_images(images, 3)
    arguments = ("-i", images, "-o", out, "-m", model)
    assert predict(*arguments, "--continue_prediction") == 0  # nothing to continue: it begins
    before = {r["x"] for r in table(out) if r["case"] == "case01"}
    (images / "case01_0000.nii.gz").write_bytes((images / "case02_0000.nii.gz").read_bytes())
    assert predict(*arguments, "--continue_prediction") == 0
    assert list(json.loads((out / "run.json").read_text())["cases"]) == ["case01"]
    rows = {case: {r["x"] for r in table(out) if r["case"] == case} for case in ("case01", "case02")}
    assert rows["case01"] == rows["case02"] != before
    (images / "case02_0000.nii.gz").unlink()
    (out / "mine.mrk.json").write_text("{}")
    assert predict(*arguments) == 0
    assert sorted(p.name for p in out.glob("*.mrk.json")) == ["case00.mrk.json", "case01.mrk.json", "mine.mrk.json"]
    run = json.loads((out / "run.json").read_text())
    assert run["identity"]["device"] == "cpu" and set(run["inputs"]) == {"case00", "case01"}
    (out / "run.json").unlink()
    capsys.readouterr()
    assert predict(*arguments, "--continue_prediction") == 2
    assert "no run.json beside landmarks.csv" in capsys.readouterr().err


def test_cases_outside_the_training_images_range_are_said_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    make_fingerprint(model)
    geometry = Geometry.from_parts((40, 44, 48), (1.0, 1.0, 1.0))
    wide = Geometry.from_parts((40, 44, 72), (1.0, 1.0, 1.0))
    points = some_points(geometry)
    for case, grid in {"usual": geometry, "wide": wide}.items():
        write_image(images / f"{case}_0000.nii.gz", make_image(grid, points))
    assert predict("-i", images / "wide_0000.nii.gz", "-o", out, "-m", model) == 0
    said = "field of view 1.5 times the largest training image's (x: 72 mm, there 48 mm)"
    assert said in capsys.readouterr().err
    for options in ((), ("--continue_prediction",)):
        assert predict("-i", images, "-o", out, "-m", model, *options) == 0
        captured = capsys.readouterr()
        assert f"wide: outside the training images' range: {said}" in captured.err or options
        assert "1 lies outside the training images' range" in captured.out
        assert {row["case"]: said in row["outside"] for row in table(out)} == {"usual": False, "wide": True}
        assert {row["case"] for row in table(out) if row["outside"]} == {"wide"}
        run = json.loads((out / "run.json").read_text())
        assert list(run["outside"]) == ["wide"]
        assert run["outside"]["wide"][0] == said
        assert run["not_judged"] == ["pose and shape of the landmarks"]  # of two landmarks none can be told
        (row,) = csv.DictReader((out / "review.csv").read_text().splitlines())
        assert (row["case"], row["landmark"]) == ("wide", "")
        assert said in row["flags"]
    found = Predictor(model, device="cpu", trust_code=True)
    assert said in found.predict_file(images / "wide_0000.nii.gz").outside
    assert found.predict_file(images / "usual_0000.nii.gz").outside == ()
    array = make_image(wide, points).array
    assert said in found.predict(array, wide).outside


def make_fingerprint(model: Path) -> None:
    """Of twelve images of one size, as a model folder holds it."""
    geometry = Geometry.from_parts((40, 44, 48), (1.0, 1.0, 1.0))
    summaries = {}
    for i in range(12):
        points = some_points(geometry) + np.random.default_rng(i).normal(0, 1, (2, 3))
        image = make_image(geometry, points)
        marks = Landmarks(("bright", "dark"), points, np.ones(2, dtype=np.int8))
        summaries[f"case{i}"] = summarise(image, marks, subject=str(i), case=str(i))
    found = fingerprint_of(summaries, dataset_name="Dataset001_Blobs", unit="mm", channel_names=("intensity",))
    found.save(model / FILE_NAME)


def test_a_model_without_numbers_of_its_training_images_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    make_images(images, 1)
    assert predict("-i", images, "-o", out, "-m", model) == 0
    assert "images outside their range pass unsaid" in capsys.readouterr().err
    assert len(json.loads((out / "run.json").read_text())["not_judged"]) == 3


def test_presence_without_calibration_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    make_images(images, 2)
    assert predict("-i", images, "-o", out, "-m", model) == 0
    assert capsys.readouterr().err.count("presence is not calibrated") == 1
    (record,) = json.loads((out / "run.json").read_text())["models"].values()
    assert record["presence_calibrated_on"] == {"0": 0}


def test_the_model_is_found_by_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, images = make_model(tmp_path), tmp_path / "images"
    make_images(images, 1)
    results = ("--results", tmp_path / "results", "--raw", tmp_path / "raw", "--preprocessed", tmp_path / "pre")
    assert predict("-i", images, "-o", tmp_path / "out", "-d", 1, *results) == 0
    assert predict("-i", images, "-o", tmp_path / "out", "-d", 1, "-c", "half", *results) == 2
    assert "BlobTrainer__autolmkPlans__full" in capsys.readouterr().err
    model.rename(model.with_name("BlobTrainer__autolmkPlans__half"))
    assert predict("-i", images, "-o", tmp_path / "out", "-d", 1, "-c", "half", *results) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-i", "images", "-o", "out"), "either a dataset or -m"),
        (("-i", "images", "-o", "out", "-m", "nowhere"), "no model folder"),
        (("-i", "nowhere", "-o", "out", "-m", "model"), "folder of images is missing"),
        (("-i", "nothing", "-o", "out", "-m", "model"), "no image to predict"),
        (("-i", "images", "-o", "out", "-m", "model", "-f", "7"), "fold 7"),
        (("-i", "images", "-o", "out", "-m", "model", "-step_size", "2"), "step between windows"),
        (("-i", "images", "-o", "out", "-m", "model", "-npp", "-1"), "0 or more"),
        (("-i", "images", "-o", "a_file/out", "-m", "model"), "a_file"),
    ],
)
def test_refusals_are_clear(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    make_model(tmp_path).rename(tmp_path / "model")
    make_images(tmp_path / "images", 1)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "a_file").touch()
    monkeypatch.chdir(tmp_path)
    assert predict(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_killed_and_continued_equals_unbroken(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    model, images = make_model(tmp_path, slow=0.03), tmp_path / "images"
    make_images(images, 5)
    assert predict("-i", images, "-o", tmp_path / "whole", "-m", model) == 0
    out = tmp_path / "broken"
    command = [
        sys.executable, "-m", "autolmk.cli.predict", "-i", images, "-o", out, "-m", model, "-device", "cpu",
        "--trust-code", "--continue_prediction",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_until((out / "case01.mrk.json").exists, process)
    process.kill()
    process.wait()
    assert not (out / "case04.mrk.json").exists()
    assert subprocess.run(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode == 0
    assert outputs(out) == outputs(tmp_path / "whole")
    assert len(json.loads((out / "run.json").read_text())["cases"]) < 5
