"""Damaged files of every format: each damage is read or refused with a message, never an internal error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autolmk.annotations.formats import FORMATS, Imported, Options, format_named, looks_like, suggestion
from autolmk.errors import AutolmkError

SEEDS = 20
FCSV = (
    "# Markups fiducial file version = 4.10\n# CoordinateSystem = LPS\n"
    "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    "1,1,2,3,0,0,0,1,1,1,0,1,AC,\n2,2,3,4,0,0,0,1,1,1,0,2,PC,\n"
)
POINTS = [{"name": "1", "point": [1, 2, 1], "scale": "0.1"}, {"name": "2", "point": [3.5, 4, 1], "scale": "0.1"}]
COCO = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 2, 3, 4, 1]}],
    "categories": [{"id": 1, "name": "c", "keypoints": ["S", "N"]}],
}
SHAPES = {"shapes": [{"label": "S", "shape_type": "point", "points": [[1, 2]]}], "imagePath": "a.png"}
FEATURE = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {"name": "S"}}
CONTROLS = [{"label": "S", "position": [1, 2, 0], "positionStatus": "defined"}]
MITK = (
    '<?xml version="1.0"?><point_set_file><point_set><time_series><Geometry3D><Offset x="0" y="0" z="0"/></Geometry3D>'
    "<point><id>0</id><x>1</x><y>2</y><z>3</z></point></time_series></point_set></point_set_file>"
)
AMIRA = (
    '# AmiraMesh 3D ASCII 2.0\ndefine Markers 2\nParameters {\n NumSets 1,\n ContentType "LandmarkSet"\n}\n'
    "Markers { float[3] Coordinates } @1\n# Data section follows\n@1\n1 2 3\n2 3 4\n"
)
SAMPLES: dict[str, tuple[str, str]] = {  # format -> the file's name, its content
    "slicer": ("a.mrk.json", json.dumps({"markups": [{"coordinateSystem": "LPS", "controlPoints": CONTROLS}]})),
    "bids": ("sub-1/anat/sub-1_afids.fcsv", FCSV),
    "csv": ("points.csv", "image,S_x,S_y,N_x,N_y\na.png,1,2,3,4\n"),
    "deeplabcut": ("CollectedData_me.csv", "scorer,me,me\nbodyparts,S,S\ncoords,x,y\na.png,1,2\n"),
    "sleap": ("analysis.csv", "track,frame_idx,instance.score,S.x,S.y,S.score\n,1,1,1,2,1\n"),
    "isbi2015": ("400_junior/1.txt", "1,2\n3,4\n1\n2\n"),
    "cldetection": ("train-gt.json", json.dumps({"points": POINTS})),
    "tps": ("a.tps", "LM=2\n1 2\n3 4\nCURVES=1\nPOINTS=1\n5 6\nIMAGE=a.png\nID=0\nSCALE=0.5\n"),
    "coco": ("annotations.json", json.dumps(COCO)),
    "labelme": ("a.json", json.dumps(SHAPES)),
    "pts": ("a.pts", "version: 1\nn_points: 2\n{\n1 2\n3 4\n}\n"),
    "morphologika": (
        "all.txt",
        "[individuals]\n1\n[landmarks]\n2\n[dimensions]\n2\n[names]\na\n[rawpoints]\n'#1\n1 2\n3 4\n",
    ),
    "nts": ("all.nts", '"comment\n1 1L 4 1 999 dim=2\na\n1 2 3 4\n'),
    "verse": ("v_ctd.json", json.dumps([{"direction": ["L", "P", "S"]}, {"label": 1, "X": 1, "Y": 2, "Z": 3}])),
    "amira": ("v.landmarkAscii", AMIRA),
    "mitk": ("v.mps", MITK),
    "acsv": ("v/F.acsv", "# Name = F\n# pointColumns = type|x|y|z|sel|vis\npoint|1|2|3|1|1\n"),
    "bigwarp": ("a.csv", '"Pt-0","true","1","2","3","4"\n"Pt-1","true","2","3","4","5"\n'),
    "imagej": ("a.csv", " ,Label,Area,X,Y\n1,a.png,0,1,2\n2,a.png,0,3,4\n"),
    "qupath": ("a.geojson", json.dumps({"type": "FeatureCollection", "features": [FEATURE]})),
}
OPTIONS = Options(
    frame="LPS", y_from="bottom", scale="mm", negatives="real", curves="points", annotator="junior", side="moving",
    split=True,
)  # fmt: skip


def source(folder: Path, form: str) -> tuple[Path, Path]:
    """A folder with a picture, a volume and the format's sample; and the sample."""
    name, content = SAMPLES[form]
    file = folder / "source" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    root = folder / "source"
    sitk.WriteImage(
        sitk.GetImageFromArray((np.arange(600) % 251).astype(np.uint8).reshape(20, 30)), str(root / "a.png")
    )
    sitk.WriteImage(
        sitk.GetImageFromArray((np.arange(600) % 251).astype(np.uint8).reshape(20, 30)), str(root / "1.png")
    )
    volume = sitk.GetImageFromArray((np.arange(720) % 251).astype(np.uint8).reshape(8, 9, 10))
    volume.SetOrigin((-5.0, -5.0, -4.0))  # the samples' points lie inside, whichever way x and y count
    for place in ("v.nii.gz", "v/v.nii.gz", "sub-1/anat/sub-1_T1w.nii.gz"):
        if (root / place).parent.is_dir():
            sitk.WriteImage(volume, str(root / place))
    if form in ("tps", "nts", "pts", "amira", "mitk", "verse", "acsv", "bids"):
        (root / "1.png").unlink()
    return root, file


def damaged(content: str, seed: int) -> Iterator[str]:
    """A few damages of a text, each at a place of its own."""
    rng = np.random.default_rng(seed)
    at, end = sorted(int(i) for i in rng.integers(0, len(content), 2))
    lines = content.split("\n")
    line = int(rng.integers(len(lines)))
    numbers = list(re.finditer(r"\d+(\.\d+)?", content))
    number = numbers[int(rng.integers(len(numbers)))]
    yield content[:at]
    yield content[:at] + content[end:]
    yield "\n".join([*lines[:line], *lines[line + 1 :]])
    yield "\n".join([*lines[:line], lines[line], *lines[line:]])
    for other in ("-7", "nan", "1e999", "9" * 400, "x", "0", "null", "[]", "../..", "\u0000", "1;2"):
        yield content[: number.start()] + other + content[number.end() :]


@pytest.mark.parametrize("form", sorted(SAMPLES))
def test_samples_are_recognised_and_read(form: str, tmp_path: Path) -> None:
    root, file = source(tmp_path, form)
    found = looks_like(root if form in ("isbi2015", "bids") else file)
    assert found is not None and found.name == form
    assert f"--format {form} " in (suggestion(root if form in ("isbi2015", "bids") else file) or "")
    read = FORMATS[form].read
    assert read is not None
    assert len(read(root, OPTIONS).cases) == 1


@pytest.mark.parametrize("form", sorted(SAMPLES))
def test_damage_is_read_or_refused_in_words(form: str, tmp_path: Path) -> None:
    root, file = source(tmp_path, form)
    read, content = FORMATS[form].read, SAMPLES[form][1]
    assert read is not None
    refused = 0
    for seed in range(SEEDS):
        for text in damaged(content, seed):
            file.write_text(text)
            looks_like(file)
            try:
                result = read(root, OPTIONS)
            except AutolmkError as error:
                refused += 1
                assert error.remedy and (error.file or error.case), error
                continue
            assert isinstance(result, Imported)
            for case in result.cases:
                assert np.isfinite(case.annotation.points[case.annotation.present]).all()
    assert refused > SEEDS


def test_formats_are_found_however_they_are_spelt() -> None:
    for spelt, name in (
        ("DeepLabCut", "deeplabcut"),
        ("CL-Detection", "cldetection"),
        ("300-W", "pts"),
        ("dlc", "deeplabcut"),
    ):
        assert format_named(spelt).name == name
    with pytest.raises(AutolmkError, match="did you mean 'slicer'"):
        format_named("slicr")


@pytest.mark.parametrize(
    "content", [b"", b"\0\1\2", b"\xff\xfe", "ä".encode("latin-1"), b"hello, world\n", b"[" * 100_000]
)
def test_nothing_is_suggested_for_what_is_nothing(content: bytes, tmp_path: Path) -> None:
    for ending in (".csv", ".json", ".txt", ".tps", ".pts", ".nts", ".mps", ".xls", ".landmarkAscii", ".acsv", ".fcsv"):
        file = tmp_path / f"x{ending}"
        file.write_bytes(content)
        assert suggestion(file) is None or ending == ".fcsv"
