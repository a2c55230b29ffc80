"""Validation: its numbers are those of `evaluation`, by the same rule for what has no position."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from autolmk.landmarks import Landmarks, Status
from autolmk.prediction.inference import Prediction
from autolmk.training.validation import CaseResult, Validation, write_results

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
        results[f"case{i}"] = CaseResult(truth, Prediction(found, candidates, log_odds, 1), 34.0)
    return Validation(results, 1.0)


@pytest.mark.parametrize("without_position", [False, True])
def test_the_numbers_are_those_of_the_summary(without_position: bool, tmp_path: Path) -> None:
    validation = a_validation(without_position=without_position)
    numbers = validation.numbers()
    write_results(tmp_path, validation, TINY["tiny_plans"]())
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
    write_results(tmp_path, plain, TINY["tiny_plans"]())
    assert "without_co_slice" not in json.loads((tmp_path / "summary.json").read_text())
    results = {}
    for case, result in plain.results.items():
        found = result.prediction
        moved = dataclasses.replace(found, candidates=found.candidates + 5.0, separate=found.candidates[:, 0])
        results[case] = dataclasses.replace(result, prediction=moved)
    write_results(tmp_path, Validation(results, 1.0), TINY["tiny_plans"]())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["without_co_slice"]["mre"] == pytest.approx(plain.numbers()["mre"])
    assert summary["overall"]["mre"]["value"] > 4 and "seconds" not in summary["without_co_slice"]
