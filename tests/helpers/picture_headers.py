"""Generated PNG, JPEG, BMP and TIFF files, consistent and contradictory, with what must come of them."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image

from autolmk import imageio
from autolmk.errors import AutolmkError

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Header:
    """A file, its pixels (Y, X, C) as shown, how far values may be off, and what must come of it."""

    data: bytes
    ending: str
    values: Array
    tolerance: float
    expected: str


def headers(seed: int, n: int) -> list[Header]:
    """`n` different ones."""
    return [_header(Random(f"{seed}-{i}")) for i in range(n)]


def check(header: Header, file: Path) -> str:
    """ "read" or why it was refused. AssertionError where that is not as it must be."""
    file.write_bytes(header.data)
    try:
        with imageio.noticed():
            array = np.moveaxis(imageio.read_image([file]).array, 0, -1)
    except AutolmkError as error:
        assert header.expected != "read" and header.expected in str(error), (header.expected, str(error))
        return header.expected
    assert header.expected == "read", (header.expected, "was read")
    assert array.shape == header.values.shape, (array.shape, header.values.shape)
    assert np.abs(array - header.values.astype(float)).max() <= header.tolerance
    return "read"


def _header(random: Random) -> Header:
    return random.choice((_tiff, _tiff, _png, _jpeg, _bmp))(random)


def _shown(array: Array, orientation: int) -> Array:
    """By where EXIF 2.32 puts the first row and column."""
    if orientation < 5:
        turns = {1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1]}
        return turns[orientation]
    across = array.transpose(1, 0, 2)
    return {5: across, 6: across[:, ::-1], 7: across[::-1, ::-1], 8: across[::-1]}[orientation]


def _array(random: Random, channels: int, kind: str, most: int = 255) -> Array:
    shape = (random.randint(2, 40), random.randint(2, 40), channels)
    return np.random.default_rng(random.randrange(1 << 30)).integers(0, most + 1, shape).astype(kind)


def _tiff(random: Random) -> Header:
    order, orientation = random.choice("<>"), random.randint(1, 8)
    colour, alpha = random.choice((False, True)), random.choice((False, True))
    kind = random.choice(("u1", "u2", "i2", "u4", "f4"))
    base = 3 if colour else 1
    array = _array(random, base + alpha, order + kind, 120)
    white = not colour and kind in ("u1", "u2") and random.random() < 0.3
    planar = 2 if base + alpha > 1 and random.random() < 0.4 else 1
    fault = random.choice(("", "", "", "short", "compression", "orientation", "huge"))
    planes = [array[..., c : c + 1] for c in range(base + alpha)] if planar == 2 else [array]
    tile, blocks = random.choice((0, 16)), []
    for part in planes:
        for y in range(0, part.shape[0], tile or part.shape[0]):
            for x in range(0, part.shape[1], tile or part.shape[1]):
                block = part[y : y + (tile or part.shape[0]), x : x + (tile or part.shape[1])]
                if tile:
                    block = np.pad(block, [(0, tile - block.shape[0]), (0, tile - block.shape[1]), (0, 0)])
                blocks.append(block.tobytes())
    packed = random.choice((1, 8))
    blocks = [zlib.compress(b) if packed == 8 else b for b in blocks]
    format_code = {"u": 1, "i": 2, "f": 3}[kind[0]]
    tags = {256: [array.shape[1]], 257: [array.shape[0]], 258: [8 * array.itemsize] * (base + alpha)}
    tags |= {259: [packed], 262: [2 if colour else 0 if white else 1], 274: [orientation], 277: [base + alpha]}
    tags |= {284: [planar], 339: [format_code] * (base + alpha)} | ({338: [2]} if alpha else {})
    at = np.cumsum([8, *map(len, blocks)]).tolist()
    offsets, counts = (324, 325) if tile else (273, 279)
    tags |= {offsets: at[:-1], counts: [len(b) for b in blocks]}
    tags |= {322: [tile], 323: [tile]} if tile else {278: [array.shape[0]]}
    expected = {"short": "damaged", "compression": "not read", "orientation": "does not exist", "huge": "not believed"}
    if fault == "short":
        tags[offsets] = [10**8, *at[1:-1]]
    elif fault == "compression":
        tags[259] = [65000]
    elif fault == "orientation":
        tags[274] = [random.randint(9, 99)]
    elif fault == "huge":
        tags[256] = tags[257] = [10**9]
    shown = array[..., :base]
    shown = (np.iinfo(kind).max - shown) if white else shown
    data = _tiff_bytes(order, blocks, tags)
    return Header(data, random.choice((".tif", ".tiff")), _shown(shown, orientation), 0, expected.get(fault, "read"))


def _tiff_bytes(order: str, blocks: list[bytes], tags: dict[int, list[int]]) -> bytes:
    body = b"".join(blocks)
    body += b"\0" * (len(body) % 2)
    start = 8 + len(body)
    after, entries = start + 2 + 12 * len(tags) + 4, []
    more = b""
    for code in sorted(tags):
        values = struct.pack(f"{order}{len(tags[code])}I", *tags[code])
        kind = 4
        if code in (258, 259, 262, 274, 277, 284, 338, 339):
            values, kind = struct.pack(f"{order}{len(tags[code])}H", *tags[code]), 3
        if len(values) > 4:
            place = struct.pack(order + "I", after + len(more))
            more += values + b"\0" * (len(values) % 2)
            values = place
        entries.append(struct.pack(order + "HHI", code, kind, len(tags[code])) + values.ljust(4, b"\0"))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + body + struct.pack(order + "H", len(tags)) + b"".join(entries) + bytes(4) + more


def _png(random: Random) -> Header:
    colour, alpha, bits = random.choice((0, 2)), random.choice((0, 4)), random.choice((8, 16))
    base = 3 if colour else 1
    array = _array(random, base + alpha // 4, ">u1" if bits == 8 else ">u2", 2**bits - 1)
    fault = random.choice(("", "", "checksum", "cut", "huge"))
    height, width = array.shape[:2]
    size = (10**9, 10**9) if fault == "huge" else (width, height)
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in (
        (b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour + alpha, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        wrong = fault == "checksum" and name == b"IDAT"
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ wrong)
    data = data[: -random.randint(1, 20)] if fault == "cut" else data
    expected = {"checksum": "damaged", "cut": "damaged", "huge": "not believed"}.get(fault, "read")
    return Header(data, ".png", array[..., :base], 0, expected)


def _jpeg(random: Random) -> Header:
    colour, orientation = random.choice((False, True)), random.randint(1, 8)
    array, exif, stream = _array(random, 3 if colour else 1, "u1"), Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image = Image.fromarray(array if colour else array[..., 0])
    image.save(stream, "JPEG", quality=100, subsampling=0, exif=exif, progressive=random.choice((False, True)))
    data, fault = stream.getvalue(), random.choice(("", "", "cut", "middle"))
    if fault == "cut":
        data = data[: -random.randint(2, 40)]
    elif fault == "middle":
        scan = data.rindex(b"\xff\xda") + 14
        data = data[:scan] + b"\xff\xd9"
    return Header(data, ".jpg", _shown(array, orientation), 5, "damaged" if fault else "read")


def _bmp(random: Random) -> Header:
    array, up = _array(random, 3, "u1"), random.choice((True, False))
    height, width = array.shape[:2]
    rows = [row[:, ::-1].tobytes() + b"\0" * (-3 * width % 4) for row in (array[::-1] if up else array)]
    body, fault = b"".join(rows), random.choice(("", "", "cut", "bits"))
    head = struct.pack("<IiiHHIIiiII", 40, width, height if up else -height, 1, 24, 0, len(body), 0, 0, 0, 0)
    if fault == "bits":
        head = head[:14] + struct.pack("<H", 7) + head[16:]
    data = b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + head + body
    expected = {"cut": "damaged", "bits": "not read"}.get(fault, "read")
    return Header(data[:-5] if fault == "cut" else data, ".bmp", array, 0, expected)
