"""PNG, TIFF, JPEG: pictures, whose pixels have no physical size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from autolmk.geometry import Geometry
from autolmk.imageio import integrity
from autolmk.imageio.itk import Source, geometry_of, header, load


def inspect(file: Path, ending: str) -> Source:
    """The size of a picture. AutolmkError where it is damaged."""
    integrity.check(file, ending)
    shape = geometry_of(header(str(file), file), file).shape
    return Source((str(file),), Geometry.from_parts(shape, [1.0] * len(shape)), False, lambda: _load(file, len(shape)))


def _load(file: Path, n_axes: int) -> npt.NDArray[Any]:
    array = load((str(file),), file)
    if array.ndim > n_axes and array.shape[-1] in (2, 4):
        array = array[..., :-1]  # the last one is the opacity
    return array
