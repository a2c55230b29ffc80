"""Each recipe, end to end on a tiny stand-in of the layout that its source documents: convert, check, plan."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from autolmk.annotations.formats import Format, Options
from autolmk.cli.public_recipe import main
from autolmk.dataset import Dataset
from autolmk.errors import AutolmkError
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.importing import ImportResult, import_source
from autolmk.landmarks import Status
from autolmk.planners.heatmap import HeatmapPlanner
from autolmk.planning.planner import plan_dataset
from autolmk.planning.request import PlanRequest
from autolmk.recipes import DATASETS, RecipeChoices
from autolmk.recipes.afids import NAMES as AFIDS

WIDTH, HEIGHT = 40, 48
SHAPE = (20, 24, 28)  # z, y, x
GRID = Geometry.from_parts(SHAPE, (2.0, 1.0, 0.5), (5.0, -6.0, 7.0))
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preview of an import, which is tested elsewhere, takes longer to draw than all the rest."""
    monkeypatch.setattr("autolmk.importing.importer.write_preview", lambda dataset, case, file: None)


def spots(n: int, seed: int) -> FloatArray:
    """(n, 3) whole voxels x, y, z inside SHAPE, each once."""
    numbers = np.random.default_rng(seed).choice(16**3, n, replace=False)
    return np.stack(np.unravel_index(numbers, (16, 16, 16)), axis=1).astype(np.float64) + 2


def pixels(n: int, seed: int) -> FloatArray:
    """(n, 2) pixels x, y."""
    return spots(n, seed)[:, :2] * [2.0, 2.25]


def mm(voxels: FloatArray) -> FloatArray:
    return GRID.to_physical(voxels[:, ::-1])


def volume(file: Path, seed: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).random((1, *SHAPE)).astype(np.float32)
    write_image(file, Image(array, GRID))
    return file


def picture(file: Path, seed: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
    return file


def text(file: Path, content: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def fcsv(file: Path, ras: FloatArray, labels: Sequence[str], descriptions: Sequence[str], frame: str | None) -> Path:
    header = "# Markups fiducial file version = 4.6\n" + (f"# CoordinateSystem = {frame}\n" if frame else "")
    rows = "".join(
        f"vtkMRMLMarkupsFiducialNode_{i},{x},{y},{z},0,0,0,1,1,1,0,{label},{description},\n"
        for i, ((x, y, z), label, description) in enumerate(zip(ras, labels, descriptions, strict=True))
    )
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    return text(file, header + columns + rows)


def afids(folder: Path) -> None:
    for dataset, subject in (("AFIDs-HCP", "103111"), ("AFIDs-HCP", "103414"), ("AFIDs-OASIS", "0114")):
        root, stem = folder / dataset, f"sub-{subject}"
        volume(root / stem / "anat" / f"{stem}_acq-x_T1w.nii.gz", int(subject))
        truth = root / "derivatives" / "afids_groundtruth" / stem / "anat"
        ras = mm(spots(32, int(subject))) * [-1, -1, 1]
        fcsv(truth / f"{stem}_acq-x_space-T1w_desc-groundtruth_afids.fcsv", ras, [str(i) for i in range(1, 33)],
             AFIDS, "0")  # fmt: skip


def mml(folder: Path) -> None:
    for i, (part, case) in enumerate((("train", "a"), ("train", "b"), ("val", "c"), ("test", "d"))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        array = np.random.default_rng(i).random(SHAPE[::-1]).astype(np.float32)
        header = {"space directions": np.eye(3), "space": "left-posterior-superior", "space origin": [0, 0, 0]}
        nrrd.write(str(folder / part / f"{case}_volume.nrrd"), array, header)
        points = spots(14, i)
        points[3] = -1000.0
        np.save(folder / part / f"{case}_label.npy", points)
        np.save(folder / part / f"{case}_spacing.npy", np.array([0.5, 1.0, 2.0]))


def lfc(folder: Path) -> None:
    for i, (part, case) in enumerate((("train", "1"), ("train", "2"), ("valid", "3"), ("test", "4"))):
        volume(folder / part / f"{case}.nii.gz", i)
        points = mm(spots(12, i)).reshape(6, 2, 3)
        for k, ends in enumerate(points):
            markup = {
                "type": "Line",
                "coordinateSystem": "LPS",
                "controlPoints": [{"id": "1", "position": end.tolist()} for end in ends],
                "measurements": [{"name": "length", "value": 1.0}],
            }
            text(folder / f"{part}_label" / case / f"L_{k + 1}.json", json.dumps({"markups": [markup]}))


def feta(folder: Path) -> None:
    for i in range(3):
        case = f"sub-{i + 1:03d}"
        volume(folder / "derivatives" / "im_reo" / case / "anat" / f"{case}_rec-mial_T2w.nii.gz", i)
        volume(folder / case / "anat" / f"{case}_rec-mial_T2w.nii.gz", i)
        mask = np.zeros((1, *SHAPE), dtype=np.float32)
        for k, voxel in enumerate(spots(10, i)):
            if i or k > 1:  # the first case lacks LCC
                mask[(0, *voxel[::-1].astype(int))] = k // 2 + 1
        file = folder / "derivatives" / "biometry" / case / "anat" / f"{case}_rec-mial_meas.nii.gz"
        file.parent.mkdir(parents=True)
        write_image(file, Image(mask, GRID))


def pddca(folder: Path) -> None:
    for i, case in enumerate(("0522c0001", "0522c0002", "0522c0009")):
        volume(folder / case / "img.nrrd", i)
        volume(folder / case / "structures" / "Mandible.nrrd", i)
        names = ("chin", "mand_l", "mand_r", "odont_proc", "occ_bone")
        if i < 2:
            fcsv(folder / case / f"Landmarks_{case[-4:]}.fcsv", mm(spots(5, i)) * [-1, -1, 1], names, [""] * 5, None)


def isbi2015(folder: Path) -> None:
    for i, (number, place) in enumerate(
        ((1, "TrainingData"), (2, "TrainingData"), (151, "Test1Data"), (301, "Test2Data"))
    ):
        picture(folder / "RawImage" / place / f"{number:03d}.bmp", i)
        for shift, annotator in ((0, "junior"), (2, "senior")):
            rows = "".join(f"{x},{y}\n" for x, y in pixels(19, i) + np.array([shift, 0]))
            text(folder / "AnnotationsByMD" / f"400_{annotator}" / f"{number:03d}.txt", rows + "1\n2\n")


def cl_detection(folder: Path) -> None:
    points = []
    for image in (1, 2):
        picture(folder / "images" / f"{image}.png", image)
        for k, (x, y) in enumerate(pixels(38, image), start=1):
            points.append({"name": str(k), "point": [x, y, image], "scale": "0.1"})
    text(folder / "train-gt.json", json.dumps({"name": "Orthodontic landmarks", "points": points}))


def aariz(folder: Path) -> None:
    rows = ["cephalogram_id,machine,pixel_size,image_format,mode"]
    for i, (part, case) in enumerate((("train", "ck1"), ("valid", "ck2"), ("test", "ck3"))):
        picture(folder / part / "Cephalograms" / f"{case}.png", i)
        rows.append(f"{case},X,0.{i + 1},png,{part}")
        for shift, group in ((0, "Junior Orthodontists"), (1, "Senior Orthodontists")):
            marks = [
                {"landmark_id": str(k), "title": f"T{k}", "symbol": s, "value": {"x": x + shift, "y": y}}
                for k, (s, (x, y)) in enumerate(zip(("A", "ANS", "N`"), pixels(3, i), strict=True))
            ]
            file = folder / part / "Annotations" / "Cephalometric Landmarks" / group / f"{case}.json"
            text(file, json.dumps({"ceph_id": case, "landmarks": marks}))
    text(folder / "cephalogram_machine_mappings.csv", "\n".join(rows) + "\n")


def aasce(folder: Path) -> None:
    for i, (part, names) in enumerate((("training", ["a b 1.jpg", "c.jpg"]), ("test", ["d.jpg"]))):
        rows = []
        for j, name in enumerate(names):
            picture(folder / "boostnet_labeldata" / "data" / part / name, 10 * i + j)
            share = pixels(68, 10 * i + j) / [WIDTH, HEIGHT]
            rows.append(",".join(f"{v:.10f}" for v in share.T.ravel()))
        labels = folder / "boostnet_labeldata" / "labels" / part
        text(labels / "filenames.csv", "\n".join(names) + "\n")
        text(labels / "landmarks.csv", "\n".join(rows) + "\n")


def verse(folder: Path) -> None:
    for i, (part, case) in enumerate((("training", "verse004"), ("validation", "gl007"), ("test", "verse010"))):
        volume(folder / part / "rawdata" / f"sub-{case}" / f"sub-{case}_dir-ax_ct.nii.gz", i)
        entries = [
            {"label": k, **dict(zip("XYZ", v, strict=True))}
            for k, v in zip((20, 21), spots(2, i).tolist(), strict=True)
        ]
        content = [{"direction": ["L", "P", "S"]}, *(entries if i else entries[:1])]
        place = folder / part / "derivatives" / f"sub-{case}"
        text(place / f"sub-{case}_dir-ax_seg-subreg_ctd.json", json.dumps(content))


def hands(folder: Path) -> None:
    rows = []
    for i, case in enumerate(("3128", "3129", "3130")):
        picture(folder / "jpg" / f"{case}.jpg", i)
        rows.append(",".join([case, *(str(int(v)) for v in pixels(37, i).ravel())]))
    text(folder / "setup" / "all.csv", "\n".join(rows) + "\n")
    text(folder / "setup" / "cv1" / "test.txt", "3129\n")


def deeplabcut(folder: Path) -> None:
    for i, video in enumerate(("m1", "m2")):
        rows = ["scorer,me,me,me,me", "bodyparts,nose,nose,tail,tail", "coords,x,y,x,y"]
        for frame in range(2):
            picture(folder / "labeled-data" / video / f"img{frame}.png", 10 * i + frame)
            (a, b), (c, d) = pixels(2, 10 * i + frame)
            rows.append(f"labeled-data/{video}/img{frame}.png,{a},{b},{c},{d}")
        text(folder / "labeled-data" / video / "CollectedData_me.csv", "\n".join(rows) + "\n")


STAND_INS: dict[str, Callable[[Path], None]] = {
    "afids": afids,
    "mml": mml,
    "lfc": lfc,
    "feta": feta,
    "pddca": pddca,
    "isbi2015": isbi2015,
    "cl-detection": cl_detection,
    "aariz": aariz,
    "aasce": aasce,
    "verse": verse,
    "hands": hands,
    "deeplabcut": deeplabcut,
}
ALIKE = {"afids-hcp": "afids", "afids-oasis": "afids", "afids-snsx": "afids", "prostate": "pddca"}
PARTS = {  # training and test cases
    "afids": (["AFIDs-HCP_sub-103111", "AFIDs-HCP_sub-103414", "AFIDs-OASIS_sub-0114"], []),
    "mml": (["a", "b", "c"], ["d"]),
    "lfc": (["1", "2", "3"], ["4"]),
    "feta": (["sub-001", "sub-002", "sub-003"], []),
    "pddca": (["0522c0001", "0522c0002"], []),
    "isbi2015": (["001", "002"], ["151", "301"]),
    "cl-detection": (["1", "2"], []),
    "aariz": (["ck1", "ck2"], ["ck3"]),
    "aasce": (["a b 1", "c"], ["d"]),
    "verse": (["sub-gl007_dir-ax_ct", "sub-verse004_dir-ax_ct"], ["sub-verse010_dir-ax_ct"]),
    "hands": (["3128", "3129", "3130"], []),
    "deeplabcut": (["m1__img0", "m1__img1", "m2__img0", "m2__img1"], []),
}


def converted(tmp_path: Path, name: str, choices: RecipeChoices | None = None) -> ImportResult:
    source = tmp_path / "source"
    if not source.exists():
        STAND_INS[ALIKE.get(name, name)](source)
    dataset = DATASETS[name]
    form = Format(
        name, name, lambda path: False, lambda path, options: dataset.imported(path, choices or RecipeChoices())
    )
    target = tmp_path / "raw" / dataset.folder
    return import_source(form, source, target, options=Options(unlisted=dataset.unlisted), progress=False)


def truth(name: str, seed: int) -> FloatArray:
    """Voxels or pixels of the first landmarks of a case."""
    return {"afids": spots(32, 103111)[:2], "mml": spots(14, 0)[:2], "lfc": spots(12, 0)[4:6], "pddca": spots(5, 0)[:2],
            "verse": spots(2, 1)}.get(name, pixels({"isbi2015": 19, "cl-detection": 38, "aariz": 3, "aasce": 68,
            "hands": 37, "deeplabcut": 2}.get(name, 2), seed)[:2])  # fmt: skip


@pytest.mark.parametrize("name", STAND_INS)
def test_stand_in_is_converted_with_its_points_checked_and_planned(name: str, tmp_path: Path) -> None:
    result = converted(tmp_path, name)
    assert result.report.exit_code == 0, result.report.text()
    dataset = Dataset.open(result.folder)
    training, test = PARTS[name]
    assert [case.identifier for case in dataset.cases("Tr")] == training
    assert [case.identifier for case in dataset.cases("Ts")] == test
    request = PlanRequest.of(result.report.fingerprint(), "cpu", preset="XS")
    plans = plan_dataset(request, {"heatmap": HeatmapPlanner()}, plans_name="autolmkPlans")
    (configuration,) = plans.configurations.values()
    assert plans.unit == ("px" if name in ("aasce", "hands", "deeplabcut") else "mm")
    assert len(configuration.patch_size) == dataset.ndim
    if name != "feta":
        require_points_of_the_source(name, dataset)


def require_points_of_the_source(name: str, dataset: Dataset) -> None:
    """In the first training case."""
    case = dataset.cases("Tr")[0]
    geometry = dataset.read_geometry(case)
    voxels = geometry.to_voxels(dataset.read_landmarks(case, geometry).points)[:, ::-1]
    expected = truth(name, {"cl-detection": 1}.get(name, 0))
    if name in ("isbi2015", "aariz"):  # the mean of two
        expected = expected + np.array([1.0 if name == "isbi2015" else 0.5, 0])
    expected = expected.astype(int) if name == "hands" else expected
    np.testing.assert_allclose(voxels[: len(expected)], expected, atol=1e-4)


def test_feta_names_ends_by_their_voxels_and_takes_a_lacking_measure_for_unknown(tmp_path: Path) -> None:
    dataset = Dataset.open(converted(tmp_path, "feta").folder)
    first, second, _ = dataset.cases("Tr")
    lacking = dataset.read_landmarks(first, dataset.read_geometry(first))
    assert lacking.status[:2].tolist() == [Status.UNKNOWN] * 2 and lacking.present[2:].all()
    geometry = dataset.read_geometry(second)
    voxels = geometry.to_voxels(dataset.read_landmarks(second, geometry).points)[:, ::-1]
    ends = sorted(spots(10, 1)[:2].tolist())
    np.testing.assert_allclose(voxels[:2], ends, atol=1e-4)
    assert dataset.landmark_names[:2] == ("LCC_1", "LCC_2")
    assert dataset.description.measurements is not None and set(dataset.description.measurements) == {
        "LCC", "HV", "bBIP", "sBIP", "TCD",
    }  # fmt: skip


def test_mml_takes_the_size_of_voxels_from_its_own_file_and_absence_from_the_code(tmp_path: Path) -> None:
    dataset = Dataset.open(converted(tmp_path, "mml").folder)
    case = dataset.cases("Tr")[0]
    geometry = dataset.read_geometry(case)
    assert geometry.spacing == pytest.approx((2.0, 1.0, 0.5))
    assert dataset.read_landmarks(case, geometry).status[3] == Status.ABSENT


def test_afids_have_pairs_and_subjects(tmp_path: Path) -> None:
    dataset = Dataset.open(converted(tmp_path, "afids").folder)
    assert ("L MB", "R MB") in dataset.pairs and len(dataset.pairs) == 11
    assert dataset.cases()[0].subject == "sub-103111"


def test_verse_calls_what_is_not_listed_absent_and_refuses_centroids_of_another_grid(tmp_path: Path) -> None:
    dataset = Dataset.open(converted(tmp_path, "verse").folder)
    case = dataset.cases("Tr")[1]
    assert dataset.read_landmarks(case, dataset.read_geometry(case)).status.tolist() == [Status.PRESENT, Status.ABSENT]
    file = next((tmp_path / "source").rglob("*_ctd.json"))
    file.rename(file.with_name("verse004_CT-ax_iso-ctd.json"))
    with pytest.raises(AutolmkError, match="subject based structure"):
        DATASETS["verse"].imported(tmp_path / "source", RecipeChoices())


@pytest.mark.parametrize("annotator", ["junior", "senior"])
def test_annotators_can_be_chosen(annotator: str, tmp_path: Path) -> None:
    aariz(tmp_path)
    found = DATASETS["aariz"].imported(tmp_path, RecipeChoices(annotator=annotator))  # type: ignore[arg-type]
    np.testing.assert_allclose(found.cases[0].annotation.points, pixels(3, 0) + np.array([annotator == "senior", 0]))


@pytest.mark.parametrize("name", STAND_INS)
def test_other_layouts_are_refused_with_the_right_one(name: str, tmp_path: Path) -> None:
    text(tmp_path / "letter.doc", "theirs")
    with pytest.raises(AutolmkError) as caught:
        DATASETS[name].imported(tmp_path, RecipeChoices())
    assert DATASETS[name].layout[0] in str(caught.value)


@pytest.mark.parametrize("name", ["pddca", "aasce", "hands"])
def test_points_beside_their_images_are_refused(name: str, tmp_path: Path) -> None:
    STAND_INS[name](tmp_path)
    for file in [*tmp_path.rglob("*.fcsv"), *tmp_path.rglob("landmarks.csv"), *tmp_path.rglob("all.csv")]:
        content = file.read_text()
        if name == "pddca":
            content = content.replace("# columns", "# CoordinateSystem = LPS\n# columns")
        elif name == "aasce":
            content = content.replace(",0.", ",9.")
        else:
            content = "\n".join(
                ",".join(r.split(",")[:1] + [v + "0" for v in r.split(",")[1:]]) for r in content.split()
            )
        file.write_text(content)
    with pytest.raises(AutolmkError, match="do not lie on its images"):
        DATASETS[name].imported(tmp_path, RecipeChoices())


def test_a_published_split_divides_the_cases_and_must_name_those_that_are_there(tmp_path: Path) -> None:
    split = tmp_path / "split_Dataset732_Afids.json"
    names = PARTS["afids"][0]
    split.write_text(json.dumps({"imagesTr": names[:2], "imagesTs": names[2:], "all": names}))
    dataset = Dataset.open(converted(tmp_path, "afids", RecipeChoices(split=split)).folder)
    assert [case.identifier for case in dataset.cases("Ts")] == names[2:]
    hands(tmp_path / "hands")
    listed = RecipeChoices(split=tmp_path / "hands" / "setup" / "cv1" / "test.txt")
    found = DATASETS["hands"].imported(tmp_path / "hands", listed)
    assert [case.identifier for case in found.cases if case.test] == ["3129"]
    for parts, message in (
        ({"imagesTr": names, "imagesTs": names[2:]}, "in two parts"),
        ({"imagesTr": names[:2], "imagesTs": ["AFIDs-OASIS_sub-0115"]}, "did you mean 'AFIDs-OASIS_sub-0114'"),
        ({"train": names}, "no file of parts"),
        ({"imagesTr": [], "imagesTs": names}, "no case for training"),
    ):
        split.write_text(json.dumps(parts))
        with pytest.raises(AutolmkError, match=message):
            DATASETS["afids"].imported(tmp_path / "source", RecipeChoices(split=split))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    mml(tmp_path / "mml")
    np.save(tmp_path / "mml" / "val" / "c_label.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(AutolmkError, match=r"c_label\.npy"):
        DATASETS["mml"].imported(tmp_path / "mml", RecipeChoices())
    (tmp_path / "mml" / "val" / "c_label.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((((((\n")
    with pytest.raises(AutolmkError, match=r"c_label\.npy"):
        DATASETS["mml"].imported(tmp_path / "mml", RecipeChoices())
    np.save(tmp_path / "mml" / "val" / "c_label.npy", spots(14, 2))
    np.save(tmp_path / "mml" / "val" / "c_spacing.npy", np.array([1e-200, 1.0, 1.0]))
    with pytest.raises(AutolmkError, match="size of a voxel makes no sense"):
        DATASETS["mml"].imported(tmp_path / "mml", RecipeChoices())
    afids(tmp_path / "afids")
    for file in (tmp_path / "afids").rglob("*.fcsv"):
        file.write_text("# Markups fiducial file version = 4.6\n")
    with pytest.raises(AutolmkError, match="no image of the source has points"):
        DATASETS["afids"].imported(tmp_path / "afids", RecipeChoices())
    lfc(tmp_path / "lfc")
    (tmp_path / "lfc" / "train_label" / "1" / "L_6.json").unlink()
    with pytest.raises(AutolmkError, match="5 files"):
        DATASETS["lfc"].imported(tmp_path / "lfc", RecipeChoices())
    feta(tmp_path / "feta")
    mask = next((tmp_path / "feta").rglob("sub-003*_meas.nii.gz"))
    array = np.zeros((1, *SHAPE), dtype=np.float32)
    array[0, 3, 3, 3] = 1
    write_image(mask, Image(array, GRID))
    with pytest.raises(AutolmkError, match="1 voxels of the value 1"):
        DATASETS["feta"].imported(tmp_path / "feta", RecipeChoices())


def test_every_recipe_has_its_facts_and_a_name_of_its_own() -> None:
    folders = [dataset.folder for dataset in DATASETS.values()]
    assert len(set(folders)) == len(folders) == len(STAND_INS) + len(ALIKE)
    for dataset in DATASETS.values():
        for field in dataclasses.fields(dataset):
            assert field.name in ("published", "not_known", "annotators") or getattr(dataset, field.name), field.name
        for published in dataset.published:
            assert published.reference and (published.mre is not None or published.other)


def test_command_lists_shows_converts_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(DATASETS)
    assert main(["PDDCA"]) == 0
    shown = capsys.readouterr().out
    assert "proposed there: MRE 2.13 mm (SD 1.18)" in shown and "autolmk_recipe pddca --source FOLDER" in shown
    pddca(tmp_path / "source")
    words = ["pddca", "--source", str(tmp_path / "source"), "--raw", str(tmp_path / "raw")]
    assert main(words) == 0
    assert "Dataset740_PDDCA: 2 training and 0 test cases" in capsys.readouterr().out
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err
    summary = {
        "unit": "mm",
        "n_cases": 2,
        "overall": {"mre": {"value": 1.5}, "sd": 0.5, "sdr": {"2.0": {"value": 0.75}, "3.0": {"value": None}}},
    }
    text(tmp_path / "evaluated" / "summary.json", json.dumps(summary))
    assert main(["pddca", "--compare", str(tmp_path / "evaluated")]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:4] == ["method", "MRE", "mm", "SD"]
    assert any(line.startswith("here") and "1.50" in line and "75.00" in line for line in table)
    assert any(line.startswith("SA-LSTM") and "56.36" in line for line in table)


def test_command_refuses_what_makes_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text(tmp_path / "summary.json", "{}")
    for words, message in (
        (["afid"], "did you mean 'afids'"),
        (["list", "--source", str(tmp_path)], "a list needs no more"),
        (["mml", "--source", str(tmp_path), "--compare", str(tmp_path)], "one thing at a time"),
        (["mml", "--source", str(tmp_path), "--annotator", "mean"], "one set of points"),
        (["mml", "--source", str(tmp_path / "gone")], "is missing"),
        (["mml", "--compare", str(tmp_path)], "no summary of errors"),
    ):
        assert main([*words, "--raw", str(tmp_path / "raw")]) == 2
        errors = capsys.readouterr().err
        assert message in errors and "Traceback" not in errors
