"""A bundle written: the model folder's files, the model card, and the manifest with the SHA-256 of each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import autolmk
from autolmk.bundles.card import Card
from autolmk.bundles.card_page import html_page, markdown
from autolmk.bundles.citation import sheet_of
from autolmk.bundles.contents import Entry, entries, parts_of, secrets_of
from autolmk.bundles.in_place import read, verify
from autolmk.bundles.making_card import card_of_model
from autolmk.bundles.manifest import CARD, CARD_HTML, CARD_MARKDOWN, FORMAT, MANIFEST, VERSION, File, Manifest, parse
from autolmk.bundles.privacy import require_none
from autolmk.errors import AutolmkError
from autolmk.files.atomic import replacing
from autolmk.files.digest import sha256_of
from autolmk.files.serialization import to_json
from autolmk.paths import BEST
from autolmk.plans import Plans

CHUNK = 2**20  # bytes
BEGINNING = (1980, 1, 1, 0, 0, 0)  # of all files: the same model gives the same bundle


def export(
    model_folder: Path, target: Path | None = None, folds: Sequence[str] | None = None, licence: str | None = None
) -> tuple[Path, Manifest]:
    """Write a model folder, of one configuration or packed, as a bundle; gives the file and its manifest.

    target: default DATASET__MODEL.autolmk.zip in the current folder. folds: default all that are finished. licence: of
    the model; default the one of its dataset.json. AutolmkError where the folder is incomplete or damaged, where a text
    names a case or a path, or where the disk refuses; an earlier file of that name then stays as it was.
    """
    folder = model_folder.expanduser()
    parts, recipe = parts_of(folder, folds)
    secrets = secrets_of(parts, recipe)
    dataset = Plans.load(parts[0].folder / "plans.json").dataset_name
    name = BEST if recipe is not None else folder.resolve().name
    _require_name(folder, name)
    card = card_of_model(folder, parts, recipe, name, licence)
    sheet = sheet_of(parts, recipe)
    card = replace(card, methods=sheet.text(), reproducibility=sheet.facts, references=sheet.references())
    require_none(to_json(card), secrets, CARD)
    file = Path(f"{dataset}__{name}.autolmk.zip") if target is None else target.expanduser()
    if file.suffix != ".zip" or file.is_dir():
        raise AutolmkError(
            "a bundle is a zip", file=file, expected="a name that ends with .autolmk.zip", remedy="correct -o"
        )
    _require_free(file)
    try:
        with tempfile.TemporaryDirectory(prefix="autolmk-export-") as temporary, replacing(file, ".zip") as place:
            written = [*_cards(card), *entries(parts, recipe, secrets, Path(temporary))]
            manifest = _write(place, written, dataset=dataset, model=name, licence=card.licence)
            verify(place)
    except OSError as error:
        raise AutolmkError(
            "a bundle cannot be written",
            file=file,
            found=error.strerror or str(error),
            remedy="free disk space, or choose another place with -o",
        ) from None
    return file, manifest


def _require_free(file: Path) -> None:
    """AutolmkError where something else than a bundle is in the file's place: only bundles are replaced."""
    if not os.path.lexists(file):
        return
    try:
        if file.is_symlink():
            raise OSError(None, "a link")
        read(file)
    except (AutolmkError, OSError) as error:
        raise AutolmkError(
            "a file is in the way that is no bundle",
            file=file,
            found=str(error.problem if isinstance(error, AutolmkError) else error.strerror),
            expected="nothing, or an earlier bundle",
            remedy="choose another name with -o, or move this file away",
        ) from None


def _require_name(folder: Path, name: str) -> None:
    """AutolmkError where a model's folder has been given another name than training gave it."""
    if name != BEST and name.count("__") != 2:
        raise AutolmkError(
            "a model's folder has another name than training gave it",
            file=folder,
            found=name,
            expected="TRAINER__PLANS__CONFIGURATION",
            remedy="give the folder that name back: it tells what kind of model it is, and where it is installed",
        )


def _cards(card: Card) -> list[Entry]:
    data = json.dumps(to_json(card), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    pages = ((CARD, data), (CARD_MARKDOWN, markdown(card)), (CARD_HTML, html_page(card)))
    return [Entry(name, text.encode()) for name, text in pages]


def _write(place: Path, written: Sequence[Entry], *, dataset: str, model: str, licence: str) -> Manifest:
    files: dict[str, File] = {}
    with zipfile.ZipFile(place, "w") as archive:
        for entry in sorted(written, key=lambda entry: entry.name):
            files[entry.name] = _add(archive, entry)
        manifest = parse(
            {"format": FORMAT, "dataset": dataset, "model": model, "licence": licence,
             "autolmk": autolmk.__version__, "files": to_json(files), "version": VERSION},
            file=place,
        )  # fmt: skip
        _add(archive, Entry(MANIFEST, (json.dumps(to_json(manifest), indent=1, ensure_ascii=False) + "\n").encode()))
    return manifest


def _add(archive: zipfile.ZipFile, entry: Entry) -> File:
    """Weights are stored as they are, texts are compressed."""
    info = zipfile.ZipInfo(entry.name, BEGINNING)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.create_system = 3  # Unix, whatever system writes it
    if isinstance(entry.data, bytes):
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, entry.data)
        return File(len(entry.data), hashlib.sha256(entry.data).hexdigest())
    info.compress_type = zipfile.ZIP_STORED
    info.file_size = entry.data.stat().st_size
    with entry.data.open("rb") as source, archive.open(info, "w", force_zip64=info.file_size > 2**31 - 1) as out:
        shutil.copyfileobj(source, out, CHUNK)
    return File(entry.data.stat().st_size, sha256_of(entry.data))
