"""Pages name only commands, options and scripts that exist, name all options in command_line.md, link to what is there,
and show the layers and the presets as they are; that on benchmarks names every script."""

from __future__ import annotations

import contextlib
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from autolmk.planning.planner import PRESETS, Preset

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "documentation").rglob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPTS: dict[str, str] = PROJECT["project"]["scripts"]
CODE = ("autolmk", "planners", "trainers", "tests", "benchmarks")
ABSENT = ("utils.py",)  # that there is none, is said
OPTION = re.compile(r"(?<![\w-])--?([A-Za-z][\w-]*)")


def options(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Names, without dashes, of the options in a command's --help."""
    module, function = SCRIPTS[command].split(":")
    with contextlib.suppress(SystemExit):
        getattr(importlib.import_module(module), function)(["--help"])
    entries = re.findall(r"^  (-.*)$", capsys.readouterr().out, re.M)
    return {name for entry in entries for name in OPTION.findall(entry.split("   ")[0])}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_use_options_that_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in re.findall(r"```(?:sh|bash|console)?\n(.*?)```", page.read_text(), re.S):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            found = re.match(r"\s*(?:\$ )?(autolmk[_ ]\w+)(.*)", line.split("#")[0])
            if found and len(found.group(2).split()) > 0:
                command = found.group(1).replace(" ", "_")
                assert command in SCRIPTS, f"{page.name}: {line}"
                assert "autolmk_" not in line.partition("#")[2], f"{page.name}: two commands on one line: {line}"
                known = options(command, capsys)
                for name in OPTION.findall(found.group(2)):
                    assert name in known, f"{page.name}: {command} has no option {name}"


@pytest.mark.parametrize("command", SCRIPTS)
def test_command_line_page_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "documentation" / "command_line.md").read_text()
    first = min(name for name, place in SCRIPTS.items() if place == SCRIPTS[command])  # others are second names of it
    section = re.search(rf"^## `?{first}`?$(.*?)(?=^## |\Z)", text, re.S | re.M)
    assert section, f"command_line.md has no section {command}"
    shared = re.findall(r"^## (?:How arguments are written|All commands)$(.*?)(?=^## )", text, re.S | re.M)
    assert len(shared) == 2
    named = {name for part in (section.group(1), *shared) for name in OPTION.findall(part)}
    missing = options(command, capsys) - named
    assert not missing, f"command_line.md does not name {sorted(missing)} of {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_headings_that_links_name_exist(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / target if target else page).read_text()
        anchors = {anchor(line) for line in re.findall(r"^#+ (.+)$", text, re.M)}
        assert heading in anchors, f"{page.name} links to {target}#{heading}"


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_scripts_and_modules_that_pages_name_exist(page: Path) -> None:
    for name in re.findall(
        r"`(?:python )?((?:benchmarks|tests|autolmk|planners|trainers)/[\w/]+\.py)", page.read_text()
    ):
        assert (ROOT / name).is_file(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "documentation/architecture.md"])
def test_names_of_code_that_pages_give_exist(page: str) -> None:
    """Each file is one of the repository, each other name in backticks a word of the code or a file's or folder's."""
    files = [file for folder in CODE for file in (ROOT / folder).rglob("*.py")]
    known = {part for file in files for part in (*file.relative_to(ROOT).parts[:-1], file.stem)}
    known |= {word for file in files for word in re.findall(r"\w+", file.read_text())}
    paths, named = [f"/{file.relative_to(ROOT).as_posix()}" for file in files], 0
    for name in re.findall(r"`([A-Za-z_][\w./]*)`", re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.S)):
        if name.endswith(".py") and name not in ABSENT:
            assert any(path.endswith(f"/{name}") for path in paths), f"{page} names {name}"
        elif re.fullmatch(r"[A-Za-z_][\w.]*(/\w+)*", name) and not re.search(r"\.(py|md|json|lock|toml|txt)$", name):
            missing = [word for word in re.split(r"[./]", name) if word and word not in known]
            assert not missing, f"{page} names {name}"
        named += 1
    assert named > 10


def test_benchmarks_page_names_every_script() -> None:
    page = (ROOT / "documentation" / "benchmarks.md").read_text()
    missing = [file.name for file in sorted((ROOT / "benchmarks").glob("*.py")) if file.name not in page]
    assert not missing, f"benchmarks.md does not name {missing}"


def test_architecture_page_shows_the_layers() -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    shown = "\n".join(layer.replace(" : ", ", ") for layer in layers)
    page = (ROOT / "documentation" / "architecture.md").read_text()
    assert f"```\n{shown}\n```" in page, f"architecture.md should list\n{shown}"


def test_plans_page_shows_the_presets() -> None:
    page = (ROOT / "documentation" / "plans.md").read_text()
    for name, preset in PRESETS.items():
        assert preset_row(name, preset) in page, f"plans.md should have the row\n{preset_row(name, preset)}"


def preset_row(name: str, preset: Preset) -> str:
    """Pairs are for 2D and 3D."""
    pairs = (preset.base_features, preset.max_features, preset.max_stages, preset.decoder_stops, preset.batch_least)
    first, most, stages, stops, batch = (f"{two_d}, {three_d}" for two_d, three_d in pairs)
    length = f"{preset.epochs} epochs" if preset.max_seconds is None else f"{preset.max_seconds / 60:g} minutes"
    cells = [f"`{name}`", f"{preset.memory_gb:g} GiB", first, most, stages, "residual" if preset.residual else "plain"]
    cells += [stops, batch, str(preset.batch_most), f"{preset.whole_coarsening:g}", length]
    cells += [f"{preset.learning_rate:g}", f"{preset.weight_decay:g}", f"{preset.validation_share:.0%}"]
    return f"| {' | '.join(cells)} |"
