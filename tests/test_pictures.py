"""Pictures: pixels as viewers show them, compared with arrays that were written by Pillow and tifffile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from autolmk import imageio
from autolmk.errors import AutolmkError

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
