"""The files that an earlier run wrote into an output folder, by its run.json: no others are ever removed or replaced
there.

A record that is not of this form, or names a case that is not one plain name, is a stranger's: it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autolmk.detections import FOLDER as DETECTIONS
from autolmk.detections import file_of
from autolmk.errors import AutolmkError, some
from autolmk.evaluation.measurements import TABLE as MEASUREMENTS
from autolmk.files.atomic import refuse_link, remove_leftovers
from autolmk.files.serialization import read_json
from autolmk.selection.results import REVIEW, TABLE

RUN, FAILURES, CROPS, OVERLAYS = "run.json", "failures.json", "heatmap_crops", "overlays"
START_OVER = "choose another folder; or remove what the run wrote, with its run.json, and predict anew"
REMEDY = "choose another folder, or move these files away"


@dataclass(frozen=True)
class EarlierRun:
    """The files that a run wrote, by its record. cases: case -> digest of its files. tables: names of files in the
    folder. crops: names of files in heatmap_crops/CASE.
    """

    cases: dict[str, str] = field(default_factory=dict)
    tables: tuple[str, ...] = ()
    crops: tuple[str, ...] = ()
    identity: dict[str, Any] | None = None

    @classmethod
    def read(cls, folder: Path) -> EarlierRun:
        """Read what run.json says of the run that wrote into `folder` before; empty where none did. AutolmkError where
        run.json is damaged or none of autolmk."""
        file = folder / RUN
        if not os.path.lexists(file):
            return cls()
        value = read_json(file, remedy=START_OVER)
        if not isinstance(value, dict) or not isinstance(value.get("identity"), dict):
            raise not_ours(file, "nothing that says how it predicted")
        recipe = value["identity"].get("recipe") is not None
        usual = [TABLE, FAILURES, *([REVIEW, MEASUREMENTS] if recipe else [])]  # of records that list no tables
        inputs, tables, crops = value.get("inputs"), value.get("tables", usual), value.get("crops", [])
        if not isinstance(inputs, dict):
            raise not_ours(file, "nothing that says which images it predicted")
        if not isinstance(tables, list) or not isinstance(crops, list):
            raise not_ours(file, "tables or crops that are no lists")
        strange = [name for name in [*inputs, *tables, *crops] if not is_plain(name)]
        strange += [name for name in tables if name not in (TABLE, FAILURES, REVIEW, MEASUREMENTS)]
        if strange:
            raise not_ours(file, f"{strange[0]!r}, which is the name of no file that a prediction writes")
        return cls({case: str(known) for case, known in inputs.items()}, tuple(tables), tuple(crops), value["identity"])

    def remove(self, folder: Path, case: str) -> None:
        """Remove the files of a case, and its folder of crops where nothing else is in it."""
        for file in files_of(folder, case, self.crops):
            file.unlink(missing_ok=True)
        crops = folder / CROPS / case
        if crops.is_dir() and not any(crops.iterdir()):
            crops.rmdir()

    def remove_leftovers(self, folder: Path) -> None:
        """Remove what the run, if it was killed, left half-written."""
        remove_leftovers(folder, {RUN, *self.tables, *(f"{case}.mrk.json" for case in self.cases)})
        remove_leftovers(folder / OVERLAYS, {f"{case}.png" for case in self.cases})
        remove_leftovers(folder / DETECTIONS, {f"{case}.json" for case in self.cases})
        for case in self.cases:
            remove_leftovers(folder / CROPS / case, self.crops)


def refuse_others(folder: Path, earlier: EarlierRun, cases: Iterable[str], tables: Collection[str]) -> None:
    """Raise AutolmkError where files stand in the way of what a run of `cases` writes that `earlier` did not write, or
    a link in the place of one of its folders.
    """
    for place in (folder / OVERLAYS, folder / DETECTIONS, folder / CROPS):
        refuse_link(place)
    for case in {*earlier.cases, *cases}:
        refuse_link(folder / CROPS / case)
    new = [case for case in cases if case not in earlier.cases]
    files = [folder / name for name in tables if name not in earlier.tables]
    files += [file for case in new for file in [*files_of(folder, case), folder / CROPS / case]]
    found = [str(file.relative_to(folder)) for file in files if os.path.lexists(file)]
    if found:
        raise AutolmkError(
            "files are in the way that no earlier run into this folder wrote",
            file=folder,
            found=some(found),
            expected="an empty folder, or one of an earlier run, whose run.json lists what it wrote",
            remedy=REMEDY,
        )


def files_of(folder: Path, case: str, crops: Sequence[str] = ()) -> list[Path]:
    """Every file that a run may write of a case."""
    points, overlay = folder / f"{case}.mrk.json", folder / OVERLAYS / f"{case}.png"
    return [points, overlay, file_of(folder, case), *(folder / CROPS / case / name for name in crops)]


def is_plain(name: object) -> bool:
    """Whether a value is the name of one file, not a path."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def not_ours(file: Path, found: str) -> AutolmkError:
    """The error of a run.json that cannot be believed."""
    return AutolmkError(
        "run.json is damaged, or none of a prediction by autolmk",
        file=file,
        found=found,
        expected="the record of an earlier run into this folder",
        remedy=START_OVER,
    )
