"""Offsets of frames along the normal of their planes, in files that give no place to each frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autolmk.geometry import FloatArray
from autolmk.imageio.notices import notice

VECTORS = ("GridFrameOffsetVector", "SliceLocationVector")
TEMPORAL = ("FrameTime", "FrameTimeVector", "CineRate", "FrameDelay")  # of frames that are points in time


def offsets(header: Any, count: int, distance: float | None, file: Path) -> FloatArray | None:
    """The distances of frames from the first one along the normal: (count,) mm; None where nothing says them.

    distance: SpacingBetweenSlices, which counts where no vector does, and no frame is a point in time. It is noticed,
    for it does not say on which side of the first frame the others lie.
    """
    for tag in VECTORS:
        if header.get(tag) is not None:
            steps = np.atleast_1d(np.array(header.get(tag), dtype=np.float64))
            return steps - steps[0] if len(steps) == count else None
    if distance is None or distance <= 0 or any(header.get(tag) for tag in TEMPORAL):
        return None
    notice(
        "frames are placed by their distance alone",
        file,
        found=f"SpacingBetweenSlices {distance:g} mm, ImagePositionPatient of the first frame",
        expected="a position of each frame",
        remedy="look whether the slices run the right way: they are stacked along the normal, as by ITK and 3D Slicer",
    )
    return np.arange(count, dtype=np.float64) * np.float64(distance)
