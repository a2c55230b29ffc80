"""Windows lie where they should, and what they show stays where the points say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks
from autolmk.plans import Architecture, Augmentation, Configuration, Normalization, Schedule, Windows
from autolmk.sampling import draw_window, sample
from autolmk.store import StoredCase


def make_configuration(
    patch: tuple[int, ...], spacing: tuple[float, ...], windows: Windows | None = None, **augmentation: Any
) -> Configuration:
    d = len(patch)
    ranges: dict[str, Any] = {"rotation": (180.0,) * (3 if d == 3 else 1), "scale": (0.8, 1.25), "translation": (3.0,) * d}
    return Configuration(
        trainer="heatmap",
        data_identifier="test",
        spacing=spacing,
        patch_size=patch,
        batch_size=2,
        normalization=(Normalization("none"),),
        windows=windows or Windows("random", 1.0),
        architecture=Architecture((8,), ((3,) * d,), ((1,) * d,), (1,), (), (1,) * d),
        sigma=(1.0,) * d,
        augmentation=Augmentation(**{**ranges, **augmentation}),
        schedule=Schedule(1, 1, None, 1e-3, 0.0, 0.9, 0.1),
    )


def make_geometry(shape: tuple[int, ...], spacing: tuple[float, ...], p: int, seed: int) -> Geometry:
    """Oblique, as preprocessed images are: canonical, but not quite along the axes."""
    tilt = Rotation.from_rotvec(np.random.default_rng(seed).uniform(-0.4, 0.4, 3)).as_matrix()
    if p == 2:
        a = 0.3
        tilt = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    d = len(shape)
    direction = tilt @ np.eye(p)[:, :d][:, ::-1]
    return Geometry.from_parts(shape, spacing, (-31.0, 17.0, 5.0)[:p], direction)


def make_case(geometry: Geometry, points: FloatArray, *, width: float = 2.0, fill: float = -1.0) -> StoredCase:
    """A blob of standard deviation `width` mm, height 1, at each point."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), -1)
    where = geometry.to_physical(grid)
    array = np.full(geometry.shape, fill)
    for point in points:
        array += np.exp(-(((where - point) ** 2).sum(-1)) / (2 * width**2))
    marks = Landmarks(tuple(f"p{i}" for i in range(len(points))), points, np.ones(len(points), dtype=np.int8))
    return StoredCase("case", array[None].astype(np.float32), geometry, (fill,), marks, "case", "d", "p")


def blob_centre(data: FloatArray, start: FloatArray, fill: float) -> FloatArray:
    """Least-squares fit of one Gaussian of free centre, height and covariance to the neighbourhood of `start`, in voxels."""
    d = data.ndim
    half = 5
    low = np.maximum(np.round(start).astype(int) - half, 0)
    high = np.minimum(np.round(start).astype(int) + half + 1, data.shape)
    crop = data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] - fill
    grid = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij"), -1)
    triangle = np.tril_indices(d)

    def residual(x: FloatArray) -> FloatArray:
        factor = np.zeros((d, d))
        factor[triangle] = x[d + 1 :]
        offset = (grid - x[:d]) @ factor
        return np.asarray((x[d] * np.exp(-0.5 * (offset**2).sum(-1)) - crop).ravel())

    guess = np.concatenate([start, [1.0], (np.eye(d) * 0.6)[triangle]])
    return np.asarray(least_squares(residual, guess).x[:d])


GRIDS = [
    pytest.param((44, 46, 48), (1.0, 1.0, 1.0), 3, (32, 32, 32), id="3D"),
    pytest.param((24, 48, 50), (2.0, 1.0, 1.0), 3, (16, 32, 36), id="3D anisotropic"),
    pytest.param((60, 66), (1.0, 1.0), 2, (40, 48), id="2D"),
    pytest.param((60, 40), (0.8, 1.5), 2, (40, 24), id="2D anisotropic"),
    pytest.param((60, 66), (1.0, 1.0), 3, (40, 48), id="slice of a volume"),
]


@pytest.mark.parametrize(("shape", "spacing", "p", "patch"), GRIDS)
@pytest.mark.parametrize("mirror", [None, 0])
def test_blob_stays_at_its_point(
    shape: tuple[int, ...], spacing: tuple[float, ...], p: int, patch: tuple[int, ...], mirror: int | None
) -> None:
    geometry = make_geometry(shape, spacing, p, seed=1)
    rng = np.random.default_rng(5)
    configuration = make_configuration(patch, spacing, mirror_axis=mirror)
    apart, mirrored = [], 0
    for _ in range(12):
        point = geometry.to_physical(rng.uniform(0.35, 0.65, len(shape)) * np.array(shape))
        case = make_case(geometry, point[None])
        window = draw_window(rng, geometry, case.landmarks.points, case.landmarks.status, configuration)
        mirrored += window.mirrored
        result = sample(case, window, (0,))
        voxel = result["voxels"][0]
        assert window.geometry.contains(voxel)
        if window.geometry.contains(voxel, margin=-3):
            apart.append(np.abs(blob_centre(result["data"][0].astype(float), voxel, -1.0) - voxel).max())
    assert len(apart) >= 6
    assert max(apart) < 0.05
    assert (mirrored > 0) == (mirror is not None)
