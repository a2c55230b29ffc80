"""benchmarks/gpu.py on the CPU: a line a result, nothing twice, and what was not run is named."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
SMALL = (
    *("--device", "cpu", "--presets", "XS", "--methods", "heatmap", "--landmarks", "3", "--repeats", "1"),
    *("--warm", "0", "--cases", "4", "--phantom", "24", "--image", "24", "--patch", "12", "--width", "8"),
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_every_part_says_what_it_measured_and_goes_on_where_it_ended(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = ("environment", "plans", "layout", "step", "parity", "predict")
    arguments = [*SMALL, "--folder", str(tmp_path), "--parts", *parts]
    assert script.main(arguments) == 0
    *found, end = lines(capsys.readouterr().out)
    assert {one["part"] for one in found} == set(parts) and not any("failed" in one for one in found)
    values = {str(one["part"]): one for one in found}
    step = values["step"]
    assert float(str(step["step_over_bare"])) > 0.5 and float(str(step["planned_gib"])) > 0
    assert values["parity"]["voxels_apart_at_most"] == 0.0 and values["predict"]["shape"] == [24, 24, 24]
    assert {one["which"] for one in found if one["part"] == "layout"} == {"instance norm", "group norm", "groups"}
    assert end["not_run"] == [] and end["parts_left_out"] == ["train", "data"]
    assert script.main(arguments) == 0
    assert [one["part"] for one in lines(capsys.readouterr().out)] == ["end"]


def test_a_part_that_fails_stops_no_other_and_is_tried_again(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(bench: object, kind: str) -> dict[str, object]:
        raise RuntimeError("no such kernel")

    arguments = [*SMALL, "--folder", str(tmp_path), "--parts", "environment", "layout"]
    with monkeypatch.context() as patched:
        patched.setattr(script, "layout", broken)
        assert script.main(arguments) == 1
    *found, _ = lines(capsys.readouterr().out)
    assert [one.get("failed") for one in found] == [None] + 3 * ["RuntimeError: no such kernel"]
    assert script.main(arguments) == 0
    *found, _ = lines(capsys.readouterr().out)
    assert [one["part"] for one in found] == 3 * ["layout"]


def test_what_there_is_no_time_for_is_named(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--folder", str(tmp_path), "--seconds", "1e-9", "--parts", "environment", "layout", "predict"]
    assert script.main(arguments) == 0
    (end,) = lines(capsys.readouterr().out)
    named = ["environment: cpu", *(f"layout: {k}" for k in ("instance norm", "group norm", "groups"))]
    assert end["not_run"][:5] == [*named, "predict: a large CT"]  # type: ignore[index]
