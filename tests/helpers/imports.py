"""Sources of pictures for autolmk_import, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autolmk.cli.import_ import main
from autolmk.dataset import Dataset
from autolmk.geometry import FloatArray

WIDTH, HEIGHT = 40, 30


def picture(file: Path, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
    return file


def pictures(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        picture(folder / name, seed)
    return folder


def voxels(target: Path, split: str = "Tr") -> dict[str, FloatArray]:
    """case -> (n, 2) x, y, NaN where no point is present, as the dataset is read for training."""
    dataset = Dataset.open(target)
    result = {}
    for case in dataset.cases("Tr" if split == "Tr" else "Ts"):
        geometry = dataset.read_image(case).geometry
        result[case.identifier] = geometry.to_voxels(dataset.read_landmarks(case, geometry).points)[:, ::-1]
    return result


def imported(tmp_path: Path, form: str, source: Path, *options: str) -> dict[str, FloatArray]:
    target = tmp_path / "raw" / "Dataset001_X"
    assert main(["--format", form, str(source), "-o", str(target), *options]) in (0, 3)
    assert (target / "import_preview.png").read_bytes()[:4] == b"\x89PNG"
    assert {p.name for p in target.parent.iterdir()} == {"Dataset001_X"}
    return voxels(target)


def refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, source: Path, *options: str, message: Sequence[str]
) -> None:
    target = tmp_path / "raw" / "Dataset001_X"
    assert main(["--format", form, str(source), "-o", str(target), *options]) == 2
    errors = capsys.readouterr().err
    assert all(text in errors for text in message), errors
    assert not target.parent.exists() or not list(target.parent.iterdir())


def same(found: dict[str, FloatArray], **expected: Sequence[Sequence[float]]) -> None:
    assert sorted(found) == sorted(expected)
    for case, points in expected.items():
        np.testing.assert_allclose(found[case], np.array(points), atol=1e-6)
