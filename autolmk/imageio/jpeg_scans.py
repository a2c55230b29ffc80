"""Whether the scans of a JPEG file hold all of its pixels.

libjpeg fills what is missing before a marker with zeros and says so in a warning that Pillow drops. So the file is
decoded once more with other bytes in front of the markers that end its scans: a whole scan never reads them.
"""

from __future__ import annotations

import io
import random
import re

from PIL import Image

END = re.compile(rb"\xff+[^\x00\xff]")
RESTARTS = range(0xD0, 0xD8)


def is_whole(data: bytes, decoded: Image.Image) -> bool:
    """Whether `decoded`, from `data`, stays the same where more bytes follow each scan and restart interval."""
    with Image.open(io.BytesIO(padded(data)), formats=["JPEG"]) as image:
        image.load()
        return image.tobytes() == decoded.tobytes()


def padded(data: bytes) -> bytes:
    """The first image of a JPEG file with 64 bytes more at the end of each scan and restart interval."""
    junk = bytes(random.Random(0).choices(range(1, 255), k=64))
    out, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place + 1] != 0xD9:
        while data[place : place + 2] == b"\xff\xff":
            place += 1
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        out.append(data[place:end])
        if data[place + 1] == 0xDA:
            while (found := END.search(data, end)) is not None:
                out += [data[end : found.start()], junk]
                end = found.end() - 2
                if data[end + 1] not in RESTARTS:
                    break
                out.append(data[end : end + 2])
                end += 2
        place = end
    return b"".join([*out, b"\xff\xd9"])
