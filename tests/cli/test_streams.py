"""Standard output that ends early, is full, closed, or of a narrow encoding: an exit code says so, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMAND = """
import sys
from autolmk.cli.common import parser, run
from autolmk.errors import AutolmkError
def main(args):
    print("\\u00d6hrchen " * int(args.n), end="")
    print("said", file=sys.stderr)
    if args.n == "0":
        raise AutolmkError("nothing to say")
    open(args.file, "wb").close()
    return 0
arguments = parser("Say something.")
arguments.add_argument("n")
arguments.add_argument("file")
sys.exit(run(main, arguments, sys.argv[1:]))
"""


def said(tmp_path: Path, n: int, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command, which says n words, run by a shell that ends its line with `shell`."""
    words = [sys.executable, "-c", COMMAND, str(n), str(tmp_path / "done")]
    line = f'"$@" {shell}'
    settings: dict[str, Any] = {"env": {**os.environ, **environment}, "capture_output": True, "check": False}
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}", "bash", *words], **settings)


@pytest.mark.parametrize("n", [1, 100_000])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(tmp_path: Path, n: int) -> None:
    result = said(tmp_path, n, "| true")
    assert result.returncode in ({0, 141} if n == 1 else {141}) and result.stderr in (b"", b"said\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("n", [1, 100_000])
def test_output_that_cannot_be_written_is_an_error(tmp_path: Path, n: int) -> None:
    result = said(tmp_path, n, "> /dev/full")
    assert result.returncode == 2 and b"the output cannot be written" in result.stderr
    assert b"Traceback" not in result.stderr and b"Exception ignored" not in result.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_code(tmp_path: Path, closed: str) -> None:
    assert said(tmp_path, 1, closed).returncode == 0 and (tmp_path / "done").exists()
    assert said(tmp_path, 0, closed).returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_error_that_nobody_hears_keeps_its_exit_code(tmp_path: Path) -> None:
    result = said(tmp_path, 0, "2> /dev/full")
    assert result.returncode == 2 and b"Traceback" not in result.stderr


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", b"\\xd6hrchen "), ("latin1", b"\xd6hrchen ")])
def test_what_an_encoding_lacks_is_escaped(tmp_path: Path, encoding: str, shown: bytes) -> None:
    result = said(tmp_path, 1, PYTHONIOENCODING=encoding)
    assert (result.returncode, result.stdout) == (0, shown)
