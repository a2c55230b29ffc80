"""Codes for missing points, units, and names that differ from case to case: found by the check, with what to write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autolmk.annotations import write
from autolmk.check import check_dataset
from autolmk.check.report import Report
from autolmk.dataset import Dataset
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.landmarks import Landmarks, Status

GRID = Geometry.from_parts((12, 40, 50), (2.0, 1.0, 1.0), (-25.0, -20.0, -12.0))
POINTS = np.array([[10.0, 12, 3], [30, 20, 6], [22, 30, 8], [40, 8, 2], [15, 33, 9]])  # voxels, x y z


def dataset(folder: Path, n: int = 6, **description: object) -> Path:
    """Volumes about the scanner's centre, with no points yet."""
    folder = folder / "Dataset001_Doubts"
    for part in ("imagesTr", "landmarksTr"):
        (folder / part).mkdir(parents=True)
    for i in range(n):
        values = np.random.default_rng(i).normal(size=(1, *GRID.shape)).astype(np.float32)
        write_image(folder / "imagesTr" / f"c{i}.nii.gz", Image(values, GRID))
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def jittered(i: int) -> np.ndarray:
    return POINTS + np.random.default_rng(100 + i).normal(0, 0.5, POINTS.shape)


def markups(folder: Path, name: Callable[[int, int], str], n: int = 6, unit: str = "mm", scale: float = 1.0) -> None:
    """A list a case in Slicer's format. name: of (case, point)."""
    for i in range(n):
        points = GRID.to_physical(jittered(i)[:, ::-1]) * scale
        names = tuple(name(i, k) for k in range(len(POINTS)))
        file = folder / "landmarksTr" / f"c{i}.mrk.json"
        write(file, Landmarks(names, points, np.full(len(POINTS), Status.PRESENT, np.int8)))
        content = json.loads(file.read_text())
        content["markups"][0]["coordinateUnits"] = unit
        file.write_text(json.dumps(content))


def table(folder: Path, change: Callable[[int, np.ndarray], None]) -> None:
    """All points in voxels, after `change` of (case, points)."""
    rows = ["case,landmark,x,y,z"]
    for i in range(6):
        points = jittered(i)
        change(i, points)
        rows += [f"c{i},L{k},{','.join(f'{x:.4f}' for x in p)}" for k, p in enumerate(points)]
    (folder / "landmarksTr" / "landmarks.csv").write_text("\n".join(rows) + "\n")


def checked(folder: Path) -> Report:
    return check_dataset(folder, workers=0, progress=False)


@pytest.mark.parametrize("code", [-1.0, 0.0, -9999.0, -999.0, 9999.0])
def test_codes_for_missing_points_are_named_and_can_be_declared(code: float, tmp_path: Path) -> None:
    folder = dataset(tmp_path, coordinates="voxel")
    table(folder, lambda i, points: points[1].fill(code) if i in (2, 4) else None)
    report = checked(folder)
    assert report.bad_cases == ("c2", "c4")
    faults = report.of("case")
    assert all("code for missing" in f.problem and "L1" in str(f.found) for f in faults)
    listed = f"[{code:g}, {code:g}, {code:g}]"
    assert f'"missing_points": [{listed}]' in str(faults[0].remedy)
    key = [[code] * 3]
    (folder / "dataset.json").write_text(json.dumps({"coordinates": "voxel", "missing_points": key}))
    assert len(checked(folder).good_cases) == 6
    opened = Dataset.open(folder)
    cases = {case.identifier: opened.read_annotation(case) for case in opened.cases()}
    assert cases["c2"].status.tolist() == [1, Status.UNKNOWN, 1, 1, 1]
    declared = {"coordinates": "voxel", "missing_points": key, "unlisted_landmark_means": "absent"}
    (folder / "dataset.json").write_text(json.dumps(declared))
    opened = Dataset.open(folder)
    assert opened.read_annotation(opened.cases()[2]).status.tolist() == [1, Status.ABSENT, 1, 1, 1]


def test_codes_in_a_plane_with_two_columns(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset001_Plane"
    (folder / "landmarksTr").mkdir(parents=True)
    rows = ["case,landmark,x,y"]
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (1, 40, 50)).astype(np.float32)
        write_image(folder / "imagesTr" / f"c{i}.png", Image(pixels, Geometry.from_parts((40, 50), (1, 1))))
        rows += [f"c{i},A,{10 + i / 5},20", f"c{i},B,{-1 if i == 3 else 30},{-1 if i == 3 else 12}"]
    (folder / "landmarksTr" / "landmarks.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.json").write_text(json.dumps({"coordinates": "voxel"}))
    report = checked(folder)
    assert report.bad_cases == ("c3",) and "[-1, -1]" in str(report.of("case")[0].remedy)


def test_a_point_at_the_origin_of_the_room_is_a_point(tmp_path: Path) -> None:
    """The anterior commissure of aligned heads."""
    folder = dataset(tmp_path, coordinates="LPS")
    rows = ["case,landmark,x,y,z"]
    for i in range(6):
        physical = GRID.to_physical(jittered(i)[:, ::-1])
        physical[0] = 0
        rows += [f"c{i},L{k},{','.join(f'{x:.4f}' for x in p)}" for k, p in enumerate(physical)]
    (folder / "landmarksTr" / "landmarks.csv").write_text("\n".join(rows) + "\n")
    assert len(checked(folder).good_cases) == 6


@pytest.mark.parametrize(
    ("unit", "scale", "severity"), [("cm", 1.0, "warning"), ("\u00b5m", 1.0, "warning"), ("m", 0.001, "case")]
)
def test_units_are_compared_with_the_image(unit: str, scale: float, severity: str, tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    markups(folder, lambda i, k: f"L{k}", unit=unit, scale=scale)
    faults = [fault for fault in checked(folder).faults if "another unit" in fault.problem]
    assert {fault.severity for fault in faults} == {severity} and len(faults) == 6
    assert "5 of 5 points" in str(faults[0].found) or severity == "case"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        (lambda i, k: f"specimen{i}_LM1-{k + 1}", "number"),
        (lambda i, k: f"F{i}-{k + 1}" if i < 3 else f"L{k}", "names_from"),
        (lambda i, k: f"case{i} {'abcde'[k]}", "order"),
        (lambda i, k: f"M{i}_{k}" if i == 5 else f"L{k}", "names_from"),
    ],
)
def test_names_that_differ_case_by_case_are_a_fault_with_their_pattern(
    name: Callable[[int, int], str], remedy: str, tmp_path: Path
) -> None:
    folder = dataset(tmp_path)
    markups(folder, name)
    (fault,) = [fault for fault in checked(folder).of("dataset") if "differ from case to case" in fault.problem]
    assert (remedy in str(fault.remedy) and name(5, 0) in str(fault.found)) or "c0:" in str(fault.found)


@pytest.mark.parametrize("source", ["number", "order"])
def test_numbers_and_order_make_names(source: str, tmp_path: Path) -> None:
    folder = dataset(tmp_path, names_from=source)
    markups(folder, lambda i, k: f"specimen{i}_LM1-{k + 1}")
    assert Dataset.open(folder).landmark_names == ("1", "2", "3", "4", "5")
    assert len(checked(folder).good_cases) == 6
    listed = {name: {} for name in ("N", "S", "Or", "Po", "Me")}
    (folder / "dataset.json").write_text(json.dumps({"names_from": source, "landmarks": listed}))
    opened = Dataset.open(folder)
    assert opened.read_annotation(opened.cases()[0]).names == tuple(listed)


@pytest.mark.parametrize(
    "variant", [lambda k: f"l{k}", lambda k: f"L {k}", lambda k: f"L_{k}", lambda k: f"L{k}" if k else "L0 "]
)
def test_spellings_of_one_name_are_grouped(variant: Callable[[int], str], tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    markups(folder, lambda i, k: variant(k) if i < 2 else f"L{k}")
    spelt = [fault for fault in checked(folder).faults if "spelt in several ways" in fault.problem]
    assert bool(spelt) is (variant(1) != "L1")


def test_rare_landmarks_are_no_pattern(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    markups(folder, lambda i, k: f"L{k}" if k < 4 or i else "rare")
    assert not checked(folder).of("dataset")


@pytest.mark.parametrize("place", ["landmarks.csv", "coco.json", "points.tps"])
def test_files_of_other_formats_are_named_with_their_import(place: str, tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    texts = {
        "landmarks.csv": "scorer,S,S,S,S\nbodyparts,A,A,B,B\ncoords,x,y,x,y\nimg1.png,1,2,3,4\n",
        "coco.json": json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "keypoints": ["A"]}]}),
        "points.tps": "LM=2\n1 2\n3 4\nIMAGE=a.png\nID=0\n",
    }
    (folder / "landmarksTr" / place).write_text(texts[place])
    format_name = {"landmarks.csv": "deeplabcut", "coco.json": "coco", "points.tps": "tps"}[place]
    assert f"autolmk_import --format {format_name}" in checked(folder).text()


@pytest.mark.parametrize(("frame", "said"), [("voxel", "0 to 1 over the image"), ("LPS", "numbers in m")])
def test_points_that_all_lie_in_one_voxel(frame: str, said: str, tmp_path: Path) -> None:
    """Coordinates over the image's size, and metres, lie inside the image, where no landmark is."""
    folder = dataset(tmp_path, coordinates=frame)
    rows = ["case,landmark,x,y,z"]
    for i in range(6):
        voxels = jittered(i)
        points = voxels / [50, 40, 12] if frame == "voxel" else GRID.to_physical(voxels[:, ::-1]) / 1000
        rows += [f"c{i},L{k},{','.join(f'{x:.6f}' for x in p)}" for k, p in enumerate(points)]
    (folder / "landmarksTr" / "landmarks.csv").write_text("\n".join(rows) + "\n")
    faults = [fault for fault in checked(folder).of("case") if "in one voxel" in fault.problem]
    assert len(faults) == 6 and said in str(faults[0].found)


def test_groups_of_cases_without_a_common_name(tmp_path: Path) -> None:
    """Two annotators, or a list that Slicer has numbered anew: no name stands in one case alone."""
    folder = dataset(tmp_path)
    markups(folder, lambda i, k: f"F-{k + 1}" if i % 2 else f"F_1-{k + 1}")
    (fault,) = checked(folder).of("dataset")
    assert "groups of cases have no" in fault.problem and '"names_from": "number"' in str(fault.remedy)
    (folder / "dataset.json").write_text(json.dumps({"names_from": "number"}))
    assert len(checked(folder).good_cases) == 6 and Dataset.open(folder).landmark_names == tuple("12345")


def test_numbered_points_of_which_one_was_left_out(tmp_path: Path) -> None:
    folder = dataset(tmp_path, names_from="order")
    markups(folder, lambda i, k: f"c{i}-{k}")
    file = folder / "landmarksTr" / "c2.mrk.json"
    content = json.loads(file.read_text())
    del content["markups"][0]["controlPoints"][1]
    file.write_text(json.dumps(content))
    said = [fault for fault in checked(folder).faults if "other numbers of points" in fault.problem]
    assert [fault.found for fault in said] == ["4 in Tr/c2; 5 in 5 of 6 cases"]


def test_a_single_point_at_a_pictures_corner_in_mm(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset001_Plane"
    (folder / "landmarksTr").mkdir(parents=True)
    rows = ["case,landmark,x,y,z"]
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (1, 40, 50)).astype(np.float32)
        write_image(folder / "imagesTr" / f"c{i}.png", Image(pixels, Geometry.from_parts((40, 50), (1, 1))))
        rows += [f"c{i},A,{1 + i / 50},2,", f"c{i},B,{0 if i == 3 else 3},{0 if i == 3 else 1.5},"]
    (folder / "landmarksTr" / "landmarks.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.json").write_text(json.dumps({"coordinates": "LPS", "spacing": [0.1, 0.1]}))
    report = checked(folder)
    assert report.bad_cases == ("c3",) and "code for missing" in report.of("case")[0].problem


def test_close_landmarks_of_a_coarse_image_are_places(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    table(folder, lambda i, points: points.__setitem__(slice(None), POINTS[0] + (points - POINTS) * 0.2))
    assert not [fault for fault in checked(folder).of("case") if "in one voxel" in fault.problem]
