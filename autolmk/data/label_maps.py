"""Label maps: those that points alone give (of a group of landmarks the convex hull, of two a capsule, of one a ball),
and a user's own.

They show a network regions beside the landmarks in training, see `plans.LabelMap`; prediction never needs them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autolmk.geometry import FloatArray
from autolmk.landmarks import Status
from autolmk.plans import LabelMap

UNKNOWN = 255  # value of voxels of which nobody can say whether they belong to the region

Labels = npt.NDArray[np.uint8]


def draw_label_maps(
    maps: Sequence[LabelMap],
    names: Sequence[str],
    voxels: FloatArray,
    status: npt.NDArray[np.int8],
    spacing: Sequence[float],
    shape: Sequence[int],
    given: Labels | None = None,
) -> Labels:
    """Draw label maps (G, *shape): 1 in the region, 0 elsewhere, 255 where that is unknown.

    names: L landmarks. voxels: (L, D) of the window, also beyond it, anything unless present. spacing: (D,) mm. given:
    (*shape) the user's values, 255 where unknown; None: all of that is unknown.
    Absent landmarks do not belong to a region. Where the state of one is unknown, the region of the others is surely
    part of the whole one, as hulls grow with their points, and the rest of the window is unknown.
    """
    result = np.zeros((len(maps), *shape), dtype=np.uint8)
    for region, label_map in zip(result, maps, strict=True):
        if label_map.value is not None:
            region[...] = UNKNOWN if given is None else np.where(given == UNKNOWN, UNKNOWN, given == label_map.value)
            continue
        members = np.isin(names, label_map.landmarks)
        if (members & (status == Status.UNKNOWN)).any():
            region[...] = UNKNOWN
        present = members & (status == Status.PRESENT)
        if present.any():
            draw_region(region, voxels[present] * spacing, spacing, label_map.radius)
    return result


def draw_region(label: Labels, points: FloatArray, spacing: Sequence[float], radius: float) -> None:
    """Write 1 into the voxels (*S) of the region of points (n, D) mm, voxel 0 at 0 mm, n at least 1.

    Two points: all within `radius` mm of the line between them. More: their hull, which is nowhere thinner than twice
    the radius: where the points (nearly) lie on a plane or a line, they are doubled to both sides of it.
    """
    if len(points) > 2:
        points = _thickened(points, radius)
        low, high = points.min(axis=0), points.max(axis=0)
    else:
        low, high = points.min(axis=0) - radius, points.max(axis=0) + radius
    start = np.ceil(low / spacing).clip(0, label.shape).astype(int)
    stop = (np.floor(high / spacing) + 1).clip(start, label.shape).astype(int)
    if (stop <= start).any():
        return
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    axes = np.ix_(*[np.arange(a, b) * s for a, b, s in zip(start, stop, spacing, strict=True)])
    inside = _in_hull(points, axes) if len(points) > 2 else _in_capsule(points[0], points[-1], radius, axes)
    label[box][inside] = 1


def _thickened(points: FloatArray, radius: float) -> FloatArray:
    """Points (n, D), doubled to both sides along each principal direction along which they span less than 2 radii."""
    directions = np.linalg.svd(points - points.mean(axis=0))[2]
    for direction in directions:
        along = points @ direction
        missing = radius - (along.max() - along.min()) / 2
        if missing > 0:
            points = np.concatenate([points - missing * direction, points + missing * direction])
    return points


def _in_hull(points: FloatArray, axes: Sequence[FloatArray]) -> npt.NDArray[np.bool_]:
    """Whether the places of an open grid lie in the convex hull of points (n, D)."""
    from scipy.spatial import ConvexHull

    faces = np.unique(ConvexHull(points).equations.round(9), axis=0)
    beyond = np.full(np.broadcast_shapes(*[axis.shape for axis in axes]), -np.inf, dtype=np.float32)
    for *normal, offset in faces:
        distance = sum((n * axis for n, axis in zip(normal, axes, strict=True)), np.asarray(offset))
        np.maximum(beyond, distance, out=beyond, casting="same_kind")
    return np.asarray(beyond <= 0)


def _in_capsule(one: FloatArray, other: FloatArray, radius: float, axes: Sequence[FloatArray]) -> npt.NDArray[np.bool_]:
    """Whether the places of an open grid lie within `radius` of the line from one point to the other."""
    way = other - one
    along = sum((w * (axis - a) for w, a, axis in zip(way, one, axes, strict=True)), np.asarray(0.0))
    share = np.clip(along / max(float(way @ way), 1e-12), 0.0, 1.0)
    squares = [(axis - a - share * w) ** 2 for w, a, axis in zip(way, one, axes, strict=True)]
    return np.asarray(sum(squares, np.asarray(0.0)) <= radius**2)
