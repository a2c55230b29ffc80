"""PNG, JPEG, BMP and TIFF: pictures, whose pixels have no physical size.

The kind is told by the content; a name that says another kind is noticed. Pixels come as viewers show them: an
orientation (EXIF, TIFF tag 274) is applied, and noticed with both sizes wherever it is not 1.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from autolmk.errors import AutolmkError
from autolmk.imageio.itk import ImageSource
from autolmk.imageio.notices import notice
from autolmk.imageio.viewing import damaged, unsupported

READ = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP"}
STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF8", "GIF"),
    (b"%PDF", "PDF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x8aMNG", "MNG"),
    (b"\x8bJNG", "JNG"),
    (b"II\xbc", "JPEG XR"),
    (b"8BPS", "Photoshop"),
    (b"v/1\x01", "OpenEXR"),
    (b"SIMPLE  =", "FITS"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x89HDF", "HDF5"),
)
LOGGERS = ("tifffile", "PIL")
NOT_IMAGES = ((b"/annex/", "git-annex pointer"), (b"version https://git-lfs", "git-lfs pointer"))


def inspect(file: Path, ending: str) -> ImageSource:
    """The size of a picture. AutolmkError where it is damaged, of a kind that is not read, or no picture."""
    with _guarded(file):
        source = _inspect(file, ending)
    inner = source.load
    assert inner is not None

    def load() -> Any:
        with _guarded(file):
            return inner()

    return replace(source, load=load)


@contextmanager
def _guarded(file: Path) -> Iterator[None]:
    """Say what a library or a short field raises, of whatever type, in its own words, as damage of the file; and
    notice what libraries write into their logs instead."""
    try:
        with _heard() as said:
            yield
        for words in said:
            notice("a picture is odd", file, found=words, remedy="nothing, if it looks right; else export it again")
    except (AutolmkError, MemoryError):
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise damaged(file, words, "a whole file of its kind") from error


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What the libraries below warn of in their logs, in this thread, each once; it goes no further."""
    said: dict[str, None] = {}
    here = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == here:
                said.setdefault(" ".join(record.getMessage().split())[:300])

    listener, loggers = Listener(logging.WARNING), [logging.getLogger(name) for name in LOGGERS]
    found: list[str] = []
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(listener)
    try:
        yield found
    finally:
        for logger in loggers:
            logger.removeHandler(listener)
        found += said


def _inspect(file: Path, ending: str) -> ImageSource:
    try:
        with file.open("rb") as stream:
            start = stream.read(512)
    except OSError as error:
        raise AutolmkError(
            "an image cannot be opened", file=file, found=error.strerror or str(error), remedy="check its permissions"
        ) from None
    if not start:
        raise damaged(file, "an empty file", "an image")
    kind, named = kind_of(start), READ[ending]
    _refuse_others(file, start, kind, named)
    if kind != named:
        notice(
            "an image is of another kind than its name says",
            file,
            found=f"{kind}; it is read as what it is",
            expected=f"{named}, as the ending says",
            remedy="rename it",
        )
    if kind == "TIFF":
        from autolmk.imageio import tiff  # its libraries load slowly

        return tiff.inspect(file)
    from autolmk.imageio import raster

    return raster.inspect(file, str(kind))


def kind_of(start: bytes) -> str | None:
    """The kind of a file by its first bytes, such as "PNG" or "PDF"; None where they are not known."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start[4:8] == b"ftyp":
        return "AVIF" if start[8:12] in (b"avif", b"avis") else "HEIC"
    if start[128:132] == b"DICM":
        return "DICOM"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        return "SVG" if b"<svg" in text else "XML"
    return next((kind for mark, kind in STARTS if start.startswith(mark)), None)


def _refuse_others(file: Path, start: bytes, kind: str | None, named: str) -> None:
    if kind in READ.values():
        return
    if kind is not None:
        raise unsupported(file, kind, "export or convert it to PNG or TIFF, without scaling, and check that it opens")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    pointer = next((name for mark, name in NOT_IMAGES if mark in start), None)
    if pointer is not None:
        raise AutolmkError(
            "a file is a pointer to an image, not the image",
            file=file,
            found=f"a {pointer}",
            expected=f"a {named} file",
            remedy="fetch the content: git annex get, or git lfs pull",
        )
    if text.startswith((b"<!doctype html", b"<html")):
        raise AutolmkError(
            "a file is a web page, not an image",
            file=file,
            found="HTML",
            expected=f"a {named} file",
            remedy="download the image itself; the page may say why it was not given",
        )
    if start.isascii() and not set(start) & (set(range(32)) - {9, 10, 12, 13}):
        raise AutolmkError(
            "a file holds text, not an image",
            file=file,
            found=repr(start[:40].decode()),
            expected=f"a {named} file",
            remedy="replace it by the image, or remove it",
        )
    found = f"{min(8, len(start))} first bytes {start[:8].hex(' ')}"
    raise damaged(file, found, f"a {named} file, or another kind that is read: PNG, JPEG, BMP, TIFF")
