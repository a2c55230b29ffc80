"""autolmk: all commands by task, and each of them by its short name."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from autolmk.cli.main import ALSO, COMMANDS, main, module_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def test_every_command_is_listed_with_its_module() -> None:
    known = {f"autolmk_{name}": f"autolmk.cli.{module_of(name)}:main" for name in (*COMMANDS, *ALSO)}
    assert known == {name: place for name, place in SCRIPTS.items() if name != "autolmk"}


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_help_lists_commands_by_task(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line.startswith("  ") and "autolmk" not in line} == set(COMMANDS)
    tasks = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert [tasks.index(f"{task}:") for task in ("plan", "train", "predict", "evaluate")] == [2, 3, 4, 5]
    assert max(map(len, lines)) <= 100


def test_a_command_gets_its_arguments_and_returns_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("autolmk.cli.train.main", lambda arguments: seen.append(arguments) or 3)
    monkeypatch.setattr(sys, "argv", ["autolmk"])
    for word in ("train", "autolmk_train"):
        assert main([word, "1", "0", "--max-time", "5s"]) == 3
        assert sys.argv == ["autolmk_train", "1", "0", "--max-time", "5s"]
    assert seen == [["1", "0", "--max-time", "5s"]] * 2


@pytest.mark.parametrize("words", [["help", "plan-and-preprocess"], ["plan_and_preprocess", "--help"]])
def test_help_of_a_command(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["autolmk"])
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0 and "usage: autolmk_plan_and_preprocess DATASET" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("tran", "'train'"),
        ("plan", "'plan_and_preprocess' or 'plan_experiment'"),
        ("predct", "'predict'"),
        ("find_best", "'find_best_configuration'"),
        ("--verbose", "options after it"),
        ("x\x1b[2J", r"x\\x1b[2J"),
    ],
)
def test_a_near_miss_is_named(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "1", "0"]) == 2
    said = capsys.readouterr()
    assert meant in said.err and said.out == "" and "\x1b" not in said.err


def test_the_list_and_the_helps_need_no_torch() -> None:
    code = "import sys; from autolmk.cli.main import main; main([]); main(['train', '--help'])"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "usage: autolmk_train" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.rpartition("|")[2].strip() == "torch"]
