"""`--progress json`: what autolmk_predict says to a program that calls it, a JSON object a line on standard output.

documentation/progress.md describes the lines. A field is never removed or given another meaning within a version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import autolmk
from autolmk.errors import AutolmkError

if TYPE_CHECKING:
    from autolmk.prediction.output import PredictionFolder

VERSION = 1  # of the lines


def json_line(event: str, fields: Mapping[str, Any]) -> None:
    """Print one event. ASCII alone, so that a line is a line and holds no control character whatever names hold."""
    print(json.dumps({"event": event, **fields}, ensure_ascii=True, allow_nan=False), flush=True)


def started_fields(cases: Sequence[str], output: Path, device: str) -> dict[str, Any]:
    """The fields of the first line: the model is loaded, and these cases will be predicted into this folder."""
    folder = str(output.absolute())
    said = {"version": VERSION, "autolmk": autolmk.__version__, "device": device, "output": folder}
    return {**said, "cases": list(cases), "total": len(cases)}


def finished_fields(output: PredictionFolder, total: int, failed: int) -> dict[str, Any]:
    """The fields of the last line: which files there are. points: case -> its points; cases kept from an earlier run
    are there too. tables: name -> file.
    """
    points = {case: output.points_file(case).absolute() for case in output.cases}
    tables = {name: (output.folder / name).absolute() for name in (*output.tables, "run.json")}
    return {
        "total": total,
        "failed": failed,
        "output": str(output.folder.absolute()),
        "points": {case: str(file) for case, file in points.items() if file.is_file()},
        "tables": {name: str(file) for name, file in tables.items() if file.is_file()},
    }


def failure_fields(error: Exception) -> dict[str, Any]:
    """The fields of the last line of a run that ends in an error: those of an `AutolmkError`, or `problem` and
    `message` alone.
    """
    from autolmk.prediction.events import fields

    if isinstance(error, AutolmkError):
        return fields(error)
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return {"problem": said, "file": None, "found": None, "expected": None, "remedy": None, "message": said}
