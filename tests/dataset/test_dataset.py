"""Raw datasets: dataset.json, what it may leave out, and points in every frame."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autolmk.annotations import write
from autolmk.dataset import Dataset, DatasetDescription, infer_description
from autolmk.errors import AutolmkError
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.landmarks import Landmarks, Status

NAMES = ("S", "Or_L", "Or_R")
VOXELS = np.array([[2.0, 3, 4], [1, 1.5, 6], [1, 1.5, 2]])  # array order
GRID = Geometry.from_parts((5, 7, 9), (2.5, 0.5, 0.75), (-40.0, 60, 200))
LANDMARKS = {"S": {"index": 0}, "Or_L": {"index": 1, "pair": "Or_R"}, "Or_R": {"index": 2}}
CHANNELS = {"0": "MR"}


def volume(file: Path, geometry: Geometry = GRID, value: float = 1.0) -> None:
    write_image(file, Image(np.full((1, *geometry.shape), value, np.float32), geometry))


def table(points: FloatArray, case: str = "a", names: tuple[str, ...] = NAMES) -> str:
    rows = (f"{case},{n},{','.join(str(float(x)) for x in p)}\n" for n, p in zip(names, points, strict=True))
    return "".join(rows)


def raw(folder: Path, description: dict[str, Any] | None = None, cases: tuple[str, ...] = ("a", "b")) -> Path:
    """A dataset with two training cases, whose points are in one table in LPS."""
    target = folder / "Dataset001_Skull"
    for case in cases:
        volume(target / "imagesTr" / f"{case}_0000.nii.gz")
    content = "".join(table(GRID.to_physical(VOXELS), case) for case in cases)
    (target / "landmarksTr").mkdir()
    (target / "landmarksTr" / "landmarks.csv").write_text(f"case,landmark,x,y,z\n{content}")
    (target / "dataset.json").write_text(json.dumps(description or {}))
    return target


def rewrite(folder: Path, points: FloatArray, **description: Any) -> Dataset:
    """The dataset with one case, these points in its table, and this dataset.json."""
    text = "xyz"[: points.shape[1]]
    (folder / "landmarksTr" / "landmarks.csv").write_text(f"case,landmark,{','.join(text)}\n{table(points)}")
    (folder / "dataset.json").write_text(json.dumps(description))
    return Dataset.open(folder)


def points_of(dataset: Dataset, index: int = 0) -> FloatArray:
    case = dataset.cases()[index]
    return dataset.read_landmarks(case, dataset.read_image(case).geometry).points


# -- dataset.json -----------------------------------------------------------------------------------------------------


def test_a_dataset_opens_with_everything_left_out(tmp_path: Path) -> None:
    dataset = Dataset.open(raw(tmp_path))
    assert (dataset.name, dataset.ndim, dataset.unit) == ("Dataset001_Skull", 3, "mm")
    assert dataset.landmark_names == NAMES and dataset.channel_names == ("channel 0",) and dataset.pairs == ()
    assert dataset.description.file_ending == ".nii.gz"
    assert [(c.identifier, c.subject) for c in dataset.cases()] == [("a", "a"), ("b", "b")]
    assert dataset.cases("Ts") == []
    np.testing.assert_allclose(points_of(dataset), GRID.to_physical(VOXELS), atol=1e-4)


def test_a_dataset_travels_to_worker_processes(tmp_path: Path) -> None:
    dataset = Dataset.open(raw(tmp_path))
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    np.testing.assert_array_equal(points_of(copy), points_of(dataset))


def test_nnunets_dataset_json_is_understood(tmp_path: Path) -> None:
    content = {
        "channel_names": CHANNELS,
        "labels": {"background": 0, "Or_R": 3, "S": 1, "Or_L": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "reference": "x",
        "licence": "CC BY",
        "release": "1.0",
        "description": "skulls",
    }
    dataset = Dataset.open(raw(tmp_path, content))
    assert dataset.landmark_names == NAMES and dataset.channel_names == ("MR",)
    assert dataset.description.to_json()["licence"] == "CC BY"


def test_landmarks_are_ordered_by_index_and_pairs_need_be_said_once() -> None:
    description = DatasetDescription.from_json({"landmarks": {"b": {"index": 1, "pair": "a"}, "a": {"index": 0}}})
    assert description.names == ("a", "b") and description.pairs == (("a", "b"),)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    content = {
        "channel_names": CHANNELS,
        "landmarks": {n: {"index": i} for i, n in enumerate(NAMES)},
        "spacing": {"a": [1.0, 2.0]},
        "coordinates": "voxel",
        "unlisted_landmark_means": "absent",
        "groups": "^(sub-\\d+)",
        "measurements": {
            "width": {"distance": ["Or_L", "Or_R"]},
            "tilt": {"angle": ["Or_L", "S", "Or_R"]},
            "depth": {"distance": ["S", "Or_L"]},
            "shape": {"ratio": ["width", "depth"]},
        },
        "co_slice_groups": [{"axis": 2, "landmarks": ["Or_L", "S"]}],
    }
    description = DatasetDescription.from_json(content)
    assert DatasetDescription.from_json(description.to_json()) == description
    assert {k: description.to_json()[k] for k in content} == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"chanel_names": CHANNELS}, "did you mean 'channel_names'"),
        ({"channel_names": {"1": "MR"}}, "must number the channels"),
        ({"channel_names": ["MR"]}, "channel_names"),
        ({"landmarks": {"a": {"index": 0}, "b": {"index": 0}}}, "each once"),
        ({"landmarks": {"a": {"index": 1}}}, "must be 0 to 0"),
        ({"landmarks": {}}, "lists none"),
        ({"landmarks": {"Or_L": {"pair": "Or_r"}, "Or_R": {}}}, "did you mean 'Or_R'"),
        ({"landmarks": {"a": {"pair": "a"}}}, "names 'a' as its pair"),
        ({"landmarks": {"a": {"pair": "b"}, "b": {"pair": "c"}, "c": {}}}, "as its pair"),
        ({"landmarks": {"a": {"pair": "c"}, "b": {"pair": "c"}, "c": {}}}, "pair of two"),
        ({"landmarks": LANDMARKS, "labels": {"S": 1}}, "synonym"),
        ({"labels": {"a": 1, "b": 1}}, "same value"),
        ({"coordinates": "LAS"}, "LPS"),
        ({"spacing": [1, 0]}, "positive"),
        ({"spacing": [1]}, "2 or 3"),
        ({"groups": "("}, "regular expression"),
        ({"unlisted_landmark_means": "missing"}, "absent"),
        ({"landmarks": LANDMARKS, "measurements": {"m": {"distance": ["S", "N"]}}}, "unknown landmark 'N'"),
        ({"measurements": {"m": {}}}, "either a distance, an angle or a ratio"),
        ({"measurements": {"m": {"distance": ["a", "a"]}}}, "different landmarks"),
        ({"measurements": {"m": {"ratio": ["b", "c"]}}}, "'b' is not declared"),
        (
            {"measurements": {"w": {"distance": ["a", "b"]}, "t": {"angle": list("abc")}, "m": {"ratio": ["w", "t"]}}},
            "'t' is no distance",
        ),
        ({"measurements": {"m": {"distance": ["a"]}}}, "2 values"),
        (
            {"landmarks": LANDMARKS, "co_slice_groups": [{"axis": 0, "landmarks": ["S", "Or_l"]}]},
            "unknown landmark 'Or_l'",
        ),
        ({"co_slice_groups": [{"axis": 0, "landmarks": ["S"]}]}, "at least two"),
        ({"co_slice_groups": [{"axis": 3, "landmarks": ["S", "N"]}]}, "axis must be 0"),
        (
            {"landmarks": LANDMARKS, "co_slice_groups": [{"axis": 0, "landmarks": ["S", o]} for o in ("Or_L", "Or_R")]},
            "in two groups",
        ),
    ],
)
def test_mistakes_in_dataset_json_are_named(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = raw(tmp_path, content)
    with pytest.raises(AutolmkError) as caught:
        Dataset.open(folder)
    assert message in str(caught.value) and caught.value.file == str(folder / "dataset.json")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "nul\0", "a\u2028b", "a\rb"])
@pytest.mark.parametrize("declared", [False, True])
def test_names_that_break_lines_are_refused(name: str, declared: bool, tmp_path: Path) -> None:
    """Also where one case alone has one: it must not drop out unsaid."""
    description = {"landmarks": {name: {}, "S": {}}} if declared else {}
    folder = raw(tmp_path, description)
    marks = Landmarks((name, "S"), GRID.to_physical(VOXELS[:2]), np.ones(2, np.int8))
    write(folder / "landmarksTr" / "b.mrk.json", marks)
    rows = (folder / "landmarksTr" / "landmarks.csv").read_text().splitlines(keepends=True)
    (folder / "landmarksTr" / "landmarks.csv").write_text("".join(r for r in rows if not r.startswith("b,")))
    with pytest.raises(AutolmkError, match="line breaks or other control characters"):
        Dataset.open(folder)


def test_a_missing_dataset_json_is_offered(tmp_path: Path) -> None:
    folder = raw(tmp_path)
    (folder / "dataset.json").unlink()
    with pytest.raises(AutolmkError, match=r"dataset\.json is missing") as caught:
        Dataset.open(folder)
    remedy = str(caught.value.remedy)
    offered = json.loads(remedy[remedy.index("{") :])
    assert offered["numTraining"] == 2 and offered["coordinates"] == "LPS" and offered["name"] == "Skull"
    (folder / "dataset.json").write_text(json.dumps(offered))
    assert Dataset.open(folder).description == infer_description(folder)


def test_names_are_compared_with_landmarks_that_the_files_show(tmp_path: Path) -> None:
    folder = raw(tmp_path)
    (folder / "dataset.json").write_text('{"co_slice_groups": [{"axis": 0, "landmarks": ["nobody", "tip"]}]}')
    with pytest.raises(AutolmkError, match=r"unknown landmark 'nobody'(.|\n)*expected: landmarks among"):
        Dataset.open(folder)


def test_a_missing_dataset_json_that_cannot_be_inferred_says_why(tmp_path: Path) -> None:
    folder = raw(tmp_path)
    (folder / "dataset.json").unlink()
    (folder / "landmarksTr" / "landmarks.csv").unlink()
    with pytest.raises(AutolmkError, match=r"a dataset has no landmarks(.|\n)*found: an empty folder"):
        Dataset.open(folder)
    (folder / "landmarksTr" / "a.json").write_text("{}")
    with pytest.raises(AutolmkError, match=r"a dataset has no landmarks(.|\n)*found: a\.json\n"):
        Dataset.open(folder)
    with pytest.raises(AutolmkError, match="folder is missing"):
        Dataset.open(tmp_path / "nothing")


def test_landmarks_of_other_names_than_the_images_are_named_beside_them(tmp_path: Path) -> None:
    folder = raw(tmp_path, cases=("a",))
    (folder / "landmarksTr" / "landmarks.csv").write_text("case,landmark,x,y,z\na_0000.nii.gz,tip,4,5,6\n")
    (folder / "dataset.json").unlink()
    with pytest.raises(AutolmkError, match=r"landmarks of a_0000\.nii\.gz; images of a"):
        Dataset.open(folder)


@pytest.mark.parametrize("frame", ["LPS", "RAS", "voxel"])
def test_the_frame_of_points_is_inferred_by_trying(frame: str, tmp_path: Path) -> None:
    folder = raw(tmp_path)
    truth = GRID.to_physical(VOXELS)
    points = {"LPS": truth, "RAS": truth * [-1, -1, 1], "voxel": VOXELS[:, ::-1]}[frame]
    dataset = rewrite(folder, points)
    assert infer_description(dataset.folder).coordinates == frame


def test_points_of_images_without_physical_size_are_taken_for_voxels(tmp_path: Path) -> None:
    """So that they stay right once dataset.json says how large a pixel is."""
    folder = raw(tmp_path, cases=("a",))
    (folder / "imagesTr" / "a_0000.nii.gz").unlink()
    plane = Geometry.from_parts((20, 30), (1, 1))
    write_image(folder / "imagesTr" / "a_0000.png", Image(np.zeros((1, 20, 30), np.float32), plane))
    (folder / "landmarksTr" / "landmarks.csv").write_text("case,landmark,x,y\na,tip,4,5\n")
    assert infer_description(folder).coordinates == "voxel"


def test_what_is_inferred_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = raw(tmp_path)
    (folder / "dataset.json").write_text("{}")
    with caplog.at_level("INFO", "autolmk"):
        Dataset.open(folder)
        Dataset.open(folder)
    said = [message.partition(" ")[0] for message in caplog.messages]
    assert said == ["channel_names", "landmarks"]


@pytest.mark.parametrize(
    ("kind", "names"), [("ct", ("CT",)), ("two", ("channel 0", "channel 1")), ("rgb", tuple("RGB"))]
)
def test_channel_names_are_inferred(kind: str, names: tuple[str, ...], tmp_path: Path) -> None:
    folder = raw(tmp_path, cases=("a",))
    image = folder / "imagesTr" / "a_0000.nii.gz"
    if kind == "ct":
        array = np.linspace(-1000, 2000, 5 * 7 * 9).reshape(1, 5, 7, 9).astype(np.float32)
        write_image(image, Image(array, GRID))
    elif kind == "two":
        volume(folder / "imagesTr" / "a_0001.nii.gz")
    else:
        image.unlink()
        array = np.arange(3 * 20 * 30, dtype=np.float32).reshape(3, 20, 30) % 256
        write_image(folder / "imagesTr" / "a_0000.png", Image(array, Geometry.from_parts((20, 30), (1, 1))))
    assert Dataset.open(folder).channel_names == names


# -- points -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", ["LPS", "RAS", "voxel"])
def test_points_are_in_lps_whatever_the_file_counts_in(frame: str, tmp_path: Path) -> None:
    folder = raw(tmp_path)
    truth = GRID.to_physical(VOXELS)
    points = {"LPS": truth, "RAS": truth * [-1, -1, 1], "voxel": VOXELS[:, ::-1]}[frame]
    dataset = rewrite(folder, points, coordinates=frame)
    np.testing.assert_allclose(points_of(dataset), truth, atol=1e-4)


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv", ".csv"])
def test_a_files_own_frame_goes_before_dataset_json_and_stays_visible(suffix: str, tmp_path: Path) -> None:
    folder = raw(tmp_path, {"coordinates": "voxel"}, cases=("a",))
    (folder / "landmarksTr" / "landmarks.csv").unlink()
    truth = GRID.to_physical(VOXELS)
    write(folder / "landmarksTr" / f"a{suffix}", Landmarks(NAMES, truth, np.full(3, Status.PRESENT)))
    dataset = Dataset.open(folder)
    np.testing.assert_allclose(points_of(dataset), truth)
    annotation = dataset.read_annotation(dataset.cases()[0])
    assert annotation.frame == "LPS" and dataset.description.coordinates == "voxel", "what check compares"


def test_the_frame_of_an_fcsv_file_without_one_is_never_assumed(tmp_path: Path) -> None:
    folder = raw(tmp_path, cases=("a",))
    (folder / "landmarksTr" / "landmarks.csv").unlink()
    x, y, z = GRID.to_physical(VOXELS)[0]
    (folder / "landmarksTr" / "a.fcsv").write_text(f"1,{-x},{-y},{z},0,0,0,1,1,1,0,S,,\n")
    dataset = Dataset.open(folder)
    with pytest.raises(AutolmkError, match="does not say in which frame"):
        points_of(dataset)
    (folder / "dataset.json").write_text('{"coordinates": "RAS"}')
    np.testing.assert_allclose(points_of(Dataset.open(folder)), [[x, y, z]], atol=1e-6)


def test_names_may_come_from_descriptions(tmp_path: Path) -> None:
    folder = raw(tmp_path, {"names_from": "description"}, cases=("a",))
    (folder / "landmarksTr" / "landmarks.csv").unlink()
    (folder / "landmarksTr" / "a.fcsv").write_text("# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,1,AC,\n")
    assert Dataset.open(folder).landmark_names == ("AC",)


@pytest.mark.parametrize(("means", "status"), [("unknown", Status.UNKNOWN), ("absent", Status.ABSENT)])
def test_unlisted_landmarks_mean_what_dataset_json_says(means: str, status: Status, tmp_path: Path) -> None:
    folder = raw(tmp_path, {"landmarks": {**LANDMARKS, "N": {"index": 3}}, "unlisted_landmark_means": means})
    dataset = Dataset.open(folder)
    case = dataset.cases()[0]
    landmarks = dataset.read_landmarks(case, GRID)
    assert landmarks.names == (*NAMES, "N") and landmarks.status.tolist() == [1, 1, 1, status]
    assert np.isnan(landmarks.points[3]).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,S,1,2,3\na,S,1,2,3\n", "unique"),
        ("a,S,nan,nan,nan,present\n", "finite"),
        ("a,S,nan,2,3,present\n", "only some"),
        ("b,S,1,2,3\n", "no landmarks"),
    ],
)
def test_senseless_points_are_named_with_their_case(rows: str, message: str, tmp_path: Path) -> None:
    folder = raw(tmp_path, {"landmarks": LANDMARKS}, cases=("a",))
    header = "case,landmark,x,y,z,status\n" if "present" in rows else "case,landmark,x,y,z\n"
    (folder / "landmarksTr" / "landmarks.csv").write_text(header + rows)
    with pytest.raises(AutolmkError) as caught:
        points_of(Dataset.open(folder))
    assert message in str(caught.value) and caught.value.case == "a"


def test_two_annotations_of_one_case_are_refused(tmp_path: Path) -> None:
    folder = raw(tmp_path, {"landmarks": LANDMARKS, "channel_names": CHANNELS, "file_ending": ".nii.gz"})
    (folder / "landmarksTr" / "a.csv").write_text("landmark,x,y,z\n")
    dataset = Dataset.open(folder)
    assert len(dataset.annotation_files()["a"]) == 2
    with pytest.raises(AutolmkError, match="two annotations"):
        dataset.cases()


# -- images -----------------------------------------------------------------------------------------------------------


def test_plane_images_without_size_are_in_pixels_and_with_spacing_in_millimetres(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset002_Wing"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "landmarksTr").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 30), np.uint8)), str(folder / "imagesTr" / "a_0000.jpg"))
    pixels = np.array([[3.5, 7, 0], [1, 2, 0], [20, 19, 0]])
    dataset = rewrite(folder, pixels, coordinates="voxel")
    assert (dataset.ndim, dataset.unit) == (2, "px")
    np.testing.assert_array_equal(points_of(dataset), pixels[:, :2])
    dataset = rewrite(folder, pixels[:, :2], coordinates="voxel", spacing=[0.1, 0.2])
    assert dataset.unit == "mm"
    np.testing.assert_allclose(points_of(dataset), pixels[:, :2] * [0.1, 0.2])
    dataset = rewrite(folder, pixels, spacing={"a": [0.5, 0.5]})
    assert dataset.read_image(dataset.cases()[0]).geometry.spacing == (0.5, 0.5)
    dataset = rewrite(folder, pixels, spacing={"b": [0.5, 0.5]})
    with pytest.raises(AutolmkError, match="how large the pixels"):
        dataset.read_image(dataset.cases()[0])
    dataset = rewrite(folder, pixels + np.array([0, 0, 3]))
    with pytest.raises(AutolmkError, match="outside the plane"):
        points_of(dataset)


def test_volumes_of_one_slice_are_planes_where_all_are(tmp_path: Path) -> None:
    """The slice keeps its place in space; voxel coordinates count along the axes of the volume."""
    slab = Geometry.from_parts((5, 1, 9), (2.5, 0.5, 0.75), (-40.0, 60, 200))
    folder = raw(tmp_path, cases=("a",))
    volume(folder / "imagesTr" / "a_0000.nii.gz", slab)
    voxels = np.array([[2.0, 0, 4], [1, 0, 6], [1, 0, 2]])
    dataset = rewrite(folder, voxels[:, ::-1], coordinates="voxel")
    assert (dataset.ndim, dataset.unit) == (2, "mm")
    image = dataset.read_image(dataset.cases()[0])
    assert image.geometry.shape == (5, 9) and image.geometry.physical_ndim == 3
    points = points_of(dataset)
    np.testing.assert_allclose(points, slab.to_physical(voxels), atol=1e-4)
    np.testing.assert_allclose(image.geometry.to_voxels(points), voxels[:, [0, 2]], atol=1e-4)
    volume(folder / "imagesTr" / "b_0000.nii.gz")
    assert Dataset.open(folder).ndim == 3, "among volumes, a single slice is a thin volume"


def test_images_that_do_not_fit_the_dataset_are_named_with_their_case(tmp_path: Path) -> None:
    folder = raw(tmp_path, {"channel_names": {"0": "T1", "1": "T2"}})
    volume(folder / "imagesTr" / "a_0001.nii.gz")
    dataset = Dataset.open(folder)
    a, b = dataset.cases()
    assert dataset.read_image(a).array.shape == (2, 5, 7, 9)
    with pytest.raises(AutolmkError, match="does not fit the dataset") as caught:
        dataset.read_image(b)
    assert caught.value.case == "b"
    (folder / "imagesTr" / "b_0000.nii.gz").write_bytes(b"")
    with pytest.raises(AutolmkError, match="truncated") as caught:
        dataset.read_image(b)
    assert caught.value.case == "b"
    (folder / "imagesTr" / "a_0000.nii.gz").unlink()
    with pytest.raises(AutolmkError, match="not complete"):
        dataset.read_image(dataset.cases()[0])


def test_one_unreadable_image_does_not_decide_for_the_dataset(tmp_path: Path) -> None:
    folder = raw(tmp_path)
    (folder / "imagesTr" / "a_0000.nii.gz").write_bytes(b"broken")
    dataset = Dataset.open(folder)
    assert (dataset.ndim, dataset.unit, dataset.channel_names) == (3, "mm", ("channel 0",))
    (folder / "imagesTr" / "b_0000.nii.gz").write_bytes(b"broken")
    with pytest.raises(AutolmkError):
        Dataset.open(folder)


# -- subjects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "subject"), [(r"^(sub-\d+)_", "sub-01"), (r"^sub-\d+", "sub-01"), (None, "sub-01_a")]
)
def test_groups_take_the_subject_from_the_name(groups: str | None, subject: str) -> None:
    assert DatasetDescription(groups=groups).subject("sub-01_a") == subject


def test_a_case_that_groups_does_not_match_is_named(tmp_path: Path) -> None:
    with pytest.raises(AutolmkError, match="groups does not match") as caught:
        Dataset.open(raw(tmp_path, {"groups": r"^sub-\d+"})).cases()
    assert caught.value.case == "a"


@pytest.mark.parametrize("pattern", [r"(a|aa)+$", r"(a|a)*b", r"([a-z]+)*\d", r"(a?a?)*b", "(" * 200, "a" * 301])
def test_groups_that_would_not_end_are_refused(pattern: str) -> None:
    with pytest.raises((AutolmkError, ValueError), match=r"come to an end|groups|does not match"):
        DatasetDescription(groups=pattern).subject("a" * 200 + "!")
    assert DatasetDescription(groups=r"(sub-\d+)").subject("sub-01_run-2") == "sub-01"
