"""Grey pictures that were saved in colour and the reverse, and channels that show nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autolmk.errors import AutolmkError
from autolmk.image import Image
from autolmk.imageio.files import SIZELESS, ending_of
from autolmk.imageio.notices import notice

COLOURS = 3


def as_channels(image: Image, n_channels: int, file: Path) -> Image:
    """A picture (C, *S) with `n_channels`, where colour makes no difference; any other image as it is.

    A picture saved in colour whose red, green and blue are equal is grey. A grey one among colour pictures gets three
    equal channels, which is noticed. file: that it was read from, alone.
    """
    if ending_of(file) not in SIZELESS:
        return image
    if n_channels == 1 and is_grey(image):
        return Image(np.ascontiguousarray(image.array[:1]), image.geometry)
    if n_channels == COLOURS and len(image.array) == 1:
        notice(
            "a grey picture is among colour pictures",
            file,
            found="1 channel",
            expected="red, green and blue",
            remedy="nothing, if the picture is grey indeed: its channel is used for all three",
        )
        return Image(np.repeat(image.array, COLOURS, axis=0), image.geometry)
    return image


def is_grey(image: Image) -> bool:
    """Whether red, green and blue are equal everywhere."""
    array = image.array
    return len(array) == COLOURS and np.array_equal(array[0], array[1]) and np.array_equal(array[0], array[2])


def require_contrast(image: Image, file: Path | None = None) -> None:
    """Raise AutolmkError where a channel holds a single value: nothing can be found in it."""
    flat = [i for i, channel in enumerate(image.array) if np.ptp(channel) == 0]
    if flat:
        raise AutolmkError(
            "a channel of an image holds a single value",
            file=file,
            found=f"channel {flat[0]} is {image.array[flat[0]].flat[0]:g} everywhere",
            expected="an image",
            remedy="export the image again, or remove the case",
        )
