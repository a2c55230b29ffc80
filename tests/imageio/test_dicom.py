"""DICOM headers: every slice and frame where it says, every value as it is meant, or a refusal with the reason."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from random import Random
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import PIXELS, series, write
from dicom_headers import Sequence, _dicom, _frame, check, headers
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    RLELossless,
)

from autolmk import imageio
from autolmk.errors import AutolmkError


def test_generated_headers_are_read_exactly_or_refused_with_the_reason(tmp_path: Path) -> None:
    found = [check(header, tmp_path / "a") for header in headers(1, 200)]
    assert found.count("read") > 60
    assert {"gap", "twice", "tilt", "size", "turned", "missing", "nonsense"} <= set(found)


def test_two_sizes_of_pixels_are_said_and_the_calibrated_one_counts(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.dcm",
        PixelSpacing=[0.1, 0.2],
        ImagerPixelSpacing=[0.14, 0.28],
        PixelSpacingCalibrationType="FIDUCIAL",
    )
    with imageio.noticed() as notices:
        geometry = imageio.read_geometry(file)
    assert geometry.spacing[1:] == (0.1, 0.2) and imageio.has_physical_size(file)
    (said,) = notices
    assert "0.1 x 0.2" in str(said) and "0.14 x 0.28" in str(said) and "FIDUCIAL" in str(said)


def test_the_size_at_the_detector_is_said_to_be_that(tmp_path: Path) -> None:
    tags = {"ImagerPixelSpacing": [0.14, 0.14], "EstimatedRadiographicMagnificationFactor": 1.4}
    with imageio.noticed() as notices:
        assert imageio.read_geometry(write(tmp_path / "a.dcm", **tags)).spacing[1:] == (0.14, 0.14)
    assert "at the detector" in notices[0].problem and "1.4" in str(notices[0].found)


def test_pixels_that_are_not_square_stay_so_without_a_size(tmp_path: Path) -> None:
    file = write(tmp_path / "a.dcm", PixelAspectRatio=[3, 2])
    with imageio.noticed() as notices:
        assert imageio.read_geometry(file).spacing == (1, 1.5, 1)
    assert "not square" in notices[0].problem and not imageio.has_physical_size(file)
    assert imageio.read_geometry(file, spacing=(0.3, 0.2)).spacing[1:] == (0.3, 0.2)


@pytest.mark.parametrize(("units", "sized"), [((3, 3), True), ((4, 3), False), ((0, 0), False)])
def test_an_ultrasound_region_in_centimetres_is_a_size(units: tuple[int, int], sized: bool, tmp_path: Path) -> None:
    region = Dataset()
    region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = units
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, -0.01
    file = write(tmp_path / "a.dcm", SequenceOfUltrasoundRegions=Sequence([region]))
    with imageio.noticed():
        assert imageio.has_physical_size(file) is sized
        assert imageio.read_geometry(file).spacing[1:] == (pytest.approx((0.1, 0.2)) if sized else (1, 1))


@pytest.mark.parametrize("tags", [{"SliceThickness": 0.3}, {"SpacingBetweenSlices": 0.3}, {}])
def test_frames_without_places_are_refused(tags: dict[str, Any], tmp_path: Path) -> None:
    frames = np.stack([PIXELS + k for k in range(3)])
    file = write(tmp_path / "a.dcm", frames, NumberOfFrames=3, PixelSpacing=[0.3, 0.3], **tags)
    with pytest.raises(AutolmkError, match="do not say where they are") as caught:
        imageio.read_image([file])
    assert ("which is no distance" in str(caught.value.found)) is ("SliceThickness" in tags)


@pytest.mark.parametrize("first", [0.0, 40.0])
def test_offsets_of_frames_are_places(first: float, tmp_path: Path) -> None:
    frames = np.stack([PIXELS + k for k in range(3)])
    tags = {"ImagePositionPatient": [1, 2, 40], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
    offsets = [first, first + 2.5, first + 5]
    file = write(tmp_path / "a.dcm", frames, NumberOfFrames=3, GridFrameOffsetVector=offsets, **tags)
    image = imageio.read_image([file])
    np.testing.assert_allclose(image.geometry.to_physical([2, 0, 0]), [1, 2, 45])
    np.testing.assert_array_equal(image.array[0], frames)


def test_slices_are_found_below_a_folder_and_other_files_are_said(tmp_path: Path) -> None:
    folder = series(tmp_path / "case" / "DICOM" / "ST0" / "SE0")
    (folder.parent / "DICOMDIR").write_bytes(b"x")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    with imageio.noticed() as notices:
        image = imageio.read_image([tmp_path / "case"])
    assert image.array.shape == (1, 4, 4, 5) and image.geometry.spacing == (2, 0.5, 0.5)
    assert [n.found for n in notices] == ["Thumbs.db"]


def test_a_report_beside_the_slices_is_said_and_a_second_series_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "case")
    tags = {**dict.fromkeys(("Rows", "Columns"), None), "Modality": "SR", "SeriesDescription": "findings"}
    (folder / "report.dcm").write_bytes(_dicom(PIXELS[:0], False, ExplicitVRLittleEndian, tags))
    report = pydicom.dcmread(folder / "report.dcm")
    for tag in ("Rows", "Columns", "PixelData"):
        delattr(report, tag)
    report.save_as(folder / "report.dcm")
    with imageio.noticed() as notices:
        imageio.read_geometry(folder)
    assert "SR findings" in str(notices[0].found)
    write(folder / "other.dcm", SeriesInstanceUID="1.9", SeriesDescription="scout", PixelSpacing=[1, 1])
    with imageio.noticed(), pytest.raises(AutolmkError, match="several DICOM series") as caught:
        imageio.read_geometry(folder)
    assert "scout: 1 file" in str(caught.value.found) and "CR: 4 files" in str(caught.value.found)


def test_two_echoes_are_several_images_at_one_place(tmp_path: Path) -> None:
    folder = series(tmp_path / "case")
    for k in range(4):
        place = {"ImagePositionPatient": [0, 0, 2.0 * k], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        write(folder / f"echo2_IM{k}", PIXELS + k + 1, PixelSpacing=[0.5, 0.5], **place)
    with pytest.raises(AutolmkError, match="several are at one place") as caught:
        imageio.read_geometry(folder)
    assert "second echo" in str(caught.value.expected)


def test_copies_and_segmentations_beside_the_slices_are_left_aside(tmp_path: Path) -> None:
    folder = series(tmp_path / "case")
    shutil.copy(folder / "IM1", folder / "IM1 (2)")
    segmentation = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "SeriesInstanceUID": "1.9"}
    write(folder / "seg.dcm", PixelSpacing=[1, 1], **segmentation)
    with imageio.noticed() as notices:
        image = imageio.read_image([folder])
    np.testing.assert_array_equal(image.array[0], [PIXELS + k for k in range(4)])
    (said,) = notices
    assert "seg.dcm (a segmentation)" in str(said.found) and "(a copy of IM1" in str(said.found)


def test_a_mosaic_is_no_slice(tmp_path: Path) -> None:
    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    tags = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "PixelSpacing": [3, 3], **place}
    with pytest.raises(AutolmkError, match="side by side") as caught:
        imageio.read_image([write(tmp_path / "a.dcm", **tags)])
    assert "dcm2niix" in str(caught.value.remedy)


def test_overlays_in_unused_bits_are_no_values(tmp_path: Path) -> None:
    file = write(tmp_path / "a.dcm", PIXELS | 0x8000, PixelSpacing=[1, 1])
    np.testing.assert_array_equal(imageio.read_image([file]).array[0, 0], PIXELS)


def test_colours_are_three_channels(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    image = imageio.read_image([write(tmp_path / "a.dcm", colours, PlanarConfiguration=0, PixelSpacing=[1, 1], **tags)])
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(colours, -1, 0))


@pytest.mark.parametrize("seed", range(60))
def test_damaged_headers_are_named(seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Bits anywhere: an image or an AutolmkError, nothing else."""
    random, file = Random(seed), write(tmp_path / "a.dcm", PixelSpacing=[0.1, 0.2])
    data = bytearray(file.read_bytes())
    for _ in range(4):
        data[random.randrange(128, len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(data[: random.choice((len(data), len(data) // 2))])
    with caplog.at_level(logging.CRITICAL), imageio.noticed():
        try:
            imageio.read_image([file])
        except AutolmkError as error:
            assert error.file == str(file) and error.remedy


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("syntax", ["RLE", "JPEG 2000"])
def test_compressed_frames_are_rescaled_and_inverted_as_others_are(syntax: str, inverted: bool, tmp_path: Path) -> None:
    """ITK rescales by the kind of image, and inverts JPEG 2000 by the bits that are allocated."""
    values = np.random.default_rng(0).integers(0, 4096, (3, 16, 20)).astype("<u2")
    slopes = [(2.0, -5.0), (3.0, 0.0), (1.0, 1.0)]
    frames = [_frame(np.array([0, 0, 2.0 * k]), slopes[k], [1, 0, 0, 0, 1, 0], (1.0, 1.0), "") for k in range(3)]
    tags = {"Rows": 16, "Columns": 20, "NumberOfFrames": 3, "PerFrameFunctionalGroupsSequence": Sequence(frames)}
    file = write(tmp_path / "a.dcm", values, PhotometricInterpretation=f"MONOCHROME{2 - inverted}", **tags)
    dataset = pydicom.dcmread(file)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    )
    if syntax == "RLE":
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        packed = [imagecodecs.jpeg2k_encode(v, codecformat="j2k", reversible=True, level=0) for v in values]
        dataset.PixelData = encapsulate(packed)
        dataset["PixelData"].VR = "OB"
    dataset.save_as(file)
    meant = [(4095.0 - v if inverted else v) * m + b for v, (m, b) in zip(values, slopes, strict=True)]
    np.testing.assert_allclose(imageio.read_image([file]).array[0], meant)


def test_a_slice_in_colour_among_grey_ones_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "case")
    place = {
        "ImagePositionPatient": [0, 0, 8.0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.5] * 2,
    }
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    write(folder / "IM9", np.zeros((4, 5, 3), np.uint8), PlanarConfiguration=0, **place, **tags)
    with pytest.raises(AutolmkError, match="differ in size"):
        imageio.read_image([folder])


def test_files_without_a_preamble_are_read(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.dcm", PixelSpacing=[1, 1])
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = True, True
    write_dataset(buffer, Dataset({element.tag: element for element in pydicom.dcmread(whole)}))
    (tmp_path / "b.dcm").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(imageio.read_image([tmp_path / "b.dcm"]).array[0, 0], PIXELS)


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_slices_without_a_preamble_and_an_ending_are_a_series(implicit: bool, little: bool, tmp_path: Path) -> None:
    folder = series(tmp_path / "case")
    for file in folder.iterdir():
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
        dataset = Dataset({element.tag: element for element in pydicom.dcmread(file)})
        dataset.PixelData = (
            dataset.PixelData if little else np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
        )
        write_dataset(buffer, dataset)
        file.write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(imageio.read_image([folder]).array[0], [PIXELS + k for k in range(4)])
    assert imageio.ending_of(folder / "IM0") == ".dcm"
    (tmp_path / "scan.bin").write_bytes(np.arange(8, 400, dtype="<u2").tobytes())
    assert imageio.ending_of(tmp_path / "scan.bin") is None


def test_what_values_mean_is_known_or_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.dcm", PixelSpacing=[1, 1], PhotometricInterpretation="UNHEARD OF")
    with pytest.raises(AutolmkError) as caught:
        imageio.read_image([file])
    assert "UNHEARD OF" in str(caught.value.found)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"PixelPaddingValue": 7}, (7, 7)),
        ({"PixelPaddingValue": 7, "PixelPaddingRangeLimit": 3}, (3, 7)),
        ({"PixelPaddingValue": 7, "RescaleSlope": 2, "RescaleIntercept": -1024}, (-1010, -1010)),
        ({"PixelPaddingValue": 7, "PhotometricInterpretation": "MONOCHROME1"}, (4088, 4088)),
        ({"PixelPaddingValue": 7, "PixelPaddingRangeLimit": 3, "RescaleSlope": -1}, (-7, -3)),
        ({"PixelRepresentation": 1, "PixelPaddingValue": -2000}, (-2000, -2000)),
        ({"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15, "PixelPaddingValue": -32768}, (-32768, -32768)),
        ({}, None),
    ],
)
def test_the_padding_that_a_header_declares_is_kept(
    tags: dict[str, Any], expected: tuple[float, float] | None, tmp_path: Path
) -> None:
    stored = tags.get("PixelPaddingValue", 7)
    pixels = PIXELS.astype("<i2" if tags.get("PixelRepresentation") else "<u2")
    pixels[0] = stored
    tags = {"RescaleIntercept": 0, "RescaleSlope": 1, **tags}
    image = imageio.read_image([write(tmp_path / "a.dcm", pixels, PixelSpacing=[1, 1], **tags)])
    assert image.padding == (None if expected is None else (expected,))
    if expected is not None:
        assert ((image.array[0, 0, 0] >= expected[0]) & (image.array[0, 0, 0] <= expected[1])).all()
        assert image.canonical().padding == imageio.squeeze(image).padding == image.padding


def test_the_padding_of_a_series_is_kept_where_its_slices_agree(tmp_path: Path) -> None:
    assert imageio.read_image([series(tmp_path / "a", PixelPaddingValue=3)]).padding == ((3, 3),)
    folder = series(tmp_path / "b", PixelPaddingValue=3)
    place = {"ImagePositionPatient": [0, 0, 8.0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    write(folder / "IM4", PIXELS, PixelSpacing=[0.5, 0.5], PixelPaddingValue=5, **place)
    assert imageio.read_image([folder]).padding is None


@pytest.mark.parametrize("vr", ["US", "SS"])
def test_the_sign_of_declared_padding_is_that_of_the_pixels(vr: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.dcm", PIXELS.astype("<i2"), PixelRepresentation=1, BitsStored=16, HighBit=15)
    header = pydicom.dcmread(file)
    header.add_new(0x00280120, vr, 63536 if vr == "US" else -2000)
    header.save_as(file)
    assert imageio.read_image([file]).padding == ((-2000, -2000),)


def test_the_odd_slice_is_named_and_not_the_others(tmp_path: Path) -> None:
    """Also where it comes first."""
    place = {"ImagePositionPatient": [0, 0, 8.0], "PixelSpacing": [0.5, 0.5]}
    for odd in ({"Rows": 5, "Columns": 4}, {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}):
        folder = series(tmp_path / f"case{len(odd)}")
        write(folder / "AAA", **{"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], **place, **odd})
        with pytest.raises(AutolmkError, match="differ in size") as caught:
            imageio.read_geometry(folder)
        assert "AAA" in f"{caught.value.file} {caught.value.found}" and "as in IM0" in str(caught.value.expected)


@pytest.mark.parametrize("group_element", [(0x20, 0x0E), (0x28, 0x10), (0x28, 0x02)])
def test_a_tag_of_an_unknown_kind_is_named_with_its_file(group_element: tuple[int, int], tmp_path: Path) -> None:
    folder = series(tmp_path / "c", PatientID="p")
    file = sorted(folder.iterdir())[1]
    group, element = group_element
    start = group.to_bytes(2, "little") + element.to_bytes(2, "little")
    data = file.read_bytes()
    at = data.index(start, 132)
    file.write_bytes(data[: at + 4] + b"UM" + data[at + 6 :])
    with pytest.raises(AutolmkError, match="UM"):
        imageio.read_geometry(folder)
