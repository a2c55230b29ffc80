"""Points that ImageJ and its plugins may have written in the unit of their image's scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autolmk import imageio
from autolmk.annotations.formats.imported import Options, undecided
from autolmk.annotations.formats.source import Images
from autolmk.geometry import FloatArray


def in_pixels(
    points: list[list[float]], images: Images | None, file: Path, options: Options
) -> FloatArray | list[list[float]]:
    """The points (n, 2) in pixels: divided by the image's scale where --scale says that it is applied.

    AutolmkError where a TIFF has a scale, and no option says whether the points are multiplied by it.
    """
    size = None if images is None or options.scale == "ignore" else imageio.calibration(images[0])
    if size is None or size[:2] == (1.0, 1.0) or not points:
        return points
    array = np.array(points, dtype=np.float64)
    if options.scale == "applied":
        return np.asarray(array / size[:2])
    first, unit = array[0], size[2]
    choices = {
        "ignore": f"point 1 is at {first.tolist()} px",
        "applied": f"point 1, {first.tolist()} {unit}, is at {(first / size[:2]).round(3).tolist()} px",
    }
    raise undecided(
        f"{images[0].name if images else ''} has a scale, {size[0]:g} x {size[1]:g} {unit} a pixel, and the file does "
        "not say whether its points are in that unit", file, "--scale", choices,
    )  # fmt: skip
