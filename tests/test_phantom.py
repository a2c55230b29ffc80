"""The phantom: its points are where its structures are, on every grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from autolmk.landmarks import Status
from autolmk.phantom import POINTS, SOMETIMES_ABSENT, make_phantom, write_phantom


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
    from autolmk.dataset import Dataset

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
