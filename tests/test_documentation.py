"""Pages name only commands and options that exist, name all of them in command_line.md, and link to what is there."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "documentation").rglob("*.md")])
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
OPTION = re.compile(r"(?<![\w-])--?([A-Za-z][\w-]*)")


def options(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Names, without dashes, of the options in a command's --help."""
    module, function = SCRIPTS[command].split(":")
    with pytest.raises(SystemExit):
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
            found = re.match(r"\s*(?:\$ )?(autolmk_\w+)(.*)", line.split("#")[0])
            if found and len(found.group(2).split()) > 0:
                assert found.group(1) in SCRIPTS, f"{page.name}: {line}"
                known = options(found.group(1), capsys)
                for name in OPTION.findall(found.group(2)):
                    assert name in known, f"{page.name}: {found.group(1)} has no option {name}"


@pytest.mark.parametrize("command", SCRIPTS)
def test_command_line_page_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "documentation" / "command_line.md").read_text()
    section = re.search(rf"^## `?{command}`?$(.*?)(?=^## |\Z)", text, re.S | re.M)
    assert section, f"command_line.md has no section {command}"
    shared = re.search(r"^## All commands$(.*?)(?=^## )", text, re.S | re.M)
    assert shared
    named = set(OPTION.findall(section.group(1))) | set(OPTION.findall(shared.group(1)))
    missing = options(command, capsys) - named
    assert not missing, f"command_line.md does not name {sorted(missing)} of {command}"
