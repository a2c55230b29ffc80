"""The files of a bundle, of a zip or of a folder, read as strangers' files: nothing is believed that was not counted.

A zip is refused before its list is read where that list is too long, and each entry where it is a link, a device,
encrypted, overlaps another one or would unpack to far more than it takes.
"""

from __future__ import annotations

import itertools
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from autolmk.bundles.manifest import LARGEST_TOTAL, MANIFEST, MOST_FILES
from autolmk.errors import AutolmkError

END, END64, LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
LARGEST_LIST = 2**23  # bytes of a zip's list of files
LARGEST_RATIO, SMALL = 200, 2**20  # a file of more bytes than SMALL unpacks to at most so many times what it takes
FLAGS = 0x0002 | 0x0004 | 0x0008 | 0x0800  # how deflate searched, sizes after the data, names in UTF-8
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LOCAL_HEADER = 30  # bytes, before the name
FAILURES = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, OSError, EOFError, NotImplementedError),
    *(RuntimeError, ValueError, OverflowError, MemoryError, LookupError),
)


class Files(Protocol):
    """The files of a bundle: sizes by path (folders left out), and each file as a stream."""

    place: Path
    sizes: dict[str, int]

    def open(self, name: str) -> BinaryIO:
        """A stream of one file. KeyError where there is none of that name."""


class _Zip:
    def __init__(self, place: Path, archive: zipfile.ZipFile) -> None:
        self.place, self.archive = place, archive
        self._entries = _checked(place, archive.infolist())
        self.sizes = {name: entry.file_size for name, entry in self._entries.items()}

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self.archive.open(self._entries[name]))


class _Folder:
    def __init__(self, place: Path) -> None:
        self.place = place
        self.sizes = dict(_walk(place, place))

    def open(self, name: str) -> BinaryIO:
        if name not in self.sizes:
            raise KeyError(name)
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        return os.fdopen(os.open(self.place / name, flags), "rb")


@contextmanager
def opened(place: Path) -> Iterator[Files]:
    """The files of a bundle, a zip or the folder of an unpacked one. AutolmkError, which names what is wrong, where it
    cannot be read, also from failures of reading while it is open."""
    try:
        if place.is_dir():
            yield _Folder(place)
            return
        _check_end(place)
        with zipfile.ZipFile(place) as archive:
            yield _Zip(place, archive)
    except FileNotFoundError:
        raise AutolmkError("a file is missing", file=place, remedy="check the path") from None
    except FAILURES as error:
        raise broken(place, f"{type(error).__name__}: {error}"[:500]) from None


def is_bundle(place: Path) -> bool:
    """Whether a path is a file, as zips are, or the folder of an unpacked bundle."""
    return place.is_file() or (place / MANIFEST).is_file()


def broken(place: Path, found: str) -> AutolmkError:
    """The error of a file that is no whole bundle."""
    return AutolmkError(
        "a bundle is damaged, or was made to mislead; nothing of it was used",
        file=place,
        found=found,
        expected="a zip as autolmk_export writes it",
        remedy="get the file anew, and compare its SHA-256 with the one that autolmk_export printed",
    )


def _check_end(place: Path) -> None:
    """AutolmkError where the zip does not end as ours do, or announces a list that is too long to be read."""
    status = os.stat(place)
    if not stat.S_ISREG(status.st_mode):
        raise broken(place, "a device or a pipe")
    with place.open("rb") as stream:
        stream.seek(max(0, status.st_size - 98))
        tail = stream.read()
    if status.st_size > 2 * LARGEST_TOTAL or len(tail) < 22 or tail[-22:-18] != END or tail[-2:] != b"\0\0":
        raise broken(place, "it does not end as a zip without a comment does")
    disk, first, here, entries, size, offset = struct.unpack("<4H2L", tail[-18:-2])
    end = status.st_size - 22
    if tail[-42:-38] == LOCATOR64:
        if len(tail) < 98 or tail[-98:-94] != END64:
            raise broken(place, "its list of files is not where it should be")
        disk, first, here, entries, size, offset = struct.unpack("<2L4Q", tail[-82:-42])
        end = status.st_size - 98
    if disk or first or here != entries or entries > 2 * MOST_FILES or size > LARGEST_LIST or offset + size != end:
        raise broken(place, f"a list of {entries} files in {size} bytes at {offset}, in a file of {status.st_size}")


def _checked(place: Path, entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The files by name, without folders. AutolmkError where one is none that a bundle can hold."""
    found: dict[str, zipfile.ZipInfo] = {}
    if len(entries) > 2 * MOST_FILES:
        raise broken(place, f"{len(entries)} files")
    ends = 0
    for entry in sorted(entries, key=lambda e: e.header_offset):
        fault = _fault(entry)
        if fault is None and entry.header_offset < ends:
            fault = "it overlaps another file"
        if fault is None and entry.filename in found:
            fault = "it stands twice"
        if fault is not None:
            raise broken(place, f"{entry.orig_filename[:200]!r}: {fault}")
        ends = entry.header_offset + LOCAL_HEADER + len(entry.filename) + entry.compress_size
        if not entry.is_dir():
            found[entry.filename] = entry
    return found


def _fault(entry: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        return "a link, a device or another thing that is no file"
    if entry.orig_filename != entry.filename:
        return "a name that is cut or changed when it is read"
    if entry.flag_bits & ~FLAGS or entry.compress_type not in METHODS:
        return "encrypted, or compressed in a way that bundles are not"
    if entry.is_dir():
        return None if entry.file_size == 0 else "a folder with content"
    if entry.file_size > max(SMALL, LARGEST_RATIO * entry.compress_size):
        return f"{entry.compress_size} bytes that would unpack to {entry.file_size}"
    return None


def _walk(top: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """(path with /, bytes) of all files below a folder. AutolmkError where something is no file and no folder."""
    with os.scandir(folder) as found:
        inside = list(itertools.islice(found, MOST_FILES + 1))
    if len(inside) > MOST_FILES:
        raise broken(top, f"more than {MOST_FILES} files in {folder}")
    for entry in inside:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(top, Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path).relative_to(top).as_posix(), entry.stat(follow_symlinks=False).st_size
        else:
            raise broken(top, f"{entry.name!r}: a link, a device or another thing that is no file")
