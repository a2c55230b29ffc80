"""Random rotations of training windows, within the ranges that augmentation allows; all of them proper ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from autolmk.geometry import FloatArray, Geometry
from autolmk.plans import Augmentation

UNTURNED = 0.15  # share of windows that keep the image's own direction, as in prediction, where none are exact
FREE_TURN = 150.0  # half range in degrees from which windows turn freely about an axis


def draw_transform(
    rng: np.random.Generator, geometry: Geometry, augmentation: Augmentation, *, unturned: float = UNTURNED
) -> FloatArray:
    """Draw a random rotation times the size of a window's voxels, (P, P); `scale` is how large the anatomy appears,
    which `stretch` changes along each axis of the window by itself.

    Single slices of a volume (D = 2, P = 3) turn within their plane. unturned: share that keeps the image's direction.
    """
    rotation = np.eye(geometry.physical_ndim)
    if rng.random() >= unturned:
        if geometry.ndim == 3:
            frame = geometry.frame()
            rotation = frame @ draw_rotation(rng, augmentation.rotation) @ frame.T
        else:
            rotation = _turn_in_plane(geometry, np.radians(rng.uniform(-1, 1) * max(augmentation.rotation)))
    low, high = augmentation.scale
    transform = rotation / np.exp(rng.uniform(np.log(low), np.log(high)))
    if augmentation.stretch > 0:
        frame, most = geometry.frame(), np.log1p(augmentation.stretch)
        transform = transform @ frame @ np.diag(np.exp(rng.uniform(-most, most, len(frame)))) @ frame.T
    return np.asarray(transform)


def draw_rotation(rng: np.random.Generator, half_ranges: Sequence[float]) -> FloatArray:
    """Draw a random rotation (3, 3); half_ranges: degrees about the axes x, y, z, which are the grid's own, see
    `Geometry.frame`.

    All at least 150: uniform over all rotations (a random unit quaternion; Shoemake, Graphics Gems III, 1992). Exactly
    one at least 150: a full turn about that axis, then a tilt by the others. Otherwise the components of the rotation
    vector are uniform within the ranges.
    """
    from scipy.spatial.transform import Rotation

    ranges = np.asarray(half_ranges, dtype=np.float64)
    free = ranges >= FREE_TURN
    if free.all():
        return np.asarray(Rotation.from_quat(rng.normal(size=4)).as_matrix())
    vector = np.radians(rng.uniform(-ranges, ranges))
    if free.sum() != 1:
        return np.asarray(Rotation.from_rotvec(vector).as_matrix())
    turn = Rotation.from_rotvec(np.where(free, rng.uniform(-np.pi, np.pi), 0.0))
    tilt = Rotation.from_rotvec(np.where(free, 0.0, vector))
    return np.asarray((tilt * turn).as_matrix())


def _turn_in_plane(geometry: Geometry, angle: float) -> FloatArray:
    """(P, P) rotation by `angle` (radians) within the plane of a 2D grid, identity across it."""
    plane = np.linalg.qr(geometry.direction)[0]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(np.eye(geometry.physical_ndim) + plane @ (turn - np.eye(2)) @ plane.T)


@lru_cache(maxsize=64)
def quarter_turns(ndim: int, half_ranges: tuple[float, ...]) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Rotations that bring array axes onto array axes, and that `half_ranges` of `draw_rotation` (in 2D: the largest)
    allow: how each transposes an array, and which axes are reversed then. The first one turns nothing."""
    from scipy.spatial.transform import Rotation

    ranges = np.array(half_ranges if ndim == 3 else (0.0, 0.0, max(half_ranges)))
    free = ranges >= FREE_TURN
    turns = []
    for axes in itertools.permutations(range(ndim)):
        for signs in itertools.product((1, -1), repeat=ndim):
            matrix = np.eye(3)
            matrix[:ndim, :ndim] = (np.eye(ndim)[:, axes] * signs)[::-1, ::-1]  # of x, y, z
            if np.linalg.det(matrix) < 0:
                continue
            if free.sum() == 1:  # a turn about this axis, then a tilt
                axis = np.eye(3)[int(free.argmax())]
                whole = [Rotation.from_rotvec(90 * n * axis, degrees=True).as_matrix().T for n in range(4)]
                tilts = [Rotation.from_matrix(matrix @ turn).as_rotvec(degrees=True) for turn in whole]
            else:
                tilts = [Rotation.from_matrix(matrix).as_rotvec(degrees=True)]
            limits = np.where(free, 0.5 if free.sum() == 1 else 180.5, ranges + 0.5)
            if any((np.abs(tilt) <= limits).all() for tilt in tilts):
                turns.append((axes, tuple(i for i, sign in enumerate(signs) if sign < 0)))
    return tuple(turns)
