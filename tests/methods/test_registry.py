"""Names -> classes, and the source of a user's trainer that travels with a model."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from autolmk.errors import AutolmkError
from autolmk.files.serialization import write_json
from autolmk.methods import registry, sources
from autolmk.methods.trainer import Trainer, trainer_class
from autolmk.paths import SOURCE_RECORD
from autolmk.planning.planner import Planner, planner_class
from autolmk.trainers.heatmap import HeatmapTrainer

MINE = """
from autolmk.trainers.heatmap import HeatmapTrainer
from autolmk.methods.trainer import Trainer

class Mine(HeatmapTrainer):
    marker = {marker}

class Unfinished(Trainer):
    pass

class Other:
    pass
"""


def write(folder: Path, marker: int = 1, name: str = "mine.py") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(MINE.format(marker=marker))
    return file


def test_every_shipped_name_loads() -> None:
    for name in registry.TRAINERS:
        assert issubclass(trainer_class(name), Trainer)
    for name in registry.PLANNERS:
        assert issubclass(planner_class(name), Planner)


def test_an_unknown_name_gets_near_names() -> None:
    with pytest.raises(AutolmkError, match=r"(?s)no trainer 'heatmaps'; did you mean 'heatmap'.*one of .*heatmap"):
        trainer_class("heatmaps")


def test_a_class_of_a_file_and_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # as Python is by default
    file = write(tmp_path)
    found = trainer_class(f"{file}:Mine")
    changed = file.stat().st_mtime_ns
    assert issubclass(found, HeatmapTrainer) and found is trainer_class(f"{file}:Mine")
    monkeypatch.chdir(tmp_path)
    assert trainer_class("mine.py:Mine") is found
    assert registry.absolute("mine.py:Mine") == f"{file}:Mine" and registry.absolute("heatmap") == "heatmap"
    assert trainer_class("autolmk.trainers.heatmap:HeatmapTrainer") is HeatmapTrainer
    os.utime(write(tmp_path, marker=2), ns=(changed, changed))  # an edited file is another module, whatever its time
    assert vars(trainer_class("mine.py:Mine"))["marker"] == 2
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Mime", "no class 'Mime'.*did you mean 'Mine'"),
        ("Other", "no trainer.*subclass of autolmk.methods.trainer.Trainer"),
        ("Unfinished", "lacks required methods.*build_codec, build_network, loss"),
        ("HeatmapTrainers", "did you mean 'HeatmapTrainer'"),
    ],
)
def test_wrong_classes_of_a_file(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(AutolmkError, match=f"(?s){words}"):
        trainer_class(f"{write(tmp_path)}:{name}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("import nowhere_to_be_found\n", r"ModuleNotFoundError.*broken.py, line 1"),
        ("x = 1\nclass A(:\n", r"SyntaxError.*broken.py, line 2"),
        ("x = 1\n\nraise RuntimeError('no')\n", r"RuntimeError: no.*broken.py, line 3"),
    ],
)
def test_a_file_that_cannot_be_imported(content: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(content)
    with pytest.raises(AutolmkError, match=rf"(?s)cannot be imported.*{words}"):
        trainer_class(f"{file}:A")
    assert not any(
        "autolmk_plugin" in name and getattr(m, "__file__", "") == str(file) for name, m in sys.modules.items()
    )


def test_a_file_or_module_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(AutolmkError, match=r"(?s)file does not exist.*none.py"):
        trainer_class(f"{tmp_path}/none.py:Mine")
    with pytest.raises(AutolmkError, match="cannot be imported"):
        trainer_class("no_such_package.module:Mine")


def test_entry_points_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
        value = "autolmk.trainers.heatmap:HeatmapTrainer"
        return [importlib.metadata.EntryPoint(name, value, group) for name in ("plugin", "heatmap")]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert trainer_class("plugin") is HeatmapTrainer
    assert registry.known_names("trainer")["heatmap"] == registry.TRAINERS["heatmap"]
    with pytest.raises(AutolmkError, match="did you mean 'plugin'"):
        trainer_class("plugins")


# -- a model folder's trainer -----------------------------------------------------------------------------------------


def test_shipped_trainers_leave_no_copy(tmp_path: Path) -> None:
    assert sources.keep_sources(["heatmap"], tmp_path) == {}
    assert not list(tmp_path.iterdir())
    assert sources.model_trainer_class("heatmap", tmp_path) is HeatmapTrainer


def test_a_models_code_runs_only_when_trusted(tmp_path: Path) -> None:
    model = tmp_path / "model"
    file = write(tmp_path / "mine")
    specification = f"{file}:Mine"
    source = sources.keep_sources([specification], model)[specification]
    assert (model / source.file).read_bytes() == file.read_bytes()
    (model / source.file).write_text(file.read_text())
    evil = tmp_path / "was_run"
    file.write_text(file.read_text() + f"\nopen({str(evil)!r}, 'w').close()\n")  # not even the original is run unasked
    with pytest.raises(AutolmkError, match=r"(?s)not run unasked.*mine.py.*--trust-code.*-tr"):
        sources.model_trainer_class(specification, model)
    assert not evil.exists()
    trusted = sources.model_trainer_class(specification, model, trust_code=True)
    assert trusted.__name__ == "Mine" and not evil.exists()
    assert sources.model_trainer_class(specification, model, given=specification).__name__ == "Mine" and evil.exists()


def test_a_changed_copy_is_refused_even_when_trusted(tmp_path: Path) -> None:
    specification = f"{write(tmp_path / 'mine')}:Mine"
    source = sources.keep_sources([specification], tmp_path)[specification]
    with (tmp_path / source.file).open("a") as stream:
        stream.write("# changed\n")
    with pytest.raises(AutolmkError, match=r"(?s)changed after training.*SHA-256"):
        sources.model_trainer_class(specification, tmp_path, trust_code=True)


def test_a_record_cannot_point_out_of_the_model_folder(tmp_path: Path) -> None:
    model, outside = tmp_path / "model", write(tmp_path / "outside")
    sources.keep_sources([f"{outside}:Mine"], model)
    record = model / SOURCE_RECORD
    record.write_text(record.read_text().replace("trainer_source/mine.py", "../outside/mine.py"))
    with pytest.raises(AutolmkError, match="lies in trainer_source/"):
        sources.model_trainer_class("mine.py:Mine", model, trust_code=True)


@pytest.mark.parametrize("stage", ["", "heatmap/", "heatmap/coarser/"])
def test_folds_of_a_model_share_one_trainer(stage: str, tmp_path: Path) -> None:
    model, file = tmp_path / "model", write(tmp_path / "mine")
    sources.keep_sources([f"{file}:Mine"], model)
    sources.keep_sources([f"{file}:Mine"], model)
    begun = model / "fold_0" / stage / "checkpoint_latest.safetensors"
    begun.parent.mkdir(parents=True)
    begun.touch()
    write(tmp_path / "mine", marker=2)
    with pytest.raises(AutolmkError, match=r"(?s)source changed.*mine.py"):
        sources.keep_sources([f"{file}:Mine"], model)
    other = write(tmp_path / "elsewhere", marker=3)
    with pytest.raises(AutolmkError, match=r"(?s)source changed.*mine.py"):
        sources.keep_sources([f"{other}:Mine"], model)
    moved = write(tmp_path / "moved")
    assert set(sources.keep_sources([f"{moved}:Mine"], model)) == {f"{file}:Mine", f"{moved}:Mine"}


def test_the_trainers_of_all_stages_are_kept(tmp_path: Path) -> None:
    model = tmp_path / "model"
    one, two = write(tmp_path / "a", marker=1), write(tmp_path / "b", marker=2)
    one.write_text(one.read_text() + "\nclass Second(Mine):\n    pass\n")
    specifications = [f"{one}:Mine", "heatmap", f"{one}:Second", f"{two}:Mine"]
    for _ in range(2):
        kept = sources.keep_sources(specifications, model)
        assert sources.kept_sources(model) == kept and list(kept) == [s for s in specifications if ":" in s]
        assert [s.file for s in kept.values()] == [f"trainer_source/mine{n}.py" for n in ("", "", "_2")]
    trusted = [sources.model_trainer_class(s, model, trust_code=True) for s in specifications]
    assert [cls.__name__ for cls in trusted] == ["Mine", "HeatmapTrainer", "Second", "Mine"]
    assert [vars(trusted[i])["marker"] for i in (0, 3)] == [1, 2]
    with pytest.raises(AutolmkError) as refused:
        sources.model_trainer_class(specifications[0], model, last=False)
    assert "--trust-code" in str(refused.value) and "file.py:Class" not in str(refused.value)
    with pytest.raises(AutolmkError, match="source is missing"):
        sources.model_trainer_class("elsewhere.py:Another", model, trust_code=True)


def test_a_record_of_a_single_source_is_read(tmp_path: Path) -> None:
    """As versions before several stages could be a user's own wrote it; folds may name other places of the file."""
    model, specification = tmp_path / "model", f"{write(tmp_path / 'mine')}:Mine"
    source = sources.keep_sources([specification], model)[specification]
    write_json(model / SOURCE_RECORD, source)
    for named in (specification, "/elsewhere/mine.py:Mine"):
        assert sources.model_trainer_class(named, model, trust_code=True).__name__ == "Mine"
    with pytest.raises(AutolmkError, match=r"(?s)source is missing.*command that trained"):
        sources.model_trainer_class("mine.py:Coarse", model, trust_code=True, last=False)


def test_code_that_a_file_names_runs_only_when_asked_for(tmp_path: Path) -> None:
    mine, plans = write(tmp_path), tmp_path / "plans.json"
    inside = ["heatmap", "autolmk.trainers.heatmap:HeatmapTrainer", "installed_name"]
    registry.require_asked(inside, plans, trust_code=False)
    for foreign in (
        f"{mine}:Mine",
        "~/mine.py:Mine",
        "mine:Mine",
        "autolmk_else.mine:Mine",
        "autolmk.py:Mine",
        "a.b:C",
    ):
        with pytest.raises(AutolmkError, match="not run unasked") as error:
            registry.require_asked([*inside, foreign], plans, trust_code=False)
        assert "--trust-code" in str(error.value) and str(plans) in str(error.value)
        registry.require_asked([foreign], plans, trust_code=True)
        registry.require_asked([foreign], plans, trust_code=False, named=[f"{foreign.rpartition(':')[0]}:Planner"])
    with pytest.raises(AutolmkError, match="not run unasked"):
        registry.require_asked([f"{mine}:Mine"], plans, trust_code=False, named=[f"{tmp_path}/else.py:Mine"])
