"""The guard of places where a command writes: results of an earlier call are replaced, nothing else is."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from autolmk.errors import AutolmkError, some
from autolmk.files.atomic import refuse_link

SUMMARY = "summary.json"  # of an evaluation
OF_AN_EVALUATION = {"unit", "n_cases", "overall", "landmarks"}  # keys that it has, by any version


def require_ours(file: Path, is_ours: Callable[[Path], bool], *, what: str) -> None:
    """Raise AutolmkError where something is in the place of `file` that `is_ours` does not know. what: that autolmk
    writes there, in words.
    """
    if not os.path.lexists(file) or file.is_dir():  # which the writing itself refuses
        return
    if file.is_symlink() or not file.is_file() or not is_ours(file):
        raise AutolmkError(
            "a file is in the way that is not replaced",
            file=file,
            expected=f"nothing, or {what}",
            remedy="choose another name with -o, or move this file away",
        )


def require_evaluation(folder: Path, names: Collection[str], *, held_out: bool = False) -> None:
    """Raise AutolmkError where files of these names are in a folder, and it is none of an earlier evaluation. held_out:
    it also has the truth beside the points, as autolmk_accumulate_crossval_results writes it; beside a user's own
    truth.csv, an evaluation is told by its summary.csv.
    """
    if held_out:  # whose detections of other cases are removed; a user may link the folder of an evaluation elsewhere
        refuse_link(folder)
    found = sorted(name for name in names if os.path.lexists(folder / name))
    there = {name for name in ("landmarks.csv", "truth.csv", "summary.csv") if (folder / name).is_file()}
    begun = held_out and "landmarks.csv" in there  # a killed call may have left no summary
    whose = "truth.csv" in there if held_out else "truth.csv" not in there or "summary.csv" in there
    if found and not (whose and (begun or _is_evaluation(folder / SUMMARY))):
        raise AutolmkError(
            "files are in the way that no earlier evaluation into this folder wrote",
            file=folder,
            found=some(found),
            expected="a new or empty folder, or one of an earlier evaluation",
            remedy="choose another folder with -o, or move these files away",
        )


def _is_evaluation(file: Path) -> bool:
    from autolmk.files.serialization import read_json

    if file.is_symlink() or not file.is_file():
        return False
    try:
        value = read_json(file)
    except AutolmkError:
        return False
    return isinstance(value, dict) and value.keys() >= OF_AN_EVALUATION


def begins_with(words: str) -> Callable[[Path], bool]:
    """Whether the first 64 KiB of a file hold these words, as a test for `require_ours`."""

    def is_ours(file: Path) -> bool:
        with file.open("rb") as stream:
            return words.encode() in stream.read(1 << 16)

    return is_ours
