"""The pose of a case's landmarks in its image and their fit to the mean shape, in a few numbers a case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autolmk.fingerprint.landmark_statistics import mean_rotation, rotation_matrix, rotation_vector, told
from autolmk.geometry import FloatArray, Geometry
from autolmk.shapes.pose import MeanShape, Similarity, fit_similarity

LEAST_EXCESS = 2  # landmarks beyond those that a similarity needs, for a fit that can be judged


@dataclass(frozen=True)
class CasePose:
    """The pose of a case's landmarks. rotation: degrees from the mean pose, in the image's own grid (see
    `Geometry.frame`), about axes that the landmarks tell. scale: of the configuration over the mean shape's. misfit:
    root mean square distance of the landmarks from the fitted mean shape, and stray: the largest distance of one over
    what is usual for it (see `Usual`).
    """

    rotation: float
    scale: float
    misfit: float
    stray: float


@dataclass(frozen=True, eq=False)
class Usual:
    """The usual pose, with which others are compared. shape: (L, P) the mean shape, NaN for landmarks never seen.
    rotation: (P, P) of its mean pose in the grids. deviation: (L,) how far each landmark usually is from the fitted
    mean shape, at least a voxel; residual: of all together.
    """

    shape: FloatArray
    rotation: FloatArray
    deviation: FloatArray
    residual: float


def usual_of(
    shape: FloatArray, rotation: FloatArray, deviations: Sequence[float | None], residual: float, voxel: float
) -> Usual:
    """The usual pose around a mean shape (L, P). deviations: of each landmark, None where too few cases show it. voxel:
    mm, nearer than which nothing is told apart.
    """
    own = [residual if d is None else d for d in deviations]
    return Usual(shape, rotation, np.maximum(own, voxel), residual)


def mean_pose(shape: MeanShape, geometries: Sequence[Geometry]) -> FloatArray | None:
    """The mean rotation (P, P) of the mean shape into the grids of the cases; None where no case tells its pose."""
    seen = [g.frame().T @ pose.rotation for pose, g in zip(shape.poses, geometries, strict=True) if pose is not None]
    return mean_rotation(np.stack(seen)) if seen else None


def case_pose(points: FloatArray, geometry: Geometry, usual: Usual) -> tuple[CasePose, int, Similarity] | None:
    """The pose of landmarks (L, P) mm, NaN where there is none; the index of the one furthest from what is usual;
    and the similarity from the mean shape. None where they are too few to tell, or lie in a single slice in space.
    """
    p = points.shape[1]
    known = np.asarray(np.isfinite(points).all(axis=1) & np.isfinite(usual.shape).all(axis=1))
    if geometry.ndim < p or known.sum() < p + LEAST_EXCESS:
        return None
    fit = fit_similarity(usual.shape, np.where(known[:, None], points, np.nan))
    if not fit.similarity.scale > 0:
        return None
    strays = np.where(known, fit.residuals / usual.deviation, 0.0)
    pose = CasePose(
        rotation=turned(fit.similarity, geometry, usual),
        scale=fit.similarity.scale,
        misfit=float(np.sqrt(np.nanmean(fit.residuals[known] ** 2))),
        stray=float(strays.max()),
    )
    return pose, int(np.argmax(strays)), fit.similarity


def turned(pose: Similarity, geometry: Geometry, usual: Usual) -> float:
    """Degrees between a pose and the mean one."""
    return float(np.degrees(np.linalg.norm(_turn(pose, geometry.frame(), usual))))


def uprighting(pose: Similarity, frame: FloatArray, usual: Usual) -> tuple[FloatArray, float]:
    """The rotation (P, P) that takes a grid's frame to one in which landmarks of this pose lie as usual, and how far it
    goes, in degrees.
    """
    vector = _turn(pose, frame, usual)
    return frame @ rotation_matrix(vector) @ frame.T, float(np.degrees(np.linalg.norm(vector)))


def _turn(pose: Similarity, frame: FloatArray, usual: Usual) -> FloatArray:
    """The rotation vector from the mean pose to this one, in the grid's frame, about axes that the landmarks tell."""
    seen = usual.shape[np.isfinite(usual.shape).all(axis=1)] @ usual.rotation.T
    return np.asarray(rotation_vector(frame.T @ pose.rotation @ usual.rotation.T) @ told(seen, usual.residual))


def voxel_side(spacing: Sequence[float]) -> float:
    """Side, mm, of a cube as large as a voxel."""
    return float(np.exp(np.mean(np.log(spacing))))
