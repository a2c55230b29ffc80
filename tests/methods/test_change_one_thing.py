"""Every snippet of documentation/change_one_thing.md trains, goes on after it was stopped as if it had not been, and
predicts from a model folder that was copied elsewhere."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_training import NAMES, TRAIN, VAL, assert_same_weights, tiny_plans, write_store

from autolmk.annotations import read_table
from autolmk.data.store import Store
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.log import read_log
from autolmk.methods.sources import keep_sources
from autolmk.methods.trainer import Trainer, trainer_class
from autolmk.plans import Plans
from autolmk.prediction.chain import look_through
from autolmk.prediction.model import Model
from autolmk.prediction.options import TestTime
from autolmk.prediction.stage import Prepared
from autolmk.testing import check_trainer
from autolmk.training.fit import fit
from autolmk.training.state import Run

PAGE = (Path(__file__).resolve().parents[2] / "documentation" / "change_one_thing.md").read_text()
SNIPPETS = {re.findall(r"class (\w+)", code)[0]: code for code in re.findall(r"```python\n(.*?)```", PAGE, re.S)}
MOST_LINES, STOPPED_AT = 15, 3
CHANGED = {  # what the trainer's class, or what it trained, must show of the change
    "Cosine": lambda folder: read_log(folder)[0]["learning_rate"] == pytest.approx(0.01 * (1 + np.cos(np.pi / 4)) / 2),
    "Calm": lambda folder: read_log(folder)[0]["calm"] > 0,
    "WorstCase": lambda folder: read_log(folder)[-2]["worst_case"] > 0,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), tiny_plans())


def written(name: str, folder: Path) -> tuple[type[Trainer], Plans, str]:
    """The snippet as a user's file, and plans that name it."""
    file = folder / "mine.py"
    file.write_text(SNIPPETS[name])
    specification = f"{file}:{name}"
    plans = tiny_plans(iterations_per_epoch=2, epochs=2)
    own = dataclasses.replace(plans.configurations["heatmap"], trainer=specification)
    return trainer_class(specification), dataclasses.replace(plans, configurations={"heatmap": own}), specification


def train(kind: type[Trainer], plans: Plans, store: Store, folder: Path, **arguments: Any) -> bool:
    return fit(kind(plans, plans.configurations["heatmap"]), store, TRAIN, VAL, folder, device="cpu", **arguments)


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_trains_goes_on_and_predicts_elsewhere(
    name: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(SNIPPETS[name].splitlines()) <= MOST_LINES
    kind, plans, specification = written(name, tmp_path)
    model = tmp_path / "model"
    plans.save(model / "plans.json")
    keep_sources([specification], model)
    assert train(kind, plans, store, tmp_path / "unbroken", seed=3)
    step = Run.step

    def stopping(run: Run, batch: Any) -> None:
        step(run, batch)
        if run.iteration == STOPPED_AT:
            (run.folder / "stop").touch()

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", stopping)
        assert not train(kind, plans, store, model / "fold_0", seed=3)
    assert checkpoint.read_record(checkpoint_file(model / "fold_0", "latest"))["iteration"] == STOPPED_AT
    torch.manual_seed(99)
    assert train(kind, plans, store, model / "fold_0")
    assert_same_weights(tmp_path / "unbroken", model / "fold_0")
    assert CHANGED.get(name, lambda folder: True)(model / "fold_0")

    shutil.move(model, tmp_path / "elsewhere")
    (tmp_path / "mine.py").unlink()
    stored, validated = store.load(VAL[0]), read_table(tmp_path / "elsewhere/fold_0/validation/landmarks.csv")[VAL[0]]
    image = Prepared(stored.image(), stored.fill)
    model_there = Model(tmp_path / "elsewhere", TestTime(device="cpu", trust_code=True))
    found = look_through(model_there.stages, [image])
    assert found.landmarks.names == NAMES
    np.testing.assert_allclose(found.best(), validated.points, atol=1e-4)  # those called absent too


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_keeps_the_contract(name: str, tmp_path: Path) -> None:
    check_trainer(written(name, tmp_path)[0], ndims=(2,))


def test_the_table_leads_to_every_section() -> None:
    """Each door of the surface has a row and a section with a snippet."""
    doors = {name for name in re.findall(r"    def (\w+)\(self", Path(trainer_file()).read_text()) if name[0] != "_"}
    required_or_given = {"anew", "n_channels", "n_landmarks", "build_codec", "prediction_network"}
    table = PAGE.split("\n\n")[2]
    assert {name for name in doors - required_or_given if f"`{name}`" not in table and f"`{name}" not in table} == set()
    assert len(SNIPPETS) == len(re.findall(r"^## ", PAGE, re.M)) == len(re.findall(r"\]\(#", table))


def trainer_file() -> str:
    import autolmk.methods.trainer

    return autolmk.methods.trainer.__file__
