"""The bundles of a folder, or of a static index of one: a lab's own list of models. Nothing is downloaded."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autolmk.bundles.card import Card
from autolmk.bundles.in_place import read
from autolmk.bundles.manifest import MANIFEST, Manifest, parse
from autolmk.errors import AutolmkError
from autolmk.evaluation.bootstrap import Estimate
from autolmk.files.digest import sha256_of
from autolmk.files.serialization import from_json, near, read_json, write_json
from autolmk.paths import plain_name

INDEX = "index.json"
FORMAT: Literal["autolmk index"] = "autolmk index"
VERSION = 1
MOST = 10_000  # bundles of an index
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listed:
    """A bundle in a list. file: its name, beside the index. size: bytes, and sha256, of the zip; 0 and empty of a
    folder. cases: that were held out. mre: on them, mm or px."""

    file: str
    size: int
    sha256: str
    dataset: str
    model: str
    licence: str
    unit: Literal["mm", "px"]
    channels: tuple[str, ...]
    landmarks: tuple[str, ...]
    cases: int
    mre: Estimate | None
    code: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError where the file is not one beside the index."""
        plain_name(self.file, "file")

    @classmethod
    def of(cls, place: Path, manifest: Manifest, card: Card) -> Listed:
        """Make the entry of a bundle that was read."""
        zipped = place.is_file()
        mre = None if card.held_out is None else card.held_out.mre
        return cls(
            file=place.name,
            size=place.stat().st_size if zipped else 0,
            sha256=sha256_of(place) if zipped else "",
            dataset=manifest.dataset,
            model=manifest.model,
            licence=card.licence,
            unit=card.unit,
            channels=card.channels,
            landmarks=tuple(one.name for one in card.landmarks),
            cases=card.held_out_cases,
            mre=mre,
            code=bool(manifest.code),
        )


@dataclass(frozen=True)
class Index:
    """index.json, which a folder of bundles may carry and a web server may serve as it is."""

    format: Literal["autolmk index"]
    models: tuple[Listed, ...]
    version: int = VERSION

    def __post_init__(self) -> None:
        """Raise ValueError for an index of another version, or one that is too long."""
        if self.version != VERSION:
            raise ValueError(f"an index of version {self.version}, where {VERSION} is known; update autolmk")
        if len(self.models) > MOST:
            raise ValueError(f"{len(self.models)} models, more than {MOST}")


def listed(place: Path) -> list[Listed]:
    """List the bundles in a folder, zipped or unpacked, by name, or those in an index file. What cannot be read is left
    out, and a warning says why. AutolmkError where there is no such folder or index.
    """
    if place.is_file():
        return list(from_json(Index, read_json(place), file=place).models)
    found = []
    for bundle in bundles_in(place):
        try:
            found.append(Listed.of(bundle, *read(bundle)))
        except AutolmkError as error:
            logger.warning("left out: %s", error)
    return found


def bundles_in(folder: Path) -> list[Path]:
    """Zips, and folders of unpacked bundles, directly in a folder, in order. AutolmkError where it is no folder."""
    if not folder.is_dir():
        raise AutolmkError(
            "there is no such folder or index",
            file=folder,
            expected=f"a folder with bundles, or an {INDEX} of one",
            remedy="check --from",
        )
    inside = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    return [p for p in inside if (p.is_file() and p.suffix == ".zip") or (p / MANIFEST).is_file()]


def installed(results: Path) -> list[Path]:
    """Folders of models that were installed from bundles."""
    return sorted(file.parent for file in results.glob(f"*/*/{MANIFEST}"))


def write_index(folder: Path) -> tuple[Path, int]:
    """Write index.json of the zips in a folder; gives the file and how many. AutolmkError where one cannot be read, or
    another program's index.json is there."""
    if os.path.lexists(folder / INDEX):
        value = read_json(folder / INDEX)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise AutolmkError(
                "a file is in the way that is no index of bundles",
                file=folder / INDEX,
                expected=f"nothing, or an earlier {INDEX} of autolmk",
                remedy="move it away, or put the bundles into another folder",
            )
    zips = [place for place in bundles_in(folder) if place.is_file()]
    models = tuple(Listed.of(place, *read(place)) for place in zips)
    write_json(folder / INDEX, Index(FORMAT, models))
    return folder / INDEX, len(models)


def find(name: str, place: Path) -> Path:
    """The bundle of a name in a folder, or beside an index: its file's name, DATASET, DATASET__MODEL or its beginning.
    AutolmkError, with those that there are, where it is none or several."""
    folder = place.parent if place.is_file() else place
    names = {one.file: f"{one.dataset}__{one.model}" for one in listed(place)}
    found = [file for file, model in names.items() if name in (file, model)]
    found = found or [file for file, model in names.items() if file.startswith(name) or model.startswith(name)]
    if len(found) != 1:
        raise AutolmkError(
            f"several bundles are called {name!r}" if found else f"there is no bundle {name!r}{near(name, names)}",
            file=place,
            found=", ".join(found or names) or "no bundle",
            remedy="give a file's name as autolmk_models list shows it",
        )
    if not (folder / found[0]).exists():
        raise AutolmkError(
            "the bundle that an index names is not beside it",
            file=folder / found[0],
            remedy="fetch it into that folder from where the index came from; autolmk downloads nothing",
        )
    return folder / found[0]


def manifest_of(folder: Path) -> Manifest:
    """The manifest of an installed model. AutolmkError where it is damaged."""
    return parse(read_json(folder / MANIFEST), file=folder / MANIFEST)
