"""NIfTI headers: positions to 1e-6 mm, or a refusal that says both readings; nibabel's images by the same rule."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nifti_headers import check, headers

from autolmk import imageio
from autolmk.check import check_dataset
from autolmk.dataset import Dataset
from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.nifti_header import ras_affine

ARRAY = np.random.default_rng(0).normal(size=(12, 14, 10)).astype(np.float32)


def two_forms(file: Path, shift: float = 5.0) -> nib.Nifti1Image:
    """As SPM's coregister leaves it: the scanner's qform, an aligned sform `shift` mm further along x."""
    qform = np.diag([1.0, 2, 3, 1])
    qform[:3, 3] = [-10, -20, -30]
    sform = qform.copy()
    sform[0, 3] += shift
    image = nib.Nifti1Image(ARRAY, None)
    image.header.set_zooms((1, 2, 3))
    image.set_qform(qform, 1)
    image.set_sform(sform, 2)
    nib.save(image, file)
    return image


def test_generated_headers_are_read_exactly_or_refused_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = [check(header, tmp_path / f"a{header.ending}") for header in headers(1, 300)]
    reasons = {"qform and sform", "sform and pixdim", "sheared", "no unit", "without a size"}
    assert found.count("read") > 150 and reasons <= set(found)


def test_two_forms_that_disagree_are_both_stated(tmp_path: Path) -> None:
    file = tmp_path / "a.nii.gz"
    image = two_forms(file)
    with pytest.raises(AutolmkError, match="5 mm apart") as caught:
        imageio.read_geometry(file)
    found = str(caught.value.found)
    assert "[-10.0, -20.0, -30.0]" in found and "[-5.0, -20.0, -30.0]" in found
    assert "nifti_affine" in str(caught.value.remedy)
    with pytest.raises(ValueError, match="5 mm apart"):
        Geometry.from_nibabel(image)


@pytest.mark.parametrize(("form", "x"), [("sform", 5.0), ("qform", 10.0)])
def test_a_form_can_be_chosen(form: str, x: float, tmp_path: Path) -> None:
    file = tmp_path / "a.nii.gz"
    image = two_forms(file)
    geometry = imageio.read_geometry(file, nifti_affine=form)  # type: ignore[arg-type]
    np.testing.assert_allclose(geometry.origin, [x, 20, -30])
    assert geometry.is_close(Geometry.from_nibabel(image, form=form))  # type: ignore[arg-type]


def test_dataset_json_chooses_for_all_commands(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset001_Brain"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "landmarksTr").mkdir()
    rows = ["case,landmark,x,y,z"]
    for i in range(4):
        two_forms(folder / "imagesTr" / f"c{i}.nii.gz", 5.0 + i)
        rows += [f"c{i},A,4,5,{3 + i}", f"c{i},B,8,9,6"]
    (folder / "landmarksTr" / "landmarks.csv").write_text("\n".join(rows) + "\n")
    described = {"coordinates": "voxel", "channel_names": {"0": "MR"}, "landmarks": {"A": {}, "B": {}}}
    (folder / "dataset.json").write_text(json.dumps(described))
    report = check_dataset(folder, workers=0, progress=False)
    assert report.bad_cases == ("c0", "c1", "c2", "c3") and "up to 5 mm apart" in report.text()
    (folder / "dataset.json").write_text(json.dumps({**described, "nifti_affine": "qform"}))
    report = check_dataset(folder, workers=0, progress=False)
    assert len(report.good_cases) == 4
    dataset = Dataset.open(folder)
    assert {dataset.read_image(case).geometry.origin[0] for case in dataset.cases()} == {10.0}


def test_what_says_nothing_of_the_room_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nib.Nifti1Image(ARRAY, None)
    image.header.set_zooms((1, 2, 3))
    nib.save(image, tmp_path / "a.nii.gz")
    with imageio.noticed() as notices:
        geometry = imageio.read_geometry(tmp_path / "a.nii.gz")
    assert [n.problem for n in notices] == ["an image does not say how it lies in the room"]
    assert geometry.spacing == (3, 2, 1) and geometry.origin.tolist() == [0, 0, 0]
    with caplog.at_level(logging.WARNING, "autolmk"):
        other = Geometry.from_nibabel(nib.load(tmp_path / "a.nii.gz"))
    assert other.is_close(geometry) and "how it lies in the room" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"/annex/objects/MD5E-s152998--c8d2672a467cd80deff39c4daddcd616.nii.gz\n", "pointer"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "pointer"),
        (b"<!DOCTYPE html><html></html>", "no NIfTI image"),
        (b"", "truncated"),
        (b"\x1f\x8b\x08\x00", "truncated"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(AutolmkError, match=message):
        imageio.read_image([tmp_path / "a.nii.gz"])


def test_names_need_not_say_whether_a_file_is_packed(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(ARRAY, np.eye(4)), tmp_path / "plain.nii")
    data = (tmp_path / "plain.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(data)
    (tmp_path / "b.nii").write_bytes(gzip.compress(data))
    for name in ("a.nii.gz", "b.nii"):
        np.testing.assert_array_equal(imageio.read_image([tmp_path / name]).array[0], ARRAY.T)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-40])
        with pytest.raises(AutolmkError, match="truncated"):
            imageio.read_image([tmp_path / name])


def test_components_time_and_colours(tmp_path: Path) -> None:
    vector = np.random.default_rng(1).normal(size=(4, 5, 6, 1, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(vector, np.eye(4)), tmp_path / "vector.nii")
    np.testing.assert_array_equal(imageio.read_image([tmp_path / "vector.nii"]).array[1], vector[..., 0, 1].T)
    nib.save(nib.Nifti1Image(vector[..., 0, 0][..., None], np.eye(4)), tmp_path / "once.nii")
    assert imageio.read_image([tmp_path / "once.nii"]).array.shape == (1, 6, 5, 4)
    nib.save(nib.Nifti1Image(vector[..., 0, :], np.eye(4)), tmp_path / "twice.nii")
    with pytest.raises(AutolmkError, match="too many axes"):
        imageio.read_geometry(tmp_path / "twice.nii")
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"] = np.arange(120).reshape(4, 5, 6)
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii")
    np.testing.assert_array_equal(imageio.read_image([tmp_path / "rgb.nii"]).array[1], colours["G"].T)


def test_itk_reads_the_same_where_it_can(tmp_path: Path) -> None:
    import SimpleITK as sitk

    affine = np.array([[0.0, -0.5, 0.1, 7], [0.6, 0.0, 0.0, -3], [0.0, 0.1, 0.9, 2], [0, 0, 0, 1]])
    affine[:3, :3] = np.linalg.qr(affine[:3, :3])[0] * [0.6, 0.5, 0.9]
    nib.save(nib.Nifti1Image(ARRAY, affine), tmp_path / "a.nii.gz")
    image = imageio.read_image([tmp_path / "a.nii.gz"])
    itk = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert image.geometry.is_close(Geometry.from_sitk(itk), 1e-4)
    np.testing.assert_array_equal(image.array[0], sitk.GetArrayFromImage(itk))


def test_an_infinite_slope_and_a_wrong_checksum_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(ARRAY, np.eye(4)), tmp_path / "plain.nii")
    data = bytearray((tmp_path / "plain.nii").read_bytes())
    data[112:116] = np.float32(np.inf).tobytes()
    (tmp_path / "plain.nii").write_bytes(data)
    with pytest.raises(AutolmkError, match="scl_slope inf"):
        imageio.read_image([tmp_path / "plain.nii"])
    nib.save(nib.Nifti1Image(ARRAY, np.eye(4)), tmp_path / "a.nii.gz")
    packed = bytearray((tmp_path / "a.nii.gz").read_bytes())
    packed[-6] ^= 1  # of the checksum
    (tmp_path / "a.nii.gz").write_bytes(packed)
    with pytest.raises(AutolmkError, match="truncated"):
        imageio.read_image([tmp_path / "a.nii.gz"])


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_voxels_beyond_the_header_are_said(ending: str, tmp_path: Path) -> None:
    data = nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes() + ARRAY.tobytes()
    file = tmp_path / f"a{ending}"
    file.write_bytes(gzip.compress(data) if ending == ".nii.gz" else data)
    with imageio.noticed() as notices:
        imageio.read_image([file])
    assert [(n.problem, n.found) for n in notices] == [
        ("a file holds more voxels than its header says", f"{len(data)} bytes")
    ]


def test_colours_are_not_scaled_and_their_opacity_is_said(tmp_path: Path) -> None:
    colours = np.zeros((4, 3, 2), [(c, "u1") for c in "RGBA"])
    colours["G"], colours["A"] = 7, 100
    image = nib.Nifti1Image(colours, np.eye(4))
    data = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    header["scl_slope"], header["scl_inter"] = 2, 1
    (tmp_path / "a.nii").write_bytes(header.binaryblock + data[348:])
    with imageio.noticed() as notices:
        array = imageio.read_image([tmp_path / "a.nii"]).array
    assert array[:, 0, 0, 0].tolist() == [0, 7, 0] and array.shape[0] == 3
    assert [n.problem for n in notices] == ["an image is transparent in places; its opacity is dropped"]


def test_voxels_do_not_begin_within_the_header(tmp_path: Path) -> None:
    data = bytearray(nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes())
    data[108:112] = np.float32(348).tobytes()
    (tmp_path / "a.nii").write_bytes(data)
    with pytest.raises(AutolmkError, match="vox_offset 348"):
        imageio.read_geometry(tmp_path / "a.nii")


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2), (4, 3, 2, 1), (4, 3, 2, 1, 1)])
def test_nibabels_images_have_the_files_geometry_whatever_their_axes(shape: tuple[int, ...], tmp_path: Path) -> None:
    affine = np.array([[0, -2.0, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.zeros(shape, np.float32), affine)
    nib.save(image, tmp_path / "a.nii")
    read, own = imageio.read_geometry(tmp_path / "a.nii"), Geometry.from_nibabel(image)
    assert own.shape == read.shape and np.abs(own.affine - read.affine).max() <= 1e-6
    with pytest.raises(ValueError, match="2 or 3 axes"):
        Geometry.from_nibabel(nib.Nifti1Image(np.zeros((4, 3, 2, 5), np.float32), affine))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-20], id="cut"),
        pytest.param(lambda data: data[:-8] + b"\1\2\3\4" + data[-4:], id="another checksum"),
        pytest.param(lambda data: data[:400] + bytes(n ^ 0xFF for n in data[400:440]) + data[440:], id="other bytes"),
    ],
)
def test_a_damaged_gzip_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "damaged.nii.gz"
    nib.save(nib.Nifti1Image(ARRAY, np.eye(4)), file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(AutolmkError, match=r"damaged\.nii\.gz"):
        imageio.read_image([file])


def test_a_gzip_file_of_two_members_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "two.nii.gz"
    nib.save(nib.Nifti1Image(ARRAY, np.eye(4)), tmp_path / "one.nii")
    content = (tmp_path / "one.nii").read_bytes()
    file.write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
    assert np.array_equal(imageio.read_image([file]).array[0], ARRAY.transpose(2, 1, 0))


@pytest.mark.parametrize("size", [256, 512])
def test_slices_tilted_about_one_axis_are_no_contradiction_where_float32_rounds_a_half_turn(size: int) -> None:
    turned, sizes = 0, (0.9, 0.9, 1.2)
    for tilt in np.linspace(-0.6, 0.6, 100):
        affine = np.eye(4)
        x = [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
        affine[:3, :3] = np.diag([-1.0, 1, 1]) @ x * sizes
        header = nib.Nifti1Header()
        header.set_data_shape((size, size, 64))
        header.set_zooms(sizes)
        header.set_sform(affine, 1)
        header.set_qform(affine, 1)
        read, remarks = ras_affine(header)
        assert np.abs(read - affine).max() < 1e-5 and remarks == []
        b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
        turned += abs(b * b + c * c + d * d - 1) < 1e-6
        header.set_qform(affine + np.diag([0.02, 0, 0, 0]), 1)  # wider voxels, as an edited header has
        with pytest.raises(ValueError, match="qform"):
            ras_affine(header)
    assert turned == 100


def test_sizes_rounded_to_three_decimals_are_those_of_the_sform() -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((512, 512, 40))
    header.set_sform(np.diag([0.48828, 0.48828, 3, 1]), 1)
    header.set_zooms((0.488, 0.488, 3))
    assert ras_affine(header)[0][0, 0] == pytest.approx(0.48828)
    header.set_zooms((0.48, 0.48, 3))
    with pytest.raises(ValueError, match="sform and pixdim"):
        ras_affine(header)


def test_headers_that_say_no_offset_or_another_bitpix_are_read_as_by_nibabel(tmp_path: Path) -> None:
    for place, content, said in ((108, np.float32(0), []), (72, np.int16(8), ["datatype 16, 8 bits"])):
        data = bytearray(nib.Nifti1Image(ARRAY.astype(np.float32), np.eye(4)).to_bytes())
        data[place : place + content.nbytes] = content.tobytes()
        (tmp_path / "a.nii").write_bytes(data)
        with imageio.noticed() as notices:
            image = imageio.read_image([tmp_path / "a.nii"])
        np.testing.assert_array_equal(image.array[0], ARRAY.astype(np.float32).T)
        assert [n.found for n in notices if "two sizes" in n.problem] == said


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_pairs_of_header_and_voxels_are_read_as_single_files_are(kind: Any, tmp_path: Path) -> None:
    affine = np.array([[0, -2.0, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    pair = kind(np.arange(24, dtype=np.int16).reshape(4, 3, 2), affine)
    pair.header.set_slope_inter(0.5, 1)
    nib.save(pair, tmp_path / "CASE.img")
    nib.save(nib.Nifti1Image(nib.load(tmp_path / "CASE.img").get_fdata(), affine), tmp_path / "single.nii.gz")
    image, single = (imageio.read_image([tmp_path / name]) for name in ("CASE.hdr", "single.nii.gz"))
    np.testing.assert_array_equal(image.array, single.array)
    assert image.geometry.is_close(single.geometry)
    (tmp_path / "single.nii.gz").unlink()
    assert imageio.list_cases(tmp_path) == {"CASE": (tmp_path / "CASE.hdr",)}
    assert imageio.data_files(tmp_path / "CASE.hdr") == [tmp_path / "CASE.img"]
    (tmp_path / "CASE.img").write_bytes(b"short")
    with pytest.raises(AutolmkError, match="truncated"):
        imageio.read_image([tmp_path / "CASE.hdr"])
    (tmp_path / "CASE.img").unlink()
    assert imageio.ending_of(tmp_path / "CASE.hdr") is None
