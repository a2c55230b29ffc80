"""The common part of the command line: spellings, exit codes, no tracebacks."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from autolmk.cli.common import Parser, add_folders, folders_from, option, parser, run
from autolmk.errors import AutolmkError


@pytest.fixture
def example() -> Parser:
    result = parser("An example.")
    add_folders(result)
    result.add_argument("dataset", nargs="?")
    option(result, "-np", "--num_processes", type=int, default=3, help="how many")
    option(result, "-d", help="dataset")
    option(result, "--set", action="append", help="key=value")
    return result


def parsed(example: Parser, *argv: str) -> argparse.Namespace:
    seen: list[argparse.Namespace] = []
    assert run(lambda args: seen.append(args) or 0, example, argv) == 0
    return seen[0]


@pytest.mark.parametrize("spelling", ["-np", "--np", "-num_processes", "--num_processes"])
def test_one_dash_or_two(spelling: str, example: Parser) -> None:
    assert parsed(example, spelling, "7").num_processes == 7
    assert parsed(example, f"{spelling}=8").num_processes == 8


def test_values_may_hold_equals_signs_and_minus(example: Parser) -> None:
    args = parsed(example, "--set", "lr=-1", "-set=a=b", "-raw", "x", "--", "-odd")
    assert (
        args.set == ["lr=-1", "a=b"] and args.dataset == "-odd" and folders_from(args).raw.path == Path("x").absolute()
    )


@pytest.mark.parametrize("wrong", ["-num_proceses", "--num_proc", "-d1"])
def test_unknown_option_gets_near_names(wrong: str, example: Parser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda args: 0, example, [wrong, "7"])
    assert caught.value.code == 2 and f"unknown option {wrong}" in capsys.readouterr().err


@pytest.mark.parametrize("first", ["-c", "--c"])
def test_declared_spelling_beats_the_other_ones_twin(first: str) -> None:
    known = parser("Two options of one letter.")
    for name in sorted(["-c", "--c"], reverse=first == "--c", key=len):
        if name == "-c":
            option(known, name, dest="configuration")
        else:
            option(known, name, action="store_true", dest="resume")
    args = parsed(known, "-c", "x", "--c")
    assert args.configuration == "x" and args.resume


ERRORS = [
    (AutolmkError("bad", file="f", remedy="mend it"), 2, "error: bad\n  file: f\n  what to do: mend it\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"),
    (ValueError("a\nb"), 1, "internal error: ValueError: a b; run again with --verbose\n"),
    (OSError(errno.EIO, "broken"), 1, "internal error: OSError: [Errno 5] broken; run again with --verbose\n"),
    (OSError(errno.ENOSPC, "No space left", "f"), 2, "error: the disk refuses"),
]


@pytest.mark.parametrize(("error", "code", "message"), ERRORS)
def test_exit_codes(
    error: BaseException, code: int, message: str, example: Parser, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    assert run(fail, example, []) == code
    said = capsys.readouterr()
    assert said.err.startswith(message) and "Traceback" not in said.err and said.out == ""
    assert run(fail, example, ["--verbose"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_home_that_is_not_known_is_named(
    example: Parser, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "~nobody-of-that-name/raw"
    assert run(lambda args: len(str(folders_from(args).raw)) * 0, example, ["--raw", place]) == 2
    assert f"found: {place}\n" in capsys.readouterr().err
    monkeypatch.setenv("autolmk_raw", place)
    assert run(lambda args: len(str(folders_from(args).raw)) * 0, example, []) == 2
    assert f"found: autolmk_raw={place}" in capsys.readouterr().err


def test_missing_folders_for_temporary_files_are_named(
    example: Parser, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere/at/all"])
    assert run(lambda args: len(tempfile.mkdtemp()) * 0, example, []) == 2
    said = capsys.readouterr().err
    assert "/nowhere/at/all" in said and "TMPDIR" in said


def test_code_of_the_command_is_returned(example: Parser) -> None:
    assert run(lambda args: 3, example, []) == 3


def test_quiet_leaves_warnings(
    example: Parser, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    def talk(args: argparse.Namespace) -> int:
        logging.getLogger("autolmk.x").info("news")
        logging.getLogger("autolmk.x").warning("odd")
        return 0

    run(talk, example, [])
    assert capsys.readouterr().err == "news\nwarning: odd\n"
    monkeypatch.setenv("AUTOLMK_QUIET", "1")
    run(talk, example, [])
    assert capsys.readouterr().err == "warning: odd\n"


def test_processes_begun_by_a_command_import_nothing_from_the_current_folder(example: Parser, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text("")
    assert run(lambda args: 0, example, ["-d", "1"]) == 0
    found = subprocess.run([sys.executable, "-c", "import planted"], cwd=tmp_path, capture_output=True, check=False)
    assert b"No module named 'planted'" in found.stderr


def test_numbers_beyond_counting_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parser("A command.")
    option(arguments, "-np", type=int)
    with pytest.raises(SystemExit) as caught:
        run(lambda args: 0, arguments, ["-np", "9" * 80])
    assert caught.value.code == 2 and "np is a number of 80 digits" in capsys.readouterr().err
