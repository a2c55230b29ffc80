"""A command as a job of another process: python -m autolmk.cli.job PARENT COMMAND ARGUMENTS.

It ends when the process PARENT that started it is gone, by whatever means. Users type the command itself. For
`-device cuda:free` it takes the lowest GPU that no other job of this host has taken, and keeps it until it ends.
"""

from __future__ import annotations

import importlib
import io
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from autolmk.errors import AutolmkError
from autolmk.files.locks import exclusive, is_locked
from autolmk.jobs.job import FREE_GPU
from autolmk.parallel import end_with

TRIES = 3


def main() -> int:
    """Entry point; the exit code is the command's."""
    parent, command, *arguments = sys.argv[1:]
    end_with(int(parent))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # whoever reads the log sees what was said
    with own_gpu(arguments) as arguments:
        sys.argv = [f"autolmk_{command}", *arguments]  # what the command records
        return int(importlib.import_module(f"autolmk.cli.{command}").main(arguments))


@contextmanager
def own_gpu(arguments: Sequence[str]) -> Iterator[list[str]]:
    """The arguments with a GPU of this process's own for `cuda:free`.

    Jobs that see the same GPUs (CUDA_VISIBLE_DEVICES), of any run of this user, hold a lock each; where a scheduler
    lets each worker see one GPU alone, that is the lowest one.
    """
    if FREE_GPU not in arguments:
        yield list(arguments)
        return
    user = os.getuid() if hasattr(os, "getuid") else "user"
    seen = "".join(c if c.isalnum() else "_" for c in os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    for number in itertools.count():
        place = Path(tempfile.gettempdir()) / f"autolmk_gpus_{user}" / seen / str(number)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as held:
            if not _enters(held, place):
                continue
            yield [f"cuda:{number}" if word == FREE_GPU else word for word in arguments]
            return


def _enters(held: ExitStack, place: Path) -> bool:
    """Whether this process holds the lock of a folder from now on; False where another one does. Asked again where the
    other one ended in between. AutolmkError where the folder cannot be locked."""
    for left in reversed(range(TRIES)):
        try:
            held.enter_context(exclusive(place))
            return True
        except AutolmkError:
            if is_locked(place):
                return False
            if not left:
                raise
    return False


if __name__ == "__main__":
    sys.exit(main())
