"""DICOM series whose headers are rounded, or hold nonsense in tags that are only compared: sound, and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import PIXELS, series, write

from autolmk import imageio
from autolmk.errors import AutolmkError


def stacked(folder: Path, places: list[list[float]], **tags: Any) -> Path:
    for k, place in enumerate(places):
        orientation = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [0.5, 0.5]}
        write(folder / f"IM{k:02}", PIXELS + k, **{"ImagePositionPatient": place, **orientation, **tags})
    return folder


@pytest.mark.parametrize(("distance", "decimals"), [(0.625, 1), (0.625, 2), (1.25, 1), (3.27, 1), (4.4, 0)])
def test_rounded_positions_are_evenly_spaced(distance: float, decimals: int, tmp_path: Path) -> None:
    places = [[-249.51171875, 3.2, round(-50 + distance * k, decimals)] for k in range(30)]
    found = imageio.read_geometry(stacked(tmp_path / "a", places)).spacing[0]
    assert found == pytest.approx(distance, abs=10**-decimals / 29 + 1e-9)
    for left_out in (1, 15, 28):
        gap = [place for k, place in enumerate(places) if k != left_out]
        with pytest.raises(AutolmkError, match="not evenly spaced"):
            imageio.read_geometry(stacked(tmp_path / f"gap{left_out}", gap))


def test_rounded_positions_of_oblique_slices_lie_along_their_normal(tmp_path: Path) -> None:
    places = [(np.array([0, -0.5, 0.8660254]) * 3.3 * k).round(1).tolist() for k in range(20)]
    folder = stacked(tmp_path / "a", places, ImageOrientationPatient=[1, 0, 0, 0, 0.8660254, 0.5])
    geometry = imageio.read_geometry(folder)
    assert geometry.spacing[0] == pytest.approx(3.3, abs=0.006)
    assert np.abs(geometry.direction.T @ geometry.direction - np.eye(3)).max() < 1e-9


@pytest.mark.parametrize("cosine", ["0.707", "0.71"])
def test_rounded_directions_are_at_right_angles(cosine: str, tmp_path: Path) -> None:
    folder = series(tmp_path / "a", ImageOrientationPatient=[cosine, cosine, "0", f"-{cosine}", cosine, "0"])
    direction = imageio.read_geometry(folder).direction
    assert np.abs(direction.T @ direction - np.eye(3)).max() < 1e-9


@pytest.mark.parametrize(
    "tags",
    [
        {"SpacingBetweenSlices": "2"},
        {"SpacingBetweenSlices": [1, 1]},
        {"ImagerPixelSpacing": [0.5, 0.5], "EstimatedRadiographicMagnificationFactor": [1, 1]},
        {"PixelAspectRatio": [0, 0]},
    ],
)
def test_what_is_only_compared_refuses_nothing(tags: dict[str, Any], tmp_path: Path) -> None:
    with imageio.noticed() as notices:
        assert imageio.read_geometry(series(tmp_path / "a", **tags)).spacing == (2.0, 0.5, 0.5)
    assert notices == []


def test_a_slope_of_0_is_said_and_taken_for_1(tmp_path: Path) -> None:
    with imageio.noticed() as notices:
        image = imageio.read_image([write(tmp_path / "a.dcm", RescaleSlope=0, RescaleIntercept=-24)])
    np.testing.assert_array_equal(image.array[0, 0], PIXELS.astype(int) - 24)
    assert [n.found for n in notices] == ["RescaleSlope 0"]


def test_slices_that_leave_a_tag_empty_do_not_disagree(tmp_path: Path) -> None:
    folder = series(tmp_path / "a", RescaleType="HU")
    write(
        folder / "IM9",
        RescaleType="",
        PixelSpacing=[0.5, 0.5],
        ImagePositionPatient=[0, 0, 8.0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
    )
    with imageio.noticed() as notices:
        imageio.read_geometry(folder)
    assert notices == []
