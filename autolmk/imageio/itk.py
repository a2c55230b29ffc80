"""SimpleITK, imported late: its errors become AutolmkErrors, what it prints notices; and what its headers say.

ITK's own warnings reach a logger of SimpleITK's, in whatever thread they arise. What the libraries below print goes to
the process's standard streams, and is taken from there in the main thread.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.imageio.files import ENDINGS
from autolmk.imageio.notices import notice

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSource:
    """The content of one file, or of one DICOM folder: the slices in order, and what its header says.

    load: the voxels, (*S) or (*S, C) on the grid of `geometry`, of any real type; None reads `files` by ITK. padding:
    lowest and highest value that the header declares to show nothing; None where it declares none.
    """

    files: tuple[str, ...]
    geometry: Geometry
    has_physical_size: bool
    load: Callable[[], npt.NDArray[Any]] | None = None
    padding: tuple[float, float] | None = None


_said: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("said", default=None)
_listeners: list[Any] = []


@cache
def simpleitk() -> Any:
    """The module SimpleITK, whose warnings go to `quiet`, and outside of it to the log."""
    sitk = importlib.import_module("SimpleITK")

    class Listener(sitk.LoggerBase):  # type: ignore[name-defined, misc, unused-ignore]
        """Called by ITK in the thread that it works in."""

        def DisplayText(self, text: str) -> None:
            """Whatever ITK says, warnings and errors included."""
            said = _said.get()
            if said is None:
                logger.warning("ITK: %s", text.strip())
            else:
                said.append(text)

        DisplayWarningText = DisplayErrorText = DisplayGenericOutputText = DisplayDebugText = DisplayText

    listener = Listener()
    listener.SetAsGlobalITKLogger()
    _listeners.append(listener)  # ITK does not keep it alive
    sitk.ProcessObject.SetGlobalWarningDisplay(True)
    return sitk


def header(file: str, path: Path) -> Any:
    """SimpleITK's reader after it has read the header of `file`, which is or belongs to `path`."""
    sitk = simpleitk()
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    with errors(path), quiet(path):
        reader.ReadImageInformation()
    return reader


def load(files: Sequence[str], path: Path) -> npt.NDArray[Any]:
    """Load the voxels, (*S) or (*S, C), of one file, or of the slices of a series in order, as ITK reads them."""
    sitk = simpleitk()
    if len(files) == 1:
        reader = sitk.ImageFileReader()
        reader.SetFileName(files[0])
    else:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
    with errors(path), quiet(path):
        image = reader.Execute()
    return np.asarray(sitk.GetArrayFromImage(image))


def describe(geometry: Geometry) -> str:
    size = " × ".join(map(str, geometry.shape[::-1]))
    spacing = " × ".join(f"{s:.4g}" for s in geometry.spacing[::-1])
    return f"{size} voxels of {spacing} mm, {geometry.orientation()}, origin {np.round(geometry.origin, 3).tolist()}"


@contextlib.contextmanager
def errors(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise AutolmkError(
            "an image cannot be read",
            file=path,
            found=last_line(error),
            expected=f"an intact image of one of the kinds {', '.join(ENDINGS)}",
            remedy="export or copy it again: it is damaged, truncated or of another kind than its name says",
        ) from None


def last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        re.sub(r"(sitk::ERROR|ITK ERROR|\w+\(0x[0-9a-f]+\))\s*:\s*", "", lines[-1]) if lines else type(error).__name__
    )


@contextlib.contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Turns what ITK and the libraries below it print into notices of `path`; beside an error, into the debug log."""
    said: list[str] = []
    token = _said.set(said)
    try:
        with _printed(said):
            yield
    except BaseException:
        if said:
            logger.debug("%s: ITK: %s", path, " ".join(_lines(said)))
        raise
    finally:
        _said.reset(token)
    for line in _lines(said):
        notice(
            "a library warned while it worked on an image",
            path,
            found=line,
            remedy="look whether the image is as it should be, and export it again if not",
        )


def _lines(said: Sequence[str]) -> list[str]:
    """Each message once, on a line, without ITK's addresses and places in its source."""
    lines = []
    for text in said:
        text = re.sub(r"WARNING: In .*?, line \d+\s*", "", text)
        lines.append(" ".join(re.sub(r"\w+ ?\(0x[0-9a-f]+\)\s*:\s*", "", text).split()))
    return list(dict.fromkeys(line for line in lines if line))


@contextlib.contextmanager
def _printed(said: list[str]) -> Iterator[None]:
    """Keeps the standard streams away from the console, and adds what came to them to `said`.

    The file descriptors belong to the whole process, so this is done in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError):  # a stream that is closed has nothing to flush
            stream.flush()
    with tempfile.TemporaryFile() as sink:
        saved = [(number, os.dup(number)) for number in (1, 2)]
        try:
            for number, _ in saved:
                os.dup2(sink.fileno(), number)
            yield
        finally:
            for number, copy in saved:
                os.dup2(copy, number)
                os.close(copy)
            sink.seek(0)
            said.append(sink.read().decode(errors="replace"))
