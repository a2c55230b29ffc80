"""Pictures: pixels as viewers show them, compared with arrays that were written by Pillow and tifffile."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from pathlib import Path
from random import Random

import numpy as np
import picture_headers
import pytest
import tifffile
from PIL import Image

from autolmk import imageio
from autolmk.errors import AutolmkError
from autolmk.imageio import picture_files

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 255, (20, 30)).astype(np.uint8)
COLOUR = RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)

TURNS = dict(  # of EXIF 2.32, in Pillow's words
    zip(
        range(2, 9),
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        strict=True,
    )
)


def read(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    array = imageio.read_image([file]).array
    assert imageio.read_geometry(file).shape == array.shape[1:]
    return array


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", [".tif", ".png", ".jpg"])
def test_orientation_is_applied_and_noticed(ending: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, stored in (("grey", GREY), ("colour", COLOUR)):
        file = tmp_path / f"{name}{ending}"
        Image.fromarray(stored).save(file, exif=exif)
        with Image.open(file) as image:  # Pillow turns some TIFF files by itself: the stored pixels are kept apart
            kept = stored if ending != ".jpg" else np.asarray(image)
        turned = Image.fromarray(kept)
        shown = np.asarray(turned.transpose(TURNS[orientation]) if orientation > 1 else turned)
        with imageio.noticed() as said:
            array = read(file)
        np.testing.assert_array_equal(np.moveaxis(array, 0, -1), shown.reshape(*shown.shape[:2], -1))
        assert len(said) == (orientation != 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_tiff_values_are_exact(
    dtype: str, tile: tuple[int, int] | None, compression: str | None, tmp_path: Path
) -> None:
    array = RNG.integers(0, 200, (40, 50)).astype(dtype) * np.asarray(100 if dtype != "uint8" else 1, dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, tile=tile, compression=compression, photometric="minisblack")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], array)


def test_cut_jpeg_and_wrong_png_checksum_are_refused(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        Image.fromarray(GREY).save(tmp_path / name)
        data = bytearray((tmp_path / name).read_bytes())
        if name == "a.png":
            data[len(data) // 2] ^= 1
        (tmp_path / name).write_bytes(data if name == "a.png" else data[:-40])
        with pytest.raises(AutolmkError, match="damaged"):
            read(tmp_path / name)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tif"])
def test_damage_of_any_kind_is_an_error_of_the_file(ending: str, tmp_path: Path) -> None:
    whole, random = tmp_path / f"whole{ending}", Random(ending)
    Image.fromarray(COLOUR).save(whole)
    data = whole.read_bytes()
    for i in range(100):
        broken, place = bytearray(data), random.randrange(len(data) if i % 2 else min(400, len(data)))
        if i % 3 == 0:
            broken[place] ^= 1 << random.randrange(8)
        elif i % 3 == 1:
            del broken[place:]
        else:
            broken[place:place] = random.randbytes(random.randint(1, 9))
        file = tmp_path / f"{i}{ending}"
        file.write_bytes(broken)
        with warnings.catch_warnings(), imageio.noticed():
            warnings.simplefilter("ignore")
            try:
                imageio.read_image([file])
            except AutolmkError as error:
                assert str(file) in str(error)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("restarts", [0, 2])
def test_jpeg_with_data_missing_before_its_end_is_refused(progressive: bool, restarts: int, tmp_path: Path) -> None:
    array, file = RNG.integers(0, 255, (96, 80, 3)).astype(np.uint8), tmp_path / "a.jpg"
    Image.fromarray(array).save(file, progressive=progressive, restart_marker_blocks=restarts)
    data = file.read_bytes()
    read(file)
    file.write_bytes(data[: len(data) // 2 + 200] + data[-2:])
    with pytest.raises(AutolmkError, match="damaged"):
        read(file)
    file.write_bytes(data[:-300] + data[-40:])
    with pytest.raises(AutolmkError, match="damaged"):
        read(file)


def test_exif_that_cannot_be_read_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    for exif in (b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        Image.fromarray(GREY).save(file, exif=exif)
        with imageio.noticed() as said:
            read(file)
        assert any("EXIF" in one.problem for one in said)


def test_generated_headers_are_read_exactly_or_refused(tmp_path: Path) -> None:
    for header in picture_headers.headers(1, 60):
        picture_headers.check(header, tmp_path / f"a{header.ending}")


def test_what_libraries_log_becomes_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.png"
    Image.fromarray((np.arange(600) % 251).astype(np.uint8).reshape(20, 30)).save(file)
    inspect = picture_files._inspect

    def talking(file: Path, ending: str) -> object:
        logging.getLogger("tifffile").warning("incorrect %s count", "StripByteCounts")
        return inspect(file, ending)

    monkeypatch.setattr(picture_files, "_inspect", talking)
    with imageio.noticed() as notices:
        imageio.read_image([file])
    assert [n.found for n in notices] == ["incorrect StripByteCounts count"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_stream_without_all_of_its_rows_is_refused(bits: int, interlaced: bool, tmp_path: Path) -> None:
    """Its checksums are right, and Pillow shows what is missing as black."""
    width, height = 13, 9
    lengths = [height * (1 + width * bits // 8)]
    if interlaced:  # columns and rows of the seven passes
        sizes = [(2, 2), (2, 2), (4, 1), (3, 3), (7, 2), (6, 5), (13, 4)]
        lengths = [rows * (1 + columns * bits // 8) for columns, rows in sizes]
    for missing in (0, 1):
        stream = zlib.compress(bytes(sum(lengths) - missing))
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, interlaced))]
        chunks += [(b"IDAT", stream[:7]), (b"IDAT", stream[7:]), (b"IEND", b"")]
        whole = [struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks]
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(whole))
        if missing:
            with pytest.raises(AutolmkError, match="damaged") as caught:
                read(tmp_path / "a.png")
            assert caught.value.expected == f"{sum(lengths)} bytes"
        else:
            assert read(tmp_path / "a.png").shape == (1, height, width)


def test_colours_that_a_palette_does_not_have_are_refused(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 8).convert("P")
    image.putpalette(list(range(8 * 3)))
    image.save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").shape[0] == 3
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"PLTE")
    short = b"PLTE" + data[at + 4 : at + 4 + 12]
    short = struct.pack(">I", 12) + short + struct.pack(">I", zlib.crc32(short))
    (tmp_path / "a.png").write_bytes(data[: at - 4] + short + data[at + 4 + 24 + 4 :])
    with pytest.raises(AutolmkError, match="palette of 4"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("square", [True, False])
def test_pixels_that_are_not_square_are_said(square: bool, ending: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / f"a{ending}", dpi=(300, 300 if square else 150))
    with imageio.noticed() as notices:
        read(tmp_path / f"a{ending}")
    assert ["not square" in n.problem for n in notices] == [True] * (not square)
    assert imageio.read_geometry(tmp_path / f"a{ending}").spacing == (1, 1)


@pytest.mark.parametrize(("axes", "slices"), [("ZYX", True), ("TYX", False), ("CYX", False), ("ZCYX", False)])
def test_pages_of_time_or_channels_are_no_slices(axes: str, slices: bool, tmp_path: Path) -> None:
    stack = np.zeros((5, 20, 30) if len(axes) == 3 else (5, 2, 20, 30), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, metadata={"axes": axes}, photometric="minisblack")
    if slices:
        assert read(tmp_path / "a.tif").shape == (1, 5, 20, 30)
    else:
        with pytest.raises(AutolmkError, match="several channels or points in time"):
            read(tmp_path / "a.tif")


def test_what_imagej_says_of_the_size_is_said_with_the_slices(tmp_path: Path) -> None:
    metadata = {"spacing": 2.0, "unit": "um", "axes": "ZYX"}
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((4, 20, 30), np.uint16), imagej=True, resolution=(2, 2), metadata=metadata
    )
    with imageio.noticed() as notices:
        read(tmp_path / "a.tif")
    assert [n.found for n in notices] == ["ImageJ: 0.5 × 0.5 um (x × y), slices 2.0 um apart"]


@pytest.mark.parametrize(
    ("said", "expected", "notices"),
    [("cf=0\nc0=-32768.0\nc1=1.0\n", [-32768, -1000], 0), ("cf=0\nc0=5\nc1=0.5\n", [5, 15889], 1),
     ("cf=1\nc0=5\nc1=0.5\nc2=1\n", [0, 31768], 1), ("", [0, 31768], 0)],
)  # fmt: skip
def test_values_are_those_that_imagej_shows(said: str, expected: list[float], notices: int, tmp_path: Path) -> None:
    stored = np.array([[0, 31768]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, description=f"ImageJ=1.54f\n{said}", metadata=None)
    with imageio.noticed() as found:
        image = imageio.read_image([tmp_path / "a.tif"])
    assert image.array.ravel().tolist() == expected and len(found) == notices
