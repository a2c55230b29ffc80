"""Resampling by one matrix an axis: as SciPy does it, with NumPy and with torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autolmk.data.axis_sampling import ROWS, axis_blocks, multiplied
from autolmk.geometry import Geometry
from autolmk.image import Image

SIDES = st.lists(st.integers(1, 40), min_size=2, max_size=3)


@given(SIDES, st.lists(st.floats(0.3, 4.0), min_size=3, max_size=3), st.integers(1, 2), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_any_image_is_resampled_as_by_scipy(sides: list[int], spacing: list[float], channels: int, seed: int) -> None:
    """To a hundred-thousandth of the range of grey values, to wider and to finer voxels."""
    array = np.random.default_rng(seed).normal(size=(channels, *sides)).astype(np.float32)
    source = Geometry.from_parts(sides, [1.0] * len(sides))
    target = source.resampled(spacing[: len(sides)])
    expected = Image(array, source).resample(target, order=3).array
    found = multiplied(array, axis_blocks(source, target, 3))
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * max(np.ptp(array), 1e-6)


@pytest.mark.parametrize("spacing", [(0.5, 0.9, 0.4), (3.0, 1.2, 2.5)])
def test_torch_computes_the_same_on_sides_longer_than_a_block(spacing: tuple[float, ...]) -> None:
    sides = (ROWS + 9, 30, 2 * ROWS + 5)
    array = np.random.default_rng(0).normal(size=(2, *sides)).astype(np.float32)
    source = Geometry.from_parts(sides, (1.0, 1.0, 1.0))
    target = source.resampled(spacing)
    blocks = axis_blocks(source, target, 3)
    expected = Image(array, source).resample(target, order=3).array
    for found in (multiplied(array, blocks), multiplied(torch.from_numpy(array), blocks).numpy()):
        assert np.abs(found - expected).max() <= 1e-5 * np.ptp(array)


def test_only_near_voxels_are_multiplied() -> None:
    """The work grows with the side, not with its square: a block needs its own voxels and the filters' reach."""
    source = Geometry.from_parts((4096, 2), (1.0, 1.0))
    for spacing, most in ((1.1, 1.1 * ROWS + 44), (8.0, 8 * ROWS + 44 + 2 * 14)):
        blocks = axis_blocks(source, source.resampled((spacing, 1.0)), 3)[0]
        assert max(block.weights.shape[1] for block in blocks) <= most
        assert all(np.abs(block.weights.sum(axis=1) - 1).max() < 1e-9 for block in blocks)
