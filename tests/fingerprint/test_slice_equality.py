"""Landmarks share a slice where annotators put them on one, and not where slices are thick."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from autolmk.fingerprint.slice_equality import equal_slices
from autolmk.geometry import FloatArray, Geometry

SIDE = (16, 16, 160)


def anatomy(rng: np.random.Generator) -> FloatArray:
    """(L, 3) mm: 8 pairs and 6 landmarks on the plane x = 0, of a head."""
    side = rng.uniform([10, -80, -60], [70, 80, 60], (8, 3))
    return np.concatenate([side, side * [-1, 1, 1], rng.uniform(-60, 60, (6, 3)) * [0, 1, 1]])


def annotated(voxels: FloatArray, geometry: Geometry, kind: str) -> FloatArray:
    """(L, 3) mm: as someone annotates who puts no landmarks on one slice."""
    places = voxels.copy()
    if kind == "slices":
        places[:, 0] = np.round(places[:, 0])
    elif kind == "voxels":
        places = np.round(places)
    elif kind == "sagittal slices":
        places[:, 2] = np.round(places[:, 2])
    elif kind == "two viewers":
        places[::2, 0] = np.round(places[::2, 0])
    points = geometry.to_physical(places)
    return np.round(points) if kind == "millimetres" else points


def dataset(
    seed: int, n: int, thickness: float, kind: str, *, groups: int = 0, roll: float = 1.0, kept: float = 1.0
) -> tuple[FloatArray, list[Geometry], FloatArray, list[tuple[int, ...]]]:
    """((n, L, 3) mm, geometries, mean shape, members of groups on one slice in a share `kept` of the cases)."""
    rng = np.random.default_rng([seed, n, int(thickness)])
    base = anatomy(rng)
    order = rng.permutation(len(base))
    planted = [tuple(sorted(int(i) for i in order[5 * k : 5 * k + 3 + k])) for k in range(groups)]
    for members in planted:
        base[list(members), 2] = rng.uniform(-40, 40)
    points, geometries = [], []
    for i in range(n):
        turn = Rotation.from_euler("xyz", rng.normal(0, [5, roll, 5]), degrees=True).as_matrix()
        head = (base + rng.normal(0, 0.9, base.shape)) * rng.normal(1, 0.05) @ turn.T + rng.normal(0, 8, 3)
        direction = Rotation.from_rotvec(rng.normal(0, 0.2, 3)).as_matrix()
        geometry = Geometry.from_parts(
            SIDE, (thickness, 0.7, 0.7), [float(v) for v in rng.uniform(-130, -120, 3)], direction[:, ::-1]
        )
        voxels = head[:, ::-1] / geometry.spacing + [40, 160, 160]
        for members in planted:
            if i >= round((1 - kept) * n):
                voxels[list(members), 0] = np.round(voxels[list(members), 0].mean())
        points.append(annotated(voxels, geometry, kind))
        geometries.append(geometry)
    return np.stack(points), geometries, base, planted


def found(points: FloatArray, geometries: list[Geometry], shape: FloatArray) -> list[tuple[int, tuple[int, ...]]]:
    result = []
    for axis, equal in enumerate(equal_slices(points, geometries, shape)):
        label = connected_components(equal, directed=False)[1]
        members = [tuple(int(i) for i in np.flatnonzero(label == k)) for k in np.unique(label)]
        result += [(axis, group) for group in members if len(group) > 1]
    return result


@pytest.mark.parametrize("kind", ["anywhere", "slices", "voxels", "sagittal slices", "two viewers", "millimetres"])
def test_thick_slices_alone_make_no_group(kind: str) -> None:
    """A twentieth of the datasets may show one."""
    false = [bool(found(*dataset(s, n, t, kind)[:3])) for n in (10, 20, 40) for t in (5, 6) for s in range(4)]
    assert sum(false) <= 0.05 * len(false), f"{sum(false)} of {len(false)}"


@pytest.mark.parametrize("kind", ["anywhere", "slices", "sagittal slices"])
@pytest.mark.parametrize("n", [10, 20, 40])
def test_planted_groups_are_found_exactly(kind: str, n: int) -> None:
    exact = []
    for thickness in (1, 3):
        for seed in range(6):
            points, geometries, shape, planted = dataset(seed, n, thickness, kind, groups=2, roll=3)
            exact.append(found(points, geometries, shape) == [(0, members) for members in sorted(planted)])
    assert np.mean(exact) >= 0.9, exact


def test_a_twentieth_of_the_cases_may_differ() -> None:
    for seed in range(5):
        points, geometries, shape, planted = dataset(seed, 40, 3, "slices", groups=2, roll=3, kept=0.95)
        assert found(points, geometries, shape) == [(0, members) for members in sorted(planted)]


def test_coordinates_that_a_file_rounds_are_equal_within_that() -> None:
    for decimals in (3, 1):
        points, geometries, shape, planted = dataset(0, 20, 1, "anywhere", groups=1, roll=3)
        assert found(points.round(decimals), geometries, shape) == [(0, planted[0])]


def test_missing_points_and_few_cases_make_no_group() -> None:
    points, geometries, shape, planted = dataset(0, 20, 1, "anywhere", groups=1, roll=3)
    points[4:, planted[0][0]] = np.nan  # four cases are left
    assert found(points, geometries, shape) == [(0, planted[0][1:])]
    assert found(points[:4], geometries[:4], shape) == []
    assert found(points[:, planted[0][:1]], geometries, shape[list(planted[0][:1])]) == []


def test_two_landmarks_alone_are_told_by_thin_slices_only() -> None:
    """No other landmark shows how the heads tilt."""
    for thickness, expected in ((5, []), (1, [(0, (0, 1))])):
        points, geometries, shape, planted = dataset(1, 10, thickness, "anywhere", groups=1)
        two = list(planted[0][:2])
        shape[two] = [[-50, 0, 0], [50, 0, 0]]
        assert found(points[:, two], geometries, shape[two]) == expected
