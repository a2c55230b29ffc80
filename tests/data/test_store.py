"""The store: what is written is read back, in part and padded; writers that die leave nothing half-done."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autolmk.data.store import Store, StoredCase
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status


def make_case(shape: tuple[int, ...] = (20, 70, 33), channels: int = 2, seed: int = 0) -> StoredCase:
    rng = np.random.default_rng(seed)
    spacing, origin = rng.uniform(0.3, 2, len(shape)), rng.normal(size=len(shape)) * 100
    geometry = Geometry.from_parts(shape, tuple(spacing), tuple(origin))
    points = np.array([rng.normal(size=len(shape)), np.full(len(shape), np.nan), np.full(len(shape), np.nan)])
    status = np.array([Status.PRESENT, Status.ABSENT, Status.UNKNOWN], dtype=np.int8)
    array = rng.normal(size=(channels, *shape)).astype(np.float32)
    marks = Landmarks(("a", "b", "c"), points, status)
    return StoredCase("case", array, geometry, tuple(map(float, range(channels))), marks, "subject", "digest", "plans")


@pytest.mark.parametrize("shape", [(20, 70, 33), (300, 41), (1, 30, 30), (1, 1, 1)])
def test_round_trip_is_exact(tmp_path: Path, shape: tuple[int, ...]) -> None:
    case, store = make_case(shape), Store(tmp_path / "new" / "folder")
    store.write("case", case)
    back = store.load("case")
    assert store.cases() == ["case"]
    assert np.array_equal(back.array[:], case.array)
    assert back.geometry.shape == case.geometry.shape
    assert np.array_equal(back.geometry.affine, case.geometry.affine)
    assert np.array_equal(back.landmarks.points, case.landmarks.points, equal_nan=True)
    assert np.array_equal(back.landmarks.status, case.landmarks.status)
    for name in ("identifier", "fill", "subject", "digest", "plans_digest"):
        assert getattr(back, name) == getattr(case, name)
    assert sorted(f.name for f in store.folder.iterdir()) == ["case.b2nd", "case.json"]


def test_a_point_beyond_all_images_is_damage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("case", make_case())
    file = store.files("case")[1]
    value = read_json(file)
    value["landmarks"]["points"][0][1] = 1e200
    write_json(file, value)
    with pytest.raises(AutolmkError, match="1e\\+09 mm from the origin"):
        store.load("case")


def test_label_maps_lie_beside_the_image(tmp_path: Path) -> None:
    rng, store = np.random.default_rng(1), Store(tmp_path)
    values = rng.integers(0, 9, (1, 20, 70, 33)).astype(np.uint8)
    plain, case = make_case(), dataclasses.replace(make_case(), labels=values)
    store.write("case", case)
    back = store.load("case")
    assert np.array_equal(back.labels[:], values) and store.digest("case") == "digest" and store.cases() == ["case"]
    for stored in (back, case):
        assert np.array_equal(stored.read_labels([3, 5, 30], [4, 6, 3]), values[0, 3:7, 5:11, 30:33])
        around = stored.read_labels([-2, 66, 30], [4, 6, 9])
        assert np.array_equal(around[2:, :4, :3], values[0, :2, 66:, 30:]) and (around == 255).sum() == 4 * 6 * 9 - 24
        assert (stored.read_labels([50, 0, 0], [2, 2, 2]) == 255).all()
    file = store.labels_file("case")
    file.write_bytes(file.read_bytes()[:-1])
    assert store.digest("case") is None
    with pytest.raises(AutolmkError, match="damaged"):
        store.load("case")
    store.write("case", case)
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)
    assert store.digest("case") is None
    store.write("case", plain)
    assert store.load("case").labels is None and not file.exists()
    store.write("case", case)
    store.remove("case")
    assert not file.exists()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_reads_of_any_region_equal_a_padded_crop(data: st.DataObject) -> None:
    case = make_case((9, 14, 11))
    start = [data.draw(st.integers(-16, 16)) for _ in range(3)]
    shape = [data.draw(st.integers(1, 20)) for _ in range(3)]
    padded = np.stack([np.pad(c, 40, constant_values=f) for c, f in zip(case.array, case.fill, strict=True)])
    expected = padded[(slice(None), *(slice(40 + a, 40 + a + n) for a, n in zip(start, shape, strict=True)))]
    assert np.array_equal(case.read(start, shape), expected)


def test_partial_reads_from_disk(tmp_path: Path) -> None:
    case, store = make_case((70, 80, 90), channels=1), Store(tmp_path)
    store.write("case", case)
    assert np.array_equal(store.read("case", (60, -3, 10), (20, 8, 70)), case.read((60, -3, 10), (20, 8, 70)))


def test_a_replaced_case_is_new_throughout(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("case", make_case((20, 20)))
    new = dataclasses.replace(make_case((31, 17), seed=1), digest="other")
    store.write("case", new)
    assert np.array_equal(store.load("case").array[:], new.array)
    assert store.digest("case") == "other"


@pytest.mark.parametrize("damage", ["truncated", "empty", "swapped", "no json", "no array", "broken json", "fields"])
def test_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    store.write("case", make_case())
    array, description = store.files("case")
    if damage == "truncated":
        os.truncate(array, array.stat().st_size // 2)
    elif damage == "empty":
        array.write_bytes(b"")
    elif damage == "swapped":
        store.write("other", make_case((5, 5, 5)))
        shutil.copy(store.files("other")[0], array)
    elif damage == "no json":
        description.unlink()
    elif damage == "no array":
        array.unlink()
    elif damage == "broken json":
        description.write_text(description.read_text()[:100])
    else:
        description.write_text("{}")
    with pytest.raises(AutolmkError, match="case"):
        store.load("case")
    assert store.digest("case") is None


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(AutolmkError, match="No space left"):
        store.write("case", make_case())
    assert list(tmp_path.iterdir()) == []


def test_clean_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("case", make_case())
    (tmp_path / ".other.b2nd.autolmk-abcd1234.tmp.b2nd").write_bytes(b"half")
    (tmp_path / ".other.json.autolmk-abcd1234.tmp").write_bytes(b"half")
    store.clean()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["case.b2nd", "case.json"]


def test_an_unknown_case_gets_a_near_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("patient_1", make_case())
    with pytest.raises(AutolmkError, match="did you mean 'patient_1'"):
        store.load("patient_2")
