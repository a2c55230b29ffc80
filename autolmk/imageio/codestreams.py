"""Headers of JPEG, JPEG-LS and JPEG 2000 streams: what they say of their picture by themselves."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # 0xF7: JPEG-LS
LOSSY = (0xC0, 0xC1, 0xC2)


@dataclass(frozen=True)
class Codestream:
    """The header of a compressed stream. components: values a pixel. luminance: whether they are luminance and colour
    differences; None where it is not said.
    """

    rows: int
    columns: int
    components: int
    luminance: bool | None = None


def read_codestream(data: bytes) -> Codestream | None:
    """Read the header of a stream from its first bytes (ITU T.81, T.87, T.800); None where it is of another kind or
    damaged.
    """
    try:
        if data[:4] == b"\xff\x4f\xff\x51":
            right, bottom, left, top = struct.unpack_from(">4I", data, 8)
            return Codestream(bottom - top, right - left, struct.unpack_from(">H", data, 40)[0])
        return _jpeg(data) if data[:2] == b"\xff\xd8" else None
    except (struct.error, IndexError):
        return None


def _jpeg(data: bytes) -> Codestream | None:
    adobe, jfif = None, False
    for marker, body in _segments(data):
        if marker == 0xE0 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == 0xEE and body[:5] == b"Adobe":
            adobe = body[11]
        elif marker in START_OF_FRAME:
            _, rows, columns, components = struct.unpack_from(">BHHB", body)
            luminance = None
            if components == 3 and marker in LOSSY:
                names = bytes(body[6 + 3 * i] for i in range(3))
                luminance = adobe == 1 if adobe is not None else True if jfif else False if names == b"RGB" else None
            return Codestream(rows, columns, components, luminance)
    return None


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == 0xFF:
            place += 1
            continue
        end = place + 2 + int(struct.unpack_from(">H", data, place + 2)[0])
        yield data[place + 1], data[place + 4 : end]
        place = end
