"""The files that a prediction run leaves behind: CASE.mrk.json, one landmarks.csv, run.json, failures.json, crops and
pictures; review.csv, and with a recipe measurements.csv.

Every file is written atomically. run.json comes first and lists what the run writes, see `earlier`. A case counts as
done when its rows stand in landmarks.csv, which is written after its other files; so a run that was killed can go
on.
"""

from __future__ import annotations

import hashlib
import platform
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import autolmk
from autolmk.annotations import write
from autolmk.annotations.csv import read_rows, write_rows
from autolmk.data.preprocessing import Failure
from autolmk.errors import AutolmkError
from autolmk.evaluation.measurements import TABLE as MEASUREMENTS
from autolmk.evaluation.measurements import write_measurements
from autolmk.files.serialization import make_folder, write_json
from autolmk.image import Image
from autolmk.imageio import files_of, write_image
from autolmk.prediction.earlier import CROPS, FAILURES, OVERLAYS, RUN, EarlierRun, not_ours, refuse_others
from autolmk.selection import Recipe
from autolmk.selection.results import (
    COLUMNS,
    FLAGS,
    OUTSIDE,
    RECIPE_COLUMNS,
    REVIEW,
    TABLE,
    Result,
    outside_of,
    read_results,
    write_review,
)

TABLE_SHARE = 20  # the table is written again once this many times its last writing time has passed
PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "dynamic-network-architectures", "acvl-utils", "blosc2")


class PredictionFolder:
    """The output folder of one run. cases: all that the run is to predict, in order, with what `fingerprints` says of
    their files: a case whose files changed is predicted again.

    identity: what results depend on (model digests, test-time options, device); a run may be continued only by one of
    the same identity. recipe: of a packed model, which adds columns and tables. `write` may be called from several
    threads.
    """

    def __init__(
        self,
        folder: Path,
        cases: Mapping[str, str],
        identity: Mapping[str, Any],
        *,
        unit: str,
        recipe: Recipe | None = None,
    ) -> None:
        self.folder, self.cases, self.identity, self.unit = folder, dict(cases), dict(identity), unit
        self.recipe, self.columns = recipe, (*((*COLUMNS, FLAGS) if recipe is None else RECIPE_COLUMNS), OUTSIDE)
        self._rows: dict[str, list[list[str]]] = {}
        self._crops: tuple[str, ...] = ()
        self._written, self._cost, self._unwritten = 0.0, 0.0, False
        self._lock = threading.Lock()

    def begin(self, *, resume: bool, crops: Sequence[str] = ()) -> list[str]:
        """Clean up after an earlier run; the cases that are left to predict. crops: names of the files that
        `write_crops` will write of each case.

        What an earlier run wrote of cases that are not to be kept is removed: what its run.json lists, nothing else.
        AutolmkError, before anything is changed, where it was another run that is to be resumed, or where files are in
        the way that no run of autolmk wrote.
        """
        make_folder(self.folder)
        earlier = EarlierRun.read(self.folder)
        if resume:
            self._require_same(earlier)
        refuse_others(self.folder, earlier, self.cases, self.tables)
        earlier.remove_leftovers(self.folder)
        if resume:
            self._rows = {c: rows for c, rows in self._read_table().items() if self._is_done(c, earlier.cases)}
        for case in earlier.cases:
            if case not in self._rows:
                earlier.remove(self.folder, case)
        for table in set(earlier.tables) & {REVIEW, MEASUREMENTS}:  # of all cases: `finish` writes them anew, or none
            (self.folder / table).unlink(missing_ok=True)
        self._crops = tuple(sorted({*crops, *(earlier.crops if resume else ())}))
        self.write_run({"started": now()})
        self._write_table()
        return [case for case in self.cases if case not in self._rows]

    def write(self, case: str, result: Result, *, detections: bool = False) -> None:
        """The case's points, all that was detected if asked for, and from time to time the table."""
        write(self.points_file(case), result.landmarks, unit=self.unit)
        if detections:
            result.detections.save(self.folder, case)
        rows = result.rows(case, self.columns)
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
        """The place of the case's picture."""
        return self.folder / OVERLAYS / f"{case}.png"

    def finish(self, run: Mapping[str, Any], failures: Sequence[Failure]) -> None:
        """The tables, run.json, and failures.json where there are any."""
        if self._unwritten:
            self._write_table()
        rows = [row for case in self.cases for row in self._rows.get(case, ())]
        write_review(self.folder, self.columns, rows)
        if self.recipe is not None and self.recipe.measurements:
            self._write_measurements(self.recipe)
        for failure in failures:
            self.points_file(failure.case).unlink(missing_ok=True)
        if failures:
            write_json(self.folder / FAILURES, sorted(failures, key=lambda f: f.case))
        else:
            (self.folder / FAILURES).unlink(missing_ok=True)
        ended = {"finished": now(), "done": len(self._rows), "failed": len(failures), "outside": self.outside}
        self.write_run({**run, **ended})

    def write_run(self, run: Mapping[str, Any]) -> None:
        """run.json, which names the run; without `finished` it was broken off."""
        listed = {"inputs": self.cases, "tables": self.tables, "crops": self._crops}
        record = {**run, "identity": self.identity, **listed, "versions": versions()}
        write_json(self.folder / RUN, record)

    @property
    def outside(self) -> dict[str, list[str]]:
        """The remarks on predicted cases that lie outside the range of the training images; other cases are
        left out.
        """
        return outside_of(self.columns, (row for case in self.cases for row in self._rows.get(case, ())))

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the files that the run may write beside those of its cases."""
        return (TABLE, FAILURES, REVIEW, *(() if self.recipe is None else (MEASUREMENTS,)))

    def points_file(self, case: str) -> Path:
        """The place of the case's points."""
        return self.folder / f"{case}.mrk.json"

    def _write_measurements(self, recipe: Recipe) -> None:
        write_measurements(
            self.folder,
            read_results(self.folder),
            recipe.measurements,
            unit=self.unit,
            calibration=recipe.measurement_calibration,
        )

    def _is_done(self, case: str, earlier: Mapping[str, str]) -> bool:
        same = case in self.cases and earlier.get(case) == self.cases[case]
        return same and self.points_file(case).is_file()

    def _write_table(self) -> None:
        start = time.monotonic()
        write_rows(self.folder / TABLE, self.columns, [row for case in self.cases for row in self._rows.get(case, ())])
        self._written, self._unwritten = time.monotonic(), False
        self._cost = self._written - start

    def _read_table(self) -> dict[str, list[list[str]]]:
        file = self.folder / TABLE
        if not file.is_file():
            return {}
        rows = read_rows(file, self.columns, remedy="remove it, or predict without --continue_prediction")
        cases: dict[str, list[list[str]]] = {}
        for row in rows:
            cases.setdefault(row["case"], []).append([row[column] for column in self.columns])
        return cases

    def _require_same(self, earlier: EarlierRun) -> None:
        """AutolmkError where the earlier run, if there was one, predicted in another way."""
        file = self.folder / RUN
        if earlier.identity is None:
            if (self.folder / TABLE).is_file():
                raise not_ours(file, "no run.json beside landmarks.csv")
            return
        before = earlier.identity
        differing = [k for k in self.identity if before.get(k) != self.identity[k]]
        if differing:
            raise AutolmkError(
                "the predictions in this folder were made in another way, so they cannot be continued",
                file=file,
                found="; ".join(f"{k}: {before.get(k)}" for k in differing),
                expected="; ".join(f"{k}: {self.identity[k]}" for k in differing),
                remedy="choose another folder, or predict without --continue_prediction, which starts over",
            )


def fingerprints(cases: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """The digest of each case: of the names, sizes and times of change of its files (of a folder: of all
    files in it).
    """
    return {case: _fingerprint(files) for case, files in cases.items()}


def _fingerprint(files: Sequence[Path]) -> str:
    each = [file for given in files for file in files_of(given)]
    return hashlib.sha256(repr([_state(file) for file in each]).encode()).hexdigest()[:16]


def _state(file: Path) -> tuple[str, int, int]:
    """Name, size and time of change; of a link to nothing, which reading the case will report, the name alone."""
    if not file.exists():
        return file.name, 0, 0
    state = file.stat()
    return file.name, state.st_size, state.st_mtime_ns


def file_names(names: Sequence[str]) -> list[str]:
    """A file name a landmark, unique, in order, and safe on any system."""
    width = len(str(max(len(names) - 1, 0)))
    return [f"{i:0{width}d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}" for i, name in enumerate(names)]


def versions() -> dict[str, str]:
    """The versions of autolmk, Python and the packages that results depend on."""
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
