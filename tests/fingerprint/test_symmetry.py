"""Midline landmarks are recognised with few cases; those off it, and anatomy without symmetry, are not."""

from __future__ import annotations

import numpy as np
import pytest

from autolmk.fingerprint.symmetry import mirror
from autolmk.geometry import FloatArray

REPEATS = 60


def anatomy(rng: np.random.Generator, p: int, off: float = 0.0) -> tuple[FloatArray, tuple[str, ...]]:
    """(points of width 1, names) of 3 to 8 pairs and 2 to 5 landmarks on the midline, the first one `off` it."""
    pairs, middle = int(rng.integers(3, 9)), int(rng.integers(2, 6))
    side = np.column_stack([rng.uniform(0.12, 0.5, pairs), rng.uniform(-0.65, 0.65, (pairs, p - 1))])
    side[0, 0] = 0.5
    line = np.column_stack([np.zeros(middle), rng.uniform(-0.65, 0.65, (middle, p - 1))])
    line[0, 0] = off
    mirrored = side * np.array([-1] + [1] * (p - 1))
    names = [f"{chr(97 + i)}x_{letter}" for letter in "LR" for i in range(pairs)]
    return np.concatenate([side, mirrored, line]), (*names, *(f"m{chr(97 + i)}x" for i in range(middle)))


def mean_of(rng: np.random.Generator, points: FloatArray, n: int, asymmetry: float) -> FloatArray:
    """Mean shape, in mm, of n cases that differ by so much of the width an axis."""
    return 40 * (points + rng.normal(0, asymmetry / np.sqrt(n), points.shape))


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize("n", [5, 8, 12, 20])
@pytest.mark.parametrize("asymmetry", [0.005, 0.01, 0.02, 0.03])
def test_the_midline_is_recognised_with_few_cases(p: int, n: int, asymmetry: float) -> None:
    rng = np.random.default_rng(0)
    complete = 0
    for _ in range(REPEATS):
        points, names = anatomy(rng, p)
        found = mirror(mean_of(rng, points, n, asymmetry), names)
        complete += found is not None and found.complete and set(found.midline) == {m for m in names if m[0] == "m"}
    assert complete >= 0.9 * REPEATS


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize("n", [5, 20])
def test_a_landmark_a_tenth_of_the_width_off_is_not_on_the_midline(p: int, n: int) -> None:
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(REPEATS):
        points, names = anatomy(rng, p, off=0.1)
        found = mirror(mean_of(rng, points, n, 0.03), names)
        called += found is not None and next(name for name in names if name[0] == "m") in found.midline
    assert called <= 0.05 * REPEATS


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize("n", [5, 20])
def test_names_are_not_needed(p: int, n: int) -> None:
    rng = np.random.default_rng(2)
    good = 0
    for _ in range(REPEATS):
        points, names = anatomy(rng, p)
        found = mirror(mean_of(rng, points, n, 0.01), [f"w{i}" for i in range(len(names))])
        pairs = sum(name.endswith("L") for name in names)
        expected = {frozenset((f"w{i}", f"w{i + pairs}")) for i in range(pairs)}
        good += found is not None and found.complete and {frozenset(pair) for pair in found.pairs} == expected
    assert good >= 0.9 * REPEATS


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize("asymmetry", [0.005, 0.03])
def test_outlines_without_symmetry_get_no_plane(p: int, asymmetry: float) -> None:
    """Landmarks around an uneven outline, as a wing's."""
    rng = np.random.default_rng(3)
    planes = 0
    for _ in range(REPEATS):
        n = int(rng.integers(8, 25))
        angle = np.sort(rng.uniform(0, 2 * np.pi, n))
        radius = 1 + 0.3 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.2 * np.sin(3 * angle + rng.uniform(0, 6))
        outline = np.column_stack([1.6 * radius * np.cos(angle), radius * np.sin(angle)]) / 2
        outline = np.column_stack([outline, rng.normal(0, 0.15, (n, p - 2))])
        planes += mirror(mean_of(rng, outline, 5, asymmetry), [f"w{i}" for i in range(n)]) is not None
    assert planes <= 0.05 * REPEATS
