"""MetaImage: read as ITK reads it where ITK looks at all fields, or refused with both readings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from metaimage_headers import FAULTS, Header, check, headers

from autolmk import imageio
from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry

GOOD = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "7 8 9",
    "ElementSpacing": "1 2 3",
    "DimSize": "3 4 5",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
VOXELS = np.arange(60, dtype="<i2")


def write(file: Path, data: bytes = VOXELS.tobytes(), **changes: str | None) -> Path:
    """A small file with some fields changed; None leaves one out."""
    fields = {**GOOD, **changes}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")
    lines = [f"{key} = {value}" for key, value in fields.items() if value is not None]
    file.write_bytes("\n".join([*lines, ""]).encode() + data)
    return file


@pytest.mark.parametrize("header", headers(1, 150), ids=map(str, range(150)))
def test_generated_headers(header: Header, tmp_path: Path) -> None:
    check(header, tmp_path / f"case{header.ending}")


def test_the_generator_makes_every_fault() -> None:
    made = {header.expected for header in headers(1, 500)}
    assert made == {"", *FAULTS.values()}


def test_itk_reads_the_same(tmp_path: Path) -> None:
    compared = 0
    for header in headers(3, 900):
        plain = all(
            key not in header.data for key in (b"DistanceUnits", b"Intensity", b"ElementSize", b"BinaryData = F")
        )
        plain &= (b"CompressedData = True" in header.data) == (b"CompressedDataSize" in header.data)
        if header.expected or header.beside is not None or not header.sized or not plain or b"NDims = 4" in header.data:
            continue  # ITK looks at neither
        (tmp_path / "a.mha").write_bytes(header.data)
        read, image = sitk.ReadImage(str(tmp_path / "a.mha")), imageio.read_image([tmp_path / "a.mha"])
        assert image.geometry.is_close(Geometry.from_sitk(read), 1e-6)
        array = sitk.GetArrayFromImage(read)
        np.testing.assert_allclose(image.array, array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0))
        compared += 1
    assert compared > 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Offset": "7 8"}, "3 numbers"),
        ({"Offset": "7 8 nan"}, "finite"),
        ({"Origin": "7 8 10"}, "stands twice"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "sheared"),
        ({"ElementSpacing": "1 2 inf"}, "without a size"),
        ({"ElementSpacing": "one two three"}, "3 numbers"),
        ({"NDims": "1", "DimSize": "60"}, "axes"),
        ({"NDims": "99"}, "at most 10"),
        ({"NDims": None}, "NDims"),
        ({"DimSize": "3 4 0"}, "from 1 on"),
        ({"ElementNumberOfChannels": "0"}, "from 1 on"),
        ({"ElementNumberOfChannels": "2"}, "truncated"),
        ({"ElementType": None}, "not supported"),
        ({"HeaderSize": "inf"}, "whole number"),
        ({"HeaderSize": "5"}, "HeaderSize"),
        ({"CompressedData": "maybe"}, "True or False"),
        ({"CompressedData": "True"}, "damaged"),
        ({"CompressedData": "True", "CompressedDataSize": "999"}, "truncated"),
        ({"ObjectType": "Mesh"}, "not supported"),
        ({"ElementDataFile": "gone.raw"}, "missing"),
        ({"ElementDataFile": "gone.raw", "ElementSpacing": "0 0 0"}, "missing"),
        ({"ElementToIntensityFunctionSlope": "0"}, "slope"),
    ],
)
def test_what_contradicts_is_refused_with_the_reason(
    changes: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.mha", **changes)
    with pytest.raises(AutolmkError) as caught:
        imageio.read_image([file])
    assert message in str(caught.value) and caught.value.file == str(file) and caught.value.remedy


def test_without_any_size_there_is_no_physical_size(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mha", ElementSpacing=None)
    assert not imageio.has_physical_size(file)
    assert imageio.read_geometry(file, spacing=(3, 2, 1)).spacing == (3, 2, 1)


def test_a_turn_around_another_point_is_noticed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mha", CenterOfRotation="1 2 3", TransformMatrix="0 1 0 1 0 0 0 0 1")
    with imageio.noticed() as notices:
        imageio.read_geometry(file)
    assert [n.problem for n in notices] == ["a header turns its grid around another point"]


def test_synonyms_agree_in_numbers(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mha", Offset="7 8 9", Position="7.0 8.00 9")
    assert imageio.read_geometry(file).origin.tolist() == [7, 8, 9]
    with pytest.raises(AutolmkError, match="stands twice"):
        imageio.read_geometry(write(file, Offset="7 8 9", Position="7 8 9.5"))


def test_names_of_files_may_hold_numbers(tmp_path: Path) -> None:
    (tmp_path / "scan 1 2.raw").write_bytes(VOXELS.tobytes())
    image = imageio.read_image([write(tmp_path / "a.mhd", ElementDataFile="scan 1 2.raw")])
    np.testing.assert_array_equal(image.array[0].ravel(), VOXELS)


def test_planes_have_two_axes(tmp_path: Path) -> None:
    plane = {"NDims": "2", "DimSize": "10 6", "ElementSpacing": "1 2", "Offset": "7 8", "TransformMatrix": "1 0 0 1"}
    image = imageio.read_image([write(tmp_path / "a.mha", **plane)])
    assert image.geometry.shape == (6, 10) and image.geometry.spacing == (2, 1)
    np.testing.assert_array_equal(image.array[0], VOXELS.reshape(6, 10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><p>404", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "pointer"),
        (b"/annex/objects/MD5E-s1.mha\n", "pointer"),
        (b"\x1f\x8b\0\0", "no MetaImage image"),
        (b"ObjectType = Image\n" * 10, "no line ElementDataFile"),
    ],
)
def test_other_files_are_told_apart(content: bytes, message: str, tmp_path: Path) -> None:
    for ending in (".mha", ".mhd"):
        (tmp_path / f"a{ending}").write_bytes(content)
        with pytest.raises(AutolmkError, match=message):
            imageio.read_geometry(tmp_path / f"a{ending}")


@pytest.mark.parametrize("listed", ["LIST\ns1.raw\ns2.raw\n", "LIST 2\r\ns1.raw\r\ns2.raw\r\n", "s%d.raw 1 2 1"])
def test_voxels_in_several_files_are_one_volume_as_in_itk(listed: str, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-9, 9, (2, 3, 4)).astype("<i2")
    for k in range(2):
        (tmp_path / f"s{k + 1}.raw").write_bytes(voxels[k].tobytes())
    head = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_SHORT\nElementSpacing = 1 2 3\n"
    head += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    (tmp_path / "a.mhd").write_bytes(f"{head}ElementDataFile = {listed}".encode())
    np.testing.assert_array_equal(imageio.read_image([tmp_path / "a.mhd"]).array[0], voxels)
    if "\r" not in listed:
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.mhd"))), voxels)
