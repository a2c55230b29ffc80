"""Pose spread is that of the grids that a network sees, whichever way the scanner's table was turned."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from autolmk.fingerprint.landmark_statistics import Pose, pose_spread
from autolmk.geometry import FloatArray, Geometry
from autolmk.shapes.pose import mean_shape

ANATOMY = np.array([[9.0, -8, 2], [-9, -8, 2], [11, 2, -6], [-11, 2, -6], [0, -12, -3], [0, 11, 1], [0, -2, 11]])


def tilted(angle: float, axis: str = "x", *, centre: tuple[float, ...] = (30.0, -20.0, 50.0)) -> Geometry:
    """A volume whose grid is turned about its centre."""
    direction = Rotation.from_euler(axis, angle, degrees=True).as_matrix()[:, ::-1]
    straight = Geometry.from_parts((20, 30, 40), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), direction)
    return straight.window(np.array(centre), straight.shape)


def spread(points: list[FloatArray], geometries: list[Geometry]) -> Pose:
    return pose_spread(mean_shape(np.stack(points)), geometries, 0.1)


@pytest.mark.parametrize(("axis", "place"), [("x", 0), ("y", 1), ("z", 2)])
def test_the_obliquity_of_images_turns_the_anatomy_in_them(axis: str, place: int) -> None:
    grids = [tilted(angle, axis) for angle in np.linspace(0, 40, 11)]
    pose = spread([ANATOMY + grids[0].centre] * 11, grids)  # lies still in the room
    assert pose.rotation[place] == pytest.approx(20, abs=1) and pose.rotation_max == pytest.approx(20, abs=0.1)
    assert sorted(pose.rotation)[:2] == pytest.approx([0, 0], abs=0.01)
    turned = [g.frame() @ ANATOMY.T + g.centre[:, None] for g in grids]
    assert spread([t.T for t in turned], grids).rotation_max < 0.01  # and where it turns with the grid, it is still


def test_axes_that_are_only_permuted_and_flipped_turn_nothing() -> None:
    grids = [tilted(0).permuted(p).mirrored(m) for p, m in (((0, 1, 2), 0), ((2, 0, 1), 1), ((1, 0, 2), 2))]
    pose = spread([ANATOMY - ANATOMY.mean(axis=0) + g.centre for g in grids], grids)
    assert pose.rotation_max < 0.01 and max(pose.translation) < 0.01


def test_translation_is_along_the_axes_of_the_grid() -> None:
    grids = [tilted(40)] * 10
    along_z = grids[0].frame()[:, 2]
    points = [ANATOMY - ANATOMY.mean(axis=0) + g.centre + 5 * (-1) ** i * along_z for i, g in enumerate(grids)]
    assert spread(points, grids).translation == pytest.approx((0, 0, 5), abs=0.01)


def test_the_spread_is_about_the_mean_pose() -> None:
    grids = [tilted(40)] * 5
    assert spread([ANATOMY + g.centre for g in grids], grids).rotation_max < 0.01
