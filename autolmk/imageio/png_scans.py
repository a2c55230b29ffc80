"""Whether the compressed stream of a PNG file holds all of its rows, which Pillow fills with zeros where they are
missing."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel, by the type of colour
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
PIECE = 1 << 22  # bytes that are unpacked at once


def needed(width: int, height: int, bits: int, colour: int, interlaced: bool) -> int:
    """Bytes of the unpacked stream: a filter's number and the pixels of each row, pass by pass (ISO/IEC 15948, 8)."""
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, right, down in passes:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits * SAMPLES.get(colour, 1) // 8))
    return total


def unpacked(parts: Iterable[bytes], most: int) -> int:
    """Bytes that the stream in the chunks IDAT holds, counted up to `most`. zlib.error where it is damaged."""
    stream, total = zlib.decompressobj(), 0
    for part in parts:
        while part and total < most:
            total += len(stream.decompress(part, PIECE))
            part = stream.unconsumed_tail
    return total + len(stream.flush()) if total < most else total
