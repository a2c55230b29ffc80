"""autolmk_import of formats whose points lie in space: each sample is written as its program writes it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import slicerio

from autolmk.annotations.formats import looks_like
from autolmk.cli.import_ import main
from autolmk.dataset import Dataset
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.landmarks import Status

SHAPE = (12, 14, 16)
GRID = Geometry.from_parts(SHAPE, (2.0, 1.0, 0.5), (5.0, -6.0, 7.0))
VOXELS = np.array([[3.25, 4.5, 5.0], [10.0, 8.0, 2.5], [12.0, 11.0, 9.0]])  # x, y, z
POINTS = GRID.to_physical(VOXELS[:, ::-1])  # mm, LPS
RAS = POINTS * [-1, -1, 1]


def volume(file: Path, seed: int = 0) -> Path:
    array = np.random.default_rng(seed).random((1, *SHAPE)).astype(np.float32)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(file, Image(array, GRID))
    return file


def points(target: Path) -> dict[str, FloatArray]:
    """case -> (n, 3) mm, LPS, as the dataset is read for training."""
    dataset = Dataset.open(target)
    return {
        case.identifier: dataset.read_landmarks(case, dataset.read_image(case).geometry).points
        for case in dataset.cases()
    }


def imported(tmp_path: Path, form: str, source: Path, *options: str) -> dict[str, FloatArray]:
    target = tmp_path / "raw" / "Dataset001_X"
    assert main(["--format", form, str(source), "-o", str(target), *options]) in (0, 3)
    assert (target / "import_preview.png").is_file()
    return points(target)


def sniffed(source: Path) -> str | None:
    found = looks_like(source)
    return None if found is None else found.name


def is_refused_without_frame(tmp_path: Path, form: str, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--format", form, str(source), "-o", str(tmp_path / "raw" / "Dataset001_X")]) == 2
    errors = capsys.readouterr().err
    assert "--frame LPS: 3 of 3 points of a lie inside its image" in errors and "--frame RAS: 0 of 3" in errors
    assert list((tmp_path / "raw").iterdir()) == []


def fcsv(
    file: Path, *, frame: str = "RAS", labels: str = "123", descriptions: tuple[str, ...] = ("AC", "PC", "ICS")
) -> Path:
    rows = "".join(
        f"vtkMRMLMarkupsFiducialNode_{i},{x},{y},{z},0,0,0,1,1,1,0,{n},{d},\n"
        for i, ((x, y, z), n, d) in enumerate(zip(RAS if frame == "RAS" else POINTS, labels, descriptions, strict=True))
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"# Markups fiducial file version = 4.10\n# CoordinateSystem = {frame}\n"
        f"# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n{rows}"
    )
    return file


def markups(file: Path, frame: str = "LPS") -> Path:
    controls = [
        {"id": str(i), "label": n, "position": list(p), "positionStatus": "defined"}
        for i, (n, p) in enumerate(zip("SNO", RAS if frame == "RAS" else POINTS, strict=True))
    ]
    controls.append({"id": "4", "label": "gone", "position": "", "positionStatus": "missing"})
    file.write_text(
        json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": frame, "controlPoints": controls}]})
    )
    return file


def test_slicer_in_both_frames_and_with_states(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for seed, case in enumerate("ab"):
        volume(source / f"{case}.nii.gz", seed)
    markups(source / "a.json")
    markups(source / "b.mrk.json", "RAS")
    assert sniffed(source) == "slicer"
    found = imported(tmp_path, "slicer", source)
    for case in "ab":
        np.testing.assert_allclose(found[case][:3], POINTS, atol=1e-6)
    dataset = Dataset.open(tmp_path / "raw" / "Dataset001_X")
    case = dataset.cases()[0]
    assert dataset.read_landmarks(case, GRID).status[3] == Status.ABSENT
    copied = tmp_path / "raw" / "Dataset001_X" / "imagesTr" / "a_0000.nii.gz"
    assert copied.read_bytes() == (source / "a.nii.gz").read_bytes()


@pytest.mark.parametrize("desc", ["", "_desc-groundtruth"])
@pytest.mark.parametrize("derivatives", [True, False])
def test_bids(desc: str, derivatives: bool, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for seed, (subject, session) in enumerate((("sub-01", None), ("sub-02", "ses-a"), ("sub-02", "ses-b"))):
        folder, stem = Path(subject), subject
        if session is not None:
            folder, stem = folder / session, f"{subject}_{session}"
        volume(source / folder / "anat" / f"{stem}_T1w.nii.gz", seed)
        volume(source / folder / "anat" / f"{stem}_T2w.nii.gz", 10 + seed)
        place = source / "derivatives" / "afids" / folder if derivatives else source / folder
        fcsv(place / "anat" / f"{stem}{desc}_afids.fcsv")
    assert sniffed(source) == "bids"
    found = imported(tmp_path, "bids", source)
    assert sorted(found) == ["sub-01_T1w", "sub-02_ses-a_T1w", "sub-02_ses-b_T1w"]
    for case in found.values():
        np.testing.assert_allclose(case, POINTS, atol=1e-6)
    dataset = Dataset.open(tmp_path / "raw" / "Dataset001_X")
    assert dataset.landmark_names == ("AC", "PC", "ICS")
    assert [case.subject for case in dataset.cases()] == ["sub-01", "sub-02", "sub-02"]


@pytest.mark.parametrize("direction", ["PIR", "LAS", "RPS", "SLA"])
def test_verse_against_nibabel(direction: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    file = volume(source / "rawdata" / "sub-v1" / "sub-v1_ct.nii.gz")
    image = nib.load(file)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(direction))
    )
    turned = image.as_reoriented(turn)
    voxels = nib.affines.apply_affine(np.linalg.inv(turned.affine), RAS)
    entries = [
        {"label": n, **dict(zip("XYZ", v, strict=True))} for n, v in zip((7, 8, 20), voxels.tolist(), strict=True)
    ]
    folder = source / "derivatives" / "sub-v1"
    folder.mkdir(parents=True)
    (folder / "sub-v1_seg-subreg_ctd.json").write_text(json.dumps([{"direction": list(direction)}, *entries]))
    assert sniffed(source) == "verse"
    np.testing.assert_allclose(imported(tmp_path, "verse", source)["sub-v1_ct"], POINTS, atol=1e-4)
    assert Dataset.open(tmp_path / "raw" / "Dataset001_X").landmark_names == ("C7", "T1", "L1")


def amira(file: Path) -> Path:
    rows = "\n".join(" ".join(f"{v:.15e}" for v in p) for p in POINTS)
    file.write_text(
        "# AmiraMesh 3D ASCII 2.0\n\n\ndefine Markers 3\n\nParameters {\n    NumSets 1,\n"
        '    ContentType "LandmarkSet"\n}\n\n'
        f"Markers {{ float[3] Coordinates }} @1\n\n# Data section follows\n@1\n{rows}\n"
    )
    return file


def editor(file: Path) -> Path:
    file.write_text("Version 1.0\n3\n" + "".join(f"S00{i} {x} {y} {z}\n" for i, (x, y, z) in enumerate(POINTS)))
    return file


def lm3(file: Path) -> Path:
    file.write_text("LM3=3\n" + "".join(f"{x} {y} {z}\n" for x, y, z in POINTS) + "ID=a\n")
    return file


def nts(file: Path) -> Path:
    file.write_text('"made by a test\n1 1B 9 0 dim=3\na ' + " ".join(str(v) for v in POINTS.ravel()) + "\n")
    return file


def morphologika(file: Path) -> Path:
    rows = "".join(f"{x} {y} {z}\n" for x, y, z in POINTS)
    file.write_text(f"[individuals]\n1\n[landmarks]\n3\n[dimensions]\n3\n[names]\na\n[rawpoints]\n'#1\n{rows}")
    return file


@pytest.mark.parametrize(
    ("form", "write", "name"),
    [
        ("amira", amira, "a.landmarkAscii"),
        ("pts", editor, "a.pts"),
        ("tps", lm3, "a.tps"),
        ("nts", nts, "all.nts"),
        ("morphologika", morphologika, "all.txt"),
    ],
)
def test_a_frame_that_no_file_says_is_asked_for(
    form: str, write: object, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = volume(tmp_path / "source" / "a.nii.gz").parent
    assert callable(write)
    write(source / name)
    assert sniffed(source) == form
    is_refused_without_frame(tmp_path, form, source, capsys)
    np.testing.assert_allclose(imported(tmp_path, form, source, "--frame", "LPS")["a"], POINTS, atol=1e-6)


def mitk(text: str = "") -> str:
    rows = "".join(
        f"<point><id>{i}</id><specification>0</specification><x>{x}</x><y>{y}</y><z>{z}</z></point>"
        for i, (x, y, z) in enumerate(POINTS)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><point_set_file><file_version>0.1</file_version><point_set><time_series>'
        f"<time_series_id>0</time_series_id>{text}{rows}</time_series></point_set></point_set_file>"
    )


def test_mitk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = volume(tmp_path / "source" / "a.nii.gz").parent
    (source / "a.mps").write_text(mitk())
    assert sniffed(source) == "mitk"
    np.testing.assert_allclose(imported(tmp_path, "mitk", source)["a"], POINTS, atol=1e-6)
    moved = '<Geometry3D><Offset type="Vector3D" x="1" y="0" z="0"/></Geometry3D>'
    bomb = mitk().replace("<point_set_file>", '<!DOCTYPE x [<!ENTITY a "b">]><point_set_file>', 1)
    for text, message in ((mitk(moved), "Geometry3D"), (bomb, "document type"), (mitk()[:-9], "XML")):
        (source / "a.mps").write_text(text)
        assert main(["--format", "mitk", str(source), "-o", str(tmp_path / "second")]) == 2
        assert message in capsys.readouterr().err


def test_acsv(tmp_path: Path) -> None:
    source = tmp_path / "source"
    volume(source / "a" / "a.nii.gz")
    for i, (x, y, z) in enumerate(RAS):
        (source / "a" / f"F_{i}.acsv").write_text(
            f"# Name = F{i}\n# pointNumberingScheme = 0\n# pointColumns = type|x|y|z|sel|vis\npoint|{x}|{y}|{z}|1|1\n"
        )
    assert sniffed(source) == "acsv"
    np.testing.assert_allclose(imported(tmp_path, "acsv", source)["a"], POINTS, atol=1e-6)


def test_several_channels_belong_to_one_case(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for channel in range(2):
        volume(source / f"a_000{channel}.nii.gz", channel)
    markups(source / "a.mrk.json")
    imported(tmp_path, "slicer", source)
    dataset = Dataset.open(tmp_path / "raw" / "Dataset001_X")
    assert [len(case.images) for case in dataset.cases()] == [2] and len(dataset.channel_names) == 2


def test_images_of_several_kinds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    for name in ("a.nii.gz", "b.nii.gz", "c.nrrd"):
        volume(source / name)
        markups(source / f"{name[0]}.mrk.json")
    assert main(["--format", "slicer", str(source), "-o", str(tmp_path / "raw" / "x")]) == 2
    assert "c.nrrd among 2 × .nii.gz" in capsys.readouterr().err
    assert list((tmp_path / "raw").iterdir()) == []


def test_points_agree_with_slicerio(tmp_path: Path) -> None:
    file = fcsv(tmp_path / "source" / "a.fcsv", frame="LPS", labels="SNO")
    volume(tmp_path / "source" / "a.nii.gz")
    found = imported(tmp_path, "slicer", tmp_path / "source")["a"]
    markup = slicerio.read_markups_fcsv(str(file))["markups"][0]
    assert markup["coordinateSystem"] == "LPS"
    np.testing.assert_allclose(found, [c["position"] for c in markup["controlPoints"]], atol=1e-6)
