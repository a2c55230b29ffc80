"""A model folder that an earlier version left predicts what it predicted then.

The folder was trained on the 2D phantom (8 cases, 48 pixels, preset XS, one epoch of `global_to_local`) before modules
were moved in November 2026; landmarks.csv is what that version predicted of the images beside it.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from autolmk.cli import predict

FOLDER = Path(__file__).parent / "model_of_2026_11"


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_it_predicts_what_it_predicted_then(tmp_path: Path) -> None:
    """To a thousandth of a pixel: processors sum in different orders."""
    found = tmp_path / "found"
    model, images = str(FOLDER / "model"), str(FOLDER / "images")
    assert predict.main(["-i", images, "-o", str(found), "-m", model, "-f", "0", "--device", "cpu"]) in (0, None)
    then, now = rows(FOLDER / "landmarks.csv"), rows(found / "landmarks.csv")
    assert [(row["case"], row["landmark"], row["status"]) for row in now] == [
        (row["case"], row["landmark"], row["status"]) for row in then
    ]
    for key, tolerance in (("x", 1e-3), ("y", 1e-3), ("log_odds", 1e-3), ("likelihood", 1e-4)):
        values = [np.array([float(row[key] or "nan") for row in table]) for table in (now, then)]
        assert values[0] == pytest.approx(values[1], abs=tolerance, nan_ok=True), key
