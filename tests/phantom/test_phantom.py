"""The phantom: its points are where its structures are, on every grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from autolmk.dataset import Dataset
from autolmk.fingerprint import extract_fingerprint
from autolmk.geometry import FloatArray
from autolmk.landmarks import Status
from autolmk.phantom import SPACING, make_phantom, make_row_phantom, write_phantom, write_row_phantom
from autolmk.phantom.anatomy import CO_SLICE, POINTS, ROW, ROW_POINTS, SOMETIMES_ABSENT
from autolmk.planning.window_rules import slice_groups


def test_same_seed_same_case() -> None:
    one, other = make_phantom(3, size=40), make_phantom(3, size=40)
    assert np.array_equal(one.image.array, other.image.array)
    assert np.array_equal(one.landmarks.points, other.landmarks.points)
    assert not np.array_equal(one.landmarks.points, make_phantom(4, size=40).landmarks.points)


@pytest.mark.parametrize("seed", range(4))
def test_bright_structure_lies_at_its_point(seed: int) -> None:
    """The pineal body, present minus absent, is a blob: its centroid is the landmark, within half a millimetre."""
    with_it = make_phantom(seed, noise=0)
    without = make_phantom(seed, noise=0, absent=("Pineal",))
    difference = np.abs(with_it.image.array[0] - without.image.array[0])
    centroid = with_it.image.geometry.to_physical(ndimage.center_of_mass(difference))
    point = with_it.landmarks.points[with_it.landmarks.names.index("Pineal")]
    assert np.linalg.norm(centroid - point) < 0.5
    assert without.landmarks.status[without.landmarks.names.index("Pineal")] == Status.ABSENT


@pytest.mark.parametrize("ndim", [2, 3])
def test_points_lie_inside_and_left_is_left(ndim: int) -> None:
    for seed in range(20):
        phantom = make_phantom(seed, ndim=ndim, size=24)
        voxels = phantom.image.geometry.to_voxels(phantom.landmarks.points)
        assert phantom.image.geometry.contains(voxels).all()
        where = dict(zip(phantom.landmarks.names, phantom.landmarks.points, strict=True))
        assert where["Eye_L"][0] > where["Eye_R"][0]


def test_grids_are_oblique_flipped_and_anisotropic() -> None:
    geometries = [make_phantom(seed, size=16).image.geometry for seed in range(30)]
    assert all(np.allclose(g.spacing, (2.5, 1, 1)) for g in geometries)
    assert len({g.orientation() for g in geometries}) == 8
    assert 5 < max(g.obliquity() for g in geometries) <= 10


@pytest.mark.parametrize("ndim", [2, 3])
def test_written_dataset_reads_back(ndim: int, tmp_path: Path) -> None:
    write_phantom(tmp_path / "Dataset001_Phantom", n_train=10, n_test=5, seed=2, ndim=ndim, size=24)
    dataset = Dataset.open(tmp_path / "Dataset001_Phantom")
    assert dataset.ndim == ndim and dataset.unit == ("mm" if ndim == 3 else "px")
    assert dataset.landmark_names == tuple(POINTS[ndim]) and ("Eye_L", "Eye_R") in dataset.pairs
    cases = dataset.cases("Tr")
    assert len(cases) == 10 and len(dataset.cases("Ts")) == 5
    seen = []
    for i, case in enumerate(cases):
        image = dataset.read_image(case)
        read = dataset.read_landmarks(case, image.geometry)
        seen.append(read.status)
        truth = make_phantom(2 * 1_000_003 + i, ndim=ndim, size=24)
        expected = image.geometry.to_physical(truth.image.geometry.to_voxels(truth.landmarks.points))
        assert np.abs(read.points - expected)[read.present].max() < 1e-4  # NIfTI's header holds float32
    status = np.array(seen)
    absent = (status == Status.ABSENT).sum(axis=0)
    assert {name for name, n in zip(POINTS[ndim], absent, strict=True) if n} == set(SOMETIMES_ABSENT)
    assert absent.max() <= 2 and 0 < (status == Status.UNKNOWN).sum() < 20


# -- landmarks that share a slice -------------------------------------------------------------------------------------

GROUPS = {axis: tuple(str(member.part_of) for member in members) for axis, members in CO_SLICE.items()}


def test_the_fingerprint_finds_exactly_the_planted_groups(tmp_path: Path) -> None:
    """Annotations jitter within their slice, and grids are oblique and flipped."""
    folder = tmp_path / "Dataset001_Slices"
    write_phantom(folder, n_train=10, n_test=1, size=48, co_slice=True)
    fingerprint = extract_fingerprint(Dataset.open(folder), workers=0, progress=False)
    assert {group.axis: group.names for group in fingerprint.co_slice_groups} == GROUPS
    assert len(fingerprint.co_slice_groups) == len(GROUPS) and len(fingerprint.landmarks) == len(POINTS[3]) + 5
    assert {group.axis: group.landmarks for group in slice_groups(fingerprint)[0]} == GROUPS


def test_annotations_of_a_group_jitter_within_its_slice(tmp_path: Path) -> None:
    write_phantom(tmp_path / "Dataset001_Slices", n_train=4, n_test=1, size=32, co_slice=True)
    dataset, apart = Dataset.open(tmp_path / "Dataset001_Slices"), []
    for i, case in enumerate(dataset.cases("Tr")):
        geometry = dataset.read_image(case).geometry
        read = dataset.read_landmarks(case, geometry)
        exact = make_phantom(i, size=32, co_slice=True)
        voxels = exact.image.geometry.to_voxels(exact.landmarks.points)
        for axis, names in GROUPS.items():
            rows = np.flatnonzero(np.isin(read.names, names) & read.present)
            moved = geometry.to_voxels(read.points[rows]) - voxels[rows]
            assert np.abs(moved[:, axis]).max() < 1e-3
            np.testing.assert_allclose(voxels[rows, axis], np.round(voxels[rows[0], axis]), atol=1e-6)
            apart += list((np.delete(moved, axis, 1) * np.delete(geometry.spacing, axis)).ravel())
    assert 0.25 < np.std(apart) < 0.6


@pytest.mark.parametrize("seed", range(3))
def test_a_rod_looks_the_same_on_every_slice_and_its_group_does_not(seed: int) -> None:
    """Its landmark is ambiguous in a window of its own."""
    phantom = make_phantom(seed, co_slice=True, noise=0)
    geometry = phantom.image.geometry
    place = dict(zip(phantom.landmarks.names, geometry.to_voxels(phantom.landmarks.points), strict=True))
    with_it, without = phantom.image.array[0], make_phantom(seed, noise=0).image.array[0]
    assert with_it.shape == without.shape
    for axis, names in GROUPS.items():
        rod, key = across(with_it, place[names[-1]], axis), across(np.abs(with_it - without), place[names[0]], axis)
        assert rod.min() > 0.7 * rod.max() and key.min() < 0.1 * key.max()
        away = geometry.to_physical(place[names[0]]) - geometry.to_physical(place[names[-1]])
        assert np.linalg.norm(away) > 13  # half of a window of 24 mm


def across(values: FloatArray, place: FloatArray, axis: int) -> FloatArray:
    """The largest value near `place` on each slice within 5 mm of it."""
    slices = round(5 / SPACING[3][axis])
    middle, reach = np.round(place).astype(int), [4 if axis == 0 else 2, 4, 4]
    reach[axis] = slices
    box = tuple(slice(m - r, m + r + 1) for m, r in zip(middle, reach, strict=True))
    return np.asarray(values[box].max(axis=tuple(a for a in range(3) if a != axis)))


def test_single_slices_share_none() -> None:
    with pytest.raises(ValueError, match="volumes"):
        make_phantom(0, ndim=2, co_slice=True)


# -- look-alikes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_row_of_balls_lies_exactly_at_its_points(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the row adds to the image is balls, whose centroids are the landmarks, within half a millimetre."""
    phantom = make_phantom(seed, look_alikes=True, noise=0)
    geometry = phantom.image.geometry
    monkeypatch.setattr("autolmk.phantom.phantom.ROW", [])
    plain = make_phantom(seed, look_alikes=True, noise=0)
    added = np.abs(phantom.image.array[0] - plain.image.array[0])
    places = geometry.to_physical(np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1))
    rows = [i for i, name in enumerate(phantom.landmarks.names) if name in ROW_POINTS]
    assert len(rows) == len(ROW) - 2 and ndimage.label(added > 0.5 * added.max())[1] == len(ROW)
    for point in phantom.landmarks.points[rows]:
        near = np.linalg.norm(places - point, axis=-1) < 3.5
        assert np.linalg.norm(np.average(places[near], axis=0, weights=added[near]) - point) < 0.3
    assert geometry.contains(geometry.to_voxels(phantom.landmarks.points)).all()


def test_neighbours_in_the_row_are_evenly_spaced_and_alike() -> None:
    centres = np.array([ball.centre for ball in ROW])
    apart = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    np.testing.assert_allclose(apart, apart[0])
    assert 9 < apart[0] < 12 and len({(ball.radii, ball.value) for ball in ROW}) == 1


def test_the_row_is_written_and_read_back(tmp_path: Path) -> None:
    write_phantom(tmp_path / "Dataset001_Row", n_train=2, n_test=1, size=32, look_alikes=True)
    dataset = Dataset.open(tmp_path / "Dataset001_Row")
    assert dataset.landmark_names == (*POINTS[3], *ROW_POINTS)
    with pytest.raises(ValueError, match="volumes"):
        make_phantom(0, ndim=2, look_alikes=True)


@pytest.mark.parametrize("row", [5, 24])
def test_bodies_of_a_row_lie_at_their_landmarks(row: int) -> None:
    phantom = make_row_phantom(3, row=row)
    again = make_row_phantom(3, row=row)
    np.testing.assert_array_equal(phantom.image.array, again.image.array)
    marks = phantom.landmarks
    assert marks.present.all() and len(marks.names) == row
    voxels = phantom.image.geometry.to_voxels(marks.points)
    at = phantom.image.array[0][tuple(np.round(voxels).astype(int).T)]
    between = phantom.image.array[0][tuple(np.round((voxels[1:] + voxels[:-1]) / 2).astype(int).T)]
    assert at.min() > 1.3 * between.max()
    apart = np.linalg.norm(np.diff(marks.points, axis=0), axis=1)
    assert 8 < apart.min() <= apart.max() < 12


def test_a_part_of_a_row_lacks_what_lies_beyond(tmp_path: Path) -> None:
    shown = [make_row_phantom(seed, row=12, partial=True) for seed in range(20)]
    count = np.array([phantom.landmarks.present.sum() for phantom in shown])
    assert 4 <= count.min() < count.max() <= 12 and 6 < count.mean() < 10
    for phantom in shown:
        there = np.flatnonzero(phantom.landmarks.present)
        assert (np.diff(there) == 1).all()
    write_row_phantom(tmp_path / "Dataset001_Rows", row=12, partial=True, n_train=2, n_test=1)
    dataset = Dataset.open(tmp_path / "Dataset001_Rows")
    case = dataset.cases("Tr")[1]
    read = dataset.read_landmarks(case, dataset.read_image(case).geometry)
    np.testing.assert_array_equal(read.status, shown[1].landmarks.status)
    pixels = shown[1].image.geometry.to_voxels(shown[1].landmarks.points)[:, ::-1]
    np.testing.assert_allclose(read.points, pixels, atol=1e-6)
