"""The packed model: one folder that predicts anywhere, with what its choice was made on.

results/DATASET/best/: recipe.json, inference_information.json, inference_instructions.txt, dataset.json,
dataset_fingerprint.json, crossval/ (held-out cases through the whole pipeline) and a copy of each model, weights alone.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from autolmk.errors import AutolmkError, some
from autolmk.files.atomic import is_leftover, refuse_link
from autolmk.files.serialization import make_folder, read_json, write_json
from autolmk.paths import MEASURING, SOURCE_FOLDER, SOURCE_RECORD
from autolmk.selection.recipe import RECIPE, Recipe, RecipeMember

OF_MODEL = ("plans.json", "dataset.json", "dataset_fingerprint.json", SOURCE_RECORD)
OF_FOLD = ("config.json", "measured.json", "checkpoint_final.safetensors")
OF_PACKED = ("inference_information.json", "inference_instructions.txt")
CONTENTS = "contents.json"  # the names of all that was packed
WRITING, REPLACED = ".writing_", ".replaced_"
logger = logging.getLogger(__name__)


def pack(target: Path, models: Path, recipe: Recipe, write: Callable[[Path], None]) -> None:
    """Make `target` anew: copies of the recipe's members from `models`, recipe.json, and what `write` puts there.

    The folder appears whole or not at all; an earlier one stays until then. AutolmkError where a model lacks a file or
    the disk refuses.
    """
    place, old = target.with_name(WRITING + target.name), target.with_name(REPLACED + target.name)
    if old.exists() and not target.exists():  # killed between the two renames below
        old.rename(target)
    for folder in (place, target, old):
        refuse_link(folder)
    _require_half_packed(place)
    if place.exists():
        shutil.rmtree(place)  # of a killed run: it was never in use
    if old.exists():
        _remove_packed(old, target)
    make_folder(place)
    try:
        for member in recipe.members:
            copy_model(models / member.model, place / member.model, member)
        for name in ("dataset.json", "dataset_fingerprint.json"):
            first = place / recipe.members[0].model / name
            if first.is_file():
                shutil.copyfile(first, place / name)
        recipe.save(place)
        write(place)
        write_json(place / CONTENTS, sorted({CONTENTS, *_files(place)}), indent=None)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    if target.exists():
        target.rename(old)
    place.rename(target)
    if old.exists():
        _remove_packed(old, target)


def _require_half_packed(place: Path) -> None:
    """AutolmkError unless the folder is missing, or holds nothing but what a killed run began to pack."""
    found = [name for name in _files(place) if not (name == CONTENTS or _is_packed(name) or is_leftover(name))]
    if os.path.lexists(place) and (found or not place.is_dir()):
        raise AutolmkError(
            "the place where a model is packed is taken",
            file=place,
            found=some(found) or "a file",
            expected="nothing, or what a killed run left",
            remedy="move it away",
        )


def _remove_packed(old: Path, target: Path) -> None:
    """Remove an earlier packed model; files that others laid into it go to the same places of the one that took its
    place, which is said."""
    listed = old / CONTENTS
    known = read_json(listed) if listed.is_file() else None
    ours = {CONTENTS, *known} if isinstance(known, list) else {name for name in _files(old) if _is_packed(name)}
    kept = []
    for name in _files(old):
        if name in ours:
            (old / name).unlink()
        elif not os.path.lexists(target / name):
            make_folder((target / name).parent)
            (old / name).rename(target / name)
            kept.append(name)
    for folder in sorted((f for f in old.rglob("*") if f.is_dir() and not f.is_symlink()), reverse=True):
        with suppress(OSError):  # not empty: it holds what could not be moved
            folder.rmdir()
    with suppress(OSError):
        old.rmdir()
    if kept:
        logger.warning("%s: kept what autolmk did not write: %s", target, some(kept))
    if old.exists():
        logger.warning("%s holds files that autolmk did not write, and whose places in %s are taken", old, target)


def _files(folder: Path) -> list[str]:
    """Everything below a folder but folders, relative to it, in order."""
    found = (file for file in folder.rglob("*") if file.is_symlink() or not file.is_dir())
    return sorted(file.relative_to(folder).as_posix() for file in found)


def _is_packed(name: str) -> bool:
    """Whether a file is one that earlier versions, which kept no list, packed."""
    first = name.partition("/")[0]
    return first == "crossval" or first.count("__") == 2 or name in (RECIPE, *OF_MODEL, *OF_PACKED)


def copy_model(source: Path, target: Path, member: RecipeMember) -> None:
    """Copy what prediction needs from a model folder: plans, own trainers' sources, and the folds' weights
    and records.
    """
    make_folder(target)
    for name in OF_MODEL:
        if (source / name).is_file():
            _copy(source / name, target / name)
    if (source / SOURCE_FOLDER).is_dir():
        shutil.copytree(source / SOURCE_FOLDER, target / SOURCE_FOLDER)
    for fold in member.folds:
        folder = source / f"fold_{fold}"
        files = [
            file
            for file in folder.rglob("*")
            if file.name in OF_FOLD and MEASURING not in file.relative_to(folder).parts
        ]
        _require(folder, [file.name for file in files if file.parent == folder])
        for file in files:
            place = target / file.relative_to(source)
            make_folder(place.parent)
            _copy(file, place)


def _copy(source: Path, target: Path) -> None:
    """AutolmkError where a record is damaged: a packed model would be too."""
    if source.suffix == ".json":
        read_json(source, remedy="train the fold again, or leave it out with -f")
    shutil.copyfile(source, target)


def _require(folder: Path, found: Sequence[str]) -> None:
    missing = [name for name in OF_FOLD if name not in found]
    if missing:
        raise AutolmkError(
            "a fold is not finished",
            file=folder,
            found=f"no {', '.join(missing)}",
            remedy="finish it with autolmk_train (the same command goes on), or leave it out with -f",
        )
