"""Folders of predictions as input: what does not belong together, or is damaged or finished already, is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crossvals import detections_at

from autolmk.cli import apply_postprocessing, ensemble
from autolmk.detections import Detections
from autolmk.errors import AutolmkError
from autolmk.evaluation.measurements import TABLE as MEASUREMENTS
from autolmk.files.serialization import read_json, to_json, write_json
from autolmk.geometry import Geometry
from autolmk.postprocessing import Decision, Postprocessing
from autolmk.prediction.output import PredictionFolder
from autolmk.selection import Recipe, RecipeMember
from autolmk.selection.ensembling import single
from autolmk.selection.results import REVIEW

NAMES, MODEL = ("a", 'b, "c"; <script>'), "T__P__C"


def found(names: tuple[str, ...] = NAMES, p: int = 3) -> Detections:
    points = np.arange(len(names) * p, dtype=np.float64).reshape(-1, p) + 10
    return detections_at(points, names, Geometry.from_parts((50,) * p, (1.0,) * p))


def predicted(folder: Path, detections: Detections | None = None, **record: Any) -> Path:
    (detections or found()).save(folder, "case")
    known = {"dataset": "Dataset001_X", "unit": "mm", "models": {MODEL: {}}, "sometimes_absent": []}
    write_json(folder / "run.json", known | {"inputs": {"case": ""}, "finished": "now", "failed": 0} | record)
    return folder


def recipe(folder: Path, **changes: Any) -> Path:
    known = Recipe("Dataset001_X", "mm", NAMES, (), (RecipeMember(MODEL, ("0",)),), single(MODEL), Postprocessing())
    write_json(folder / "recipe.json", {**to_json(known), **changes})
    return folder


def test_steps_are_never_taken_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, packed = predicted(tmp_path / "first"), recipe(tmp_path / "best")
    done = ["-i", str(first), "-o", str(tmp_path / "done"), "-r", str(packed)]
    assert apply_postprocessing.main(done) == 0
    assert (tmp_path / "done" / REVIEW).is_file()
    again = ["-i", str(tmp_path / "done"), "-o", str(tmp_path / "twice"), "-r", str(packed)]
    assert apply_postprocessing.main(again) == 2
    assert "finished already" in capsys.readouterr().err
    assert ensemble.main(["-i", str(first), str(tmp_path / "done"), "-o", str(tmp_path / "both")]) == 2
    assert "finished already" in capsys.readouterr().err


def test_what_lies_outside_the_training_range_is_carried_on(tmp_path: Path) -> None:
    first = predicted(tmp_path / "first", outside={"case": ["field of view 2 times the largest", "too noisy"]})
    second = predicted(tmp_path / "second", outside={"case": ["too noisy"]}, models={"other": {}})
    assert ensemble.main(["-i", str(first), str(second), "-o", str(tmp_path / "both")]) == 0
    packed = recipe(tmp_path / "best")
    assert apply_postprocessing.main(["-i", str(first), "-o", str(tmp_path / "done"), "-r", str(packed)]) == 0
    for folder in (tmp_path / "both", tmp_path / "done"):
        said = read_json(folder / "run.json")["outside"]
        assert said == {"case": ["field of view 2 times the largest", "too noisy"]}
        assert "field of view 2 times the largest; too noisy" in (folder / REVIEW).read_text()


@pytest.mark.parametrize(
    ("record", "said"), [({"models": {"other": {}}}, "not those of the recipe"), ({"unit": "px"}, "in px")]
)
def test_a_recipe_is_for_its_models(
    record: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, packed = predicted(tmp_path / "first", **record), recipe(tmp_path / "best")
    assert apply_postprocessing.main(["-i", str(first), "-o", str(tmp_path / "o"), "-r", str(packed)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (found(("a", "x")), "the landmark"),
        (found(NAMES[::-1]), "another order"),
        (found(p=2), "2 coordinates"),
    ],
)
def test_models_of_other_landmarks_are_not_combined(
    other: Detections, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = predicted(tmp_path / "one"), predicted(tmp_path / "two", other)
    assert ensemble.main(["-i", str(one), str(two), "-o", str(tmp_path / "both")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "both").exists()


def test_a_folder_stands_once_and_its_cases_are_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = predicted(tmp_path / "one"), predicted(tmp_path / "two")
    (tmp_path / "x").mkdir()
    assert ensemble.main(["-i", str(one), str(two), str(tmp_path / "x" / ".." / "two"), "-o", str(tmp_path / "b")]) == 2
    assert "the same folder twice" in capsys.readouterr().err
    found(("a",)).save(one, "second")
    predicted(one, inputs={"case": "", "second": ""})
    packed = recipe(tmp_path / "best")
    assert apply_postprocessing.main(["-i", str(one), "-o", str(tmp_path / "o"), "-r", str(packed)]) == 2
    assert "different landmarks" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['[{"file": 1}]', "{}", "[1]", "["])
def test_a_damaged_list_of_failures_is_an_error(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = predicted(tmp_path / "one", failed=1)
    (one / "failures.json").write_text(content)
    arguments = ["-i", str(one), "-o", str(tmp_path / "o"), "-r", str(recipe(tmp_path / "best"))]
    assert apply_postprocessing.main(arguments) == 2
    assert "failures.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"members": []},
        {"members": [{"model": "other", "folds": ["0"]}]},
        {"combination": to_json(single("other"))},
        {"postprocessing": to_json(Postprocessing((Decision("magic", True, ""),)))},
        {"postprocessing": to_json(Postprocessing((Decision("outside", True, "", None, {"margin": "wide"}),)))},
    ],
)
def test_a_recipe_whose_parts_do_not_fit_is_refused_with_its_file(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AutolmkError) as caught:
        Recipe.load(recipe(tmp_path, **change))
    assert str(caught.value.file).endswith("recipe.json")


def test_tables_of_an_earlier_packed_model_do_not_stay(tmp_path: Path) -> None:
    tables = ["landmarks.csv", "failures.json", REVIEW, MEASUREMENTS]
    write_json(tmp_path / "run.json", {"identity": {}, "inputs": {"case": ""}, "tables": tables})
    for name in (REVIEW, MEASUREMENTS):
        (tmp_path / name).write_text("of an earlier run")
    PredictionFolder(tmp_path, {"case": ""}, {}, unit="mm").begin(resume=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["landmarks.csv", "run.json"]
