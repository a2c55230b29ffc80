"""Raw images and points in, landmarks out: the commands that a user types, on a small phantom."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autolmk import annotations
from autolmk.phantom import POINTS, write_phantom

NAME = "Dataset001_Phantom"


def command(name: str, *arguments: str, place: Path, code: int = 0) -> str:
    """Run an installed command and return what it printed."""
    done = subprocess.run(
        [Path(sys.executable).parent / f"autolmk_{name}", *arguments],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(place),
            "autolmk_raw": str(place / "raw"),
            "autolmk_preprocessed": str(place / "preprocessed"),
            "autolmk_results": str(place / "results"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, f"{name}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("ndim", "size"), [(3, 32), (2, 48)])
def test_phantom_from_raw_to_evaluation(ndim: int, size: int, tmp_path: Path) -> None:
    raw = tmp_path / "raw" / NAME
    write_phantom(raw, n_train=8, n_test=2, ndim=ndim, size=size)
    command("check", "-d", "1", place=tmp_path)
    command("plan_and_preprocess", "-d", "1", "--preset", "XS", place=tmp_path)
    plans = json.loads((tmp_path / "preprocessed" / NAME / "autolmkPlans.json").read_text())
    assert plans["landmarks"] == list(POINTS[ndim]) and plans["unit"] == ("mm" if ndim == 3 else "px")
    command("train", "1", "0", "--max-time", "12s", "--workers", "0", "--threads", "1", place=tmp_path)
    (model,) = (tmp_path / "results" / NAME).iterdir()
    assert (model / "fold_0" / "checkpoint_final.safetensors").is_file()
    predictions = tmp_path / "predictions"
    command("predict", "-i", str(raw / "imagesTs"), "-o", str(predictions), "-d", "1", place=tmp_path)
    table = annotations.read_table(predictions / "landmarks.csv")
    assert sorted(table) == ["phantom_008", "phantom_009"]
    for case, listed in table.items():
        single = annotations.read(predictions / f"{case}.mrk.json")
        assert set(single.names) == set(listed.names) == set(POINTS[ndim])
    said = command("evaluate", "-p", str(predictions), "-d", "1", place=tmp_path)
    assert "MRE" in said and ("mm" if ndim == 3 else "px") in said


@pytest.mark.long
def test_demo_reaches_its_bounds(tmp_path: Path) -> None:
    """What `make demo` runs; its exit code says whether errors and presence are as good as promised."""
    said = command("demo", "--folder", str(tmp_path / "demo"), place=tmp_path)
    assert said.count("reached") == 3
