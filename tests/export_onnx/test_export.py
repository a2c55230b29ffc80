"""Exported models find what Predictor finds, to 0.02 voxels, on every method, without torch and without autolmk."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from untrained import N, noise_image, untrained_model, untrained_plans

from autolmk import annotations
from autolmk.cli.export_onnx import main
from autolmk.codecs import HeatmapCodec
from autolmk.errors import AutolmkError
from autolmk.export_onnx import export_onnx, runner
from autolmk.export_onnx.runner_file import runner_source
from autolmk.files.locks import exclusive
from autolmk.files.serialization import to_json
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.landmarks import Landmarks, Status
from autolmk.plans import replace_configuration
from autolmk.postprocessing import Decision, Postprocessing
from autolmk.postprocessing.shape_prior import ShapePriorStep
from autolmk.prediction.predictor import Predictor
from autolmk.selection import Recipe, RecipeMember
from autolmk.selection.ensembling import equal_combination
from autolmk.selection.packing import pack
from autolmk.shapes.point_distribution import fit_shape_model
from autolmk.trainers.heatmap import HeatmapTrainer

PARITY = 0.02  # voxels
SMALL = 24  # voxels an axis
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "heatmap": ("heatmap", {}),
    "apga": ("apga", {}),
    "coordinates, then one fine network": (
        "coarse_to_fine",
        {"coarse": "coordinates", "weights": "shared", "size": 44},
    ),
    "heatmaps, then a fine network each": ("coarse_to_fine", {"coarse": "heatmap", "weights": "own"}),
    "global_to_local": ("global_to_local", {}),
}
GROUPED = ("coarse_to_fine", {"coarse": "heatmap", "weights": "own", "groups": True})

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'autolmk[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'autolmk[onnx]'")


@pytest.fixture(autouse=True)
def _no_remains() -> Iterator[None]:
    """Modules of a runner that ran within this process."""
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "run_onnx"]:
        del sys.modules[name]


def found_by_runner(exported: Path, image: Image) -> Any:
    """Landmarks, of the runner's own class."""
    runpy.run_path(str(exported / "run_onnx.py"))
    parts = {name: sys.modules[f"run_onnx.{name}"] for name in ("geometry", "image", "export_onnx.runner")}
    geometry = parts["geometry"].Geometry(image.geometry.shape, image.geometry.affine)
    return parts["export_onnx.runner"].Runner(exported).predict(parts["image"].Image(image.array, geometry))


def require_parity(model: Path, exported: Path, image: Image) -> Landmarks:
    expected = Predictor(model, device="cpu").predict(image.array, image.geometry)
    found = found_by_runner(exported, image)
    assert found.names == expected.names
    np.testing.assert_array_equal(found.status, expected.status)
    apart = np.linalg.norm(found.points - expected.points, axis=1) / min(image.geometry.spacing)
    assert np.nanmax(apart) < PARITY
    np.testing.assert_allclose(found.likelihood, expected.likelihood, atol=1e-4)
    np.testing.assert_allclose(found.error_radius, expected.error_radius, atol=1e-3)
    return expected


@pytest.mark.parametrize("method, options", METHODS.values(), ids=METHODS)
def test_planes_of_one_channel_by_two_folds(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = untrained_model(tmp_path, untrained_plans(method, 2, **options), folds=("0", "1"))
    found = require_parity(model, export_onnx(model, tmp_path / "onnx"), noise_image(2, seed=3))
    assert np.isfinite(found.points).all(axis=1).sum() >= N - 1


@pytest.mark.parametrize("method, options", [*METHODS.values(), GROUPED], ids=[*METHODS, "key slices"])
def test_volumes_of_two_channels(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = untrained_model(tmp_path, untrained_plans(method, 3, 2, **{"size": SMALL, **options}))
    require_parity(model, export_onnx(model, tmp_path / "onnx"), noise_image(3, 2, seed=4, size=SMALL))


def test_an_image_of_several_windows(tmp_path: Path) -> None:
    plans = untrained_plans("heatmap", 2)
    name = next(iter(plans.configurations))
    windows = plans.configurations[name].windows
    plans = replace_configuration(plans, name, patch_size=(16, 16), windows=type(windows)("random"))
    model = untrained_model(tmp_path, plans)
    require_parity(model, export_onnx(model, tmp_path / "onnx"), noise_image(2, seed=5))


def a_recipe(models: list[str], names: tuple[str, ...]) -> Recipe:
    """With a shape prior and a limit of its flags."""
    rng = np.random.default_rng(0)
    shape = rng.uniform(5, 30, (N, 2))
    cases = [Landmarks(names, shape + rng.normal(0, 1, (N, 2)), np.full(N, Status.PRESENT)) for _ in range(12)]
    fitted = fit_shape_model(cases)
    step = Decision("shape_prior", True, "a test", parameters=to_json(ShapePriorStep(fitted, (2.0,) * N, 0.5)))
    members = tuple(RecipeMember(model, ("0",)) for model in models)
    postprocessing = Postprocessing((step,), fitted)
    return Recipe("Dataset001_Literal", "mm", names, (), members, equal_combination(models), postprocessing)


def test_a_packed_ensemble_of_two_methods_with_a_shape_prior(tmp_path: Path) -> None:
    models = [untrained_model(tmp_path, untrained_plans(method, 2)) for method in ("heatmap", "global_to_local")]
    names = untrained_plans("heatmap", 2).landmarks
    pack(tmp_path / "best", tmp_path, a_recipe([m.name for m in models], names), lambda place: None)
    exported = export_onnx(tmp_path / "best", tmp_path / "onnx")
    require_parity(tmp_path / "best", exported, noise_image(2, seed=6))
    pipeline = json.loads((exported / "pipeline.json").read_text())
    assert len(pipeline["models"]) == 2 and pipeline["recipe"]["postprocessing"]["decisions"][0]["kept"]


def test_from_a_file_to_a_file_without_torch_and_without_autolmk(tmp_path: Path) -> None:
    model = untrained_model(tmp_path, untrained_plans("global_to_local", 3))
    image, points = tmp_path / "case_0000.nii.gz", tmp_path / "points.mrk.json"
    write_image(image, noise_image(3, seed=7))
    assert main(["-m", str(model), "-o", str(tmp_path / "onnx")]) == 0
    code = (
        "import sys, runpy\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'autolmk', 'nibabel', 'pydicom', 'onnx'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"sys.argv = [{str(tmp_path / 'onnx' / 'run_onnx.py')!r}, {str(image)!r}, '-o', {str(points)!r}]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = Predictor(model, device="cpu").predict_file(image)
    found = annotations.read(points)
    assert found.names == expected.names and found.frame == "LPS"
    np.testing.assert_allclose(found.points, expected.points, atol=PARITY * 0.9)


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = runner.main([str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "a.mrk.json"), "-m", str(tmp_path)])
    assert code == 2 and "copy the whole folder" in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    model = untrained_model(tmp_path, untrained_plans("heatmap", 2))
    with pytest.raises(AutolmkError, match="not empty"):
        export_onnx(model, model)


def test_two_exports_do_not_mix_in_one_folder(tmp_path: Path) -> None:
    """A folder that is being written to is left alone."""
    model, out = untrained_model(tmp_path, untrained_plans("heatmap", 2)), tmp_path / "onnx"
    out.mkdir()
    with exclusive(out), pytest.raises(AutolmkError, match="at work in this folder"):
        export_onnx(model, out)
    assert list(out.iterdir()) == []


def test_a_codec_that_the_runner_does_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(HeatmapCodec):
        pass

    def build_codec(self: HeatmapTrainer) -> Own:
        c = self.configuration
        sigma = [s / v for s, v in zip(c.sigma, c.spacing, strict=True)]
        return Own(self.n_landmarks, c.patch_size, c.architecture.output_stride, sigma)

    model = untrained_model(tmp_path, untrained_plans("heatmap", 2))
    monkeypatch.setattr(HeatmapTrainer, "build_codec", build_codec)
    with pytest.raises(AutolmkError, match="does not know how its codec decodes"):
        export_onnx(model, tmp_path / "onnx")
    assert list((tmp_path / "onnx").iterdir()) == []


def test_the_runner_is_one_file_that_imports_nothing_else() -> None:
    text = runner_source("1")
    found = re.findall(r"^\s*(?:from ([\w.]+) import|import ([\w.]+)(?: as \w+)?$)", text, re.M)
    imported = {(one or other).split(".")[0] for one, other in found}
    assert imported - set(sys.stdlib_module_names) == {"run_onnx", "numpy", "scipy", "SimpleITK", "onnxruntime"}
