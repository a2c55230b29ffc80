"""The fingerprint: each number follows its cause; one bad case does not stop it."""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from autolmk import imageio
from autolmk.annotations import write as write_annotation
from autolmk.cli.extract_fingerprint import main
from autolmk.dataset import Dataset
from autolmk.dataset.description import DeclaredSlice
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json
from autolmk.fingerprint import Fingerprint, extract_fingerprint, fingerprint_of
from autolmk.fingerprint.landmark_statistics import CoSliceGroup, co_slice_groups
from autolmk.fingerprint.summary import CaseSummary, summarise
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status
from autolmk.planning.rules import mirror_axis_of, rotation_range
from autolmk.planning.window_rules import slice_groups
from autolmk.shapes.pose import mean_shape

NAMES = ("Eye_L", "Eye_R", "Ear_L", "Ear_R", "Nose", "Inion", "Crown")
HEAD = np.array([[9, -8, 2], [-9, -8, 2], [11, 2, -6], [-11, 2, -6], [0, -12, -3], [0, 11, 1], [0, -2, 11]], float)
SHAPE, SPACING = (12, 32, 30), (3.0, 1.0, 1.0)


def grid(shape: tuple[int, ...] = SHAPE, spacing: tuple[float, ...] = SPACING) -> Geometry:
    origin = [-(n - 1) / 2 * s for n, s in zip(shape[::-1], spacing[::-1], strict=True)]
    return Geometry.from_parts(shape, spacing, origin)


def head(
    i: int,
    *,
    geometry: Geometry | None = None,
    rotation: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, ...] = (0, 0, 0),
    absent: tuple[str, ...] = (),
    unknown: tuple[str, ...] = (),
    noise: float = 0.1,
) -> CaseSummary:
    """rotation: degrees about z."""
    rng = np.random.default_rng(i)
    geometry = geometry or grid()
    turn = Rotation.from_euler("z", rotation, degrees=True).as_matrix()
    points = scale * (HEAD + rng.normal(0, noise, HEAD.shape)) @ turn.T + shift
    status = [Status.ABSENT if n in absent else Status.UNKNOWN if n in unknown else Status.PRESENT for n in NAMES]
    array = rng.normal(0, 1, (1, *geometry.shape)).astype(np.float32)
    array[:, 3:-3, 6:-6, 6:-6] += 100
    landmarks = Landmarks(NAMES, points, np.array(status, dtype=np.int8))
    return summarise(Image(array, geometry), landmarks, subject=f"s{i // 2}", case=f"case{i}")


def fingerprint(cases: list[CaseSummary], slices: Sequence[DeclaredSlice] | None = None) -> Fingerprint:
    named = {f"case{i}": case for i, case in enumerate(cases)}
    return fingerprint_of(named, dataset_name="Dataset001_Head", unit="mm", channel_names=("CT",), slices=slices)


def test_what_a_plain_dataset_says(tmp_path: Path) -> None:
    found = fingerprint(
        [head(i, absent=("Crown",) if i < 2 else (), unknown=("Nose",) if i == 3 else ()) for i in range(8)]
    )
    assert (found.n_cases, found.n_subjects, found.ndim, found.physical_ndim) == (8, 4, 3, 3)
    assert found.landmarks == NAMES
    assert found.median_spacing == pytest.approx(SPACING) and found.median_shape == pytest.approx(SHAPE)
    assert found.median_extent == found.max_extent == pytest.approx((36, 32, 30))
    assert found.cases["case0"].orientation == "LPS" and found.cases["case0"].obliquity == pytest.approx(0, abs=1e-4)
    crown, nose = found.landmark_statistics["Crown"], found.landmark_statistics["Nose"]
    assert (crown.n_present, crown.n_absent, crown.n_unknown) == (6, 2, 0)
    assert (nose.n_present, nose.n_absent, nose.n_unknown) == (7, 0, 1)
    assert crown.spread is not None and max(crown.spread) < 0.3
    assert found.landmark_statistics["Eye_L"].nearest_distance == pytest.approx(np.sqrt(81 + 16 + 25), abs=0.3)
    assert found.pairs == (("Eye_L", "Eye_R"), ("Ear_L", "Ear_R")) and set(found.midline) == {"Nose", "Inion", "Crown"}
    assert found.mirror is not None and found.mirror.complete and found.mirror.normal[0] > 0.999
    assert max(found.pose.rotation) < 2 and found.pose.scale == pytest.approx((1, 1), abs=0.03)
    np.testing.assert_allclose(found.mean_shape["Eye_L"], HEAD[0] - HEAD.mean(axis=0), atol=0.3)
    assert set(found.appearances) == set(found.poses) == set(found.cases)
    assert (
        found.appearances["case0"][0].level == pytest.approx(100, abs=1)
        and max(pose.rotation for pose in found.poses.values()) < 3
    )
    found.save(tmp_path / "f.json")
    assert Fingerprint.load(tmp_path / "f.json") == found


def test_pose_spread_follows_the_poses() -> None:
    cases = [
        head(i, rotation=r, scale=s)
        for i, (r, s) in enumerate(zip(range(-30, 31, 5), np.linspace(0.8, 1.2, 13), strict=True))
    ]
    pose = fingerprint(cases).pose
    assert pose.n_cases == 13
    assert max(pose.rotation[:2]) < 2 and pose.rotation[2] == pytest.approx(30, abs=2) and 29 < pose.rotation_max < 32
    assert pose.scale[1] / pose.scale[0] == pytest.approx(1.5, abs=0.06)
    shifted = [head(i, shift=tuple(-HEAD.mean(axis=0) + [4 * (-1) ** i, 0, i / 10])) for i in range(10)]
    assert fingerprint(shifted).pose.translation == pytest.approx((4, 0, 0.85), abs=0.15)


def test_any_rotation_is_seen_and_left_stays_left() -> None:
    rng = np.random.default_rng(0)
    cases = []
    for i in range(12):
        case = head(i)
        turn = Rotation.random(random_state=int(rng.integers(1000))).as_matrix()
        turned = Landmarks(NAMES, case.landmarks.points @ turn.T, case.landmarks.status)
        cases.append(dataclasses.replace(case, landmarks=turned))
    found = fingerprint(cases)
    assert found.pose.rotation_max > 90 and found.shape_residual < 0.3
    assert found.mirror is not None and found.mirror.complete


def tilted_head(i: int, image: float, anatomy: float) -> CaseSummary:
    """The grid and the anatomy turned about z by these degrees."""
    turn = Rotation.from_euler("z", image, degrees=True).as_matrix()
    straight = grid()
    direction = turn @ straight.direction
    geometry = Geometry.from_parts(straight.shape, SPACING, turn @ straight.origin, direction)
    return head(i, geometry=geometry, rotation=anatomy)


@pytest.mark.parametrize(
    ("image", "anatomy", "off", "axis"), [(25, 0, 25, None), (25, 25, 0, 0), (0, 25, 25, None), (0, 0, 0, 0)]
)
def test_mirroring_goes_by_the_grid_that_the_network_sees(
    image: float, anatomy: float, off: float, axis: int | None
) -> None:
    """A tilt that all images share leaves no trace in the spread of poses, nor in the patient's frame."""
    found = fingerprint([tilted_head(i, image, anatomy) for i in range(8)])
    assert found.mirror is not None and found.mirror.complete
    assert np.degrees(np.arccos(found.mirror.normal[0])) == pytest.approx(off, abs=2)
    assert mirror_axis_of(found, rotation_range(found)[0])[0] == axis


def test_tilts_to_both_sides_allow_mirroring() -> None:
    found = fingerprint([tilted_head(i, 25 * (-1) ** i, 0) for i in range(8)])
    assert max(found.pose.rotation) > 20
    assert mirror_axis_of(found, rotation_range(found)[0])[0] == 0


def test_rotation_about_a_line_of_landmarks_does_not_count() -> None:
    line = np.column_stack([np.zeros(6), np.zeros(6), np.arange(6) * 20.0])
    rng = np.random.default_rng(1)
    names = tuple(f"T{i}" for i in range(6))
    cases = [
        dataclasses.replace(
            head(i), landmarks=Landmarks(names, line + rng.normal(0, 0.5, line.shape), np.ones(6, np.int8))
        )
        for i in range(10)
    ]
    assert fingerprint(cases).pose.rotation_max < 5


def test_spacing_shape_and_orientation_follow_the_images() -> None:
    flipped = grid().permuted((2, 0, 1)).mirrored(0)
    thick = grid((6, 32, 30), (6.0, 1.0, 1.0))
    found = fingerprint([head(0), head(1, geometry=flipped), *(head(i, geometry=thick) for i in range(2, 5))])
    assert found.cases["case1"].shape == SHAPE and found.cases["case1"].orientation != "LPS"
    assert found.median_spacing == pytest.approx((6, 1, 1)) and found.median_shape == pytest.approx((6, 32, 30))
    assert found.spacing_percentile_10 == pytest.approx((3, 1, 1))


def test_intensity_of_the_foreground_and_at_the_landmarks() -> None:
    found = fingerprint([head(i) for i in range(4)]).intensity[0]
    assert found.foreground_mean == pytest.approx(100, abs=1)
    assert 0.3 < found.std < 1  # noise of 1, lowered by medians
    assert found.percentile_00_5 > 90 and found.min < found.percentile_00_5 < found.median < found.percentile_99_5


def test_the_range_of_the_cases_foregrounds_is_kept() -> None:
    found = fingerprint([head(i) for i in range(4)]).intensity[0]
    for lowest, highest in (found.case_percentile_05, found.case_percentile_50, found.case_percentile_95):  # type: ignore[misc]
        assert 95 < lowest < highest < 105
    assert found.told_apart == 1.0
    assert found.case_percentile_05[1] < found.case_percentile_50[0] < found.case_percentile_95[1]  # type: ignore[index]


def test_what_differs_between_cases_at_the_same_landmarks() -> None:
    """Images of equal anatomy and unlike gain, of which the second half shows five times as much background."""
    cases, geometry = {}, grid((12, 60, 60))
    rng = np.random.default_rng(0)
    points = geometry.to_physical([[6, 20, 20], [6, 20, 26], [6, 26, 20], [6, 26, 26], [6, 20, 23], [6, 23, 20]])
    for i in range(8):
        array = rng.normal(0, 1, (1, 12, 60, 60)).astype(np.float32)
        array[0, 2:-2, 15:31, 15:31] = 100 + rng.normal(0, 1, (8, 16, 16))
        array[0, 2:-2, 18:24, 18:24] = 200
        case = Image(array * (1 + i), geometry)
        if i < 4:
            case = case.resample(geometry.crop((0, 8, 8), (12, 30, 30)))
        landmarks = Landmarks(tuple("abcdef"), points, np.ones(6, np.int8))
        cases[f"case{i}"] = summarise(case, landmarks, subject=f"s{i}", case=f"case{i}")
    found = fingerprint_of(cases, dataset_name="Dataset001_Head", unit="mm", channel_names=("MR",)).intensity[0]
    assert found.unexplained is not None
    assert found.unexplained[0] < 0.05 < 0.3 < found.unexplained[1]


def test_intensity_at_the_landmarks_is_read_where_they_are() -> None:
    geometry = grid()
    ramp = np.moveaxis(geometry.to_physical(np.moveaxis(np.indices(SHAPE), 0, -1)), -1, 0)[:1].astype(np.float32)
    landmarks = Landmarks(NAMES, HEAD, np.ones(len(NAMES), np.int8))
    channel = summarise(Image(ramp, geometry), landmarks, subject="s", case="c").channels[0]
    np.testing.assert_allclose(channel.at_landmarks, HEAD[:, 0], atol=0.5)
    outside = Landmarks(NAMES, HEAD + np.array([200, 0, 0]), np.ones(len(NAMES), np.int8))
    assert np.isnan(summarise(Image(ramp, geometry), outside, subject="s", case="c").channels[0].at_landmarks).all()


def test_the_smallest_datasets() -> None:
    one = fingerprint([head(0)])
    assert one.n_cases == 1 and one.pose.rotation_max == pytest.approx(0, abs=1e-3)
    single = dataclasses.replace(head(0), landmarks=Landmarks(("A",), HEAD[:1], np.ones(1, np.int8)))
    lonely = fingerprint([single, single])
    assert lonely.pose.n_cases == 0 and lonely.mirror is None
    assert lonely.landmark_statistics["A"].nearest_distance is None
    nothing = dataclasses.replace(head(0), landmarks=Landmarks(("A",), HEAD[:1], np.zeros(1, np.int8)))
    with pytest.raises(AutolmkError, match="no annotated case"):
        fingerprint([nothing])
    with pytest.raises(AutolmkError, match="no annotated case"):
        fingerprint([])


# -- co-slice groups --------------------------------------------------------------------------------------------------


def slices(n: int, *, turn: bool = False) -> tuple[list[Landmarks], list[Geometry]]:
    """A and B in one axial slice, C and D in another plane, of volumes that may lie rotated in space."""
    rng = np.random.default_rng(0)
    geometry = grid((20, 40, 40), (3.0, 0.7, 0.7))
    if turn:
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_euler("xyz", [20, 10, 5], degrees=True).as_matrix()
        geometry = Geometry(geometry.shape, matrix @ geometry.affine)
    landmarks = []
    for _ in range(n):
        voxels = rng.uniform(2, 18, (5, 3)) * [1, 2, 2]
        voxels[1, 0] = voxels[0, 0] = round(voxels[0, 0])
        voxels[3, 2] = voxels[2, 2]
        landmarks.append(Landmarks(tuple("ABCDE"), geometry.to_physical(voxels), np.ones(5, np.int8)))
    return landmarks, [geometry] * n


def groups_of(landmarks: list[Landmarks], geometries: list[Geometry]) -> tuple[CoSliceGroup, ...]:
    return co_slice_groups(landmarks, geometries, mean_shape(np.stack([case.points for case in landmarks])).points)


@pytest.mark.parametrize("turn", [False, True])
def test_co_slice_groups_in_the_native_image(turn: bool) -> None:
    groups = groups_of(*slices(10, turn=turn))
    assert [(g.axis, g.names) for g in groups] == [(0, ("A", "B")), (2, ("C", "D"))]
    assert groups[0].note == "slices across the inferior-superior direction"
    assert groups_of(*slices(4)) == ()  # too few to tell


def test_declared_groups_take_the_place_of_those_that_annotations_show() -> None:
    landmarks, geometries = slices(10)
    cases = [dataclasses.replace(head(0), landmarks=m, geometry=g) for m, g in zip(landmarks, geometries, strict=True)]
    assert len(fingerprint(cases).co_slice_groups) == 2
    (group,) = fingerprint(cases, [DeclaredSlice(1, ("A", "E"))]).co_slice_groups
    assert (group.axis, group.names) == (1, ("A", "E")) and "anterior-posterior" in group.note
    _, why = slice_groups(fingerprint(cases, [DeclaredSlice(1, ("A", "E"))]))
    assert why.endswith("direction, as dataset.json declares") and "declares" not in slice_groups(fingerprint(cases))[1]
    assert fingerprint(cases, []).co_slice_groups == ()
    flat = dataclasses.replace(
        head(0),
        geometry=Geometry.from_parts((9, 9), (1.0, 1.0)),
        landmarks=Landmarks(("A", "B"), np.array([[1.0, 2.0], [5.0, 3.0]]), np.ones(2, np.int8)),
    )
    with pytest.raises(AutolmkError, match="not volumes"):
        fingerprint([flat], [DeclaredSlice(0, ("A", "B"))])


def test_two_cases_in_twenty_may_differ_but_not_three() -> None:
    landmarks, geometries = slices(20)
    for i, expected in ((0, 2), (1, 2), (2, 1)):
        points = landmarks[i].points.copy()
        points[1, 2] += 6.0
        landmarks[i] = Landmarks(landmarks[i].names, points, landmarks[i].status)
        assert len(groups_of(landmarks, geometries)) == expected


def test_landmarks_that_never_change_their_slice_make_no_group() -> None:
    landmarks, geometries = slices(10)
    fixed = [Landmarks(m.names, np.column_stack([m.points[:, :2], np.full(5, 1.5)]), m.status) for m in landmarks]
    assert all(group.axis != 0 for group in groups_of(fixed, geometries))


# -- extraction -------------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "Dataset001_Head"
    for i in range(6):
        rng = np.random.default_rng(i)
        array = rng.normal(0, 1, (1, *SHAPE)).astype(np.float32)
        array[:, 3:-3, 6:-6, 6:-6] += 100
        imageio.write_image(folder / "imagesTr" / f"case{i}_0000.nii.gz", Image(array, grid()))
        landmarks = Landmarks(NAMES, HEAD + rng.normal(0, 0.2, HEAD.shape), np.ones(len(NAMES), np.int8))
        write_annotation(folder / "landmarksTr" / f"case{i}.mrk.json", landmarks)
    write_json(folder / "dataset.json", {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz"})
    return folder


def test_a_bad_case_is_left_out(raw: Path) -> None:
    (raw / "imagesTr" / "case2_0000.nii.gz").write_bytes(b"")
    found = extract_fingerprint(Dataset.open(raw), workers=2, progress=False)
    assert found.failed == ("case2",) and found.n_cases == 5 and "case2" not in found.cases
    assert extract_fingerprint(Dataset.open(raw), workers=0, progress=False) == found


def test_without_a_good_case_the_first_error_is_raised(raw: Path) -> None:
    for file in (raw / "imagesTr").iterdir():
        file.write_bytes(gzip.compress(b"no image"))
    with pytest.raises(AutolmkError, match="case"):
        extract_fingerprint(Dataset.open(raw), workers=0, progress=False)


def test_the_command_checks_and_writes(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--raw", str(raw.parent), "--preprocessed", str(raw.parent.parent / "pre"), "-np", "0"]
    assert main(["-d", "1", *folders]) == 0
    written = raw.parent.parent / "pre" / raw.name
    assert Fingerprint.load(written / "dataset_fingerprint.json").n_cases == 6
    assert set(read_json(written / "dataset.json")["landmarks"]) == set(NAMES)
    (raw / "imagesTr" / "case2_0000.nii.gz").write_bytes(b"")
    assert main(["-d", "1", *folders]) == 3
    assert "case2" in capsys.readouterr().err
    assert Fingerprint.load(written / "dataset_fingerprint.json").failed == ("case2",)
    (raw / "dataset.json").unlink()
    (written / "dataset_fingerprint.json").unlink()
    assert main(["-d", "1", *folders]) == 2
    assert "nothing was written" in capsys.readouterr().err and not (written / "dataset_fingerprint.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("pose"), "pose"),
        (lambda d: d.update(version=99), "version 99"),
        (lambda d: d.update(poze=1), "poze"),
        (lambda d: d["pose"].update(scale=[1]), "pose.scale"),
    ],
)
def test_a_damaged_fingerprint_is_named(
    tmp_path: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    file = tmp_path / "dataset_fingerprint.json"
    fingerprint([head(0), head(1)]).save(file)
    content = read_json(file)
    change(content)
    write_json(file, content)
    with pytest.raises(AutolmkError, match=message) as error:
        Fingerprint.load(file)
    assert str(file) in str(error.value)


def points_of(found: Fingerprint) -> FloatArray:
    return np.array([found.mean_shape[name] for name in NAMES])


def test_the_order_of_cases_does_not_matter() -> None:
    cases = {f"case{i}": head(i, rotation=5.0 * i) for i in range(5)}
    one = fingerprint_of(cases, dataset_name="D", unit="mm", channel_names=("CT",))
    other = fingerprint_of(dict(reversed(cases.items())), dataset_name="D", unit="mm", channel_names=("CT",))
    assert one == other
    np.testing.assert_array_equal(points_of(one), points_of(other))
