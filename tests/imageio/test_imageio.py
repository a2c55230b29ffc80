"""Images: every format is read faithfully, or refused with one message that names the file, and no noise."""

from __future__ import annotations

import gzip
import logging
import os
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from autolmk import imageio
from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.imageio import itk

RNG = np.random.default_rng(0)


def oblique(shape: Sequence[int] = (5, 7, 9)) -> Geometry:
    direction = Rotation.from_rotvec([0.2, -0.3, 0.5]).as_matrix()
    return Geometry.from_parts(shape, (2.5, 0.5, 0.75), (-10.5, 20.25, 300), direction)


def save(file: Path, array: np.ndarray, vector: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(file))
    return file


def read(file: Path) -> np.ndarray:
    return imageio.read_image([file]).array


# -- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_volumes_come_back_with_their_values_and_geometry(ending: str, tmp_path: Path) -> None:
    image = Image(RNG.normal(size=(1, 5, 7, 9)).astype(np.float32), oblique())
    file = tmp_path / f"case_0000{ending}"
    if ending in (".nhdr", ".mhd"):  # a header beside its data: only read
        imageio.write_image(tmp_path / "a.mha", image)
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.mha")), str(file))
    else:
        imageio.write_image(file, image)
    back = imageio.read_image([file])
    np.testing.assert_array_equal(back.array, image.array)
    assert back.array.dtype == np.float32 and back.array.flags.c_contiguous
    assert back.geometry.is_close(image.geometry, 1e-3)
    header = imageio.read_geometry(file)
    assert header.shape == back.geometry.shape
    np.testing.assert_array_equal(header.affine, back.geometry.affine)
    assert imageio.has_physical_size(file)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_integer_and_float_types_are_read_as_float32(dtype: str, tmp_path: Path) -> None:
    array = RNG.integers(0, 100, (3, 4, 5)).astype(dtype)
    np.testing.assert_array_equal(read(save(tmp_path / "a.nrrd", array))[0], array)


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff", ".jpg", ".jpeg", ".PNG"])
def test_plane_images_have_pixels_and_no_size(ending: str, tmp_path: Path) -> None:
    array = np.full((30, 40), 77, np.uint8)
    file = save(tmp_path / f"a{ending.lower()}", array).rename(tmp_path / f"b{ending}")
    image = imageio.read_image([file])
    np.testing.assert_array_equal(image.array[0], array)
    assert image.geometry.shape == (30, 40) and image.geometry.physical_ndim == 2
    assert image.geometry.spacing == (1, 1) and not imageio.has_physical_size(file)
    assert imageio.read_image([file], spacing=(0.2, 0.1)).geometry.spacing == (0.2, 0.1)
    assert imageio.read_geometry(file, spacing=(0.2, 0.1)).spacing == (0.2, 0.1)
    with pytest.raises(AutolmkError, match="spacing does not fit"):
        imageio.read_image([file], spacing=(1, 1, 1))


def test_print_resolution_is_no_physical_size(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    for name in ("a.jpg", "a.png", "a.tif"):
        pil.fromarray(np.full((20, 30), 9, np.uint8)).save(tmp_path / name, dpi=(300, 300))
        assert imageio.read_image([tmp_path / name]).geometry.spacing == (1, 1)


def test_spacing_is_ignored_where_the_file_has_its_own(tmp_path: Path) -> None:
    imageio.write_image(tmp_path / "a.mha", Image(np.zeros((1, 5, 7, 9), np.float32), oblique()))
    np.testing.assert_allclose(imageio.read_geometry(tmp_path / "a.mha", spacing=(9, 9, 9)).spacing, oblique().spacing)


def test_colours_become_channels_and_opacity_is_dropped(tmp_path: Path) -> None:
    colour = RNG.integers(0, 255, (20, 30, 4)).astype(np.uint8)
    for name in ("a.png", "a.tif"):
        assert read(save(tmp_path / name, colour[..., :3], vector=True)).shape == (3, 20, 30)
        np.testing.assert_array_equal(read(tmp_path / name), np.moveaxis(colour[..., :3], -1, 0))
    np.testing.assert_array_equal(read(save(tmp_path / "b.png", colour, vector=True)), np.moveaxis(colour, -1, 0)[:3])


def test_vector_images_and_channel_files_stack(tmp_path: Path) -> None:
    image = Image(RNG.normal(size=(3, 5, 7, 9)).astype(np.float32), oblique())
    imageio.write_image(tmp_path / "all.nrrd", image)
    np.testing.assert_array_equal(read(tmp_path / "all.nrrd"), image.array)
    files = [tmp_path / f"case_{c:04d}.nii.gz" for c in range(3)]
    for file, channel in zip(files, image.array, strict=True):
        imageio.write_image(file, Image(channel[None], image.geometry))
    np.testing.assert_array_equal(imageio.read_image(files).array, image.array)


def test_channels_that_differ_in_geometry_are_refused(tmp_path: Path) -> None:
    shifted = Geometry(oblique().shape, oblique().affine + np.eye(4)[:, [3, 3, 3, 0]] * 0.1 * np.eye(4)[3])
    files = []
    for i, geometry in enumerate((oblique(), shifted, oblique((5, 7, 8)))):
        files.append(tmp_path / f"c_{i:04d}.nii.gz")
        imageio.write_image(files[-1], Image(np.zeros((1, *geometry.shape), np.float32), geometry))
    for other in files[1:]:
        with pytest.raises(AutolmkError, match="channels of a case differ"):
            imageio.read_image([files[0], other])


def test_four_dimensional_files_with_one_time_point_are_volumes(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3, 1), np.float32), np.diag([1, 2, 3, 1])), tmp_path / "a.nii.gz")
    assert imageio.read_image([tmp_path / "a.nii.gz"]).geometry.shape == (3, 4, 5)
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3, 2), np.float32), np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(AutolmkError, match="too many axes"):
        imageio.read_image([tmp_path / "b.nii.gz"])


def test_a_stack_of_tiff_pages_is_a_volume(tmp_path: Path) -> None:
    assert read(save(tmp_path / "a.tif", np.zeros((4, 20, 30), np.uint16))).shape == (1, 4, 20, 30)


def test_a_single_slice_is_a_volume_until_it_is_squeezed(tmp_path: Path) -> None:
    geometry = oblique((1, 7, 9))
    imageio.write_image(tmp_path / "a.nii.gz", Image(np.zeros((1, 1, 7, 9), np.float32), geometry))
    image = imageio.read_image([tmp_path / "a.nii.gz"])
    assert image.geometry.shape == (1, 7, 9)
    plane = imageio.squeeze(image)
    assert (plane.array.shape, plane.geometry.ndim, plane.geometry.physical_ndim) == ((1, 7, 9), 2, 3)
    point = image.geometry.to_physical([0, 3, 4.5])
    np.testing.assert_allclose(plane.geometry.to_voxels(point), [3, 4.5], atol=1e-9)
    imageio.write_image(tmp_path / "b.nii.gz", plane)
    np.testing.assert_allclose(imageio.read_geometry(tmp_path / "b.nii.gz").to_physical([0, 3, 4.5]), point, atol=1e-4)
    with pytest.raises(AutolmkError, match="not a single slice"):
        imageio.squeeze(Image(np.zeros((1, 5, 7, 9), np.float32), oblique()))


# -- DICOM ------------------------------------------------------------------------------------------------------------

CT = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}


def dicom(folder: Path, positions: Sequence[Sequence[float]], **fields: Any) -> np.ndarray:
    """A series of 12-bit slices as scanners write them; returns (slices, rows, columns) as stored."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(exist_ok=True)
    stored = np.random.default_rng(1).integers(0, 4095, (len(positions), 8, 10)).astype(np.uint16)
    series = fields.pop("SeriesInstanceUID", "1.2.3")
    for i, position in enumerate(positions):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        content: dict[str, Any] = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "SeriesInstanceUID": series,
            "StudyInstanceUID": "1.2",
            "FrameOfReferenceUID": "1.4",
            "InstanceNumber": i + 1,
            "Rows": 8,
            "Columns": 10,
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 12,
            "HighBit": 11,
            "PixelRepresentation": 0,
            "PixelSpacing": [0.5, 0.75],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": list(position),
            "PixelData": stored[i].tobytes(),
            **fields,
        }
        dataset = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        for key, value in content.items():
            if value is not None:
                setattr(dataset, key, value)
        dataset.save_as(folder / f"{series}_{i}.dcm", enforce_file_format=True)
    return stored


def along_z(*z: float) -> list[list[float]]:
    return [[-20.5, 30.25, value] for value in z]


def test_a_dicom_folder_is_a_volume(tmp_path: Path) -> None:
    stored = dicom(tmp_path / "case", along_z(30, 28, 26, 24), **CT)
    image = imageio.read_image([tmp_path / "case"])
    np.testing.assert_array_equal(image.array[0], stored[::-1] - 1024.0)
    np.testing.assert_allclose(image.geometry.spacing, (2, 0.5, 0.75))
    np.testing.assert_allclose(image.geometry.to_physical([0, 0, 0]), [-20.5, 30.25, 24])
    np.testing.assert_allclose(image.geometry.to_physical([3, 2, 4]), [-17.5, 31.25, 30])
    assert imageio.metadata(tmp_path / "case", "0008|0060") == "CT"
    assert imageio.has_physical_size(tmp_path / "case")


def test_oblique_dicom_slices_lie_where_their_headers_say(tmp_path: Path) -> None:
    axes = Rotation.from_rotvec([0.3, 0.2, -0.4]).as_matrix()
    positions = [np.round([5.0, 6, 7] + 1.5 * i * axes[:, 2], 6).tolist() for i in range(5)]
    orientation = np.round([*axes[:, 0], *axes[:, 1]], 8).tolist()
    dicom(tmp_path / "case", positions, ImageOrientationPatient=orientation, **CT)
    geometry = imageio.read_geometry(tmp_path / "case")
    for i, position in enumerate(positions):
        np.testing.assert_allclose(geometry.to_physical([i, 0, 0]), position, atol=1e-4)
    column = np.array(positions[0]) + 0.75 * axes[:, 0]
    np.testing.assert_allclose(geometry.to_physical([0, 0, 1]), column, atol=1e-4)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    stored = dicom(tmp_path / "case", along_z(0), PhotometricInterpretation="MONOCHROME1", Modality="DX")
    np.testing.assert_array_equal(read(tmp_path / "case")[0], 4095.0 - stored)
    np.testing.assert_array_equal(read(tmp_path / "case" / "1.2.3_0.dcm")[0], 4095.0 - stored)


def test_a_radiograph_without_pixel_spacing_has_no_size(tmp_path: Path) -> None:
    dicom(tmp_path / "case", along_z(0), PixelSpacing=None, Modality="DX")
    assert not imageio.has_physical_size(tmp_path / "case")
    assert imageio.read_geometry(tmp_path / "case", spacing=(0.2, 0.1)).spacing[1:] == (0.2, 0.1)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (along_z(0, 2, 4, 8, 10), "not evenly spaced"),
        (along_z(0, 2, 2, 4, 6), "not evenly spaced"),
        (along_z(0, 2, 4.13, 6, 8), "not evenly spaced"),
        ([[0, 0.5 * i, 2 * i] for i in range(5)], "tilted gantry"),
    ],
)
def test_uneven_slices_are_refused(positions: list[list[float]], message: str, tmp_path: Path) -> None:
    dicom(tmp_path / "case", positions, **CT)
    for read_it in (imageio.read_geometry, read):
        with pytest.raises(AutolmkError, match=message):
            read_it(tmp_path / "case")


def test_rounded_slice_positions_are_not_uneven(tmp_path: Path) -> None:
    dicom(tmp_path / "case", along_z(*np.round(np.arange(6) * 0.6249, 3)), **CT)
    np.testing.assert_allclose(imageio.read_geometry(tmp_path / "case").spacing[0], 0.6249, atol=1e-3)


def test_mixed_and_damaged_series_are_refused(tmp_path: Path) -> None:
    dicom(tmp_path / "two", along_z(0, 2, 4), **CT)
    dicom(tmp_path / "two", along_z(0, 2), SeriesInstanceUID="1.2.9", **CT)
    with pytest.raises(AutolmkError, match="several DICOM series"):
        imageio.read_geometry(tmp_path / "two")
    dicom(tmp_path / "cut", along_z(0, 2, 4), **CT)
    last = tmp_path / "cut" / "1.2.3_2.dcm"  # at the end of the series, where the spacing stays even
    last.write_bytes(last.read_bytes()[:-60])
    with pytest.raises(AutolmkError, match="damaged") as caught:
        read(tmp_path / "cut")
    assert caught.value.file == str(last)
    dicom(tmp_path / "sizes", along_z(0, 2), **CT)
    other = dicom(tmp_path / "other", along_z(0, 2, 4), PixelSpacing=[0.6, 0.75], **CT)
    assert other.shape == (3, 8, 10)
    (tmp_path / "other" / "1.2.3_2.dcm").rename(tmp_path / "sizes" / "third.dcm")
    with pytest.raises(AutolmkError, match="differ in size, spacing"):
        read(tmp_path / "sizes")
    (tmp_path / "none").mkdir()
    with pytest.raises(AutolmkError, match="no DICOM series"):
        read(tmp_path / "none")


# -- damage -----------------------------------------------------------------------------------------------------------


def halve(data: bytes) -> bytes:
    return data[: len(data) // 2]


def shorten(data: bytes) -> bytes:
    return data[:-12]


@pytest.mark.parametrize(
    "damage",
    [halve, shorten, lambda data: b"", lambda data: b"hello\n" * 100],
    ids=["halved", "shortened", "empty", "text"],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".jpg", ".tif", ".dcm"])
def test_damaged_files_are_refused_in_silence(
    ending: str, damage: Callable[[bytes], bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each is an AutolmkError with the file's name, and ITK's own messages do not reach the console."""
    file = tmp_path / f"case_0000{ending}"
    if ending == ".dcm":
        dicom(tmp_path / "folder", along_z(0), **CT)
        (tmp_path / "folder" / "1.2.3_0.dcm").rename(file)
    elif ending in (".png", ".jpg", ".tif"):
        save(file, RNG.integers(0, 255, (30, 40)).astype(np.uint8))
    else:
        save(file, RNG.integers(0, 1000, (6, 20, 30)).astype(np.int16))
    read(file)
    file.write_bytes(damage(file.read_bytes()))
    if ending == ".tif" and damage is shorten:
        return  # the last bytes of a TIFF file are the name of the program that wrote it
    with pytest.raises(AutolmkError) as caught:
        read(file)
    assert caught.value.file == str(file) and caught.value.remedy
    assert "0x" not in str(caught.value) and "sitk::" not in str(caught.value)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_what_itk_warns_of_is_a_notice_of_the_file_in_any_thread(tmp_path: Path) -> None:
    file = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([0.8, 0.8, 0.8, 1])), file)
    raw = bytearray(file.read_bytes())
    struct.pack_into("<3f", raw, 80, 1.0, 1.0, 1.0)
    struct.pack_into("<h", raw, 252, 0)
    file.write_bytes(raw)
    found: list[imageio.Notice] = []

    def look() -> None:
        with imageio.noticed() as notices:
            itk.load((str(file),), file)
        found.extend(notices)

    look()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert len(found) == 2 and found[0] == found[1] and found[0].file == str(file)
    assert "unexpected scales in sform" in str(found[0]) and "0x" not in str(found[0])


def test_what_c_libraries_print_is_a_notice_and_beside_an_error_debug(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("autolmk"), "handlers", [])  # that a command's test has left
    monkeypatch.setattr(logging.getLogger("autolmk"), "propagate", True)
    with imageio.noticed() as notices, itk.quiet(tmp_path):
        os.write(2, b"Premature end of JPEG file\n")
    assert [n.found for n in notices] == ["Premature end of JPEG file"]
    file = save(tmp_path / "a.mha", RNG.integers(0, 1000, (6, 20, 30)).astype(np.int16))
    file.write_bytes(halve(file.read_bytes()))
    with caplog.at_level(logging.DEBUG, "autolmk.imageio"), pytest.raises(AutolmkError):
        itk.load((str(file),), file)
    assert "data not read completely" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_other_threads_read_too(tmp_path: Path) -> None:
    file = save(tmp_path / "a.nii.gz", np.ones((3, 4, 5), np.float32))
    shapes: list[tuple[int, ...]] = []
    thread = threading.Thread(target=lambda: shapes.append(read(file).shape))
    thread.start()
    thread.join()
    assert shapes == [(1, 3, 4, 5)]


def test_a_nifti_file_in_several_gzip_members_or_with_bytes_after_it_is_whole(tmp_path: Path) -> None:
    data = save(tmp_path / "a.nii", np.ones((6, 20, 30), np.int16)).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(data[:1000]) + gzip.compress(data[1000:]))
    assert (read(tmp_path / "b.nii.gz") == 1).all()
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(data + b"\0" * 7))
    assert (read(tmp_path / "c.nii.gz") == 1).all()
    (tmp_path / "d.nii.gz").write_bytes(gzip.compress(data[:-100]))
    with pytest.raises(AutolmkError, match="truncated"):
        read(tmp_path / "d.nii.gz")


def test_both_byte_orders_are_checked_and_nifti_2_is_read(tmp_path: Path) -> None:
    array = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    big = tmp_path / "big.nii"
    nib.save(nib.Nifti1Image(array, np.eye(4), nib.Nifti1Header(endianness=">")), big)
    np.testing.assert_array_equal(read(big)[0], array.T)
    big.write_bytes(big.read_bytes()[:-1])
    with pytest.raises(AutolmkError, match="truncated"):
        read(big)
    nib.save(nib.Nifti2Image(array, np.eye(4)), tmp_path / "two.nii")
    np.testing.assert_array_equal(read(tmp_path / "two.nii")[0], array.T)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((3, 4, 5), np.nan, np.float32), "not numbers"),
        (np.full((3, 4, 5), np.inf, np.float32), "not numbers"),
        (np.zeros((3, 4, 5), np.complex64), "complex"),
    ],
)
def test_values_that_are_no_numbers_are_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(AutolmkError, match=message):
        read(save(tmp_path / "a.nrrd" if message == "not numbers" else tmp_path / "a.nii.gz", array))


def test_sheared_headers_are_refused(tmp_path: Path) -> None:
    affine = np.diag([1.0, 2, 3, 1])
    affine[0, 1] = 0.8
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3), np.float32), affine), tmp_path / "a.nii.gz")
    with pytest.raises(AutolmkError, match="two axes are 68"):
        imageio.read_geometry(tmp_path / "a.nii.gz")
    sheared = Geometry((3, 4, 5), affine)
    with pytest.raises(AutolmkError, match="sheared"):
        imageio.write_image(tmp_path / "b.nii.gz", Image(np.zeros((1, 3, 4, 5), np.float32), sheared))


def test_missing_and_unknown_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(b"RIFF")
    for name, message in (("a.nii.gz", "missing"), ("a.webp", "not known"), ("folder", "missing|not known")):
        with pytest.raises(AutolmkError, match=message):
            imageio.read_geometry(tmp_path / name)
    with pytest.raises(AutolmkError, match="no image"):
        imageio.read_image([])


def test_writing_refuses_what_the_format_cannot_hold_and_leaves_nothing(tmp_path: Path) -> None:
    flat = Geometry.from_parts((4, 5), (1, 1))
    for value in (0.5, -1, 256):
        with pytest.raises(AutolmkError, match="whole numbers"):
            imageio.write_image(tmp_path / "a.png", Image(np.full((1, 4, 5), value, np.float32), flat))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AutolmkError, match="cannot be written"):
        imageio.write_image(tmp_path / "file" / "a.nii.gz", Image(np.zeros((1, 4, 5), np.float32), flat))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# -- folders ----------------------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def test_cases_and_channels_come_from_names(tmp_path: Path) -> None:
    touch(tmp_path, "b_0001.nii.gz", "b_0000.nii.gz", "a_x_0000.nii.gz", "plain.nii.gz", ".hidden.nii.gz", "README.md")
    found = imageio.list_cases(tmp_path)
    assert list(found) == ["a_x", "b", "plain"]
    assert [f.name for f in found["b"]] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert imageio.split_name(tmp_path / "b_0001.nii.gz") == ("b", 1)
    assert imageio.list_cases(tmp_path, ".nrrd") == {}


def test_folders_are_cases_of_dicom_datasets(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b_0000").mkdir()
    assert list(imageio.list_cases(tmp_path)) == list(imageio.list_cases(tmp_path, "dicom")) == ["a", "b"]


def test_confusing_folders_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "kinds", "a.nii.gz", "b.png")
    with pytest.raises(AutolmkError, match="several kinds"):
        imageio.list_cases(tmp_path / "kinds")
    assert list(imageio.list_cases(tmp_path / "kinds", ".png")) == ["b"]
    touch(tmp_path / "twice", "a.nii.gz", "a_0000.nii.gz")
    with pytest.raises(AutolmkError, match="two images"):
        imageio.list_cases(tmp_path / "twice")
    with pytest.raises(AutolmkError, match="missing"):
        imageio.list_cases(tmp_path / "nowhere")
    with pytest.raises(AutolmkError, match="not known"):
        imageio.list_cases(tmp_path / "kinds", ".webp")


def test_incomplete_channels_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.mha", "a_0002.mha", "b_0000.mha", "b_0001.mha", "b_0002.mha")
    cases = imageio.list_cases(tmp_path, None, 3)
    imageio.check_channels("b", cases["b"], 3)
    with pytest.raises(AutolmkError, match="not complete") as caught:
        imageio.check_channels("a", cases["a"], 3)
    assert caught.value.case == "a" and "_0001" in str(caught.value.expected)
    with pytest.raises(AutolmkError, match="more channels"):
        imageio.check_channels("b", cases["b"], 2)


def test_a_folder_of_several_kinds_gives_every_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a_0000.nii.gz", "b_0000.mha", "c_0000.nrrd", "a_0000.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "predictions").mkdir()
    found = imageio.list_mixed_cases(tmp_path, ".nii.gz")
    assert {case: files[0].name for case, files in found.items()} == {
        "a": "a_0000.nii.gz",
        "b": "b_0000.mha",
        "c": "c_0000.nrrd",
    }
    assert "a_0000.png is left aside" in caplog.text
    with pytest.raises(AutolmkError, match="images of two kinds"):
        imageio.list_mixed_cases(tmp_path)


def test_a_name_of_two_lines_is_refused(tmp_path: Path) -> None:
    """With `.` of regular expressions, which matches no line break, its channel would not be seen."""
    with pytest.raises(AutolmkError, match=r"breaks the line[\s\S]*a\\nb_0000[\s\S]*rename it"):
        imageio.split_name(tmp_path / "a\nb_0000.nii.gz")


def test_a_name_that_is_no_utf8_is_an_error_before_anything_is_made_of_it(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"bad\xff.nii.gz")
    try:
        file.touch()
    except OSError:
        pytest.skip("this file system knows no such names")
    with pytest.raises(AutolmkError, match=r"not in UTF-8[\s\S]*rename it"):
        imageio.list_cases(tmp_path)
