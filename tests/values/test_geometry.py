"""Geometry and resampling: points stay where they are through every change of grid, and image content with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from autolmk import imageio
from autolmk.annotations import read, write
from autolmk.geometry import FloatArray, Geometry, round_length
from autolmk.image import Image, resample
from autolmk.landmarks import Landmarks, Status

HEADERS = 1000


def random_direction(rng: np.random.Generator, ndim: int) -> FloatArray:
    """Any rotation, half of the time close to the axes, with axes permuted and flipped."""
    if ndim == 2:
        angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.5 else rng.normal(0, 0.1)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    else:
        matrix = Rotation.random(rng=rng).as_matrix()
        if rng.random() < 0.5:
            matrix = Rotation.from_rotvec(rng.normal(0, 0.1, 3)).as_matrix()
    return np.asarray((matrix * rng.choice([-1.0, 1.0], ndim))[:, rng.permutation(ndim)])


def random_geometry(rng: np.random.Generator, ndim: int, physical_ndim: int | None = None) -> Geometry:
    """physical_ndim 3 with 2 axes: a single slice of a volume, which lies anywhere in space."""
    p = physical_ndim or ndim
    shape = rng.integers(2, 9, ndim)
    spacing = np.exp(rng.uniform(np.log(0.05), np.log(8), ndim))
    direction = random_direction(rng, p)[:, p - ndim :]
    return Geometry.from_parts(shape, spacing, rng.uniform(-300, 300, p), direction)


def random_points(rng: np.random.Generator, geometry: Geometry, n: int = 4) -> FloatArray:
    return geometry.to_physical(rng.uniform(-0.5, np.array(geometry.shape) - 0.5, (n, geometry.ndim)))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_points_survive_files_and_every_change_of_grid(ndim: int, ending: str, tmp_path: Path) -> None:
    """1,000 oblique, flipped, anisotropic headers in all: write and read, orient, resample, crop, turn."""
    rng = np.random.default_rng([ndim, len(ending)])
    suffixes = (".mrk.json", ".fcsv", ".csv")
    for i in range(HEADERS // 8):
        made = random_geometry(rng, ndim)
        voxels = made.to_voxels(random_points(rng, made))
        image_file, points_file = tmp_path / f"image{ending}", tmp_path / f"points{suffixes[i % 3]}"
        imageio.write_image(image_file, Image(rng.random((1, *made.shape)).astype(np.float32), made))
        image = imageio.read_image([image_file])
        assert image.geometry.is_close(made, tolerance=0.02), "the header itself must be right, to its own precision"
        names = tuple(f"L{j}" for j in range(len(voxels)))
        truth = image.geometry.to_physical(voxels)
        write(points_file, Landmarks(names, truth, np.full(len(names), Status.PRESENT)))
        annotation = read(points_file)
        assert annotation.frame == "LPS"
        points = annotation.landmarks("LPS", image.geometry).points
        for grid in chain_of_grids(rng, image):
            back = grid.to_physical(grid.to_voxels(points))
            np.testing.assert_allclose(back, truth, rtol=0, atol=1e-6)
        as_read = imageio.read_geometry(image_file)
        np.testing.assert_allclose(as_read.to_voxels(points), voxels, rtol=0, atol=1e-6)


def test_points_in_single_slices_survive_every_change_of_grid(tmp_path: Path) -> None:
    """1,000 slices (D = 2, P = 3) lying anywhere in space, read from volumes of one slice and changed as above."""
    rng = np.random.default_rng(23)
    for i in range(HEADERS):
        made = random_geometry(rng, 2, 3)
        voxels = made.to_voxels(random_points(rng, made))
        image = Image(rng.random((1, *made.shape)).astype(np.float32), made)
        if i % 10 == 0:
            normal = np.cross(*made.direction.T)
            affine = np.insert(made.affine, 0, [*(normal * rng.uniform(0.5, 8)), 0], axis=1)
            volume = Image(image.array[:, None], Geometry((1, *made.shape), affine))
            imageio.write_image(tmp_path / "slice.nii.gz", volume)
            image = imageio.squeeze(imageio.read_image([tmp_path / "slice.nii.gz"]))
            assert image.geometry.is_close(made, tolerance=0.02)
        points = image.geometry.to_physical(voxels)
        for grid in chain_of_grids(rng, image):
            assert (grid.ndim, grid.physical_ndim) == (2, 3)
            np.testing.assert_allclose(grid.to_physical(grid.to_voxels(points)), points, rtol=0, atol=1e-6)


def chain_of_grids(rng: np.random.Generator, image: Image) -> list[Geometry]:
    """What preprocessing, augmentation and prediction do to an image's grid, one after the other."""
    canonical = image.canonical().geometry
    resampled = canonical.resampled(rng.uniform(0.3, 3, canonical.ndim))
    cropped = resampled.crop(rng.integers(-3, 3, canonical.ndim), rng.integers(2, 6, canonical.ndim))
    turn = np.asarray(random_direction(rng, canonical.physical_ndim)) * rng.uniform(0.7, 1.4)
    if canonical.ndim < canonical.physical_ndim:  # a slice stays in its plane
        turn = np.eye(3) * rng.uniform(0.7, 1.4)
    window = cropped.window(random_points(rng, cropped, 1)[0], cropped.shape, turn)
    return [image.geometry, canonical, resampled, cropped, window, window.mirrored(0)]


@pytest.mark.parametrize("ndim", [2, 3])
def test_canonical_brings_each_axis_near_its_physical_axis_and_keeps_the_content(ndim: int) -> None:
    rng = np.random.default_rng(ndim)
    for _ in range(200):
        geometry = random_geometry(rng, ndim)
        image = Image(rng.random((2, *geometry.shape)).astype(np.float32), geometry)
        canonical = image.canonical()
        diagonal = np.array([canonical.geometry.direction[ndim - 1 - a, a] for a in range(ndim)])
        assert (diagonal > 0).all() and canonical.geometry.orientation() == "LPS"[:ndim]
        voxel = tuple(int(v) for v in rng.integers(0, geometry.shape))
        there = np.round(canonical.geometry.to_voxels(geometry.to_physical(voxel))).astype(int)
        np.testing.assert_array_equal(canonical.array[(slice(None), *there)], image.array[(slice(None), *voxel)])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3]))
def test_maps_between_grids_agree_with_the_way_over_physical_space(seed: int, ndim: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_geometry(rng, ndim), random_geometry(rng, ndim)
    matrix, offset = a.map_to(b)
    voxels = rng.uniform(-5, 5, (6, ndim))
    np.testing.assert_allclose(voxels @ matrix.T + offset, b.to_voxels(a.to_physical(voxels)), rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("ndim", [2, 3])
def test_resampled_keeps_the_field_of_view_and_has_exactly_the_spacing(ndim: int) -> None:
    rng = np.random.default_rng(ndim)
    for _ in range(100):
        geometry = random_geometry(rng, ndim)
        spacing = rng.uniform(0.1, 5, ndim)
        target = geometry.resampled(spacing)
        np.testing.assert_allclose(target.spacing, spacing, rtol=1e-12)
        np.testing.assert_allclose(target.centre, geometry.centre, atol=1e-9)
        wide = np.array(target.shape) > 1
        assert (np.abs(np.array(target.extent) - geometry.extent)[wide] <= spacing[wide] / 2 + 1e-9).all()


def test_a_slice_of_a_volume_keeps_its_place_in_space() -> None:
    rng = np.random.default_rng(0)
    volume = random_geometry(rng, 3)
    plane = Geometry(volume.shape[1:], np.delete(volume.affine, 0, axis=1))
    assert (plane.ndim, plane.physical_ndim) == (2, 3)
    inside = volume.to_physical([0.0, 1.25, 0.5])
    np.testing.assert_allclose(plane.to_voxels(inside), [1.25, 0.5], atol=1e-9)
    np.testing.assert_allclose(plane.to_voxels(inside + volume.direction[:, 0]), [1.25, 0.5], atol=1e-9)
    canonical = plane.canonical()
    np.testing.assert_allclose(canonical.to_physical(canonical.to_voxels(inside)), inside, atol=1e-9)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 3), (2, 3)])
def test_the_frame_is_a_rotation_along_the_axes_of_the_grid(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(sizes)
    for _ in range(300):
        geometry = random_geometry(rng, *sizes)
        frame = geometry.frame()
        np.testing.assert_allclose(frame @ frame.T, np.eye(sizes[1]), atol=1e-12)
        assert np.linalg.det(frame) > 0 and (sizes == (2, 3) or (np.diag(frame) > 0).all())
        along = np.abs(geometry.direction.T @ frame)  # each axis of the grid is one of the frame
        np.testing.assert_allclose(np.sort(along, axis=1)[:, -1], 1, atol=1e-12)
    straight = Geometry.from_parts((5, 6, 7), (3.0, 1.0, 1.0))
    np.testing.assert_array_equal(straight.frame(), np.eye(3))
    np.testing.assert_array_equal(straight.permuted((2, 0, 1)).mirrored(1).frame(), np.eye(3))


def test_geometry_agrees_with_simpleitk_and_nibabel(tmp_path: Path) -> None:
    import nibabel as nib
    import SimpleITK as sitk

    rng = np.random.default_rng(1)
    for _ in range(20):
        made = random_geometry(rng, 3)
        imageio.write_image(tmp_path / "a.nii", Image(np.zeros((1, *made.shape), np.float32), made))
        itk, nibabel = sitk.ReadImage(str(tmp_path / "a.nii")), nib.load(tmp_path / "a.nii")
        voxel = [float(v) for v in rng.uniform(0, 5, 3)]
        point = Geometry.from_sitk(itk).to_physical(voxel)
        np.testing.assert_allclose(point, itk.TransformContinuousIndexToPhysicalPoint(voxel[::-1]), atol=1e-9)
        np.testing.assert_allclose(Geometry.from_nibabel(nibabel).to_physical(voxel), point, atol=2e-3)
    with pytest.raises(TypeError, match="RAS or LPS"):
        Geometry.from_nibabel(np.eye(4))


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((0, 3), np.eye(3)),
        ((3,), np.eye(2)),
        ((3, 3), np.eye(5)),
        ((3, 3, 3), np.eye(3)),
        ((3, 3), np.diag([1.0, np.nan, 1.0])),
        ((3, 3), np.diag([1.0, 0.0, 1.0])),
    ],
)
def test_impossible_geometries_are_refused(shape: tuple[int, ...], affine: FloatArray) -> None:
    with pytest.raises(ValueError, match="must"):
        Geometry(shape, affine)


def test_json_is_exact_and_contains_knows_the_border() -> None:
    geometry = random_geometry(np.random.default_rng(3), 3)
    np.testing.assert_array_equal(Geometry.from_json(geometry.to_json()).affine, geometry.affine)
    grid = Geometry.from_parts((4, 6), (1, 1))
    inside = grid.contains([[-0.5, 5.5], [-0.6, 0], [np.nan, 0], [3.5, 0]])
    assert inside.tolist() == [True, False, False, True]
    assert grid.contains([-1.4, 0], margin=1) and not grid.contains([-1.6, 0], margin=1)


# -- image content ----------------------------------------------------------------------------------------------------


def render(geometry: Geometry, point: FloatArray, sigma: float) -> np.ndarray:
    """A Gaussian blob of `sigma` mm at `point`, with a margin of its own intensity so that it is no mere sample."""
    grid = np.stack(np.meshgrid(*[np.arange(float(n)) for n in geometry.shape], indexing="ij"), axis=-1)
    squared = ((geometry.to_physical(grid) - point) ** 2).sum(axis=-1)
    return np.asarray(np.exp(-squared / (2 * sigma**2)), dtype=np.float32)


def centre_of(array: np.ndarray) -> FloatArray:
    """Voxel centroid of what is brighter than a hundredth of the maximum."""
    weights = np.where(array > 0.01 * array.max(), array, 0).astype(np.float64)
    grid = np.stack(np.meshgrid(*[np.arange(float(n)) for n in array.shape], indexing="ij"), axis=-1)
    return np.asarray((grid * weights[..., None]).sum(axis=tuple(range(array.ndim))) / weights.sum())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(
    "kind", ["finer", "same", "coarser", "much coarser", "turned", "turned and coarser", "mirrored"]
)
def test_a_rendered_blob_stays_at_its_point(kind: str, order: int, ndim: int) -> None:
    """Within 0.05 voxel of the new grid, whether it is finer, coarser with low-pass, turned or mirrored."""
    rng = np.random.default_rng(7)
    size = {2: 64, 3: 40}[ndim]
    for _ in range(3):
        spacing = rng.uniform(0.8, 1.25, ndim)
        source = Geometry.from_parts([size] * ndim, spacing, rng.uniform(-50, 50, ndim), random_direction(rng, ndim))
        point = source.centre + rng.uniform(-2, 2, ndim)
        array = render(source, point, sigma=3.0)[None]
        factor = {"finer": 0.6, "coarser": 1.6, "much coarser": 2.5, "turned and coarser": 2.0}.get(kind, 1.0)
        target = source.canonical().resampled(np.array(source.canonical().spacing) * factor)
        if "turned" in kind:
            turn = random_direction(rng, ndim)
            target = target.window(target.centre, target.shape, turn if np.linalg.det(turn) > 0 else -turn)
        if kind == "mirrored":
            target = target.mirrored(0)
        found = centre_of(resample(array, source, target, order=order, fill=[0.0])[0])
        assert np.abs(found - target.to_voxels(point)).max() < 0.05


def test_canonical_and_resample_agree_on_where_things_are() -> None:
    rng = np.random.default_rng(2)
    source = Geometry.from_parts([30] * 3, [1.0, 0.7, 1.3], [5.0, -20, 30], random_direction(rng, 3))
    point = source.centre + np.array([1.3, -0.4, 2.2])
    image = Image(render(source, point, 2.5)[None], source).canonical()
    assert np.abs(centre_of(image.array[0]) - image.geometry.to_voxels(point)).max() < 0.01


def test_cropping_by_whole_voxels_interpolates_nothing_and_fills_outside() -> None:
    rng = np.random.default_rng(0)
    source = random_geometry(rng, 3)
    array = rng.random((2, *source.shape)).astype(np.float32)
    target = source.crop([-1, 0, 1], [n + 2 for n in source.shape])
    out = resample(array, source, target, fill=[7.0, 8.0])
    np.testing.assert_array_equal(out[:, 1:-1, :-2, : source.shape[2] - 1], array[:, :, :, 1:])
    assert (out[0, 0] == 7).all() and (out[1, 0] == 8).all() and (out[0, :, -1] == 7).all()
    repeated = resample(array, source, target)
    np.testing.assert_array_equal(repeated[:, 0, :-2, :-3], repeated[:, 1, :-2, :-3])


def test_labels_are_never_mixed_and_low_pass_keeps_fine_patterns_from_turning_into_false_ones() -> None:
    source = Geometry.from_parts([32, 32], [1, 1])
    labels = np.indices((32, 32)).sum(axis=0)[None] % 2 * 9.0
    assert set(np.unique(resample(labels, source, source.resampled([2.3, 2.3]), order=0))) <= {0.0, 9.0}
    inner = (slice(None), slice(2, -2), slice(2, -2))
    smooth = resample(labels, source, source.resampled([2.3, 2.3]))[inner]
    raw = resample(labels, source, source.resampled([2.3, 2.3]), low_pass=None)[inner]
    assert smooth.std() < 0.2 < raw.std()


def test_the_array_axis_of_a_canonical_grid_is_its_place_however_oblique() -> None:
    for seed in range(300):
        turn = Rotation.random(random_state=seed).as_matrix()
        geometry = Geometry.from_parts((4, 5, 6), (1, 1, 1), (0, 0, 0), turn).canonical()
        assert [geometry.array_axis(p) for p in range(3)] == [2, 1, 0]
    coronal = Geometry.from_parts((4, 5), (1, 1), (0, 0, 0), np.array([[0, 1], [0, 0], [1, 0]]))
    assert [coronal.array_axis(p) for p in range(3)] == [1, None, 0]


def test_sides_are_where_an_axis_comes_from_and_leads_to() -> None:
    lps = Geometry.from_parts((4, 5, 6), (1, 1, 1), (0, 0, 0))
    assert [lps.sides(a) for a in range(3)] == [("I", "S"), ("A", "P"), ("R", "L")]
    assert lps.mirrored(2).sides(2) == ("L", "R")
    turn = np.radians(30)
    oblique = np.array([[0, -np.sin(turn), np.cos(turn)], [0, np.cos(turn), np.sin(turn)], [1, 0, 0]])
    turned = Geometry.from_parts((4, 5, 6), (1, 1, 1), (0, 0, 0), oblique)
    assert [turned.sides(a) for a in range(3)] == [("I", "S"), ("AL", "PR"), ("RA", "LP")]
    assert Geometry.from_parts((4, 5), (1, 1)).sides(0) == ("", "")


@pytest.mark.parametrize(
    ("longest", "length"), [(1.0, 1.0), (1.99, 1.0), (2.0, 2.0), (49.9, 20.0), (50, 50), (0.07, 0.05)]
)
def test_a_scale_bar_is_round_and_fits(longest: float, length: float) -> None:
    assert round_length(longest) == pytest.approx(length)
