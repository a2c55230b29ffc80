"""The voxels that a text header announces, in the same file or beside it: found, held to the file's size, unpacked."""

from __future__ import annotations

import binascii
import bz2
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.imageio.integrity import foreign, truncated, unreadable
from autolmk.imageio.notices import notice
from autolmk.nifti_header import PLAUSIBLE, SKEW

LONGEST = 1 << 20  # bytes that a text header may have
DENSEST = 1100  # bytes that deflate makes of one; 1032 by its specification
MOST_FILES = 65536  # that one header may name
RUNS = 1 << 21  # bytes that bzip2 makes of one: 46 MB of zeros are a block of some 40 bytes
Encoding = Literal["raw", "zlib", "bzip2", "hex", "text"]
MILLIMETRES = {"mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0}
MILLIMETRES |= {"m": 1000.0, "meter": 1000.0, "metre": 1000.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "nm": 1e-6}
MILLIMETRES |= {"micron": 1e-3, "micrometer": 1e-3, "micrometre": 1e-3, "nanometer": 1e-6, "nanometre": 1e-6}


@dataclass(frozen=True)
class Stored:
    """The place and layout of voxels in a file. shape: fastest axis first, components included. start: of the first
    byte; -1 where the voxels are the file's last bytes.
    """

    file: Path
    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    encoding: Encoding

    @property
    def count(self) -> int:
        """The count of stored numbers."""
        return math.prod(self.shape)

    @property
    def needed(self) -> int:
        """The bytes that the voxels take after unpacking."""
        return self.count * self.dtype.itemsize

    def require_whole(self) -> None:
        """Raise AutolmkError where the file cannot hold what its header announces; bytes too many are noticed."""
        try:
            there = self.file.stat().st_size - max(0, self.start)
        except OSError as error:
            raise unreadable(self.file, error) from None
        most = {"raw": 1.0, "zlib": DENSEST, "bzip2": RUNS, "hex": 0.5, "text": self.dtype.itemsize / 2}[self.encoding]
        if max(0, there + (1 if self.encoding == "text" else 0)) * most < self.needed:
            expected = f"{self.needed} bytes of {' x '.join(map(str, self.shape))} x {self.dtype.itemsize}"
            raise truncated(self.file, f"{max(0, there)} bytes of voxels ({self.encoding})", expected)
        if self.encoding == "raw" and self.start >= 0 and there > self.needed + 1:  # some writers end by a line feed
            notice(
                "a file holds more voxels than its header says",
                self.file,
                found=f"{there} bytes",
                expected=f"{self.needed} bytes",
                remedy="look whether the header's sizes and type are right",
            )

    def load(self) -> npt.NDArray[Any]:
        """The numbers, of `shape`. AutolmkError where the file is damaged."""
        try:
            with self.file.open("rb") as stream:
                stream.seek(*((self.start, 0) if self.start >= 0 else (-self.needed, 2)))
                data = stream.read(self.needed if self.encoding == "raw" else -1)
            values = self._values(data)
        except OSError as error:
            raise unreadable(self.file, error) if error.errno else self._damaged(error) from None
        except (zlib.error, EOFError, ValueError, OverflowError, binascii.Error) as error:
            raise self._damaged(error) from None
        if values.size < self.count:
            found = f"{values.size} numbers after unpacking"
            raise truncated(self.file, found, f"{self.count} numbers")
        return values[: self.count].reshape(self.shape, order="F")

    def _values(self, data: bytes) -> npt.NDArray[Any]:
        if self.encoding == "text":
            words = data.split()[: self.count]
            if self.dtype.kind == "f":
                return np.array([float(w) for w in words], self.dtype)
            return np.array([int(w) for w in words], self.dtype)
        if self.encoding in ("zlib", "bzip2"):
            data = self._unpacked(data)
        elif self.encoding == "hex":
            data = binascii.unhexlify(b"".join(data.split()))
        return np.frombuffer(data, self.dtype, count=min(len(data) // self.dtype.itemsize, self.count))

    def _unpacked(self, data: bytes) -> bytes:
        """At most the bytes needed and one more, of one stream or several, each checked by its checksum."""
        result, ended = bytearray(), False
        while data and len(result) <= self.needed:
            if self.encoding == "bzip2":
                bz = bz2.BZ2Decompressor()
                result += bz.decompress(data, self.needed + 1 - len(result))
                ended, data = bz.eof, bz.unused_data
            else:
                z = zlib.decompressobj(47)  # 47: zlib or gzip, whichever it is
                result += z.decompress(data, self.needed + 1 - len(result))
                ended, data = z.eof, z.unused_data
            data = data.lstrip(b"\0\n") if ended else b""
        if not ended and len(result) <= self.needed:
            raise EOFError(f"{len(result)} bytes, then the packed voxels break off")
        return bytes(result)

    def _damaged(self, error: Exception) -> AutolmkError:
        return AutolmkError(
            "the voxels of an image are damaged",
            file=self.file,
            found=str(error),
            expected=f"{self.count} numbers, packed as {self.encoding}",
            remedy="copy or export it again from the source",
        )


@dataclass(frozen=True)
class StoredParts:
    """Voxels in several files, one after the other. parts: each of one axis. shape: of all, fastest axis first."""

    parts: tuple[Stored, ...]
    shape: tuple[int, ...]

    def require_whole(self) -> None:
        """Raise AutolmkError where a file cannot hold its part; bytes too many are noticed."""
        for part in self.parts:
            part.require_whole()

    def load(self) -> npt.NDArray[Any]:
        """The numbers, of `shape`. AutolmkError where a file is damaged."""
        return np.concatenate([part.load() for part in self.parts]).reshape(self.shape, order="F")


def names_of_parts(header: Path, said: str, following: Sequence[str]) -> list[str]:
    """The files that a header lists: `LIST` and a name a line after it, or a pattern such as `slice%03d.raw 1 120 1`.

    AutolmkError where they are too many or none.
    """
    if said.upper().startswith("LIST"):
        names = [line.strip() for line in following if line.strip()]
    else:
        match = re.fullmatch(r"([^%]*)%(0?\d?)d([^%]*?)\s+(-?\d{1,9})\s+(-?\d{1,9})\s+(-?\d{1,9})(\s+\d)?", said)
        if match is None or int(match[6]) == 0:
            raise senseless(header, f"voxels in {said[:100]!r}", "LIST, or a pattern such as slice%03d.raw 1 120 1")
        first, last, step = (int(match[i]) for i in (4, 5, 6))
        counted = range(first, last + (1 if step > 0 else -1), step)
        names = [f"{match[1]}{n:{match[2]}d}{match[3]}" for n in counted[: MOST_FILES + 1]]
    if not 0 < len(names) <= MOST_FILES:
        raise senseless(header, f"voxels in {len(names)} files", f"1 to {MOST_FILES} files")
    return names


def in_parts(header: Path, whole_image: Stored, places: Sequence[tuple[Path, int]]) -> StoredParts:
    """The voxels of an image in equal parts. places: a file and the place of its first byte, part by part.

    AutolmkError where so many parts cannot be equal.
    """
    size, rest = divmod(whole_image.count, len(places))
    if rest or size < 1:
        found = f"{len(places)} files for {' x '.join(map(str, whole_image.shape))} numbers"
        raise senseless(header, found, "a file for each slice, or for as many slices each")
    parts = (Stored(file, start, whole_image.dtype, (size,), whole_image.encoding) for file, start in places)
    return StoredParts(tuple(parts), whole_image.shape)


def header_bytes(file: Path, magic: tuple[bytes, ...], kind: str) -> bytes:
    """The first bytes of a file. AutolmkError where none of `magic` (lower case) begins a line of them."""
    try:
        with file.open("rb") as stream:
            start = stream.read(LONGEST)
    except OSError as error:
        raise unreadable(file, error) from None
    if not start.lower().lstrip().startswith(magic):
        raise foreign(file, kind)
    return start


def beside(header: Path, name: str) -> Path:
    """The data file that a header names. AutolmkError where it lies outside the header's folder, or is missing."""
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    if not name or windows.drive or windows.root or posix.is_absolute() or ".." in (*windows.parts, *posix.parts):
        raise AutolmkError(
            "a header names voxels outside its folder",
            file=header,
            found=repr(name[:200]),
            expected="a file in the folder of the header, named without a path that leads out of it",
            remedy="move the file beside its header and correct the name there, or convert both into one file",
        )
    file = header.parent / name
    if not os.path.isfile(file):  # unlike Path.is_file, no error for a name that is too long
        raise AutolmkError(
            "the voxels that a header names are missing",
            file=header,
            found=f"no file {name[:200]!r}",
            expected=f"it beside {header.name}",
            remedy="copy both files, and do not rename them",
        )
    return file


def millimetres(file: Path, unit: str) -> float:
    """The millimetres in a unit of length. An empty one is taken for mm, another one is noticed, since few programs
    look at it.
    """
    word = unit.strip().strip('"').strip().lower()
    if word in ("", "?", "???"):
        return 1.0
    scale = MILLIMETRES.get(word, MILLIMETRES.get(word.removesuffix("s")))
    if scale is None:
        raise senseless(file, f"lengths in {unit!r}", "mm, cm, m, um or nm")
    if scale != 1.0:
        notice(
            "a header says that its lengths are not in mm",
            file,
            found=f"{word}: they are turned into mm",
            remedy="look whether the extent in mm is right; many programs ignore the unit, and points placed in them "
            "are in the header's own numbers",
        )
    return scale


def require_grid(file: Path, matrix: npt.NDArray[np.float64]) -> None:
    """matrix (P, D), a column an axis. AutolmkError where it is not finite, is singular or has no right angles."""
    lengths = np.linalg.norm(matrix, axis=0) if np.isfinite(matrix).all() else np.zeros(1)
    if not np.isfinite(matrix).all() or not lengths.min() > 0:
        raise senseless(file, f"steps along the axes of {matrix.T.tolist()}", "finite steps that are not 0")
    axes = matrix / lengths
    skew = np.degrees(np.arcsin(np.abs(axes.T @ axes - np.eye(axes.shape[1])).max().clip(0, 1)))
    if skew > SKEW:
        raise AutolmkError(
            "the grid of an image is sheared",
            file=file,
            found=f"two axes that are {90 - skew:.2f} degrees apart: {np.round(matrix.T, 6).tolist()}",
            expected="90 degrees",
            remedy="resample it to a straight grid, for example in 3D Slicer",
        )


def say_unplaced(file: Path, found: str) -> None:
    """Notice that a header does not say how the grid lies in the room."""
    notice(
        "an image does not say how it lies in the room",
        file,
        found=found,
        remedy="look whether left and right are right; points in voxel coordinates are safe, points in mm only if the "
        "program that placed them read this file as 3D Slicer does",
    )


def say_unusual(file: Path, geometry: Geometry, sized: bool) -> None:
    """Notice voxels of a size that no scanner makes."""
    if sized and not (PLAUSIBLE[0] <= min(geometry.spacing) and max(geometry.spacing) <= PLAUSIBLE[1]):
        notice(
            "an image has voxels of an unusual size",
            file,
            found=f"{' x '.join(f'{s:.6g}' for s in geometry.spacing[::-1])} mm",
            remedy="look whether the header's unit is right",
        )


def numbers(file: Path, key: str, text: str, n: int | None = None) -> list[float]:
    """The numbers in a field of a header. AutolmkError where they are none, or not `n`."""
    try:
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not found or (n is not None and len(found) != n):
        raise senseless(file, f"{key}: {text[:200]!r}", "numbers" if n is None else f"{n} numbers")
    return found


def sizes(file: Path, key: str, text: str, n: int) -> list[int]:
    """The counts of voxels along the axes. AutolmkError where they are no whole numbers from 1 on."""
    found = numbers(file, key, text, n)
    if not all(math.isfinite(x) and x == int(x) and x >= 1 for x in found):
        raise senseless(file, f"{key}: {text[:200]!r}", "whole numbers from 1 on")
    return [int(x) for x in found]


def whole(file: Path, key: str, text: str) -> int:
    """A whole number in a field of a header; AutolmkError where it is none."""
    (found,) = numbers(file, key, text, 1)
    if not math.isfinite(found) or found != int(found):
        raise senseless(file, f"{key}: {text[:80]!r}", "a whole number")
    return int(found)


def too_many_axes(file: Path, shape: list[int]) -> AutolmkError:
    """The error of an image that is not 2D or 3D."""
    return AutolmkError(
        "an image has too many axes" if len(shape) > 3 else "an image has too few axes",
        file=file,
        found=f"{len(shape)} axes of {' x '.join(map(str, shape))}",
        expected="2 or 3 axes",
        remedy="write one file for each channel or point in time, CASE_0000.ext, CASE_0001.ext, ...",
    )


def senseless(file: Path, found: str, expected: str) -> AutolmkError:
    """The error of a header that nobody can follow, or that contradicts itself."""
    return AutolmkError(
        "the header of an image makes no sense",
        file=file,
        found=found,
        expected=expected,
        remedy="export the image again from the source, or mend the header in a text editor",
    )


def unsupported(file: Path, found: str, expected: str) -> AutolmkError:
    """The error of an image that is whole, but of a kind that is not read."""
    return AutolmkError(
        "an image is of a kind that is not supported",
        file=file,
        found=found,
        expected=expected,
        remedy="convert it to .nii.gz, for example in 3D Slicer",
    )
