"""The parts that all commands share: folders, messages without tracebacks, exit codes; and all that `arguments` has."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autolmk import progress_bars
from autolmk.cli.arguments import Parser, add_dataset, add_folders, argument, option, parser
from autolmk.cli.ending import ended_by_signals
from autolmk.cli.streams import give_up, open_closed_streams, standard_output
from autolmk.errors import AutolmkError
from autolmk.escaping import lines, visible
from autolmk.methods.registry import place_in_plugin
from autolmk.paths import Folders, folders

__all__ = ["Parser", "add_dataset", "add_folders", "argument", "folders_from", "option", "parser", "run", "setting"]
OK, INTERNAL, USER, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)
NO_HOME, NO_TEMPORARY = "Could not determine home directory", "No usable temporary directory"  # so Python says


def setting(text: str) -> tuple[str, Any]:
    """Split KEY=VALUE into key and value; a value that is no JSON is a text. AutolmkError without a key."""
    import json

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise AutolmkError(
            "--set needs KEY=VALUE",
            found=text,
            expected="such as schedule.learning_rate=1e-4",
            remedy="write KEY=VALUE without spaces",
        )
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def folders_from(args: argparse.Namespace) -> Folders:
    """The folders that the arguments, the environment or the defaults say."""
    return folders(getattr(args, "raw", None), getattr(args, "preprocessed", None), getattr(args, "results", None))


def run(main: Callable[[argparse.Namespace], int], parser: Parser, argv: Sequence[str] | None = None) -> int:
    """Parse, set logging up, call `main` and return the exit code.

    0 success, 1 internal error, 2 user error, 3 some cases failed (by `main`), 130 interrupted; 141 where
    nobody reads the output any more, 143 and 129 after SIGTERM and SIGHUP (by SystemExit). Messages go to stderr;
    tracebacks are shown only with --verbose.
    """
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # processes begun from here import nothing from the current folder
    open_closed_streams()
    verbose = False
    try:
        args = parser.parsed(sys.argv[1:] if argv is None else argv)
        verbose = args.verbose
        set_up_logging(verbose)
        progress_bars.hide(args.disable_progress_bar)
        with ended_by_signals(), standard_output():
            return main(args)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED, verbose)
    except AutolmkError as error:
        return _complain(f"error: {error}", USER, verbose)
    except Exception as error:
        place = place_in_plugin(error)
        if place is not None:
            return _complain(f"error: {_of_plugin(error, place)}", USER, verbose)
        refusal = _refusal(error, sys.argv[1:] if argv is None else argv)
        if refusal is not None:
            return _complain(f"error: {refusal}", USER, verbose)
        return _complain(f"internal error: {_one_line(error)}; run again with --verbose", INTERNAL, verbose)


def set_up_logging(verbose: bool) -> None:
    """Messages of autolmk's loggers go to stderr; AUTOLMK_QUIET leaves only warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("autolmk")
    logger.handlers[:] = [handler]
    logger.propagate = False
    quiet = os.environ.get("AUTOLMK_QUIET", "") not in ("", "0")
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


class _Formatter(logging.Formatter):
    """The bare message; warnings and errors say what they are."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record.args = tuple(visible(value) if isinstance(value, (str, Path)) else value for value in record.args)
        text = lines(super().format(record))
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def _complain(message: str, code: int, verbose: bool) -> int:
    try:
        if verbose:
            traceback.print_exc()
        print(lines(message), file=sys.stderr, flush=True)
    except OSError:  # nobody hears: the exit code says it all the same
        give_up(sys.stderr)
    return code


def _refusal(error: Exception, words: Sequence[str]) -> AutolmkError | None:
    """The error for users where the system, not autolmk, is at fault; None of any other. words: the arguments."""
    if isinstance(error, RuntimeError) and NO_HOME in str(error):  # of Path.expanduser
        settings = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("autolmk_")]
        return AutolmkError(
            "a path begins with ~, and that home folder is not known",
            found=", ".join(word for word in (*words, *settings) if "~" in word) or "the default, ~/autolmk",
            expected="~ of a user that this system knows, and HOME set",
            remedy="give the path in full",
        )
    if not isinstance(error, OSError):
        return None
    if NO_TEMPORARY in str(error):
        return AutolmkError(
            "there is no folder for temporary files",
            found=error.strerror or str(error),
            expected="a folder that may be written to, on a disk that is not full",
            remedy="name one in the environment variable TMPDIR",
        )
    if error.errno not in REFUSALS:
        return None
    return AutolmkError(
        "the disk refuses",
        file=error.filename,
        found=error.strerror or str(error),
        remedy="free disk space, or choose a folder that you may read and write, with no file where a folder must be",
    )


def _of_plugin(error: Exception, place: str) -> AutolmkError:
    return AutolmkError(
        "the code of a plug-in failed",
        file=place,
        found=_one_line(error),
        remedy="mend it; --verbose shows the whole traceback, autolmk.testing.check_trainer tries every method",
    )


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
