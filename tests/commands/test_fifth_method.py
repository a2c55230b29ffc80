"""The method of documentation/write_a_planner.md, planner and trainer in one file, from a user's folder to points."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from autolmk import annotations
from autolmk.methods.trainer import trainer_class
from autolmk.phantom import write_phantom
from autolmk.phantom.anatomy import POINTS
from autolmk.testing import check_trainer

PAGE = Path(__file__).resolve().parents[2] / "documentation" / "write_a_planner.md"
NAME, MOST_LINES, FAR = "Dataset001_Phantom", 59, 7.0  # FAR: px; untrained, points lie further off


def test_a_stranger_adds_a_method(tmp_path: Path, command: Callable[..., str]) -> None:
    """Plans, trains and predicts by the commands; exact points are the other tests' business."""
    file = tmp_path / "my_method.py"
    file.write_text(PAGE.read_text().split("```python\n")[2].split("```")[0])
    assert "class SoftArgmaxPlanner" in file.read_text() and len(file.read_text().splitlines()) <= MOST_LINES
    raw, out = tmp_path / "raw" / NAME, tmp_path / "points"
    write_phantom(raw, n_train=8, n_test=2, ndim=2, size=48)
    planner, trainer = (f"{file.name}:SoftArgmax{what}" for what in ("Planner", "Trainer"))
    command("plan_and_preprocess", "-d", "1", "-pl", planner, "-overwrite_plans_name", "mine", "--preset", "XS")
    plans = json.loads((tmp_path / "preprocessed" / NAME / "mine.json").read_text())
    assert plans["configurations"]["softargmax"]["trainer"] == f"{file}:SoftArgmaxTrainer"
    few = ("--set", "schedule.iterations_per_epoch=25", "--epochs", "1", "--workers", "0", "--threads", "1")
    command("train", "1", "0", "-p", "mine", "--trust-code", *few)
    command("predict", "-i", str(raw / "imagesTs"), "-o", str(out), "-d", "1", "-p", "mine", "-tr", trainer)
    assert set(annotations.read_table(out / "landmarks.csv")) == {"phantom_008", "phantom_009"}
    assert set(annotations.read(out / "phantom_008.mrk.json").names) == set(POINTS[2])
    command("evaluate", str(out), "-d", "1")
    assert json.loads((out / "evaluation" / "summary.json").read_text())["overall"]["mre"]["value"] < FAR
    check_trainer(trainer_class(f"{file}:SoftArgmaxTrainer"), ndims=(2,))
