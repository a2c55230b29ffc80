"""Standard output and standard error of a command, wherever they lead: a terminal, a file, a reader that has gone."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from autolmk.errors import AutolmkError
from autolmk.escaping import lines

NO_READER = 141  # exit code of a command whose output nobody reads any more, as of one that SIGPIPE ended


class _Refused(Exception):
    """Standard output took no more; the OSError that says why is its cause."""


class Escaping(io.TextIOBase):
    """Standard output that shows what would steer a terminal, such as a control character in a name, and what its
    encoding lacks, as escapes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        encoding = self.encoding
        with _refusals():
            self.stream.write(lines(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with _refusals():
            self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()

    def isatty(self) -> bool:
        return self.stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.stream, "encoding", None) or "utf-8"


def open_closed_streams() -> None:
    """Let each stream that the command was started without (`>&-`, some schedulers) lead nowhere: what is said goes
    unheard, and no file gets the number 0, 1 or 2, to which libraries write."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which gives the lowest number that is free
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


@contextlib.contextmanager
def standard_output() -> Iterator[None]:
    """Print through `Escaping` inside `with`, to the end: what a command said is written out before it succeeds.

    SystemExit with `NO_READER` where whoever read has gone (`| head`); AutolmkError where the output refuses, such as a
    file on a full disk.
    """
    try:
        with contextlib.redirect_stdout(Escaping(sys.stdout)):
            yield
            sys.stdout.flush()
    except _Refused as refused:
        give_up(sys.stdout)
        error = refused.__cause__
        assert isinstance(error, OSError)
        if error.errno in (errno.EPIPE, errno.ESHUTDOWN):
            raise SystemExit(NO_READER) from None
        raise AutolmkError(
            "the output cannot be written",
            file="standard output",
            found=error.strerror or str(error),
            remedy="free disk space where the output goes, or send it elsewhere",
        ) from None


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _Refused from error


def give_up(stream: TextIO) -> None:
    """Let a stream that refuses lead nowhere: what it still holds back would be an error when Python ends."""
    with contextlib.suppress(OSError, ValueError):  # a stream that is none of the system's
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
