"""Recipes of containers name files and commands that exist, and end as a user that is not root. Nothing is built."""

from __future__ import annotations

import fnmatch
import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE, APPTAINER = ROOT / "containers" / "Dockerfile", ROOT / "containers" / "autolmk.def"
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
INSTRUCTIONS = {"ARG", "FROM", "ENV", "RUN", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
SECTIONS = {"arguments", "files", "post", "environment", "runscript", "apprun", "test", "labels", "help"}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def sections() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    name = "header"
    for line in APPTAINER.read_text().splitlines():
        if line.startswith("%"):
            name = line[1:].split()[0]
        elif line.strip() and not line.startswith("#"):
            found.setdefault(name, []).append(line.strip())
    return found


def test_every_instruction_is_known_and_no_file_comes_from_elsewhere() -> None:
    assert {name for name, _ in instructions()} == INSTRUCTIONS
    assert all("://" not in rest for name, rest in instructions() if name != "RUN")


def test_files_that_are_copied_exist_and_are_not_ignored() -> None:
    kept = (ROOT / "containers" / "Dockerfile.dockerignore").read_text().split()
    wanted = {line[1:] for line in kept if line.startswith("!")}
    for name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            for source in shlex.split(rest)[:-1]:
                if source != "${BUNDLE}":
                    assert (ROOT / source).exists() and source in wanted, source
    assert any(fnmatch.fnmatch("skull.autolmk.zip", pattern) for pattern in wanted)
    for line in sections()["files"]:
        assert (ROOT / line.split()[0]).exists(), line


def test_what_the_wheel_is_made_of_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"], "constraints.txt"}
    needed |= {"autolmk", *project["tool"]["setuptools"]["package-dir"].values()}
    docker = {s for name, rest in instructions() if name == "COPY" for s in shlex.split(rest)[:-1]}
    assert needed <= docker and needed <= {line.split()[0] for line in sections()["files"]}


def test_the_last_user_of_every_stage_that_runs_is_not_root() -> None:
    users: dict[str, str] = {}
    stage, user = "", "root"
    for name, rest in instructions():
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            user = users.get(base, "root")
        elif name == "USER":
            user = rest
        users[stage] = user
    assert users["build"] == "root" and {users[s] for s in ("runtime", "bids", "predict")} == {"1000"}  # a number, as
    # Kubernetes' runAsNonRoot can tell root from others by numbers alone


def test_arguments_are_declared_before_they_are_used() -> None:
    declared: set[str] = set()
    for name, rest in instructions():
        if name == "FROM":
            declared &= {"PYTHON"}
        used = {a for a in re.findall(r"\$\{(\w+)\}", rest) if a.isupper() and a != "PATH"}
        assert used <= declared, rest
        if name == "ARG":
            declared.add(rest.partition("=")[0])


@pytest.mark.parametrize("recipe", [DOCKERFILE, APPTAINER], ids=["docker", "apptainer"])
def test_commands_exist_and_torch_is_that_of_the_constraints(recipe: Path) -> None:
    text = recipe.read_text()
    commands = set(re.findall(r"\bautolmk_\w+", text))
    assert commands and commands <= set(SCRIPTS)
    assert "--constraint /source/constraints.txt /source" in text and "grep '^torch==' /source/constraints.txt" in text
    assert re.search(r"^torch==\d", (ROOT / "constraints.txt").read_text(), re.M)


def test_sections_of_the_apptainer_recipe_are_known() -> None:
    assert set(sections()) - {"header"} == SECTIONS
    assert sections()["header"] == ["Bootstrap: docker", "From: python:3.12-slim-bookworm"]
    assert sections()["runscript"] == ['exec "$@"']
