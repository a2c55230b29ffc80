"""Validation: its numbers are those of `evaluation`, by the same rule for what has no position."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from predictions import a_prediction

from autolmk import annotations
from autolmk.detections import Detections, saved_cases
from autolmk.fold.held_out import TRUTH
from autolmk.landmarks import Landmarks, Status
from autolmk.plans import SliceGroup
from autolmk.training.validation import CaseResult, Validation, read_ahead, write_results

TINY = runpy.run_path(str(Path(__file__).with_name("test_training.py")))
NAMES = TINY["NAMES"]


def a_validation(*, without_position: bool) -> Validation:
    rng = np.random.default_rng(0)
    results = {}
    for i in range(4):
        truth = Landmarks(NAMES, rng.uniform(0, 20, (3, 2)), np.full(3, Status.PRESENT, dtype=np.int8))
        candidates = np.full((3, 2, 2), np.nan)
        candidates[:, 0] = truth.points + rng.normal(0, 1, (3, 2))
        log_odds = np.full((3, 2), -np.inf)
        log_odds[:, 0] = 3.0
        if without_position and i == 1:
            candidates[2, 0], log_odds[2, 0] = np.nan, -np.inf
        status = np.where(np.isfinite(log_odds[:, 0]), Status.PRESENT, Status.ABSENT).astype(np.int8)
        found = Landmarks(NAMES, candidates[:, 0], status, np.full(3, 0.9))
        results[f"case{i}"] = CaseResult(truth, a_prediction(found, candidates, log_odds), 34.0)
    return Validation(results, 1.0)


def write(folder: Path, validation: Validation, *, co_slice: bool = False) -> None:
    plans = TINY["tiny_plans"]()
    if co_slice:
        plans = dataclasses.replace(plans, co_slice_groups=(SliceGroup(0, NAMES[:2]),))
    write_results(folder, validation, plans, next(iter(plans.configurations.values())))


@pytest.mark.parametrize("without_position", [False, True])
def test_the_numbers_are_those_of_the_summary(without_position: bool, tmp_path: Path) -> None:
    validation = a_validation(without_position=without_position)
    numbers = validation.numbers()
    write(tmp_path, validation)
    overall = json.loads((tmp_path / "summary.json").read_text())["overall"]
    assert overall["missing"] == int(without_position)
    assert numbers["mre"] == pytest.approx(overall["mre"]["value"])
    assert numbers["median"] == pytest.approx(overall["median"]["value"])
    assert numbers["sdr"] == pytest.approx({r: e["value"] for r, e in overall["sdr"].items()})
    if without_position:
        whole = a_validation(without_position=False)
        lost = whole.results["case1"]
        error = np.linalg.norm(lost.prediction.candidates[2, 0] - lost.truth.points[2])
        assert numbers["mre"] == pytest.approx(whole.numbers()["mre"] + (34.0 - error) / 12)


def test_the_summary_says_what_the_errors_would_be_without_the_co_slice_step(tmp_path: Path) -> None:
    plain = a_validation(without_position=False)
    write(tmp_path, plain, co_slice=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["without_co_slice"]["mre"] == pytest.approx(summary["overall"]["mre"]["value"])
    write(tmp_path, plain)
    assert "without_co_slice" not in json.loads((tmp_path / "summary.json").read_text())
    results = {}
    for case, result in plain.results.items():
        found = result.prediction
        moved = dataclasses.replace(found, candidates=found.candidates + 5.0)
        results[case] = dataclasses.replace(result, prediction=moved)
    write(tmp_path, Validation(results, 1.0), co_slice=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["without_co_slice"]["mre"] == pytest.approx(plain.numbers()["mre"])
    assert summary["overall"]["mre"]["value"] > 4 and "seconds" not in summary["without_co_slice"]


def test_truth_and_detections_of_held_out_cases_are_kept(tmp_path: Path) -> None:
    validation = a_validation(without_position=True)
    write(tmp_path, validation)
    assert saved_cases(tmp_path) == sorted(validation.results)
    truth = annotations.read_table(tmp_path / TRUTH)
    for case, result in validation.results.items():
        np.testing.assert_array_equal(truth[case].points[:, :2], result.truth.points)
        kept, known = Detections.load(tmp_path, case), result.prediction.detections
        for key in ("candidates", "log_odds", "spread", "likelihood"):
            np.testing.assert_array_equal(getattr(kept, key), getattr(known, key))
        assert kept.names == known.names and kept.geometry.is_close(known.geometry)


def test_cases_are_read_ahead_in_order() -> None:
    """The next one while a case is worked on, and no more; an error comes where its case does."""
    began: list[str] = []

    def read(case: str) -> str:
        began.append(case)
        if case == "bad":
            raise ValueError(case)
        return case.upper()

    assert list(read_ahead(read, ["a", "b", "c"])) == ["A", "B", "C"] and began == ["a", "b", "c"]
    assert list(read_ahead(read, [])) == []
    found = read_ahead(read, ["a", "bad", "d"])
    assert next(found) == "A"
    with pytest.raises(ValueError, match="bad"):
        next(found)
    assert "d" not in began
