"""Regions that points alone give: hull, capsule, ball; unknown where nobody can say."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from autolmk.conformance.examples import example_plans
from autolmk.data.label_maps import UNKNOWN, draw_label_maps
from autolmk.errors import AutolmkError
from autolmk.files.serialization import to_json
from autolmk.geometry import FloatArray
from autolmk.landmarks import Status
from autolmk.plans import LabelMap, Plans

NAMES = ("A", "B", "C", "D", "E")
SHAPE, SPACING = (20, 24, 28), (1.5, 1.0, 0.8)


def drawn(points: Any, radius: float = 2.0, status: Any = None, shape: Any = None, spacing: Any = None) -> Any:
    """The map of all points (mm) on a grid of their dimension."""
    d = len(points[0])
    shape, spacing = shape or SHAPE[-d:], spacing or SPACING[-d:]
    names = NAMES[: len(points)]
    states = np.full(len(points), Status.PRESENT, dtype=np.int8) if status is None else np.array(status, dtype=np.int8)
    voxels = np.array(points, dtype=np.float64) / spacing
    return draw_label_maps([LabelMap("all", names, radius)], names, voxels, states, spacing, shape)[0]


def places(shape: tuple[int, ...] = SHAPE, spacing: tuple[float, ...] = SPACING) -> FloatArray:
    """(*S, D) mm."""
    return np.asarray(np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) * spacing)


def test_one_point_is_a_ball_and_two_are_a_capsule() -> None:
    one, other = np.array([14.2, 11.7, 12.1]), np.array([14.2, 16.0, 6.0])
    assert np.array_equal(drawn([one], 3.1) == 1, np.linalg.norm(places() - one, axis=-1) <= 3.1)
    steps = [one + t * (other - one) for t in np.linspace(0, 1, 400)]
    near = np.min([np.linalg.norm(places() - step, axis=-1) for step in steps], axis=0)
    found = drawn([one, other], 2.0) == 1
    assert found[near < 1.99].all() and not found[near > 2.01].any()
    assert np.array_equal(drawn([one, one], 3.1), drawn([one], 3.1))


def test_four_points_are_their_tetrahedron() -> None:
    corners = np.array([[3.0, 3.0, 3.0], [25.0, 5.0, 4.0], [6.0, 20.0, 5.0], [7.0, 6.0, 19.0]])
    weights = np.linalg.solve(np.vstack([corners.T, np.ones(4)]), np.insert(places(), 3, 1.0, axis=-1)[..., None])
    assert np.array_equal(drawn(corners, 1.0) == 1, (weights[..., 0] >= -1e-9).all(-1))


def test_a_polygon_in_two_dimensions() -> None:
    found = drawn([[2.0, 2.0], [2.0, 12.0], [12.0, 12.0], [12.0, 2.0], [7.0, 7.0]], 1.0)
    y, x = np.moveaxis(places((24, 28), (1.0, 0.8)), -1, 0)
    assert np.array_equal(found == 1, (y >= 2) & (y <= 12) & (x >= 2) & (x <= 12))


@pytest.mark.parametrize("thickness", [0.0, 1e-9, 0.5, 3.999, 4.0])
def test_a_flat_hull_is_two_radii_thick(thickness: float) -> None:
    """Whatever little it was before: nothing jumps where points come to lie on a plane."""
    corners = [
        [15 + z, y, x] for (y, x), z in zip(itertools.product((4, 20), (4, 18)), (0, thickness, 0, 0), strict=True)
    ]
    column = drawn(corners, 2.0, shape=(300, 24, 24), spacing=(0.1, 1.0, 1.0))[:, 12, 12]
    assert 25 <= column.sum() <= 41  # of 40 voxels, less where the plane is tilted
    if thickness == 0:
        assert column.sum() in (40, 41) and column[131] and column[169]


def test_points_on_a_line_have_a_volume() -> None:
    line = [[5.0 + t, 8.0 + t, 10.0] for t in (0, 2, 5, 9)]
    fine = (0.31, 0.29, 0.33)
    volume = drawn(line, 2.0, shape=(60, 80, 60), spacing=fine).sum() * np.prod(fine)
    assert volume == pytest.approx(4 * 4 * 9 * np.sqrt(2), rel=0.05)


def test_points_outside_the_window_reach_into_it() -> None:
    corners = np.array(list(itertools.product((-40.0, 70.0), repeat=3)))
    names = tuple(f"P{i}" for i in range(8))
    status = np.full(8, Status.PRESENT, dtype=np.int8)
    hull, far = (
        draw_label_maps([LabelMap("all", names, 1.0)], names, points / SPACING, status, SPACING, SHAPE)
        for points in (corners, corners + 500)
    )
    assert (hull == 1).all() and (far == 0).all()


def test_absent_members_do_not_count_and_unknown_ones_leave_the_outside_unknown() -> None:
    corners = [[3.0, 3.0], [3.0, 15.0], [15.0, 15.0], [15.0, 3.0]]
    nan = [[*corners[:3], [np.nan, np.nan]]][0]
    full, three = drawn(corners, 1.0), drawn(corners[:3], 1.0)
    absent = drawn(nan, 1.0, [Status.PRESENT] * 3 + [Status.ABSENT])
    unknown = drawn(nan, 1.0, [Status.PRESENT] * 3 + [Status.UNKNOWN])
    assert np.array_equal(absent, three) and three.sum() < full.sum()
    assert np.array_equal(unknown, np.where(three == 1, 1, UNKNOWN))
    assert (full[unknown == 1] == 1).all()  # what is called known is right
    assert (drawn([[np.nan] * 2], 1.0, [Status.UNKNOWN]) == UNKNOWN).all()
    assert (drawn([[np.nan] * 2], 1.0, [Status.ABSENT]) == 0).all()


def test_a_map_has_its_members_only() -> None:
    maps = [LabelMap("left", ("A",), 1.5), LabelMap("both", ("B", "A"), 1.0)]
    points, status = np.array([[5.0, 5.0], [15.0, 18.0]]), np.zeros(2, dtype=np.int8) + Status.PRESENT
    left, both = draw_label_maps(maps, ("A", "B"), points, status, (1.0, 1.0), (24, 28))
    assert left[5, 5] == 1 and left[15, 18] == 0 and both[15, 18] == 1 and both[10, 11] == 1


def test_values_of_a_users_own_map() -> None:
    given = np.array([[0, 1, 2], [UNKNOWN, 2, 1]], dtype=np.uint8)
    maps = [LabelMap("two", value=2), LabelMap("seven", value=7), LabelMap("A", ("A",), 0.6)]
    points, status = np.zeros((1, 2)), np.full(1, Status.PRESENT, dtype=np.int8)
    two, seven, ball = draw_label_maps(maps, ("A",), points, status, (1.0, 1.0), (2, 3), given)
    assert two.tolist() == [[0, 0, 1], [UNKNOWN, 1, 0]] and seven.tolist() == [[0, 0, 0], [UNKNOWN, 0, 0]]
    assert ball.tolist() == [[1, 0, 0], [0, 0, 0]]
    two, seven, _ = draw_label_maps(maps, ("A",), points, status, (1.0, 1.0), (2, 3))
    assert (two == UNKNOWN).all() and (seven == UNKNOWN).all()
    for wrong in ({"value": 1, "landmarks": ("A",), "radius": 1.0}, {"landmarks": ("A",)}, {}):
        with pytest.raises(ValueError, match="or a value"):
            LabelMap("x", **wrong)


def test_plans_with_label_maps_of_strangers_contradict_themselves() -> None:
    value = to_json(example_plans())
    maps = [{"name": "all", "landmarks": ["Nose", "Tail"], "radius": 2.0}]
    value["configurations"]["example"]["label_maps"] = maps
    with pytest.raises(AutolmkError, match="Tail, which are no landmarks"):
        Plans.parse(value)
    maps[0] |= {"landmarks": ["Nose"], "radius": 0.0}
    with pytest.raises(AutolmkError, match="radius above 0"):
        Plans.parse(value)
