"""The runner's reading of NIfTI headers is nibabel's and autolmk's."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from autolmk.errors import AutolmkError
from autolmk.export_onnx.nifti_grid import grid_of
from autolmk.imageio import read_geometry


def an_affine() -> np.ndarray:
    """Turned by 0.2 radians, voxels of 1.1 x 0.9 x 2.5 mm, the first axis reversed."""
    c, s = np.cos(0.2), np.sin(0.2)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn * [-1.1, 0.9, 2.5]
    affine[:3, 3] = (10, -20, 5)
    return affine


def written(file: Path, sform: int, qform: int, shape: tuple[int, ...] = (5, 6, 7), big: bool = False) -> Path:
    image = nibabel.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), an_affine())
    image.set_sform(an_affine(), sform)
    image.set_qform(an_affine(), qform)
    if big:
        swapped = image.header.as_byteswapped(">")
        image = nibabel.Nifti1Image(np.asarray(image.dataobj).astype(">i2"), None, swapped)
    nibabel.save(image, file)
    return file


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    "sform, qform, big", [(1, 0, False), (0, 1, False), (2, 1, False), (0, 0, False), (1, 1, True)]
)
def test_the_grid_is_that_which_autolmk_reads(tmp_path: Path, name: str, sform: int, qform: int, big: bool) -> None:
    file = written(tmp_path / name, sform, qform, big=big)
    found, expected = grid_of(file, (5, 6, 7), None), read_geometry(file)
    assert found.shape == expected.shape == (7, 6, 5)
    np.testing.assert_array_equal(found.affine, expected.affine)


def test_a_header_that_contradicts_itself_is_refused_unless_one_form_is_chosen(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((5, 6, 7), dtype=np.int16), an_affine())
    image.set_sform(an_affine() + np.pad([[9.0]], ((0, 3), (3, 0))), 1)
    image.set_qform(an_affine(), 1)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(AutolmkError, match="contradicts itself"):
        grid_of(tmp_path / "a.nii", (5, 6, 7), None)
    for form in ("sform", "qform"):
        expected = read_geometry(tmp_path / "a.nii", nifti_affine=form)
        np.testing.assert_array_equal(grid_of(tmp_path / "a.nii", (5, 6, 7), form).affine, expected.affine)


def test_other_headers_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(np.zeros((5, 6, 7), dtype=np.int16), np.eye(4)), tmp_path / "two.nii")
    (tmp_path / "short.nii").write_bytes(b"short")
    for name in ("two.nii", "short.nii"):
        with pytest.raises(AutolmkError, match="no NIfTI-1 header"):
            grid_of(tmp_path / name, (5, 6, 7), None)
