"""Frames of blosc2, looked at before blosc2 opens them, so that no file can make it run or fetch anything.

What blosc2 calls an array may also be a formula, a function with its source, or a link to another file or server; and a
chunk may ask for a codec that lives in a package, which blosc2 then looks for by starting Python in the current folder.
A frame passes only if it is a plain array of the built-in codecs. The layout is that of c-blosc2's
README_CFRAME_FORMAT, README_CHUNK_FORMAT and README_B2ND_METALAYER.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAGIC = b"b2frame\0"
LONGEST_HEADER = 4096  # bytes; a plain array's header has about 200
MOST_BYTES = 2**40  # of an array, unpacked
FIXED = struct.Struct(">BB8sBiBQB4sBqBqBiBiBiBhBhBBB8s8s")  # up to the metalayers, msgpack's marks between the values
CODECS, FORMATS, FILTERS = range(6), (0, 1, 3, 4), range(5)  # built into the library; others are plug-ins
ARRAY = b"b2nd"  # the one metalayer of a plain array


@dataclass(frozen=True)
class StoredFrame:
    """The header of a frame. shape, chunks, blocks: (D,) voxels. dtype: as numpy writes it, such as <f4."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    blocks: tuple[int, ...]
    dtype: str

    @property
    def n_chunks(self) -> int:
        """The number of chunks in the array."""
        return math.prod(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))

    @property
    def chunk_bytes(self) -> int:
        """The bytes of an unpacked chunk, which is padded to whole blocks."""
        padded = (-(-c // b) * b for c, b in zip(self.chunks, self.blocks, strict=True))
        return math.prod(padded) * np.dtype(self.dtype).itemsize


def check_frame(file: Path, *, dtype: str, shape: Sequence[int], chunks: Sequence[int]) -> None:
    """Raise ValueError where a file is no frame of a plain array of this type, shape and chunks, in built-in codecs."""
    expected = (dtype, tuple(shape), tuple(chunks))
    if not file.is_file():
        raise ValueError("no single file")
    with file.open("rb") as stream:
        frame, header, compressed = _header(stream, file.stat().st_size)
        found = (frame.dtype, frame.shape, frame.chunks)
        if found != expected:
            raise ValueError(f"an array of {_said(*found)} instead of {_said(*expected)}")
        _check_chunks(stream, frame, header, compressed)


def _said(dtype: str, shape: tuple[int, ...], chunks: tuple[int, ...]) -> str:
    return f"type {dtype}, shape {shape} and chunks {chunks}"


def _header(stream: BinaryIO, size: int) -> tuple[StoredFrame, int, int]:
    """(what the frame says, bytes of its header, bytes of its chunks)."""
    start = stream.read(FIXED.size)
    if len(start) < FIXED.size or start[2:10] != MAGIC:
        raise ValueError("it does not begin as a blosc2 frame does")
    values = FIXED.unpack(start)
    header, frame_size, flags, unpacked, compressed = values[4], values[6], values[8], values[10], values[12]
    vlmeta, filters = values[23], values[26]
    if not FIXED.size < header <= LONGEST_HEADER or frame_size != size or not 0 <= compressed <= size - header:
        raise ValueError("its size is not what its header says")
    if flags[1] & 0x0F or flags[2] & 0x0F not in CODECS or any(code not in FILTERS for code in filters[:6]):
        raise ValueError("it is no contiguous frame of built-in codecs")
    frame = _array(_metalayer(stream.read(header - FIXED.size)))
    if vlmeta != 0xC2:  # msgpack's "false"
        raise ValueError("it carries data beside the array, which no preprocessed case does")
    if not 0 < unpacked == frame.n_chunks * frame.chunk_bytes <= MOST_BYTES:
        raise ValueError("its size is not what its shape needs")
    return frame, header, compressed


def _metalayer(content: bytes) -> bytes:
    """Of the part of the header that holds the metalayers, the array's, which must be alone."""
    index = content.find(0xDE)
    names = content[index + 3 : index + 3 + 1 + len(ARRAY)]
    if index < 0 or content[index + 1 : index + 3] != b"\0\1" or names != bytes([0xA0 + len(ARRAY)]) + ARRAY:
        raise ValueError("it is no plain array; it may hold code or links, so it is not opened")
    place = content.find(b"\xdc\0\1\xc6", index)
    if place < 0:
        raise ValueError("its header is damaged")
    return content[place + 8 : place + 8 + int.from_bytes(content[place + 4 : place + 8], "big")]


def _array(meta: bytes) -> StoredFrame:
    """msgpack: [version, D, [shape], [chunks], [blocks], kind of dtype, dtype]."""
    try:
        ndim, place = meta[2], 3
        numbers: list[tuple[int, ...]] = []
        for code, width in ((0xD3, 8), (0xD2, 4), (0xD2, 4)):
            if meta[0] not in (0x97, 0x98) or meta[place] != 0x90 + ndim or not 1 <= ndim <= 4:
                raise ValueError("its shape is damaged")
            parts = [meta[place + 1 + k * (width + 1) :][: width + 1] for k in range(ndim)]
            if any(part[0] != code or len(part) != width + 1 for part in parts):
                raise ValueError("its shape is damaged")
            numbers.append(tuple(int.from_bytes(part[1:], "big", signed=True) for part in parts))
            place += 1 + ndim * (width + 1)
        if meta[place] != 0 or meta[place + 1] != 0xDB:
            raise ValueError("its type is no number's")
        length = int.from_bytes(meta[place + 2 : place + 6], "big")
        dtype = meta[place + 6 : place + 6 + length].decode("ascii")
    except (IndexError, UnicodeDecodeError):
        raise ValueError("its header is damaged") from None
    shape, chunks, blocks = numbers
    if min(min(values) for values in numbers) < 1 or dtype not in ("<f4", "|u1"):
        raise ValueError(f"an array of type {dtype!r} and shape {shape}")
    return StoredFrame(shape, chunks, blocks, dtype)


def _check_chunks(stream: BinaryIO, frame: StoredFrame, header: int, compressed: int) -> None:
    """ValueError where the index or a chunk is not of a built-in codec, or lies outside the frame."""
    import blosc2

    size = _chunk_size(stream, header + compressed, 8 * frame.n_chunks)
    stream.seek(header + compressed)
    offsets = np.frombuffer(blosc2.decompress2(stream.read(size)), dtype="<i8")
    for offset in offsets[offsets >= 0].tolist():  # below 0: a run of one value, without a chunk
        if offset + _chunk_size(stream, header + offset, frame.chunk_bytes) > compressed:
            raise ValueError("a chunk lies outside the frame")


def _chunk_size(stream: BinaryIO, place: int, unpacked: int) -> int:
    """Bytes of the chunk at a place, which must unpack to so many bytes by built-in codecs and filters."""
    stream.seek(place)
    head = stream.read(32)
    if len(head) < 32:
        raise ValueError("a chunk is cut off")
    flags, nbytes, cbytes = head[2], *struct.unpack("<i4xi", head[4:16])
    extended = flags & 0x05 == 0x05
    if flags >> 5 not in FORMATS or (extended and any(code not in FILTERS for code in head[16:22])):
        raise ValueError("a chunk asks for a codec that is not built in, so it is not opened")
    if nbytes != unpacked or cbytes < 16:
        raise ValueError("a chunk is damaged")
    return int(cbytes)
