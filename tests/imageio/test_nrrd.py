"""NRRD: read as pynrrd reads it, or refused with both readings."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from nrrd_headers import FAULTS, Header, check, headers

from autolmk import imageio
from autolmk.errors import AutolmkError

GOOD = {
    "type": "short",
    "dimension": "3",
    "sizes": "3 4 5",
    "encoding": "raw",
    "endian": "little",
    "space": "left-posterior-superior",
    "space directions": "(1,0,0) (0,2,0) (0,0,3)",
    "space origin": "(7,8,9)",
}
VOXELS = np.arange(60, dtype="<i2")


def write(file: Path, data: bytes = VOXELS.tobytes(), **changes: str | None) -> Path:
    """A small file with some fields changed, `_` in their names for a space; None leaves one out."""
    fields = {**GOOD, **{key.replace("_", " "): value for key, value in changes.items()}}
    lines = [f"{key}: {value}" for key, value in fields.items() if value is not None]
    file.write_bytes("\n".join(["NRRD0005", *lines, "", ""]).encode() + data)
    return file


@pytest.mark.parametrize("header", headers(1, 150), ids=map(str, range(150)))
def test_generated_headers(header: Header, tmp_path: Path) -> None:
    check(header, tmp_path / f"case{header.ending}")


def test_the_generator_makes_every_fault() -> None:
    made = {header.expected for header in headers(1, 400)}
    assert made == {"", *FAULTS.values()}


def test_pynrrd_reads_the_same(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd")
    compared = 0
    for header in headers(3, 120):
        if header.expected or header.beside is not None or b"encoding: hex" in header.data:
            continue  # pynrrd knows no hex
        (tmp_path / "a.nrrd").write_bytes(header.data)
        with np.errstate(all="ignore"):
            voxels, fields = nrrd.read(str(tmp_path / "a.nrrd"))
        image = imageio.read_image([tmp_path / "a.nrrd"])
        if voxels.ndim == 3:
            np.testing.assert_allclose(image.array[0], voxels.T)
        else:
            place = 0 if voxels.shape[1:] == header.shape and image.array.shape[0] == voxels.shape[0] else 3
            np.testing.assert_allclose(image.array, np.moveaxis(voxels, place, 0).transpose(0, 3, 2, 1))
        if fields.get("space") in ("left-posterior-superior", "LPS") and "space units" not in fields:
            directions = fields["space directions"]
            rows = directions[np.isfinite(directions).all(axis=1)]
            np.testing.assert_allclose(image.geometry.matrix[:, ::-1], rows.T, atol=1e-9)
            np.testing.assert_allclose(image.geometry.origin, fields["space origin"], atol=1e-9)
        compared += 1
    assert compared > 30


def test_left_and_right_follow_the_space(tmp_path: Path) -> None:
    place = imageio.read_geometry(write(tmp_path / "a.nrrd", space="RAS")).to_physical([1, 1, 1])
    np.testing.assert_allclose(place, [-8, -10, 12])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space_directions": "(1,0,0) (0,2,0) (0,0,nan)"}, "finite"),
        ({"space_directions": "(1,0,0) (0,2,0)"}, "3 vectors"),
        ({"space_directions": "(1,0) (0,2) (0,0)"}, "directions of 3 numbers"),
        ({"space_origin": "(7,8)"}, "3 numbers"),
        ({"space_units": '"mm" "mm"'}, "3 words"),
        ({"units": '"cm" "cm" "cm"'}, "the same unit in both"),
        ({"space": "left-posterior-superior-time"}, "not supported"),
        ({"space_dimension": "3"}, "one of them"),
        ({"spacings": "1 2 0"}, "without a size"),
        ({"endian": None}, "endian"),
        ({"type": None}, "not supported"),
        ({"encoding": "zstd"}, "not supported"),
        ({"sizes": "3 4"}, "3 numbers"),
        ({"sizes": "3 4 -5"}, "from 1 on"),
        ({"dimension": "1e300"}, "at most 16"),
        ({"dimension": "nan"}, "whole numbers"),
        ({"byte_skip": "inf"}, "whole number"),
        ({"byte_skip": "-2"}, "byte skip"),
        ({"kinds": "domain domain complex"}, "'complex'"),
        ({"kinds": "domain domain time"}, "kind 'time'"),
        ({"space": "3D-left-handed"}, "not supported"),
        ({"data_file": "LIST"}, "voxels in 0 files"),
        ({"data_file": "a%03d.raw 1 5 1"}, "missing"),
        ({"data_file": "a" * 5000}, "missing"),
        ({"data_file": "a%s.raw 1 5 1"}, "a pattern such as"),
        ({"data_file": "a%03d.raw 1 999999 1"}, "65537 files"),
        ({"data_file": "../a%03d.raw 1 5 1"}, "outside its folder"),
        ({"data_file": "gone.raw"}, "missing"),
        ({"space": None, "space_directions": None, "spacings": "1 NaN 2", "space_origin": None}, "without a size"),
        ({"space": None, "space_directions": None, "space_origin": None, "axis_maxs": "3 4 5"}, "without a size"),
        (
            {"space": None, "space_directions": None, "space_origin": None, "spacings": "1 2 3", "axis_mins": "5 5 5"},
            "centers",
        ),
    ],
)
def test_what_contradicts_is_refused_with_the_reason(
    changes: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.nrrd", **changes)
    with pytest.raises(AutolmkError) as caught:
        imageio.read_image([file])
    assert message in str(caught.value) and caught.value.file == str(file) and caught.value.remedy


def test_without_any_size_there_is_no_physical_size(tmp_path: Path) -> None:
    bare: dict[str, str | None] = {"space": None, "space_directions": None, "space_origin": None}
    file = write(tmp_path / "a.nrrd", **bare)
    assert not imageio.has_physical_size(file)
    assert imageio.read_geometry(file, spacing=(3, 2, 1)).spacing == (3, 2, 1)
    assert not imageio.has_physical_size(write(file, **bare, spacings="NaN NaN NaN"))


def test_axis_mins_place_the_first_voxel(tmp_path: Path) -> None:
    bare: dict[str, str | None] = {"space": None, "space_directions": None, "space_origin": None}
    bare |= {"spacings": "1 2 3", "axis_mins": "5 5 5", "centers": "cell cell node"}
    assert imageio.read_geometry(write(tmp_path / "a.nrrd", **bare)).origin.tolist() == [5.5, 6, 5]


@pytest.mark.parametrize(("centers", "fits"), [("cell", True), ("node", False)])
def test_ends_of_axes_hold_the_spacings(centers: str, fits: bool, tmp_path: Path) -> None:
    ends = [n * s for n, s in zip((3, 4, 5), (1, 2, 3), strict=True)]
    bare: dict[str, str | None] = {"space": None, "space_directions": None, "space_origin": None}
    bare |= {"spacings": "1 2 3", "axis_mins": "0 0 0", "axis_maxs": " ".join(map(str, ends))}
    file = write(tmp_path / "a.nrrd", **bare, centers=" ".join([centers] * 3))
    if fits:
        assert imageio.read_geometry(file).spacing == (3, 2, 1)
    else:
        with pytest.raises(AutolmkError, match=r"spacing 1; 1\.5 by axis mins"):
            imageio.read_geometry(file)


def test_negative_spacings_are_said(tmp_path: Path) -> None:
    bare: dict[str, str | None] = {"space": None, "space_directions": None, "space_origin": None}
    with imageio.noticed() as notices:
        assert imageio.read_geometry(write(tmp_path / "a.nrrd", **bare, spacings="-1 2 3")).spacing == (3, 2, 1)
    assert "a header holds negative sizes of voxels" in [n.problem for n in notices]


def test_bytes_beyond_the_voxels_are_noticed(tmp_path: Path) -> None:
    with imageio.noticed() as notices:
        imageio.read_image([write(tmp_path / "a.nrrd", VOXELS.tobytes() * 2)])
    assert [n.found for n in notices] == ["240 bytes"] and notices[0].expected == "120 bytes"


def test_opacity_is_dropped(tmp_path: Path) -> None:
    fields = {"type": "uchar", "dimension": "4", "sizes": "4 3 4 5", "kinds": "RGBA-color domain domain domain"}
    fields["space_directions"] = "none (1,0,0) (0,2,0) (0,0,3)"
    data = np.arange(240, dtype="u1")
    image = imageio.read_image([write(tmp_path / "a.nrrd", data.tobytes(), **fields)])
    np.testing.assert_array_equal(image.array, data.reshape(5, 4, 3, 4).transpose(3, 0, 1, 2)[:3])


def test_values_that_float32_does_not_hold_are_refused_or_noticed(tmp_path: Path) -> None:
    big = np.full(60, 1e300, "<f8")
    with pytest.raises(AutolmkError, match="not numbers"):
        imageio.read_image([write(tmp_path / "a.nrrd", big.tobytes(), type="double")])
    whole = np.full(60, 2**40 + 1, "<i8")
    with imageio.noticed() as notices:
        imageio.read_image([write(tmp_path / "a.nrrd", whole.tobytes(), type="int64")])
    assert [n.problem for n in notices] == ["an image has values of more digits than are kept"]


def test_voxels_of_an_unusual_size_are_noticed_and_impossible_ones_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.nrrd", space_directions="(0.5,0,0) (0,0.5,0) (0,0,500)")
    with imageio.noticed() as notices:
        imageio.read_geometry(file)
    assert ["unusual size" in n.problem for n in notices] == [True]
    with pytest.raises(AutolmkError, match="makes no sense"):
        imageio.read_geometry(write(file, space_directions="(1e-300,0,0) (0,1,0) (0,0,1)"))


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize(
    "listed",
    ["LIST\ns1.raw\ns2.raw\ns3.raw\ns4.raw", "s%d.raw 1 4 1", "s%01d.raw 1 4 1 2", "s%d.raw 4 1 -1", "LIST 3\nslab"],
)
def test_voxels_in_several_files_are_one_volume(listed: str, encoding: str, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-9, 9, (4, 3, 2)).astype("<i2")
    pack = gzip.compress if encoding == "gzip" else bytes
    for k in range(4):
        (tmp_path / f"s{k + 1}.raw").write_bytes(pack(voxels[k].tobytes()))
    (tmp_path / "slab").write_bytes(pack(voxels.tobytes()))
    (tmp_path / "a.nhdr").write_text(
        "NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nsizes: 2 3 4\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
        f"space origin: (0,0,0)\nendian: little\nencoding: {encoding}\ndata file: {listed}\n"
    )
    found = imageio.read_image([tmp_path / "a.nhdr"]).array[0]
    np.testing.assert_array_equal(found, voxels[::-1] if "-1" in listed else voxels)


def test_a_part_that_is_too_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.nhdr").write_text(
        "NRRD0004\ntype: uchar\ndimension: 2\nsizes: 2 2\nspacings: 1 1\nencoding: raw\ndata file: s%d.raw 1 2 1\n"
    )
    (tmp_path / "s1.raw").write_bytes(b"12")
    (tmp_path / "s2.raw").write_bytes(b"1")
    with pytest.raises(AutolmkError, match="truncated") as caught:
        imageio.read_image([tmp_path / "a.nhdr"])
    assert "s2.raw" in str(caught.value.file)
