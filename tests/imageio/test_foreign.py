"""Formats that are not read: named, with the way to convert them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autolmk import imageio
from autolmk.dataset import Dataset
from autolmk.errors import AutolmkError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.img", "nibabel"), ("a.HDR", "nibabel"), ("a.mgz", "mri_convert"), ("a.mnc", "mnc2nii"),
        ("a.isq", "SlicerMorph"), ("a.am", "Amira"), ("a.raw", "ElementDataFile"), ("a.czi", "Bio-Formats"),
        ("a.heic", "PNG or TIFF"), ("a.npy", "direction"), ("a.gipl.gz", "3D Slicer"),
    ],
)  # fmt: skip
def test_a_format_that_is_not_read_comes_with_its_conversion(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\1\2\3\4" * 40)
    with pytest.raises(AutolmkError, match="not known") as caught:
        imageio.read_geometry(tmp_path / name)
    assert words in str(caught.value.remedy)
    assert words in str(imageio.conversion(["notes.txt", name])) and name in str(imageio.conversion([name]))


def test_what_is_unknown_gets_no_advice() -> None:
    assert imageio.conversion(["a.txt", "b.nii.gz", "hdr", "c.dcm"]) is None


def test_a_dataset_of_pairs_says_how_to_convert_them_and_the_way_works(tmp_path: Path) -> None:
    affine = np.array([[-1.0, 0, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    pair = nib.Spm99AnalyzeImage(np.arange(24, dtype=np.int16).reshape(4, 3, 2), affine)
    folder = tmp_path / "Dataset001_Pairs" / "imagesTr"
    folder.mkdir(parents=True)
    nib.save(pair, folder / "CASE.img")
    (folder.parent / "dataset.json").write_text("{}")
    with pytest.raises(AutolmkError, match="no training images") as caught:
        _ = Dataset.open(folder.parent).landmark_names
    assert "nibabel.save" in str(caught.value.remedy)
    nib.save(nib.load(folder / "CASE.img"), folder / "CASE.nii.gz")
    image = imageio.read_image([folder / "CASE.nii.gz"])
    np.testing.assert_array_equal(image.array[0], np.arange(24).reshape(4, 3, 2).T)
    np.testing.assert_allclose(image.geometry.to_physical([0, 0, 0]), [-5, -6, 7])
