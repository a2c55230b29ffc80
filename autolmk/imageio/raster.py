"""PNG, JPEG and BMP, through Pillow.

PNG: sizes and types from IHDR; every chunk's CRC is checked; 1, 2 and 4 bits are scaled to 0 to 255, palettes become
RGB, 16 bits stay 16. JPEG: size, bits and components from its SOF marker; each scan must reach the end marker,
with all its restart markers; CMYK and YCCK become RGB. BMP: size from its header. Resolution (pHYs, JFIF, EXIF),
gamma and colour profiles are not used; the orientation of EXIF is.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from autolmk.imageio import png_scans
from autolmk.imageio.itk import ImageSource
from autolmk.imageio.jpeg_scans import is_whole
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

MOST_PIXELS = 178_956_970  # where Pillow, too, believes in a decompression bomb
MOST_PER_BYTE = 2048  # pixels; deflate packs 1032 bytes into one, a JPEG block of 64 pixels needs a bit
SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
PLAIN_SOF = (0xC0, 0xC1, 0xC2)


def inspect(file: Path, kind: str) -> ImageSource:
    """The size of a PNG, JPEG or BMP file, whose structure is checked. AutolmkError where it is damaged or not read."""
    data = file.read_bytes()
    width, height, exif = {"PNG": _check_png, "JPEG": _check_jpeg, "BMP": _check_bmp}[kind](file, data)
    if width < 1 or height < 1:
        raise damaged(file, f"{width} × {height} pixels", "a size above 0")
    if width * height > MOST_PIXELS:
        raise too_large(file, width, height, "more than can be read", f"at most {MOST_PIXELS} pixels")
    if width * height > MOST_PER_BYTE * len(data):
        raise too_large(file, width, height, f"in {len(data)} bytes", "a file that can hold as many")
    orientation = check_orientation(file, _exif_orientation(file, exif), height, width)
    return plane(file, turned_shape(height, width, orientation), lambda: turn(_decode(file, kind), orientation))


def _decode(file: Path, kind: str) -> Pixels:
    """(Y, X) or (Y, X, C) as stored, without opacity."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's own bounds, which are checked above
            with Image.open(
                file, formats=["PNG"] if kind == "PNG" else ["JPEG", "MPO"] if kind == "JPEG" else ["BMP"]
            ) as image:
                if kind == "PNG":
                    _check_rows(file)
                if kind == "PNG" and _png_16_bit_colour(file):
                    return _deep_png(file)
                image.load()
                if kind == "JPEG" and not is_whole(file.read_bytes(), image):
                    raise damaged(file, "fewer pixels in a scan than its size says", "a whole JPEG file")
                return _pixels(file, image)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise damaged(file, str(error) or type(error).__name__, f"a whole {kind} file") from None


def _pixels(file: Path, image: Image.Image) -> Pixels:
    if image.mode == "CMYK":
        notice(
            "an image has the colours of print; they are converted to red, green and blue",
            file,
            found="CMYK",
            expected="RGB or grey",
            remedy="nothing, if all images of the dataset are of this kind; else export RGB",
        )
        return np.asarray(image.convert("RGB"))
    transparency = image.info.get("transparency")
    if image.mode == "I;16" or image.mode == "I":
        array = np.asarray(image)
        if transparency is not None:
            drop_opacity(file, np.stack([array, array != transparency], -1), 1)
        return array
    if image.mode == "P":
        _check_palette(file, image)
        image = image.convert("RGBA" if transparency is not None else "RGB")
    elif transparency is not None:
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB", "LA", "RGBA"):
        raise unsupported(file, f"Pillow's mode {image.mode}", "convert it to grey or RGB")
    array = np.asarray(image)
    if image.mode == "LA":
        return drop_opacity(file, array, 255)[..., 0]
    return drop_opacity(file, array, 255) if image.mode == "RGBA" else array


def _check_palette(file: Path, image: Image.Image) -> None:
    """AutolmkError where a pixel names a colour that the palette does not have; Pillow makes it black."""
    colours, last = len(image.getpalette() or ()) // 3, int(np.asarray(image).max())
    if last >= colours:
        raise damaged(file, f"colour {last} of a palette of {colours}", "colours that the palette has")


def _check_rows(file: Path) -> None:
    chunks = list(_png_chunks(file, file.read_bytes()))
    width, height, bits, colour, _, _, interlace = struct.unpack(">IIBBBBB", dict(chunks)[b"IHDR"])
    expected = png_scans.needed(width, height, bits, colour, bool(interlace))
    found = png_scans.unpacked((body for name, body in chunks if name == b"IDAT"), expected)
    if found < expected:
        raise damaged(file, f"{found} bytes of rows", f"{expected} bytes")


def _png_16_bit_colour(file: Path) -> bool:
    with file.open("rb") as stream:
        start = stream.read(26)
    return start[24] == 16 and start[25] in (2, 4, 6)


def _deep_png(file: Path) -> Pixels:
    import imagecodecs

    try:
        array = np.asarray(imagecodecs.png_decode(file.read_bytes()))
    except imagecodecs.PngError as error:
        raise damaged(file, str(error), "a whole PNG file") from None
    if array.ndim == 3 and array.shape[-1] in (2, 4):
        array = drop_opacity(file, array, 65535)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _check_png(file: Path, data: bytes) -> tuple[int, int, bytes]:
    """(width, height, EXIF) of a PNG file whose chunks are whole (ISO/IEC 15948)."""
    chunks = dict(_png_chunks(file, data))
    if b"IHDR" not in chunks or len(chunks[b"IHDR"]) != 13 or b"IDAT" not in chunks:
        raise damaged(file, "no header or no pixels", "the chunks IHDR and IDAT")
    if b"acTL" in chunks:
        notice(
            "an image is an animation; its default image is read",
            file,
            found="an animated PNG",
            expected="a still image",
            remedy="save the picture that is meant as a PNG of its own",
        )
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    if len(chunks.get(b"pHYs", b"")) == 9:
        x, y = struct.unpack(">II", chunks[b"pHYs"][:8])
        say_not_square(file, x, y, "pHYs")
    return width, height, chunks.get(b"eXIf", b"")


def _png_chunks(file: Path, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[place + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise damaged(file, f"chunk {name!r} with a wrong checksum", "the checksum of its content")
        yield name, data[place + 8 : end - 4]
        if name == b"IEND":
            return
        place = end
    raise damaged(file, f"{len(data)} bytes without the end of the image", "a whole PNG file")


def _check_jpeg(file: Path, data: bytes) -> tuple[int, int, bytes]:
    """(width, height, EXIF) of a JPEG file whose scans are whole (ITU T.81)."""
    place, size, exif, interval = 2, (0, 0), b"", 0
    sampling: dict[int, tuple[int, int]] = {}
    while True:
        while data[place : place + 2] == b"\xff\xff":
            place += 1
        if place + 4 > len(data) and data[place : place + 2] != b"\xff\xd9":
            raise damaged(file, f"{len(data)} bytes without the end of the image", "a whole JPEG file")
        marker = data[place + 1]
        if data[place] != 0xFF:
            raise damaged(file, f"no marker at byte {place}", "a JPEG marker")
        if marker == 0xD9:
            break
        length = struct.unpack_from(">H", data, place + 2)[0]
        body = data[place + 4 : place + 2 + length]
        place += 2 + length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = _frame(file, marker, body)
            sampling = {body[i]: (body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, 6 + 3 * body[5], 3)}
        elif marker == 0xDD and len(body) >= 2:
            interval = struct.unpack(">H", body[:2])[0]
        elif marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 12:
            x, y = struct.unpack(">HH", body[8:12])
            say_not_square(file, x, y, "JFIF")
        elif marker == 0xE1 and body[:6] == b"Exif\0\0":
            exif = exif or body[6:]
        elif marker == 0xDA:
            found = SCAN_END.search(data, place)
            if found is None or size == (0, 0):
                raise damaged(file, f"{len(data)} bytes without the end of the image", "a whole JPEG file")
            if interval:
                units, restarts = _units(size, sampling, body), len(RESTART.findall(data, place, found.start()))
                _check_restarts(file, restarts, -(-units // interval) - 1)
            place = found.end() - 2
    if b"\xff\xd8\xff" in data[place + 2 :]:
        notice(
            "an image file holds several images; the first is read",
            file,
            found="another JPEG image after the end of the first",
            expected="one image",
            remedy="save the picture that is meant as a file of its own",
        )
    return size[0], size[1], exif


def _units(size: tuple[int, int], sampling: dict[int, tuple[int, int]], scan: bytes) -> int:
    """How many units (MCU) a scan codes: blocks of its only component, or groups of blocks of all of its components."""
    most = [max(s[axis] for s in sampling.values()) for axis in (0, 1)]
    if scan[0] > 1:
        sides = [-(-n // (8 * m)) for n, m in zip(size, most, strict=True)]
    else:
        samples = [-((-n * s) // m) for n, s, m in zip(size, sampling[scan[1]], most, strict=True)]
        sides = [-(-n // 8) for n in samples]
    return sides[0] * sides[1]


def _check_restarts(file: Path, found: int, expected: int) -> None:
    if found < expected:
        raise damaged(file, f"{found} restart markers", f"{expected}, as the size of the image needs")


def _frame(file: Path, marker: int, body: bytes) -> tuple[int, int]:
    """(width, height) of a frame header. AutolmkError where its process, bits or components are not read."""
    if len(body) < 6 or len(body) < 6 + 3 * body[5] or not body[5]:
        raise damaged(file, "a frame header that is too short", "a whole JPEG file")
    bits, height, width, components = struct.unpack(">BHHB", body[:6])
    remedy = "convert it to PNG or TIFF with the program that wrote it"
    if marker not in PLAIN_SOF:
        kind = "lossless" if marker in (0xC3, 0xC7, 0xCB, 0xCF) else "hierarchical or arithmetic"
        raise unsupported(file, f"a JPEG file of a {kind} process (SOF{marker - 0xC0})", remedy)
    if bits != 8:
        raise unsupported(file, f"a JPEG file of {bits} bits", remedy)
    if components not in (1, 3, 4):
        raise unsupported(file, f"a JPEG file of {components} components", remedy)
    return width, height


def _check_bmp(file: Path, data: bytes) -> tuple[int, int, bytes]:
    """(width, height, no EXIF) of a BMP file that is as long as uncompressed pixels need."""
    if len(data) < 26:
        raise damaged(file, f"{len(data)} bytes", "a whole BMP file")
    pixels, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif header >= 40 and len(data) >= 34:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise damaged(file, f"a header of {header} bytes", "12, or 40 and more")
    if bits not in (1, 4, 8, 16, 24, 32) or compression not in (0, 1, 2, 3, 6):
        raise unsupported(file, f"a BMP file of {bits} bits, compression {compression}", "convert it to PNG")
    if header >= 40 and len(data) >= 46:
        x, y = struct.unpack_from("<ii", data, 38)
        say_not_square(file, x, y, "the header")
    needed = pixels + (width * bits + 31) // 32 * 4 * abs(height)
    if compression in (0, 3, 6) and len(data) < needed:
        raise damaged(file, f"{len(data)} bytes", f"{needed} bytes for {width} × {abs(height)} pixels of {bits} bits")
    return width, abs(height), b""


def _exif_orientation(file: Path, data: bytes) -> int:
    """The orientation that EXIF states; 1 where there is none, and, noticed, where EXIF cannot be read."""
    if not data:
        return 1
    exif = Image.Exif()
    try:
        if data[:4] not in (b"II*\0", b"MM\0*") and not data.startswith(b"Exif\0\0"):
            raise ValueError(f"it begins with {data[:4].hex(' ')}")
        exif.load(data)
        value = exif.get(0x0112, 1)
        if not isinstance(value, int):
            raise ValueError(f"an orientation of the type {type(value).__name__}: {value!r}")
    except Exception as error:  # Pillow raises errors of many types here
        notice(
            "an image's EXIF data cannot be read; the image is read as stored, without turning it",
            file,
            found=str(error) or type(error).__name__,
            expected="EXIF data with an orientation of 1 to 8, or none",
            remedy="check how it is shown; save it without EXIF data",
        )
        return 1
    return value
