"""Annotation: the points of one case as a file holds them, before anybody has decided what they mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks, Status

Frame = Literal["LPS", "RAS", "voxel"]
FRAMES: tuple[Frame, ...] = ("LPS", "RAS", "voxel")


@dataclass(frozen=True, eq=False)
class Annotation:
    """n points of one case, with the numbers, names and states that the file holds; nothing is converted or checked.

    names: n names, as they stand in the file, so possibly twice.
    points: (n, 3) or (n, 2) float64, columns x, y, z; NaN where the file gives no position.
    status: (n,) int8 of `Status`.
    frame: what the file says of its numbers: LPS or RAS (mm), voxel (ITK index order), None where it says nothing.
    likelihood, error_radius: (n,), NaN where unknown.
    Raises ValueError where the lengths disagree.
    """

    names: tuple[str, ...]
    points: FloatArray
    status: npt.NDArray[np.int8]
    frame: Frame | None = None
    likelihood: FloatArray = field(default_factory=lambda: np.empty(0))
    error_radius: FloatArray = field(default_factory=lambda: np.empty(0))

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
        """(n,) bool."""
        return np.asarray(self.status == Status.PRESENT)

    def physical_points(self, frame: Frame, geometry: Geometry) -> FloatArray:
        """(n, P) mm, LPS: the points read as if they were in `frame`.

        geometry: of the image, used for voxels and for P. A third coordinate on an image without a third axis is
        dropped. Raises ValueError where a coordinate is lacking.
        """
        points, columns, p = self.points, self.points.shape[1], geometry.physical_ndim
        if frame == "voxel":
            if columns < geometry.ndim:
                raise ValueError(f"{geometry.ndim} coordinates a point are needed, got {columns}")
            return geometry.to_physical(points[:, : geometry.ndim][:, ::-1])
        if columns < p:
            raise ValueError(f"{p} coordinates a point are needed, got {columns}")
        sign = np.array([-1.0, -1.0, 1.0]) if frame == "RAS" else np.ones(3)
        return points[:, :p] * sign[:p]

    def depth(self) -> FloatArray:
        """(n,): the third coordinate, 0 where there is none; on an image without a third axis it should be 0."""
        return np.nan_to_num(self.points[:, 2]) if self.points.shape[1] == 3 else np.zeros(len(self.names))

    def landmarks(self, frame: Frame, geometry: Geometry) -> Landmarks:
        """The points read as `frame`. ValueError where a name stands twice or a present point is not finite."""
        points = self.physical_points(frame, geometry)
        return Landmarks(self.names, points, self.status, self.likelihood, self.error_radius)
