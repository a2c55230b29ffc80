"""What is installed is what is here: packages, dependencies, entry points, and a wheel used from another folder."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOP = {"planners": "autolmk.planners", "trainers": "autolmk.trainers"}
PROVIDES = {  # distribution -> the name that it is imported by, where the two differ
    "acvl-utils": "acvl_utils",
    "dynamic-network-architectures": "dynamic_network_architectures",
    "pillow": "PIL",
}
COMMANDS = {
    "check": "check",
    "convert": "convert",
    "import": "import_",
    "extract_fingerprint": "extract_fingerprint",
    "plan_experiment": "plan_experiment",
    "preprocess": "preprocess",
    "plan_and_preprocess": "plan_and_preprocess",
    "train": "train",
    "predict": "predict",
    "evaluate": "evaluate",
    "accumulate_crossval_results": "accumulate_crossval_results",
    "find_best_configuration": "find_best_configuration",
    "ensemble": "ensemble",
    "apply_postprocessing": "apply_postprocessing",
    "recipe": "public_recipe",
    "report": "report",
    "export": "export",
    "export_model_to_zip": "export",
    "install": "install",
    "install_pretrained_model_from_zip": "install",
    "predict_from_modelfolder": "predict",
    "models": "models",
    "cite": "cite",
    "run": "run",
    "demo": "demo",
    "export_onnx": "export_onnx",
    "bids": "bids",
}


def sources() -> list[Path]:
    folders = [ROOT / "autolmk", *(ROOT / name for name in TOP)]
    return [f for folder in folders for f in folder.rglob("*.py") if not any(p.is_symlink() for p in f.parents)]


def test_every_folder_with_code_is_packaged() -> None:
    found = set()
    for file in sources():
        relative = file.parent.relative_to(ROOT)
        name = ".".join(relative.parts)
        found.add(TOP.get(name, name))
    assert sorted(found) == sorted(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("name", TOP)
def test_links_are_relative_and_right(name: str) -> None:
    link = ROOT / "autolmk" / name
    assert link.is_symlink() and str(link.readlink()) == f"../{name}"
    assert PROJECT["tool"]["setuptools"]["package-dir"][TOP[name]] == name


@pytest.mark.parametrize("name", TOP)
def test_second_name_is_refused(name: str) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}  # which commands set
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and f"import autolmk.{name}, not {name}" in done.stderr


def test_every_imported_package_is_declared() -> None:
    requirements = PROJECT["project"]["dependencies"]
    for extra in ("tensorboard", "mlflow", "wandb", "dask", "ray", "onnx"):
        requirements = requirements + PROJECT["project"]["optional-dependencies"][extra]
    declared = {PROVIDES.get(name, name) for name in (re.split(r"[<>=!~ \[]", r)[0] for r in requirements)}
    imported, named = set(), set()
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                named.add(node.value)  # import_module("SimpleITK")
    foreign = imported - set(sys.stdlib_module_names) - {"autolmk"}
    assert foreign - declared == set(), "imported, not declared"
    assert declared <= foreign | named, "declared, not imported"


def test_every_command_has_its_entry_point() -> None:
    expected = {f"autolmk_{name}": f"autolmk.cli.{module}:main" for name, module in COMMANDS.items()}
    expected["autolmk"] = "autolmk.cli.main:main"
    assert PROJECT["project"]["scripts"] == expected


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel, built from a copy of the sources, was installed."""
    copy, wheels, target = (tmp_path_factory.mktemp(name) for name in ("copy", "wheels", "target"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignore = shutil.ignore_patterns("__pycache__", *TOP)
    shutil.copytree(ROOT / "autolmk", copy / "autolmk", ignore=ignore)
    for name in TOP:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "autolmk" / name).symlink_to(f"../{name}")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(copy)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    with zipfile.ZipFile(wheel) as archive:
        assert {n for n in archive.namelist() if n.endswith("LICENSE")}, "the wheel holds no licence"
    return target


def run_elsewhere(code: str, installed: Path, folder: Path) -> str:
    """Output of Python code that sees the installed wheel and not the sources."""
    check = f"import autolmk; assert autolmk.__file__.startswith({str(installed)!r}), autolmk.__file__\n"
    done = subprocess.run(
        [sys.executable, "-c", check + code],
        cwd=folder,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_every_module(installed: Path) -> None:
    expected = set()
    for file in sources():
        relative = file.relative_to(ROOT)
        expected.add(Path("autolmk") / relative if relative.parts[0] in TOP else relative)
    found = {f.relative_to(installed) for f in (installed / "autolmk").rglob("*.py")}
    assert found == expected and (installed / "autolmk" / "py.typed").is_file()


def test_wheel_holds_the_files_that_are_no_code(installed: Path) -> None:
    folders = [ROOT / "autolmk" / "report" / "templates"]
    expected = {f.relative_to(ROOT) for folder in folders for f in folder.iterdir()}
    assert len(expected) >= 2 and all((installed / file).is_file() for file in expected)


def test_registry_loads_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = """
from autolmk.methods import registry
from autolmk.methods.trainer import trainer_class
from autolmk.planning.planner import planner_class
for name in registry.TRAINERS: print(trainer_class(name).__name__)
for name in registry.PLANNERS: print(planner_class(name).__name__)
from autolmk import Predictor, Geometry, Landmarks, Image, __version__
"""
    assert "HeatmapTrainer" in run_elsewhere(code, installed, tmp_path)


def test_help_needs_no_torch(installed: Path, tmp_path: Path) -> None:
    """And so does importing the parts that are about data alone."""
    code = f"""
import importlib, sys
for module in {list(COMMANDS.values())}:
    try:
        importlib.import_module("autolmk.cli." + module).main(["--help"])
    except SystemExit as stop:
        assert stop.code == 0, module
    assert "torch" not in sys.modules, module
from autolmk.cli.main import main
assert main(["--help"]) == 0 and "torch" not in sys.modules
about_data = "geometry landmarks plans dataset check fingerprint evaluation data.splits shapes.pose phantom report"
for module in about_data.split():
    importlib.import_module("autolmk." + module)
    assert "torch" not in sys.modules, module
"""
    said = run_elsewhere(code, installed, tmp_path)
    assert said.count("usage:") == len(COMMANDS) + 1 and said.count("--verbose") >= len(COMMANDS)


def test_console_scripts_run(installed: Path, tmp_path: Path) -> None:
    scripts = {f.name for f in (installed / "bin").iterdir()}
    assert scripts == {"autolmk", *(f"autolmk_{name}" for name in COMMANDS)}


def test_functions_and_files_stay_short() -> None:
    """A function fits on a screen or two, a file is one concept."""
    too_long = [f"{f.relative_to(ROOT)}: {n} lines" for f in sources() if (n := len(f.read_text().splitlines())) > 400]
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 70:
                    too_long.append(f"{file.relative_to(ROOT)}: {node.name} has {length} lines")
    assert not too_long
