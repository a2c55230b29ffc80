"""Windows lie where they should, and what they show stays where the points say."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from autolmk.data.rotation import draw_rotation, draw_transform
from autolmk.data.sampling import Window, cut, draw_window, sample
from autolmk.data.store import StoredCase
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, to_json
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import resample
from autolmk.landmarks import Landmarks, Status
from autolmk.plans import Architecture, Augmentation, Configuration, LabelMap, Normalization, Schedule, Windows


def make_configuration(
    patch: tuple[int, ...], spacing: tuple[float, ...], windows: Windows | None = None, **augmentation: Any
) -> Configuration:
    d = len(patch)
    ranges: dict[str, Any] = {
        "rotation": (180.0,) * (3 if d == 3 else 1),
        "scale": (0.8, 1.25),
        "translation": (3.0,) * d,
    }
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
    """Centre in voxels of a Gaussian of free centre, height and covariance, fitted to the neighbourhood of `start`."""
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


def angle(rotation: FloatArray) -> float:
    return float(np.degrees(np.linalg.norm(Rotation.from_matrix(rotation).as_rotvec())))


@pytest.mark.parametrize(("shape", "spacing", "p", "patch"), GRIDS)
@pytest.mark.parametrize("low_pass", [False, True])
def test_cut_equals_resampling_the_padded_image(
    shape: tuple[int, ...], spacing: tuple[float, ...], p: int, patch: tuple[int, ...], low_pass: bool
) -> None:
    """Reading only the touched region changes nothing, wherever the window lies."""
    rng = np.random.default_rng(3)
    case = make_case(make_geometry(shape, spacing, p, seed=2), np.empty((0, p)), fill=0.0)
    case = dataclasses.replace(case, array=rng.normal(size=(2, *shape)).astype(np.float32), fill=(2.0, -1.0))
    scale = (0.5, 0.6) if low_pass else (0.9, 1.2)
    configuration = make_configuration(patch, spacing, scale=scale)
    pad = 30
    whole = case.geometry.crop((-pad,) * len(shape), tuple(n + 2 * pad for n in shape))
    padded = np.stack(
        [np.pad(c, pad, constant_values=f) for c, f in zip(np.asarray(case.array), case.fill, strict=True)]
    )
    for _ in range(6):
        point = case.geometry.to_physical(rng.uniform(-0.6, 1.6, len(shape)) * np.array(shape))
        status = np.array([Status.PRESENT], dtype=np.int8)
        window = draw_window(rng, case.geometry, point[None], status, configuration).geometry
        assert np.abs(cut(case, window) - resample(padded, whole, window)).max() < (0.01 if low_pass else 1e-4)


def test_cut_reads_only_what_the_window_touches() -> None:
    case = make_case(make_geometry((60, 60, 60), (1.0, 1.0, 1.0), 3, seed=4), np.empty((0, 3)))
    read: list[tuple[int, ...]] = []

    class Recorder(StoredCase):
        def read(self, start: Any, shape: Any) -> Any:
            read.append(tuple(shape))
            return super().read(start, shape)

    recorder = Recorder(**{f.name: getattr(case, f.name) for f in dataclasses.fields(case)})
    cut(recorder, case.geometry.crop((20, 5, 40), (10, 12, 30)))
    assert len(read) == 1
    assert all(n <= m + 3 for n, m in zip(read[0], (10, 12, 20), strict=True))  # of the 30 along x, 20 lie inside


def test_mirrored_windows_swap_pairs() -> None:
    """In each window, mirrored or not, `left` lies on the left; a mirrored one shows the right one's content there."""
    geometry = Geometry.from_parts((40, 40, 40), (1.0, 1.0, 1.0))
    points = np.array([[28.0, 20, 20], [12.0, 20, 20], [20.0, 12, 20]])  # left, right, middle; x grows to the left
    case = make_case(geometry, points, fill=0.0)
    array = np.asarray(case.array).copy()
    array[:, :, :, 20:] *= 2  # what lies left of the middle is twice as bright
    marks = Landmarks(("left", "right", "middle"), points, np.array([1, 2, 1], dtype=np.int8))
    absent = dataclasses.replace(case, array=array, landmarks=marks)
    case = dataclasses.replace(case, array=array)
    still = {"rotation": (0.0, 0.0, 0.0), "scale": (1.0, 1.0), "translation": (0.0, 0.0, 0.0), "mirror_axis": 0}
    configuration = make_configuration((40, 40, 40), (1.0, 1.0, 1.0), Windows("whole"), **still)
    rng, seen = np.random.default_rng(0), Counter[bool]()
    for _ in range(20):
        window = draw_window(rng, geometry, points, case.landmarks.status, configuration)
        result = sample(case, window, (1, 0, 2), [LabelMap("left", case.landmarks.names[:1], 3.0)])
        seen[window.mirrored] += 1
        left, right, middle = result["voxels"]
        assert left[2] > right[2]
        brightness = [float(result["data"][0][tuple(np.round(v).astype(int))]) for v in (left, right)]
        assert (brightness[0] < brightness[1]) == window.mirrored
        assert abs(middle[2] - (left[2] + right[2]) / 2) < 1.5
        labelled = np.argwhere(result["labels"][0] == 1)
        assert len(labelled) > 50 and np.abs(labelled.mean(axis=0) - left).max() < 0.5
        status = sample(absent, window, (1, 0, 2))["status"]
        assert status.tolist() == ([2, 1, 1] if window.mirrored else [1, 2, 1])
    assert min(seen[True], seen[False]) >= 4


def test_strongly_oblique_grids_are_mirrored_along_their_own_axis() -> None:
    """The row of z in the direction matrix has its largest entry elsewhere, and yet the first axis stands for z."""
    turn = Rotation.random(random_state=1).as_matrix()
    geometry = Geometry.from_parts((20, 20, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), turn).canonical()
    misled = [p for p in range(3) if int(np.abs(geometry.direction[p]).argmax()) != 2 - p]
    assert misled
    status = np.ones(1, dtype=np.int8)
    for physical in range(3):
        still = {"rotation": (0.0,) * 3, "scale": (1.0, 1.0), "translation": (0.0,) * 3, "mirror_axis": physical}
        configuration = make_configuration((20, 20, 20), (1.0, 1.0, 1.0), Windows("whole"), **still)
        drawn = (
            draw_window(np.random.default_rng(i), geometry, np.zeros((1, 3)), status, configuration) for i in range(20)
        )
        window = next(w for w in drawn if w.mirrored)
        signs = np.sign((window.geometry.direction * geometry.direction).sum(axis=0))
        assert np.flatnonzero(signs < 0).tolist() == [2 - physical]


def test_rotations_keep_to_their_ranges() -> None:
    rng = np.random.default_rng(0)
    rotations = Rotation.from_matrix([draw_rotation(rng, (10, 20, 30)) for _ in range(400)])
    vectors = rotations.as_rotvec(degrees=True)
    assert (np.abs(vectors) <= np.array([10, 20, 30]) + 1e-9).all()
    assert (np.abs(vectors).max(axis=0) > np.array([9.5, 19, 28.5])).all()


def test_any_rotation_is_uniform() -> None:
    """Of uniform rotations, the angle has the density (1 - cos) / pi, and an axis points anywhere."""
    rng = np.random.default_rng(1)
    rotations = np.array([draw_rotation(rng, (180, 180, 180)) for _ in range(4000)])
    angles = np.sort(np.radians([angle(r) for r in rotations]))
    expected = (angles - np.sin(angles)) / np.pi
    assert np.abs(expected - np.arange(4000) / 4000).max() < 0.03
    heights = np.sort(rotations[:, 2, 0])
    assert np.abs((heights + 1) / 2 - np.arange(4000) / 4000).max() < 0.03


def test_a_full_turn_about_one_axis() -> None:
    rng = np.random.default_rng(2)
    rotations = np.array([draw_rotation(rng, (10, 10, 180)) for _ in range(2000)])
    tilts = np.degrees(np.arccos(rotations[:, 2, 2].clip(-1, 1)))
    assert tilts.max() <= np.hypot(10, 10) + 1e-9
    turns = np.sort(np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0]))
    assert np.abs(turns / (2 * np.pi) + 0.5 - np.arange(2000) / 2000).max() < 0.04


def test_a_share_of_windows_is_not_turned() -> None:
    rng, geometry = np.random.default_rng(3), Geometry.from_parts((20, 20, 20), (1.0, 1.0, 1.0))
    configuration = make_configuration((10, 10, 10), (1.0, 1.0, 1.0), scale=(1.0, 1.0))
    transforms = [draw_transform(rng, geometry, configuration.augmentation) for _ in range(1000)]
    straight = sum(np.allclose(t, np.eye(3)) for t in transforms)
    assert 0.11 < straight / 1000 < 0.19


@pytest.mark.parametrize("ndim", [2, 3])
def test_stretched_windows_show_each_axis_as_long_as_drawn(ndim: int) -> None:
    """By up to 1.1 times, either way and each axis by itself, and stay grids of right angles."""
    geometry = Geometry((40,) * ndim, np.diag([1.0] * (ndim + 1)))
    still = Augmentation((20.0,) * (1 if ndim == 2 else 3), (1.0, 1.0), (0.0,) * ndim)
    stretched = dataclasses.replace(still, stretch=0.1)
    rng = np.random.default_rng(0)
    windows = [
        geometry.window(geometry.centre, (9,) * ndim, draw_transform(rng, geometry, stretched)) for _ in range(500)
    ]
    spacing = np.array([window.spacing for window in windows])
    assert 1 / 1.1 <= spacing.min() < 0.915 and 1.095 < spacing.max() <= 1.1
    assert abs(np.corrcoef(spacing[:, 0], spacing[:, 1])[0, 1]) < 0.1
    for window in windows[:20]:
        assert np.allclose(window.direction.T @ window.direction, np.eye(ndim))


def test_scale_is_how_large_the_anatomy_appears() -> None:
    rng, geometry = np.random.default_rng(4), Geometry.from_parts((20, 20), (1.0, 1.0))
    points = np.array([[5.0, 5.0], [15.0, 10.0]])
    configuration = make_configuration((40, 40), (1.0, 1.0), Windows("whole"), scale=(0.5, 3.0))
    factors = []
    for _ in range(400):
        window = draw_window(rng, geometry, points, np.ones(2, dtype=np.int8), configuration)
        voxels = window.geometry.to_voxels(points)
        factors.append(np.linalg.norm(voxels[1] - voxels[0]) / np.linalg.norm(points[1] - points[0]))
    assert 0.5 - 1e-9 <= min(factors) < 0.53
    assert 2.8 < max(factors) <= 3.0 + 1e-9
    assert 0.4 < np.mean(np.array(factors) < np.sqrt(1.5)) < 0.6  # uniform in the logarithm


@pytest.mark.parametrize("holding", [0.0, 0.6, 1.0])
def test_random_windows_hold_a_landmark_as_often_as_planned(holding: float) -> None:
    """In an image so large that a window hardly ever holds the point by chance; absent points draw none."""
    rng, geometry = np.random.default_rng(5), Geometry.from_parts((400, 400, 400), (1.0, 1.0, 1.0))
    points = np.array([[200.0, 150, 100], [300, 300, 300], [np.nan] * 3])
    status = np.array([1, 1, 2], dtype=np.int8)
    configuration = make_configuration((32, 32, 32), (1.0, 1.0, 1.0), Windows("random", holding))
    held, places = 0, []
    for _ in range(500):
        window = draw_window(rng, geometry, points, status, configuration).geometry
        inside = window.contains(window.to_voxels(points))
        held += int(inside.any())
        places += list(window.to_voxels(points)[inside])
    assert abs(held / 500 - holding) < 0.07
    if holding == 1.0:
        offsets = (np.array(places) - 15.5) / 16
        assert np.abs(offsets).max() <= 0.8
        assert np.abs(offsets).max() > 0.75
        assert np.abs(offsets.mean(axis=0)).max() < 0.08
        assert np.abs(offsets.std(axis=0) - 0.8 / np.sqrt(3)).max() < 0.05


def test_uniform_windows_cover_the_image_and_stay_in_it() -> None:
    rng, geometry = np.random.default_rng(6), Geometry.from_parts((100, 20), (1.0, 1.0))
    configuration = make_configuration((30, 30), (1.0, 1.0), Windows("random", 0.0), rotation=(0.0,), scale=(1.0, 1.0))
    starts = []
    for _ in range(300):
        window = draw_window(rng, geometry, np.empty((0, 2)), np.empty(0, dtype=np.int8), configuration).geometry
        starts.append(geometry.to_voxels(window.origin))
    low, high = np.min(starts, axis=0), np.max(starts, axis=0)
    assert (low >= [-1e-9, -10 - 1e-9]).all()
    assert (high <= [70 + 1e-9, 1e-9]).all()
    assert (low <= [2, -9.5]).all()
    assert (high >= [68, -0.5]).all()


def test_whole_windows_lie_on_the_image_within_the_translation() -> None:
    rng, geometry = np.random.default_rng(7), make_geometry((40, 50, 60), (2.0, 1.0, 1.0), 3, seed=3)
    configuration = make_configuration((40, 50, 60), (2.0, 1.0, 1.0), Windows("whole"), translation=(3.0, 5.0, 7.0))
    shifts = []
    for _ in range(300):
        window = draw_window(rng, geometry, np.empty((0, 3)), np.empty(0, dtype=np.int8), configuration)
        shifts.append(np.abs(geometry.frame().T @ (window.geometry.centre - geometry.centre)))  # along the grid
    assert (np.max(shifts, axis=0) <= np.array([3, 5, 7]) + 1e-9).all()
    assert (np.max(shifts, axis=0) > np.array([2.8, 4.7, 6.6])).all()


def test_a_slice_turns_within_its_plane() -> None:
    rng, geometry = np.random.default_rng(8), make_geometry((40, 44), (1.0, 0.7), 3, seed=5)
    normal = np.cross(geometry.matrix[:, 0], geometry.matrix[:, 1])
    configuration = make_configuration((20, 20), (1.0, 0.7), Windows("whole"), translation=(3.0, 3.0, 3.0))
    for _ in range(30):
        window = draw_window(rng, geometry, np.empty((0, 3)), np.empty(0, dtype=np.int8), configuration).geometry
        assert np.abs(normal @ window.matrix).max() < 1e-9
        assert abs(normal @ (window.origin - geometry.origin)) < 1e-9
        assert np.linalg.cond(window.matrix * (1 / np.array(geometry.spacing))) < 1 + 1e-9


NEWER = ("elsewhere", "exact", "order", "low_pass")  # fields that older plans lack
OLD_WINDOWS = {
    "whole": [-21.58205, -21.69734, 6.16637, -34.65008, -1.01397],
    "random": [21.81543, 4.99701, -22.77719, -11.95822, -15.69871],
}


@pytest.mark.parametrize("kind", OLD_WINDOWS)
def test_plans_that_know_nothing_of_elsewhere_draw_the_windows_that_they_drew(kind: Any) -> None:
    """First voxels' places of five windows, from before there were others."""
    rng, geometry = np.random.default_rng(11), make_geometry((40, 50, 60), (2.0, 1.0, 1.0), 3, seed=3)
    configuration = make_configuration((20, 24, 28), (2.0, 1.0, 1.0), Windows(kind, 0.5), mirror_axis=0)
    points, status = geometry.centre[None] + 3, np.ones(1, dtype=np.int8)
    drawn = [draw_window(rng, geometry, points, status, configuration) for _ in range(5)]
    assert all(window.backdrop is None and not window.blank for window in drawn)
    np.testing.assert_allclose([window.geometry.origin[0] for window in drawn], OLD_WINDOWS[kind], atol=1e-4)


def test_exact_windows_lie_on_the_voxels_of_the_image() -> None:
    """As often as planned; what they show is the image itself, so that its noise is that of prediction."""
    rng, geometry = np.random.default_rng(12), make_geometry((30, 40, 44), (3.0, 1.0, 1.0), 3, seed=4)
    noise = rng.normal(size=(1, *geometry.shape)).astype(np.float32)
    case = dataclasses.replace(make_case(geometry, geometry.centre[None]), array=noise)
    windows = Windows("random", 0.5, exact=0.4, low_pass="crossed")
    still = {"rotation": (20.0, 20.0, 20.0), "mirror_axis": 0}
    configuration = make_configuration((10, 16, 16), (3.0, 1.0, 1.0), windows, **still)
    whole = 0
    for _ in range(200):
        window = draw_window(rng, geometry, case.landmarks.points, case.landmarks.status, configuration)
        matrix, offset = window.geometry.map_to(geometry)
        if np.abs(np.abs(matrix) - np.eye(3)).max() > 1e-9 or np.abs(offset - np.round(offset)).max() > 1e-6:
            continue
        whole += 1
        shown = sample(case, window, (0,), (), windows)["data"][0]
        axes = zip(offset, matrix.diagonal(), shown.shape, strict=True)
        places = [np.round(first + step * np.arange(n)).astype(int) for first, step, n in axes]
        if all((place >= 0).all() and (place < n).all() for place, n in zip(places, geometry.shape, strict=True)):
            np.testing.assert_array_equal(shown, noise[0][np.ix_(*places)])
    assert abs(whole / 200 - 0.4) < 0.08


@pytest.mark.parametrize(
    ("spacing", "rotation", "n"),
    [((1.0, 1.0, 1.0), (180.0, 180.0, 180.0), 24), ((1.0, 1.0, 1.004), (10.0, 10.0, 180.0), 4),
     ((3.0, 1.0, 1.0), (180.0, 180.0, 180.0), 8), ((3.0, 1.0, 1.0), (20.0, 20.0, 20.0), 1),
     ((1.0, 1.0, 1.0), (95.0, 95.0, 95.0), 15), ((1.0, 1.0), (100.0,), 3), ((1.0, 2.0), (180.0,), 2)],
)  # fmt: skip
def test_exact_windows_turn_by_quarters(spacing: tuple[float, ...], rotation: tuple[float, ...], n: int) -> None:
    """By all rotations, never a mirror image, that augmentation allows and that exchange only axes of alike voxels; the
    image's values and points turn along."""
    rng, ndim = np.random.default_rng(14), len(spacing)
    patch = (10, 12, 17)[:ndim]
    geometry = Geometry.from_parts((30, 31, 32)[:ndim], spacing)
    noise = rng.normal(size=(1, *geometry.shape)).astype(np.float32)
    places = np.argwhere(np.ones(geometry.shape, dtype=bool))[::7]
    case = dataclasses.replace(make_case(geometry, geometry.to_physical(places)), array=noise)
    windows = Windows("random", 0.0, exact=1.0, low_pass="crossed")
    still = {"rotation": rotation, "scale": (0.5, 2.0), "translation": (0.0,) * ndim}
    configuration = make_configuration(patch, spacing, windows, **still)
    seen = set()
    for _ in range(60 * n):
        window = draw_window(rng, geometry, case.landmarks.points, case.landmarks.status, configuration)
        matrix, offset = window.geometry.map_to(geometry)
        assert window.geometry.shape == patch and np.abs(offset - np.round(offset)).max() < 1e-6
        assert np.linalg.det(np.round(matrix)) == pytest.approx(1.0)
        assert np.abs(matrix - np.round(matrix)).max() < 1e-9
        if matrix.round().tobytes() not in seen:
            seen.add(matrix.round().tobytes())
            shown = sample(case, window, range(len(places)), (), windows)
            inside = window.geometry.contains(shown["voxels"], -0.4)
            assert inside.sum() > 3
            values = [shown["data"][0][tuple(v)] for v in np.round(shown["voxels"][inside]).astype(int)]
            np.testing.assert_array_equal(values, noise[0][tuple(places[inside].T)])
    assert len(seen) == n


@pytest.mark.parametrize(("shape", "spacing", "p", "patch"), GRIDS)
@pytest.mark.parametrize("kind", ["whole", "random"])
def test_windows_elsewhere_lie_across_the_border(
    shape: tuple[int, ...], spacing: tuple[float, ...], p: int, patch: tuple[int, ...], kind: Any
) -> None:
    """A share of them, as planned: they reach beyond the image, and a quarter of each side lies on it. A fifth shows no
    image: there a present landmark is absent, and an absent or unknown one stays what it is."""
    geometry, rng = make_geometry(shape, spacing, p, seed=6), np.random.default_rng(13)
    points = np.array([geometry.centre] * 3)
    case = make_case(geometry, points)
    status = np.array([Status.PRESENT, Status.ABSENT, Status.UNKNOWN], dtype=np.int8)
    points[1:] = np.nan
    case = dataclasses.replace(case, landmarks=Landmarks(case.landmarks.names, points, status))
    windows = Windows(kind, 0.5, elsewhere=0.5)
    still = {"rotation": (0.0,) * (3 if p == 3 else 1), "scale": (1, 1), "translation": (3.0,) * p}
    configuration = make_configuration(patch, spacing, windows, **still)
    drawn = [draw_window(rng, geometry, points, status, configuration) for _ in range(300)]
    across = [window for window in drawn if window.backdrop is not None]
    blank = [window for window in across if window.blank]
    assert abs(len(across) / 300 - 0.5) < 0.09 and abs(len(blank) / len(across) - 0.2) < 0.1
    assert len({window.backdrop for window in across}) == len(across)
    for window in across:
        start = geometry.to_voxels(window.geometry.origin)
        shared = np.minimum(start + patch, shape) - np.maximum(start, 0)
        assert (shared >= 0.25 * np.minimum(shape, patch) - 1e-6).all() and (shared < np.array(patch)).any()
    for window in blank[:5]:
        result = sample(case, window, (0, 1, 2))
        assert result["status"].tolist() == [Status.ABSENT, Status.ABSENT, Status.UNKNOWN]
        assert np.isnan(result["voxels"]).all()
    moved = [sample(case, window, (0, 1, 2)) for window in across if not window.blank][:30]
    assert all(one["status"].tolist() == status.tolist() for one in moved)
    assert any(not window.geometry.contains(one["voxels"][0]) for window, one in zip(across, moved, strict=False))


def test_label_maps_of_a_blank_window_are_empty_and_given_ones_unknown() -> None:
    geometry = Geometry.from_parts((40, 40), (1.0, 1.0))
    case = make_case(geometry, geometry.centre[None])
    labels = np.ones((1, 40, 40), dtype=np.uint8)
    case = dataclasses.replace(case, labels=labels)
    maps = [LabelMap("p", ("p0",), 5.0), LabelMap("given", value=1)]
    for blank, expected in ((False, [1, 1]), (True, [0, 255])):
        result = sample(case, Window(geometry, False, 3, blank), (0,), maps)
        assert [int(result["labels"][i, 20, 20]) for i in range(2)] == expected


def test_windows_of_older_plans_are_read_as_they_were_and_wrong_shares_are_refused() -> None:
    older = {k: v for k, v in to_json(Windows("whole", 1.0)).items() if k not in NEWER}
    assert from_json(Windows, older) == Windows("whole", 1.0, elsewhere=0.0, exact=0.0, order=1, low_pass="widest")
    for wrong in ({"elsewhere": 1.5}, {"exact": -0.1}, {"order": 0}, {"low_pass": "none"}):
        with pytest.raises(AutolmkError, match=next(iter(wrong))):
            from_json(Windows, {**older, **wrong})
