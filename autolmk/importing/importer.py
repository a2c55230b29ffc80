"""An import from beginning to end: read, write, check, draw, and only then move to its place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from autolmk.annotations.formats import Format, Imported, Options
from autolmk.check import Fault, Report, Severity, check_dataset
from autolmk.dataset import Dataset, DatasetDescription
from autolmk.dataset.nnlandmark import import_dataset
from autolmk.errors import AutolmkError
from autolmk.files.locks import LOCK_FILE, LOCK_FILES, exclusive
from autolmk.files.serialization import make_folder
from autolmk.importing.preview import write_preview
from autolmk.importing.raw_dataset import write_dataset

PREVIEW = "import_preview.png"  # beside dataset.json, where no command looks
MARK = "made_by_autolmk_import"  # a file in the folder where an import is prepared: what lies there is ours
FEW = 16  # images, up to which the check needs no processes of its own


@dataclass(frozen=True, eq=False)
class ImportResult:
    """The result of an import. imported: None for a format that holds whole datasets. report: of the check."""

    folder: Path
    description: DatasetDescription
    report: Report
    imported: Imported | None


def import_source(
    form: Format,
    source: Path,
    target: Path,
    *,
    options: Options,
    link: bool = False,
    spacing: tuple[float, ...] | None = None,
    progress: bool = True,
) -> ImportResult:
    """Make the raw dataset `target` from a source in this format, check it, and draw its first case.

    link: link to the images instead of copying them. spacing: mm, order x, y(, z), for images without a physical size.
    AutolmkError where anything is wrong, or the check finds a fault of the whole dataset: then nothing is left behind.
    Faults of single cases are in the report.
    """
    require_free(target)
    make_folder(target.parent)
    try:
        with prepared(target) as inner:
            imported = None
            if form.read is None:
                description = import_dataset(source, inner, unlisted=options.unlisted, link=link, progress=progress)
            else:
                imported = form.read(source, options)
                inner.mkdir()
                description = write_dataset(imported, inner, link=link, spacing=spacing, unlisted=options.unlisted)
            report = _checked(inner, target, form, progress)
            _preview(inner)
            require_free(target)
            inner.rename(target)
    except OSError as error:
        raise AutolmkError(
            "the dataset cannot be written",
            file=error.filename or target,
            found=error.strerror or str(error),
            remedy="free disk space, choose another folder, or use --link",
        ) from None
    return ImportResult(target, description, report, imported)


@contextmanager
def prepared(target: Path) -> Iterator[Path]:
    """The place, which does not exist yet, where a dataset is written before it moves to `target`.

    It lies in a locked and marked folder beside the target. What a killed import left there is removed first.
    AutolmkError where another import into this target runs, or anything in the folder is not an import's.
    """
    folder = target.parent / f".{target.name}.autolmk-import"
    _require_ours(folder, target.name)
    folder.mkdir(exist_ok=True)
    try:
        with exclusive(folder):
            _require_ours(folder, target.name)  # again: nobody else is at work there now
            _clear(folder)
            (folder / MARK).touch()
            try:
                yield folder / target.name
            finally:
                _clear(folder)
    finally:
        with suppress(OSError):  # not empty: another import holds it
            folder.rmdir()


def _require_ours(folder: Path, name: str) -> None:
    """AutolmkError unless the folder is missing, empty, or holds the mark and nothing but what an import writes."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir() and not folder.is_symlink():
        found = {entry.name for entry in folder.iterdir()} - LOCK_FILES
        links = [entry for entry in folder.iterdir() if entry.is_symlink()]
        if not links and (not found or (MARK in found and found <= {MARK, name, f".{name}.importing"})):
            return
    raise AutolmkError(
        "the place where the import is prepared is taken",
        file=folder,
        found="what no import has left",
        expected="nothing",
        remedy="move it away, or choose another name for the dataset",
    )


def _clear(folder: Path) -> None:
    """Remove what an import wrote; the mark last, so that a kill in between leaves it."""
    if not (folder / MARK).exists():
        return
    for entry in list(folder.iterdir()):
        if entry.name not in (MARK, LOCK_FILE):
            shutil.rmtree(entry, ignore_errors=True)
    for name in LOCK_FILES - {LOCK_FILE}:
        (folder / name).unlink(missing_ok=True)
    (folder / MARK).unlink(missing_ok=True)


def require_free(target: Path) -> None:
    """Raise AutolmkError where something is at the target already, other than an empty folder."""
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise AutolmkError(
            "the dataset is there already", file=target, remedy="remove it yourself, or choose another name"
        )


def _checked(inner: Path, target: Path, form: Format, progress: bool) -> Report:
    """The report of the check, which names files by their places to be. AutolmkError where the dataset is at fault."""
    few = sum(1 for folder in inner.glob("images*") for _ in folder.iterdir()) <= FEW
    names: Severity | None = None if form.read is None else "dataset" if "--names-from" in form.needs else "warning"
    report = check_dataset(inner, workers=0 if few else None, progress=progress, names=names)
    faults = tuple(_moved(fault, str(inner), str(target)) for fault in report.faults)
    report = replace(report, folder=target, faults=faults)
    report.raise_dataset_faults()
    return report


def _moved(fault: Fault, old: str, new: str) -> Fault:
    file, found, expected, remedy = (
        None if text is None else text.replace(old, new)
        for text in (fault.file, fault.found, fault.expected, fault.remedy)
    )
    return replace(fault, file=file, found=found, expected=expected, remedy=remedy)


def _preview(folder: Path) -> None:
    """A picture of the first case that can be read."""
    dataset = Dataset.open(folder)
    cases = [case for split in ("Tr", "Ts") for case in dataset.cases(split) if case.annotation is not None]
    for case in cases:
        try:
            return write_preview(dataset, case, folder / PREVIEW)
        except AutolmkError:
            if case is cases[-1]:
                raise
    return None
