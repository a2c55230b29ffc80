"""Frames without functional groups lie where their file puts them, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import PIXELS, write

from autolmk import imageio
from autolmk.errors import AutolmkError

FRAMES = np.stack([PIXELS + k for k in range(3)])
PLACE = {"ImagePositionPatient": [1, 2, 40], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [0.3, 0.3]}


@pytest.mark.parametrize(
    ("tags", "z", "said"),
    [
        ({"SpacingBetweenSlices": 0.25, "SliceThickness": 0.4}, [40, 40.25, 40.5], 1),
        ({"SliceLocationVector": [7.0, 5.5, 4.0]}, [37, 38.5, 40], 0),
    ],
)
def test_frames_of_a_cone_beam_scan_are_a_volume(
    tags: dict[str, Any], z: list[float], said: int, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.dcm", FRAMES, NumberOfFrames=3, **PLACE, **tags)
    with imageio.noticed() as notices:
        image = imageio.read_image([file])
    for k, at in enumerate(z):
        np.testing.assert_allclose(image.geometry.to_physical([k, 0, 0]), [1, 2, at], atol=1e-9)
    down = "SliceLocationVector" in tags
    np.testing.assert_array_equal(image.array[0], FRAMES[::-1] if down else FRAMES)
    assert len([n for n in notices if "distance alone" in n.problem]) == said


@pytest.mark.parametrize("tags", [{"FrameTime": 66.7}, {"CineRate": 15}, {"SpacingBetweenSlices": -0.25}])
def test_frames_in_time_and_distances_below_0_are_refused(tags: dict[str, Any], tmp_path: Path) -> None:
    file = write(tmp_path / "a.dcm", FRAMES, NumberOfFrames=3, **{"SpacingBetweenSlices": 0.25, **PLACE, **tags})
    with imageio.noticed(), pytest.raises(AutolmkError, match="do not say where they are"):
        imageio.read_image([file])
