"""The house: no circle of imports, each name once, short signatures."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import grimp
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[2]
MOST_PARAMETERS = 7
STAND_INS = "autolmk/export_onnx/torch_free.py"  # have the names of what they stand in for
CONCEPTS = {  # file names that stand for one concept in several rooms, and which
    "accuracy.py": "errors against truth: computed, and shown in the report",
    "apga.py": "a method: its plans, its trainer, its network",
    "bids.py": "the layout of BIDS: read, and predicted into",
    "cells.py": "cells of the image that vote: what they predict, and the network's head for it",
    "coarse_to_fine.py": "a method",
    "deeplabcut.py": "a format, and the recipe of datasets in it",
    "doors.py": "what a user's trainer may change: checked, and asked for",
    "export.py": "a model written for others: the command, and as ONNX",
    "files.py": "image files of cases: listed, and checked",
    "global_to_local.py": "a method",
    "heatmap.py": "a method, and its codec",
    "held_out.py": "held-out detections of folds: read, and chosen on the command line",
    "job.py": "a command in a process of its own: begun, and run",
    "nnlandmark.py": "the format of nnLandmark's datasets: read, and offered",
    "report.py": "autolmk_report's command, and what autolmk_check reports",
    "results.py": "tables of predictions: written, and shown in the report",
    "rows.py": "rows of look-alikes: drawn in phantoms, and measured in training",
    "slices.py": "landmarks on one slice, see codecs",
    "verse.py": "a format, and the recipe of its dataset",
    "sources.py": "what a thing was made from: a model's trainers, a report's figures",
}


def trees() -> Iterator[tuple[str, ast.Module]]:
    """(path from the root, syntax tree) of each module, once."""
    for folder in ("autolmk", "planners", "trainers"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if not any(parent.is_symlink() for parent in file.parents):
                yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text())


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for types included; what the package itself loads when a name of it is first used is not."""
    graph = grimp.build_graph("autolmk", cache_dir=None)
    modules = sorted(graph.modules - {"autolmk"})
    place = {module: i for i, module in enumerate(modules)}
    pairs = [
        (place[module], place[other])
        for module in modules
        for other in graph.find_modules_directly_imported_by(module)
        if other in place
    ]
    rows, columns = np.array(pairs).T
    count, label = connected_components(
        coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(modules),) * 2), connection="strong"
    )
    circles = defaultdict(list)
    for module, circle in zip(modules, label, strict=True):
        circles[int(circle)].append(module)
    assert count == len(modules), [circle for circle in circles.values() if len(circle) > 1]


def test_each_class_name_stands_once() -> None:
    """Classes inside others have the others' name before theirs."""
    found = defaultdict(list)
    for file, tree in trees():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and file != STAND_INS:
                found[node.name].append(file)
    assert len(found) > 200
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_each_file_name_stands_for_one_concept() -> None:
    found = defaultdict(list)
    for file, _ in trees():
        if not file.endswith("__init__.py"):
            found[Path(file).name].append(file)
    twice = {name: files for name, files in found.items() if len(files) > 1 and name not in CONCEPTS}
    assert twice == {} and len(found["run.py"]) == len(found["slices.py"]) == 1


def test_public_functions_take_few_parameters() -> None:
    many = {}
    for file, tree in trees():
        for place, function in functions(tree):
            a = function.args
            names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg)))]
            if len([name for name in names if name not in ("self", "cls")]) > MOST_PARAMETERS:
                many[f"{file}:{place}"] = len(names)
    assert many == {}


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(name, function) of public functions and methods; a constructor has its class's name."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                    yield node.name, inner
                elif isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner
