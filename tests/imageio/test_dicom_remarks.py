"""DICOM headers that contradict themselves: said, or refused, and what counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import PIXELS, series, write
from dicom_headers import Sequence
from pydicom.dataset import Dataset

from autolmk import imageio
from autolmk.errors import AutolmkError


def said(file: Path) -> list[tuple[str, str]]:
    with imageio.noticed() as notices:
        imageio.read_image([file])
    return [(n.problem, str(n.found)) for n in notices]


def region(size: float) -> Sequence:
    item = Dataset()
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX = item.PhysicalDeltaY = size
    return Sequence([item])


@pytest.mark.parametrize(
    ("tags", "problem", "found"),
    [
        ({"PixelAspectRatio": [2, 1]}, "two shapes", "PixelAspectRatio 2"),
        ({"SequenceOfUltrasoundRegions": region(0.01)}, "two sizes", "0.1 x 0.1"),
        ({"PresentationLUTShape": "INVERSE"}, "what is bright", "MONOCHROME2, PresentationLUTShape INVERSE"),
        ({"PixelIntensityRelationshipSign": 1}, "dense tissue is dark", "Sign 1"),
        ({"SliceThickness": -2}, "thickness below 0", "-2 mm"),
        (
            {"ImagerPixelSpacing": [0.5, 0.5], "EstimatedRadiographicMagnificationFactor": 1.5},
            "at the detector",
            "Factor 1.5",
        ),
        (
            {"ImagerPixelSpacing": [0.5, 0.5], "DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 1200},
            "at the detector",
            "1.5",
        ),
    ],
)
def test_what_contradicts_the_size_or_the_polarity_is_said(
    tags: dict[str, Any], problem: str, found: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.dcm", PixelSpacing=[0.5, 0.5], **tags)
    ((its_problem, its_found),) = said(file)
    assert problem in its_problem and found in its_found
    assert imageio.read_geometry(file).spacing == (1, 0.5, 0.5)
    assert imageio.read_geometry(file).orientation() == "LPS"


def test_agreeing_headers_are_read_in_silence(tmp_path: Path) -> None:
    tags = {"PixelAspectRatio": [1, 1], "SequenceOfUltrasoundRegions": region(0.05), "PresentationLUTShape": "IDENTITY"}
    tags |= {"ImagerPixelSpacing": [0.5, 0.5], "DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 1800}
    assert said(write(tmp_path / "a.dcm", PixelSpacing=[0.5, 0.5], PixelIntensityRelationshipSign=-1, **tags)) == []


@pytest.mark.parametrize(("distance", "notices"), [(2.0, 0), (-2.0, 0), (5.0, 1)])
def test_positions_count_and_another_distance_is_said(distance: float, notices: int, tmp_path: Path) -> None:
    folder = series(tmp_path / "case", SpacingBetweenSlices=distance)
    assert [problem for problem, _ in said(folder)] == [
        "the slices of a series lie at another distance than its header says"
    ] * notices
    assert imageio.read_geometry(folder).spacing == (2, 0.5, 0.5)


def test_slices_of_two_patients_are_said(tmp_path: Path) -> None:
    folder = series(tmp_path / "case", PatientID="one")
    place = {"ImagePositionPatient": [0, 0, 8.0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    write(folder / "IM9", PixelSpacing=[0.5, 0.5], PatientID="two", **place)
    assert said(folder) == [("the slices of a series disagree", "PatientID one, two")]


def test_a_slice_that_does_not_say_how_it_is_rescaled_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "case", RescaleSlope=1, RescaleIntercept=-1024)
    place = {"ImagePositionPatient": [0, 0, 8.0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    write(folder / "IM9", PixelSpacing=[0.5, 0.5], **place)
    with pytest.raises(AutolmkError, match="what their values mean") as caught:
        imageio.read_image([folder])
    assert "IM9" in str(caught.value.found) and "-1024" in str(caught.value.found)


def test_a_dose_is_scaled(tmp_path: Path) -> None:
    tags = {"NumberOfFrames": 3, "GridFrameOffsetVector": [0, 2, 4], "ImagePositionPatient": [0, 0, 0]}
    tags |= {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1], "DoseGridScaling": 0.25}
    stack = np.stack([PIXELS + k for k in range(3)])
    image = imageio.read_image([write(tmp_path / "a.dcm", stack, **tags)])
    np.testing.assert_array_equal(image.array[0], stack / 4)


def test_small_steps_do_not_add_up(tmp_path: Path) -> None:
    """Each distance lies within a hundredth of the median, but the slice in the middle 0.3 mm off an even grid."""
    folder, z = tmp_path / "case", np.cumsum([0, *([0.992] * 40), *([1.008] * 40)])
    for k, height in enumerate(np.round(z, 6).tolist()):
        place = {"ImagePositionPatient": [0, 0, height], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        write(folder / f"IM{k:02}", PixelSpacing=[0.5, 0.5], **place)
    with pytest.raises(AutolmkError, match="not evenly spaced") as caught:
        imageio.read_geometry(folder)
    assert "0.32 mm off" in str(caught.value.found)


def test_a_stack_that_leans_a_little_lies_where_it_says(tmp_path: Path) -> None:
    """Half a degree: its last slice, put onto the normal, would be 0.6 mm off."""
    folder = tmp_path / "case"
    for k in range(61):
        place = {"ImagePositionPatient": [0.01 * k, 0, 2.0 * k], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        write(folder / f"IM{k:02}", PixelSpacing=[0.5, 0.5], **place)
    np.testing.assert_allclose(imageio.read_geometry(folder).to_physical([60, 0, 0]), [0.6, 0, 120], atol=1e-9)


def test_slices_that_differ_by_less_than_a_tenth_of_a_voxel_are_alike(tmp_path: Path) -> None:
    for share, fits in ((0.001, True), (0.03, False)):  # of an image of 5 columns
        folder = series(tmp_path / f"{share}")
        place = {"ImagePositionPatient": [0, 0, 8.0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        write(folder / "IM9", PixelSpacing=[0.5, 0.5 * (1 + share)], **place)
        if fits:
            assert imageio.read_geometry(folder).shape == (5, 4, 5)
        else:
            with pytest.raises(AutolmkError, match="differ in size"):
                imageio.read_geometry(folder)
