"""Values of DICOM files whose bits, colours or streams contradict the header."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import PIXELS, write
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from autolmk import imageio
from autolmk.errors import AutolmkError

COLOUR = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
y, x = np.mgrid[0:16, 0:24]
SHADES = np.stack([y * 8 + 60, x * 6 + 40, 200 - y * 5], axis=-1).astype(np.uint8)


def packed(file: Path, syntax: str, stream: bytes) -> Path:
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(file)
    return file


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize("luminance", [True, False])
def test_a_jpeg_streams_own_colours_count(label: str, luminance: bool, tmp_path: Path) -> None:
    space = "YCBCR" if luminance else "RGB"
    stream = imagecodecs.jpeg8_encode(SHADES, level=100, colorspace="RGB", outcolorspace=space)
    if not luminance:  # what says that it holds red, green and blue
        stream = stream[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\0" + stream[2:]
    file = write(tmp_path / "a.dcm", SHADES, PhotometricInterpretation=label, Rows=16, Columns=24, **COLOUR)
    packed(file, JPEGBaseline8Bit, stream)
    with imageio.noticed() as notices:
        array = imageio.read_image([file]).array[:, 0]
    assert np.abs(array - np.moveaxis(SHADES.astype(float), -1, 0)).max() <= 6
    agrees = luminance == (label != "RGB")
    assert ["colours of an image" in n.problem for n in notices] == [True] * (not agrees)


def test_a_stream_of_another_size_is_refused(tmp_path: Path) -> None:
    tall = np.arange(16 * 24, dtype="u2").reshape(16, 24)
    file = packed(
        write(tmp_path / "a.dcm", tall[:8], Rows=8, Columns=24), JPEGLSLossless, imagecodecs.jpegls_encode(tall)
    )
    with pytest.raises(AutolmkError, match="another size") as caught:
        imageio.read_image([file])
    assert "24 x 16" in str(caught.value.found) and "24 x 8" in str(caught.value.expected)


def test_values_above_the_stored_bits_are_said_and_overlays_are_not(tmp_path: Path) -> None:
    for tags, notices in (({}, 1), ({"OverlayRows": 4}, 0), ({"BitsStored": 16, "HighBit": 15}, 0)):
        file = write(tmp_path / "a.dcm", PIXELS | 0x8000, **{k: v for k, v in tags.items() if k != "OverlayRows"})
        if "OverlayRows" in tags:
            dataset = pydicom.dcmread(file)
            dataset.add_new((0x6000, 0x0102), "US", 15)  # the bit that the overlay is in
            dataset.save_as(file)
        with imageio.noticed() as said:
            imageio.read_image([file])
        assert ["more bits" in n.problem for n in said] == [True] * notices


def test_the_sign_above_the_stored_bits_is_no_value(tmp_path: Path) -> None:
    for extended in (True, False):
        signed = (PIXELS.astype("<i2") - 10) & (-1 if extended else 0x0FFF)
        with imageio.noticed() as said:
            image = imageio.read_image([write(tmp_path / "a.dcm", signed)])
        np.testing.assert_array_equal(image.array[0, 0], PIXELS.astype(int) - 10)
        assert said == []


@pytest.mark.parametrize(("used", "first"), [(8, 0), (8, 3), (12, 0)])
def test_palettes_are_applied_as_their_descriptors_say(used: int, first: int, tmp_path: Path) -> None:
    """Also where indices have fewer bits than colours, and where the palette does not begin with 0."""
    bits = 16 if used > 8 else 8
    palette = (np.arange(40)[:, None] * [500, 900, 1500]).astype("<u2")
    tags: dict[str, object] = {"BitsAllocated": bits, "BitsStored": used, "HighBit": used - 1}
    for c, name in enumerate(("Red", "Green", "Blue")):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [40, first, 16]
        tags[f"{name}PaletteColorLookupTableData"] = palette[:, c].tobytes()
    indices = PIXELS.astype(f"<u{bits // 8}")
    image = imageio.read_image([write(tmp_path / "a.dcm", indices, PhotometricInterpretation="PALETTE COLOR", **tags)])
    meant = palette[np.maximum(PIXELS.astype(int) - first, 0)] >> (8 if bits == 8 else 0)
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(meant, -1, 0))


def test_palettes_of_8_bits_in_words_of_16_are_not_black(tmp_path: Path) -> None:
    palette = np.arange(40)[:, None] * [1, 3, 6]
    tags: dict[str, object] = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    for c, name in enumerate(("Red", "Green", "Blue")):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [40, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = palette[:, c].astype("<u2").tobytes()
    indices = PIXELS.astype("u1")
    image = imageio.read_image([write(tmp_path / "a.dcm", indices, PhotometricInterpretation="PALETTE COLOR", **tags)])
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(palette[PIXELS], -1, 0))


def test_pixels_that_share_colour_differences_are_whole_by_two_bytes_each(tmp_path: Path) -> None:
    """As older ultrasound devices write them: luminance of two pixels, then the differences of both."""
    rows, columns = 64, 48
    packed_pixels = np.empty((rows, columns // 2, 4), np.uint8)
    packed_pixels[...] = [50, 200, 128, 128]
    file = write(tmp_path / "a.dcm", packed_pixels, PhotometricInterpretation="YBR_FULL_422", **COLOUR)
    dataset = pydicom.dcmread(file)
    dataset.Rows, dataset.Columns = rows, columns
    dataset.save_as(file)
    array = imageio.read_image([file]).array
    assert array.shape == (3, 1, rows, columns) and (array[:, 0, 3, :4] == [50, 200, 50, 200]).all()
    dataset.PixelData = dataset.PixelData[: rows * columns]
    dataset.save_as(file)
    with pytest.raises(AutolmkError, match=r"truncated|damaged|decoded"):
        imageio.read_image([file])


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_colours_by_run_lengths_are_exact(kind: str, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256 ** int(kind[1]), (4, 5, 3)).astype(kind)
    bits = 8 * colours.itemsize
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "PixelSpacing": [1, 1]}
    file = write(tmp_path / "a.dcm", colours, BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1, **tags)
    dataset = pydicom.dcmread(file)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(file)
    np.testing.assert_array_equal(imageio.read_image([file]).array[:, 0], np.moveaxis(colours, -1, 0))


@pytest.mark.parametrize(("signed", "high"), [(0, 15), (1, 15), (0, 13), (1, 12)])
def test_values_in_the_upper_bits_are_shifted_down_and_what_is_around_them_left_out(
    signed: int, high: int, tmp_path: Path
) -> None:
    meant = PIXELS.astype(np.int64) * 100 - 900 * signed
    around = 0b1111 << (high + 1)
    raw = ((meant & 0xFFF) << (high - 11) | around) & 0xFFFF
    file = write(tmp_path / "a.dcm", raw.astype("<u2"), PixelSpacing=[1, 1])
    dataset = pydicom.dcmread(file)
    dataset.HighBit, dataset.PixelRepresentation = high, signed
    dataset.save_as(file)
    with imageio.noticed():
        np.testing.assert_array_equal(imageio.read_image([file]).array[0, 0], meant)
    dataset.PixelData = (raw | 1).astype("<u2").tobytes()  # as where HighBit is wrong: values begin at bit 0
    dataset.save_as(file)
    with imageio.noticed(), pytest.raises(AutolmkError, match="lower bits that are in use"):
        imageio.read_image([file])
