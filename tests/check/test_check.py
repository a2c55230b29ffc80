"""Every kind of fault is planted in a sound dataset, and must be reported with file, case, finding and remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from autolmk import imageio
from autolmk.annotations import write as write_annotation
from autolmk.check import Fault, Report, check_dataset
from autolmk.cli.check import main
from autolmk.dataset import Dataset
from autolmk.errors import AutolmkError
from autolmk.files.serialization import write_json
from autolmk.fingerprint import extract_fingerprint
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status

HEAD = np.array(
    [
        [9.0, -8, 2],
        [-9, -8, 2],
        [11, 2, -6],
        [-11, 2, -6],
        [5, 4, 9],
        [-5, 4, 9],
        [0, -12, -3],
        [0, 11, 1],
        [0, 3, -10],
        [0, -2, 11],
    ]
)
NAMES = ("Eye_L", "Eye_R", "Ear_L", "Ear_R", "Horn_L", "Horn_R", "Nose", "Inion", "Basion", "Crown")
SHAPE, SPACING, CENTRE = (16, 30, 32), (2.5, 1.0, 1.0), np.array([25.0, -10, 50])
FLAT = Geometry.from_parts(
    (1, *SHAPE[1:]), SPACING, (CENTRE - (np.array([32, 30, 1]) - 1) / 2 * SPACING[::-1]).tolist()
)
N = 8


def case_points(i: int) -> FloatArray:
    rng = np.random.default_rng(i)
    turn = Rotation.from_rotvec(rng.normal(0, 0.05, 3)).as_matrix()
    return np.asarray((HEAD + rng.normal(0, 0.2, HEAD.shape)) @ turn.T + CENTRE + rng.normal(0, 0.3, 3))


def geometry(centre: FloatArray = CENTRE) -> Geometry:
    origin = centre - (np.array(SHAPE[::-1]) - 1) / 2 * SPACING[::-1]
    return Geometry.from_parts(SHAPE, SPACING, origin.tolist())


def write_points(folder: Path, i: int, points: FloatArray, names: tuple[str, ...] = NAMES) -> Path:
    file = folder / "landmarksTr" / f"case{i}.mrk.json"
    write_annotation(file, Landmarks(names, points, np.full(len(names), Status.PRESENT, dtype=np.int8)))
    return file


def write_rows(folder: Path, i: int, points: FloatArray, names: tuple[str, ...] = NAMES) -> Path:
    """A .csv without a frame of its own, instead of the .mrk.json."""
    (folder / "landmarksTr" / f"case{i}.mrk.json").unlink(missing_ok=True)
    file = folder / "landmarksTr" / f"case{i}.csv"
    rows = [f"{n},{x},{y},{z}" for n, (x, y, z) in zip(names, points.tolist(), strict=True)]
    file.write_text("\n".join(["landmark,x,y,z", *rows]) + "\n")
    return file


def image(i: int) -> Image:
    noise = np.random.default_rng(100 + i).normal(0, 1, (1, *SHAPE)).astype(np.float32)
    noise[:, 4:-4, 6:-6, 6:-6] += 50
    return Image(noise, geometry())


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "Dataset001_Sound"
    for i in range(N):
        imageio.write_image(folder / "imagesTr" / f"case{i}_0000.nii.gz", image(i))
        write_points(folder, i, case_points(i))
    description = {"channel_names": {"0": "CT"}, "landmarks": {n: {"index": i} for i, n in enumerate(NAMES)}}
    write_json(folder / "dataset.json", {**description, "numTraining": N, "file_ending": ".nii.gz"})
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "Dataset001_Sound"))


def check(folder: Path) -> Report:
    return check_dataset(folder, workers=0, progress=False)


def only(report: Report) -> Fault:
    assert len(report.faults) == 1, report.text()
    return report.faults[0]


def change(folder: Path, **keys: Any) -> None:
    description = json.loads((folder / "dataset.json").read_text())
    write_json(folder / "dataset.json", {**description, **keys})


def test_a_sound_dataset_has_no_fault(sound: Path) -> None:
    report = check_dataset(sound, workers=2, progress=False)
    assert report.faults == () and report.exit_code == 0
    assert report.good_cases == tuple(f"case{i}" for i in range(N)) and report.bad_cases == ()
    fingerprint = report.fingerprint()
    assert set(fingerprint.appearances) == set(fingerprint.cases)  # what new images are compared with
    assert fingerprint.n_cases == N and fingerprint.pairs == (
        ("Eye_L", "Eye_R"),
        ("Ear_L", "Ear_R"),
        ("Horn_L", "Horn_R"),
    )


# -- faults of single cases -------------------------------------------------------------------------------------------


def truncated(folder: Path) -> None:
    file = folder / "imagesTr" / "case3_0000.nii.gz"
    file.write_bytes(file.read_bytes()[:2000])


def no_landmarks(folder: Path) -> None:
    (folder / "landmarksTr" / "case3.mrk.json").unlink()


def broken_json(folder: Path) -> None:
    (folder / "landmarksTr" / "case3.mrk.json").write_text('{"markups": [')


def not_a_number(folder: Path) -> None:
    lines = write_rows(folder, 3, case_points(3)).read_text().splitlines()
    lines = ["landmark,x,y,z,status", *(f"{line},present" for line in lines[1:])]
    lines[1] = "Eye_L,nan,nan,nan,present"
    (folder / "landmarksTr" / "case3.csv").write_text("\n".join(lines) + "\n")


def named_twice(folder: Path) -> None:
    write_rows(folder, 3, case_points(3), ("Eye_R", *NAMES[1:]))


def outside(folder: Path) -> None:
    points = case_points(3)
    points[6, 1] -= 12
    write_points(folder, 3, points)


def flat(folder: Path) -> None:
    imageio.write_image(folder / "imagesTr" / "case3_0000.nii.gz", Image(np.ones((1, *SHAPE), np.float32), geometry()))


def extra_channel(folder: Path) -> None:
    imageio.write_image(folder / "imagesTr" / "case3_0001.nii.gz", image(3))


def voxels_in_one_case(folder: Path) -> None:
    write_rows(folder, 3, geometry().to_voxels(case_points(3))[:, ::-1])


def ras_in_one_case(folder: Path) -> None:
    write_rows(folder, 3, case_points(3) * [-1, -1, 1])


def same_place(folder: Path) -> None:
    points = case_points(3)
    points[9] = points[6]
    write_points(folder, 3, points)


CASE_FAULTS: list[tuple[Callable[[Path], None], str, str]] = [
    (truncated, "truncated", "case3_0000.nii.gz"),
    (no_landmarks, "a case has no landmarks", ""),
    (broken_json, "JSON", "case3.mrk.json"),
    (not_a_number, "no finite coordinates", "case3.csv"),
    (named_twice, "stands twice", "case3.csv"),
    (outside, "points lie outside the image", "case3.mrk.json"),
    (flat, "holds a single value", "case3_0000.nii.gz"),
    (extra_channel, "more channels than the dataset", ""),
    (voxels_in_one_case, "another frame than said", "case3.csv"),
    (ras_in_one_case, "another frame than said", "case3.csv"),
    (same_place, "landmarks are at one place that lie apart in the other cases", "case3.mrk.json"),
]


@pytest.mark.parametrize(("plant", "problem", "file"), CASE_FAULTS, ids=[f[0].__name__ for f in CASE_FAULTS])
def test_faults_of_a_case_leave_it_out(folder: Path, plant: Callable[[Path], None], problem: str, file: str) -> None:
    plant(folder)
    report = check(folder)
    fault = report.faults[0] if plant is same_place else only(report)  # that one is also seen alone, as a warning
    assert fault.severity == "case" and fault.case == "case3" and problem in fault.problem
    assert file in (fault.file or "") and fault.remedy
    assert report.exit_code == 3 and "case3" not in report.good_cases and len(report.good_cases) == N - 1
    assert report.bad_cases == ("case3",)
    assert report.fingerprint().failed == ("case3",)


def test_the_frame_that_would_fit_is_named(folder: Path) -> None:
    voxels_in_one_case(folder)
    fault = only(check(folder))
    assert "as voxel indices" in (fault.found or "") and '"coordinates": "voxel"' in (fault.remedy or "")


# -- faults of the dataset --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", ["voxel", "RAS"])
def test_all_points_in_another_frame_are_one_fault_of_the_dataset(folder: Path, frame: str) -> None:
    for i in range(N):
        points = case_points(i)
        raw = geometry().to_voxels(points)[:, ::-1] if frame == "voxel" else points * [-1, -1, 1]
        write_rows(folder, i, raw)
    faults = check(folder).of("dataset")
    assert faults[0].problem == f"the points of {N} cases are in another frame than said"
    assert f'"coordinates": "{frame}"' in (faults[0].remedy or "")
    change(folder, coordinates=frame)
    assert check(folder).faults == ()


def test_files_that_name_another_frame_than_dataset_json(folder: Path) -> None:
    change(folder, coordinates="RAS")
    fault = only(check(folder))
    assert fault.severity == "dataset" and "LPS in 8 cases" in (fault.found or "")


def no_images(folder: Path) -> None:
    shutil.rmtree(folder / "imagesTr")


def no_description(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def misspelt_key(folder: Path) -> None:
    change(folder, chanel_names={"0": "CT"})


def two_annotations(folder: Path) -> None:
    shutil.copy(folder / "landmarksTr" / "case3.mrk.json", folder / "landmarksTr" / "case3.csv")


def groups_without_match(folder: Path) -> None:
    change(folder, groups=r"(sub-\d+)")


def never_annotated(folder: Path) -> None:
    change(folder, landmarks={n: {"index": i} for i, n in enumerate((*NAMES, "Sella"))})


def nothing_readable(folder: Path) -> None:
    for file in (folder / "landmarksTr").iterdir():
        file.write_text("{}")


def label_map(folder: Path, name: str) -> None:
    labels = np.zeros((1, *SHAPE), np.float32)
    labels[:, 6:9, 12:15, 12:15] = 3
    imageio.write_image(folder / "labelsTr" / name, Image(labels, geometry()))


def two_label_maps(folder: Path) -> None:
    label_map(folder, "case3.nii.gz")
    label_map(folder, "case3.nrrd")


def slices_of_planes(folder: Path) -> None:
    corner = CENTRE - [(SHAPE[2] - 1) / 2, (SHAPE[1] - 1) / 2, 0]
    plane = Geometry.from_parts((1, *SHAPE[1:]), SPACING, corner.tolist())
    for i in range(N):
        imageio.write_image(folder / "imagesTr" / f"case{i}_0000.nii.gz", Image(image(i).array[:, :1], plane))
        write_points(folder, i, case_points(i) * [1, 1, 0] + CENTRE * [0, 0, 1])
    change(folder, co_slice_groups=[{"axis": 0, "landmarks": ["Nose", "Crown"]}])


DATASET_FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (no_images, "the folder of training images is missing"),
    (no_description, "dataset.json is missing"),
    (misspelt_key, "chanel_names"),
    (two_annotations, "two annotations"),
    (two_label_maps, "two label maps"),
    (slices_of_planes, "share a slice, but the images are not volumes"),
    (groups_without_match, "groups does not match"),
    (never_annotated, "no training case shows"),
    (nothing_readable, "no training case is without a fault"),
]


@pytest.mark.parametrize(("plant", "problem"), DATASET_FAULTS, ids=[f[0].__name__ for f in DATASET_FAULTS])
def test_faults_of_the_dataset_stop(folder: Path, plant: Callable[[Path], None], problem: str) -> None:
    plant(folder)
    report = check(folder)
    assert report.exit_code == 2 and problem in report.of("dataset")[0].problem, report.text()


# -- warnings ---------------------------------------------------------------------------------------------------------


def rewritten(folder: Path, name: str, status: str) -> None:
    """All cases as tables, with a landmark more, of that status, which dataset.json lists."""
    for i in range(N):
        file = write_rows(folder, i, case_points(i))
        first, *rows = file.read_text().splitlines()
        stated = [f"{first},status", *(f"{row},present" for row in rows), f"{name},,,,{status}"]
        file.write_text("\n".join(stated) + "\n")
    change(folder, landmarks={n: {} for n in (*NAMES, name)})


def never_present(folder: Path) -> None:
    rewritten(folder, "Sella", "absent")


def never_known(folder: Path) -> None:
    rewritten(folder, "Sella", "unknown")


def just_outside(folder: Path) -> None:
    points = case_points(3)
    points[7, 1] = geometry().to_physical([8, SHAPE[1] - 0.5 + 0.6, 16])[1]
    write_points(folder, 3, points)


def swapped_pair(folder: Path) -> None:
    write_points(folder, 3, case_points(3)[[1, 0, *range(2, 10)]])


def exchanged_names(folder: Path) -> None:
    write_points(folder, 3, case_points(3)[[0, 1, 2, 3, 4, 5, 7, 6, 8, 9]])


def all_pairs_swapped(folder: Path) -> None:
    write_points(folder, 3, case_points(3)[[1, 0, 3, 2, 5, 4, 6, 7, 8, 9]])


def outlier(folder: Path) -> None:
    points = case_points(3)
    points[9] += [3, 4, -3]
    write_points(folder, 3, points)


def unknown_name(folder: Path) -> None:
    write_points(folder, 3, np.concatenate([case_points(3), [CENTRE]]), (*NAMES, "Nosse"))


def wrong_number(folder: Path) -> None:
    change(folder, numTraining=40)


def stray_files(folder: Path) -> None:
    (folder / "imagesTr" / "Thumbs.db").write_bytes(b"x")


def landmarks_without_image(folder: Path) -> None:
    shutil.copy(folder / "landmarksTr" / "case3.mrk.json", folder / "landmarksTr" / "case77.mrk.json")


def same_image_twice(folder: Path) -> None:
    shutil.copy(folder / "imagesTr" / "case3_0000.nii.gz", folder / "imagesTr" / "case4_0000.nii.gz")


def misnamed_label_map(folder: Path) -> None:
    """As its image is, and as an image is called by mistake."""
    label_map(folder, "case3_0000.nii.gz")
    label_map(folder, "csae4.nii.gz")
    label_map(folder, "case5.nii.gz")


def stray_files_among_label_maps(folder: Path) -> None:
    label_map(folder, "case5.nii.gz")
    made = folder / "labelsTr" / "case5.nii.gz"
    sitk.WriteImage(sitk.ReadImage(made), made.with_name("case5.mhd"))  # and its .raw, which is no stray file
    made.unlink()
    (folder / "labelsTr" / "names.txt").write_text("1 brain")


def wrong_slice_group(folder: Path) -> None:
    change(folder, co_slice_groups=[{"axis": 0, "landmarks": ["Horn_L", "Basion", "Nose"]}])


WARNINGS: list[tuple[Callable[[Path], None], str, str]] = [
    (just_outside, "just outside the image", "Inion by 0.6 voxels"),
    (swapped_pair, "a left/right pair looks swapped", "Eye_L and Eye_R"),
    (exchanged_names, "names of two landmarks look exchanged", "Nose and Inion"),
    (all_pairs_swapped, "all left/right pairs of a case look swapped", "exchanged"),
    (outlier, "far from where the other cases' shape puts them", "Crown"),
    (unknown_name, "an unknown landmark name", "did you mean 'Nose'"),
    (wrong_number, "numTraining", "40"),
    (never_present, "never present in the training cases", "Sella (absent in 8, unknown in 0 of 8 cases)"),
    (never_known, "never present in the training cases", "Sella (absent in 0, unknown in 8 of 8 cases)"),
    (stray_files, "files that nothing reads", "Thumbs.db"),
    (landmarks_without_image, "landmarks without an image", "case77"),
    (
        misnamed_label_map,
        "label maps without an image",
        "2 label maps of 3: case3_0000.nii.gz; did you mean 'case3'?, ",
    ),
    (misnamed_label_map, "label maps without an image", "csae4.nii.gz; did you mean 'case4'"),
    (stray_files_among_label_maps, "files that nothing reads", "names.txt"),
    (
        wrong_slice_group,
        "declares to share a slice do not",
        "Horn_L, Basion, Nose (axis 0) lie within half a slice in 0 of",
    ),
    (same_image_twice, "the same image is there under several names", "case3 (imagesTr), case4 (imagesTr)"),
]


@pytest.mark.parametrize(("plant", "problem", "found"), WARNINGS, ids=[f[0].__name__ for f in WARNINGS])
def test_warnings_go_on(folder: Path, plant: Callable[[Path], None], problem: str, found: str) -> None:
    plant(folder)
    report = check(folder)
    warning = next((f for f in report.faults if problem in f.problem), None)
    assert warning is not None, report.text()
    assert warning.severity == "warning" and found in (warning.found or "") and warning.remedy
    assert report.exit_code == 0 and len(report.good_cases) == N
    if plant in (misnamed_label_map, stray_files_among_label_maps, wrong_slice_group):
        only(report)
    if plant in (swapped_pair, exchanged_names, all_pairs_swapped, outlier, unknown_name):
        assert only(report).case == "case3"


def test_declared_slice_groups_are_measured(folder: Path) -> None:
    """Two landmarks put on one slice, but for one case in eight, where they are two slices, 5 mm, apart."""
    for i in range(N):
        points = case_points(i)
        points[1, 2] = points[0, 2] + (5.0 if i == 3 else 0.4 * SPACING[0])
        write_points(folder, i, points)
    change(folder, co_slice_groups=[{"axis": 0, "landmarks": ["Eye_L", "Eye_R"]}])
    (fault,) = (f for f in check(folder).faults if "share a slice" in f.problem)
    assert "in 7 of 8 cases (88%); typically 1 mm (0.4 slices) apart" in (fault.found or "")
    write_points(folder, 3, case_points(3)[:1], NAMES[:1])  # a case that does not show both does not count
    assert not any("share a slice" in f.problem for f in check(folder).faults)


def test_a_frame_that_keeps_points_inside_is_found_beside_the_other_cases(folder: Path) -> None:
    """A volume about the origin: LPS read as RAS stays inside, turned by 180 degrees."""
    centred = geometry(np.zeros(3))
    for i in range(N):
        imageio.write_image(folder / "imagesTr" / f"case{i}_0000.nii.gz", Image(image(i).array, centred))
        write_rows(folder, i, (case_points(i) - CENTRE) * ([-1, -1, 1] if i == 5 else [1, 1, 1]))
    fault = only(check(folder))
    assert fault.case == "case5" and fault.severity == "warning" and "another frame" in fault.problem


# -- all at once, and the command -------------------------------------------------------------------------------------


def test_all_faults_are_reported_at_once_and_by_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncated(folder)
    wrong_number(folder)
    stray_files(folder)
    write_points(folder, 5, case_points(5)[[1, 0, *range(2, 10)]])
    points = case_points(6)
    points[6, 1] -= 12
    write_points(folder, 6, points)
    assert main([str(folder), "--json", "-np", "0", "--disable_progress_bar"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["exit_code"] == 3 and report["bad_cases"] == ["case3", "case6"]
    assert [(f["severity"], f["case"]) for f in report["faults"]] == [
        ("case", "case3"),
        ("case", "case6"),
        ("warning", None),
        ("warning", None),
        ("warning", "case5"),
    ]
    assert main([str(folder), "-np", "0", "--disable_progress_bar"]) == 3
    text = capsys.readouterr().out
    assert "2 faults of cases (these cases are left out)" in text and "6 of 8 training cases are usable" in text
    for word in ("case3", "case6", "file:", "found:", "expected:", "what to do:"):
        assert word in text


def test_without_dataset_json_the_cases_are_checked_as_their_files_say(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated(folder)
    no_description(folder)
    report = check(folder)
    assert [(f.severity, f.case) for f in report.faults] == [("dataset", None), ("case", "case3")]
    assert "dataset.json is missing" in report.faults[0].problem and '"Eye_L": {"index": 0}' in str(report.faults[0])
    assert report.exit_code == 2 and len(report.good_cases) == N - 1
    with pytest.raises(AutolmkError, match=r"dataset\.json is missing"):
        report.fingerprint()
    assert main([str(folder), "-np", "0", "--disable_progress_bar"]) == 2
    printed = capsys.readouterr().out
    assert "1 fault of the dataset (nothing can be done before it is mended)" in printed
    assert "1 fault of a case (this case is left out)" in printed
    assert "7 of 8 training cases are usable; 1 fault of the dataset, 1 fault of a case, 0 warnings" in printed


def test_landmarks_that_are_present_nowhere_at_all_stop(folder: Path) -> None:
    for i in range(N):
        write_rows(folder, i, np.zeros((0, 3)), ())
        with (folder / "landmarksTr" / f"case{i}.csv").open("a") as file:
            file.writelines(f"{name},,,\n" for name in NAMES)
    assert any("that no training case shows" in fault.problem for fault in check(folder).of("dataset"))


def test_the_command_finds_a_dataset_by_its_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["1", "--raw", str(folder.parent), "-np", "0"]) == 0
    assert "8 of 8 training cases are usable" in capsys.readouterr().out
    assert main(["-d", "2", "--raw", str(folder.parent)]) == 2
    assert "there is no dataset '2'" in capsys.readouterr().err


def test_test_cases_are_checked_and_may_lack_landmarks(folder: Path) -> None:
    shutil.copytree(folder / "imagesTr", folder / "imagesTs")
    for file in sorted((folder / "imagesTs").iterdir())[1:]:
        file.unlink()
    imageio.write_image(folder / "imagesTs" / "case0_0000.nii.gz", image(50))
    (folder / "imagesTs" / "case0_0000.nii.gz").rename(folder / "imagesTs" / "new_0000.nii.gz")
    assert check(folder).faults == ()
    (folder / "imagesTs" / "new_0000.nii.gz").write_bytes(b"")
    report = check(folder)
    assert only(report).case == "new" and report.exit_code == 3 and len(report.good_cases) == N


# -- slices, planes, and test cases -----------------------------------------------------------------------------------


def write_slice(folder: Path, i: int, *, planar: bool = False, off: float = 0.0) -> None:
    """One axial slice, 4 mm thick, with five points on it; planar: as a plane image; off: mm above the slice."""
    rng = np.random.default_rng(i)
    array = rng.normal(0, 1, (1, 1, 40, 40)).astype(np.float32)
    array[..., 8:-8, 8:-8] += 50
    volume = Geometry.from_parts((1, 40, 40), (4.0, 1.0, 1.0), (5.0, -20.0, 70.0))
    plane = Geometry.from_parts((40, 40), (1.0, 1.0), (5.0, -20.0))
    points = np.array([[12, -10, 70], [38, -9, 70], [13, 11, 70], [37, 10, 70], [25, 2, 70.0]])
    points[:, :2] += rng.normal(0, 0.3, (5, 2))
    points[2, 2] += off
    file = folder / "imagesTr" / f"s{i}_0000.nii.gz"
    imageio.write_image(file, Image(array[:, 0], plane) if planar else Image(array, volume))
    marks = folder / "landmarksTr" / f"s{i}.mrk.json"
    shown = points[:, :2] if planar else points
    write_annotation(marks, Landmarks(tuple("ABCDE"), shown, np.full(5, Status.PRESENT, dtype=np.int8)))


def slices(tmp_path: Path, n: int) -> Path:
    folder = tmp_path / "Dataset002_Slices"
    for i in range(n):
        write_slice(folder, i)
    landmarks = {name: {"index": i} for i, name in enumerate("ABCDE")}
    write_json(
        folder / "dataset.json", {"channel_names": {"0": "MR"}, "landmarks": landmarks, "file_ending": ".nii.gz"}
    )
    return folder


@pytest.mark.parametrize(("off", "fault"), [(1.9, None), (70.0, "points lie outside the image")])
def test_points_of_a_slice_lie_in_its_thickness(tmp_path: Path, off: float, fault: str | None) -> None:
    folder = slices(tmp_path, 6)
    write_slice(folder, 3, off=off)
    faults = check(folder).of("case")
    assert [f.problem for f in faults] == ([fault] if fault else [])
    assert not faults or ("C by 17.0 voxels" in (faults[0].found or "") and faults[0].case == "s3")


def test_a_plane_image_among_slices_is_a_fault_of_its_case(tmp_path: Path) -> None:
    folder = slices(tmp_path, 7)
    write_slice(folder, 6, planar=True)
    report = check(folder)
    (fault,) = report.of("case")
    assert fault.case == "s6" and "another space" in fault.problem and report.exit_code == 3
    assert report.bad_cases == ("s6",) and report.fingerprint().physical_ndim == 3
    with pytest.raises(AutolmkError, match="mixes plane images and slices"):
        extract_fingerprint(Dataset.open(folder), workers=0, progress=False)


def add_test_case(folder: Path, name: str, points: FloatArray, i: int) -> None:
    (folder / "landmarksTs").mkdir(exist_ok=True)
    imageio.write_image(folder / "imagesTs" / f"{name}_0000.nii.gz", image(i))
    file = folder / "landmarksTs" / f"{name}.mrk.json"
    write_annotation(file, Landmarks(NAMES, points, np.full(len(NAMES), Status.PRESENT, dtype=np.int8)))


def test_a_broken_test_case_leaves_its_namesake_in_training(folder: Path) -> None:
    points = case_points(3)
    points[6, 1] -= 12
    add_test_case(folder, "case3", points, 60)
    report = check(folder)
    assert [(f.case, f.split) for f in report.of("case")] == [("case3", "Ts")]
    assert report.bad_cases == () and len(report.good_cases) == N


def test_test_cases_do_not_say_what_is_typical(folder: Path) -> None:
    exchanged = [1, 0, *range(2, 10)]
    for i in range(20, 32):  # more than there are training cases
        add_test_case(folder, f"t{i}", case_points(i)[exchanged], i)
    report = check(folder)
    assert len(report.good_cases) == N and report.of("warning")
    assert all(str(f.case).startswith("t") and "swapped" in f.problem for f in report.of("warning"))


def test_a_file_without_any_point_is_a_case_without_landmarks(folder: Path) -> None:
    next((folder / "landmarksTr").glob("case3.*")).unlink()
    empty = {"markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": []}]}
    (folder / "landmarksTr" / "case3.mrk.json").write_text(json.dumps(empty))
    problems = [(fault.case, fault.problem) for fault in check(folder).faults]
    assert ("case3", "a case has no present landmark") in problems
