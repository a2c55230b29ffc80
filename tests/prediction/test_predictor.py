"""Predictor: a model folder in, landmarks in the image's own millimetres out.

The model is a plug-in whose network is exact: `bright` is the brightest blob, `dark` the darkest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import autolmk
from autolmk.data.preprocessing import Preparation
from autolmk.errors import AutolmkError
from autolmk.files.serialization import write_json
from autolmk.fold import checkpoint
from autolmk.fold.measured import Measured
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import FloatImage, Image
from autolmk.imageio import write_image
from autolmk.methods.sources import keep_sources
from autolmk.methods.trainer import trainer_class
from autolmk.plans import Architecture, Augmentation, Configuration, Normalization, Plans, Schedule, Windows
from autolmk.prediction.model import Model, trained_folds
from autolmk.prediction.options import TestTime
from autolmk.prediction.predictor import Predictor

PLUGIN = """
import time

import torch
from autolmk.codecs import HeatmapCodec
from autolmk.methods.trainer import Trainer


class Extremes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, data):
        time.sleep(SLOW)
        x = self.gain * (data[:, :1] - data[:, :1].median())
        return torch.cat((x, -x), 1)


class BlobTrainer(Trainer):
    def build_network(self):
        return Extremes()

    def build_codec(self):
        c = self.configuration
        sigma = [s / v for s, v in zip(c.sigma, c.spacing)]
        return HeatmapCodec(self.n_landmarks, c.patch_size, c.architecture.output_stride, sigma)

    def loss(self, output, target, status):
        return output.sum()
"""
NAMES = ("bright", "dark")


def make_plans(*, ndim: int = 3, unit: Literal["mm", "px"] = "mm", trainer: str = "heatmap") -> Plans:
    configuration = Configuration(
        trainer=trainer,
        data_identifier="blobs",
        spacing=(1.0,) * ndim,
        patch_size=(32,) * ndim,
        batch_size=1,
        normalization=(Normalization("none"),),
        windows=Windows("random"),
        architecture=Architecture((4, 8), ((3,) * ndim,) * 2, ((1,) * ndim, (2,) * ndim), (1, 1), (1,), (1,) * ndim),
        sigma=(2.0,) * ndim,
        augmentation=Augmentation((0.0,) * ndim, (1.0, 1.0), (0.0,) * ndim),
        schedule=Schedule(1, 1, None, 1e-3, 0.0, 0.9, 0.1),
    )
    return Plans(
        "Dataset001_Blobs", "autolmkPlans", "heatmap", "XS", ndim, unit, ("intensity",), NAMES, (), ("dark",), "cpu",
        1.0, {"full": configuration},
    )  # fmt: skip


def make_fold(model: Path, plans: Plans, fold: str = "0", checkpoints: tuple[str, ...] = ("final",)) -> None:
    """A fold as training leaves it, with an untrained network of the plans' trainer."""
    configuration = plans.configuration("full")
    trainer = trainer_class(configuration.trainer)(plans, configuration)
    torch.manual_seed(0)
    network, codec = trainer.build_network(), trainer.build_codec()
    tensors = checkpoint.module_tensors(network, "network") | checkpoint.module_tensors(codec, "codec")
    folder = model / f"fold_{fold}"
    for name in checkpoints:
        checkpoint.save(checkpoint.checkpoint_file(folder, name), tensors, {})
    Measured().save(folder)
    record = {"trainer": configuration.trainer, "options": trainer.options, "configuration": configuration}
    write_json(folder / "config.json", record)


def make_model(
    folder: Path,
    *,
    ndim: int = 3,
    unit: Literal["mm", "px"] = "mm",
    folds: tuple[str, ...] = ("0",),
    slow: float = 0.0,
) -> Path:
    """A model folder of the plug-in trainer. slow: seconds that its network takes for a window."""
    source = folder / "blob_trainer.py"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(PLUGIN.replace("SLOW", str(slow)))
    plans = make_plans(ndim=ndim, unit=unit, trainer=f"{source}:BlobTrainer")
    model = folder / "results" / plans.dataset_name / "BlobTrainer__autolmkPlans__full"
    plans.save(model / "plans.json")
    keep_sources([plans.configuration("full").trainer], model)
    for fold in folds:
        make_fold(model, plans, fold)
    return model


def make_image(geometry: Geometry, points: FloatArray) -> Image:
    """A bright blob at the first point, a dark one at the second."""
    grid = geometry.to_physical(np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), -1))
    blobs = [np.exp(-((grid - p) ** 2).sum(-1) / (2 * 4.0**2)) for p in points]
    return Image((blobs[0] - blobs[1])[None].astype(np.float32), geometry)


def some_geometry(seed: int, ndim: int = 3) -> Geometry:
    """Oblique, anisotropic, with axes in any order and direction."""
    rng = np.random.default_rng(seed)
    if ndim == 2:
        return Geometry.from_parts((50, 60), (1.0, 1.0), (0.0, 0.0))
    axes = np.eye(3)[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
    turn = Rotation.from_rotvec(rng.uniform(-0.2, 0.2, 3)).as_matrix()
    return Geometry.from_parts((40, 44, 48), rng.uniform(0.8, 1.6, 3), rng.uniform(-50, 50, 3), turn @ axes)


def some_points(geometry: Geometry) -> FloatArray:
    size = np.array(geometry.shape)
    return geometry.to_physical(np.stack([size * 0.35, size * 0.62]))


@pytest.mark.parametrize("seed", range(4))
def test_from_any_header_to_its_own_millimetres(tmp_path: Path, seed: int) -> None:
    predictor = autolmk.Predictor(make_model(tmp_path), device="cpu", trust_code=True)
    geometry = some_geometry(seed)
    points = some_points(geometry)
    image = make_image(geometry, points)
    landmarks = predictor.predict(image.array[0], geometry)
    assert landmarks.names == NAMES
    np.testing.assert_allclose(landmarks.points, points, atol=0.15)
    file = tmp_path / "case_0000.nii.gz"
    write_image(file, image)
    np.testing.assert_allclose(predictor.predict_file(file).points, landmarks.points, atol=1e-3)
    np.testing.assert_array_equal(predictor.predict(image.array, geometry).points, landmarks.points)


def test_a_bare_matrix_is_refused(tmp_path: Path) -> None:
    predictor = Predictor(make_model(tmp_path), device="cpu", trust_code=True)
    with pytest.raises(TypeError, match="which frame"):
        predictor.predict(np.zeros((4, 4, 4)), np.eye(4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="array must be"):
        predictor.predict(np.zeros((4, 4, 5)), some_geometry(0))


def test_two_dimensions_in_pixels(tmp_path: Path) -> None:
    predictor = Predictor(make_model(tmp_path, ndim=2, unit="px"), device="cpu", trust_code=True)
    geometry = some_geometry(0, 2)
    points = some_points(geometry)
    image = make_image(geometry, points)
    np.testing.assert_allclose(predictor.predict(image.array, geometry).points, points, atol=0.15)
    grey = Image(np.round(image.array * 100 + 120), geometry)
    write_image(tmp_path / "plane.png", grey)
    landmarks = predictor.predict_file(tmp_path / "plane.png")
    np.testing.assert_allclose(landmarks.points, points, atol=0.2)
    write_image(tmp_path / "sized.nii.gz", image)
    with pytest.raises(AutolmkError, match="without physical size"):
        predictor.predict_file(tmp_path / "sized.nii.gz")


def test_a_slice_of_a_volume_for_a_plane_model(tmp_path: Path) -> None:
    predictor = Predictor(make_model(tmp_path, ndim=2), device="cpu", trust_code=True)
    plane = Geometry.from_parts((50, 60), (1.0, 1.0), (0.0, 0.0))
    image = make_image(plane, some_points(plane))
    volume = Geometry.from_parts((1, 50, 60), (5.0, 1.0, 1.0), (10.0, 20.0, 30.0))
    points = predictor.predict(image.array, volume).points
    expected = np.column_stack([some_points(plane) + np.array([10.0, 20.0]), [30.0, 30.0]])
    np.testing.assert_allclose(points, expected, atol=0.15)


def test_an_image_without_size_for_a_model_in_mm(tmp_path: Path) -> None:
    predictor = Predictor(make_model(tmp_path, ndim=2), device="cpu", trust_code=True)
    plane = Geometry.from_parts((50, 60), (1.0, 1.0), (0.0, 0.0))
    file = tmp_path / "plane.png"
    write_image(file, Image((np.arange(3000, dtype=np.float32) % 256).reshape(1, 50, 60), plane))
    with pytest.raises(AutolmkError, match="how large the pixels"):
        predictor.predict_file(file)
    (predictor.model_folder / "dataset.json").write_text(json.dumps({"spacing": [0.5, 0.25]}))
    again = Predictor(predictor.model_folder, device="cpu", trust_code=True)
    assert again.read([file]).geometry.spacing == (0.25, 0.5)


def test_an_image_without_contrast_is_refused(tmp_path: Path) -> None:
    predictor = Predictor(make_model(tmp_path), device="cpu", trust_code=True)
    volume = Geometry.from_parts((20, 50, 60), (1.0, 1.0, 1.0))
    write_image(tmp_path / "flat.nii.gz", Image(np.full((1, 20, 50, 60), 7, np.float32), volume))
    with pytest.raises(AutolmkError, match="single value") as caught:
        predictor.predict_file(tmp_path / "flat.nii.gz")
    assert caught.value.file == str(tmp_path / "flat.nii.gz") and "7 everywhere" in str(caught.value.found)
    with pytest.raises(AutolmkError, match="single value"):
        predictor.predict(np.full((20, 50, 60), 7, np.float32), volume)


def test_unsuitable_images_are_refused(tmp_path: Path) -> None:
    predictor = Predictor(make_model(tmp_path), device="cpu", trust_code=True)
    geometry = some_geometry(0)
    with pytest.raises(AutolmkError, match="channels"):
        predictor.predict(np.zeros((2, *geometry.shape)), geometry)
    with pytest.raises(AutolmkError, match="not finite"):
        predictor.predict(np.full(geometry.shape, np.nan), geometry)
    with pytest.raises(AutolmkError, match="axes"):
        predictor.predict(np.zeros((50, 60)), some_geometry(0, 2))


# -- the folder -------------------------------------------------------------------------------------------------------


def test_folds_default_to_what_was_trained(tmp_path: Path) -> None:
    model = make_model(tmp_path, folds=("10", "2", "all"))
    (model / "fold_3").mkdir()
    assert trained_folds(model, "final") == ["2", "10", "all"]
    predictor = Model(model, TestTime(device="cpu", trust_code=True))
    assert predictor.folds == ["2", "10"]
    assert len(predictor.stages[-1].members) == len(predictor.measured) == 2
    assert Model(model, TestTime(["all"], device="cpu", trust_code=True)).folds == ["all"]
    with pytest.raises(AutolmkError, match=r"fold 3 .* has no checkpoint_final"):
        Model(model, TestTime([3], device="cpu", trust_code=True))
    with pytest.raises(AutolmkError, match=r"no fold .* checkpoint_best"):
        Model(model, TestTime(checkpoint="best", device="cpu", trust_code=True))
    with pytest.raises(AutolmkError, match="kind of checkpoint"):
        Model(model, TestTime(checkpoint="finall", device="cpu", trust_code=True))


def test_an_image_that_no_gpu_has_room_for_is_resampled_on_the_processor(tmp_path: Path) -> None:
    model = Model(make_model(tmp_path), TestTime(device="cpu", trust_code=True))
    uploads: list[int] = []

    def upload(channels: FloatImage) -> None:
        uploads.append(channels.nbytes)
        raise torch.OutOfMemoryError("CUDA out of memory")

    rng, shape = np.random.default_rng(0), tuple(20 + axis for axis in range(model.plans.ndim))
    array = rng.normal(size=(1, *shape)).astype(np.float32)
    image = Image(array, Geometry.from_parts(shape, (1.7,) * model.plans.ndim))
    shared = Preparation(image, upload)
    found, again = (model.prepare(shared) for _ in range(2))
    assert uploads == [array.nbytes]  # not asked for again
    for one, other, expected in zip(found, again, model.prepare(image), strict=True):
        assert one.image is other.image and one.fill == expected.fill
        np.testing.assert_array_equal(one.image.array, expected.image.array)


def test_a_gpu_without_room_for_a_window_says_what_was_planned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(make_model(tmp_path), device="cpu", trust_code=True)

    def look(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("autolmk.prediction.predictor.look_through", look)
    patch = "x".join(map(str, predictor.models[0].configuration.patch_size))
    planned = f"{predictor.plans.memory_target_gb:g} GiB"
    with pytest.raises(AutolmkError, match=rf"(?s)not suffice for one window.*2 GiB.*{patch}.*{planned}.*-device cpu"):
        predictor.look([[]])


def test_code_of_a_model_folder_runs_only_if_trusted(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    with pytest.raises(AutolmkError, match="not run unasked"):
        Predictor(model, device="cpu")
    Predictor(model, device="cpu", trainer=f"{tmp_path / 'blob_trainer.py'}:BlobTrainer")


def test_a_shipped_trainer_needs_no_trust(tmp_path: Path) -> None:
    plans = make_plans()
    plans.save(tmp_path / "plans.json")
    make_fold(tmp_path, plans)
    landmarks = Predictor(tmp_path, device="cpu").predict(
        np.arange(8000.0).reshape(20, 20, 20), Geometry.from_parts((20,) * 3, (1.0,) * 3)
    )
    assert landmarks.present[0]


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    file = model / "fold_0" / "checkpoint_final.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AutolmkError, match="damaged"):
        Predictor(model, device="cpu", trust_code=True)
    file.write_bytes(whole)
    (model / "fold_0" / "measured.json").unlink()
    with pytest.raises(AutolmkError, match="missing"):
        Predictor(model, device="cpu", trust_code=True)
    Measured().save(model / "fold_0")
    write_json(model / "fold_0" / "config.json", {"trainer": "heatmap"})
    with pytest.raises(AutolmkError, match="incomplete"):
        Predictor(model, device="cpu", trust_code=True)
    (model / "plans.json").unlink()
    with pytest.raises(AutolmkError, match="missing"):
        Predictor(model, device="cpu", trust_code=True)


def test_folds_of_different_plans_cannot_be_averaged(tmp_path: Path) -> None:
    model = make_model(tmp_path, folds=("0", "1"))
    file = model / "fold_1" / "config.json"
    record = json.loads(file.read_text())
    record["configuration"]["batch_size"] = 7  # training's business
    write_json(file, record)
    Predictor(model, device="cpu", trust_code=True)
    record["configuration"]["spacing"] = [2.0, 1.0, 1.0]
    write_json(file, record)
    with pytest.raises(AutolmkError, match="cannot be averaged"):
        Predictor(model, device="cpu", trust_code=True)


@pytest.mark.parametrize("step", ["shape_prior", "co_slice"])
def test_the_shape_prior_and_the_co_slice_step_can_be_left_out(tmp_path: Path, step: str) -> None:
    model = make_model(tmp_path)
    assert getattr(Model(model, TestTime(device="cpu", trust_code=True)).configuration, step)
    assert not getattr(Model(model, TestTime(device="cpu", trust_code=True, **{step: False})).configuration, step)


def test_no_such_device_or_step(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    with pytest.raises(AutolmkError, match="device"):
        Predictor(model, device="quantum", trust_code=True)
    with pytest.raises(AutolmkError, match="step"):
        Predictor(model, device="cpu", step=0.0, trust_code=True)
