"""Annotation: the points of one case as a file holds them, before anybody has decided what they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from autolmk.geometry import FloatArray, Geometry
from autolmk.imageio import notice
from autolmk.landmarks import Landmarks, Status, normal

Frame = Literal["LPS", "RAS", "voxel"]
FRAMES: tuple[Frame, ...] = ("LPS", "RAS", "voxel")
NamesFrom = Literal["label", "description", "number", "order"]


def name_of(label: str, description: str, place: int, names_from: NamesFrom) -> str:
    """The name of a Slicer point: its label, its description, the number at the end of its label, or its place in the
    file, from 1. Empty where there is none."""
    if names_from == "order":
        return str(place)
    if names_from == "number":
        number = re.search(r"(\d+)\s*$", label)
        return str(int(number.group(1))) if number else ""
    return normal((label if names_from == "label" else description).strip())


def remark_on_names(file: Path, texts: Sequence[tuple[str, str]], names_from: NamesFrom) -> None:
    """Notice labels that are bare numbers beside descriptions that would be names, as in AFIDs' files.

    texts: (label, description) of each point.
    """
    labels, descriptions = {label.strip() for label, _ in texts}, {description.strip() for _, description in texts}
    numbered = len(texts) > 1 and all(label.isdecimal() for label in labels)
    if names_from == "label" and numbered and "" not in descriptions and len(descriptions) == len(texts):
        notice(
            "the labels of points are numbers, and their descriptions look like names",
            file,
            found=f"{texts[0][0]!r} with the description {texts[0][1]!r}, ...",
            remedy='write "names_from": "description" in dataset.json, if those are the landmarks\' names',
        )


@dataclass(frozen=True, eq=False)
class Annotation:
    """n points of one case, with the numbers, names and states that the file holds; nothing is converted or checked.

    names: n names, as they stand in the file, so possibly twice.
    points: (n, 3) or (n, 2) float64, columns x, y, z; NaN where the file gives no position.
    status: (n,) int8 of `Status`.
    frame: what the file says of its numbers: LPS or RAS (mm), voxel (ITK index order), None where it says nothing.
    unit: that the file names, where that is not mm: 3D Slicer writes there what it displays, and the points in mm.
    likelihood, error_radius: (n,), NaN where unknown.
    Raises ValueError where the lengths disagree.
    """

    names: tuple[str, ...]
    points: FloatArray
    status: npt.NDArray[np.int8]
    frame: Frame | None = None
    likelihood: FloatArray = field(default_factory=lambda: np.empty(0))
    error_radius: FloatArray = field(default_factory=lambda: np.empty(0))
    unit: str | None = None

    def __post_init__(self) -> None:
        n = len(self.names)
        points = np.array(self.points, dtype=np.float64).reshape(n, -1) if n else np.empty((0, 3))
        status = np.array(self.status, dtype=np.int8)
        if points.shape[1] not in (2, 3) or status.shape != (n,):
            raise ValueError(
                f"{n} names need points ({n}, 2 or 3) and status ({n},), got {points.shape}, {status.shape}"
            )
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "status", status)
        for name in ("likelihood", "error_radius"):
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.size and value.shape != (n,):
                raise ValueError(f"{name} must be ({n},), got {value.shape}")
            object.__setattr__(self, name, value if value.size else np.full(n, np.nan))

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """A mask of the points that are present, (n,) bool."""
        return np.asarray(self.status == Status.PRESENT)

    def physical_points(self, frame: Frame, geometry: Geometry) -> FloatArray:
        """The points, (n, P) mm, LPS, read as if they were in `frame`.

        geometry: of the image, used for voxels and for P. A third coordinate on an image without a third axis is
        dropped; without one, points of a single slice lie in it. Raises ValueError where a coordinate is lacking.
        """
        points, p = self.points, geometry.physical_ndim
        if points.shape[1] == 2 and geometry.ndim == 3 and geometry.shape[0] == 1:
            straight = np.allclose(geometry.direction, np.eye(3)[:, ::-1])
            if frame == "voxel" or straight:
                third = 0.0 if frame == "voxel" else geometry.origin[2]
                points = np.column_stack([points, np.full(len(points), third)])
        columns = points.shape[1]
        if frame == "voxel":
            if columns < geometry.ndim:
                raise ValueError(f"{geometry.ndim} coordinates a point are needed, got {columns}")
            return geometry.to_physical(points[:, : geometry.ndim][:, ::-1])
        if columns < p:
            raise ValueError(f"{p} coordinates a point are needed, got {columns}")
        sign = np.array([-1.0, -1.0, 1.0]) if frame == "RAS" else np.ones(3)
        return points[:, :p] * sign[:p]

    def depth(self) -> FloatArray:
        """The third coordinate, (n,), 0 where there is none; on an image without a third axis it should be 0."""
        return np.nan_to_num(self.points[:, 2]) if self.points.shape[1] == 3 else np.zeros(len(self.names))

    def landmarks(self, frame: Frame, geometry: Geometry) -> Landmarks:
        """The points read as `frame`. ValueError where a name stands twice or a present point is not finite."""
        points = self.physical_points(frame, geometry)
        return Landmarks(self.names, points, self.status, self.likelihood, self.error_radius)
