"""Raw cases that were added, removed or edited since preprocessing are named; a touch or a copy is no change."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk

from autolmk.cli import extract_fingerprint, plan_experiment, preprocess, train
from autolmk.dataset import Dataset
from autolmk.dataset import changes as module
from autolmk.dataset.changes import RawRecord, changes, look, with_contents
from autolmk.phantom import write_phantom


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "Dataset001_Phantom"
    write_phantom(folder, n_train=4, n_test=1, ndim=2, size=24)
    return folder


@pytest.fixture
def raw(phantom: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phantom, tmp_path / "raw" / phantom.name))


def recorded(raw: Path, folder: Path, left_out: tuple[str, ...] = ()) -> RawRecord:
    dataset = Dataset.open(raw)
    with_contents(look(dataset, dataset.cases("Tr")), None, raw, left_out).save(folder)
    record = RawRecord.load(folder)
    assert record is not None
    return record


def found(record: RawRecord, raw: Path) -> str:
    dataset = Dataset.open(raw)
    return str(changes(record, dataset, dataset.cases("Tr")))


def image(raw: Path, case: str) -> Path:
    (file,) = (raw / "imagesTr").glob(f"{case}*")
    return file


def edit_image(raw: Path) -> None:
    file = image(raw, "phantom_001")
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def edit_points(raw: Path) -> None:
    file = next((raw / "landmarksTr").glob("phantom_001*"))
    file.write_text(re.sub(r"\d+\.\d{3,}", "5.5", file.read_text(), count=1))


def rename(raw: Path) -> None:
    for file in [*(raw / "imagesTr").glob("phantom_001*"), *(raw / "landmarksTr").glob("phantom_001*")]:
        file.rename(file.with_name(file.name.replace("phantom_001", "phantom_099")))


def remove(raw: Path) -> None:
    image(raw, "phantom_001").unlink()


def describe(raw: Path) -> None:
    value = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(value | {"unlisted_landmark_means": "absent"}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit_image, "1 case edited: phantom_001"),
        (edit_points, "1 case edited: phantom_001"),
        (rename, "1 case added: phantom_099; 1 case removed: phantom_001"),
        (remove, "1 case removed: phantom_001"),
        (describe, "4 cases edited"),
    ],
)
def test_what_changed_is_named(change: Callable[[Path], None], said: str, raw: Path, tmp_path: Path) -> None:
    record = recorded(raw, tmp_path / "store")
    assert found(record, raw) == ""
    change(raw)
    assert said in found(record, raw)


def test_contents_are_read_only_where_size_or_time_differ(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = recorded(raw, tmp_path / "store")
    read: list[Path] = []
    digest = module._sha256
    monkeypatch.setattr(module, "_sha256", lambda file: (read.append(file), digest(file))[1])
    assert found(record, raw) == "" and read == []
    os.utime(image(raw, "phantom_002"), ns=(1, 1))
    assert found(record, raw) == "" and read == [image(raw, "phantom_002")]
    moved = Path(shutil.copytree(raw, tmp_path / "elsewhere" / raw.name, copy_function=shutil.copyfile))
    assert found(record, moved) == ""


def test_a_case_that_was_left_out_is_no_new_one(raw: Path, tmp_path: Path) -> None:
    record = recorded(raw, tmp_path / "store", ("phantom_001",))
    assert found(record, raw) == ""
    edit_image(raw)
    assert found(record, raw) == ""


def test_training_stops_before_it_writes_where_raw_cases_changed(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And goes on, saying so, where the raw data is not there any more."""
    folders = [word for name in ("raw", "preprocessed", "results") for word in (f"--{name}", str(tmp_path / name))]
    assert extract_fingerprint.main(["-d", "1", "-np", "0", *folders]) == 0
    assert plan_experiment.main(["-d", "1", "-pl", "heatmap", "--preset", "XS", "-device", "cpu", *folders]) == 0
    assert preprocess.main(["-d", "1", "-np", "0", *folders]) == 0
    edit_image(raw)
    rename(raw)
    training = ["1", "0", "--epochs", "1", "-device", "cpu", "--workers", "0", "--threads", "1"]
    training += ["--set", "schedule.iterations_per_epoch=1", *folders]
    capsys.readouterr()
    assert train.main(training) == 2
    error = capsys.readouterr().err
    assert "1 case added: phantom_099; 1 case removed: phantom_001" in error and "autolmk_preprocess -d" in error
    assert not (tmp_path / "results").exists()
    shutil.rmtree(raw)
    assert train.main(training) == 0
    assert capsys.readouterr().err.count("whether it changed since preprocessing is not looked at") == 1


@pytest.mark.parametrize("older", [False, True])
def test_voxels_beside_a_header_count_unless_an_older_record_lacks_them(older: bool, raw: Path, tmp_path: Path) -> None:
    for file in list((raw / "imagesTr").iterdir()):
        sitk.WriteImage(sitk.ReadImage(str(file)), str(file).partition(".")[0] + ".mhd")
        file.unlink()
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**description, "file_ending": ".mhd"}))
    record = recorded(raw, tmp_path)
    state = record.cases["phantom_001"]
    assert state is not None and "imagesTr/phantom_001_0000.raw" in state.files
    if older:
        for case in record.cases.values():
            assert case is not None
            for name in [n for n in case.files if n.endswith(".raw")]:
                del case.files[name]
    voxels = raw / "imagesTr" / "phantom_001_0000.raw"
    content = bytearray(voxels.read_bytes())
    content[-1] ^= 1
    voxels.write_bytes(content)
    assert found(record, raw) == ("" if older else "1 case edited: phantom_001")
