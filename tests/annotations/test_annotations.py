"""Landmark files: what 3D Slicer, slicerio and tables write is read, what is written they read, and damage is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicerio

from autolmk.annotations import Annotation, NamesFrom, ending_of, read, read_table, write, write_table
from autolmk.annotations.label_map import read as read_label_map
from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.imageio import noticed, write_image
from autolmk.landmarks import Landmarks, Status

PRESENT, ABSENT, UNKNOWN = Status.PRESENT, Status.ABSENT, Status.UNKNOWN
UNIT_GRID = Geometry.from_parts((9, 9, 9), (1, 1, 1))


def landmarks() -> Landmarks:
    points = np.random.default_rng(0).uniform(-200, 200, (4, 3))
    return Landmarks(
        ("Nasion", "A-point", "Or_L", "Or_R"),
        points,
        np.array([PRESENT, PRESENT, ABSENT, UNKNOWN]),
        likelihood=np.array([0.98, 0.75, 0.125, np.nan]),
        error_radius=np.array([1.5, 2.25, np.nan, np.nan]),
    )


def states(annotation: Annotation) -> list[int]:
    return [int(s) for s in annotation.status]


def slicer_markup(points: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """A file as 3D Slicer 5.6 writes it."""
    markup = {"type": "Fiducial", "coordinateUnits": "mm", "locked": False, "controlPoints": points, **fields}
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    return {"@schema": f"{schema}markups-schema-v1.0.3.json#", "markups": [markup]}


def control(label: str, position: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "1", "label": label, "description": "", "associatedNodeID": "", "position": position, **fields}


def save(file: Path, content: Any) -> Path:
    file.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode())
    return file


# -- both ways, exactly -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv", ".csv", ".tsv"])
def test_what_is_written_is_read_back_exactly(suffix: str, tmp_path: Path) -> None:
    made = landmarks()
    write(tmp_path / f"case{suffix}", made)
    got = read(tmp_path / f"case{suffix}")
    assert got.names == made.names and got.frame == "LPS" and states(got) == list(made.status)
    np.testing.assert_array_equal(got.points, made.points)
    if suffix == ".mrk.json":
        np.testing.assert_array_equal(got.likelihood, made.likelihood)
        np.testing.assert_array_equal(got.error_radius, made.error_radius)


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv", ".csv"])
def test_points_of_a_plane_image_get_the_third_coordinate_zero(suffix: str, tmp_path: Path) -> None:
    made = Landmarks(("a", "b"), np.array([[1.25, 2.5], [3, 4]]), np.array([PRESENT, ABSENT]))
    write(tmp_path / f"case{suffix}", made, unit="px")
    got = read(tmp_path / f"case{suffix}")
    np.testing.assert_array_equal(got.points, [[1.25, 2.5, 0], [np.nan] * 3])
    flat = Geometry.from_parts((9, 9), (1, 1))
    np.testing.assert_array_equal(got.landmarks("LPS", flat).points, [[1.25, 2.5], [np.nan] * 2])


def test_the_table_of_a_dataset_is_read_back_exactly(tmp_path: Path) -> None:
    made = {"case 1": landmarks(), "case_2": landmarks().reordered(["Or_R", "Nasion"])}
    write_table(tmp_path / "landmarks.csv", made)
    got = read_table(tmp_path / "landmarks.csv")
    assert list(got) == list(made)
    for case, marks in made.items():
        assert got[case].names == marks.names and got[case].frame is None and states(got[case]) == list(marks.status)
        for name in ("points", "likelihood", "error_radius"):
            np.testing.assert_array_equal(getattr(got[case], name), getattr(marks, name))


def test_the_best_place_of_a_landmark_that_is_not_present_can_be_written_beside_its_state(tmp_path: Path) -> None:
    best = np.arange(12.0).reshape(4, 3)
    write_table(tmp_path / "landmarks.csv", {"case": landmarks()}, best={"case": best})
    got = read_table(tmp_path / "landmarks.csv")["case"]
    assert states(got) == [PRESENT, PRESENT, ABSENT, UNKNOWN]
    np.testing.assert_array_equal(got.points, [*landmarks().points[:2], *best[2:]])
    assert np.isnan(got.landmarks("LPS", UNIT_GRID).points[2:]).all(), "as Landmarks, they are not there"


# -- 3D Slicer and slicerio -------------------------------------------------------------------------------------------


def test_slicerio_reads_our_fcsv(tmp_path: Path) -> None:
    """The only landmark files that it reads; it writes .mrk.json, but has no reader for them."""
    write(tmp_path / "case.fcsv", landmarks())
    markup = slicerio.read_markups_fcsv(str(tmp_path / "case.fcsv"))["markups"][0]
    assert markup["coordinateSystem"] == "LPS"
    assert [p["label"] for p in markup["controlPoints"]] == list(landmarks().names)
    np.testing.assert_array_equal([p["position"] for p in markup["controlPoints"]], landmarks().points)
    assert [p["selected"] for p in markup["controlPoints"]] == [True, True, False, False]


@pytest.mark.parametrize(
    ("header", "frame"),
    [
        ("# Markups fiducial file version = 5.6\n# CoordinateSystem = LPS\n", "LPS"),
        ("# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n", "RAS"),
        ("# Markups fiducial file version = 4.8\n# CoordinateSystem = 0\n", "RAS"),
        ("# Markups fiducial file version = 4.10\n# CoordinateSystem = 1\n", "LPS"),
        ("# Markups fiducial file version = 4.3\n", None),
    ],
)
def test_we_and_slicerio_read_the_same_from_fcsv_files_of_all_versions(
    header: str, frame: str | None, tmp_path: Path
) -> None:
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    lines = "vtkMRMLMarkupsFiducialNode_0,-1.5,2.25,1e2,0,0,0,1,1,1,0,1,AC,\n2,4,5,6,0,0,0,1,1,1,0,2,PC,vtkMRML1\n"
    file = save(tmp_path / "a.fcsv", header + columns + lines)
    got = read(file)
    theirs = slicerio.read_markups_fcsv(str(file))["markups"][0]
    assert got.frame == frame and (frame is None or theirs["coordinateSystem"] == frame)
    assert list(got.names) == [p["label"] for p in theirs["controlPoints"]] == ["1", "2"]
    np.testing.assert_array_equal(got.points, [p["position"] for p in theirs["controlPoints"]])
    assert read(file, label="description").names == ("AC", "PC")


@pytest.mark.parametrize("system", ["LPS", "RAS", "0", "1"])
def test_we_read_the_markups_that_slicerio_writes(system: str, tmp_path: Path) -> None:
    text = f"# CoordinateSystem = {system}\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    save(tmp_path / "a.fcsv", text + "1,-1.5,2.25,3,0,0,0,1,1,1,0,Nasion,,\n2,7,8,9,0,0,0,1,1,1,0,Sella,note,\n")
    slicerio.fcsv_to_markups_json(str(tmp_path / "a.fcsv"), str(tmp_path / "a.mrk.json"))
    got, old = read(tmp_path / "a.mrk.json"), read(tmp_path / "a.fcsv")
    assert got.names == old.names == ("Nasion", "Sella") and states(got) == [PRESENT, PRESENT]
    assert got.frame == old.frame == {"0": "RAS", "1": "LPS"}.get(system, system)
    np.testing.assert_array_equal(got.points, [[-1.5, 2.25, 3], [7, 8, 9]])


def test_our_markups_follow_slicers_schema(tmp_path: Path) -> None:
    """Markups schema 1.0.3: the required keys, positions of three numbers or the text "", one value a point."""
    write(tmp_path / "case.mrk.json", landmarks())
    content = json.loads((tmp_path / "case.mrk.json").read_text())
    assert content["@schema"].endswith("markups-schema-v1.0.3.json#")
    (markup,) = content["markups"]
    assert (markup["type"], markup["coordinateSystem"], markup["coordinateUnits"]) == ("Fiducial", "LPS", "mm")
    assert [p["positionStatus"] for p in markup["controlPoints"]] == ["defined", "defined", "missing", "undefined"]
    assert [p["position"] for p in markup["controlPoints"]] == [*landmarks().points[:2].tolist(), "", ""]
    assert [len(p["orientation"]) for p in markup["controlPoints"]] == [9] * 4
    assert {m["name"]: m["controlPointValues"] for m in markup["measurements"]} == {
        "likelihood": [0.98, 0.75, 0.125, -1.0],
        "error_radius": [1.5, 2.25, -1.0, -1.0],
    }


def test_all_of_slicers_states_are_read(tmp_path: Path) -> None:
    points = [
        control("a", [1.0, 2.0, 3.0], positionStatus="defined"),
        control("b", "", positionStatus="undefined"),
        control("c", "", positionStatus="missing"),
        control("d", [4.0, 5.0, 6.0], positionStatus="preview"),
        control("e", [7.0, 8.0, 9.0]),
        control("f", ""),
        {"label": "g"},
    ]
    got = read(save(tmp_path / "a.mrk.json", slicer_markup(points, coordinateSystem="RAS")))
    assert states(got) == [PRESENT, UNKNOWN, ABSENT, UNKNOWN, PRESENT, UNKNOWN, UNKNOWN] and got.frame == "RAS"
    assert np.isnan(got.points[[1, 2, 5, 6]]).all()
    np.testing.assert_array_equal(got.landmarks("RAS", UNIT_GRID).points[[0, 4]], [[-1, -2, 3], [-7, -8, 9]])


def test_slicers_defaults_and_several_markups_in_one_file(tmp_path: Path) -> None:
    content = slicer_markup([control("a", [1, 2, 3])])
    content["markups"].append({"type": "Fiducial", "controlPoints": [control("b", [4, 5, 6])]})
    got = read(save(tmp_path / "a.mrk.json", content))
    assert got.names == ("a", "b") and got.frame == "LPS", "LPS is the default of the format"
    content["markups"][1]["coordinateSystem"] = "RAS"
    with pytest.raises(AutolmkError, match="different frames"):
        read(save(tmp_path / "a.mrk.json", content))


@pytest.mark.parametrize("kind", ["ROI", "Plane", "Curve", "ClosedCurve", "Line", "Angle"])
def test_control_points_of_other_markups_are_no_landmarks(kind: str, tmp_path: Path) -> None:
    content = slicer_markup([control("a", [1, 2, 3])])
    content["markups"].append({"type": kind, "controlPoints": [control("b", [4, 5, 6])]})
    with noticed() as notices:
        assert read(save(tmp_path / "a.mrk.json", content)).names == ("a",)
    assert [n.found for n in notices] == [f"type {kind}"]
    content["markups"] = content["markups"][1:]
    with pytest.raises(AutolmkError, match="no point list") as caught:
        read(save(tmp_path / "a.mrk.json", content))
    assert kind in str(caught.value.found)


@pytest.mark.parametrize("unit", ["cm", "um", "\u00b5m", "\u03bcm", "m", "nm", "inch", ["cm", "UCUM", "centimeter"]])
def test_points_are_in_millimetres_whatever_slicer_displays(unit: object, tmp_path: Path) -> None:
    got = read(save(tmp_path / "a.mrk.json", slicer_markup([control("a", [1, 2, 3])], coordinateUnits=unit)))
    np.testing.assert_array_equal(got.points, [[1, 2, 3]])
    assert got.unit == str(unit[0] if isinstance(unit, list) else unit).replace("\u00b5", "u").replace("\u03bc", "u")
    plain = read(
        save(tmp_path / "b.mrk.json", slicer_markup([control("a", [1, 2, 3])], coordinateUnits=["mm", "UCUM"]))
    )
    assert plain.unit is None
    with pytest.raises(AutolmkError, match="coordinateUnits"):
        read(save(tmp_path / "a.mrk.json", slicer_markup([control("a", [1, 2, 3])], coordinateUnits="furlong")))


@pytest.mark.parametrize(
    ("names_from", "names"),
    [
        ("label", ("skull_7-1", "skull_7-2")),
        ("description", ("AC", "PC")),
        ("number", ("1", "2")),
        ("order", ("1", "2")),
    ],
)
@pytest.mark.parametrize("ending", [".mrk.json", ".fcsv", ".csv"])
def test_names_come_from_where_they_are(
    names_from: NamesFrom, names: tuple[str, str], ending: str, tmp_path: Path
) -> None:
    if ending == ".mrk.json":
        points = [control(f"skull_7-{i}", [1, 2, 3], description=name) for i, name in ((1, "AC"), (2, "PC"))]
        file = save(tmp_path / "a.mrk.json", slicer_markup(points))
    elif ending == ".fcsv":
        lines = "".join(f"{i},1,2,3,0,0,0,1,1,1,0,skull_7-{i},{name},\n" for i, name in ((1, "AC"), (2, "PC")))
        file = save(tmp_path / "a.fcsv", f"# CoordinateSystem = LPS\n{lines}")
    else:
        file = save(tmp_path / "a.csv", "label,l,p,s,description\nskull_7-1,1,2,3,AC\nskull_7-2,1,2,3,PC\n")
    assert read(file, label=names_from).names == names


def test_numbered_labels_beside_described_names_are_noticed(tmp_path: Path) -> None:
    lines = "".join(f"{i},1,2,3,0,0,0,1,1,1,0,{i},{name},\n" for i, name in ((1, "AC"), (2, "PC")))
    with noticed() as notices:
        read(save(tmp_path / "a.fcsv", f"# CoordinateSystem = LPS\n{lines}"))
    assert len(notices) == 1 and "names_from" in str(notices[0].remedy)


def test_carriage_returns_within_records_are_part_of_them(tmp_path: Path) -> None:
    head = "# CoordinateSystem = RAS\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    rows = "".join(f"n_{i},1,2,{i},0,0,0,1,1,1,1,L{i},,\r,2,0\n" for i in (1, 2))
    got = read(save(tmp_path / "a.fcsv", head + rows))
    assert got.names == ("L1", "L2") and got.points[:, 2].tolist() == [1, 2] and states(got) == [PRESENT, PRESENT]
    for end in ("\r", "\r\n"):
        text = (head + rows.replace("\r", "")).replace("\n", end)
        assert read(save(tmp_path / "b.fcsv", text)).names == ("L1", "L2")


def test_lists_of_slicer_3_are_ras(tmp_path: Path) -> None:
    text = "# Fiducial List file /a.fcsv\n# name = a\n# columns = label,x,y,z,sel,vis\nN,1,2,3,1,1\n"
    got = read(save(tmp_path / "a.fcsv", text))
    assert got.frame == "RAS" and got.names == ("N",)


def test_markups_in_a_plain_json_file_are_read(tmp_path: Path) -> None:
    file = save(tmp_path / "a.json", slicer_markup([control("a", [1, 2, 3])]))
    assert ending_of(file) == ".json" and read(file).names == ("a",)
    assert ending_of(save(tmp_path / "b.json", {"cases": []})) is None


@pytest.mark.parametrize(
    "text",
    [
        "landmark;x;y\na;1,5;2,5\nb;3;4\n",
        "sep=;\nlandmark;x;y\na;1,5;2,5\nb;3;4\n",
        "name,x,y\na,1.5,2.5\nb,3,4\n",
        "label,x,y,,\na,1.5,2.5,,\nb,3,4,,\n,,,,\n",
        "Point\tX\tY\na\t1,5\t2,5\nb\t3\t4\n",
    ],
)
def test_tables_from_spreadsheets_are_read(text: str, tmp_path: Path) -> None:
    got = read(save(tmp_path / "a.csv", text))
    assert got.names == ("a", "b") and got.points.tolist() == [[1.5, 2.5], [3, 4]]


def test_na_is_no_number(tmp_path: Path) -> None:
    got = read(save(tmp_path / "a.csv", "landmark,x,y\na,NA,NA\nb,3,4\n"))
    assert states(got) == [UNKNOWN, PRESENT]


def test_names_compare_composed(tmp_path: Path) -> None:
    assert read(save(tmp_path / "a.csv", "landmark,x,y\nscha\u0308del,3,4\n")).names == ("sch\u00e4del",)


def test_points_of_a_radiograph_need_no_third_coordinate(tmp_path: Path) -> None:
    got = read(save(tmp_path / "a.csv", "landmark,x,y\na,3,4\n"))
    slice_ = Geometry.from_parts((1, 20, 30), (1.0, 0.5, 0.5), (10.0, 20.0, 7.0))
    np.testing.assert_allclose(got.physical_points("voxel", slice_), [[11.5, 22, 7]])
    np.testing.assert_allclose(got.physical_points("LPS", slice_), [[3, 4, 7]])
    with pytest.raises(ValueError, match="3 coordinates"):
        got.physical_points("LPS", Geometry.from_parts((2, 20, 30), (1.0, 0.5, 0.5), (10.0, 20.0, 7.0)))


def test_the_states_that_slicer_appends_to_fcsv_lines_are_read(tmp_path: Path) -> None:
    lines = "".join(f"{i},1,2,3,0,0,0,1,1,1,0,L{i},,,{i},0\n" for i in range(4))
    got = read(save(tmp_path / "a.fcsv", f"# CoordinateSystem = LPS\n{lines}"))
    assert states(got) == [UNKNOWN, UNKNOWN, PRESENT, ABSENT]


def test_quoted_commas_in_fcsv_names_are_read_but_not_written(tmp_path: Path) -> None:
    got = read(save(tmp_path / "a.fcsv", '# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,"point, left",,\n'))
    assert got.names == ("point, left",)
    with pytest.raises(AutolmkError, match="cannot be written"):
        write(tmp_path / "b.fcsv", got.landmarks("LPS", UNIT_GRID))
    assert not (tmp_path / "b.fcsv").exists()


@pytest.mark.parametrize(("columns", "frame"), [("label,l,p,s,defined", "LPS"), ("label,r,a,s,defined", "RAS")])
def test_slicers_control_point_tables_say_their_frame_in_their_columns(
    columns: str, frame: str, tmp_path: Path
) -> None:
    rows = "F-1,1.5,-2,3,1,1,1,0,\nF-2,0,0,0,0,1,1,0,\n"
    got = read(save(tmp_path / "a.csv", f"{columns},selected,visible,locked,description\n{rows}"))
    assert got.frame == frame and states(got) == [PRESENT, UNKNOWN]
    np.testing.assert_array_equal(got.points, [[1.5, -2, 3], [np.nan] * 3])


# -- frames -----------------------------------------------------------------------------------------------------------


def test_frames_mean_what_they_say() -> None:
    grid = Geometry.from_parts((10, 20, 30), (3, 2, 1), (100, 200, 300))
    annotation = Annotation(("a",), np.array([[1.0, 2.0, 3.0]]), np.array([PRESENT]))
    assert annotation.physical_points("LPS", grid).tolist() == [[1, 2, 3]]
    assert annotation.physical_points("RAS", grid).tolist() == [[-1, -2, 3]]
    assert annotation.physical_points("voxel", grid).tolist() == [[101, 204, 309]], "ITK order: x = i is the last axis"
    plane = Geometry.from_parts((20, 30), (2, 1))
    assert annotation.physical_points("voxel", plane).tolist() == [[1, 4]]
    with pytest.raises(ValueError, match="3 coordinates"):
        Annotation(("a",), np.array([[1.0, 2.0]]), np.array([PRESENT])).physical_points("LPS", grid)


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_may_have_other_separators_column_orders_and_byte_order_marks(delimiter: str, tmp_path: Path) -> None:
    text = "\ufeffLandmark,Z,y,x,case,Status\na,3,2,1,c1,\nb,,,,c1,absent\n\nc,9,8,7,c1,unknown\nd,,,,c1,\n"
    got = read_table(save(tmp_path / "landmarks.csv", text.replace(",", delimiter)))["c1"]
    assert got.names == ("a", "b", "c", "d") and states(got) == [PRESENT, ABSENT, UNKNOWN, UNKNOWN]
    np.testing.assert_array_equal(got.points[0], [1, 2, 3])


def test_tables_of_plane_images_need_no_z(tmp_path: Path) -> None:
    got = read(save(tmp_path / "c.csv", "landmark,x,y\na,1,2\n"))
    assert got.frame is None
    np.testing.assert_array_equal(got.points, [[1, 2]])


def test_what_check_reports_is_left_as_it_is(tmp_path: Path) -> None:
    """Double names and present points without coordinates are no reason not to read the rest."""
    table = save(tmp_path / "landmarks.csv", "case,landmark,x,y,z,status\nc,a,1,2,3,\nc,a,,,,present\n")
    got = read_table(table, twice=True)["c"]
    assert got.names == ("a", "a") and states(got) == [PRESENT, PRESENT]
    with pytest.raises(ValueError, match="unique"):
        got.landmarks("LPS", UNIT_GRID)


# -- damage -----------------------------------------------------------------------------------------------------------

GOOD_FCSV = "# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,a,,\n"
DAMAGED: list[tuple[str, Any, str]] = [
    ("a.mrk.json", "{", "not valid JSON"),
    ("a.mrk.json", "", "not valid JSON"),
    ("a.mrk.json", [1], "not a markups file"),
    ("a.mrk.json", {"markups": 3}, "not a markups file"),
    ("a.mrk.json", slicer_markup([control("a", [1, 2])]), "position of 'a'"),
    ("a.mrk.json", slicer_markup([control("a", [1, 2, "3"])]), "position of 'a'"),
    ("a.mrk.json", slicer_markup([control("a", "", positionStatus="defined")]), "position of 'a'"),
    ("a.mrk.json", slicer_markup([control("a", [1, 2, 3], positionStatus="lost")]), "positionStatus"),
    ("a.mrk.json", slicer_markup([control("", [1, 2, 3])]), "no name"),
    ("a.mrk.json", slicer_markup([control("a", [1, 2, 3])], coordinateSystem="IJK"), "coordinateSystem"),
    (
        "a.mrk.json",
        slicer_markup([control("a", [1, 2, 3])], measurements=[{"name": "likelihood", "controlPointValues": [1, 2]}]),
        "controlPointValues",
    ),
    ("a.fcsv", GOOD_FCSV.replace("1,1,2,3", "1,1,two,3"), "y in line 2 is not a number"),
    ("a.fcsv", GOOD_FCSV.replace("LPS", "IJK"), "coordinate system"),
    ("a.fcsv", "# CoordinateSystem = LPS\n1,1\n", "too few fields"),
    ("a.fcsv", GOOD_FCSV.replace(",a,,", ",,,"), "no label"),
    ("a.fcsv", "\0\0", "not a text file"),
    ("a.csv", "", "names of its columns"),
    ("a.csv", "landmark,x,x\n", "twice"),
    ("a.csv", "landmrk,x,y\na,1,2\n", "lacks the column landmark; did you mean 'landmrk'"),
    ("a.csv", "landmark,x,y,z\na,1,2\n", "line 2 of a table has the wrong number of fields"),
    ("a.csv", "landmark,x,y\na,1,5,2,5\n", "wrong number of fields"),
    ("a.csv", "landmark;x;y\na;1,5,0;2,5\n", "x in line 2 is not a number"),
    ("a.csv", "landmark,x,y,status\na,1,2,gone\n", "unknown status"),
    ("a.csv", "landmark,x,y\n,1,2\n", "names no landmark"),
    ("a.csv", 'landmark,x,y\n"a,1,2\n', "damaged"),
    ("a.csv", "case,landmark,x,y\nc,a,1,2\n", "several cases"),
    ("a.txt", "1 2 3", "not known"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED)
def test_damage_is_named_with_its_file(name: str, content: Any, message: str, tmp_path: Path) -> None:
    file = save(tmp_path / name, content)
    with pytest.raises(AutolmkError) as caught:
        read(file)
    assert message in caught.value.problem or message in str(caught.value.found)
    assert caught.value.file == str(file)


@pytest.mark.parametrize("name", ["a.mrk.json", "a.fcsv", "a.csv"])
def test_missing_files_and_other_encodings_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(AutolmkError, match="missing"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00landmark")
    with pytest.raises(AutolmkError, match=r"UTF-8|JSON"):
        read(tmp_path / name)


# -- label maps -------------------------------------------------------------------------------------------------------


def cubes(file: Path, places: dict[int, tuple[int, int, int]], shape: tuple[int, int, int] = (12, 14, 16)) -> Path:
    """Cubes of 3 voxels around (i, j, k), as nnLandmark draws them."""
    array = np.zeros((1, *shape), dtype=np.float32)
    for value, (i, j, k) in places.items():
        array[0, max(k - 1, 0) : k + 2, max(j - 1, 0) : j + 2, max(i - 1, 0) : i + 2] = value
    write_image(file, Image(array, Geometry.from_parts(shape, (2, 1, 0.5), (5, 6, 7))))
    return file


def test_label_maps_give_the_centres_of_their_cubes_in_voxels(tmp_path: Path) -> None:
    file = cubes(tmp_path / "c.nii.gz", {1: (3, 8, 5), 300: (10, 2, 9)})
    got = read_label_map(file, {"a": 1, "b": 300, "c": 2})
    assert got.names == ("a", "b", "c") and got.frame == "voxel" and states(got) == [PRESENT, PRESENT, UNKNOWN]
    np.testing.assert_allclose(got.points[:2], [[3, 8, 5], [10, 2, 9]])
    assert math.isnan(got.points[2, 0])


def test_strange_label_maps_are_refused(tmp_path: Path) -> None:
    file = cubes(tmp_path / "c.nii.gz", {1: (3, 8, 5), 4: (10, 2, 9)})
    with pytest.raises(AutolmkError, match="unknown values"):
        read_label_map(file, {"a": 1})
    both = np.zeros((1, 12, 12, 12), np.float32)
    both[0, 2, 2, 2] = both[0, 9, 9, 9] = 1
    write_image(file, Image(both, Geometry.from_parts((12, 12, 12), (1, 1, 1))))
    with pytest.raises(AutolmkError, match="2 separate pieces"):
        read_label_map(file, {"a": 1})


def test_rows_of_a_case_need_not_stand_together(tmp_path: Path) -> None:
    file = tmp_path / "landmarks.csv"
    file.write_text("case,landmark,x,y,likelihood\n1,a,1,2,0.5\n2,a,3,4,0.6\n1,b,5,6,0.7\n2,b,7,8,\n")
    table = read_table(file)
    assert list(table) == ["1", "2"]
    assert table["1"].names == ("a", "b")
    np.testing.assert_array_equal(table["1"].points, [[1, 2], [5, 6]])
    np.testing.assert_array_equal(table["2"].likelihood, [0.6, np.nan])


def test_a_landmark_stands_once_in_a_table_of_results(tmp_path: Path) -> None:
    file = save(tmp_path / "landmarks.csv", "case,landmark,x,y\na,N,1,2\na,N,3,4\n")
    with pytest.raises(AutolmkError, match="stands twice") as caught:
        read_table(file)
    assert caught.value.case == "a" and "N" in str(caught.value.found)
    assert read_table(file, twice=True)["a"].names == ("N", "N")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", "landmark,x,y,z\nA,1,2,3\nB,1,,3\n"),
        ("c.csv", "landmark,x,y,z\nA,1,2,3\nB,1,2,\n"),
        ("c.csv", "label,l,p,s\nA,1,2,3\nB,1,2,\n"),
        ("c.fcsv", "# CoordinateSystem = LPS\n# columns = label,x,y,z\nA,1,2,3\nB,,2,3\n"),
    ],
)
def test_half_a_position_is_no_unknown_landmark(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(AutolmkError, match="some of its coordinates"):
        read(tmp_path / name)


def test_tables_as_spreadsheets_save_them(tmp_path: Path) -> None:
    """UTF-16 with tabs; a blank column z is no third coordinate; Python's own spellings of numbers are none."""
    file = tmp_path / "c.csv"
    file.write_bytes("landmark\tx\ty\tz\tlikelihood\r\nA\t1,5\t2\t\t0,5\r\nB\t\t\t\t\r\n".encode("utf-16"))
    found = read(file)
    assert found.points.shape == (2, 2) and found.points[0].tolist() == [1.5, 2] and found.likelihood[0] == 0.5
    assert found.status.tolist() == [Status.PRESENT, Status.UNKNOWN]
    file.write_text("landmark,x,y,z\nA,1,2,NA\nB,NA,NA,NA\n")  # as R saves them
    assert read(file).points.shape == (2, 2)
    file.write_text("landmark,x,y\nA,1_000,2\n")
    with pytest.raises(AutolmkError, match="is not a number"):
        read(file)
