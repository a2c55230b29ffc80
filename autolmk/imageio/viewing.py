"""Steps that pictures of all kinds share: turning them as viewers do, dropping opacity, and saying what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.imageio.itk import ImageSource
from autolmk.imageio.notices import notice

Pixels = npt.NDArray[Any]
SQUARE = 0.01  # share by which sides of a pixel differ that are not the same, rounded


def turned_shape(height: int, width: int, orientation: int) -> tuple[int, int]:
    """The rows and columns of a picture as shown; orientations 5 to 8 exchange rows and columns."""
    return (width, height) if orientation >= 5 else (height, width)


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Turn a picture (Y, X, ...) from how it is stored to how it is shown, for an orientation of EXIF 2.32 and TIFF
    6.0, 1 to 8.
    """
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def check_orientation(file: Path, orientation: object, height: int, width: int) -> int:
    """The orientation, 1 to 8, noticed where it is not 1. AutolmkError for any other value."""
    if not isinstance(orientation, int) or not 0 <= orientation <= 8:
        raise AutolmkError(
            "an image states an orientation that does not exist",
            file=file,
            found=str(orientation),
            expected="1 to 8",
            remedy="turn the image as it should be and save it without an orientation tag",
        )
    if orientation in (0, 1):  # 0 is what cameras without a sensor write
        return 1
    rows, columns = turned_shape(height, width, orientation)
    notice(
        "an image is stored turned or mirrored; it is read as viewers show it",
        file,
        found=f"orientation {orientation}: stored {width} × {height}, read {columns} × {rows} pixels",
        expected="orientation 1",
        remedy="check that its points were placed on the image as shown",
    )
    return orientation


def drop_opacity(file: Path, pixels: Pixels, opaque: float) -> Pixels:
    """Drop the last channel of a picture (Y, X, C), the opacity, which is noticed where it is below `opaque`."""
    see_through = int((pixels[..., -1] < opaque).sum())
    if see_through:
        notice(
            "an image is transparent in places; its opacity is dropped",
            file,
            found=f"{see_through} of {pixels[..., -1].size} pixels are not opaque",
            remedy="flatten the image onto its background if what lies below the transparent parts is not meant",
        )
    return pixels[..., :-1]


def say_not_square(file: Path, x: float, y: float, where: str) -> None:
    """Notice a resolution, in pixels a unit of length, that is another one along x than along y."""
    if x > 0 and y > 0 and abs(x / y - 1) > SQUARE:
        notice(
            "an image has pixels that are not square",
            file,
            found=f"{x:g} pixels along x where it has {y:g} along y, by {where}",
            expected="the same number, or spacing in dataset.json",
            remedy="give spacing in dataset.json, in mm, rows first, if it is so in all images; distances in pixels "
            "are distorted",
        )


def plane(file: Path, shape: tuple[int, ...], load: Any) -> ImageSource:
    return ImageSource((str(file),), Geometry.from_parts(shape, [1.0] * len(shape)), False, load)


def damaged(file: Path, found: str, expected: str) -> AutolmkError:
    return AutolmkError(
        "an image file is damaged or truncated",
        file=file,
        found=found,
        expected=expected,
        remedy="copy or export it again from the source",
    )


def unsupported(file: Path, found: str, remedy: str) -> AutolmkError:
    return AutolmkError(
        "this kind of image is not read",
        file=file,
        found=found,
        expected="PNG, JPEG, BMP or TIFF of a common kind",
        remedy=remedy,
    )


def too_large(file: Path, width: int, height: int, found: str, expected: str) -> AutolmkError:
    return AutolmkError(
        "an image states a size that is not believed",
        file=file,
        found=f"{width} × {height} pixels, {found}",
        expected=expected,
        remedy="export it again; reduce or crop it if it is that large",
    )
