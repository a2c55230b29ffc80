"""TIFF and BigTIFF, through tifffile.

Sample type from BitsPerSample (258) and SampleFormat (339), never reduced; 1, 2 and 4 bits are scaled to 0 to 255.
PhotometricInterpretation (262): grey, white-is-zero (inverted), RGB, palette (by its ColorMap), CMYK and YCbCr in JPEG
(both become RGB). ExtraSamples (338) tells opacity, which is dropped. Orientation (274) is applied. XResolution and
ResolutionUnit are for printing and unused; a physical size of ImageJ, OME-XML or GeoTIFF is noticed. Reduced pages and
masks (NewSubfileType, 254) are left aside; equal pages are the slices of a volume, other sets of pages are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from autolmk.errors import AutolmkError
from autolmk.imageio.itk import ImageSource
from autolmk.imageio.notices import notice
from autolmk.imageio.viewing import (
    Pixels,
    check_orientation,
    damaged,
    drop_opacity,
    plane,
    say_not_square,
    too_large,
    turn,
    turned_shape,
    unsupported,
)

MOST_BYTES = 1 << 35
MOST_PER_BYTE = 4096  # LZW packs up to 2730 bytes into one
MOST_PAGES = 65536
CONVERT = "convert it to an uncompressed or LZW TIFF, or to PNG, without scaling"
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
SAMPLES = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, SEPARATED: 4, YCBCR: 3}
UNKNOWN = re.compile(r"\b(COMPRESSION|PREDICTOR)\b")  # in what tifffile raises for kinds that it cannot unpack
AXES = {"C": "channels", "T": "frames"}
EXACT = 1 << 24  # float32 holds every whole number up to here


def inspect(file: Path) -> ImageSource:
    """The size of the picture, or of the stack of slices, in a TIFF file. AutolmkError where it cannot be read."""
    with _opened(file) as tif:
        pages = _full_pages(file, tif)
        for page in pages:
            _check_page(file, page)
        first = pages[0]
        _check_stack(file, tif, pages)
        height, width = int(first.imagelength), int(first.imagewidth)
        orientation = check_orientation(file, _tag(first, 274, 1), height, width)
        _notice_size(file, tif, first)
        _notice_values(file, tif)
        shape = turned_shape(height, width, orientation)
        stack = len(pages) > 1
    return plane(file, (len(pages), *shape) if stack else shape, lambda: _load(file, orientation))


def _load(file: Path, orientation: int) -> Pixels:
    """([Z,] Y, X) or ([Z,] Y, X, C), as viewers show them."""
    with _opened(file) as tif:
        planes = [turn(_pixels(file, page), orientation) for page in _full_pages(file, tif, say=False)]
        line = _line(tif)
    array = planes[0] if len(planes) == 1 else np.stack(planes)
    return array if line is None else line[0] + line[1] * array.astype(np.float64)


@contextmanager
def _opened(file: Path) -> Iterator[tifffile.TiffFile]:
    try:
        with tifffile.TiffFile(file) as tif:
            yield tif
    except AutolmkError:
        raise
    except (NotImplementedError, imagecodecs.DelayedImportError) as error:
        raise unsupported(file, str(error), CONVERT) from None
    except MemoryError:
        raise damaged(file, "a size that does not fit in memory", "a whole TIFF file") from None
    except Exception as error:  # tifffile and the codecs raise errors of many types, RuntimeError among them
        if isinstance(error, ValueError) and ("not supported" in str(error) or UNKNOWN.search(str(error))):
            raise unsupported(file, str(error), CONVERT) from None
        raise damaged(file, str(error) or type(error).__name__, "a whole TIFF file") from None


def _tag(page: Any, code: int, default: Any) -> Any:
    tag = page.tags.get(code)
    return default if tag is None else tag.value


def _full_pages(file: Path, tif: tifffile.TiffFile, say: bool = True) -> list[Any]:
    """The pages that are images of full size, in order."""
    if len(tif.pages) > MOST_PAGES:
        raise damaged(file, f"more than {MOST_PAGES} pages", "fewer")
    pages = [page if isinstance(page, tifffile.TiffPage) else page.aspage() for page in tif.pages]
    full = [page for page in pages if not int(page.subfiletype) & 5]
    if not full:
        raise damaged(file, f"{len(pages)} pages, all of them reduced images or masks", "an image of full size")
    if say and len(full) < len(pages):
        notice(
            "an image file holds reduced images or masks; they are left aside",
            file,
            found=f"{len(full)} of {len(pages)} pages are of full size",
            expected="one image",
            remedy="nothing, if the image of full size is meant",
        )
    return full


def _check_page(file: Path, page: Any) -> None:
    """AutolmkError where a page is of a kind that is not read, or where its data is not in the file."""
    width, height, samples = int(page.imagewidth), int(page.imagelength), int(page.samplesperpixel)
    if width < 1 or height < 1 or int(page.imagedepth) != 1:
        raise unsupported(file, f"{width} × {height} × {page.imagedepth} pixels in a page", CONVERT)
    try:
        tifffile.TIFF.DECOMPRESSORS[int(page.compression)]
    except (KeyError, ValueError):
        raise unsupported(file, f"the compression {int(page.compression)}", CONVERT) from None
    size = file.stat().st_size
    needed = math.ceil(width * samples * int(page.bitspersample) / 8) * height
    if needed > min(MOST_BYTES, MOST_PER_BYTE * size):
        found, most = f"{needed} bytes unpacked, in a file of {size} bytes", min(MOST_BYTES, MOST_PER_BYTE * size)
        raise too_large(file, width, height, found, f"at most {most} bytes")
    blocks = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if not blocks or any(n < 1 or at < 8 or at + n > size for at, n in blocks):
        raise damaged(file, f"pixels that lie outside its {size} bytes, or nowhere", "pixels inside the file")
    if int(page.compression) == 1 and sum(n for _, n in blocks) < needed:
        raise damaged(file, f"{sum(n for _, n in blocks)} bytes of pixels", f"{needed} bytes")
    if page.dtype is None:
        found = f"{page.bitspersample} bits of sample format {page.sampleformat}"
        raise unsupported(file, found, CONVERT)
    _check_colours(file, page)


def _check_colours(file: Path, page: Any) -> None:
    kind, samples = int(page.photometric), int(page.samplesperpixel)
    base = SAMPLES.get(kind)
    if base is None or (kind == SEPARATED and int(_tag(page, 332, 1)) != 1):
        raise unsupported(file, f"colours of the kind {getattr(page.photometric, 'name', kind)}", CONVERT)
    if samples < base:
        raise damaged(file, f"{samples} samples a pixel", f"{base}, as its kind of colours says")
    if kind == YCBCR and int(page.compression) not in (6, 7):
        raise unsupported(file, "colours of the kind YCbCr outside JPEG", "convert it to RGB")
    if kind in (SEPARATED, PALETTE, WHITE_IS_ZERO) and page.dtype.kind not in "ub":
        found = f"{page.dtype} samples with the kind of colours {getattr(page.photometric, 'name', kind)}"
        raise unsupported(file, found, CONVERT)
    if kind == PALETTE and page.colormap is None:
        raise damaged(file, "a palette image without a palette", "the tag ColorMap")


def _check_stack(file: Path, tif: tifffile.TiffFile, pages: list[Any]) -> None:
    """AutolmkError where several pages are not the slices of one volume."""
    kinds = {(p.imagewidth, p.imagelength, p.samplesperpixel, str(p.dtype), int(p.photometric)) for p in pages}
    kinds_of_orientation = {_tag(p, 274, 1) for p in pages}
    sizes = {f"{p.imagewidth} × {p.imagelength} × {p.samplesperpixel} {p.dtype}" for p in pages}
    remedy = "save the page that is meant, or each channel and point in time, as a file of its own"
    if len(kinds) > 1 or len(kinds_of_orientation) > 1:
        found = f"{len(pages)} pages of {', '.join(sorted(sizes))}"
        raise AutolmkError("the pages of an image differ", file=file, found=found, expected="one page", remedy=remedy)
    ranges, slices = {}, len(pages)
    if tif.is_imagej:
        said = tif.imagej_metadata or {}
        ranges = {key: int(said.get(key, 1)) for key in ("channels", "frames")}
        slices = int(said.get("images", len(pages)))
        if len(pages) == 1 and pages[0].samplesperpixel == ranges["channels"]:
            ranges["channels"] = 1
    elif tif.ome_metadata:
        text = str(tif.ome_metadata)
        said = {key: int(n) for key, n in re.findall(r'\b(Size[ZCT])="(\d{1,9})"', text)}
        samples = int(pages[0].samplesperpixel)
        ranges = {"channels": max(1, said.get("SizeC", 1) // samples), "frames": said.get("SizeT", 1)}
        slices = said.get("SizeZ", 1)
    elif len(pages) > 1 and len(tif.series) == 1:
        axes = [(a, int(n)) for a, n in zip(tif.series[0].axes, tif.series[0].shape, strict=True) if a not in "YXS"]
        ranges = {AXES.get(a, f"steps along {a}"): n for a, n in axes if a not in "ZIQ"}
        slices = next((n for a, n in axes if a in "ZIQ" and n > 1), 1) if any(n > 1 for _, n in axes) else slices
    if any(n > 1 for n in ranges.values()) or slices != len(pages):
        found = f"{slices} slices, " + ", ".join(f"{n} {key}" for key, n in ranges.items()) + f"; {len(pages)} pages"
        raise AutolmkError(
            "an image holds several channels or points in time, or not all of its slices",
            file=file,
            found=found,
            expected="a page for each slice",
            remedy=remedy,
        )


def _pixels(file: Path, page: Any) -> Pixels:
    """(Y, X) or (Y, X, C) of one page, as stored, its colours and polarity as viewers show them."""
    array = np.asarray(page.asarray())
    samples, bits, kind = int(page.samplesperpixel), int(page.bitspersample), int(page.photometric)
    if samples > 1 and int(page.planarconfig) == 2:
        array = np.moveaxis(array, 0, -1)
    if array.shape[:2] != (page.imagelength, page.imagewidth):
        raise damaged(file, f"pixels of the shape {array.shape}", f"{page.imagewidth} × {page.imagelength}")
    if kind == PALETTE:
        return _coloured(array if samples == 1 else array[..., 0], page.colormap)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype.kind == "u" and kind == WHITE_IS_ZERO:
        array = array.dtype.type(2**bits - 1) - array
    if array.dtype == np.uint8 and bits < 8:
        array = array * np.uint8(255 // (2**bits - 1)) if bits in (1, 2, 4) else array
    array = _without_extras(file, array, page, bits)
    if kind == SEPARATED:
        array = _from_cmyk(file, array, bits)
    if (
        array.dtype.kind in "iu"
        and array.itemsize >= 4
        and array.size
        and max(-int(array.min()), int(array.max())) > EXACT
    ):
        notice(
            "an image holds whole numbers that are rounded to float32",
            file,
            found=f"{array.dtype}, from {array.min()} to {array.max()}",
            expected=f"at most {EXACT}",
            remedy="subtract an offset or scale the image if the last digits matter",
        )
    return array


def _without_extras(file: Path, array: Pixels, page: Any, bits: int) -> Pixels:
    """Drop opacity, by ExtraSamples; two or four samples whose last one is not specified are taken as opacity, too."""
    base = SAMPLES[int(page.photometric)]
    extra = [int(x) for x in page.extrasamples]
    more = (array.shape[-1] if array.ndim == 3 else 1) - base
    if more <= 0:
        return array
    if more > 1:
        if any(extra):
            raise unsupported(file, f"{base + more} samples a pixel, ExtraSamples {extra}", "save it as RGB or grey")
        return array
    if extra in ([1], [2]):
        array = drop_opacity(file, array, 1 if array.dtype.kind == "f" else 2 ** max(bits, 8) - 1)
    else:
        notice(
            "an image has a sample more than its colours need; it is dropped",
            file,
            found=f"{base + more} samples a pixel, the last one not specified",
            expected=f"{base}, or ExtraSamples that say what it is",
            remedy="if it is a channel of its own, write each channel as a file",
        )
        array = array[..., :-1]
    return array[..., 0] if base == 1 else array


def _coloured(array: Pixels, palette: Any) -> Pixels:
    """(Y, X) indices -> (Y, X, 3), uint8 where the palette (3, N) of 16 bits holds 8, as most do."""
    table = np.asarray(palette)
    if (table % 257 == 0).all():
        table = (table // 257).astype(np.uint8)
    elif (table % 256 == 0).all():
        table = (table // 256).astype(np.uint8)
    elif table.max() < 256:  # written by programs that take the palette as one of 8 bits
        table = table.astype(np.uint8)
    return np.moveaxis(table[:, array.astype(np.intp)], 0, -1)


def _from_cmyk(file: Path, array: Pixels, bits: int) -> Pixels:
    notice(
        "an image has the colours of print; they are converted to red, green and blue",
        file,
        found="CMYK",
        expected="RGB or grey",
        remedy="nothing, if all images of the dataset are of this kind; else export RGB",
    )
    most = 2**bits - 1
    ink = most - array.astype(np.float64)
    return np.asarray(np.round(ink[..., :3] * ink[..., 3:] / most), array.dtype)


def calibration(file: Path) -> tuple[float, float, str] | None:
    """Width and height of a pixel, and their unit, that ImageJ has written into a TIFF; None where it has not."""
    with _opened(file) as tif:
        return _calibration(tif, tif.pages[0])


def _calibration(tif: tifffile.TiffFile, page: Any) -> tuple[float, float, str] | None:
    unit = str((tif.imagej_metadata or {}).get("unit", "")).strip() if tif.is_imagej else ""
    x, y = (_tag(page, code, (0, 1)) for code in (282, 283))
    known = unit and unit.lower() not in ("pixel", "pixels", "inch") and x[0] and y[0]
    return (x[1] / x[0], y[1] / y[0], unit) if known else None


def _line(tif: tifffile.TiffFile) -> tuple[float, float] | None:
    """(c0, c1) of values c0 + c1 x stored, as ImageJ writes them for numbers with a sign; None where it does not."""
    said = (tif.imagej_metadata or {}) if tif.is_imagej else {}
    if said.get("cf") != 0 or int(tif.pages.first.photometric) not in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        return None
    try:
        offset, slope = float(said.get("c0", 0)), float(said.get("c1", 1))
    except (TypeError, ValueError):
        return None
    return (offset, slope) if math.isfinite(offset) and math.isfinite(slope) and slope != 0 else None


def _notice_values(file: Path, tif: tifffile.TiffFile) -> None:
    """Say where ImageJ's calibration changes values, or would by a curve, which is not applied."""
    said = (tif.imagej_metadata or {}) if tif.is_imagej else {}
    line, curve = _line(tif), said.get("cf")
    if line is None and curve in (None, 0, 20):  # 20: none
        return
    if line is not None and line[0] == -32768 and line[1] == 1:
        return  # how ImageJ stores 16 bits with a sign: nothing else could be meant
    notice(
        "an image scales its values" if line else "an image has a calibration curve, which is not applied",
        file,
        found=f"ImageJ: {line[0]:g} + {line[1]:g} x stored" if line else f"ImageJ's function {curve}",
        remedy="nothing, if it is so in all images of the dataset; else save the image without a calibration",
    )


def _notice_size(file: Path, tif: tifffile.TiffFile, page: Any) -> None:
    """Say where a file states how large a pixel is in a way that is no resolution for printing."""
    found = None
    if tif.is_imagej:
        if (size := _calibration(tif, page)) is not None:
            found = f"ImageJ: {size[0]:.6g} × {size[1]:.6g} {size[2]} (x × y)"
            slices = (tif.imagej_metadata or {}).get("spacing")
            found += f", slices {slices} {size[2]} apart" if slices else ""
    elif tif.ome_metadata:
        sizes = re.findall(r'\b(PhysicalSize[XYZ](?:Unit)?)="([^"]{1,40})"', str(tif.ome_metadata)[: 1 << 20])
        found = "OME-XML: " + ", ".join(f"{key} {value}" for key, value in sizes) if sizes else None
    elif page.tags.get(33550) is not None:
        found = f"GeoTIFF: ModelPixelScale {_tag(page, 33550, None)}"
    if found:
        notice(
            "an image says how large its pixels are in a way that is not used",
            file,
            found=found,
            expected="spacing in dataset.json, in mm",
            remedy="if it is right for all images, give it as spacing, in mm, rows first",
        )
        return
    x, y = (_tag(page, code, (0, 1)) for code in (282, 283))
    if all(isinstance(r, tuple) and len(r) == 2 and r[1] for r in (x, y)):
        say_not_square(file, x[0] / x[1], y[0] / y[1], "XResolution and YResolution")
