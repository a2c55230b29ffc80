"""How landmarks lie: turned, sized, fitting the mean shape, each as a number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from autolmk.fingerprint.case_pose import CasePose, case_pose, mean_pose, usual_of, voxel_side
from autolmk.geometry import FloatArray, Geometry
from autolmk.shapes.pose import Similarity, mean_shape

POINTS = np.random.default_rng(0).normal(0, 15, (9, 3))


def grid(turn: FloatArray | None = None) -> Geometry:
    return Geometry.from_parts((40, 50, 60), (2.0, 1.0, 1.0), (0, 0, 0), None if turn is None else turn[:, ::-1])


def pose_of(points: FloatArray, geometry: Geometry) -> tuple[CasePose, int, Similarity] | None:
    cases = [Rotation.from_rotvec(r).apply(POINTS) for r in np.random.default_rng(1).normal(0, 0.05, (12, 3))]
    shape = mean_shape(np.stack(cases))
    mean = mean_pose(shape, [grid()] * 12)
    assert mean is not None
    return case_pose(points, geometry, usual_of(shape.points, mean, [None] * 9, 0.5, voxel_side((2.0, 1.0, 1.0))))


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (25.0, 0.8), (170.0, 1.3)])
def test_rotation_and_size_are_found(angle: float, scale: float) -> None:
    turn = Rotation.from_euler("xyz", [0, angle, 0], degrees=True)
    found = pose_of(scale * turn.apply(POINTS) + [3, 4, 5], grid())
    assert found is not None
    assert found[0].rotation == pytest.approx(angle, abs=4)
    assert found[0].scale == pytest.approx(scale, rel=1e-3)
    assert found[0].misfit < 0.01


def test_rotation_counts_in_the_images_own_grid() -> None:
    turn = Rotation.from_euler("xyz", [20, 10, -15], degrees=True)
    found = pose_of(turn.apply(POINTS), grid(turn.as_matrix()))
    assert found is not None
    assert found[0].rotation == pytest.approx(0, abs=4)


def test_one_point_astray_is_named_and_others_are_not_blamed() -> None:
    points = POINTS.copy()
    points[4] += [12.0, 0, 0]
    found = pose_of(points, grid())
    assert found is not None
    assert found[1] == 4
    assert found[0].stray == pytest.approx(12 / 2 ** (1 / 3), rel=0.05)  # a voxel is the least that is told
    assert found[0].misfit == pytest.approx(12 / 3, rel=0.05)


def test_too_few_points_tell_nothing() -> None:
    points = POINTS.copy()
    points[4:] = np.nan
    assert pose_of(points, grid()) is None
    assert pose_of(np.full((9, 3), np.nan), grid()) is None
