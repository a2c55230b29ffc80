"""autolmk_convert: every format is read by an independent reader, and by autolmk_import, to 1e-6 mm."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import slicerio
from pycocotools.coco import COCO
from raw_datasets import (
    GRID,
    HEIGHT,
    NAMES,
    PIXEL,
    PIXELS,
    VOXELS,
    marks,
    pictures,
    predictions,
    volumes,
)

from autolmk.annotations import write
from autolmk.annotations.formats import WRITERS
from autolmk.cli.convert import main
from autolmk.cli.import_ import main as import_main
from autolmk.dataset import Dataset
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.landmarks import Status

POINTS = {case: GRID.to_physical(voxels[:, ::-1]) for case, voxels in VOXELS.items()}  # mm, LPS
WHOLE_VOXELS = {case: np.where(np.isnan(v), 1.5, v) for case, v in VOXELS.items()}
WHOLE_PIXELS = {case: np.where(np.isnan(v), 1.5, v) for case, v in PIXELS.items()}


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preview of an import, which is tested elsewhere, takes longer to draw than all the rest."""
    monkeypatch.setattr("autolmk.importing.importer.write_preview", lambda dataset, case, file: None)


def converted(tmp_path: Path, source: Path, form: str, *options: str) -> Path:
    target = tmp_path / f"out-{form}"
    assert main([str(source), "--to", form, "-o", str(target), *options]) == 0
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".autolmk-import")] == []
    return target


def again(tmp_path: Path, form: str, source: Path, *options: str) -> dict[str, FloatArray]:
    """case -> (n, P) mm as autolmk_import reads the files."""
    target = tmp_path / "again" / "Dataset009_Again"
    assert import_main(["--format", form, str(source), "-o", str(target), *options]) in (0, 3)
    dataset = Dataset.open(target)
    found = {}
    for case in dataset.cases():
        found[case.identifier] = dataset.read_landmarks(case, dataset.read_geometry(case)).points
    return found


def same(found: Mapping[str, FloatArray], expected: Mapping[str, FloatArray]) -> None:
    assert sorted(found) == sorted(expected)
    for case, points in expected.items():
        np.testing.assert_allclose(found[case], points, atol=1e-6, rtol=0, err_msg=case)


def test_markups(tmp_path: Path) -> None:
    target = converted(tmp_path, volumes(tmp_path / "raw", missing=Status.ABSENT), "mrk.json")
    assert sorted(p.name for p in target.iterdir()) == ["a.mrk.json", "b.mrk.json"]
    for case, points in POINTS.items():
        node = json.loads((target / f"{case}.mrk.json").read_text())["markups"][0]
        assert node["coordinateSystem"] == "LPS"
        for control, name, point in zip(node["controlPoints"], NAMES, points, strict=True):
            assert control["label"] == name
            assert control["positionStatus"] == ("defined" if np.isfinite(point).all() else "missing")
            if np.isfinite(point).all():
                np.testing.assert_allclose(control["position"], point, atol=1e-6)
    same(again(tmp_path, "slicer", target, "--images", str(tmp_path / "raw" / "imagesTr")), POINTS)


def fiducials(file: Path) -> tuple[list[str], FloatArray]:
    """Labels and descriptions, and points in LPS, as slicerio reads them."""
    (markup,) = slicerio.read_markups_fcsv(str(file))["markups"]
    assert markup["coordinateSystem"] == "LPS"
    points = markup["controlPoints"]
    return [f"{p['label']}|{p.get('description', '')}" for p in points], np.array([p["position"] for p in points])


def test_fcsv(tmp_path: Path) -> None:
    target = converted(tmp_path, volumes(tmp_path / "raw"), "fcsv")
    for case, points in POINTS.items():
        labels, found = fiducials(target / f"{case}.fcsv")
        assert labels == [f"{name}|" for name in NAMES]
        np.testing.assert_allclose(found, points, atol=1e-6)
    same(again(tmp_path, "slicer", target, "--images", str(tmp_path / "raw" / "imagesTr")), POINTS)


def test_bids_as_afids_have_it(tmp_path: Path) -> None:
    cases = {"sub-01_ses-a_T1w": VOXELS["a"], "b 2": VOXELS["b"]}
    raw = volumes(tmp_path / "raw", cases)
    target = converted(tmp_path, raw, "bids")
    files = sorted(p.relative_to(target).as_posix() for p in target.rglob("*.fcsv"))
    assert files == [
        "sub-01/ses-a/anat/sub-01_ses-a_desc-groundtruth_afids.fcsv",
        "sub-b2/anat/sub-b2_desc-groundtruth_afids.fcsv",
    ]
    labels, found = fiducials(target / files[0])
    assert labels == [f"{i}|{name}" for i, name in enumerate(NAMES, 1)]
    np.testing.assert_allclose(found, POINTS["a"], atol=1e-6)
    described = json.loads((target / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative" and described["GeneratedBy"][0]["Name"] == "autolmk"
    beside = json.loads((target / files[0].replace(".fcsv", ".json")).read_text())
    assert beside["FiducialsCoordinateUnits"] == "mm" and beside["Sources"] == [
        "bids:images:sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"
    ]
    np.testing.assert_allclose(beside["FiducialsCoordinates"][NAMES[1]], POINTS["a"][1], atol=1e-6)
    table = pd.read_csv(target / "participants.tsv", sep="\t")
    assert dict(zip(table.participant_id, table.autolmk_cases, strict=True)) == {
        "sub-01": "sub-01_ses-a_T1w",
        "sub-b2": "b 2",
    }
    images = tmp_path / "images"  # as a BIDS tree names them
    for case, name in (("sub-01_ses-a_T1w", "sub-01_ses-a_T1w"), ("b 2", "sub-b2_T1w")):
        images.mkdir(exist_ok=True)
        (images / f"{name}.nii.gz").write_bytes((raw / "imagesTr" / f"{case}_0000.nii.gz").read_bytes())
    found_again = again(tmp_path, "bids", target, "--images", str(images))
    same(found_again, {"sub-01_ses-a_T1w": POINTS["a"], "sub-b2_T1w": POINTS["b"]})


@pytest.mark.parametrize("planar", [True, False])
def test_wide_csv_by_pandas(planar: bool, tmp_path: Path) -> None:
    raw = pictures(tmp_path / "raw") if planar else volumes(tmp_path / "raw")
    table = pd.read_csv(converted(tmp_path, raw, "csv") / "points.csv", index_col="image")
    axes = "xy" if planar else "xyz"
    for case, expected in (PIXELS if planar else POINTS).items():
        row = table.loc[f"{case}_0000.{'png' if planar else 'nii.gz'}"]
        found = [[row[f"{name}_{axis}"] for axis in axes] for name in NAMES]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not planar or (table["spacing(mm)"] == PIXEL).all()
    options = [] if planar else ["--frame", "LPS"]
    images = str(tmp_path / "raw" / "imagesTr")
    found = again(tmp_path, "csv", tmp_path / "out-csv" / "points.csv", "--images", images, *options)
    same(found, {case: p * PIXEL for case, p in PIXELS.items()} if planar else POINTS)


def blocks(file: Path) -> list[dict[str, object]]:
    """A TPS file as its description has it: LM=n, n rows, then keys."""
    found: list[dict[str, object]] = []
    lines = file.read_text().splitlines()
    while lines:
        key, n = lines.pop(0).split("=")
        assert key in ("LM", "LM3")
        rows = [[float("nan") if v == "NA" else float(v) for v in lines.pop(0).split()] for _ in range(int(n))]
        block: dict[str, object] = {"points": np.array(rows)}
        while lines and not lines[0].startswith("LM"):
            name, value = lines.pop(0).split("=", 1)
            block[name] = value
        found.append(block)
    return found


@pytest.mark.parametrize("edge", ["bottom", "top"])
def test_tps_of_pictures(edge: str, tmp_path: Path) -> None:
    target = converted(tmp_path, pictures(tmp_path / "raw"), "tps", "--y-from", edge)
    found = blocks(target / "landmarks.tps")
    assert [(b["ID"], b["IMAGE"], b["SCALE"]) for b in found] == [
        ("a", "a_0000.png", "0.25"), ("b", "b_0000.png", "0.25"),
    ]  # fmt: skip
    for block, pixels in zip(found, PIXELS.values(), strict=True):
        expected = pixels.copy()
        expected[:, 1] = HEIGHT - 1 - pixels[:, 1] if edge == "bottom" else pixels[:, 1]
        np.testing.assert_allclose(block["points"], np.where(np.isnan(expected), -1.0, expected), atol=1e-6)
    assert (target / "landmark_names.txt").read_text().splitlines() == list(NAMES)
    options = ["--images", str(tmp_path / "raw" / "imagesTr"), "--y-from", edge, "--scale", "mm"]
    found_again = again(tmp_path, "tps", target / "landmarks.tps", *options, "--negatives", "missing")
    same(found_again, {case: p * PIXEL for case, p in PIXELS.items()})


def test_tps_of_volumes(tmp_path: Path) -> None:
    target = converted(tmp_path, volumes(tmp_path / "raw"), "tps")
    for block, points in zip(blocks(target / "landmarks.tps"), POINTS.values(), strict=True):
        np.testing.assert_allclose(block["points"], points, atol=1e-6)
    options = ["--images", str(tmp_path / "raw" / "imagesTr"), "--frame", "LPS"]
    same(again(tmp_path, "tps", target / "landmarks.tps", *options), POINTS)


def morphologika(file: Path) -> dict[str, FloatArray]:
    sections = {}
    for part in file.read_text().split("[")[1:]:
        key, _, rest = part.partition("]")
        sections[key] = rest.split("\n")[1:-1] if rest.endswith("\n") else rest.split("\n")[1:]
    n, k, d = (int(sections[key][0]) for key in ("individuals", "landmarks", "dimensions"))
    rows = [[float(v) for v in line.split()] for line in sections["rawpoints"] if line and not line.startswith("'")]
    return dict(zip(sections["names"], np.array(rows).reshape(n, k, d), strict=False))


@pytest.mark.parametrize("planar", [True, False])
def test_morphologika(planar: bool, tmp_path: Path) -> None:
    raw = pictures(tmp_path / "raw", WHOLE_PIXELS) if planar else volumes(tmp_path / "raw", WHOLE_VOXELS)
    file = converted(tmp_path, raw, "morphologika") / "landmarks.txt"
    images = ["--images", str(raw / "imagesTr")]
    if planar:
        flipped = {f"{c}_0000.png": np.column_stack([p[:, 0], HEIGHT - 1 - p[:, 1]]) for c, p in WHOLE_PIXELS.items()}
        same(morphologika(file), flipped)
        found = again(tmp_path, "morphologika", file, *images, "--y-from", "bottom", "--spacing", str(PIXEL))
        same(found, {case: p * PIXEL for case, p in WHOLE_PIXELS.items()})
    else:
        expected = {case: GRID.to_physical(v[:, ::-1]) for case, v in WHOLE_VOXELS.items()}
        same(morphologika(file), {f"{case}_0000.nii.gz": p for case, p in expected.items()})
        same(again(tmp_path, "morphologika", file, *images, "--frame", "LPS"), expected)


def nts(file: Path) -> dict[str, FloatArray]:
    lines = [line for line in file.read_text().splitlines() if not line.startswith('"')]
    control = lines[0].split()
    n, columns, d = int(control[1].rstrip("L")), int(control[2]), int(control[-1].removeprefix("dim="))
    values = np.array([[float(v) for v in line.split()] for line in lines[1 + n :]]).reshape(n, columns // d, d)
    values = np.where(values == float(control[4]), np.nan, values) if control[3] == "1" else values
    return dict(zip(lines[1 : 1 + n], values, strict=True))


@pytest.mark.parametrize("planar", [True, False])
def test_nts(planar: bool, tmp_path: Path) -> None:
    raw = pictures(tmp_path / "raw") if planar else volumes(tmp_path / "raw")
    file = converted(tmp_path, raw, "nts") / "landmarks.nts"
    images = ["--images", str(raw / "imagesTr")]
    if planar:
        same(nts(file), {f"{c}_0000.png": np.column_stack([p[:, 0], HEIGHT - 1 - p[:, 1]]) for c, p in PIXELS.items()})
        found = again(tmp_path, "nts", file, *images, "--y-from", "bottom", "--spacing", str(PIXEL))
        same(found, {case: p * PIXEL for case, p in PIXELS.items()})
    else:
        same(nts(file), {f"{case}_0000.nii.gz": p for case, p in POINTS.items()})
        same(again(tmp_path, "nts", file, *images, "--frame", "LPS"), POINTS)


def test_coco_by_pycocotools(tmp_path: Path) -> None:
    raw = pictures(tmp_path / "raw")
    pictures(raw, {"c": PIXELS["a"] + 1}, split="Ts")
    target = converted(tmp_path, raw, "coco")
    for part, cases in (("train", PIXELS), ("test", {"c": PIXELS["a"] + 1})):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(target / f"annotations_{part}.json"))
        assert coco.loadCats(1)[0]["keypoints"] == list(NAMES)
        images = {image["id"]: image for image in coco.loadImgs(coco.getImgIds())}
        assert all((image["width"], image["height"]) == (40, 30) for image in images.values())
        for annotation in coco.loadAnns(coco.getAnnIds()):
            rows = np.array(annotation["keypoints"], dtype=float).reshape(-1, 3)
            expected = cases[images[annotation["image_id"]]["file_name"].removesuffix("_0000.png")]
            there = np.isfinite(expected).all(axis=1)
            np.testing.assert_array_equal(rows[:, 2], np.where(there, 2, 0))
            np.testing.assert_allclose(rows[there, :2], expected[there], atol=1e-6)
            assert annotation["num_keypoints"] == there.sum()
    (target / "annotations_test.json").unlink()
    options = ["--images", str(raw / "imagesTr"), "--spacing", str(PIXEL)]
    same(again(tmp_path, "coco", target, *options), {case: p * PIXEL for case, p in PIXELS.items()})


def test_nnlandmark_dataset_by_nibabel_and_by_the_importer(tmp_path: Path) -> None:
    target = converted(tmp_path, volumes(tmp_path / "raw"), "nnlandmark")
    labels = json.loads((target / "name_to_label.json").read_text())
    assert labels == {name: i for i, name in enumerate(NAMES, 1)}
    listed = json.loads((target / "all_landmarks_voxel.json").read_text())
    assert json.loads((target / "spacing.json").read_text())["a"]["image_spacing"] == pytest.approx([0.5, 1.0, 2.0])
    for case, points in POINTS.items():
        image = nib.load(target / "labelsTr" / f"{case}.nii.gz")
        for name, point in zip(NAMES, points, strict=True):
            if np.isnan(point).any():
                assert name not in listed[case] and not (image.get_fdata() == labels[name]).any()
                continue
            lps = nib.affines.apply_affine(image.affine, listed[case][name]) * [-1, -1, 1]
            np.testing.assert_allclose(lps, point, atol=1e-5)  # the header holds float32
            centre = np.argwhere(image.get_fdata() == labels[name]).mean(axis=0)
            assert np.abs(centre - listed[case][name]).max() <= 0.5
    same(again(tmp_path, "nnlandmark", target), POINTS)


def test_nnlandmark_predictions_as_its_evaluation_reads_them(tmp_path: Path) -> None:
    raw = volumes(tmp_path / "raw")
    target = converted(tmp_path, predictions(tmp_path / "predicted", POINTS), "nnlandmark", "--dataset", str(raw))
    every = json.loads((target / "prediction_all_landmark_voxel.json").read_text())
    for case, voxels in VOXELS.items():
        single = json.loads((target / f"{case}.json").read_text())
        for i, (name, voxel) in enumerate(zip(NAMES, voxels, strict=True), start=1):
            assert (name in every[case]) == (str(i) in single) == bool(np.isfinite(voxel).all())
            if name in every[case]:
                np.testing.assert_allclose(every[case][name], voxel, atol=1e-5)
                assert single[str(i)] == {"coordinates": every[case][name], "likelihood": [0.9, 0.8, 0.3][i - 1]}


def test_cubes_that_would_touch_shrink_and_points_in_one_voxel_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = np.array([[5.0, 5.0, 5.0], [6.0, 5.0, 5.0], [12.0, 11.0, 9.0]])
    target = converted(tmp_path, volumes(tmp_path / "raw", {"a": near}), "nnlandmark")
    array = nib.load(target / "labelsTr" / "a.nii.gz").get_fdata()
    assert [(array == v).sum() for v in (1, 2, 3)] == [1, 1, 27]
    near[1] = near[0] + 0.25
    raw = volumes(tmp_path / "other", {"a": near})
    assert main([str(raw), "--to", "nnlandmark", "-o", str(tmp_path / "x")]) == 2
    assert "landmarks in one voxel" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_predictions_of_pictures_need_images_and_the_size_of_a_pixel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = predictions(tmp_path / "predicted", {case: p * PIXEL for case, p in PIXELS.items()})
    raw = pictures(tmp_path / "raw")
    images = str(raw / "imagesTr")
    words = [str(source), "--to", "coco", "-o", str(tmp_path / "x")]
    for options, message in (
        ((), "--images"),
        (("--images", images), "nothing says how large a pixel is"),
        (("--images", str(tmp_path / "nowhere")), "nowhere"),
        (("--split", "Tr"), "--split divides a raw dataset"),
    ):
        assert main([*words, *options]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x").exists()
    for i, options in enumerate((["--dataset", str(raw)], ["--images", images, "--spacing", str(PIXEL)])):
        target = tmp_path / f"x{i}"
        assert main([*words[:-1], str(target), *options]) == 0
        assert "1 absent and 0 unknown landmarks are both written as missing" in capsys.readouterr().out
        found = json.loads((target / "annotations.json").read_text())["annotations"][0]["keypoints"]
        np.testing.assert_allclose(np.reshape(found, (-1, 3))[:, :2], PIXELS["a"], atol=1e-6)


@pytest.mark.parametrize("form", ["coco", "csv", "tps", "nts", "bids", "nnlandmark"])
def test_a_radiograph_in_a_volume_of_one_slice_is_a_picture(form: str, tmp_path: Path) -> None:
    raw, grid = tmp_path / "raw", Geometry.from_parts((1, 30, 40), (1.0, 0.25, 0.25), (5.0, -6.0, 7.0))
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "landmarksTr").mkdir()
    image = Image(np.random.default_rng(0).random((1, 1, 30, 40)).astype(np.float32), grid)
    points = {case: grid.to_physical(np.pad(p[:, ::-1], ((0, 0), (1, 0)))) for case, p in PIXELS.items()}
    for case, mm in points.items():
        write_image(raw / "imagesTr" / f"{case}_0000.nii.gz", image)
        write(raw / "landmarksTr" / f"{case}.mrk.json", marks(mm))
    content = {"channel_names": {"0": "X"}, "file_ending": ".nii.gz", "landmarks": {name: {} for name in NAMES}}
    (raw / "dataset.json").write_text(json.dumps(content))
    target = converted(tmp_path, raw, form)
    source = {"csv": "points.csv", "tps": "landmarks.tps", "nts": "landmarks.nts"}.get(form, "")
    if form == "coco":
        found = json.loads((target / "annotations.json").read_text())
        assert (found["images"][0]["width"], found["images"][0]["height"]) == (40, 30)
    if form == "bids":
        assert len(list(target.rglob("*.fcsv"))) == 2
        return
    options = {"tps": ["--scale", "ignore", "--negatives", "missing"]}.get(form, [])
    options += ["--y-from", "bottom"] if form in ("tps", "nts") else []
    options += [] if form == "nnlandmark" else ["--images", str(raw / "imagesTr")]
    same(again(tmp_path, form, target / source, *options), points)


def test_predictions_in_pixels_need_no_images_for_csv(tmp_path: Path) -> None:
    source = predictions(tmp_path / "predicted", PIXELS, unit="px")
    table = pd.read_csv(converted(tmp_path, source, "csv") / "points.csv", index_col="image")
    assert table.loc["a", "Nasion_y"] == 5.5 and "spacing(mm)" not in table


def test_what_is_there_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, target = volumes(tmp_path / "raw"), tmp_path / "out"
    target.mkdir()
    (target / "letter.txt").write_text("theirs")
    for form in WRITERS:
        assert main([str(raw), "--to", form, "-o", str(target)]) == 2
        assert "is there already" in capsys.readouterr().err
    assert [p.name for p in target.iterdir()] == ["letter.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]


@pytest.mark.parametrize(
    ("form", "case", "message"),
    [
        ("nts", "a b", "names without blanks"),
        ("bids", "äöü", "letters or digits"),
    ],
)
def test_odd_names_of_cases_are_refused(
    form: str, case: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = volumes(tmp_path / "raw", {case: VOXELS["a"]})
    assert main([str(raw), "--to", form, "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_names_that_collide_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = volumes(tmp_path / "raw", {"a_b": VOXELS["a"], "a-b": VOXELS["a"]})
    assert main([str(raw), "--to", "bids", "-o", str(tmp_path / "out")]) == 2
    assert "a_b as sub-ab_desc-groundtruth" in capsys.readouterr().err
    source = predictions(tmp_path / "predicted", {"K1": POINTS["a"], "k1": POINTS["a"]})
    assert main([str(source), "--to", "mrk.json", "-o", str(tmp_path / "out")]) == 2
    assert "capital letters" in capsys.readouterr().err
    (source / "landmarks.csv").write_text("case,landmark,x,y,z\n../evil,N,1,2,3\n")
    assert main([str(source), "--to", "mrk.json", "-o", str(tmp_path / "out")]) == 2
    assert "a name that no file can have" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predicted", "raw"]


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat, deep = pictures(tmp_path / "flat"), volumes(tmp_path / "deep")
    outside = pictures(tmp_path / "outside", {"a": PIXELS["a"] - [11, 0], "b": PIXELS["b"]})
    broad = pictures(tmp_path / "broad")
    content = json.loads((broad / "dataset.json").read_text())
    (broad / "dataset.json").write_text(json.dumps(content | {"spacing": [0.25, 0.5]}))
    tiny = pictures(tmp_path / "tiny")
    (tiny / "dataset.json").write_text(json.dumps(content | {"spacing": [1e-200, 1.0]}))
    for source, form, message in (
        (deep, "coco", "points of volumes"),
        (flat, "bids", "pictures"),
        (deep, "morphologika", "points that are not present"),
        (outside, "tps", "both missing points and points outside their picture"),
        (broad, "tps", "only square pixels"),
        (broad, "nts", "only square pixels"),
        (tiny, "csv", "size of a voxel makes no sense"),
        (deep, "stl", "cannot be converted to 'stl'"),
        (tmp_path / "gone", "csv", "missing"),
        (deep / "imagesTr", "csv", "no points to convert"),
    ):
        assert main([str(source), "--to", form, "-o", str(tmp_path / "out")]) == 2
        errors = capsys.readouterr().err
        assert message in errors and "Traceback" not in errors
        assert not (tmp_path / "out").exists()
