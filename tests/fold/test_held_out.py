"""Cross-validation is read back as it was written, and what would judge a model by its training cases is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from autolmk.annotations.csv import write_table
from autolmk.detections import Detections
from autolmk.errors import AutolmkError
from autolmk.fold.held_out import TRUTH, VALIDATION, common_cases, read_crossval
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.selection.results import Result, write_held_out

NAMES = ("a", "b", "c")


def write_model(model: Path, folds: dict[int, list[str]]) -> dict[str, tuple[Detections, Landmarks]]:
    rng = np.random.default_rng(0)
    written = {}
    for fold, cases in folds.items():
        folder = model / f"fold_{fold}" / VALIDATION
        for case in cases:
            status = np.array([Status.PRESENT, Status.ABSENT, Status.UNKNOWN], dtype=np.int8)
            truth = Landmarks(NAMES, rng.normal(size=(3, 2)), status)
            candidates = rng.normal(size=(3, 2, 2))
            candidates[2, 1] = np.nan
            odds = np.where(np.isfinite(candidates[..., 0]), 2.0, -np.inf)
            geometry = Geometry.from_parts((30, 40), (1.0, 2.0))
            found = Detections(NAMES, candidates, odds, np.ones(3), np.array([0.9, 0.2, np.nan]), geometry)
            found.save(folder, case)
            written[case] = found, truth
        write_table(folder / TRUTH, {case: written[case][1] for case in cases})
    return written


def test_round_trip(tmp_path: Path) -> None:
    written = write_model(tmp_path / "m", {0: ["x", "y"], 2: ["z"]})
    found = read_crossval(tmp_path / "m", [0, 2])
    assert found.cases == ("x", "y", "z") and found.folds == (0, 2) and found.fold_of["z"] == 2
    for case, (detections, truth) in written.items():
        np.testing.assert_array_equal(found.detections[case].log_odds, detections.log_odds)
        np.testing.assert_array_equal(found.detections[case].candidates, detections.candidates)
        np.testing.assert_array_equal(found.truth[case].points, truth.points)
        np.testing.assert_array_equal(found.truth[case].status, truth.status)
    assert found.diagonals()["x"] == pytest.approx(np.hypot(30, 80))


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "m", {0: ["x", "y"], 1: ["z"]})
    with pytest.raises(AutolmkError, match="fold 3 has no predictions"):
        read_crossval(tmp_path / "m", [0, 3])
    shutil.copytree(tmp_path / "m" / "fold_0", tmp_path / "m" / "fold_2")
    with pytest.raises(AutolmkError, match="same case"):
        read_crossval(tmp_path / "m", [0, 2])
    (tmp_path / "m/fold_1/validation/detections/z.json").write_text('{"version": 1}')
    with pytest.raises(AutolmkError, match=r"damaged[\s\S]*z\.json"):
        read_crossval(tmp_path / "m", [1])


def test_models_of_other_splits_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_model(tmp_path / "m", {0: ["x", "y"], 1: ["z"]})
    write_model(tmp_path / "n", {0: ["x"], 1: ["y", "z"]})
    one, other = read_crossval(tmp_path / "m", [0, 1]), read_crossval(tmp_path / "n", [0, 1])
    with pytest.raises(AutolmkError, match="y held out in different folds"):
        common_cases({"m": one, "n": other})
    assert common_cases({"m": one}) == ("x", "y", "z") and not caplog.messages
    assert common_cases({"m": one, "n": read_crossval(tmp_path / "n", [0])}) == ("x",)
    assert caplog.messages == ["judged on 1 cases; not all models held out y, z"]


def test_cases_with_other_landmarks_are_refused(tmp_path: Path) -> None:
    written = write_model(tmp_path / "m", {0: ["x", "y"]})
    found = written["y"][0]
    fewer = Detections(
        NAMES[:2], found.candidates[:2], found.log_odds[:2], found.spread[:2], found.likelihood[:2], found.geometry
    )
    fewer.save(tmp_path / "m" / "fold_0" / VALIDATION, "y")
    with pytest.raises(AutolmkError, match="different landmarks"):
        read_crossval(tmp_path / "m", [0])


def test_a_fold_that_is_validated_again_leaves_no_case_of_an_earlier_split(tmp_path: Path) -> None:
    folder = tmp_path / "fold_0" / VALIDATION
    written = write_model(tmp_path, {0: ["x", "y"]})
    found, truth = written["x"]
    marks = Landmarks(NAMES, found.best, np.full(3, Status.PRESENT, dtype=np.int8))
    result = Result(marks, found.best, found)
    write_held_out(folder, {"x": result}, {"x": truth}, diagonals={"x": 9.0}, pairs=(), unit="mm")
    assert read_crossval(tmp_path, [0]).cases == ("x",)


def test_a_landmark_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    write_model(tmp_path, {0: ["x"]})
    file = tmp_path / "fold_0" / VALIDATION / "detections" / "x.json"
    file.write_text(file.read_text().replace('"b"', '"a"'))
    with pytest.raises(AutolmkError, match="unique"):
        read_crossval(tmp_path, [0])
