"""autolmk_predict --progress json: every line is JSON of a known form, and nothing else is on standard output."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from autolmk.cli.json_progress import VERSION
from autolmk.cli.predict import main

SHARED = runpy.run_path(str(Path(__file__).parent / "test_cli_predict.py"))
make_model, make_images = SHARED["make_model"], SHARED["make_images"]

FIELDS = {  # of each event, always all of them
    "started": {"version", "autolmk", "device", "output", "cases", "total"},
    "case": {"case", "ended", "total"},
    "stage": {"case", "ended", "total", "stage"},
    "warning": {"case", "ended", "total", "message"},
    "done": {"case", "ended", "total", "file"},
    "failed": {"case", "ended", "total", "problem", "file", "found", "expected", "remedy", "message"},
    "finished": {"total", "failed", "output", "points", "tables"},
}


def events(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and what was said on standard output."""
    code = main([*map(str, arguments), "-device", "cpu", "--trust-code", "--progress", "json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line in lines:
        alone = {"ended", "total"} if line["event"] == "failed" and line["case"] is None else set()
        assert set(line) == {"event"} | FIELDS[line["event"]] - alone
    return code, lines


def of(lines: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == event]


def test_three_cases_of_which_one_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    make_images(images, 3)
    damaged = images / "case01_0000.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    code, lines = events(capsys, "-i", images, "-o", out, "-m", model)
    assert code == 3
    assert lines[0]["event"] == "started" and lines[-1]["event"] == "finished"
    assert lines[0]["cases"] == ["case00", "case01", "case02"] and lines[0]["version"] == VERSION
    assert [line["case"] for line in of(lines, "case")] == ["case00", "case01", "case02"]
    for case in ("case00", "case02"):
        assert [line["stage"] for line in of(lines, "stage") if line["case"] == case] == ["predict", "write"]
    assert sorted(line["case"] for line in of(lines, "done")) == ["case00", "case02"]
    assert sorted(line["ended"] for line in lines if line["event"] in ("done", "failed")) == [1, 2, 3]
    (failed,) = of(lines, "failed")
    assert failed["case"] == "case01" and failed["file"] == str(damaged) and failed["problem"] in failed["message"]
    finished = lines[-1]
    assert (finished["total"], finished["failed"]) == (3, 1)
    assert set(finished["points"]) == {"case00", "case02"}
    assert {"landmarks.csv", "run.json", "failures.json"} <= set(finished["tables"])
    for file in (*finished["points"].values(), *finished["tables"].values(), *(d["file"] for d in of(lines, "done"))):
        assert Path(file).is_absolute() and Path(file).is_file()


def test_an_error_before_the_first_case_is_a_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    code, lines = events(capsys, "-i", tmp_path, "-o", tmp_path / "out", "-m", tmp_path / "empty")
    assert code == 2 and [line["event"] for line in lines] == ["failed"]
    assert lines[0]["case"] is None and lines[0]["file"] == str(tmp_path / "empty") and lines[0]["remedy"]


def test_a_continued_run_counts_what_is_left_and_lists_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, images, out = make_model(tmp_path), tmp_path / "images", tmp_path / "out"
    make_images(images, 1)
    assert events(capsys, "-i", images, "-o", out, "-m", model)[0] == 0
    make_images(images, 2)  # the first one is written again, so it is another file
    code, lines = events(capsys, "-i", images, "-o", out, "-m", model, "--continue_prediction")
    assert code == 0 and lines[0]["total"] == 2 and set(lines[-1]["points"]) == {"case00", "case01"}
    code, lines = events(capsys, "-i", images, "-o", out, "-m", model, "--continue_prediction")
    assert [line["event"] for line in lines] == ["started", "finished"] and len(lines[-1]["points"]) == 2


def test_a_name_that_would_steer_a_terminal_stays_in_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, images = make_model(tmp_path), tmp_path / "im\x1b[2Jages\u2028"
    make_images(images, 1)
    what = ("-i", images, "-o", images / "out", "-m", model)
    code = main([*map(str, what), "-device", "cpu", "--trust-code", "--progress", "json"])
    said = capsys.readouterr().out
    assert code == 0 and said.isascii() and "\x1b" not in said
    assert json.loads(said.splitlines()[-1])["output"] == str(images / "out")
