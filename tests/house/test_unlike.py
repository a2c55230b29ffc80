"""The changes of benchmarks/unlike.py: a bright blob at each point stays at its point, and the table counts rightly."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
SIDE = 2.5  # mm, standard deviation of a blob


@pytest.fixture(scope="module")
def benchmark() -> Iterator[tuple[ModuleType, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("changes"), importlib.import_module("unlike")


def blobs(ndim: int, seed: int = 0) -> tuple[Image, FloatArray]:
    """Bright blobs, away from each other and from the border; in 3D on an oblique grid with thick slices."""
    rng = np.random.default_rng(seed)
    if ndim == 2:
        geometry = Geometry.from_parts((60, 70), (1.0, 1.0), (0.0, 0.0))
    else:
        turn = Rotation.from_rotvec([0.1, -0.2, 0.15]).as_matrix() @ np.diag([1, -1, 1])
        geometry = Geometry.from_parts((18, 36, 40), (2.0, 1.0, 1.0), (5.0, -9.0, 30.0), turn)
    corners = np.array(list(np.ndindex(*(2,) * ndim)))
    places = (corners + 0.5) / (corners.max(axis=0) + 1) * 0.6 + 0.2
    voxels = (places + rng.uniform(-0.02, 0.02, places.shape)) * (np.array(geometry.shape) - 1)
    points = geometry.to_physical(voxels)
    grid = geometry.to_physical(np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), -1))
    values = sum(np.exp(-((grid - p) ** 2).sum(-1) / (2 * SIDE**2)) for p in points)
    noisy = np.asarray(values) + rng.normal(0, 0.01, geometry.shape)
    return Image(noisy[None].astype(np.float32), geometry), points


def furthest(image: Image, points: FloatArray) -> float:
    """mm, the largest distance of a point from the brightest place of the smoothed image within two blob widths."""
    smooth = ndimage.gaussian_filter(image.array[0].astype(np.float32), [1.5 / s for s in image.geometry.spacing])
    reach = np.ceil(2 * SIDE / np.array(image.geometry.spacing)).astype(int)
    found = []
    for point in points:
        middle = np.round(image.geometry.to_voxels(point)).astype(int)
        box = [slice(max(0, m - r), m + r + 1) for m, r in zip(middle, reach, strict=True)]
        part = smooth[tuple(box)]
        voxels = np.stack(np.indices(part.shape), -1) + [b.start for b in box]
        apart = np.linalg.norm(image.geometry.to_physical(voxels) - point, axis=-1)
        found.append(float(apart.flat[np.argmax(np.where(apart <= 2 * SIDE, part, -np.inf))]))
    return max(found)


@pytest.mark.parametrize("ndim", [2, 3])
def test_points_stay_at_what_they_mark(benchmark: tuple[ModuleType, ModuleType], ndim: int) -> None:
    changes, _ = benchmark
    (image, points), (other, _) = blobs(ndim), blobs(ndim, seed=1)
    assert furthest(image, points) < 1.5
    for name, kind in changes.changes_for(ndim=ndim, physical=True).items():
        for seed in range(2):
            source = changes.Source(np.random.default_rng(seed), other, 50.0)
            changed = kind.apply(image, points, source)
            kept = np.isfinite(changed.points).all(axis=1)
            voxel = max(changed.image.geometry.spacing)
            assert kept.any(), name
            seen = changed.image
            if name == "0.1 % metal":  # whose balls are brighter than any blob
                seen = Image(np.where(seen.array > image.array.max(), 0, seen.array), seen.geometry)
            assert furthest(seen, changed.points[kept]) < 0.9 * voxel + 0.5, name
            again = kind.apply(image, points, changes.Source(np.random.default_rng(seed), other, 50.0))
            np.testing.assert_array_equal(again.image.array, changed.image.array)
            if name not in ("crop to 80 %", "twice the trained rotation"):
                assert kept.all(), name


def test_each_change_is_of_its_size(benchmark: tuple[ModuleType, ModuleType]) -> None:
    changes, _ = benchmark
    (image, points), (other, _) = blobs(3), blobs(3, seed=1)

    def of(name: str) -> Image:
        source = changes.Source(np.random.default_rng(0), other, 50.0)
        result: Image = changes.CHANGES[name].apply(image, points, source).image
        return result

    extent = np.array(image.geometry.extent)
    for fill in ("border", "lowest", "noise", "other"):
        np.testing.assert_allclose(of(f"canvas x1.5, {fill}").geometry.extent, 1.5 * extent, rtol=0.02)
        np.testing.assert_allclose(of(f"canvas x2, {fill}").geometry.extent, 2 * extent, rtol=0.02)
    np.testing.assert_allclose(of("crop to 80 %").geometry.extent, 0.8 * extent, rtol=0.04)
    np.testing.assert_allclose(of("spacing x0.5").geometry.spacing, [1, 0.5, 0.5])
    np.testing.assert_allclose(of("spacing x2").geometry.spacing, [4, 2, 2])
    np.testing.assert_allclose(of("thick slices").geometry.spacing, [6, 1, 1])
    added = of("0.1 % metal").array > image.array.max()
    assert 0.0005 <= added.mean() <= 0.0015
    assert of("canvas x1.5, lowest").array.min() == image.array.min()
    assert (of("canvas x2, border").array[0] == np.median(_faces(image.array[0]))).mean() > 0.8
    np.testing.assert_allclose(of("intensity x100 + 500").array, 100 * image.array + 500, rtol=1e-5)


def _faces(channel: np.ndarray) -> np.ndarray:
    return np.concatenate([channel.take(i, axis=a).ravel() for a in range(channel.ndim) for i in (0, -1)])


def test_the_rotation_is_by_the_angle_asked_for(benchmark: tuple[ModuleType, ModuleType]) -> None:
    changes, _ = benchmark
    image, points = blobs(3)
    changed = changes.rotated(image, points, changes.Source(np.random.default_rng(2), image, 20.0))
    kept = np.isfinite(changed.points).all(axis=1)
    before, after = (p[kept] - image.geometry.centre for p in (points, changed.points))
    turn, _ = Rotation.align_vectors(after, before)
    assert np.degrees(turn.magnitude()) == pytest.approx(20.0, abs=1e-6)
    assert changed.image.geometry == image.geometry or changed.image.geometry.is_close(image.geometry)


def test_photographs_keep_their_anatomy(benchmark: tuple[ModuleType, ModuleType]) -> None:
    changes, _ = benchmark
    names = set(changes.changes_for(ndim=2, physical=False))
    assert not names & {"axes flipped and permuted", "spacing x0.5", "spacing x2", "thick slices"}
    assert len(names) == 17
    assert "thick slices" not in changes.changes_for(ndim=2, physical=True)


@pytest.mark.parametrize(
    ("errors", "flagged", "bound", "met", "unflagged"),
    [
        ((1.0, 1.3), (0, 0), 1.2, True, "0"),
        ((1.0, 1.5), (0, 0), 1.2, False, "0"),
        ((1.0, 30.0), (0, 1), 1.2, False, "0"),
        ((1.0, 30.0), (0, 0), np.inf, False, "1"),
        ((1.0, 30.0), (1, 1), np.inf, True, "0"),
    ],
)
def test_a_line_of_the_table(
    benchmark: tuple[ModuleType, ModuleType],
    errors: tuple[float, float],
    flagged: tuple[int, int],
    bound: float,
    met: bool,
    unflagged: str,
) -> None:
    _, unlike = benchmark
    rows = [
        {
            "case": "a",
            "landmark": n,
            "error": str(e),
            "gross": str(int(e > 10)),
            "flagged": str(f),
            "gone": "0",
            "absent": "0",
        }
        for n, e, f in zip("AB", errors, flagged, strict=True)
    ]
    rows.append({"case": "a", "landmark": "C", "error": "", "gross": "0", "flagged": "1", "gone": "1", "absent": "1"})
    cells, holds = unlike.line(rows, {("a", "A"): 1.0, ("a", "B"): 1.0, ("a", "C"): 50.0}, bound)
    assert holds is met
    assert cells[4] == unflagged
    assert cells[-3:] == ["1", "100%", "100%"]
    assert float(cells[1]) == pytest.approx(np.mean(errors), abs=0.01)
