"""A packed model appears whole or not at all, with what prediction needs of its members and nothing else."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

from autolmk.cli.find_best_configuration import _size
from autolmk.errors import AutolmkError
from autolmk.paths import MEASURING
from autolmk.postprocessing import Postprocessing
from autolmk.selection import Recipe, RecipeMember
from autolmk.selection.ensembling import single
from autolmk.selection.packing import pack

MODEL = runpy.run_path(str(Path(__file__).parents[1] / "prediction" / "test_predictor.py"))["make_model"]


def a_recipe(name: str, *folds: str) -> Recipe:
    member = RecipeMember(name, folds)
    return Recipe("Dataset001_Blobs", "mm", ("bright", "dark"), (), (member,), single(name), Postprocessing())


def files_of(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_weights_and_records_are_copied_and_nothing_else(tmp_path: Path) -> None:
    model = MODEL(tmp_path, folds=("0", "1"))
    shutil.copytree(model / "fold_0", model / "fold_0" / "coarse")  # an earlier stage
    size = _size(model, [0])
    shutil.copytree(model / "fold_0" / "coarse", model / "fold_0" / "coarse" / MEASURING)  # its first part
    assert size == _size(model, [0]) and size.n_stages == 2
    for name in ("checkpoint_best.safetensors", "training_log.jsonl", "validation/summary.json"):
        (model / "fold_0" / name).parent.mkdir(exist_ok=True)
        (model / "fold_0" / name).write_text("not for prediction")
    target = model.parent / "best"
    pack(target, model.parent, a_recipe(model.name, "0"), lambda place: (place / "note.txt").touch())
    weights = {"config.json", "measured.json", "checkpoint_final.safetensors"}
    expected = {f"{model.name}/fold_0/{part}{name}" for part in ("", "coarse/") for name in weights}
    kept = files_of(target)
    assert expected <= kept and {"recipe.json", "note.txt", f"{model.name}/plans.json"} <= kept
    others = ("fold_1", "best.safetensors", "summary", MEASURING)
    assert not [file for file in kept if any(other in file for other in others)]
    assert Recipe.load(target) == a_recipe(model.name, "0")


def test_a_failure_leaves_the_earlier_one_and_no_remains(tmp_path: Path) -> None:
    model = MODEL(tmp_path)
    target = model.parent / "best"
    pack(target, model.parent, a_recipe(model.name, "0"), lambda place: None)
    before = files_of(target)
    with pytest.raises(AutolmkError, match=r"not finished[\s\S]*checkpoint_final"):
        pack(target, model.parent, a_recipe(model.name, "7"), lambda place: None)

    def full(place: Path) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        pack(target, model.parent, a_recipe(model.name, "0"), full)
    assert files_of(target) == before
    assert sorted(p.name for p in model.parent.iterdir()) == sorted([model.name, "best"])


def test_what_a_kill_left_is_cleared(tmp_path: Path) -> None:
    """Killed while it was written, or between moving the earlier one away and the new one into its place."""
    model = MODEL(tmp_path)
    target = model.parent / "best"
    for name in (".writing_best", ".replaced_best"):
        (model.parent / name).mkdir()
        (model.parent / name / "recipe.json").write_text("half")
    pack(target, model.parent, a_recipe(model.name, "0"), lambda place: None)
    assert sorted(p.name for p in model.parent.iterdir()) == sorted([model.name, "best"])
    assert Recipe.load(target).members[0].model == model.name


def test_what_others_laid_into_the_packed_folder_is_kept(tmp_path: Path) -> None:
    model = MODEL(tmp_path)
    target = model.parent / "best"
    pack(target, model.parent, a_recipe(model.name, "0"), lambda place: (place / "old.txt").write_text("ours"))
    (target / "notes").mkdir()
    (target / "notes" / "mine.txt").write_text("mine")
    (target / model.name / "mine.txt").write_text("mine too")
    pack(target, model.parent, a_recipe(model.name, "0"), lambda place: None)
    assert (target / "notes" / "mine.txt").read_text() == "mine"
    assert (target / model.name / "mine.txt").read_text() == "mine too"
    assert not (target / "old.txt").exists()
    assert sorted(p.name for p in model.parent.iterdir()) == sorted([model.name, "best"])


@pytest.mark.parametrize("name", ["best", ".writing_best", ".replaced_best"])
def test_links_in_the_place_of_packed_folders_are_refused(name: str, tmp_path: Path) -> None:
    model, precious = MODEL(tmp_path), tmp_path / "precious"
    precious.mkdir()
    (precious / "recipe.json").write_text("mine")
    (model.parent / name).symlink_to(precious)
    with pytest.raises(AutolmkError, match="a link is in the place"):
        pack(model.parent / "best", model.parent, a_recipe(model.name, "0"), lambda place: None)
    assert (precious / "recipe.json").read_text() == "mine"


@pytest.mark.parametrize("name", ["notes.txt", "plans/mine.json", "crossvalidation/x"])
def test_a_folder_of_others_in_the_place_of_packing_stays(name: str, tmp_path: Path) -> None:
    file = tmp_path / ".writing_best" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(AutolmkError, match="is packed is taken"):
        pack(tmp_path / "best", tmp_path, a_recipe("T__p__c", "0"), lambda folder: None)
    assert file.read_text() == "mine" and not (tmp_path / "best").exists()
