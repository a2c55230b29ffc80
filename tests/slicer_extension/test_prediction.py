"""The Slicer extension's logic: a process that it follows, points as shown, corrected points as training data."""

from __future__ import annotations

import ast
import json
import os
import runpy
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autolmk.annotations import mrk_json
from autolmk.dataset import Dataset
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.landmarks import Landmarks, Status

MODULE = Path(__file__).parents[2] / "slicer" / "AutolmkPredict"
sys.path.insert(0, str(MODULE))

from AutolmkPredictLib.points import Point, flipped, read_points  # noqa: E402
from AutolmkPredictLib.prediction import Prediction  # noqa: E402

FAKE = """
import json, pathlib, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
images, out = pathlib.Path(given["-i"]), pathlib.Path(given["-o"])
case = sorted(images.iterdir())[0].name[: -len("_0000.nii.gz")]
say = lambda **event: print(json.dumps(event), flush=True)
say(event="case", case=case, ended=0, total=1)
say(event="stage", case=case, ended=0, total=1, stage="predict")
print("a line that is no JSON", flush=True)
say(event="not known yet", case=case)
MODE
out.mkdir()
(out / f"{case}.mrk.json").write_text(POINTS)
(out / "landmarks.csv").write_text(f"case,landmark,flags,outside\\n{case},B,far from its neighbours,\\n")
say(event="finished", total=1, failed=0, output=str(out), points={case: str(out / f"{case}.mrk.json")},
    tables={"landmarks.csv": str(out / "landmarks.csv")})
"""
FAILS = 'say(event="failed", case=case, message="too dark"); sys.exit(3)'
DIES = 'print("Traceback: no such thing", file=sys.stderr); sys.exit(1)'
HANGS = "import time; time.sleep(600)"
LANDMARKS = Landmarks(
    ("A", "B", "C"),
    np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [np.nan] * 3]),
    np.array([Status.PRESENT, Status.PRESENT, Status.ABSENT]),
    np.array([0.99, 0.6, 0.1]),
    np.array([1.0, 3.0, np.nan]),
)


def a_prediction(folder: Path, mode: str = "") -> Prediction:
    """Of a command that says what MODE does."""
    points = folder / "points.mrk.json"
    mrk_json.write(points, LANDMARKS)
    script = folder / "fake.py"
    script.write_text(FAKE.replace("MODE", mode).replace("POINTS", repr(points.read_text())))
    return Prediction([sys.executable, str(script)], {"PATH": os.environ["PATH"], "PYTHONHOME": "/nowhere"})


@pytest.fixture
def predict(tmp_path: Path) -> Iterator[object]:
    made = []

    def run(mode: str = "") -> Prediction:
        prediction = a_prediction(tmp_path, mode)
        made.append(prediction)
        (file,) = prediction.inputs("head", 1)
        Path(file).write_bytes(b"an image")
        prediction.start("a model")
        return prediction

    yield run
    for prediction in made:
        prediction.close()


def until_ended(prediction: Prediction) -> None:
    while prediction.poll():
        time.sleep(0.01)


def test_points_come_with_all_that_is_said_of_them(predict) -> None:  # type: ignore[no-untyped-def]
    prediction = predict()
    until_ended(prediction)
    assert prediction.error == "" and prediction.progress == 1.0 and not prediction.running
    a, b, c = prediction.points
    assert (a.name, a.position, a.likelihood, a.error_radius) == ("A", (1.0, 2.0, 3.0), 0.99, 1.0)
    assert b.description() == "likelihood 0.60, error radius 3.0 mm, far from its neighbours"
    assert c.position is None and c.status == "missing"
    assert [p.group(2.0, 4.0) for p in (a, b)] == ["sure", "less sure"]


@pytest.mark.parametrize("mode, said", [(FAILS, "too dark"), (DIES, "exit code 1: Traceback: no such thing")])
def test_a_failure_is_said(predict, mode: str, said: str) -> None:  # type: ignore[no-untyped-def]
    prediction = predict(mode)
    until_ended(prediction)
    assert said in prediction.error and prediction.points == [] and prediction.message == "failed"


def test_a_prediction_is_cancelled(predict) -> None:  # type: ignore[no-untyped-def]
    prediction = predict(HANGS)
    process = prediction._process
    assert prediction.poll() and process is not None
    with pytest.raises(ValueError, match="at work already"):
        prediction.start("a model")
    prediction.cancel()
    assert process.returncode is not None and not prediction.poll() and prediction.message == "cancelled"


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    prediction = Prediction(["autolmk_predict"], {"PATH": str(tmp_path)})
    prediction.inputs("head", 1)
    with pytest.raises(ValueError, match="autolmk_predict is not installed"):
        prediction.start("a model")
    prediction.close()


def test_sureness_by_radius_else_by_likelihood_and_never_sure_with_a_flag() -> None:
    def group(**values: object) -> str:
        return Point("A", (0.0, 0.0, 0.0), "defined", **values).group(2.0, 4.0)  # type: ignore[arg-type]

    assert [group(error_radius=r, likelihood=0.1) for r in (0.5, 2.0, 3.0, 4.0)] == [
        *("sure", "sure", "less sure", "unsure")
    ]
    assert [group(likelihood=p) for p in (0.95, 0.6, 0.2)] == ["sure", "less sure", "unsure"]
    assert group(error_radius=0.5, flags="far") == "less sure" and group() == "unsure"


def test_channels_of_a_folder_a_packed_one_and_a_bundle(tmp_path: Path) -> None:
    plans = json.dumps({"channel_names": ["T1", "T2"]})
    packed, bundle = tmp_path / "best", tmp_path / "model.autolmk.zip"
    (packed / "a_model").mkdir(parents=True)
    (packed / "a_model" / "plans.json").write_text(plans)
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("model/a_model/plans.json", plans)
        archive.writestr("model/a_model/deeper/plans.json", "{}")
    for model in (packed, packed / "a_model", bundle):
        assert Prediction.channels(str(model)) == ["T1", "T2"]
    for wrong in (tmp_path, tmp_path / "nothing.zip", tmp_path / "best" / "a_model" / "plans.json"):
        with pytest.raises(ValueError, match="no model of autolmk"):
            Prediction.channels(str(wrong))


def test_corrected_points_make_a_dataset_that_autolmk_reads(predict, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    prediction, dataset = predict(), tmp_path / "Dataset001_Heads"
    until_ended(prediction)
    (file,) = prediction.training_images(str(dataset), "head", 1)
    geometry = Geometry.from_parts((8, 9, 10), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    write_image(Path(file), Image(np.arange(720, dtype=np.float32).reshape(1, 8, 9, 10), geometry))
    places = {"A": (1.5, 2.0, 3.0), "B": (4.0, 5.0, 6.0)}
    prediction.save_for_training(str(dataset), "head", places, ["CT"], absent=True)
    opened = Dataset.open(dataset)
    (case,) = opened.cases("Tr")
    landmarks = opened.read_landmarks(case, geometry)
    assert landmarks.names == ("A", "B", "C")
    np.testing.assert_array_equal(landmarks.points[:2], [[1.5, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert landmarks.status.tolist() == [Status.PRESENT, Status.PRESENT, Status.ABSENT]
    with pytest.raises(ValueError, match="holds this case already"):
        prediction.training_images(str(dataset), "head", 1)


def test_what_nobody_placed_is_unknown_unless_it_is_said_to_be_absent(predict, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    prediction = predict()
    until_ended(prediction)
    for absent, status in ((False, "undefined"), (True, "missing")):
        file = prediction.save_for_training(str(tmp_path / "D"), f"c{absent}", {"A": (0, 0, 0)}, ["CT"], absent=absent)
        assert {p.name: p.status for p in read_points(Path(file), None, "c")} == {
            "A": "defined",
            "B": "undefined",
            "C": status,
        }


@pytest.mark.parametrize("name", ["", "../head", "a/b", ".hidden", "a b"])
def test_names_that_leave_the_folder_are_refused(predict, tmp_path: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="must be letters"):
        Prediction.training_images(str(tmp_path / "D"), name, 1)
    assert not (tmp_path / "D").exists()


def test_ras_and_lps_are_each_others_inverse() -> None:
    assert flipped((1.0, -2.0, 3.0)) == (-1.0, 2.0, 3.0) and flipped(flipped((1.0, 2.0, 3.0))) == (1.0, 2.0, 3.0)


def test_the_installed_command_predicts(tmp_path: Path) -> None:
    """autolmk_predict itself, as a module of this Python."""
    blobs = runpy.run_path(str(Path(__file__).parents[1] / "prediction" / "test_predictor.py"))
    geometry = blobs["some_geometry"](1)
    points = blobs["some_points"](geometry)
    model = blobs["make_model"](tmp_path)
    prediction = Prediction(
        [sys.executable, "-c", "import sys; from autolmk.cli.predict import main; sys.exit(main())", "--trust-code"],
        dict(os.environ),
    )
    prediction.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    (file,) = prediction.inputs("blob", len(Prediction.channels(str(model))))
    write_image(Path(file), blobs["make_image"](geometry, points))
    prediction.start(str(model), "cpu")
    until_ended(prediction)
    assert prediction.error == ""
    np.testing.assert_allclose([p.position for p in prediction.points], points, atol=0.15)
    prediction.close()


def test_the_logic_imports_the_standard_library_alone() -> None:
    for file in (MODULE / "AutolmkPredictLib").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(), feature_version=(3, 9))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names or top == "AutolmkPredictLib", f"{file.name} imports {name}"


def test_the_lists_of_files_that_are_built_are_whole() -> None:
    listed = (MODULE / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", "AutolmkPredict")
    for file in MODULE.rglob("*.py"):
        assert f"  {file.relative_to(MODULE).as_posix()}\n" in listed
    assert "add_subdirectory(AutolmkPredict)" in (MODULE.parent / "CMakeLists.txt").read_text()
