"""Folds of cross-validation: grouped by subject, stratified by which landmarks are present, editable as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from autolmk.errors import AutolmkError, counted
from autolmk.files.serialization import from_json, read_json, write_json
from autolmk.geometry import FloatArray

FILE_NAME = "splits_final.json"
N_FOLDS = 5
REMEDY = "edit the file, or delete it to have new splits made (trained folds are then no longer comparable)"
Split = dict[str, list[str]]  # "train" and "val": names of cases


def make_splits(
    subject_of: Mapping[str, str],
    presence: Mapping[str, set[str]],
    *,
    folds: int = N_FOLDS,
    seed: int = 12345,
) -> list[Split]:
    """`folds` splits of the cases; each case is held out once, all cases of a subject in the same fold.

    subject_of: case -> subject. presence: case -> names of its present landmarks. Subjects are dealt, largest and
    rarest first, each to the fold where the counts of cases and of every landmark's presence stay evenest (iterative
    stratification; Sechidis et al., ECML 2011). With fewer subjects than folds there are as many folds as subjects.
    AutolmkError with fewer than two subjects.
    """
    subjects = sorted(set(subject_of.values()))
    if len(subjects) < 2:
        raise AutolmkError(
            "too few cases to hold some out",
            found=f"{counted(len(subject_of), 'case')} of {counted(len(subjects), 'subject')}",
            expected="at least two subjects",
            remedy="annotate more cases, or train on all of them with fold `all`",
        )
    folds = min(folds, len(subjects))
    names = sorted({name for present in presence.values() for name in present})
    members: dict[str, list[str]] = {subject: [] for subject in subjects}
    for case in sorted(subject_of):
        members[subject_of[case]].append(case)
    counts = np.array([_counts(members[s], presence, names) for s in subjects], dtype=np.float64)
    fold_of = _dealt(counts, folds, seed)
    held_out = [
        sorted(case for subject, of in zip(subjects, fold_of, strict=True) if of == k for case in members[subject])
        for k in range(folds)
    ]
    return [{"train": sorted(set(subject_of).difference(val)), "val": val} for val in held_out]


def load_or_make_splits(
    file: Path,
    subject_of: Mapping[str, str],
    presence: Mapping[str, set[str]],
    *,
    folds: int = N_FOLDS,
    seed: int = 12345,
) -> list[Split]:
    """The splits in `file`, checked against the cases, or new ones, which are written there."""
    if not file.exists():
        splits = make_splits(subject_of, presence, folds=folds, seed=seed)
        write_json(file, splits)
        return splits
    splits = from_json(list[dict[str, list[str]]], read_json(file, remedy=REMEDY), file=file)
    check_splits(splits, subject_of, file=file)
    return splits


def check_splits(splits: Sequence[Split], subject_of: Mapping[str, str], *, file: Path | None = None) -> None:
    """Raise AutolmkError where the splits do not suit the cases: new or lost cases, or a subject on both sides of a
    fold.
    """
    if not splits:
        raise AutolmkError("the splits are empty", file=file, remedy="delete the file to have it made again")
    for k, split in enumerate(splits):
        if set(split) != {"train", "val"}:
            _wrong(file, f"fold {k} has the keys {sorted(split)}", 'the keys "train" and "val"')
        for side in ("train", "val"):
            twice = sorted({case for case, times in Counter(split[side]).items() if times > 1})
            if twice:
                _wrong(file, f"fold {k} lists {_some(set(twice))} twice in {side!r}", "each case once")
        if not split["train"]:
            _wrong(file, f"fold {k} trains on no case", "at least one")
        both = set(split["train"]) & set(split["val"])
        if both:
            _wrong(file, f"fold {k} has {_some(both)} on both sides", "each case on one side")
        shared = {subject_of.get(c) for c in split["train"]} & {subject_of.get(c) for c in split["val"]} - {None}
        if shared:
            _wrong(file, f"fold {k} trains on and holds out the subjects {_some(shared)}", "each subject on one side")
    listed = {case for split in splits for case in (*split["train"], *split["val"])}
    lost, new = listed - set(subject_of), set(subject_of) - listed
    if lost or new:
        found = [f"{_some(new)} new since the splits were made"] if new else []
        found += [f"{_some(lost)} in the splits but not in the dataset"] if lost else []
        _wrong(file, "; ".join(found), "the splits and the dataset name the same cases")


def fold(splits: Sequence[Split], k: int | Literal["all"]) -> tuple[list[str], list[str]]:
    """The training cases and the held-out cases of fold k; `all` trains on everything and holds nothing out.
    AutolmkError where there is no such fold.
    """
    if k == "all":
        return sorted({case for split in splits for case in (*split["train"], *split["val"])}), []
    if not 0 <= k < len(splits):
        raise AutolmkError(
            f"there is no fold {k}",
            found=f"{len(splits)} folds",
            expected=f"one of {', '.join(map(str, range(len(splits))))}, or all",
            remedy="choose another fold",
        )
    return list(splits[k]["train"]), list(splits[k]["val"])


def _counts(cases: Sequence[str], presence: Mapping[str, set[str]], names: Sequence[str]) -> list[int]:
    """Number of cases, then of those that show each landmark."""
    return [len(cases), *(sum(name in presence.get(case, set()) for case in cases) for name in names)]


def _dealt(counts: FloatArray, folds: int, seed: int) -> list[int]:
    """The fold of each subject, from its counts (S, 1 + landmarks)."""
    rng = np.random.default_rng(seed)
    total = counts.sum(axis=0)
    weight = 1 / np.maximum(total, 1)  # a rare landmark counts as much as a common one
    weight[0] *= counts.shape[1]  # and the number of cases as much as all landmarks
    rarity = np.where(counts[:, 1:] > 0, 1 / np.maximum(total[1:], 1), 0).max(axis=1, initial=0)
    order = np.lexsort((rng.random(len(counts)), -rarity.round(6), -counts[:, 0]))
    filled, result = np.zeros((folds, counts.shape[1])), [0] * len(counts)
    for i in order:
        cost = [(((filled[k] + counts[i]) ** 2 - filled[k] ** 2) * weight).sum() for k in range(folds)]
        best = np.flatnonzero(np.isclose(cost, min(cost)))
        result[i] = int(rng.choice(best))
        filled[result[i]] += counts[i]
    return result


def _some(names: set[str] | set[str | None]) -> str:
    listed = sorted(str(name) for name in names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def _wrong(file: Path | None, found: str, expected: str) -> None:
    raise AutolmkError(
        "the splits do not suit the dataset",
        file=file,
        found=found,
        expected=expected,
        remedy=REMEDY,
    )
