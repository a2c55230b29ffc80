"""Whether raw cases changed since they were preprocessed: by size and time of change first, by content where these
differ.

A record is a folder's raw/files.json; it names files relative to the raw dataset, so that datasets may be moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autolmk import imageio
from autolmk.dataset.opening import Dataset
from autolmk.dataset.raw import Case
from autolmk.errors import AutolmkError, counted, some
from autolmk.files.serialization import from_json, read_json, to_json, write_json

RECORD = "raw/files.json"
REMEDY = "run autolmk_preprocess again, which writes it anew"
VERSION = 1


@dataclass(frozen=True)
class FileState:
    """The state of a raw file. size: bytes. modified: ns. sha256: of the content; empty where it was not read."""

    size: int
    modified: int
    sha256: str = ""

    def same_at_a_glance(self, other: FileState | None) -> bool:
        """Whether size and time of change are the same."""
        return other is not None and (self.size, self.modified) == (other.size, other.modified)


@dataclass(frozen=True)
class CaseState:
    """The state of a raw case. files: images and label map. annotation: the file with the points, which other cases may
    share. meaning: digest of what is read of them: points, frame, spacing, subject.
    """

    files: dict[str, FileState]
    annotation: dict[str, FileState]
    meaning: str


@dataclass(frozen=True)
class RawRecord:
    """A record of the raw dataset as preprocessing saw it. cases: None for those that were left out. description:
    dataset.json.
    """

    version: int
    description: FileState
    cases: dict[str, CaseState | None]

    @classmethod
    def load(cls, folder: Path) -> RawRecord | None:
        """Load the record of a folder of preprocessed cases; None where an earlier version of autolmk left none."""
        file = folder / RECORD
        if not file.is_file():
            return None
        record = from_json(cls, read_json(file, remedy=REMEDY), file=file)
        if record.version != VERSION:
            raise AutolmkError(
                "a record of the raw data is of another version",
                file=file,
                found=record.version,
                expected=VERSION,
                remedy=REMEDY,
            )
        return record

    def save(self, folder: Path) -> None:
        """Write it into a folder of preprocessed cases, atomically."""
        write_json(folder / RECORD, self, indent=None)


@dataclass(frozen=True)
class Changes:
    """Names of cases. edited: their images or points are not those that were preprocessed."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    edited: tuple[str, ...]

    def __str__(self) -> str:
        """The changes in words, such as `1 case added: a; 2 cases edited: b, c`; empty where nothing changed."""
        parts = {"added": self.added, "removed": self.removed, "edited": self.edited}
        return "; ".join(
            f"{counted(len(names), 'case')} {what}: {some(names)}" for what, names in parts.items() if names
        )


def look(dataset: Dataset, cases: Iterable[Case]) -> RawRecord:
    """Sizes and times of all that `cases` are made of, and what their annotations say; no image is read."""
    states: dict[str, CaseState | None] = {}
    for case in cases:
        states[case.identifier] = CaseState(
            _glance(dataset.folder, files_of(case)), _glance(dataset.folder, _annotation(case)), meaning(dataset, case)
        )
    return RawRecord(VERSION, _state(dataset.folder / "dataset.json"), states)


def with_contents(seen: RawRecord, earlier: RawRecord | None, folder: Path, left_out: Iterable[str]) -> RawRecord:
    """`seen` with the digests of contents, those of `earlier` where nothing changed since. folder: the raw dataset's.
    left_out: cases that are known, but not used."""
    done: dict[str, CaseState | None] = dict.fromkeys(left_out)
    for name, case in seen.cases.items():
        if case is None or name in done:
            continue
        before = earlier.cases.get(name) if earlier is not None else None
        files = {file: _read(folder, file, state, before) for file, state in case.files.items()}
        done[name] = CaseState(files, case.annotation, case.meaning)
    return RawRecord(VERSION, seen.description, done)


def changes(record: RawRecord, dataset: Dataset, cases: Iterable[Case]) -> Changes:
    """Find what changed in the dataset since `record`. Contents are read only of files whose size or time of change
    differ.
    """
    now = {case.identifier: case for case in cases}
    known = {name: state for name, state in record.cases.items() if state is not None}
    described = _state(dataset.folder / "dataset.json").same_at_a_glance(record.description)
    edited = [name for name in known if name in now and _edited(known[name], dataset, now[name], described)]
    return Changes(tuple(sorted(set(now) - set(record.cases))), tuple(sorted(set(known) - set(now))), tuple(edited))


def meaning(dataset: Dataset, case: Case) -> str:
    """Digest of the points of a case and how dataset.json reads them; empty where they cannot be read."""
    try:
        read = dataset.read_annotation(case)
        frame = dataset.frame_of(case, read)
    except (AutolmkError, OSError):
        return ""
    description = dataset.description
    points = [read.names, read.points, read.status, frame]
    value = [*points, description.unlisted_landmark_means, description.spacing_of(case.identifier), case.subject]
    return hashlib.sha256(json.dumps(to_json(value)).encode()).hexdigest()[:16]


def files_of(case: Case) -> list[Path]:
    """Images, those in folders of DICOM files included, what holds their voxels, and the label map."""
    files = [file for place in case.images for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
    files += [file for place in case.images for file in imageio.files_of(place) if file not in files]
    return files if case.labels is None else [*files, case.labels]


def _named(case: Case) -> set[Path]:
    """The files of a case, and what lies in its folders, without what is below that or beside a header."""
    inside = [file for place in case.images for file in (place.iterdir() if place.is_dir() else [place])]
    return {*inside, *([] if case.labels is None else [case.labels])}


def _annotation(case: Case) -> list[Path]:
    return [] if case.annotation is None else [case.annotation]


def _edited(before: CaseState, dataset: Dataset, case: Case, described: bool) -> bool:
    files = _glance(dataset.folder, files_of(case))
    below = {name for name in files if dataset.folder / name not in _named(case)}  # older records lack them
    files = {name: state for name, state in files.items() if name in before.files or name not in below}
    if files.keys() != before.files.keys():
        return True
    for name, state in files.items():
        known = before.files[name]
        if not state.same_at_a_glance(known) and (state.size != known.size or _differs(dataset.folder / name, known)):
            return True
    annotation = _glance(dataset.folder, _annotation(case))
    same = annotation.keys() == before.annotation.keys() and all(
        state.same_at_a_glance(before.annotation[name]) for name, state in annotation.items()
    )
    return not (same and described) and meaning(dataset, case) != before.meaning


def _differs(file: Path, known: FileState) -> bool:
    return not known.sha256 or _sha256(file) != known.sha256


def _read(folder: Path, name: str, state: FileState, before: CaseState | None) -> FileState:
    """With its digest; without one where the file changed since it was looked at."""
    known = None if before is None else before.files.get(name)
    if known is not None and known.sha256 and state.same_at_a_glance(known):
        return known
    found = _sha256(folder / name)
    same = state.same_at_a_glance(_state(folder / name))
    return FileState(state.size, state.modified, found if same else "")


def _glance(folder: Path, files: Iterable[Path]) -> dict[str, FileState]:
    return {str(file.relative_to(folder)): _state(file) for file in files}


def _state(file: Path) -> FileState:
    """Size -1 where there is no such file."""
    try:
        found = file.stat()
    except OSError:
        return FileState(-1, 0)
    return FileState(found.st_size, found.st_mtime_ns)


def _sha256(file: Path) -> str:
    """Of the content; empty where it cannot be read, which whoever reads the case reports."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
