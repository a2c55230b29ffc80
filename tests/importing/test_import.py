"""autolmk_import: nnLandmark's datasets become raw datasets, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autolmk.cli.import_ import main
from autolmk.dataset import Dataset
from autolmk.dataset.nnlandmark import import_dataset
from autolmk.errors import AutolmkError
from autolmk.files.locks import exclusive
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.imageio import read_geometry, write_image
from autolmk.importing.importer import MARK
from autolmk.landmarks import Status

GRID = Geometry.from_parts((12, 14, 16), (2, 1, 0.5), (5, 6, 7))
LABELS = {"landmark_1": 1, "landmark_2": 2, "landmark_3": 300}
POINTS = {  # i, j, k, as in all_landmarks_voxel.json
    "case_a": {"landmark_1": [3.25, 8, 5], "landmark_2": [10, 2.4, 9], "landmark_3": [0, 13, 11]},
    "case_b": {"landmark_1": [4, 8, 5], "landmark_2": None},
    "case_t": {"landmark_1": [5, 8, 5], "landmark_2": [9, 2, 9], "landmark_3": [1, 12, 10]},
}


def label_map(points: dict[str, list[float] | None]) -> np.ndarray:
    """Cubes of 3 voxels around the rounded points, as nnLandmark draws them."""
    array = np.zeros((1, *GRID.shape), np.float32)
    for name, point in points.items():
        if point is not None:
            i, j, k = (round(c) for c in point)
            array[0, max(k - 1, 0) : k + 2, max(j - 1, 0) : j + 2, max(i - 1, 0) : i + 2] = LABELS[name]
    return array


def nnlandmark(folder: Path, *, maps: bool = True, listed: bool = True, **files: Any) -> Path:
    """A dataset as nnLandmark's conversion scripts write it, two training cases and a test case."""
    source = folder / "source" / "Dataset732_Skulls"
    for case in POINTS:
        split = "Ts" if case == "case_t" else "Tr"
        image = np.random.default_rng(0).random((1, *GRID.shape)).astype(np.float32)
        write_image(source / f"images{split}" / f"{case}_0000.nii.gz", Image(image, GRID))
        if maps:
            write_image(source / f"labels{split}" / f"{case}.nii.gz", Image(label_map(POINTS[case]), GRID))
    content: dict[str, Any] = {
        "dataset.json": {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, **LABELS},
            "numTraining": 2,
            "file_ending": ".nii.gz",
            "licence": "CC BY",
        },
        "name_to_label.json": LABELS,
        "spacing.json": {c: {"image_spacing": [0.5, 1, 2], "annotation_spacing": None} for c in POINTS},
        **({"all_landmarks_voxel.json": POINTS} if listed else {}),
        **{f"{key}.json": value for key, value in files.items()},
    }
    for name, value in content.items():
        (source / name).write_text(json.dumps(value))
    return source


def test_points_are_those_of_the_json_file_to_the_last_digit(tmp_path: Path) -> None:
    source = nnlandmark(tmp_path)
    assert main(["-i", str(source), "--raw", str(tmp_path / "raw")]) == 0
    dataset = Dataset.open(tmp_path / "raw" / "Dataset732_Skulls")
    assert dataset.landmark_names == tuple(LABELS) and dataset.channel_names == ("MRI",)
    assert (dataset.description.coordinates, dataset.description.licence) == ("voxel", "CC BY")
    for split, names in (("Tr", ["case_a", "case_b"]), ("Ts", ["case_t"])):
        cases = dataset.cases(split)
        assert [c.identifier for c in cases] == names
        for case in cases:
            geometry = dataset.read_image(case).geometry
            assert geometry.is_close(GRID)
            landmarks = dataset.read_landmarks(case, geometry)
            for i, name in enumerate(LABELS):
                point = POINTS[case.identifier].get(name)
                if point is not None:
                    np.testing.assert_array_equal(landmarks.points[i], geometry.to_physical(point[::-1]))
                else:
                    assert landmarks.status[i] == Status.UNKNOWN


def test_label_maps_alone_are_enough(tmp_path: Path) -> None:
    source = nnlandmark(tmp_path, listed=False)
    import_dataset(source, tmp_path / "raw" / "Dataset001_X", progress=False, unlisted="absent")
    dataset = Dataset.open(tmp_path / "raw" / "Dataset001_X")
    a, b = dataset.cases()
    voxels = GRID.to_voxels(dataset.read_landmarks(a, GRID).points)[:, ::-1]
    np.testing.assert_allclose(voxels, [[3, 8, 5], [10, 2, 9], [0.5, 12.5, 10.5]], atol=1e-3)
    assert dataset.description.unlisted_landmark_means == "absent"
    assert dataset.read_landmarks(b, GRID).status.tolist() == [Status.PRESENT, Status.UNKNOWN, Status.UNKNOWN]


def test_the_json_file_alone_is_enough(tmp_path: Path) -> None:
    import_dataset(nnlandmark(tmp_path, maps=False), tmp_path / "raw" / "Dataset001_X", progress=False)
    assert len(Dataset.open(tmp_path / "raw" / "Dataset001_X").cases()) == 2


def test_images_can_be_linked(tmp_path: Path) -> None:
    source = nnlandmark(tmp_path)
    assert main(["-i", str(source), "--link", "-d", "Dataset001_X", "--raw", str(tmp_path / "raw")]) == 0
    image = tmp_path / "raw" / "Dataset001_X" / "imagesTr" / "case_a_0000.nii.gz"
    assert image.is_symlink() and image.resolve() == source / "imagesTr" / "case_a_0000.nii.gz"


def test_a_spacing_that_is_not_to_be_trusted_is_corrected(tmp_path: Path) -> None:
    spacing = {"case_a": {"image_spacing": None, "annotation_spacing": [0.3, 0.4, 0.5]}}
    import_dataset(nnlandmark(tmp_path, spacing=spacing), tmp_path / "raw" / "Dataset001_X", progress=False)
    images = tmp_path / "raw" / "Dataset001_X" / "imagesTr"
    np.testing.assert_allclose(read_geometry(images / "case_a_0000.nii.gz").spacing, (0.5, 0.4, 0.3), rtol=1e-6)
    np.testing.assert_allclose(read_geometry(images / "case_b_0000.nii.gz").spacing, GRID.spacing, rtol=1e-6)


TURNED = {c: {n: p and p[::-1] for n, p in points.items()} for c, points in POINTS.items()}
MOVED = {**POINTS, "case_b": {"landmark_1": [4, 8, 9]}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"all_landmarks_voxel": TURNED}, "order k, j, i"),
        ({"all_landmarks_voxel": MOVED}, "disagree"),
        ({"all_landmarks_voxel": {**POINTS, "case_a": {"landmark1": [1, 2, 3]}}}, "did you mean 'landmark_1'"),
        ({"all_landmarks_voxel": {**POINTS, "case_a": {"landmark_1": [1]}}}, "wrong voxel"),
        ({"all_landmarks_voxel": {**POINTS, "case_a": {"landmark_1": "1,2,3"}}}, "case_a.landmark_1"),
        ({"name_to_label": {"landmark_1": 1}}, "unknown values"),
        ({"name_to_label": {"landmark_1": "1"}}, "landmark_1"),
        ({"spacing": {"case_b": {"image_spacing": [1, 1, 1], "annotation_spacing": None}}}, "disagree"),
        ({"spacing": {"case_b": {"image_spacing": [1, 1], "annotation_spacing": None}}}, "wrong spacing"),
        ({"dataset": {"channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii.gz"}}, "not complete"),
        ({"dataset": {"channel_names": {"0": "T1"}, "file_ending": ".mhd"}}, "second file"),
    ],
)
def test_contradictions_are_named_and_nothing_is_left_behind(
    files: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = nnlandmark(tmp_path, **files)
    if "dataset" in files and files["dataset"]["file_ending"] == ".nii.gz":
        (source / "imagesTr" / "case_b_0000.nii.gz").rename(source / "imagesTr" / "case_b_0001.nii.gz")
    assert main(["-i", str(source), "--raw", str(tmp_path / "raw")]) == 2
    assert message in capsys.readouterr().err
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_training_case_without_points_is_named(tmp_path: Path) -> None:
    source = nnlandmark(tmp_path, maps=False, all_landmarks_voxel={"case_a": POINTS["case_a"]})
    with pytest.raises(AutolmkError, match="no landmarks") as caught:
        import_dataset(source, tmp_path / "raw" / "Dataset001_X", progress=False)
    assert caught.value.case == "case_b"


def test_names_and_places_are_checked_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, where = nnlandmark(tmp_path), ["--raw", str(tmp_path / "raw")]
    assert main(["-i", str(source), "-d", "Skulls", *where]) == 2
    assert main(["-i", str(tmp_path / "nothing"), "-d", "Dataset001_X", *where]) == 2
    (source / "dataset.json").rename(source / "other.json")
    assert main(["-i", str(source), *where]) == 2
    (source / "other.json").rename(source / "dataset.json")
    assert main(["-i", str(source), *where]) == 0
    assert main(["-i", str(source), *where]) == 2
    errors = capsys.readouterr().err
    for message in ("no name of a dataset", "to import is missing", "a file is missing", "there already"):
        assert message in errors
    assert "Traceback" not in errors


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    rubble = tmp_path / "raw" / ".Dataset001_X.importing" / "imagesTr"
    rubble.mkdir(parents=True)
    (rubble / "old_0000.nii.gz").write_text("half")
    import_dataset(nnlandmark(tmp_path), tmp_path / "raw" / "Dataset001_X", progress=False)
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["Dataset001_X"]
    assert len(list((tmp_path / "raw" / "Dataset001_X" / "imagesTr").iterdir())) == 2


def test_what_a_killed_import_left_is_cleared_and_what_strangers_left_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = nnlandmark(tmp_path / "source")
    raw = tmp_path / "raw"
    place = raw / ".Dataset001_X.autolmk-import"
    (place / "Dataset001_X" / "imagesTr").mkdir(parents=True)
    (place / "Dataset001_X" / "imagesTr" / "a.txt").write_text("not ours: there is no mark")
    words = [str(source), "-o", str(raw / "Dataset001_X")]
    assert main(words) == 2
    assert "what no import has left" in capsys.readouterr().err
    assert (place / "Dataset001_X" / "imagesTr" / "a.txt").exists()
    assert not (raw / "Dataset001_X").exists()
    (place / MARK).touch()
    (place / "letter.txt").write_text("theirs")
    assert main(words) == 2
    assert (place / "letter.txt").exists()
    (place / "letter.txt").unlink()
    (place / ".lock").touch()  # of an earlier version
    assert main(words) == 0
    assert [entry.name for entry in raw.iterdir()] == ["Dataset001_X"]


def test_two_imports_into_one_place_do_not_hurt_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = nnlandmark(tmp_path / "source")
    place = tmp_path / "raw" / ".Dataset001_X.autolmk-import"
    (place / "Dataset001_X").mkdir(parents=True)
    (place / MARK).touch()
    words = [str(source), "-o", str(tmp_path / "raw" / "Dataset001_X")]
    with exclusive(place):
        assert main(words) == 2
        assert "another process is at work" in capsys.readouterr().err
        assert (place / "Dataset001_X").is_dir()
        assert (place / MARK).exists()
    assert main(words) == 0
