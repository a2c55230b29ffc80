"""SimpleITK, imported late, kept quiet, its errors turned into AutolmkErrors; and what its headers say."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.imageio.files import ENDINGS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What one file, or one DICOM folder, holds: the slices in order, and what its header says.

    load: the voxels, (*S) or (*S, C) on the grid of `geometry`, of any real type; None reads `files` by ITK.
    """

    files: tuple[str, ...]
    geometry: Geometry
    has_physical_size: bool
    load: Callable[[], npt.NDArray[Any]] | None = None


def simpleitk() -> Any:
    """The module SimpleITK, with its warnings off."""
    sitk = importlib.import_module("SimpleITK")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return sitk


def header(file: str, path: Path) -> Any:
    """SimpleITK's reader after it has read the header of `file`, which is or belongs to `path`."""
    sitk = simpleitk()
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    with errors(path), quiet():
        reader.ReadImageInformation()
    return reader


def geometry_of(reader: Any, path: Path) -> Geometry:
    d, size = reader.GetDimension(), reader.GetSize()
    if d == 4 and size[3] == 1:
        direction = np.array(reader.GetDirection()).reshape(4, 4)[:3, :3][:, ::-1]
        return Geometry.from_parts(size[2::-1], reader.GetSpacing()[2::-1], reader.GetOrigin()[:3], direction)
    if d not in (2, 3):
        raise AutolmkError(
            "an image has too many axes",
            file=path,
            found=f"{d} axes of {' × '.join(map(str, size))}",
            expected="2 or 3 axes",
            remedy="write one file for each channel or point in time, CASE_0000.ext, CASE_0001.ext, ...",
        )
    try:
        return Geometry.from_sitk(reader)
    except ValueError as error:
        raise AutolmkError(
            "the header of an image makes no sense",
            file=path,
            found=f"{error}; spacing {reader.GetSpacing()}",
            expected="positive sizes and spacings, and directions that are independent",
            remedy="export the image again",
        ) from None


def load(files: Sequence[str], path: Path) -> npt.NDArray[Any]:
    """(*S) or (*S, C): the voxels of one file, or of the slices of a series in order, as ITK reads them."""
    sitk = simpleitk()
    if len(files) == 1:
        reader = sitk.ImageFileReader()
        reader.SetFileName(files[0])
    else:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
    with errors(path), quiet():
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
def quiet() -> Iterator[None]:
    """Keeps what ITK and the libraries below it print away from the console; it goes to the debug log.

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
            noise = sink.read().decode(errors="replace").strip()
            if noise:
                logger.debug("ITK: %s", noise)
