"""The packed model: one folder that predicts anywhere, with what its choice was made on.

results/DATASET/best/: recipe.json, inference_information.json, inference_instructions.txt, dataset.json,
dataset_fingerprint.json, crossval/ (held-out cases through the whole pipeline) and a copy of each model, weights alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from autolmk.errors import AutolmkError
from autolmk.paths import SOURCE_FOLDER, SOURCE_RECORD
from autolmk.recipe.recipe import Member, Recipe
from autolmk.serialization import make_folder

OF_MODEL = ("plans.json", "dataset.json", "dataset_fingerprint.json", SOURCE_RECORD)
OF_FOLD = ("config.json", "measured.json", "checkpoint_final.safetensors")
WRITING, REPLACED = ".writing_", ".replaced_"


def pack(target: Path, models: Path, recipe: Recipe, write: Callable[[Path], None]) -> None:
    """Make `target` anew: copies of the recipe's members from `models`, recipe.json, and what `write` puts there.

    The folder appears whole or not at all; an earlier one stays until then. AutolmkError where a model lacks a file or
    the disk refuses.
    """
    place, old = target.with_name(WRITING + target.name), target.with_name(REPLACED + target.name)
    if old.exists() and not target.exists():  # killed between the two renames below
        old.rename(target)
    for leftover in (place, old):
        if leftover.exists():
            shutil.rmtree(leftover)
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
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    if target.exists():
        target.rename(old)
    place.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def copy_model(source: Path, target: Path, member: Member) -> None:
    """What prediction needs of a model folder: plans, own trainers' sources, and the folds' weights and records."""
    make_folder(target)
    for name in OF_MODEL:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if (source / SOURCE_FOLDER).is_dir():
        shutil.copytree(source / SOURCE_FOLDER, target / SOURCE_FOLDER)
    for fold in member.folds:
        folder = source / f"fold_{fold}"
        files = [file for file in folder.rglob("*") if file.name in OF_FOLD]
        _require(folder, [file.name for file in files if file.parent == folder])
        for file in files:
            place = target / file.relative_to(source)
            make_folder(place.parent)
            shutil.copyfile(file, place)


def _require(folder: Path, found: Sequence[str]) -> None:
    missing = [name for name in OF_FOLD if name not in found]
    if missing:
        raise AutolmkError(
            "a fold is not finished",
            file=folder,
            found=f"no {', '.join(missing)}",
            remedy="finish it with autolmk_train (the same command goes on), or leave it out with -f",
        )
