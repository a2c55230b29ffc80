"""Times that autolmk_run shows beside those of training: of preparation and prediction, measured on one case."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from autolmk.cli import extract_fingerprint, plan_experiment, run_hours
from autolmk.jobs.run_record import Record, Wanted, share_out
from autolmk.jobs.workflow import Request
from autolmk.paths import folders
from autolmk.phantom import write_phantom
from autolmk.plans import Plans

DATASET = "Dataset001_Tiny"


def test_preparation_and_prediction_are_estimated_from_one_case(tmp_path: Path) -> None:
    raw = tmp_path / "raw" / DATASET
    write_phantom(raw, n_train=4, n_test=2, ndim=2, size=48)
    places = [part for name in ("raw", "preprocessed") for part in (f"--{name}", str(tmp_path / name))]
    assert extract_fingerprint.main(["-d", "1", "-np", "0", *places]) == 0
    assert plan_experiment.main(["-d", "1", "-pl", "heatmap", "--preset", "XS", "-device", "cpu", *places]) == 0
    plans = Plans.load(tmp_path / "preprocessed" / DATASET / "autolmkPlans.json")
    request = Request(DATASET, folders(*(tmp_path / n for n in ("raw", "preprocessed", "results"))), "autolmkPlans")
    record = Record(Wanted(("heatmap",), ("0", "1")), None)
    found = run_hours.seconds_of_others(request, plans, record)
    assert set(found) == {"prepare", "predict"} and min(found.values()) > 0
    assert run_hours.seconds_of_others(request, plans, replace(record, shares=share_out(600, 2, 1))) == {}
    shutil.rmtree(raw / "imagesTs")
    assert set(run_hours.seconds_of_others(request, plans, record)) == {"prepare"}
    shutil.rmtree(raw / "imagesTr")
    assert run_hours.seconds_of_others(request, plans, record) == {}
