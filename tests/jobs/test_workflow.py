"""Steps of a run: the code that they may run is what the user asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from autolmk.conformance.examples import example_plans
from autolmk.errors import AutolmkError
from autolmk.jobs.run_record import Record
from autolmk.jobs.workflow import Request, after_training, trainings, wanted, with_trust
from autolmk.paths import folders
from autolmk.plans import replace_configuration


def request(folder: Path, planner: tuple[str, ...] | None = None, *, trust_code: bool = False) -> Request:
    places = folders(folder / "raw", folder / "preprocessed", folder / "results", {})
    images = folder / "raw" / "Dataset001_A" / "imagesTs"
    images.mkdir(parents=True, exist_ok=True)
    (images / "a_0000.nrrd").touch()
    return Request("Dataset001_A", places, "autolmkPlans", folds=("all",), planner=planner, trust_code=trust_code)


def test_only_trainers_that_were_asked_for_run(tmp_path: Path) -> None:
    shipped, mine = example_plans(trainer="heatmap"), tmp_path / "mine.py"
    foreign = replace_configuration(shipped, "example", trainer=f"{mine}:Mine")
    assert not with_trust(request(tmp_path, trust_code=True), shipped).trust_code
    for given in (request(tmp_path), request(tmp_path, ("heatmap", f"{tmp_path}/else.py:Planner"))):
        with pytest.raises(AutolmkError, match="not run unasked"):
            with_trust(given, foreign)
    for given in (request(tmp_path, trust_code=True), request(tmp_path, (f"{mine}:Planner",))):
        allowed = with_trust(given, foreign)
        asked = wanted(dataclasses.replace(allowed, configurations=("example",)), foreign)
        [job] = trainings(allowed, foreign, Record(asked, None))
        predict = after_training(allowed, foreign, asked)[1].job
        assert "--trust-code" in job.command and predict is not None and "--trust-code" in predict.command
