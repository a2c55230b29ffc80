"""Times of steps beside training: what is measured before, and what trained folds tell."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from autolmk.cli import extract_fingerprint, later_hours, plan_experiment
from autolmk.cli.later_hours import START, Pace
from autolmk.cli.time_limit import Limit
from autolmk.conformance.examples import example_plans
from autolmk.jobs.choosing_time import ChoosingPace
from autolmk.jobs.run_record import STEPS, GivenUp, Record, Wanted
from autolmk.jobs.workflow import Request, fold_folder
from autolmk.paths import folders
from autolmk.phantom import write_phantom
from autolmk.plans import Plans

DATASET = "Dataset001_Tiny"


def request_in(place: Path, **more: float) -> Request:
    found = folders(*(place / name for name in ("raw", "preprocessed", "results")))
    return Request(DATASET, found, "autolmkPlans", **more)  # type: ignore[arg-type]


def test_what_one_case_tells(tmp_path: Path) -> None:
    raw = tmp_path / "raw" / DATASET
    write_phantom(raw, n_train=4, n_test=2, ndim=2, size=48)
    places = [part for name in ("raw", "preprocessed") for part in (f"--{name}", str(tmp_path / name))]
    assert extract_fingerprint.main(["-d", "1", "-np", "0", *places]) == 0
    assert plan_experiment.main(["-d", "1", "-pl", "heatmap", "--preset", "XS", "-device", "cpu", *places]) == 0
    plans, asked = Plans.load(tmp_path / "preprocessed" / DATASET / "autolmkPlans.json"), Wanted(("heatmap",), ("0",))
    request = request_in(tmp_path)
    pace = later_hours.measured_pace(request, plans, asked)
    assert pace.prepare is not None and pace.prepare > 0 and min(pace.cases["heatmap"]) > 0
    assert (pace.n_cases, pace.n_tests) == (4, 2) and pace.choosing is not None and pace.choosing.alone > 0
    steps = later_hours.seconds_of_steps(request, plans, Record(asked, None), pace)
    assert set(steps) == set(STEPS) - {"prepare", "train"} and min(steps.values()) >= START
    shutil.rmtree(raw / "imagesTs")
    assert set(later_hours.seconds_of_steps(request, plans, Record(asked, None), pace)) == {"find_best", "report"}
    shutil.rmtree(raw / "imagesTr")
    assert later_hours.measured_pace(request, plans, asked) == Pace()


# -- once folds are trained -------------------------------------------------------------------------------------------

ASKED = Wanted(("one", "again"), ("0", "1", "2"), max_seconds=10_000.0)
PACE = Pace(5.0, {"one": (1.0, 0.5), "again": (2.0, 0.5)}, n_cases=30, n_tests=10, choosing=ChoosingPace(0.1, 0.0))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("imagesTs", "landmarksTs"):
        folder = tmp_path / "raw" / DATASET / name
        folder.mkdir(parents=True)
        (folder / "a_0000.nii").touch()
    return tmp_path


def plans_of_two() -> Plans:
    """One look, and two."""
    unit = example_plans(trainer="heatmap").configurations["example"]
    windows = replace(unit.windows, kind="landmark")
    again = replace(unit, previous_stage="first", windows=windows)
    return replace(
        example_plans(trainer="heatmap"), configurations={"one": unit, "first": unit, "again": again}, why={}
    )


def validated(request: Request, plans: Plans, name: str, seconds: float) -> None:
    """As a finished training leaves it, of 4 held-out cases."""
    folder = fold_folder(request, plans, name, "0")
    folder.mkdir(parents=True)
    entries = [
        {"kind": "validation", "iteration": 1, "elapsed": 1.0, "cases": 1, "seconds": 99.0},
        {"kind": "validation", "iteration": 9, "elapsed": 9.0, "cases": 4, "seconds": 4 * seconds},
        {"kind": "end", "iteration": 9, "elapsed": 9.0},
    ]
    (folder / "training_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_prediction_is_known_better_once_folds_are_trained(place: Path) -> None:
    """Until then a second stage counts as two first looks. One look took 1.0 s in validation, where it had one core,
    and 0.5 s before, where it had all: so prediction is twice as fast as validation."""
    request, plans, record = request_in(place), plans_of_two(), Record(ASKED, None)
    at_first = later_hours.seconds_of_steps(request, plans, record, PACE)["predict"]
    assert at_first == START + 10 * ((1 + 3 * 0.5) + (2 + 3 * 1.5))
    validated(request, plans, "one", 1.0)
    validated(request, plans, "again", 4.0)
    now = later_hours.seconds_of_steps(request, plans, record, PACE)
    assert now["predict"] == START + 10 * ((1 + 3 * 0.5) + (2 + 3 * (0.5 + 2.0)))
    lost = GivenUp(("0",), 7, 2.0, "again", 1.0, 1.0, 0.5, 0.1)
    without = later_hours.seconds_of_steps(
        request, plans, replace(record, given_up={"one": lost}, left_out=("0",)), PACE
    )
    assert without["predict"] == START + 10 * (2 + 2 * (0.5 + 2.0)), "what was given up still tells of the speed"
    only = later_hours.seconds_of_steps(request, plans, record, PACE, members=("one",))
    assert only["predict"] == START + 10 * (1 + 3 * 0.5)


def test_choosing_counts_the_cases_of_the_folds_alone(place: Path) -> None:
    """3 of 5 folds hold 18 of 30 cases out."""
    steps = later_hours.seconds_of_steps(request_in(place), plans_of_two(), Record(ASKED, None), PACE)
    assert steps["find_best"] == START + ChoosingPace(0.1, 0.0).seconds(18, 3, 2)


def test_what_is_kept_of_the_time(place: Path) -> None:
    """Of steps that are done at all; a share of the time where nothing is known."""
    request, plans = request_in(place, max_seconds=10_000.0), plans_of_two()
    limit = Limit(request, plans, PACE, STEPS)
    known = limit.reserved(Record(ASKED, None), 10_000.0)
    assert known == later_hours.seconds_of_steps(request, plans, Record(ASKED, None), PACE)
    assert Limit(request, plans, PACE, STEPS[:3]).reserved(Record(ASKED, None), 10_000.0).keys() == {"find_best"}
    unknown = Limit(request, plans, Pace(), STEPS).reserved(Record(ASKED, None), 10_000.0)
    assert unknown["find_best"] == 400.0 and unknown["predict"] == 800.0
    record = Record(ASKED, limit.shares(ASKED, 2, taken=100.0))
    left = limit.left(record, 4000.0)
    assert left == pytest.approx(10_000 - 4000 - 1.15 * sum(known.values()) - 100 - 3)
    assert Limit(request, plans, PACE, STEPS).left(Record(Wanted(("one",), ("0",)), None), 0.0) is None
