"""autolmk_import of formats whose points lie in pictures: each sample is written as its program writes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from imports import HEIGHT, WIDTH, imported, picture, pictures, refused, same, voxels

from autolmk.annotations.formats import looks_like
from autolmk.cli.import_ import main
from autolmk.dataset import Dataset
from autolmk.imageio import read_geometry

NAN = float("nan")
A = [[10.25, 5.5], [20.0, 8.75], [30.5, 20.0]]
B = [[11.0, 6.0], [21.5, 9.25], [NAN, NAN]]

WIDE = "image,S_x,S_y,N_x,N_y,Or_x,Or_y\na.png,10.25,5.5,20,8.75,30.5,20\nb.png,11,6,21.5,9.25,,NA\n"


@pytest.mark.parametrize(
    "text",
    [
        WIDE,
        WIDE.replace("\n", "\r\n"),
        "\ufeff" + WIDE,
        WIDE.replace(",", ";").replace(".25", ",25").replace(".5", ",5").replace(".75", ",75"),
        "sep=;\n" + WIDE.replace(",", ";"),
        WIDE.replace(",", "\t"),
        WIDE.replace("S_x,S_y,N_x,N_y,Or_x,Or_y", "x1,y1,x2,y2,x3,y3"),
        WIDE.replace("S_x,S_y,N_x,N_y,Or_x,Or_y", "p1x,p1y,p2x,p2y,p3x,p3y").replace("image,", "image file,"),
        WIDE.replace("S_x,S_y,N_x,N_y,Or_x,Or_y", "S x,S y,N (x),N (y),x_Or,y_Or"),
        WIDE.replace(".png", ""),
    ],
)
def test_wide_tables(text: str, tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", "a.png", "b.png")
    (source / "points.csv").write_bytes(text.encode())
    same(imported(tmp_path, "csv", source), a=A, b=B)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WIDE.replace("8.75", "8.75x"), "N_y in line 2"),
        (WIDE.replace("8.75", "1e300"), "N_y in line 2"),
        (WIDE.replace("21.5,", ""), "line 3"),
        (WIDE.replace("Or_y", "Or"), "header"),
        (WIDE.replace("N_x", "S_x"), "two columns"),
        (WIDE.replace("b.png", "a.png"), "same image"),
        (WIDE.replace("a.png", "../a.png"), "leads outside"),
        (WIDE.replace("a.png", "/data/a.png"), "leads outside"),
        (WIDE.replace("a.png", "C:\\data\\a.png"), "leads outside"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = pictures(tmp_path / "source", "a.png", "b.png")
    picture(tmp_path / "a.png")
    (source / "points.csv").write_text(text)
    refused(tmp_path, capsys, "csv", source, message=[message, "points.csv", "what to do"])


def test_links_out_of_the_source_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(tmp_path / "source", "b.png")
    (source / "a.png").symlink_to(picture(tmp_path / "secret.png"))
    (source / "points.csv").write_text(WIDE)
    refused(tmp_path, capsys, "csv", source, message=["link leads out", "a.png"])


def test_an_image_of_another_folder_is_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(tmp_path / "source", "one/a.png", "one/b.png")
    for name in ("two/a.png", "two/a"):
        (source / "points.csv").write_text(WIDE.replace("a.png", name).replace("b.png", "one/b.png"))
        same(imported(tmp_path / name.replace("/", "_"), "csv", source), b=B)
        assert f"points without an image: 1 case: {name}" in capsys.readouterr().out


def test_names_of_any_script_and_form_are_read_and_drawn(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", "Zoe\u0308.JPG", "b$x_1$.JPG", "c_0001.jpeg")
    header = "image,S$_1$ x,S$_1$ y,日本 x,日本 y\n"
    (source / "p.csv").write_text(f"{header}Zo\u00eb.jpg,10,20,30,4\nb$x_1$.jpg,11,22,33,5\nc_0001,1,2,3,4\n")
    found = imported(tmp_path, "csv", source)
    same(found, **{"Zo\u00eb": [[10, 20], [30, 4]], "b$x_1$": [[11, 22], [33, 5]], "c_0001": [[1, 2], [3, 4]]})


def test_incomplete_cases_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(tmp_path / "source", "a.png", "b.png", "only_image.png")
    (source / "points.csv").write_text(WIDE + "only_points.png,1,2,3,4,5,6\nc.png,,,,,,\n")
    same(imported(tmp_path, "csv", source), a=A, b=B)
    said = capsys.readouterr().out
    assert "only_image" in said and "only_points.png" in said and "assumed: coordinates are read as pixels" in said


def test_what_is_there_already_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(tmp_path / "source", "a.png", "b.png")
    (source / "points.csv").write_text(WIDE)
    target = tmp_path / "raw"
    target.mkdir()
    (target / "mine").write_text("mine")
    assert main(["--format", "csv", str(source), "-o", str(target)]) == 2
    assert "there already" in capsys.readouterr().err and [p.name for p in target.iterdir()] == ["mine"]


def test_without_a_format_the_source_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(tmp_path / "source", "a.png")
    (source / "points.csv").write_text(WIDE)
    assert main([str(source), "-o", str(tmp_path / "x")]) == 2
    assert "this looks like csv: autolmk_import --format csv" in capsys.readouterr().err
    (source / "points.csv").unlink()
    assert main([str(source), "-o", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert "nothing that is recognised" in said and "deeplabcut" in said


DLC = (
    "scorer,,,me,me,me,me,me,me\nbodyparts,,,S,S,N,N,Or,Or\ncoords,,,x,y,x,y,x,y\n"
    "labeled-data,video,a.png,10.25,5.5,20,8.75,30.5,20\nlabeled-data,video,b.png,11,6,21.5,9.25,,\n"
)


@pytest.mark.parametrize("text", [DLC, DLC.replace(",,,", ",").replace("labeled-data,video,", "labeled-data/video/")])
def test_deeplabcut(text: str, tmp_path: Path) -> None:
    source = pictures(tmp_path / "source" / "labeled-data" / "video", "a.png", "b.png").parents[1]
    (source / "labeled-data" / "video" / "CollectedData_me.csv").write_text(text)
    assert getattr(looks_like(source), "name", None) == "deeplabcut"
    same(imported(tmp_path, "deeplabcut", source), a=A, b=B)


def test_deeplabcut_of_several_animals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(tmp_path / "source", "a.png")
    (source / "CollectedData_me.csv").write_text(
        "scorer,me,me,me,me,me,me\nindividuals,m1,m1,m2,m2,single,single\nbodyparts,S,S,S,S,cage,cage\n"
        "coords,x,y,x,y,x,y\na.png,1,2,3,4,5,6\n"
    )
    refused(tmp_path, capsys, "deeplabcut", source, message=["m1, m2", "--individual"])
    same(imported(tmp_path, "deeplabcut", source, "--individual", "m2"), a=[[3, 4], [5, 6]])


def test_sleap(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", "frame_00007.png", "frame_00012.png")
    (source / "analysis.csv").write_text(
        "track,frame_idx,instance.score,S.x,S.y,S.score,N.x,N.y,N.score\n"
        ",7,1,10.25,5.5,1,20,8.75,0.9\n,12,1,11,6,1,,,\n"
    )
    assert getattr(looks_like(source), "name", None) == "sleap"
    same(imported(tmp_path, "sleap", source), frame_00007=A[:2], frame_00012=[[11, 6], [NAN, NAN]])


def test_isbi_2015(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    for name, folder in (("001", "TrainingData"), ("151", "Test1Data")):
        picture(source / "RawImage" / folder / f"{name}.bmp", int(name))
        for annotator, add in (("junior", 0), ("senior", 2)):
            file = source / f"400_{annotator}" / f"{name}.txt"
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_text(f"{10 + add},5\n20,{8 + add}\n1\n3\n2\n1\n1\n3\n2\n1\n")
    assert getattr(looks_like(source), "name", None) == "isbi2015"
    refused(
        tmp_path, capsys, "isbi2015", source, message=["--annotator junior: landmark 1 of 001 at [10.0, 5.0]", "mean"]
    )
    same(imported(tmp_path, "isbi2015", source, "--annotator", "mean", "--split"), **{"001": [[11, 5], [20, 9]]})
    target = tmp_path / "raw" / "Dataset001_X"
    same(voxels(target, "Ts"), **{"151": [[11, 5], [20, 9]]})
    assert Dataset.open(target).description.spacing == (0.1, 0.1)
    copied = target / "imagesTr" / "001_0000.bmp"
    assert copied.read_bytes() == (source / "RawImage" / "TrainingData" / "001.bmp").read_bytes()


def test_cl_detection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(tmp_path / "source", "1.png", "2.png")
    points = [
        {"name": str(n + 1), "point": [*point, image], "scale": "0.125"}
        for image, case in ((1, A), (2, A[::-1]))
        for n, point in enumerate(case)
    ]
    file = source / "train-gt.json"
    file.write_text(json.dumps({"name": "Orthodontic landmarks", "type": "Multiple points", "points": points}))
    assert getattr(looks_like(source), "name", None) == "cldetection"
    same(imported(tmp_path, "CL-Detection", source), **{"1": A, "2": A[::-1]})
    assert Dataset.open(tmp_path / "raw" / "Dataset001_X").description.spacing == (0.125, 0.125)


def tps(folder: Path, *, more: str = "SCALE=0.5\n", last: str = "30.50000 20.00000") -> Path:
    pictures(folder, "a.png")
    (folder / "wings.tps").write_text(f"LM=3\n10.25000 5.50000\n20.00000 8.75000\n{last}\nIMAGE=a.png\nID=0\n{more}")
    return folder


def test_tps_is_never_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tps(tmp_path / "source")
    assert getattr(looks_like(source), "name", None) == "tps"
    refused(tmp_path, capsys, "tps", source, message=["--scale applied: point 1 is at [20.5, 11.0]", "0.5 mm wide"])
    refused(tmp_path, capsys, "tps", source, "--scale", "mm", message=["--y-from bottom", "y 23.5", "y 5.5"])
    same(
        imported(tmp_path, "tps", source, "--scale", "mm", "--y-from", "bottom"), a=[[x, HEIGHT - 1 - y] for x, y in A]
    )
    assert Dataset.open(tmp_path / "raw" / "Dataset001_X").description.spacing == (0.5, 0.5)


def test_tps_from_the_top_with_applied_scale_and_a_corner_origin(tmp_path: Path) -> None:
    options = ("--scale", "applied", "--y-from", "top", "--first-pixel", "1")
    found = imported(tmp_path, "tps", tps(tmp_path / "source", more="SCALE=2\n"), *options)
    same(found, a=[[x / 2 - 1, y / 2 - 1] for x, y in A])


def test_tps_negatives_and_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tps(tmp_path / "source", more="CURVES=1\nPOINTS=2\n1 2\n3 4\n", last="-1 -1")
    refused(tmp_path, capsys, "tps", source, "--y-from", "top", message=["--curves points"])
    options = ("--y-from", "top", "--curves", "points")
    refused(tmp_path, capsys, "tps", source, *options, message=["--negatives missing", "point 3"])
    same(imported(tmp_path, "tps", source, *options, "--negatives", "missing"), a=[*A[:2], [NAN, NAN], [1, 2], [3, 4]])
    assert Dataset.open(tmp_path / "raw" / "Dataset001_X").landmark_names == ("1", "2", "3", "curve1_1", "curve1_2")


@pytest.mark.parametrize(
    "damage", [("LM=3", "LM=4"), ("20.00000 8", "20.00000"), ("IMAGE=a.png\nID=0\n", ""), ("LM=3", "LM=-3")]
)
def test_damaged_tps(damage: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tps(tmp_path / "source")
    file = source / "wings.tps"
    file.write_text(file.read_text().replace(*damage))
    options = ("--scale", "mm", "--y-from", "top")
    refused(tmp_path, capsys, "tps", source, *options, message=["line", "wings.tps", "what to do"])


def coco(folder: Path, values: list[float]) -> Path:
    pictures(folder, "a.png", "b.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "keypoints": values},
            {"id": 2, "image_id": 2, "category_id": 1, "keypoints": [11, 6, 1, 21.5, 9.25, 2, 0, 0, 0]},
        ],
        "categories": [{"id": 1, "name": "head", "keypoints": ["S", "N", "Or"]}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def test_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = coco(tmp_path / "source", [10.25, 5.5, 2, 20, 8.75, 2, 30.5, 20, 1])
    assert getattr(looks_like(source), "name", None) == "coco"
    same(imported(tmp_path, "coco", source), a=A, b=B)
    assert Dataset.open(tmp_path / "raw" / "Dataset001_X").landmark_names == ("S", "N", "Or")
    assert "2 points that are labelled but not visible" in capsys.readouterr().out


@pytest.mark.parametrize("values", [[1, 2, 3], [1, 2, 2] * 4, [1, 2, 5] * 3, ["1", 2, 2] * 3, [1e300, 2, 2] * 3])
def test_damaged_coco(values: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(tmp_path, capsys, "coco", coco(tmp_path / "source", values), message=["annotations[0]", "annotations.json"])


def test_labelme_counts_from_the_corner(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", "a.png")
    shapes = [{"label": n, "shape_type": "point", "points": [p]} for n, p in zip("SNO", A, strict=True)]
    shapes.append({"label": "box", "shape_type": "rectangle", "points": [[1, 2], [3, 4]]})
    (source / "a.json").write_text(
        json.dumps({"version": "5.0", "shapes": shapes, "imagePath": "a.png", "imageData": None})
    )
    assert getattr(looks_like(source), "name", None) == "labelme"
    same(imported(tmp_path, "labelme", source), a=(np.array(A) - 0.5).tolist())


def test_300w_counts_from_one(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", "a.png")
    rows = "\n".join(f"{x} {y}" for x, y in A)
    (source / "a.pts").write_text(f"version: 1\nn_points:  3\n{{\n{rows}\n}}\n")
    assert getattr(looks_like(source), "name", None) == "pts"
    same(imported(tmp_path, "pts", source), a=(np.array(A) - 1).tolist())


def test_morphologika_and_nts_in_the_plane(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", "a.png", "b.png")
    rows = ["\n".join(f"{x} {y}" for x, y in points) for points in (A, A[::-1])]
    (source / "all.txt").write_text(
        f"[individuals]\n2\n[landmarks]\n3\n[dimensions]\n2\n[names]\na\nb\n[rawpoints]\n'#1\n{rows[0]}\n\n'#2\n{rows[1]}\n"
    )
    assert getattr(looks_like(source), "name", None) == "morphologika"
    same(imported(tmp_path, "morphologika", source, "--y-from", "top"), a=A, b=A[::-1])
    (source / "all.txt").unlink()
    flat = [" ".join(str(v) for p in points for v in p) for points in (A, [A[0], [999, 999], A[2]])]
    (source / "all.nts").write_text(f'"a comment\n1 2L 6 1 999 dim=2\na b\n{flat[0]}\n{flat[1]}\n')
    assert getattr(looks_like(source), "name", None) == "nts"
    found = imported(tmp_path / "second", "nts", source, "--y-from", "bottom")
    turned = [[x, HEIGHT - 1 - y] for x, y in A]
    same(found, a=turned, b=[turned[0], [NAN, NAN], turned[2]])


def test_bigwarp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(tmp_path / "source", "a.png")
    (source / "a.csv").write_text(
        '"Pt-0","true","1.5","2.5","10.25","5.5"\n"Pt-1","false","3","4","Infinity","Infinity"\n'
    )
    assert getattr(looks_like(source), "name", None) == "bigwarp"
    refused(tmp_path, capsys, "bigwarp", source, message=["--side moving: point Pt-0 of a at 1.5, 2.5", "target"])
    same(imported(tmp_path, "bigwarp", source, "--side", "target"), a=[[10.25, 5.5], [NAN, NAN]])


@pytest.mark.parametrize("label", [True, False])
def test_imagej_counts_from_the_corner(label: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(tmp_path / "source", "a.png")
    column, value = (",Label", ",a.png") if label else ("", "")
    rows = "".join(f"{i}{value},0,{x},{y}\n" for i, (x, y) in enumerate(A, start=1))
    (source / "a.csv").write_text(f" {column},Area,X,Y\n{rows}")
    assert getattr(looks_like(source), "name", None) == "imagej"
    same(imported(tmp_path, "imagej", source), a=(np.array(A) - 0.5).tolist())
    (source / "a.csv").unlink()
    (source / "a.roi").write_bytes(b"Iout\x00\xe3")
    refused(tmp_path / "second", capsys, "imagej", source, message=[".roi files are binary"])


def test_qupath(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", "a.png", "b.png")
    features = [
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": p}, "properties": {"name": n}}
        for n, p in zip("SNO", A, strict=True)
    ]
    (source / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (source / "b.tsv").write_text(
        "x\ty\tclass\tname\n" + "".join(f"{x}\t{y}\tc\t{n}\n" for n, (x, y) in zip("SNO", A, strict=True))
    )
    assert getattr(looks_like(source), "name", None) == "qupath"
    expected = (np.array(A) - 0.5).tolist()
    same(imported(tmp_path, "qupath", source), a=expected, b=expected)


def test_images_can_be_linked_and_lie_elsewhere(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", "a.png", "b.png")
    (tmp_path / "points.csv").write_text(WIDE.replace("a.png", "/old/place/a.png"))
    same(imported(tmp_path, "csv", tmp_path / "points.csv", "--images", str(images), "--by-name", "--link"), a=A, b=B)
    link = tmp_path / "raw" / "Dataset001_X" / "imagesTr" / "a_0000.png"
    assert link.is_symlink() and link.resolve() == images / "a.png" and read_geometry(link).shape == (HEIGHT, WIDTH)
