"""What a prediction run leaves behind: CASE.mrk.json, one landmarks.csv, run.json, failures.json, crops and pictures.

Every file is written atomically. A case counts as done when its rows stand in landmarks.csv, which is written after the
case's other files; so a run that was killed can go on.
"""

from __future__ import annotations

import csv
import io
import platform
import re
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import autolmk
from autolmk.annotations import write
from autolmk.errors import AutolmkError
from autolmk.geometry import FloatArray
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.landmarks import Landmarks, Status
from autolmk.preprocessing import Failure
from autolmk.serialization import make_folder, read_json, write_bytes, write_json

COLUMNS = ("case", "landmark", "x", "y", "z", "status", "likelihood", "log_odds")
TABLE, RUN, FAILURES, CROPS, OVERLAYS = "landmarks.csv", "run.json", "failures.json", "heatmap_crops", "overlays"
TABLE_SHARE = 20  # the table is written again once this many times its last writing time has passed
PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "dynamic-network-architectures", "acvl-utils", "blosc2")


@dataclass(frozen=True, eq=False)
class CaseOutput:
    """landmarks: as written. best: (L, P) mm, the best candidate, also of absent landmarks. log_odds: (L,)."""

    landmarks: Landmarks
    best: FloatArray
    log_odds: FloatArray


class PredictionFolder:
    """The output folder of one run. cases: all that the run is to predict, in order.

    identity: what results depend on (model digests, test-time options); a run may be continued only by one of the
    same identity. `write` may be called from several threads.
    """

    def __init__(self, folder: Path, cases: Sequence[str], identity: Mapping[str, Any], *, unit: str) -> None:
        self.folder, self.cases, self.identity, self.unit = folder, tuple(cases), dict(identity), unit
        self._rows: dict[str, list[list[str]]] = {}
        self._written, self._cost, self._unwritten = 0.0, 0.0, False
        self._lock = threading.Lock()

    def begin(self, *, resume: bool) -> list[str]:
        """Clean up after a killed run; the cases that are left to predict. AutolmkError where that run was another."""
        make_folder(self.folder)
        self._clean()
        if resume:
            self._same_run()
            self._rows = {c: rows for c, rows in self._read_table().items() if self._has_points(c)}
        self._write_table()
        return [case for case in self.cases if case not in self._rows]

    def write(self, case: str, output: CaseOutput) -> None:
        """The case's points, and from time to time the table."""
        write(self._points(case), output.landmarks, unit=self.unit)
        rows = [_row(case, output, i) for i in range(len(output.landmarks.names))]
        with self._lock:
            self._rows[case] = rows
            self._unwritten = True
            if time.monotonic() - self._written > TABLE_SHARE * self._cost:
                self._write_table()

    def write_crops(self, case: str, crops: Iterable[tuple[str, Image]], names: Sequence[str]) -> None:
        """Log-odds around each landmark, heatmap_crops/CASE/LANDMARK.nii.gz."""
        files = dict(zip(names, file_names(names), strict=True))
        for name, crop in crops:
            write_image(self.folder / CROPS / case / f"{files[name]}.nii.gz", crop)

    def overlay_file(self, case: str) -> Path:
        """Where the case's picture belongs."""
        return self.folder / OVERLAYS / f"{case}.png"

    def finish(self, run: Mapping[str, Any], failures: Sequence[Failure]) -> None:
        """The table, run.json, and failures.json where there are any."""
        if self._unwritten:
            self._write_table()
        for failure in failures:
            self._points(failure.case).unlink(missing_ok=True)
        if failures:
            write_json(self.folder / FAILURES, sorted(failures, key=lambda f: f.case))
        else:
            (self.folder / FAILURES).unlink(missing_ok=True)
        self.write_run({**run, "finished": now(), "done": len(self._rows), "failed": len(failures)})

    def write_run(self, run: Mapping[str, Any]) -> None:
        """run.json, which names the run; without `finished` it was broken off."""
        write_json(self.folder / RUN, {**run, "identity": self.identity, "versions": versions()})

    def _points(self, case: str) -> Path:
        return self.folder / f"{case}.mrk.json"

    def _has_points(self, case: str) -> bool:
        return case in self.cases and self._points(case).is_file()

    def _write_table(self) -> None:
        start = time.monotonic()
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(COLUMNS)
        for case in self.cases:
            writer.writerows(self._rows.get(case, ()))
        write_bytes(self.folder / TABLE, buffer.getvalue().encode())
        self._written, self._unwritten = time.monotonic(), False
        self._cost = self._written - start

    def _read_table(self) -> dict[str, list[list[str]]]:
        file = self.folder / TABLE
        if not file.is_file():
            return {}
        rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"))))
        if not rows or tuple(rows[0]) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
            raise AutolmkError(
                "the table of an earlier run is damaged",
                file=file,
                expected=f"the columns {', '.join(COLUMNS)}",
                remedy="remove it, or predict without --continue_prediction",
            )
        cases: dict[str, list[list[str]]] = {}
        for row in rows[1:]:
            cases.setdefault(row[0], []).append(row)
        return cases

    def _same_run(self) -> None:
        file = self.folder / RUN
        if not file.is_file():
            return
        value = read_json(file, remedy="predict without --continue_prediction, which starts over")
        before = value.get("identity") if isinstance(value, dict) else None
        if not isinstance(before, dict):
            raise AutolmkError(
                "the record of an earlier run is damaged",
                file=file,
                found="nothing that says how it predicted",
                remedy="predict without --continue_prediction, which starts over",
            )
        differing = [k for k in self.identity if before.get(k) != self.identity[k]]
        if differing:
            raise AutolmkError(
                "the predictions in this folder were made in another way, so they cannot be continued",
                file=file,
                found="; ".join(f"{k}: {before.get(k)}" for k in differing),
                expected="; ".join(f"{k}: {self.identity[k]}" for k in differing),
                remedy="choose another folder, or predict without --continue_prediction, which starts over",
            )

    def _clean(self) -> None:
        """Remove what a killed run left half-written."""
        for leftover in self.folder.rglob(".*.tmp"):
            if leftover.is_file():
                leftover.unlink()
        for leftover in self.folder.rglob(".writing_*"):
            shutil.rmtree(leftover)


def file_names(names: Sequence[str]) -> list[str]:
    """A file name a landmark, unique, in order, and safe on any system."""
    width = len(str(max(len(names) - 1, 0)))
    return [f"{i:0{width}d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}" for i, name in enumerate(names)]


def versions() -> dict[str, str]:
    """Of autolmk, Python and the packages that results depend on."""
    found = {"autolmk": autolmk.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def now() -> str:
    """Local time with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _row(case: str, output: CaseOutput, i: int) -> list[str]:
    point = [_text(x) for x in output.best[i]]
    status = Status(output.landmarks.status[i]).name.lower()
    numbers = [_text(output.landmarks.likelihood[i]), _text(output.log_odds[i])]
    return [case, output.landmarks.names[i], *point, *[""] * (3 - len(point)), status, *numbers]


def _text(value: float) -> str:
    return repr(float(value)) if np.isfinite(value) else ""
