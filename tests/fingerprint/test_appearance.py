"""How images look: numbers that grey-value scales, orientation and padding leave alone, and that follow their cause."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autolmk.fingerprint.appearance import Appearance, appearance, content
from autolmk.image import FloatImage


def blob(size: int = 48, ndim: int = 3, *, noise: float = 0.02, seed: int = 0) -> FloatImage:
    """A bright ball with a soft edge on dark ground."""
    grid = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * ndim, indexing="ij"), -1)
    distance = np.linalg.norm(grid, axis=-1)
    ball = 1 / (1 + np.exp((distance - size * 0.3) / 2)) * (0.7 + 0.3 * np.cos(distance / 3))
    return np.asarray(ball + np.random.default_rng(seed).normal(0, noise, ball.shape), dtype=np.float32)


def numbers(of: Appearance, *left_out: str) -> list[float]:
    return [value for name, value in dataclasses.asdict(of).items() if name not in left_out]


@pytest.mark.parametrize("ndim", [2, 3])
def test_scale_flips_and_axes_change_nothing(ndim: int) -> None:
    image = blob(ndim=ndim)
    before = appearance(image)
    other = appearance(np.asarray(image * 100 + 500, dtype=np.float32))
    np.testing.assert_allclose(
        numbers(before, "level", "width", "grey_values"), numbers(other, "level", "width", "grey_values"), atol=2e-3
    )
    assert other.level == pytest.approx(before.level * 100 + 500, rel=1e-3)
    assert other.width == pytest.approx(before.width * 100, rel=1e-3)
    turned = appearance(np.flip(image.transpose(*range(1, ndim), 0), 0))
    np.testing.assert_allclose(numbers(before, "grey_values"), numbers(turned, "grey_values"), rtol=0.02, atol=2e-3)


def test_padding_is_measured_and_changes_nothing_else() -> None:
    image = blob()
    padded = np.pad(image, ((4, 20), (0, 0), (12, 12)), constant_values=-3)
    assert content(padded).shape == image.shape
    found, before = appearance(padded), appearance(image)
    assert found.padding == pytest.approx(1 - 48**2 / 72**2)
    np.testing.assert_allclose(numbers(before, "padding"), numbers(found, "padding"), rtol=1e-6)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_noise_is_that_of_the_image(noise: float) -> None:
    found = appearance(blob(noise=noise, seed=1))
    assert found.noise * found.width == pytest.approx(noise, rel=0.15)


def test_what_is_far_outside_clipped_inverted_or_coarse_shows() -> None:
    image, rng = blob(), np.random.default_rng(0)
    before = appearance(image)
    assert before.extreme == 0
    assert before.background < 0.1
    metal = image.copy()
    metal[rng.random(image.shape) < 0.001] = 30
    assert appearance(metal).extreme == pytest.approx(0.001, abs=4e-4)
    assert appearance(metal).width == pytest.approx(before.width, rel=0.06)  # not the 40 times of its largest value
    assert appearance(-image).background > 0.9
    assert appearance(np.clip(image, 0, 0.5)).clipped > 0.25 > 0.01 > before.clipped
    assert appearance(np.round(image * 100)).grey_values < 256 < 10_000 < before.grey_values


def test_no_image_breaks_it() -> None:
    for image in (np.zeros((8, 8)), np.full((4, 8, 8), 7.0), np.eye(3), np.full((5, 5), np.nan), np.ones((1, 6, 6))):
        found = appearance(np.asarray(image, dtype=np.float32))
        assert np.isfinite(numbers(found)).all()
