"""A user's label maps from labelsTr: checked, counted, preprocessed and seen in windows where the points are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_preprocessing import blob_image, make_plans, random_geometry

from autolmk.check import check_dataset
from autolmk.data.augmentation import IntensityAugmentation
from autolmk.data.label_maps import UNKNOWN
from autolmk.data.loading import BatchSource, TrainingLoader
from autolmk.data.preprocessing import preprocess_dataset
from autolmk.data.store import Store
from autolmk.dataset import Dataset
from autolmk.errors import AutolmkError
from autolmk.fingerprint import extract_fingerprint
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.plans import LabelMap, replace_configuration

GRIDS = [
    pytest.param((24, 34, 36), (2.0, 0.9, 1.0), (1.5, 1.0, 1.0), id="3D"),
    pytest.param((60, 64), (1.0, 1.2), (1.5, 1.4), id="2D"),
]
RADIUS = 5.0  # mm


def write_dataset(raw: Path, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Dataset:
    """Three cases, turned at will; label 3 is a ball at the point, label 9 a voxel of the first case; c2 has no map."""
    d, rng, rows = len(shape), np.random.default_rng(2), ["case,landmark,x,y,z"]
    for name in ("imagesTr", "landmarksTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    for i in range(3):
        geometry = random_geometry(rng, shape, spacing)
        point = geometry.to_physical(rng.uniform(0.45, 0.55, d) * np.array(shape))
        image = blob_image(geometry, point, 2.5)
        write_image(raw / "imagesTr" / f"c{i}_0000.nrrd", image)
        rows.append(f"c{i},left,{','.join(map(repr, map(float, (*point, 0.0)[:3])))}")
        if i < 2:
            labels = 3.0 * (image.array >= np.exp(-((RADIUS / 2.5) ** 2) / 2))
            labels[(0,) * labels.ndim] = 0 if i else 9
            write_image(raw / "labelsTr" / f"c{i}.nrrd", Image(labels.astype(np.float32), geometry))
    (raw / "landmarksTr" / "landmarks.csv").write_text("\n".join(rows) + "\n")
    description = {"channel_names": {"0": "MR"}, "landmarks": {"left": {"pair": "right"}, "right": {"pair": "left"}}}
    (raw / "dataset.json").write_text(json.dumps(description))
    return Dataset.open(raw)


@pytest.mark.parametrize(("shape", "spacing", "target"), GRIDS)
def test_labels_stay_at_their_point_through_the_whole_pipeline(
    tmp_path: Path, shape: tuple[int, ...], spacing: tuple[float, ...], target: tuple[float, ...]
) -> None:
    dataset = write_dataset(tmp_path / "Dataset001_Test", shape, spacing)
    d, patch = len(shape), tuple(int(n * s / t) for n, s, t in zip(shape, spacing, target, strict=True))
    maps = (LabelMap("ball", value=3), LabelMap("nothing", value=5), LabelMap("left", ("left",), 2.0))
    plans = replace_configuration(make_plans(target, patch, d), "c", label_maps=maps)
    assert preprocess_dataset(dataset, dataset.cases(), plans, "c", tmp_path / "store", workers=0) == []
    store, apart, left_out = Store(tmp_path / "store"), [], set()
    arguments = (store, tuple(store.cases()), plans, plans.configuration("c"), IntensityAugmentation())
    with TrainingLoader(BatchSource(*arguments, seed=3), iterations=60) as loader:
        for batch in loader:
            for case, voxels, status, labels in zip(
                batch["cases"], batch["voxels"], batch["status"], batch["labels"], strict=True
            ):
                mirrored = status[0] == 0
                ball, nothing, drawn = labels
                if case == "c2" or mirrored:  # there is no map, or nobody says which values are partners
                    assert (ball == UNKNOWN).all() and (nothing == UNKNOWN).all()
                    left_out.add((case == "c2", mirrored))
                    continue
                voxel = voxels[0]
                assert not (nothing == 1).any() and (drawn != UNKNOWN).all()
                if (voxel > 7).all() and (voxel < np.array(patch) - 8).all():
                    apart.append(np.abs(np.argwhere(ball == 1).mean(axis=0) - voxel).max())
    assert len(apart) >= 3 and {(True, False), (False, True)} <= left_out
    assert max(apart) < 1.0 and np.mean(apart) < 0.4  # voxels: nearest ones are taken twice


def test_values_are_counted_and_faults_are_named(tmp_path: Path) -> None:
    raw = tmp_path / "Dataset001_Test"
    dataset = write_dataset(raw, (60, 64), (1.0, 1.2))
    fingerprint = extract_fingerprint(dataset, workers=0, progress=False)
    assert (fingerprint.label_maps, fingerprint.label_values) == (2, {"3": 2, "9": 1})
    checked = check_dataset(raw, workers=0, progress=False).summaries  # of which the commands make the fingerprint
    assert {case: summary.labels for case, summary in checked.items()} == {"c0": (3, 9), "c1": (3,), "c2": None}
    case = dataset.cases()[0]
    geometry = dataset.read_image(case).geometry
    for image, message in (
        (Image(np.full((1, 60, 64), 0.5, np.float32), geometry), "strange values"),
        (Image(np.full((1, 60, 64), 300, np.float32), geometry), "strange values"),
        (Image(np.zeros((1, 60, 60), np.float32), geometry.crop((0, 0), (60, 60))), "does not lie on the grid"),
    ):
        write_image(raw / "labelsTr" / "c0.nrrd", image)
        with pytest.raises(AutolmkError, match=message):
            dataset.read_labels(case, geometry)
        assert any(message in fault.problem for fault in check_dataset(raw, workers=0).faults)


def test_a_changed_label_map_is_preprocessed_again(tmp_path: Path) -> None:
    raw = tmp_path / "Dataset001_Test"
    dataset, plans = write_dataset(raw, (60, 64), (1.0, 1.2)), make_plans((1.5, 1.4), (16, 16), 2)

    def digests() -> dict[str, str | None]:
        assert preprocess_dataset(dataset, dataset.cases(), plans, "c", tmp_path / "store", workers=0) == []
        store = Store(tmp_path / "store")
        return {case: store.digest(case) for case in store.cases()}

    before = digests()
    (raw / "labelsTr" / "c1.nrrd").unlink()
    after = digests()
    assert {case for case in before if before[case] != after[case]} == {"c1"}
    assert Store(tmp_path / "store").load("c1").labels is None
    assert Store(tmp_path / "store").load("c0").labels is not None
