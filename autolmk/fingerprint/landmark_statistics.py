"""Statistics of the landmarks of all cases: spread, pose, co-slice groups. Pure functions of arrays.

Legend: N cases, L landmarks, P physical axes (x, y, z), D array axes. NaN marks a landmark that is not present.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used

from autolmk.errors import AutolmkError
from autolmk.fingerprint.slice_equality import equal_slices
from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.shapes.pose import MeanShape

if TYPE_CHECKING:
    from autolmk.dataset.description import DeclaredSlice

SAME_SLICE = 0.5  # voxels of the native image: what a declared group may differ by
SAME_SLICE_SHARE = 0.95  # of the cases that show two of its landmarks
TELLABLE = np.radians(10.0)  # standard error of a rotation above which the landmarks do not tell it
DIRECTIONS = ("left-right", "anterior-posterior", "inferior-superior")


@dataclass(frozen=True)
class LandmarkStatistics:
    """n_*: cases by status. spread: (P,) physical, standard deviation of the place relative to the image's centre.
    shape_deviation: root mean square distance from the fitted mean shape. nearest_distance: to the nearest other
    landmark of the case, median over cases. None where too few cases show it."""

    n_present: int
    n_absent: int
    n_unknown: int
    spread: tuple[float, ...] | None
    shape_deviation: float | None
    nearest_distance: float | None


@dataclass(frozen=True)
class Pose:
    """The variation of the landmarks' pose in the images' own grids, against their mean pose there (Procrustes).

    A network sees the grid, in canonical orientation but not turned back to the patient's axes, so that obliquity
    counts as rotation of the anatomy. x, y, z here are the grid's axes, see `Geometry.frame`.

    n_cases: that had enough points (P) to tell; with 0 of them the rest says little. rotation: degrees about x, y, z
    (2D: one number), 95th percentile of the size of the rotation vector's component; rotation_max: the largest angle.
    scale: 2.5th and 97.5th percentile of the factor. translation: (P,) physical, 95th percentile of the distance of the
    configuration's middle from the image's. Rotations that the landmarks cannot tell better than 10 degrees (about the
    line of a spine, say) do not count.
    """

    n_cases: int
    rotation: tuple[float, ...]
    rotation_max: float
    scale: tuple[float, float]
    translation: tuple[float, ...]


@dataclass(frozen=True)
class CoSliceGroup:
    """Landmarks that annotators placed in one slice. axis: array axis of the image as it lies in its file (for volumes
    axis 0 is the slice number), not of canonical orientation. note: which direction of the body that is."""

    axis: int
    names: tuple[str, ...]
    note: str


def landmark_statistics(
    landmarks: Sequence[Landmarks], geometries: Sequence[Geometry], deviations: FloatArray
) -> dict[str, LandmarkStatistics]:
    """The statistics of each landmark over N cases; deviations: (N, L) mm from the fitted mean shape."""
    points = np.stack([case.points for case in landmarks])
    status = np.stack([case.status for case in landmarks])
    placed = points - np.stack([g.centre for g in geometries])[:, None]
    nearest = np.stack([_nearest(case) for case in points])
    result = {}
    for i, name in enumerate(landmarks[0].names):
        seen = status[:, i] == Status.PRESENT
        apart, near = deviations[:, i], nearest[:, i]
        apart, near = apart[np.isfinite(apart)], near[np.isfinite(near)]
        result[name] = LandmarkStatistics(
            n_present=int(seen.sum()),
            n_absent=int((status[:, i] == Status.ABSENT).sum()),
            n_unknown=int((status[:, i] == Status.UNKNOWN).sum()),
            spread=_floats(placed[seen, i].std(axis=0, ddof=1)) if seen.sum() > 1 else None,
            shape_deviation=float(np.sqrt((apart**2).mean())) if len(apart) > 1 else None,
            nearest_distance=float(np.median(near)) if len(near) else None,
        )
    return result


def pose_spread(shape: MeanShape, geometries: Sequence[Geometry], residual: float) -> Pose:
    """The spread of the mean shape's poses in images of these geometries; residual: mm, root mean square over all
    landmarks.
    """
    known = [(pose, g) for pose, g in zip(shape.poses, geometries, strict=True) if pose is not None]
    points = shape.points[np.isfinite(shape.points).all(axis=1)]
    p = points.shape[1]
    if not known:
        return Pose(0, (0.0,) * (1 if p == 2 else 3), 0.0, (1.0, 1.0), (0.0,) * p)
    frames = [g.frame() for _, g in known]
    seen = np.stack([frame.T @ pose.rotation for frame, (pose, _) in zip(frames, known, strict=True)])
    mean = mean_rotation(seen)
    turned = np.stack([rotation_vector(rotation @ mean.T) for rotation in seen])
    rotations = turned @ told(points @ mean.T, residual)
    offsets = np.abs([frame.T @ (pose.translation - g.centre) for frame, (pose, g) in zip(frames, known, strict=True)])
    low, high = np.percentile([pose.scale for pose, _ in known], [2.5, 97.5])
    return Pose(
        n_cases=len(known) if len(points) >= p else 0,
        rotation=_floats(np.degrees(np.percentile(np.abs(rotations), 95, axis=0))),
        rotation_max=float(np.degrees(np.linalg.norm(rotations, axis=1).max())),
        scale=(float(low), float(high)),
        translation=_floats(np.percentile(offsets, 95, axis=0)),
    )


def in_grids(direction: FloatArray, shape: MeanShape, geometries: Sequence[Geometry]) -> FloatArray | None:
    """A direction of the mean shape, (P,) of unit length and up to its sign, as the images show it in canonical
    orientation; x, y, z are the axes of their grids, see `Geometry.frame`. The principal axis over all cases that tell
    their pose, None where none does.

    Obliquity turns it, as it turns the anatomy that a network sees: the patient's axes do not matter to it.
    """
    known = [(pose, g) for pose, g in zip(shape.poses, geometries, strict=True) if pose is not None]
    if not known:
        return None
    seen = np.stack([g.frame().T @ pose.rotation @ direction for pose, g in known])
    axis = np.linalg.eigh(seen.T @ seen)[1][:, -1]
    return np.asarray(axis * np.sign(axis[np.argmax(np.abs(axis))]))


def mean_rotation(rotations: FloatArray) -> FloatArray:
    """Chordal mean of rotations (N, P, P): (P, P)."""
    u, _, vt = np.linalg.svd(rotations.sum(axis=0))
    sign = np.ones(len(u))
    sign[-1] = np.sign(np.linalg.det(u @ vt))
    return np.asarray((u * sign) @ vt)


def rotation_vector(rotation: FloatArray) -> FloatArray:
    """The axis of a rotation times its angle in radians: (2, 2) -> (1,), (3, 3) -> (3,)."""
    if len(rotation) == 2:
        return np.array([np.arctan2(rotation[1, 0], rotation[0, 0])])
    return np.asarray(scipy.spatial.transform.Rotation.from_matrix(rotation).as_rotvec(), dtype=np.float64)


def rotation_matrix(vector: FloatArray) -> FloatArray:
    """The rotation about an axis, which is the vector's, by its length in radians: (1,) -> (2, 2), (3,) -> (3, 3)."""
    if len(vector) == 1:
        sine, cosine = np.sin(vector[0]), np.cos(vector[0])
        return np.array([[cosine, -sine], [sine, cosine]])
    return np.asarray(scipy.spatial.transform.Rotation.from_rotvec(vector).as_matrix(), dtype=np.float64)


def co_slice_groups(
    landmarks: Sequence[Landmarks], geometries: Sequence[Geometry], shape: FloatArray
) -> tuple[CoSliceGroup, ...]:
    """Landmarks that annotators put on one slice along one array axis: exactly, in 90 % of the cases that show both and
    more often than chance explains, see `slice_equality`. shape: (L, P) mm, the mean shape.

    A landmark counts only where its slice varies between cases by more than a voxel. Volumes only; at least five cases.
    """
    if geometries[0].ndim != 3:
        return ()
    equal = equal_slices(np.stack([case.points for case in landmarks]), geometries, shape)
    names, groups = landmarks[0].names, []
    for axis, connected in enumerate(equal):
        n_groups, label = scipy.sparse.csgraph.connected_components(connected, directed=False)
        for k in range(n_groups):
            members = tuple(names[i] for i in np.flatnonzero(label == k))
            if len(members) > 1:
                groups.append(CoSliceGroup(axis, members, _direction_note(geometries, axis)))
    return tuple(groups)


def declared_slices(slices: Sequence[DeclaredSlice], geometries: Sequence[Geometry]) -> tuple[CoSliceGroup, ...]:
    """Groups as dataset.json declares them. AutolmkError where images are not volumes."""
    if slices and geometries[0].ndim != 3:
        raise AutolmkError(
            "dataset.json declares landmarks that share a slice, but the images are not volumes",
            found=f"images of {geometries[0].ndim} axes",
            remedy="take co_slice_groups out of dataset.json",
        )
    return tuple(
        CoSliceGroup(s.axis, s.landmarks, f"{_direction_note(geometries, s.axis)}, as dataset.json declares")
        for s in slices
    )


def apart_in_slices(
    group: DeclaredSlice, landmarks: Sequence[Landmarks], geometries: Sequence[Geometry]
) -> tuple[FloatArray, FloatArray]:
    """The distance across the slices of its volume between a group's outermost members in each case, in slices (N,) and
    physical units (N,); NaN where it shows fewer than two. One slice holds them below SAME_SLICE.
    """
    slices = np.full(len(landmarks), np.nan)
    for i, (case, geometry) in enumerate(zip(landmarks, geometries, strict=True)):
        place = geometry.to_voxels(case.points[np.isin(case.names, group.landmarks)])[:, group.axis]
        place = place[np.isfinite(place)]
        if len(place) > 1:
            slices[i] = np.ptp(place)
    return slices, slices * [geometry.spacing[group.axis] for geometry in geometries]


def _direction_note(geometries: Sequence[Geometry], axis: int) -> str:
    along = [int(np.abs(g.direction[:, axis]).argmax()) for g in geometries]
    most = int(np.bincount(along).argmax())
    share = along.count(most) / len(along)
    note = f"slices across the {DIRECTIONS[most]} direction"
    return note if share == 1 else f"{note} in {share:.0%} of the cases"


def _nearest(points: FloatArray) -> FloatArray:
    """(L,) distance from each point (L, P) to the nearest other, NaN where there is none."""
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(apart, np.nan)
    apart = np.where(np.isfinite(apart), apart, np.inf)
    nearest = apart.min(axis=1)
    return np.where(np.isfinite(nearest), nearest, np.nan)


def told(points: FloatArray, residual: float) -> FloatArray:
    """The projection (R, R) onto the rotations that points (n, P) with this residual tell: the standard error of a
    rotation about an axis is the residual an axis over the root of the moment of inertia.
    """
    n, p = points.shape
    if p == 2 or n < 2:
        return np.eye(1 if p == 2 else 3)
    centred = points - points.mean(axis=0)
    inertia = np.eye(3) * (centred**2).sum() - centred.T @ centred
    moments, axes = np.linalg.eigh(inertia)
    error = (max(residual, 1e-9) / np.sqrt(3)) / np.sqrt(np.maximum(moments, 1e-18))
    told = axes[:, error <= TELLABLE]
    return np.asarray(told @ told.T)


def _floats(values: npt.ArrayLike) -> tuple[float, ...]:
    return tuple(float(v) for v in np.asarray(values).ravel())
