"""Even rows of landmarks, how far landmarks extend, and how much of that a network sees."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from fingerprints import a_fingerprint

from autolmk.fingerprint import Fingerprint
from autolmk.planners.coarse_to_fine import CoarseToFinePlanner
from autolmk.planners.global_to_local import GlobalToLocalPlanner
from autolmk.planning.context_rules import (
    ROW_LEAST,
    even_row,
    landmarks_extent,
    longest_row,
    receptive_field,
    seen_of_extent,
)
from autolmk.planning.planner import PlanRequest


def with_shape(points: np.ndarray, base: Fingerprint | None = None) -> Fingerprint:
    base = base or a_fingerprint(n_landmarks=len(points))
    return dataclasses.replace(base, mean_shape={n: tuple(p) for n, p in zip(base.landmarks, points, strict=True)})


def spine(n: int, bend: float = 6.0) -> np.ndarray:
    """n points 35 mm apart, each step turned by so many degrees."""
    angle = np.radians(bend * np.arange(n - 1))
    steps = 35.0 * np.stack([np.zeros(n - 1), np.sin(angle), np.cos(angle)], axis=1)
    return np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])


@pytest.mark.parametrize("n", [5, 12, 24])
def test_a_bent_row_is_found_among_other_landmarks(n: int) -> None:
    rng = np.random.default_rng(n)
    others = rng.uniform(300, 600, (4, 3))
    points = np.concatenate([others[:2], spine(n) + rng.normal(0, 1, (n, 3)), others[2:]])
    assert longest_row(points) == tuple(range(2, n + 2))


def test_corners_of_a_row_of_bodies_are_rows_too() -> None:
    bodies = np.stack([np.zeros(17), 20.0 * np.arange(17)], axis=1)
    corners = np.concatenate([bodies + corner for corner in ([0, 0], [30, 0], [0, 15], [30, 15])])
    assert len(longest_row(corners)) >= 17


@pytest.mark.parametrize(("landmarks", "axes"), [(12, 2), (45, 3), (19, 2)])
def test_landmarks_anywhere_seldom_stand_in_a_row(landmarks: int, axes: int) -> None:
    """Of 100 sets of random landmarks, at most 10."""
    sets = np.random.default_rng(0).uniform(0, 1, (100, landmarks, axes))
    assert sum(len(longest_row(points)) >= ROW_LEAST for points in sets) <= 10


def test_uneven_steps_are_no_row() -> None:
    assert even_row(with_shape(spine(4))) == ()
    places = np.array([[0.0, 0, z] for z in (0, 10, 30, 45, 90, 110, 180)])
    assert len(longest_row(places)) < ROW_LEAST


def test_the_extent_is_that_of_the_images_axes_unless_poses_differ() -> None:
    """A row along physical z lies along array axis 0; where images turn it anyhow, along any."""
    points = np.array([[0.0, 2.0 * k % 4, 10.0 * k] for k in range(6)])
    base = a_fingerprint(n_landmarks=6, rotation=(5.0,) * 3)
    lying = dataclasses.replace(with_shape(points, base), mean_rotation=((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)))
    assert landmarks_extent(lying) == pytest.approx((50.0, 2.0, 0.0))
    turned = dataclasses.replace(lying, pose=dataclasses.replace(lying.pose, rotation_max=90.0))
    longest = math.hypot(50.0, 2.0)
    assert landmarks_extent(turned) == pytest.approx((longest,) * 3)
    assert landmarks_extent(with_shape(points, base)) == pytest.approx((longest,) * 3)


def test_first_stages_say_what_they_see() -> None:
    """Twice as large a shape is seen half as much; the reason holds the numbers."""
    base = a_fingerprint(spacing=(2.0, 2.0, 2.0), shape=(160.0,) * 3, n_landmarks=6, nearest=30.0)
    for planner, first in (
        (CoarseToFinePlanner(), "coarse_to_fine_coarse"),
        (GlobalToLocalPlanner(), "global_to_local_global"),
    ):
        planned = planner.plan(PlanRequest(base, "XS", "cpu", 0.3))[first]
        small, large = (with_shape(k * np.linspace(0, 1, 6)[:, None] * [0, 0, 100.0], base) for k in (1, 2))
        share, why = seen_of_extent(small, planned)
        assert share == pytest.approx(2 * seen_of_extent(large, planned)[0])
        assert share == pytest.approx(min(receptive_field(planned)) / 100.0)
        assert f"{share:.2g} times the landmarks' extent" in why and "even row" in why
        assert "sees" in planned.why["architecture.receptive_field"]


def test_coordinates_see_the_whole_window() -> None:
    base = a_fingerprint(spacing=(2.0, 2.0, 2.0), shape=(80.0,) * 3, n_landmarks=6, nearest=30.0)
    planner = CoarseToFinePlanner({"coarse": "coordinates"})
    planned = planner.plan(PlanRequest(base, "XS", "cpu", 0.3))["coarse_to_fine_coarse"]
    assert math.isinf(min(receptive_field(planned))) and "the whole window" in seen_of_extent(base, planned)[1]
