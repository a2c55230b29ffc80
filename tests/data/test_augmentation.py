"""Intensity augmentation: seeded, bounded in cost, and it never moves anything."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from scipy import ndimage

from autolmk.data.augmentation import IntensityAugmentation

MOST_COST = 1.5  # a window's augmentation over a Gaussian filter of it


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 16, 18, 20), (2, 1, 24, 24), (3, 32, 40)])
def test_a_function_of_seed_and_array(shape: tuple[int, ...]) -> None:
    array = noise(shape)
    before = array.copy()
    augment = IntensityAugmentation(1.0)
    results = [augment(seed, array) for seed in range(30)]
    assert all(np.array_equal(augment(seed, array), r) for seed, r in enumerate(results))
    assert all(r.dtype == np.float32 and r.shape == shape and np.isfinite(r).all() for r in results)
    changed = sum(not np.array_equal(r, array) for r in results)
    assert 15 < changed < 30  # most windows change, and some stay as they are
    assert np.array_equal(array, before)


def test_generator_decides() -> None:
    array, augment = noise((1, 12, 12, 12)), IntensityAugmentation()
    a, b = (augment(np.random.default_rng(7), array) for _ in range(2))
    assert np.array_equal(a, b)


def test_global_generators_are_left_alone() -> None:
    np.random.seed(3)
    random.seed(3)
    expected = np.random.random(), random.random()
    np.random.seed(3)
    random.seed(3)
    IntensityAugmentation()(1, noise((1, 16, 16)))
    assert (np.random.random(), random.random()) == expected


def test_strength() -> None:
    array = noise((1, 20, 20, 20))
    assert all(np.array_equal(IntensityAugmentation(0.0)(seed, array), array) for seed in range(20))

    def change(strength: float) -> float:
        return float(np.mean([np.abs(IntensityAugmentation(strength)(s, array) - array).mean() for s in range(40)]))

    assert 0 < change(0.3) < change(1.0) < change(2.0)
    with pytest.raises(ValueError, match="strength"):
        IntensityAugmentation(-1.0)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e4])
def test_empty_windows_stay_finite(value: float) -> None:
    array = np.full((1, 10, 10, 10), value, dtype=np.float32)
    assert all(np.isfinite(IntensityAugmentation()(seed, array)).all() for seed in range(100))


def test_nothing_moves() -> None:
    """All but noise keep a window symmetric that is symmetric about its middle, on even and odd sides."""
    for n in (32, 33):
        axis = np.arange(n) - (n - 1) / 2
        array = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 2.5**2)).astype(np.float32)[None]
        for transform in IntensityAugmentation(1.0)._transforms((n, n))[1:]:
            transform.p_per_sample = transform.p_per_channel = 1.0  # type: ignore[attr-defined]
            for _ in range(10):
                result = transform(data=array[None].copy())["data"][0, 0]
                assert np.abs(result - result[::-1, ::-1]).max() < 1e-5


def test_cost() -> None:
    """In units of other work on the same array, done in turn, so that a busy machine slows both."""
    array, augment = noise((1, 64, 64, 64)), IntensityAugmentation(1.0)
    augment(0, array)
    ratios = []
    for turn in range(5):
        start = time.process_time()
        for seed in range(30 * turn, 30 * turn + 30):
            augment(seed, array)
        middle = time.process_time()
        for _ in range(5):
            ndimage.gaussian_filter(array[0], 1.0)
        ratios.append((middle - start) / 30 / ((time.process_time() - middle) / 5))
    assert np.median(ratios) < MOST_COST
