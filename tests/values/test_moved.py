"""Old names of modules: the same objects as under the new ones, and a warning that says the new one."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from autolmk import moved
from autolmk.files.serialization import write_json
from autolmk.methods.sources import model_trainer_class
from autolmk.methods.trainer import Trainer

ROOT = Path(__file__).parents[2]
BELOW_RECIPE = ("ensembling", "error_radius", "model_selection", "packing", "recipe", "results")
OLD = [*moved.MODULES, *(f"recipe.{name}" for name in BELOW_RECIPE)]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Old names are imported anew in each test, and leave no trace."""
    yield
    for name in [n for n in sys.modules if moved.new_name(n) is not None]:
        del sys.modules[name]
        parent, _, child = name.rpartition(".")
        if parent == "autolmk":
            vars(sys.modules[parent]).pop(child, None)


@pytest.mark.parametrize("old", OLD)
def test_an_old_name_gives_the_very_module_of_today(old: str) -> None:
    new = moved.new_name(f"autolmk.{old}")
    assert new is not None and not (ROOT / f"autolmk/{old.replace('.', '/')}.py").exists()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = importlib.import_module(f"autolmk.{old}")
    today = importlib.import_module(new)
    said = [str(w.message) for w in told if issubclass(w.category, DeprecationWarning)]
    assert f"autolmk.{old} has moved: import {new}" in said
    if old not in moved.NAMES:
        assert found is today
    public = [name for name in vars(today) if not name.startswith("__")]
    assert public and all(getattr(found, name) is getattr(today, name) for name in public)
    assert today.__name__ == new and today.__spec__ is not None and today.__spec__.name == new


@pytest.mark.parametrize(("old", "name"), [(old, name) for old, names in moved.NAMES.items() for name in names])
def test_a_name_that_left_its_module_is_found(old: str, name: str) -> None:
    new = f"autolmk.{moved.NAMES[old][name]}"
    with pytest.warns(DeprecationWarning, match="has moved"):
        module = importlib.import_module(f"autolmk.{old}")
    with pytest.warns(DeprecationWarning, match=rf"autolmk.{old}.{name} has moved: import it from {new}"):
        assert getattr(module, name) is getattr(importlib.import_module(new), name)
    assert name in module.__all__


def test_every_way_of_importing_and_the_warnings_place(tmp_path: Path) -> None:
    script = tmp_path / "old_user.py"
    script.write_text(
        "import autolmk.losses\n"
        "from autolmk import sampling, trainer as t\n"
        "import autolmk.shape_model as shape_model\n"
        "from autolmk.recipe.packing import copy_model\n"
        "from autolmk.registry import *\n"
        "from autolmk.methods.trainer import Trainer\n"
        "assert t.Trainer is Trainer and issubclass(trainer_class('heatmap'), t.Trainer) and TRAINERS\n"
        "assert autolmk.losses.spatial_cross_entropy and sampling and shape_model\n"
        "try:\n    import autolmk.never_there\nexcept ModuleNotFoundError as error:\n"
        "    assert error.name == 'autolmk.never_there'\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default::DeprecationWarning:__main__", script],
        capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line, name in ((1, "losses"), (2, "sampling"), (2, "trainer"), (3, "shape_model"), (4, "recipe.packing")):
        assert f"old_user.py:{line}: DeprecationWarning: autolmk.{name} has moved" in done.stderr


def test_a_model_folders_copy_of_former_days_loads(tmp_path: Path) -> None:
    """With the record of that time, which kept one file."""
    code = (
        "from autolmk.losses import spatial_cross_entropy\nfrom autolmk.trainer import Trainer\n"
        "from autolmk.trainers.heatmap import HeatmapTrainer\n"
        "class Mine(HeatmapTrainer):\n"
        "    def loss(self, output, target, status):\n"
        "        return spatial_cross_entropy(output, target, status, in_place=True)\n"
        "assert issubclass(Mine, Trainer)\n"
    )
    (tmp_path / "trainer_source").mkdir()
    (tmp_path / "trainer_source/mine.py").write_text(code)
    sha256 = hashlib.sha256(code.encode()).hexdigest()
    record = {"specification": "/gone/mine.py:Mine", "class_name": "Mine", "file": "trainer_source/mine.py"}
    write_json(tmp_path / "trainer_source.json", {**record, "sha256": sha256})
    with pytest.warns(DeprecationWarning, match="has moved|no effect") as told:
        cls = model_trainer_class("/gone/mine.py:Mine", tmp_path, trust_code=True)
    assert issubclass(cls, Trainer) and {Path(w.filename).name for w in told} == {"mine.py"}


def test_no_code_of_autolmk_imports_by_an_old_name() -> None:
    files = [f for room in ("autolmk", "benchmarks", "planners", "trainers") for f in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert not [name for name in names if moved.new_name(name) is not None], file


def test_installing_twice_changes_nothing() -> None:
    before = list(sys.meta_path)
    moved.install()
    assert sys.meta_path == before
    assert importlib.util.find_spec("autolmk.trainer") is not None  # without a warning: nothing is imported
