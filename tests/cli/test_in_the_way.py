"""Results replace those of an earlier call, and never a file that others put in their place."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

import autolmk
from autolmk.cli import accumulate_crossval_results, cite, evaluate, plan_experiment, report
from autolmk.cli.in_the_way import begins_with, require_evaluation, require_ours
from autolmk.errors import AutolmkError
from autolmk.selection.results import write_held_out

POINTS = "case,landmark,x,y,z,status\n" + "".join(f"c{i},A,{i},2,3,present\n" for i in range(6))
STRANGE = ("summary.json", "summary.csv", "points.csv")


@pytest.fixture
def compared(tmp_path: Path) -> Sequence[str]:
    """Arguments of autolmk_evaluate."""
    for name in ("predicted.csv", "truth.csv"):
        (tmp_path / name).write_text(POINTS)
    return ["-i", str(tmp_path / "predicted.csv"), "-t", str(tmp_path / "truth.csv"), "--resamples", "100"]


def test_an_evaluation_is_replaced_by_the_next(compared: Sequence[str], tmp_path: Path) -> None:
    for _ in range(2):
        assert evaluate.main([*compared, "-o", str(tmp_path / "out")]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(STRANGE)


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo])
def test_an_evaluation_replaces_nothing_of_others(
    name: str, make: object, compared: Sequence[str], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    make(tmp_path / "out" / name)  # type: ignore[operator]
    assert evaluate.main([*compared, "-o", str(tmp_path / "out")]) == 2
    assert [file.name for file in (tmp_path / "out").iterdir()] == [name]


def test_the_tables_that_are_compared_are_not_replaced(tmp_path: Path) -> None:
    for name in ("points.csv", "truth.csv"):
        (tmp_path / name).write_text(POINTS)
    arguments = ["-i", str(tmp_path / "points.csv"), "-t", str(tmp_path / "truth.csv"), "-o", str(tmp_path)]
    assert evaluate.main([*arguments, "--resamples", "100"]) == 2
    assert (tmp_path / "points.csv").read_text() == POINTS


def test_held_out_results_are_no_evaluation_of_predictions(tmp_path: Path) -> None:
    keys = ("unit", "penalty", "radii", "n_cases", "overall", "landmarks")
    (tmp_path / "summary.json").write_text(json.dumps(dict.fromkeys(keys)))
    require_evaluation(tmp_path, ["summary.json"])
    (tmp_path / "truth.csv").touch()
    require_evaluation(tmp_path, ["summary.json"], held_out=True)
    (tmp_path / "landmarks.csv").touch()
    require_evaluation(tmp_path, ["detections", "landmarks.csv"], held_out=True)
    with pytest.raises(AutolmkError, match="files are in the way"):
        require_evaluation(tmp_path, ["summary.json"])


def test_references_of_others_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "references.bib"
    for _ in range(2):  # the same again is no loss
        assert cite.main(["--bibtex", "-o", str(file)]) == 0
    file.write_text(file.read_text() + "@book{mine}\n")
    assert cite.main(["--bibtex", "-o", str(file)]) == 2
    assert file.read_text().endswith("@book{mine}\n") and "in the way" in capsys.readouterr().err


@pytest.mark.parametrize("bibtex", [[], ["--bibtex"]])
def test_a_sheet_of_an_earlier_version_is_replaced_and_an_edited_one_is_not(bibtex: list[str], tmp_path: Path) -> None:
    file = tmp_path / "METHODS.md"
    assert cite.main([*bibtex, "-o", str(file)]) == 0
    now = file.read_text()
    file.write_text(now.replace(autolmk.__version__, "0.0.9"))
    assert file.read_text() != now
    assert cite.main([*bibtex, "-o", str(file)]) == 0 and file.read_text() == now
    for edited in (f"{now}\nmy own words\n", f"# Paper\n\n{now}", now.replace("{isensee2021,", "{mine,")):
        file.write_text(edited)
        assert cite.main([*bibtex, "-o", str(file)]) == 2 and file.read_text() == edited


def test_an_evaluation_beside_the_users_own_truth_is_repeated(tmp_path: Path) -> None:
    for name in ("landmarks.csv", "truth.csv"):
        (tmp_path / name).write_text(POINTS)
    arguments = ["-i", str(tmp_path / "landmarks.csv"), "-t", str(tmp_path / "truth.csv"), "-o", str(tmp_path)]
    for _ in range(2):
        assert evaluate.main([*arguments, "--resamples", "100"]) == 0
    assert (tmp_path / "truth.csv").read_text() == POINTS


def test_an_evaluation_goes_where_the_user_links_its_folder(compared: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for _ in range(2):
        assert evaluate.main([*compared, "-o", str(tmp_path / "out")]) == 0
    assert {file.name for file in (tmp_path / "disk").iterdir()} == set(STRANGE)


def test_held_out_results_may_lie_beside_the_config_of_others(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    accumulate_crossval_results._require_own_place(tmp_path / "out")
    (tmp_path / "checkpoint_final.safetensors").touch()  # of a fold
    with pytest.raises(AutolmkError, match="trained fold"):
        accumulate_crossval_results._require_own_place(tmp_path / "out")


def test_only_a_report_is_replaced_by_a_report(tmp_path: Path) -> None:
    is_ours = begins_with("autolmk report</title>")
    file = tmp_path / "report.html"
    require_ours(file, is_ours, what="an earlier report")
    file.write_text("<html><title>Dataset001_X: autolmk report</title>")
    require_ours(file, is_ours, what="an earlier report")
    (tmp_path / "link.html").symlink_to(file)
    (tmp_path / "mine.html").write_text("<html>")
    os.mkfifo(tmp_path / "pipe.html")
    for name in ("link.html", "mine.html", "pipe.html"):
        with pytest.raises(AutolmkError, match="in the way"):
            require_ours(tmp_path / name, is_ours, what="an earlier report")
    assert report.require_ours is require_ours


@pytest.mark.parametrize("name", ["dataset", "Splits_final", "dataset_fingerprint", "nnUNetPlans"])
def test_plans_do_not_take_the_name_of_a_file_beside_them(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.json"
    file.write_text('{"configurations": {}}')
    with pytest.raises(AutolmkError, match="another file has that name"):
        plan_experiment._require_place(tmp_path, name)
    for content in ('{"planner": "heatmap"}', "{"):  # damaged plans may be planned anew
        (tmp_path / "mine.json").write_text(content)
        plan_experiment._require_place(tmp_path, "mine")


@pytest.mark.parametrize("name", ["held_out", "held_out/detections"])
def test_held_out_results_are_not_written_through_links(name: str, tmp_path: Path) -> None:
    """Detections of other cases are removed there: files of others would be."""
    precious = tmp_path / "precious"
    (precious / "detections").mkdir(parents=True)
    for place in (precious, precious / "detections"):
        (place / "mine.json").write_text("mine")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(precious)
    with pytest.raises(AutolmkError, match="a link is in the place"):
        write_held_out(tmp_path / "held_out", {}, {}, diagonals={}, pairs=[], unit="mm")
    assert sorted(file.name for file in precious.rglob("*")) == ["detections", "mine.json", "mine.json"]
