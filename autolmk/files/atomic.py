"""Files that appear whole or not at all, and what a killed process leaves of them.

Every temporary file is called .TARGET.autolmk-RANDOM.tmp, beside its target, so that what is left over is told from
anything that others wrote.
"""

from __future__ import annotations

import os
import re
import secrets
import string
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autolmk.errors import AutolmkError

_LETTERS = string.ascii_lowercase + string.digits
_NAME = re.compile(r"\.(?P<target>.+)\.autolmk-[a-z0-9_]{8}\.tmp(\.[A-Za-z0-9.]+)?", re.DOTALL)


@contextmanager
def replacing(file: Path, ending: str = "") -> Iterator[Path]:
    """Give an empty file beside `file` to write to, and put it into its place, synced, where nothing failed.

    ending: of the temporary name, for writers that tell the format by it. A link in the place of `file` is itself
    replaced, and what it points to stays. OSError where the disk refuses.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = _new(file, ending)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _new(file: Path, ending: str) -> Path:
    """A new empty file beside `file`, which whoever the umask (or a default ACL) of the place lets may read and write:
    labs share folders, and `tempfile` gives its files to their owner alone."""
    while True:
        word = "".join(secrets.choice(_LETTERS) for _ in range(8))
        temporary = file.parent / f".{file.name}.autolmk-{word}.tmp{ending}"
        with suppress(FileExistsError):
            os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
            return temporary


def remove_leftovers(folder: Path, targets: Collection[str] | None = None) -> None:
    """Remove the temporary files of a killed process in a folder, not below it. No writer may be at work there.

    targets: names of the files that they were to become; None for any. Links are left alone.
    """
    if not folder.is_dir():
        return
    for file in [Path(entry.path) for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]:
        match = _NAME.fullmatch(file.name)
        if match is not None and (targets is None or match["target"] in targets):
            file.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Whether a path, of which only the last part counts, is a temporary file of `replacing`."""
    return _NAME.fullmatch(name.rpartition("/")[2]) is not None


def refuse_link(place: Path) -> None:
    """Raise AutolmkError where a link stands in the place of a folder that autolmk makes: it is never followed."""
    if place.is_symlink():
        raise AutolmkError(
            "a link is in the place of a folder that autolmk makes itself",
            file=place,
            found=f"a link to {os.readlink(place)}",
            expected="a folder, or nothing",
            remedy="remove the link, or choose another folder to write to",
        )
