"""Trainers in several files: how they find each other, what is kept of them, and that nothing else finds them."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json
from autolmk.methods import sources, user_files
from autolmk.methods.trainer import trainer_class
from autolmk.paths import SOURCE_RECORD
from autolmk.planning.planner import planner_class

HEAD = "from autolmk.trainers.heatmap import HeatmapTrainer\n"
MINE = "\nclass Mine({base}):\n    value = {value}\n\n    def late(self):\n        {late}\n"


def write(folder: Path, **files: str) -> Path:
    """Files below a folder, named with `__` for `/`; gives the folder."""
    for name, content in files.items():
        file = folder / f"{name.replace('__', '/').replace('INIT', '__init__')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(content))
    return folder


def mine(imports: str, value: str = "0", *, base: str = "HeatmapTrainer", late: str = "return 0") -> str:
    return HEAD + imports + MINE.format(base=base, value=value, late=late)


def values(cls: Any) -> tuple[Any, Any]:
    return cls.value, cls.late(None)


def kept_elsewhere(specification: str, model: Path, *, without: Path) -> Any:
    """The trainer of a model folder where its originals are gone."""
    sources.keep_sources([specification], model)
    shutil.rmtree(without)
    return sources.model_trainer_class(specification, model, trust_code=True)


WAYS = {
    "import": ("import mylosses", "mylosses.A"),
    "import as": ("import mylosses as m", "m.A"),
    "from": ("from mylosses import A", "A"),
    "star": ("from mylosses import *", "A"),
    "two at once": ("import json, mylosses", "mylosses.A"),
    "relative": ("from .mylosses import A", "A"),
    "relative module": ("from . import mylosses", "mylosses.A"),
    "folder": ("import parts.one", "parts.one.A"),
    "folder as": ("import parts.one as one", "one.A"),
    "from folder": ("from parts import one", "one.A"),
    "package": ("import packed.deep.two", "packed.deep.two.A"),
    "from package": ("from packed import A", "A"),
    "through another": ("from through import A", "A"),
    "guarded": ("try:\n    from mylosses import A\nexcept ImportError:\n    A = 0", "A"),
    "named by a text": ("import importlib\none = importlib.import_module('.mylosses', __package__)", "one.A"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_importing_a_sibling_here_and_from_the_copy(way: str, tmp_path: Path) -> None:
    imports, value = WAYS[way]
    folder = write(
        tmp_path / "mine",
        mylosses="A = 5",
        parts__one="A = 5",
        packed__INIT="from .deep.two import A",
        packed__deep__INIT="",
        packed__deep__two="from ..three import A",
        packed__three="A = 5",
        through="from mylosses import A",
        late="B = 7",
        unused="A = 0",
        my_trainer=mine(f"{imports}\n", value, late="from late import B; return B"),
    )
    before, path = set(sys.modules), list(sys.path)
    assert values(trainer_class(f"{folder}/my_trainer.py:Mine")) == (5, 7)
    assert sys.path == path and not list(folder.rglob("*.pyc"))
    own = {name for name in set(sys.modules) - before if "mylosses" in name or "parts" in name or "late" in name}
    assert all(name.startswith(user_files.PLUGIN) for name in own)
    there = kept_elsewhere(f"{folder}/my_trainer.py:Mine", tmp_path / "model", without=folder)
    assert values(there) == (5, 7)
    kept = {file.name for file in (tmp_path / "model").rglob("*.py")}
    assert {"my_trainer.py", "late.py"} < kept and "unused.py" not in kept


def a_project(folder: Path) -> Path:
    """A package in a package, whose trainer derives from one in another file and imports by its package's name too."""
    imports, late = "from . import B\nfrom ..bases import Base\nimport lab.common\n", "return super().late()"
    base = mine("from .common import A\n", "A", late="from lab.common import A; return A")
    return write(
        folder,
        lab__INIT="",
        lab__common="A = 1",
        lab__bases=base.replace("Mine", "Base"),
        lab__trainers__INIT="from lab.trainers.losses import B",
        lab__trainers__losses="from ..common import A\nB = A + 1",
        lab__trainers__best=mine(imports, "lab.common.A + B", base="Base", late=late),
    )


def test_a_package_with_relative_imports_and_a_base_class_elsewhere(tmp_path: Path) -> None:
    project = a_project(tmp_path / "project")
    specification = f"{project}/lab/trainers/best.py:Mine"
    cls = trainer_class(specification)
    assert cls.value == 3 and [c.__name__ for c in cls.__mro__[:3]] == ["Mine", "Base", "HeatmapTrainer"]
    there = kept_elsewhere(specification, tmp_path / "model", without=project)
    assert there.value == 3 and there.__mro__[1].value == 1
    folder = tmp_path / "model/trainer_source/best"
    kept = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.py"))
    assert kept == [
        "lab/__init__.py", "lab/bases.py", "lab/common.py",
        "lab/trainers/__init__.py", "lab/trainers/best.py", "lab/trainers/losses.py",
    ]  # fmt: skip


def test_a_planner_in_several_files(tmp_path: Path) -> None:
    code = "from autolmk.planners.heatmap import HeatmapPlanner\nfrom my_numbers import A\n"
    code += "class Mine(HeatmapPlanner):\n    value = A"
    folder = write(tmp_path / "p", my_numbers="A = 3", planner=code)
    assert vars(planner_class(f"{folder}/planner.py:Mine"))["value"] == 3


def test_relative_imports_without_init_files(tmp_path: Path) -> None:
    trainer = mine("from ..common import A\nfrom .x import B\n", "A * B")
    project = write(tmp_path / "p", common="A = 4", t__x="B = 2", t__mine=trainer)
    specification = f"{project}/t/mine.py:Mine"
    assert trainer_class(specification).value == 8
    assert kept_elsewhere(specification, tmp_path / "model", without=project).value == 8


def test_imports_by_the_name_of_the_folder_itself(tmp_path: Path) -> None:
    """As those run from a project's folder: without __init__.py, and not where a sibling has that name."""
    trainer = mine("from src.losses.one import A\nfrom other.two import B\n", "A * B")
    project = write(tmp_path / "p", src__losses__one="A = 2", src__train__mine=trainer, other__two="B = 5")
    specification = f"{project}/src/train/mine.py:Mine"
    assert trainer_class(specification).value == 10
    assert kept_elsewhere(specification, tmp_path / "model", without=project).value == 10
    folder = write(tmp_path / "q/utils", utils="A = 6", mine=mine("from utils import A\n", "A"))
    assert trainer_class(f"{folder}/mine.py:Mine").value == 6


def test_a_folder_without_code_is_no_package(tmp_path: Path) -> None:
    """Such as the one in which a logger that is not installed once wrote its runs."""
    guarded = "try:\n    import a_logger_7\nexcept ImportError:\n    a_logger_7 = None\n"
    folder = write(tmp_path / "m", a_logger_7__run__files__code="", mine=mine(guarded, "a_logger_7"))
    assert trainer_class(f"{folder}/mine.py:Mine").value is None


def test_a_file_of_a_package_that_it_does_not_import_from_is_taken_alone(tmp_path: Path) -> None:
    trainer = mine("import other\n", "other.A")
    folder = write(tmp_path / "pkg", INIT="raise RuntimeError('not needed')", other="A = 3", mine=trainer)
    assert trainer_class(f"{folder}/mine.py:Mine").value == 3


def test_pythons_own_and_installed_modules_are_not_shadowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(
        tmp_path / "m", json="A = 1", random="A = 1", torch__INIT="A = 1", autolmk__INIT="", numpy="A = 1",
        use="import json, random, torch, numpy\n", mine=mine("import json\nimport use\n", "json.dumps(1)"),
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        cls = trainer_class(f"{folder}/mine.py:Mine")
    assert cls.value == "1"
    used = sys.modules[cls.__module__].use
    assert used.json is json and used.torch is sys.modules["torch"] and used.random is importlib.import_module("random")
    assert used.numpy is importlib.import_module("numpy")
    assert f"{folder}/json.py is not imported" in caplog.text and "torch" in caplog.text
    assert set(sources.keep_sources([f"{folder}/mine.py:Mine"], tmp_path / "o").popitem()[1].below_root()) == {
        "mine.py",
        "use.py",
    }


def test_siblings_of_one_name_do_not_mix(tmp_path: Path) -> None:
    found = []
    for value in (1, 2):
        trainer = mine("from mylosses import A\n", "A", late="import mylosses; return mylosses.A")
        folder = write(tmp_path / str(value), mylosses=f"A = {value}", mine=trainer)
        specification = f"{folder}/mine.py:Mine"
        sources.keep_sources([specification], tmp_path / f"model_{value}")
        found += [trainer_class(specification)]
        found += [sources.model_trainer_class(specification, tmp_path / f"model_{value}", trust_code=True)]
    assert [values(cls) for cls in found] == [(1, 1), (1, 1), (2, 2), (2, 2)]
    model = tmp_path / "both"
    sources.keep_sources([f"{tmp_path}/{value}/mine.py:Mine" for value in (1, 2)], model)
    for value in (1, 2):
        cls = sources.model_trainer_class(f"{tmp_path}/{value}/mine.py:Mine", model, trust_code=True)
        assert values(cls) == (value, value)


def test_an_edited_sibling_is_another_module(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", mylosses="A = 1", mine=mine("from mylosses import A\n", "A"))
    first = trainer_class(f"{folder}/mine.py:Mine")
    assert trainer_class(f"{folder}/mine.py:Mine") is first
    write(folder, mylosses="A = 2")
    assert trainer_class(f"{folder}/mine.py:Mine").value == 2 and first.value == 1


@pytest.mark.parametrize("edited", ["lab__bases", "lab__common", "lab__trainers__INIT", "lab__trainers__losses"])
def test_an_edited_file_of_a_begun_model_is_noticed(edited: str, tmp_path: Path) -> None:
    project, model = a_project(tmp_path / "project"), tmp_path / "model"
    specification = f"{project}/lab/trainers/best.py:Mine"
    sources.keep_sources([specification], model)
    (model / "fold_0").mkdir()
    (model / "fold_0/checkpoint_latest.safetensors").touch()
    sources.keep_sources([specification], model)
    file = project / f"{edited.replace('__', '/').replace('INIT', '__init__')}.py"
    file.write_text(file.read_text() + "# edited\n")
    with pytest.raises(AutolmkError, match=rf"(?s)imports changed since.*{file}.*SHA-256.*as in .*{file.name}"):
        sources.keep_sources([specification], model)


def test_copies_are_checked_and_nothing_else_is_imported(tmp_path: Path) -> None:
    imports = "try:\n    import extra\nexcept ImportError:\n    extra = None\nimport mylosses\n"
    folder, model = write(tmp_path / "m", mylosses="A = 1", mine=mine(imports, "extra")), tmp_path / "model"
    specification = f"{folder}/mine.py:Mine"
    sources.keep_sources([specification], model)
    write(model / "trainer_source/mine", extra="raise RuntimeError('not in the record')")
    assert sources.model_trainer_class(specification, model, trust_code=True).value is None
    with pytest.raises(AutolmkError, match=r"(?s)not run unasked.*read the files in .*trainer_source/mine.*trust-code"):
        sources.model_trainer_class(specification, model)
    copy = model / "trainer_source/mine/mylosses.py"
    copy.write_text("A = 2")
    with pytest.raises(AutolmkError, match=r"(?s)changed after training.*mylosses.py.*SHA-256"):
        sources.model_trainer_class(specification, model, trust_code=True)
    copy.unlink()
    with pytest.raises(AutolmkError, match=r"(?s)missing from the model folder.*mylosses.py"):
        sources.model_trainer_class(specification, model, trust_code=True)


@pytest.mark.parametrize("place", ["trainer_source/other/x.py", "trainer_source/mine/../../x.py", "/x.py", "x.py"])
def test_a_record_names_files_of_one_folder_only(place: str, tmp_path: Path) -> None:
    folder, model = write(tmp_path / "m", mylosses="A = 1", mine=mine("import mylosses\n")), tmp_path / "model"
    sources.keep_sources([f"{folder}/mine.py:Mine"], model)
    record = read_json(model / SOURCE_RECORD)
    for source in record.values():
        source["others"] = {place: "0" * 64}
    write_json(model / SOURCE_RECORD, record)
    with pytest.raises(AutolmkError, match=r"lies in trainer_source/|plain name"):
        sources.kept_sources(model)


def test_a_module_on_the_path_keeps_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with PYTHONPATH: modules of several folders, a package of one's own among them."""
    imports = "import my_sibling_7\nfrom my_library_7.base import A\nfrom my_folder_7.deep.it import A as B\n"
    trainer = mine(imports, "A * B + my_sibling_7.A")
    library = {"my_library_7__INIT": "", "my_library_7__base": "from .deeper import A", "my_library_7__deeper": "A = 2"}
    one = write(tmp_path / "one", my_trainer_7=trainer, my_sibling_7="A = 1")
    two = write(tmp_path / "two", my_folder_7__deep__it="from my_library_7 import deeper\nA = deeper.A - 1", **library)
    monkeypatch.setattr(sys, "path", [str(one), str(two), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    models = tmp_path / "model_1", tmp_path / "model_2"
    for specification, model in zip(("my_trainer_7:Mine", f"{one}/my_trainer_7.py:Mine"), models, strict=True):
        assert trainer_class(specification).value == 3
        sources.keep_sources([specification], model)
        kept = sources.kept_sources(model)[specification].below_root()
        below = {f"my_library_7/{name}.py" for name in ("__init__", "base", "deeper")}
        assert set(kept) == {"my_trainer_7.py", "my_sibling_7.py", "my_folder_7/deep/it.py", *below}
    monkeypatch.setattr(sys, "path", sys.path[2:])
    for name in [n for n in sys.modules if n.partition(".")[0].endswith("_7")]:
        if not name.startswith(user_files.PLUGIN):
            del sys.modules[name]
    shutil.rmtree(one)
    shutil.rmtree(two)
    for specification, model in zip(("my_trainer_7:Mine", f"{one}/my_trainer_7.py:Mine"), models, strict=True):
        assert sources.model_trainer_class(specification, model, trust_code=True).value == 3


def test_installed_packages_are_not_copied_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of `pip install --target`."""
    target = write(tmp_path / "target", some_tool_7__INIT="A = 6")
    facts = target / "some_tool_7-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: some-tool-7\nVersion: 1.0\n")
    (facts / "RECORD").write_text("some_tool_7/__init__.py,,\nsome_tool_7-1.0.dist-info/METADATA,,\n")
    monkeypatch.setattr(sys, "path", [str(target), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = write(tmp_path / "m", mine=mine("import some_tool_7\n", "some_tool_7.A"))
    kept = sources.keep_sources([f"{folder}/mine.py:Mine"], tmp_path / "model")
    assert trainer_class(f"{folder}/mine.py:Mine").value == 6
    assert [source.hashes.keys() for source in kept.values()] == [{"trainer_source/mine.py"}]
    del sys.modules["some_tool_7"]


def test_a_record_of_an_earlier_version_loads_and_goes_on(tmp_path: Path) -> None:
    """Which kept the trainer's own file alone."""
    folder, model = write(tmp_path / "m", mylosses="A = 1", mine=mine("")), tmp_path / "model"
    specification = f"{folder}/mine.py:Mine"
    sources.keep_sources([specification], model)
    record = read_json(model / SOURCE_RECORD)
    assert record[specification].pop("others") == {}
    write_json(model / SOURCE_RECORD, record)
    assert sources.model_trainer_class(specification, model, trust_code=True).value == 0
    (model / "fold_0").mkdir()
    (model / "fold_0/checkpoint_latest.safetensors").touch()
    assert sources.keep_sources([specification], model)[specification].others == {}


WITH_OPTIONS = """
from __future__ import annotations
from dataclasses import dataclass
from autolmk.trainers.heatmap import HeatmapTrainer
from kinds import Kind

class Mine(HeatmapTrainer):
    @dataclass(frozen=True)
    class Options(HeatmapTrainer.Options):
        kind: Kind = "soft"

    def loss(self, output, target, status):
        from mylosses import term
        return super().loss(output, target, status) + term(output, self.options.kind)
"""
ELSEWHERE = """
import sys, torch
from pathlib import Path
from autolmk.conformance.examples import example_plans
from autolmk.methods.sources import model_trainer_class
from autolmk.planning.memory import random_batch
specification, model = sys.argv[1:]
cls = model_trainer_class(specification, Path(model), trust_code=True)
plans = example_plans(2)
trainer = cls(plans, plans.configuration("example"), {"kind": "hard"})
batch = random_batch(trainer, 1, device="cpu")
step = trainer.training_step(trainer.build_network(), trainer.build_codec(), batch)
print(float(step["loss"].detach()) > 1000, [n for n in sys.modules if "mylosses" in n and not n.startswith("autolmk_")])
"""


def test_a_model_that_was_copied_trains_and_predicts_in_another_process(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "m",
        mine=WITH_OPTIONS,
        kinds="from typing import Literal\nKind = Literal['soft', 'hard']",
        mylosses="def term(output, kind):\n    return output.mean() * 0 + {'soft': 0, 'hard': 1e4}[kind]",
    )
    specification = f"{folder}/mine.py:Mine"
    sources.keep_sources([specification], tmp_path / "model")
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "model", tmp_path / "far/away/model")
    shutil.rmtree(tmp_path / "model")
    command = [sys.executable, "-c", ELSEWHERE, specification, "far/away/model"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "True []\n", done.stderr


def test_errors_of_a_sibling_name_the_place(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", broken="x = 1\nraise RuntimeError('no')", mine=mine("import broken\n"))
    with pytest.raises(AutolmkError, match=r"(?s)cannot be imported.*RuntimeError: no.*broken.py, line 2"):
        trainer_class(f"{folder}/mine.py:Mine")
    assert not [name for name in sys.modules if name.endswith(".broken")]
    write(folder, broken="class A(:\n")
    with pytest.raises(AutolmkError, match=r"(?s)cannot be imported.*SyntaxError.*broken.py, line 1"):
        trainer_class(f"{folder}/mine.py:Mine")
    (folder / "broken.py").unlink()
    with pytest.raises(AutolmkError, match=r"(?s)cannot be imported.*No module named 'broken'.*mine.py, line 2"):
        trainer_class(f"{folder}/mine.py:Mine")
