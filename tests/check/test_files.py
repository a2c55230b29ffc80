"""Which files are images, of which case and channel, and what happens where images of one dataset differ."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from autolmk import imageio
from autolmk.check import check_dataset
from autolmk.dataset import Dataset
from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.imageio.files import numbers_channels

PLANE = Geometry.from_parts((20, 30), (1.0, 1.0))


def picture(file: Path, seed: int = 0, channels: int = 1, *, grey: bool = False) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (1 if grey else channels, 20, 30)).astype(np.float32)
    write_image(file, Image(np.repeat(values, channels, axis=0) if grey else values, PLANE))


def dataset(folder: Path, names: Sequence[str], description: dict[str, object] | None = None) -> Path:
    """With a table of two points a case; images are the caller's."""
    folder = folder / "Dataset001_Wings"
    for part in ("imagesTr", "landmarksTr"):
        (folder / part).mkdir(parents=True)
    rows = [f"{name},{point},{x},{y},0" for name in names for point, x, y in (("A", 5, 6), ("B", 20, 12))]
    (folder / "landmarksTr" / "landmarks.csv").write_text("\n".join(["case,landmark,x,y,z", *rows]) + "\n", "utf-8")
    (folder / "dataset.json").write_text(json.dumps({"coordinates": "voxel", **(description or {})}))
    return folder


@pytest.mark.parametrize(
    ("stems", "n_channels", "known", "expected"),
    [
        (["DSC_0012", "DSC_0013", "DSC_0014"], None, (), False),
        (["DSC_0012", "DSC_0013", "DSC_0014"], 1, (), False),
        (["IMG_0000", "IMG_0001", "IMG_0002"], None, ("IMG_0000", "IMG_0002"), False),
        (["IMG_0000", "IMG_0001", "IMG_0002"], 1, (), False),
        (["a_0000", "b_0000"], None, (), True),
        (["a_0000", "a_0001", "b_0000", "b_0001"], None, (), True),
        (["a_0000", "a_0001", "b_0000"], 2, (), True),
        (["a_0000", "a_0002", "b_0000", "b_0001", "b_0002"], 3, (), True),
        (["a_0000", "a_0001", "b_0000"], None, ("a", "b"), True),
        (["x_1990", "y_2001", "z_2001"], None, (), False),
        (["plain", "names"], None, (), True),
    ],
)
def test_numbers_are_channels_or_names(
    stems: list[str], n_channels: int | None, known: tuple[str, ...], expected: bool
) -> None:
    assert numbers_channels(stems, n_channels, known) is expected


@pytest.mark.parametrize("table", [True, False])
def test_pictures_named_by_a_camera_are_cases(table: bool, tmp_path: Path) -> None:
    names = [f"DSC_{i:04d}" for i in range(12, 18)]
    folder = dataset(tmp_path, names)
    for i, name in enumerate(names):
        picture(folder / "imagesTr" / f"{name}.JPG", i)
        if not table:
            (folder / "landmarksTr" / f"{name}.csv").write_text("landmark,x,y\nA,5,6\nB,20,12\n")
    if not table:
        (folder / "landmarksTr" / "landmarks.csv").unlink()
    report = check_dataset(folder, workers=0, progress=False)
    assert report.good_cases == tuple(names) and report.exit_code == 0, report.text()


def test_channels_of_volumes_stay_channels(tmp_path: Path) -> None:
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    assert {case: len(files) for case, files in imageio.list_cases(tmp_path).items()} == {"a": 2, "b": 2}


def test_decomposed_names_are_the_same_names(tmp_path: Path) -> None:
    names = ["Zoë", "Ångström", "größe"]
    folder = dataset(tmp_path, names)
    for i, name in enumerate(names):
        picture(folder / "imagesTr" / f"{unicodedata.normalize('NFD', name)}_0000.png", i)
    report = check_dataset(folder, workers=0, progress=False)
    assert report.good_cases == tuple(sorted(names)) and report.exit_code == 0, report.text()


def test_spellings_of_an_ending_are_one_kind(tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(6)]
    for description in ({}, {"file_ending": ".jpg"}, {"file_ending": ".jpeg"}):
        folder = dataset(tmp_path / str(len(json.dumps(description))), names, description)
        for i, name in enumerate(names):
            picture(folder / "imagesTr" / f"{name}{('.jpg', '.JPG', '.jpeg')[i % 3]}", i)
        report = check_dataset(folder, workers=0, progress=False)
        assert report.good_cases == tuple(names) and report.exit_code == 0, report.text()


def test_pictures_of_several_kinds_go_together_unless_one_is_named(tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(6)]
    folder = dataset(tmp_path, names)
    for i, name in enumerate(names):
        picture(folder / "imagesTr" / f"{name}{('.png', '.jpg')[i % 2]}", i)
    assert check_dataset(folder, workers=0, progress=False).good_cases == tuple(names)
    (folder / "dataset.json").write_text(json.dumps({"coordinates": "voxel", "file_ending": ".png"}))
    report = check_dataset(folder, workers=0, progress=False)
    lost = [fault for fault in report.faults if "of another kind" in fault.problem]
    assert [fault.case for fault in lost] == ["w1", "w3", "w5"] and report.exit_code == 3
    assert report.n_cases == 6 and report.bad_cases == ("w1", "w3", "w5")


def test_pictures_among_volumes_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    write_image(
        tmp_path / "b.nii.gz", Image(np.zeros((1, 3, 4, 5), np.float32), Geometry.from_parts((3, 4, 5), (1,) * 3))
    )
    with pytest.raises(AutolmkError, match="several kinds"):
        imageio.list_cases(tmp_path)


@pytest.mark.parametrize("first", [True, False])
def test_grey_pictures_saved_in_colour_are_grey(first: bool, tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(10)]
    folder = dataset(tmp_path, names)
    for i, name in enumerate(names):
        odd = i == (0 if first else 9)
        picture(folder / "imagesTr" / f"{name}.png", i, 1 if odd else 3, grey=True)
    report = check_dataset(folder, workers=0, progress=False)
    assert report.good_cases == tuple(names) and report.exit_code == 0, report.text()
    assert len(Dataset.open(folder).channel_names) == 1


def test_a_grey_picture_among_colour_ones_is_said_and_used(tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(6)]
    folder = dataset(tmp_path, names)
    for i, name in enumerate(names):
        picture(folder / "imagesTr" / f"{name}.png", i, 1 if i == 0 else 3)
    report = check_dataset(folder, workers=0, progress=False)
    assert report.good_cases == tuple(names)
    assert [(f.case, f.severity) for f in report.faults if "grey picture" in f.problem] == [("w0", "warning")]
    opened = Dataset.open(folder)
    assert opened.channel_names == ("R", "G", "B")
    image = opened.read_image(opened.cases()[0])
    assert image.array.shape == (3, 20, 30) and (image.array[0] == image.array[2]).all()


def test_a_colour_picture_among_grey_ones_is_named(tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(6)]
    folder = dataset(tmp_path, names)
    for i, name in enumerate(names):
        picture(folder / "imagesTr" / f"{name}.png", i, 3 if i == 0 else 1)
    report = check_dataset(folder, workers=0, progress=False)
    assert report.bad_cases == ("w0",) and report.good_cases == tuple(names[1:])


def radiograph(file: Path, seed: int, **tags: object) -> None:
    """One plane of 16 bits by pydicom, with what `tags` says of its pixels' size."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plane = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    plane.SOPClassUID, plane.SOPInstanceUID, plane.Modality = meta.MediaStorageSOPClassUID, generate_uid(), "CR"
    plane.StudyInstanceUID, plane.SeriesInstanceUID, plane.PatientID = "1.2.3", f"1.2.3.{seed + 1}", "x"
    plane.SamplesPerPixel, plane.PhotometricInterpretation, plane.Rows, plane.Columns = 1, "MONOCHROME2", 20, 30
    plane.BitsAllocated, plane.BitsStored, plane.HighBit, plane.PixelRepresentation = 16, 16, 15, 0
    for key, value in tags.items():
        setattr(plane, key, value)
    plane.PixelData = np.random.default_rng(seed).integers(0, 4096, (20, 30)).astype(np.uint16).tobytes()
    plane.save_as(file)


@pytest.mark.parametrize("sized", [(1, 1, 1, 0, 0, 1), (0, 0, 1, 1, 1, 1), (0, 1, 0, 0, 0, 0), (1, 0, 0, 0, 0, 1)])
def test_cases_with_and_without_a_physical_size_do_not_mix(sized: tuple[int, ...], tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(6)]
    folder = dataset(tmp_path, names)
    for i, (name, mm) in enumerate(zip(names, sized, strict=True)):
        radiograph(folder / "imagesTr" / f"{name}.dcm", i, **({"ImagerPixelSpacing": [0.1, 0.1]} if mm else {}))
    report = check_dataset(folder, workers=0, progress=False)
    usual = int(2 * sum(sized) >= 6)
    odd = tuple(name for name, mm in zip(names, sized, strict=True) if mm != usual)
    assert report.bad_cases == odd, report.text()
    assert all("how large their pixels are" in f.problem for f in report.of("case"))
    fingerprint = report.fingerprint()
    assert (fingerprint.unit, fingerprint.median_spacing[-1]) == (("mm", 0.1) if usual else ("px", 1.0))


def test_a_size_for_the_cases_that_lack_one_makes_all_good(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(6)]
    spacing = {"spacing": {name: [0.2, 0.2] for name in names[3:]}}
    folder = dataset(tmp_path, names, spacing)
    for i, name in enumerate(names):
        radiograph(folder / "imagesTr" / f"{name}.dcm", i, **({"ImagerPixelSpacing": [0.1, 0.1]} if i < 3 else {}))
    report = check_dataset(folder, workers=0, progress=False)
    assert report.good_cases == tuple(names), report.text()
    assert report.fingerprint().cases["c5"].spacing == (0.2, 0.2)


def test_dicom_without_an_ending_is_found(tmp_path: Path) -> None:
    names = [f"IM{i}" for i in range(6)]
    folder = dataset(tmp_path, names)
    for i, name in enumerate(names):
        radiograph(folder / "imagesTr" / name, i, ImagerPixelSpacing=[0.1, 0.1])
    report = check_dataset(folder, workers=0, progress=False)
    assert report.good_cases == tuple(names), report.text()


def test_files_that_are_there_are_named_where_no_image_is(tmp_path: Path) -> None:
    folder = dataset(tmp_path, ["a"])
    (folder / "imagesTr" / "scan.dat").write_bytes(b"x")
    report = check_dataset(folder, workers=0, progress=False)
    assert any("scan.dat" in str(fault.found) for fault in report.of("dataset")), report.text()


def test_what_is_odd_of_one_case_is_said_of_no_other(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(6)]
    folder = dataset(tmp_path, names)
    for i, name in enumerate(names):
        detector = {"ImagerPixelSpacing": [0.14, 0.14]} if i == 3 else {}
        radiograph(folder / "imagesTr" / f"{name}.dcm", i, PixelSpacing=[0.1, 0.1], **detector)
    said = [fault.case for fault in check_dataset(folder, workers=0, progress=False).of("warning")]
    assert said == ["c3"]
