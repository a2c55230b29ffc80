"""Docstrings serve as tooltips: the first line of each stands alone; examples in them run."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from untrained import noise_image, untrained_model, untrained_plans

from autolmk.imageio import write_image

ROOT = Path(__file__).resolve().parents[2]
NEEDS_CONTEXT = re.compile(
    r"(about|above|after|against|among|around|as|at|because|before|behind|below|beneath|beside|between|"
    r"beyond|by|during|except|for|from|if|in|inside|into|like|near|of|off|on|onto|or|out|over|per|since|"
    r"so|such|than|through|till|to|toward|towards|under|until|up|upon|via|with|within|without|and|but|nor|"
    r"how|that|their|them|these|they|this|those|what|when|where|which|while|who|whom|whose|why|it|its|see|"
    r"autolmkerror|valueerror|keyerror|typeerror)\b",
    re.I,
)
FEWEST_WORDS = 4
FIELD = re.compile(r"[a-z_][\w.]*(, \w+)*( \([^)]*\))?:( |$)")  # `shape: D integers`, before what the thing is
EXAMPLES = {  # modules that must have examples, and for what
    "autolmk.geometry": {"Geometry"},
    "autolmk.landmarks": {"Landmarks"},
    "autolmk.dataset.opening": {"Dataset"},
    "autolmk.evaluation.accuracy": {"evaluate"},
    "autolmk.prediction.predictor": {"Predictor"},
    "autolmk.codecs.heatmap": {"HeatmapCodec", "HeightCodec"},
    "autolmk.codecs.cells": {"CellCodec"},
    "autolmk.codecs.coordinates": {"CoordinateCodec"},
    "autolmk.codecs.slices": {"SliceCodec"},
}


def modules() -> Iterator[tuple[str, str]]:
    """(name as it is imported, source) of each module, once."""
    for folder in ("autolmk", "planners", "trainers"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if not any(parent.is_symlink() for parent in file.parents):
                place = file.relative_to(ROOT / "autolmk" if folder == "autolmk" else ROOT).with_suffix("")
                yield ".".join(("autolmk", *place.parts)).removesuffix(".__init__"), file.read_text()


def public(body: list[ast.stmt], before: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """(name, node) of functions, classes and methods without an underscore, and of special methods."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and re.match(r"__\w+__$|[^_]", node.name):
            yield before + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{before}{node.name}.")


def test_first_lines_stand_alone() -> None:
    """No line begins with a preposition, a pronoun, an error or a field, and none has three words or fewer."""
    wrong, count = [], 0
    for module, source in modules():
        tree = ast.parse(source)
        for name, node in (("", tree), *public(tree.body)):
            line = (ast.get_docstring(node) or "").split("\n")[0]
            if not line:
                continue
            count += 1
            begins_badly = NEEDS_CONTEXT.match(line)
            names_a_field = name != "" and FIELD.match(line)
            if begins_badly or names_a_field or not re.match(r"[\w`]", line) or len(line.split()) < FEWEST_WORDS:
                wrong.append(f"{module}:{name}: {line}")
    assert count > 2000
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def folder_of_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what examples name: a model and an image."""
    model = untrained_model(tmp_path / "made", untrained_plans("heatmap", 3))
    (tmp_path / "results" / "Dataset001_X").mkdir(parents=True)
    model.rename(tmp_path / "results" / "Dataset001_X" / "best")
    write_image(tmp_path / "image.nii.gz", noise_image(3))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_examples_run(folder_of_examples: Path) -> None:
    """Each `>>>` prints what it says, in each module that has any."""
    finder, tried = doctest.DocTestFinder(), 0
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.FAIL_FAST)
    said: list[str] = []
    for module, source in modules():
        if ">>>" not in source:
            continue
        loaded = importlib.import_module(module)
        found = {test.name.removeprefix(f"{module}."): test for test in finder.find(loaded, module) if test.examples}
        assert EXAMPLES.get(module, set()) <= set(found), f"{module} has examples of {sorted(found)}"
        for test in found.values():
            runner.run(test, out=said.append)
            tried += len(test.examples)
    assert {module for module, source in modules() if ">>>" in source} >= set(EXAMPLES)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
    assert tried >= 30
