"""One process at a time in a folder; the second is told who holds it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autolmk.errors import AutolmkError
from autolmk.files.locks import LOCK_FILE, exclusive, is_locked

HOLD = """
import sys, pathlib
from autolmk.files.locks import exclusive
with exclusive(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """By another process, until the end or its own."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        assert is_locked(tmp_path)
        with pytest.raises(AutolmkError, match="another process is at work") as caught, exclusive(tmp_path):
            pass
        said = str(caught.value)
        assert str(process.pid) in said and os.uname().nodename in said and "since '2" in said and "-c" in said
        assert is_locked(tmp_path)  # asking has not ended it
        process.kill()
        process.wait()
        assert (tmp_path / LOCK_FILE).exists() and not is_locked(tmp_path)
        with exclusive(tmp_path):  # what a killed process left holds nobody up
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_process_does_not_let_itself_in_twice(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        with pytest.raises(AutolmkError, match="this process itself"), exclusive(tmp_path):
            pass
        assert not is_locked(tmp_path)
        code = (
            "import sys, pathlib\nfrom autolmk.files import locks\nsys.exit(locks.is_locked(pathlib.Path(sys.argv[1])))"
        )
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 1
    with exclusive(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    done = False
    with caplog.at_level(logging.WARNING), exclusive(tmp_path):
        done = True
    assert done and "cannot be locked" in caplog.text and not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / LOCK_FILE).symlink_to(precious)
    with pytest.raises(AutolmkError, match="cannot be locked"), exclusive(tmp_path / "folder"):
        pass
    assert precious.read_text() == "mine" and not is_locked(tmp_path / "folder")


@pytest.mark.parametrize("content", [b"mine", b"[]", b"{}", b'{"pid": 1}', b"\x00\xff" * 9, b"[" * 9999])
def test_a_file_of_others_in_the_place_of_the_lock_stays(content: bytes, tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    with pytest.raises(AutolmkError, match="in the place of the lock"), exclusive(tmp_path):
        pass
    assert (tmp_path / LOCK_FILE).read_bytes() == content


def test_locks_of_other_programs_stay(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    with exclusive(tmp_path):
        pass
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_a_pipe_or_a_folder_in_the_place_of_the_lock_is_an_error(tmp_path: Path) -> None:
    for make in (os.mkfifo, os.mkdir):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder / LOCK_FILE)
        with pytest.raises(AutolmkError, match="cannot be locked"), exclusive(folder):
            pass
        assert [file.name for file in folder.iterdir()] == [LOCK_FILE]
