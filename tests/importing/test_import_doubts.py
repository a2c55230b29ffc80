"""autolmk_import of sources that are whole, but would be read wrongly: codes for missing points, scaled pictures, other
counts, calibrated tables, names that differ from case to case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from imports import HEIGHT, WIDTH, imported, pictures, refused, same

NAN = float("nan")


def points_json(folder: Path, name: str, points: list[list[float]], labels: list[str], **more: object) -> None:
    shapes = [
        {"label": n, "points": [p], "shape_type": "point", "group_id": None}
        for n, p in zip(labels, points, strict=True)
    ]
    content = {"version": "5.0", "imagePath": f"{name}.png", "imageData": None, "shapes": shapes, **more}
    (folder / f"{name}.json").write_text(json.dumps(content))


CODED = {
    "labelme": ("--missing", "-1"),
    "tps": ("--missing", "0"),
    "morphologika": ("--missing", "-999"),
}


def coded(folder: Path, form: str) -> Path:
    """Point 2 of a.png is the code of CODED."""
    code = float(CODED[form][1])
    pictures(folder, "a.png")
    if form == "labelme":
        points_json(folder, "a", [[10.5, 5.5], [code, code], [20.5, 8.5]], ["p", "q", "r"])
        return folder
    if form == "tps":  # two at the lower left corner
        (folder / "a.tps").write_text("LM=4\n10 24\n0 0\n20 21\n0 0\nIMAGE=a.png\nID=0\n")
        return folder / "a.tps"
    text = (
        "[individuals]\n1\n[landmarks]\n3\n[dimensions]\n2\n[names]\na.png\n[rawpoints]\n'a\n10 24\n-999 -999\n20 21\n"
    )
    (folder / "a.txt").write_text(text)
    return folder / "a.txt"


@pytest.mark.parametrize("form", CODED)
def test_codes_for_missing_points_are_asked_about_before_an_axis_is_turned(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = coded(tmp_path / "source", form)
    more = () if form == "labelme" else ("--y-from", "bottom")
    refused(tmp_path, capsys, form, source, *more, message=["code for missing", f"--missing {CODED[form][1]}", "none"])
    found = imported(tmp_path, form, source, *more, *CODED[form])["a"]
    there = [[10, 5], [NAN, NAN], [20, 8]]
    np.testing.assert_allclose(found, [*there, [NAN, NAN]] if form == "tps" else there, atol=1e-6)


def test_half_a_position_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "source", "a.png", "b.png")
    (folder / "t.csv").write_text("image,S_x,S_y,N_x,N_y\na.png,1,2,3,4\nb.png,5,,7,8\n")
    refused(tmp_path, capsys, "csv", folder / "t.csv", message=["some of its coordinates", "'S' in b.png", "nothing"])


def test_a_table_of_a_row_a_point_in_utf16(tmp_path: Path) -> None:
    """As Excel saves "Unicode text": UTF-16, tabs, decimal commas."""
    folder = pictures(tmp_path / "source", "a.png", "b.png")
    rows = "Image\tLandmark\tX\tY\r\na.png\tS\t10,25\t5,5\r\nb.png\tS\t11\t6\r\na.png\tN\t20\t8,75\r\nb.png\tN\t\t\r\n"
    (folder / "t.csv").write_bytes(rows.encode("utf-16"))
    same(imported(tmp_path, "csv", folder / "t.csv"), a=[[10.25, 5.5], [20, 8.75]], b=[[11, 6], [NAN, NAN]])


def test_columns_of_a_wide_table_that_are_no_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "source", "a.png")
    header = "image,size_x,size_y,SellaX,SellaY,N_x (px),N_y (px),spacing_x,spacing_y"
    (folder / "t.csv").write_text(f"{header}\na.png,40,30,10.25,5.5,20,8.75,0.1,0.1\n")
    same(imported(tmp_path, "csv", folder / "t.csv"), a=[[10.25, 5.5], [20, 8.75]])
    assert "left aside: size_x, size_y, spacing_x, spacing_y" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["labelme", "coco"])
def test_pictures_that_were_scaled_after_annotation(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "source", "a.png")
    if form == "labelme":
        points_json(folder, "a", [[10.5, 5.5]], ["p"], imageWidth=2 * WIDTH, imageHeight=2 * HEIGHT)
    else:
        image = {"id": 1, "file_name": "a.png", "width": HEIGHT, "height": WIDTH}
        objects = [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": [10, 5, 2]}]
        content = {
            "images": [image],
            "annotations": objects,
            "categories": [{"id": 1, "name": "x", "keypoints": ["p"]}],
        }
        (folder / "c.json").write_text(json.dumps(content))
    size = "80 x 60" if form == "labelme" else "30 x 40"
    refused(tmp_path, capsys, form, folder, message=["another size", "40 x 30 pixels", size])


def test_frames_counted_from_one_beside_a_table_from_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "source", *(f"frame_{i:04d}.png" for i in range(1, 5)))
    rows = "\n".join(f",{i},0.9,1{i},5,0.9" for i in range(4))
    (folder / "t.csv").write_text(f"track,frame_idx,instance.score,A.x,A.y,A.score\n{rows}\n")
    refused(tmp_path, capsys, "sleap", folder / "t.csv", message=["counted from 1", "frame_0001.png"])


def test_labels_of_a_network_beside_those_of_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "project" / "labeled-data" / "v"
    pictures(folder, "img1.png", "img2.png")
    head = "scorer,S,S\nbodyparts,nose,nose\ncoords,x,y\n"
    (folder / "CollectedData_S.csv").write_text(f"{head}labeled-data/v/img1.png,10,5\n")
    (folder / "machinelabels-iter0.csv").write_text(
        "scorer,D,D,D\nbodyparts,nose,nose,nose\ncoords,x,y,likelihood\nlabeled-data/v/img2.png,1,2,0.1\n"
    )
    same(imported(tmp_path, "deeplabcut", tmp_path / "project"), img1=[[10, 5]])
    assert "machinelabels-iter0.csv is left aside" in capsys.readouterr().out


def test_morphologika_whose_comments_have_another_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "source", "a.png", "b.png")
    points = "'b\n1 2\n3 4\n'a\n5 6\n7 8\n"
    text = f"[individuals]\n2\n[landmarks]\n2\n[dimensions]\n2\n[names]\na.png\nb.png\n[rawpoints]\n{points}"
    (folder / "m.txt").write_text(text)
    refused(
        tmp_path, capsys, "morphologika", folder / "m.txt", "--y-from", "top", message=["order of the specimens", "'b'"]
    )


def test_tps_with_decimal_commas(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "source", "a.png")
    (folder / "a.tps").write_text("LM=2\n10,25 5,5\n20,0 8,75\nIMAGE=a.png\nSCALE=0,5\n")
    found = imported(tmp_path, "tps", folder / "a.tps", "--y-from", "top", "--scale", "ignore")
    same(found, a=[[10.25, 5.5], [20, 8.75]])


@pytest.mark.parametrize("form", ["imagej", "bigwarp"])
def test_tables_beside_a_picture_with_a_scale(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    array = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH)).astype(np.uint8)
    tifffile.imwrite(folder / "a.tif", array, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
    if form == "imagej":  # 0.5 at the first pixel's centre
        (folder / "a.csv").write_text(" ,Area,X,Y\n1,0,5.25,2.75\n2,0,10.25,4.25\n")
    else:
        (folder / "a.csv").write_text('"P0","true","5","2.5","1","1"\n"P1","true","10","4","2","2"\n')
    side = () if form == "imagej" else ("--side", "moving")
    refused(
        tmp_path, capsys, form, folder, *side, message=["0.5 x 0.5 um a pixel", "--scale ignore", "--scale applied"]
    )
    same(imported(tmp_path, form, folder, *side, "--scale", "applied"), a=[[10, 5], [20, 8]])


def test_points_named_after_their_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning where the format has no other names; a fault of the dataset where an option chooses them."""
    folder = pictures(tmp_path / "source", "a.png", "b.png", "c.png")
    for name in "abc":
        points_json(folder, name, [[10.5, 5.5], [20.5, 8.5]], [f"{name}-1", f"{name}-2"])
    imported(tmp_path, "labelme", folder)
    assert "names of landmarks differ from case to case" in capsys.readouterr().out


def test_numbered_points_of_which_a_case_has_fewer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "source", "a.png", "b.png", "c.png")
    blocks = [("a", 3), ("b", 3), ("c", 2)]
    text = "".join(
        f"LM={n}\n" + "".join(f"{5 + 5 * i} {3 + 2 * i * i}\n" for i in range(n)) + f"IMAGE={k}.png\n"
        for k, n in blocks
    )
    (folder / "a.tps").write_text(text)
    imported(tmp_path, "tps", folder / "a.tps", "--y-from", "top")
    assert "2 in Tr/c; 3 in 2 of 3 cases" in capsys.readouterr().out
