"""Splits: by subject, stratified by presence, reproducible, and honest when the dataset has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autolmk.data.splits import fold, load_or_make_splits, make_splits
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json


def dataset(n: int = 43, seed: int = 0) -> tuple[dict[str, str], dict[str, set[str]]]:
    rng = np.random.default_rng(seed)
    subject_of = {f"case{i:02d}": f"subject{i // 2:02d}" for i in range(n)}
    shares = {"always": 1.0, "half": 0.5, "rare": 0.15}
    return subject_of, {case: {name for name, share in shares.items() if rng.random() < share} for case in subject_of}


@pytest.mark.parametrize("seed", range(5))
def test_every_case_is_held_out_once_with_its_subject(seed: int) -> None:
    subject_of, presence = dataset(seed=seed)
    splits = make_splits(subject_of, presence, seed=seed)
    assert sorted(case for split in splits for case in split["val"]) == sorted(subject_of)
    for split in splits:
        assert sorted(split["train"] + split["val"]) == sorted(subject_of)
        assert not {subject_of[c] for c in split["train"]} & {subject_of[c] for c in split["val"]}
    sizes = [len(split["val"]) for split in splits]
    assert max(sizes) - min(sizes) <= 2
    for name in ("half", "rare"):
        counts = [sum(name in presence[c] for c in split["val"]) for split in splits]
        assert max(counts) - min(counts) <= 2, (name, counts)


def test_same_seed_same_splits_other_seed_other_splits() -> None:
    subject_of, presence = dataset()
    assert make_splits(subject_of, presence) == make_splits(subject_of, presence)
    reversed_cases = dict(reversed(subject_of.items()))
    assert make_splits(reversed_cases, presence) == make_splits(subject_of, presence)
    assert make_splits(subject_of, presence, seed=1) != make_splits(subject_of, presence)


@pytest.mark.parametrize(
    ("n", "seed", "folds", "digest"),
    [
        (43, 0, 5, "a3482c4dc89568e6"),
        (43, 1, 5, "b3066017c43e0303"),
        (200, 2, 5, "82a357c52e9de949"),
        (400, 3, 10, "6ab274c88542597b"),
        (1001, 12345, 5, "70d59db0144ac84b"),
    ],
)
def test_splits_stay_as_they_always_were(n: int, seed: int, folds: int, digest: str) -> None:
    """Trained folds of existing datasets stay comparable."""
    splits = make_splits(*dataset(n, seed), folds=folds, seed=seed)
    assert hashlib.sha256(json.dumps(splits).encode()).hexdigest()[:16] == digest


class Counting(dict[str, str]):
    """A mapping that counts how often it is gone through."""

    times = 0

    def items(self) -> Any:
        self.times += 1
        return super().items()

    def __iter__(self) -> Iterator[str]:
        self.times += 1
        return super().__iter__()


def test_cases_are_not_gone_through_once_a_subject() -> None:
    """That would be quadratic."""
    times = []
    for n in (20, 200):
        subject_of, presence = dataset(n)
        counting = Counting(subject_of)
        make_splits(counting, presence)
        times.append(counting.times)
    assert times[0] == times[1]


def test_fewer_subjects_than_folds() -> None:
    subjects = {"a": "a", "b": "b", "c": "c"}
    assert len(make_splits(subjects, {})) == 3
    with pytest.raises(AutolmkError, match="too few cases"):
        make_splits({"a": "s", "b": "s"}, {})


def test_an_edited_file_wins_and_is_checked(tmp_path: Path) -> None:
    subject_of, presence = dataset()
    file = tmp_path / "splits_final.json"
    made = load_or_make_splits(file, subject_of, presence)
    assert read_json(file) == made == load_or_make_splits(file, subject_of, presence, seed=99)
    edited = [{"train": [c for c in subject_of if c != "case42"], "val": ["case42"]}]
    write_json(file, edited)
    assert load_or_make_splits(file, subject_of, presence) == edited
    with pytest.raises(AutolmkError, match=r"case99 new since the splits were made"):
        load_or_make_splits(file, {**subject_of, "case99": "subject99"}, presence)
    with pytest.raises(AutolmkError, match=r"case42 in the splits but not in the dataset"):
        load_or_make_splits(file, {c: s for c, s in subject_of.items() if c != "case42"}, presence)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([], "empty"),
        ([{"train": ["a"]}], "keys"),
        ([{"train": ["a", "b"], "val": ["b"]}], "both sides"),
        ([{"train": ["a"], "val": ["b"]}], "subjects"),
        ([{"train": "a", "val": []}], "list"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, splits: object, message: str) -> None:
    file = tmp_path / "splits_final.json"
    write_json(file, splits)
    with pytest.raises(AutolmkError, match=message) as error:
        load_or_make_splits(file, {"a": "s", "b": "s"}, {})
    assert "splits_final.json" in str(error.value)


def test_folds_by_number_or_all() -> None:
    splits = make_splits({c: c for c in "abcdef"}, {})
    assert fold(splits, 1) == (splits[1]["train"], splits[1]["val"])
    assert fold(splits, "all") == (list("abcdef"), [])
    for wrong in (5, -1):
        with pytest.raises(AutolmkError, match=f"no fold {wrong}"):
            fold(splits, wrong)
