"""One process at a time in a folder: a lock of the kernel's, which ends with the process that holds it."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autolmk.errors import AutolmkError

LOCK_FILE = ".autolmk.lock"  # no other program's: it is written to and removed
LOCK_FILES = {LOCK_FILE, ".lock"}  # also of earlier versions, of which a killed command has left one
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # such file systems know no locks
SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # neither through links nor waiting for pipes
HELD = (errno.EACCES, errno.EAGAIN)
PATIENCE_SECONDS = 0.5  # whoever only asks, by `is_locked`, holds the lock for a moment
_ours: set[str] = set()  # files that this process holds: the kernel would let it in twice
logger = logging.getLogger(__name__)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which exists. AutolmkError, which says who holds it, where another process does.

    A lock of a process that ended, in whatever way, holds nobody up. On a file system without locks there is a warning,
    and no lock.
    """
    file = folder / LOCK_FILE
    name = os.path.realpath(file)
    if name in _ours:
        raise _held(folder, "this process itself")  # the file is not looked into: closing it would end the lock
    descriptor = _locked(folder, file)
    try:
        _require_ours(file, descriptor)
    except AutolmkError:
        os.close(descriptor)
        raise
    _ours.add(name)
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, _myself())
        yield
    finally:
        _ours.discard(name)
        if sys.platform != "win32":  # which removes no file that is open
            file.unlink(missing_ok=True)  # before the lock ends: whoever waits for it looks whether the file is there
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether another process holds the lock of a folder now. False where the file system knows no locks."""
    if os.path.realpath(folder / LOCK_FILE) in _ours:
        return False
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | SAFELY)
    except OSError:
        return False
    try:
        return _lock(descriptor) in HELD
    finally:
        os.close(descriptor)


def _locked(folder: Path, file: Path) -> int:
    """A descriptor of the lock file, locked."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | SAFELY, 0o666)  # others may be let in, by the umask
        except OSError as error:
            raise AutolmkError(
                "a folder cannot be locked, so it cannot be written to",
                file=file,
                found=error.strerror or str(error),
                remedy="choose another folder, one that you may write to",
            ) from None
        code = _lock(descriptor)
        if code in WITHOUT_LOCKS:
            logger.warning(
                "%s cannot be locked (%s): let no two commands write into it at a time", folder, os.strerror(code or 0)
            )
            return descriptor
        if code is None and _is_there(file, descriptor):
            return descriptor
        os.close(descriptor)
        if code is not None and code not in HELD:
            raise AutolmkError(
                "a folder cannot be locked",
                file=file,
                found=os.strerror(code),
                remedy="choose a folder of another file system",
            )
        if code is not None and time.monotonic() > end:
            raise _held(folder, _holder(file))
        time.sleep(0.02)


def _lock(descriptor: int) -> int | None:
    """Lock a file; the number of the error where that fails."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # lockf: workers that are forked do not hold it
    except OSError as error:
        return error.errno or errno.EIO
    return None


def _require_ours(file: Path, descriptor: int) -> None:
    """AutolmkError unless the file is an ordinary one, with nothing in it but what `exclusive` writes."""
    ordinary = stat.S_ISREG(os.fstat(descriptor).st_mode)
    content = os.read(descriptor, 1 << 16) if ordinary else b""
    if not ordinary or (content and _said(content) is None):
        raise AutolmkError(
            "a folder cannot be locked: something else is in the place of the lock",
            file=file,
            found="a file that no command of autolmk wrote" if ordinary else "a device or a pipe",
            remedy="move it away, or choose another folder",
        )


def _is_there(file: Path, descriptor: int) -> bool:
    """Whether the file that was locked is still the one of that name: its last holder removes it."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _myself() -> bytes:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since, "command": command}).encode()


def _holder(file: Path) -> str:
    """What the lock file says of its holder, in words."""
    try:
        with file.open("rb") as stream:
            said = _said(stream.read(1 << 16))
    except OSError:
        said = None
    return said or "a process that has not said yet who it is"


def _said(content: bytes) -> str | None:
    """What `_myself` wrote, in words; None of anything else."""
    try:
        value = json.loads(content)
        command, host, since = (str(value[key])[:200] for key in ("command", "host", "since"))
        return f"{command!r}, process {int(value['pid'])} on {host!r}, since {since!r}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _held(folder: Path, holder: str) -> AutolmkError:
    return AutolmkError(
        "another process is at work in this folder",
        file=folder,
        found=holder,
        expected="one command at a time",
        remedy="wait for it, or end it first",
    )
