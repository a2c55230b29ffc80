"""A command as a job of another process: python -m autolmk.cli.job PARENT COMMAND ARGUMENTS.

It ends when the process PARENT that started it is gone, by whatever means. Users type the command itself.
"""

from __future__ import annotations

import importlib
import io
import sys

from autolmk.parallel import end_with


def main() -> int:
    """Entry point; the exit code is the command's."""
    parent, command, *arguments = sys.argv[1:]
    end_with(int(parent))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # whoever reads the log sees what was said
    sys.argv = [f"autolmk_{command}", *arguments]  # what the command records
    return int(importlib.import_module(f"autolmk.cli.{command}").main(arguments))


if __name__ == "__main__":
    sys.exit(main())
