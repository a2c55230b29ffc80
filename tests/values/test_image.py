"""Resampling: what is smoothed before it is sampled, and how much of an image's noise is left."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from autolmk.data.rotation import draw_rotation
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import FWHM_TO_SIGMA, low_pass_sigma, resample


def slices(ratio: float, shape: tuple[int, ...] = (24, 48, 48)) -> Geometry:
    """Slices `ratio` times as thick as their pixels."""
    return Geometry.from_parts(shape, (ratio, 1.0, 1.0))


def turned(geometry: Geometry, degrees: float, factor: float = 1.0) -> FloatArray:
    """Target voxel to source voxel of a window that is turned about y, its voxels `factor` times as wide."""
    turn = Rotation.from_rotvec([0.0, np.radians(degrees), 0.0]).as_matrix()
    return geometry.window(geometry.centre, (4, 12, 12), turn * factor).map_to(geometry)[0]


def steps(sigma: FloatArray) -> list[float]:
    """Source voxels to a target voxel, an axis, that a filter stands for."""
    return [float(s) for s in np.sqrt(1 + (sigma / FWHM_TO_SIGMA) ** 2)]


@pytest.mark.parametrize(("ratio", "degrees"), [(1, 45), (5, 30), (12, 14), (12, 30)])
def test_turning_slices_smooths_nothing(ratio: float, degrees: float) -> None:
    """By the widest axis pixels were blurred by up to 6 of their own."""
    matrix = turned(slices(ratio), degrees)
    assert not low_pass_sigma(matrix, "crossed").any()
    assert low_pass_sigma(matrix, "widest").any() == (ratio > 1)


def test_slices_that_are_looked_at_from_the_side_are_smoothed_to_their_thickness() -> None:
    assert steps(low_pass_sigma(turned(slices(12), 90), "crossed")) == pytest.approx([1, 1, 12])
    assert steps(low_pass_sigma(turned(slices(12), 14), "widest")) == pytest.approx([1, 1, 12 * np.sin(np.radians(14))])


@pytest.mark.parametrize("degrees", [0, 20, 45, 70])
def test_coarser_voxels_are_smoothed_alike_however_they_are_turned(degrees: float) -> None:
    assert steps(low_pass_sigma(turned(slices(1), degrees, 1.6), "crossed")) == pytest.approx([1.6] * 3)
    assert not low_pass_sigma(turned(slices(1), degrees, 1.25), "crossed").any()


def noise_left(ratio: float, degrees: float, rule: str, order: int = 1, ndim: int = 3) -> float:
    """Standard deviation of white noise of 1 in windows that are turned, shifted and scaled as in training."""
    geometry = slices(ratio) if ndim == 3 else Geometry.from_parts((96, 96), (1.0, ratio))
    noise = np.random.default_rng(0).normal(size=(1, *geometry.shape))
    rng, squares = np.random.default_rng(1), []
    for _ in range(40):
        turn = draw_rotation(rng, (degrees,) * 3)
        if ndim == 2:
            a = np.radians(rng.uniform(-degrees, degrees))
            turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        centre = geometry.centre + rng.uniform(-0.5, 0.5, ndim)
        window = geometry.window(centre, (4, 12, 12)[-ndim:], turn / rng.uniform(0.9, 1.1))
        squares.append(resample(noise, geometry, window, order=order, low_pass=rule).var())  # type: ignore[arg-type]
    return float(np.sqrt(np.mean(squares)))


@pytest.mark.parametrize(("ratio", "degrees", "before"), [(1, 30, 0.55), (5, 30, 0.46), (12, 14, 0.47), (12, 30, 0.31)])
def test_thick_slices_keep_as_much_noise_as_cubes(ratio: float, degrees: float, before: float) -> None:
    """Linear interpolation of volumes leaves 0.55 of it; the filter takes no more."""
    assert 0.54 < noise_left(ratio, degrees, "crossed") < 0.65
    assert noise_left(ratio, degrees, "widest") == pytest.approx(before, abs=0.03)


@pytest.mark.parametrize(("ratio", "linear", "quadratic"), [(1, 0.71, 0.89), (5, 0.75, 0.94)])
def test_quadratic_splines_keep_more_of_the_noise_of_pictures(ratio: float, linear: float, quadratic: float) -> None:
    assert noise_left(ratio, 30, "crossed", ndim=2) == pytest.approx(linear, abs=0.03)
    assert noise_left(ratio, 30, "crossed", order=2, ndim=2) == pytest.approx(quadratic, abs=0.03)


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_mirrored_voxels_are_cut_out_exactly(axes: tuple[int, ...]) -> None:
    source = slices(2.5, (7, 8, 9))
    array = np.random.default_rng(0).random((2, *source.shape)).astype(np.float32)
    target = source.crop((1, -2, 3), (5, 6, 8))
    straight = resample(array, source, target, fill=[7.0, 8.0])
    for axis in axes:
        target = target.mirrored(axis)
    mirrored = resample(array, source, target, fill=[7.0, 8.0], order=3)
    np.testing.assert_array_equal(mirrored, np.flip(straight, [a + 1 for a in axes]))
