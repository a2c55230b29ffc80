"""autolmk_evaluate says how far measurements agree, where the dataset declares them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autolmk.annotations import write_table
from autolmk.cli.evaluate import main
from autolmk.dataset import Dataset
from autolmk.evaluation.measurements import measure, write_measurements
from autolmk.files.serialization import read_json, write_json
from autolmk.imageio import read_geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.phantom import write_phantom

MEASUREMENTS = {
    "eyes": {"distance": ["Eye_L", "Eye_R"]},
    "height": {"distance": ["Crown", "Basion"]},
    "eyes by height": {"ratio": ["eyes", "height"]},
    "nose": {"angle": ["Eye_L", "Nose_Tip", "Eye_R"]},
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured") / "raw" / "Dataset005_Measured"
    write_phantom(folder, n_train=1, n_test=6, size=24)
    write_json(folder / "dataset.json", read_json(folder / "dataset.json") | {"measurements": MEASUREMENTS})
    return folder


def write_predictions(raw: Path, folder: Path) -> dict[str, tuple[Landmarks, Landmarks]]:
    """The truth plus noise, with error radii; case -> truth and prediction. One case lacks the crown."""
    dataset, rng = Dataset.open(raw), np.random.default_rng(0)
    cases = {}
    for case in dataset.cases("Ts"):
        truth = dataset.read_landmarks(case, read_geometry(case.images[0]))
        points = truth.points + rng.normal(size=truth.points.shape) * 0.5
        status = np.where(truth.present, Status.PRESENT, Status.ABSENT).astype(np.int8)
        status[truth.names.index("Crown")] = Status.PRESENT if cases else Status.ABSENT
        known = np.isfinite(points).all(axis=1)
        status[~known] = Status.ABSENT
        cases[case.identifier] = truth, Landmarks(truth.names, points, status, error_radius=np.full(len(status), 1.25))
    write_table(folder / "landmarks.csv", {case: found for case, (_, found) in cases.items()})
    return cases


def test_the_command_reports_measurements(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = write_predictions(raw, tmp_path)
    assert main(["-i", str(tmp_path), "-d", "5", "--raw", str(raw.parent), "--resamples", "100"]) == 0
    said = capsys.readouterr().out
    assert "eyes by height" in said and "limits of agreement" in said and "measurements.csv" in said
    with (tmp_path / "evaluation" / "measurements.csv").open() as stream:
        rows = {(row["case"], row["measurement"]): row for row in csv.DictReader(stream)}
    declared = Dataset.open(raw).description.measurements or {}
    errors = {name: [] for name in MEASUREMENTS}
    for case, (truth, found) in cases.items():
        pairs = (measure(marks.points, marks.names, declared) for marks in (truth, found))
        for name, true, value in zip(MEASUREMENTS, *pairs, strict=True):
            row = rows[case, name]
            assert (row["truth"] == "") == bool(np.isnan(true)) and (row["predicted"] == "") == bool(np.isnan(value))
            if np.isfinite([true, value]).all():
                assert float(row["error"]) == pytest.approx(value - true) and float(row["error_radius"]) > 0
                errors[name].append(value - true)
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())["measurements"]
    for name, found in summary.items():
        assert found["bias"]["value"] == pytest.approx(np.mean(errors[name])) and found["n"] == len(errors[name])
    assert summary["height"]["missing"] == 1 and summary["nose"]["unit"] == "degrees"


def test_radii_that_were_predicted_are_the_ones_judged(raw: Path, tmp_path: Path) -> None:
    cases = write_predictions(raw, tmp_path)
    declared = Dataset.open(raw).description.measurements or {}
    wide = {c: replace(found, error_radius=np.full(len(found.names), 80.0)) for c, (_, found) in cases.items()}
    write_measurements(tmp_path, wide, declared, unit="mm")
    assert main(["-i", str(tmp_path), "-d", "5", "--raw", str(raw.parent), "--resamples", "100"]) == 0
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())["measurements"]
    assert summary["eyes"]["coverage"]["value"] == 1 and summary["eyes"]["median_radius"] > 40


def test_the_predictions_own_table_is_never_replaced(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_predictions(raw, tmp_path)
    assert main(["-i", str(tmp_path), "-t", str(raw), "-o", f"{tmp_path}/x/.."]) == 2
    assert "would be replaced" in capsys.readouterr().err
