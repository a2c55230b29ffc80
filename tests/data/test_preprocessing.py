"""From raw cases to the store: geometry kept, only what changed is done again, one bad case stops nobody."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from autolmk.cli.preprocess import main
from autolmk.data import preprocessing
from autolmk.data.augmentation import IntensityAugmentation
from autolmk.data.loading import BatchSource, TrainingLoader
from autolmk.data.normalization import border_median, bounded, normalize
from autolmk.data.preprocessing import FAILURES, Preparation, case_digest, preprocess_dataset, preprocess_image
from autolmk.data.store import Store, preprocessing_digest
from autolmk.dataset import Dataset
from autolmk.errors import AutolmkError
from autolmk.fingerprint import extract_fingerprint
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.plans import (
    Architecture,
    Augmentation,
    Configuration,
    Normalization,
    Plans,
    Schedule,
    Windows,
    replace_configuration,
)

NAMES: tuple[str, str] = ("left", "right")


def make_plans(spacing: tuple[float, ...], patch: tuple[int, ...], p: int, scheme: str = "zscore") -> Plans:
    d = len(spacing)
    configuration = Configuration(
        trainer="heatmap",
        data_identifier="data",
        spacing=spacing,
        patch_size=patch,
        batch_size=2,
        normalization=(Normalization(scheme),),  # type: ignore[arg-type]
        windows=Windows("random", 1.0),
        architecture=Architecture((8,), ((3,) * d,), ((1,) * d,), (1,), (), (1,) * d),
        sigma=(1.0,) * d,
        augmentation=Augmentation((180.0,) * (3 if d == 3 else 1), (0.8, 1.25), (3.0,) * p, mirror_axis=0),
        schedule=Schedule(1, 1, None, 1e-3, 0.0, 0.9, 0.1),
    )
    return Plans(
        "Dataset001_Test", "autolmkPlans", "heatmap", "XS", d, "mm", ("MR",), NAMES, (NAMES,), (), "cpu", 1.0,
        {"c": configuration},
    )  # fmt: skip


def random_geometry(rng: np.random.Generator, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Geometry:
    """Any direction, so that axes are permuted and flipped as well as oblique."""
    d = len(shape)
    if d == 3:
        direction = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    else:
        a = rng.uniform(0, 2 * np.pi)
        direction = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    flips = np.diag(rng.choice([-1.0, 1.0], d))
    return Geometry.from_parts(shape, spacing, tuple(rng.uniform(-200, 200, d)), direction @ flips)


def blob_image(geometry: Geometry, point: FloatArray, width: float) -> Image:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), -1)
    squared = ((geometry.to_physical(grid) - point) ** 2).sum(-1)
    return Image(np.exp(-squared / (2 * width**2)).astype(np.float32)[None], geometry)


def blob_centre(data: FloatArray, start: FloatArray, half: int = 5) -> FloatArray:
    """Centre in voxels of a Gaussian of free centre, height, base and covariance, fitted around `start`."""
    d = data.ndim
    low = np.maximum(np.round(start).astype(int) - half, 0)
    high = np.minimum(np.round(start).astype(int) + half + 1, data.shape)
    crop = data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    grid = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij"), -1)
    triangle = np.tril_indices(d)

    def residual(x: FloatArray) -> FloatArray:
        factor = np.zeros((d, d))
        factor[triangle] = x[d + 2 :]
        offset = (grid - x[:d]) @ factor
        return np.asarray((x[d] * np.exp(-0.5 * (offset**2).sum(-1)) + x[d + 1] - crop).ravel())

    guess = np.concatenate([start, [np.ptp(crop), crop.min()], (np.eye(d) * 0.5)[triangle]])
    return np.asarray(least_squares(residual, guess).x[:d])


GRIDS = [
    pytest.param((40, 42, 44), (1.0, 1.0, 1.0), (1.3, 1.1, 1.0), id="3D coarser"),
    pytest.param((22, 42, 44), (2.0, 0.9, 1.0), (1.5, 1.0, 1.0), id="3D anisotropic"),
    pytest.param((60, 64), (1.0, 1.2), (1.5, 1.4), id="2D"),
]


@pytest.mark.parametrize(("shape", "spacing", "target"), GRIDS)
def test_points_and_image_keep_together(
    shape: tuple[int, ...], spacing: tuple[float, ...], target: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(1)
    configuration = make_plans(target, (16,) * len(shape), len(shape)).configuration("c")
    for _ in range(4):
        geometry = random_geometry(rng, shape, spacing)
        point = geometry.to_physical(rng.uniform(0.4, 0.6, len(shape)) * np.array(shape))
        image, _ = preprocess_image(blob_image(geometry, point, 3.0), configuration)
        assert image.geometry.spacing == pytest.approx(target)
        letters = image.geometry.canonical_axes()
        assert letters == (tuple(range(len(shape))), ())
        voxel = image.geometry.to_voxels(point)
        assert np.abs(image.geometry.to_physical(voxel) - point).max() < 1e-9
        assert np.abs(blob_centre(image.array[0].astype(float), voxel) - voxel).max() < 0.02


@pytest.mark.parametrize("strength", [0.0, 1.0])
@pytest.mark.parametrize(("shape", "spacing", "target"), GRIDS)
def test_blob_stays_at_its_point_through_the_whole_pipeline(
    tmp_path: Path, shape: tuple[int, ...], spacing: tuple[float, ...], target: tuple[float, ...], strength: float
) -> None:
    """Written, read, oriented, resampled, normalised, stored, turned, scaled, mirrored; intensities on and off."""
    d, rng = len(shape), np.random.default_rng(2)
    raw, rows = tmp_path / "Dataset001_Test", ["case,landmark,x,y,z"]
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "landmarksTr").mkdir()
    for i in range(4):
        geometry = random_geometry(rng, shape, spacing)
        point = geometry.to_physical(rng.uniform(0.4, 0.6, d) * np.array(shape))
        write_image(raw / "imagesTr" / f"c{i}_0000.nrrd", blob_image(geometry, point, 2.5))
        rows.append(f"c{i},left,{','.join(map(repr, map(float, (*point, 0.0)[:3])))}")
    (raw / "landmarksTr" / "landmarks.csv").write_text("\n".join(rows) + "\n")
    description = {"channel_names": {"0": "MR"}, "landmarks": {"left": {"pair": "right"}, "right": {"pair": "left"}}}
    (raw / "dataset.json").write_text(json.dumps(description))
    patch = tuple(int(n * s / t * 0.8) for n, s, t in zip(shape, spacing, target, strict=True))
    plans, dataset = make_plans(target, patch, d), Dataset.open(raw)
    assert preprocess_dataset(dataset, dataset.cases(), plans, "c", tmp_path / "store", workers=0) == []
    store, configuration = Store(tmp_path / "store"), plans.configuration("c")
    apart, named = [], set()
    source = BatchSource(store, tuple(store.cases()), plans, configuration, IntensityAugmentation(strength), seed=3)
    with TrainingLoader(source, iterations=20) as loader:
        for batch in loader:
            for data, voxels, status in zip(batch["data"], batch["voxels"], batch["status"], strict=True):
                assert sorted(status) == [0, 1]  # one present, one unknown: swapped in mirrored windows
                named.add(int(np.argmax(status)))
                voxel = voxels[np.argmax(status)]
                if (voxel > 5).all() and (voxel < np.array(patch) - 6).all():
                    apart.append(np.abs(blob_centre(data[0].astype(float), voxel) - voxel).max())
    assert named == {0, 1}
    assert len(apart) >= 12
    assert max(apart) < 0.05


def test_normalization() -> None:
    channel = np.random.default_rng(0).normal(50, 20, (10, 12, 14)).astype(np.float32)
    z = normalize(channel, Normalization("zscore"))
    assert abs(z.mean()) < 1e-5
    assert abs(z.std() - 1) < 1e-5
    ct = normalize(channel, Normalization("ct", mean=40.0, std=10.0, low=30.0, high=60.0))
    assert np.allclose(ct, (channel.clip(30, 60) - 40) / 10, atol=1e-5)
    rescaled = normalize(channel, Normalization("rescale"))
    assert rescaled.min() == 0
    assert abs(rescaled.max() - 1) < 1e-6
    assert normalize(channel, Normalization("none")) is channel
    photograph = np.array([[0, 51], [102, 204]], dtype=np.float32)
    assert np.allclose(normalize(photograph, Normalization("rgb")), photograph / 255, atol=1e-7)  # not its own range
    for scheme in ("zscore", "rescale", "ct"):
        result = normalize(np.full((5, 5), 7.0, dtype=np.float32), Normalization(scheme, std=0.0))
        assert np.isfinite(result).all()
        assert result.dtype == np.float32


def test_schemes_of_older_plans_are_what_they_were() -> None:
    channel = np.random.default_rng(0).integers(0, 200, (9, 12, 10)).astype(np.float32)
    mean, std = float(channel.mean(dtype=np.float64)), float(channel.std(dtype=np.float64))
    expected = {
        "zscore": np.asarray((channel - mean) / std, dtype=np.float32),
        "rescale": np.asarray((channel - 0.0) / 199.0, dtype=np.float32),
        "ct": np.asarray((channel.clip(30, 150) - 40.0) / 10.0, dtype=np.float32),
        "rgb": np.asarray(channel / 255.0, dtype=np.float32),
        "none": channel,
    }
    digests = {"zscore": "eab0ed02c2861dd2", "rescale": "89dd967ae84c34c1", "ct": "e4af4999cb49d7a3"}
    for scheme, values in expected.items():
        found = normalize(channel, Normalization(scheme, 40.0, 10.0, 30.0, 150.0), (0.0, 20.0))  # type: ignore[arg-type]
        assert np.array_equal(found, values), scheme
        plans = make_plans((1.5,) * 3, (8,) * 3, 3, scheme)
        assert preprocessing_digest(plans, plans.configuration("c")) == digests.get(scheme, ANY)


def test_the_version_of_the_foreground_counts_only_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, old = write_dataset(tmp_path / "Dataset001_Test"), make_plans((1.5,) * 3, (8,) * 3, 3)
    new = replace_configuration(old, "c", normalization=(Normalization("foreground", low=10.0, high=90.0),))
    case = dataset.cases("Tr")[0]
    before = [case_digest(dataset, case, plans, plans.configuration("c")) for plans in (old, new)]
    monkeypatch.setattr("autolmk.data.preprocessing.FOREGROUND_VERSION", 1000)
    after = [case_digest(dataset, case, plans, plans.configuration("c")) for plans in (old, new)]
    assert before[0] == after[0] and before[1] != after[1] and before[0] != before[1]


def test_standardised_values_are_bounded_and_keep_their_order() -> None:
    values = np.array([-1e9, -50, -6.5, -6, 0, 3, 6, 6.5, 7, 50, 1e9], dtype=np.float32)
    found = bounded(values)
    assert np.array_equal(found[3:7], values[3:7]) and found.min() == -10 and found.max() == 10
    assert (np.diff(found) > 0).all() and 6.4 < found[7] < 6.5 and 9.7 < found[-2] < 9.9
    assert np.array_equal(bounded(-values), -found) and values[-1] == np.float32(1e9)


def test_fill_is_the_background_where_it_is_found() -> None:
    rng = np.random.default_rng(0)
    channel = rng.normal(100, 1, (48, 48)).astype(np.float32)
    channel[10:, 6:-6] = rng.normal(200, 30, (38, 36))  # reaches the border
    channel = np.pad(channel, 8, constant_values=-1000)
    image = Image(np.stack([channel, channel]), Geometry.from_parts((64, 64), (1.0, 1.0)))
    configuration = make_plans((1.3, 1.3), (8, 8), 2).configuration("c")
    schemes = (Normalization("foreground", low=10.0, high=90.0), Normalization("robust_rescale", low=0.5, high=99.5))
    result, fill = preprocess_image(image, dataclasses.replace(configuration, normalization=schemes))
    for found, level in zip(result.array, fill, strict=True):
        around = np.median(found[7:12, 12:-12])  # the background above the anatomy
        assert abs(level - around) < 0.05 * np.ptp(found)
        assert abs(found[0, 0] - level) < 0.01 * np.ptp(found)  # the canvas too


def test_declared_padding_reaches_the_normalisation() -> None:
    rng = np.random.default_rng(0)
    channel = rng.normal(100, 30, (40, 40)).astype(np.float32)
    channel[:8] = rng.integers(-2005, -1999, (8, 40))
    geometry, configuration = (
        Geometry.from_parts((40, 40), (1.0, 1.0)),
        make_plans((1.0, 1.0), (8, 8), 2).configuration("c"),
    )
    configuration = dataclasses.replace(configuration, normalization=(Normalization("robust", low=10.0, high=90.0),))
    told, _ = preprocess_image(Image(channel[None], geometry, ((-2005.0, -2000.0),)), configuration)
    untold, _ = preprocess_image(Image(channel[None], geometry), configuration)
    assert abs(told.array[0, 8:].mean()) < 0.1 and 1 < told.array[0, 8:].std() < 3  # white noise, over its medians
    assert untold.array[0, 8:].std() < 0.3


def test_the_published_window_is_two_deviations_of_what_is_above_zero() -> None:
    """mean -+ 2 SD of the voxels above 0 become 0 and 255: of 10 and 30 these are 0 and 40."""
    channel = np.array([[0.0, 10.0, 30.0], [-5.0, 10.0, 30.0]], dtype=np.float32)
    found = normalize(channel, Normalization("window"))
    assert np.allclose(found, [[0.0, 63.75, 191.25], [0.0, 63.75, 191.25]], atol=1e-4) and found.dtype == np.float32
    bright = np.append(np.full(99, 10.0), 1e4).astype(np.float32)
    assert normalize(bright, Normalization("window")).max() == pytest.approx(255.0)
    below = normalize(channel - 40, Normalization("window"))  # nothing is above 0: all voxels count
    assert below.min() >= 0 and below.max() <= 255 and np.ptp(below) > 50
    assert np.isfinite(normalize(np.full((5, 5), 7.0, dtype=np.float32), Normalization("window"))).all()


def test_fill_is_the_border_median() -> None:
    channel = np.full((9, 9, 9), 5.0, dtype=np.float32)
    channel[1:-1, 1:-1, 1:-1] = 100
    channel[0, 0, :3] = -1000
    assert border_median(channel) == 5.0
    assert border_median(channel[4:5]) == border_median(channel[4]) == 5.0  # a single slice has edges
    image = Image(np.stack([channel, channel * 2]), Geometry.from_parts((9, 9, 9), (1.0, 1.0, 1.0)))
    configuration = make_plans((1.0, 1.0, 1.0), (8, 8, 8), 3, "none").configuration("c")
    configuration = dataclasses.replace(configuration, normalization=(Normalization("none"),) * 2)
    assert preprocess_image(image, configuration)[1] == (5.0, 10.0)


def test_what_does_not_suit_the_plans_is_refused() -> None:
    configuration = make_plans((1.0, 1.0, 1.0), (8, 8, 8), 3).configuration("c")
    cube, plane = Geometry.from_parts((8, 8, 8), (1.0,) * 3), Geometry.from_parts((8, 8), (1.0, 1.0))
    with pytest.raises(AutolmkError, match="number of axes"):
        preprocess_image(Image(np.zeros((1, 8, 8), np.float32), plane), configuration)
    with pytest.raises(AutolmkError, match="number of channels"):
        preprocess_image(Image(np.zeros((2, 8, 8, 8), np.float32), cube), configuration)
    array = np.zeros((1, 8, 8, 8), np.float32)
    array[0, 1, 2, 3] = np.nan
    with pytest.raises(AutolmkError, match="1 of 512 voxels are NaN"):
        preprocess_image(Image(array, cube), configuration)


# -- whole datasets ---------------------------------------------------------------------------------------------------


def write_dataset(folder: Path, n: int = 4, side: int = 14) -> Dataset:
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "landmarksTr").mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        array = rng.normal(size=(1, side, side + i, side)).astype(np.float32)
        geometry = Geometry.from_parts(array.shape[1:], (1.0, 1.0, 1.0))
        write_image(folder / "imagesTr" / f"c{i}_0000.nrrd", Image(array, geometry))
        write_points(folder, i, 5.0)
    description = {"channel_names": {"0": "MR"}, "landmarks": {"left": {}, "right": {}}, "file_ending": ".nrrd"}
    (folder / "dataset.json").write_text(json.dumps(description))
    return Dataset.open(folder)


def write_points(folder: Path, i: int, x: float) -> None:
    text = f"landmark,x,y,z\nleft,{x},5,5\nright,3,5,5\n"
    (folder / "landmarksTr" / f"c{i}.csv").write_text(text)


def stamps(folder: Path) -> dict[str, int]:
    """Of whole cases; temporary files come and go."""
    return {f.stem: f.stat().st_mtime_ns for f in folder.glob("[!.]*.b2nd")}


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {case for case in before if before[case] != after.get(case)}


def run(dataset: Dataset, plans: Plans, folder: Path, workers: int = 0) -> list[str]:
    dataset = Dataset.open(dataset.folder)
    failures = preprocess_dataset(dataset, dataset.cases(), plans, "c", folder, workers=workers, progress=False)
    return [failure.case for failure in failures]


def test_a_rerun_does_only_what_changed(tmp_path: Path) -> None:
    dataset, plans = write_dataset(tmp_path / "Dataset001_Test"), make_plans((1.5, 1.5, 1.5), (8, 8, 8), 3)
    folder = tmp_path / "store"
    assert run(dataset, plans, folder) == []
    first = stamps(folder)
    assert sorted(first) == ["c0", "c1", "c2", "c3"]
    assert run(dataset, plans, folder) == []
    assert stamps(folder) == first

    write_points(dataset.folder, 1, 6.0)
    assert run(dataset, plans, folder) == []
    second = stamps(folder)
    assert changed(first, second) == {"c1"}
    assert Store(folder).load("c1").landmarks.points[0, 0] == 6.0

    image = Image(np.ones((1, 9, 9, 9), np.float32), Geometry.from_parts((9, 9, 9), (1.0,) * 3))
    write_image(dataset.folder / "imagesTr" / "c2_0000.nrrd", image)
    os.truncate(folder / "c3.b2nd", 10)
    (folder / "c0.json").unlink()
    assert run(dataset, plans, folder) == []
    third = stamps(folder)
    assert changed(second, third) == {"c0", "c2", "c3"}

    assert run(dataset, replace_configuration(plans, "c", batch_size=7), folder) == []
    assert stamps(folder) == third  # nothing that preprocessing depends on
    assert run(dataset, replace_configuration(plans, "c", spacing=(2.0, 2.0, 2.0)), folder) == []
    assert changed(third, stamps(folder)) == {"c0", "c1", "c2", "c3"}


@pytest.mark.parametrize("workers", [0, 2])
def test_one_bad_case_stops_nobody(tmp_path: Path, workers: int) -> None:
    dataset, plans = write_dataset(tmp_path / "Dataset001_Test"), make_plans((1.5, 1.5, 1.5), (8, 8, 8), 3)
    folder = tmp_path / "store"
    assert run(dataset, plans, folder) == []
    image = dataset.folder / "imagesTr" / "c1_0000.nrrd"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    (dataset.folder / "landmarksTr" / "c2.csv").write_text("landmark,x,y,z\nleft,one,5,5\n")
    assert sorted(run(dataset, plans, folder, workers)) == ["c1", "c2"]
    listed = json.loads((folder / FAILURES).read_text())
    assert [entry["case"] for entry in listed] == ["c1", "c2"]
    assert all(entry["case"] in entry["problem"] and "Traceback" not in entry["problem"] for entry in listed)
    assert Store(folder).cases() == ["c0", "c3"]  # what the bad files replaced is not kept as if it were theirs

    image.write_bytes(whole)
    write_points(dataset.folder, 2, 5.0)
    assert run(dataset, plans, folder, workers) == []
    assert not (folder / FAILURES).exists()
    assert Store(folder).cases() == ["c0", "c1", "c2", "c3"]


def test_the_store_holds_no_case_that_is_gone_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset, plans = write_dataset(tmp_path / "Dataset001_Test"), make_plans((1.5, 1.5, 1.5), (8, 8, 8), 3)
    folder = tmp_path / "store"
    assert run(dataset, plans, folder) == []
    before = stamps(folder)
    (dataset.folder / "imagesTr" / "c2_0000.nrrd").unlink()
    cases = [case for case in Dataset.open(dataset.folder).cases() if case.identifier != "c0"]
    assert preprocess_dataset(dataset, cases, plans, "c", folder, workers=0, progress=False) == []
    assert Store(folder).cases() == ["c1", "c3"] and not changed({c: before[c] for c in ("c1", "c3")}, stamps(folder))
    assert "removed 2 cases that do not belong here: c0, c2" in caplog.text


def test_configurations_share_what_they_need_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three preparations of one image: normalised once, resampled twice; the image itself stays as it was."""
    calls = Counter[str]()

    def counted(name: str) -> Any:
        original = getattr(preprocessing, name)

        def call(*given: Any) -> Any:
            calls[name] += 1
            return original(*given)

        return call

    for name in ("normalized", "multiplied"):
        monkeypatch.setattr(preprocessing, name, counted(name))
    array = np.random.default_rng(0).normal(size=(1, 20, 24)).astype(np.float32)
    image = Image(array, Geometry.from_parts((20, 24), (1.0, 1.0)))
    before = image.array.copy()
    coarse, same = (make_plans(s, (8, 8), 2, "none").configuration("c") for s in ((2.0, 2.0), (1.0, 1.0)))
    shared = Preparation(image)
    found = [shared.of(each) for each in (coarse, dataclasses.replace(coarse, batch_size=7), same)]
    assert calls == {"normalized": 1, "multiplied": 1} and found[0] is found[1]
    assert not np.shares_memory(found[2][0].array, image.array)
    assert np.array_equal(image.array, before)
    for one, configuration in zip(found, (coarse, coarse, same), strict=True):
        alone = preprocess_image(image, configuration)
        assert np.array_equal(one[0].array, alone[0].array) and one[1] == alone[1]


PROGRAM = """
import sys
from pathlib import Path
from autolmk.dataset import Dataset
from autolmk.plans import Plans
from autolmk.data.preprocessing import preprocess_dataset

if __name__ == "__main__":
    raw, plans, folder = map(Path, sys.argv[1:4])
    dataset = Dataset.open(raw)
    print("ready", flush=True)
    preprocess_dataset(dataset, dataset.cases(), Plans.load(plans), "c", folder, workers=int(sys.argv[4]))
"""


def test_killed_and_run_again_equals_unbroken(
    tmp_path: Path,
    wait_until: Callable[..., None],
    children_of: Callable[[int], list[int]],
    alive: Callable[[Iterable[int]], list[int]],
) -> None:
    dataset = write_dataset(tmp_path / "Dataset001_Test", n=12, side=40)
    plans = make_plans((0.7, 0.7, 0.7), (8, 8, 8), 3)
    plans.save(tmp_path / "plans.json")
    assert run(dataset, plans, tmp_path / "unbroken") == []
    program, folder = tmp_path / "program.py", tmp_path / "store"
    program.write_text(PROGRAM)
    arguments = [sys.executable, str(program), str(dataset.folder), str(tmp_path / "plans.json"), str(folder), "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        wait_until(lambda: len(stamps(folder)) >= 3, process)
        children = children_of(process.pid)
        process.kill()
        process.communicate()
    assert len(children) >= 2
    begun = Store(folder).cases()
    assert 1 <= len(begun) < 12
    before = stamps(folder)
    wait_until(lambda: not alive(children))
    assert run(dataset, plans, folder) == []
    assert not changed({case: before[case] for case in begun}, stamps(folder))
    assert sorted(f.name for f in folder.iterdir()) == sorted(f.name for f in (tmp_path / "unbroken").iterdir())
    for case in Store(folder).cases():
        a, b = Store(folder).load(case), Store(tmp_path / "unbroken").load(case)
        assert np.array_equal(a.array[:], b.array[:])
        assert a.digest == b.digest


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "Dataset001_Test"
    dataset, plans = write_dataset(tmp_path / "raw" / name), make_plans((1.5, 1.5, 1.5), (8, 8, 8), 3)
    plans.save(tmp_path / "preprocessed" / name / "autolmkPlans.json")
    file = tmp_path / "preprocessed" / name / "dataset_fingerprint.json"
    fingerprint = extract_fingerprint(dataset, workers=0, progress=False)
    fingerprint.save(file)
    arguments = ["-d", "1", "-np", "0", "--raw", str(tmp_path / "raw")]
    arguments += ["--preprocessed", str(tmp_path / "preprocessed")]
    assert main(arguments) == 0
    assert "4 of 4 cases" in capsys.readouterr().out
    assert Store(tmp_path / "preprocessed" / name / "data").cases() == ["c0", "c1", "c2", "c3"]
    dataclasses.replace(fingerprint, failed=("c3",)).save(file)
    assert main(arguments) == 3
    captured = capsys.readouterr()
    assert "3 of 3 cases" in captured.out and "left out" in captured.err and "c3" in captured.err
    assert Store(tmp_path / "preprocessed" / name / "data").cases() == ["c0", "c1", "c2"]
    fingerprint.save(file)
    (dataset.folder / "imagesTr" / "c1_0000.nrrd").write_bytes(b"NRRD0004\nnonsense")
    assert main(arguments) == 3
    captured = capsys.readouterr()
    assert "3 of 4 cases" in captured.out
    assert "c1" in captured.err
    assert main([*arguments, "-c", "d"]) == 2
    assert "no configuration 'd'" in capsys.readouterr().err


def test_cases_that_came_after_the_fingerprint_are_not_preprocessed_unchecked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "Dataset001_Test"
    dataset, plans = write_dataset(tmp_path / "raw" / name), make_plans((1.5, 1.5, 1.5), (8, 8, 8), 3)
    folder = tmp_path / "preprocessed" / name
    plans.save(folder / "autolmkPlans.json")
    extract_fingerprint(dataset, workers=0, progress=False).save(folder / "dataset_fingerprint.json")
    shutil.copy(dataset.folder / "imagesTr" / "c0_0000.nrrd", dataset.folder / "imagesTr" / "new_0000.nrrd")
    shutil.copy(dataset.folder / "landmarksTr" / "c0.csv", dataset.folder / "landmarksTr" / "new.csv")
    arguments = [
        "-d",
        "1",
        "-np",
        "0",
        "--raw",
        str(tmp_path / "raw"),
        "--preprocessed",
        str(tmp_path / "preprocessed"),
    ]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "1 new case: new" in message and "autolmk_plan_and_preprocess -d Dataset001_Test" in message
    assert not (folder / "data").exists()
    extract_fingerprint(Dataset.open(dataset.folder), workers=0, progress=False).save(
        folder / "dataset_fingerprint.json"
    )
    assert main(arguments) == 0
    assert "5 of 5 cases are in" in capsys.readouterr().out
