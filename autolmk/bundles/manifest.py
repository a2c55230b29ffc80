"""Manifest of a bundle: which files it holds, their sizes and SHA-256, and which names a bundle may hold at all.

A bundle is a model folder with bundle.json and a model card at its top, as a zip or unpacked. Whatever a manifest says
was written by strangers: names are compared with the few that a model folder can hold.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from autolmk.errors import AutolmkError
from autolmk.files import strict_json
from autolmk.files.serialization import from_json
from autolmk.paths import BEST, SOURCE_FOLDER, SOURCE_RECORD, plain_name

VERSION = 1
FORMAT: Literal["autolmk bundle"] = "autolmk bundle"
MANIFEST = "bundle.json"
CARD, CARD_MARKDOWN, CARD_HTML = "model_card.json", "model_card.md", "model_card.html"
CARDS = (CARD, CARD_MARKDOWN, CARD_HTML)
MOST_FILES = 5000
LONGEST_PATH = 1000  # characters
LARGEST_TOTAL = 2**36  # bytes of all files together, 64 GiB
LARGEST = {".json": strict_json.LARGEST, ".py": 2**22, ".md": 2**24, ".html": 2**24, ".safetensors": LARGEST_TOTAL}
MODEL_FILES = ("plans.json", "dataset.json", "dataset_fingerprint.json", SOURCE_RECORD)
FOLD_FILES = ("config.json", "measured.json", "checkpoint_final.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FOLD = re.compile(r"fold_([0-9]{1,9}|all)")


@dataclass(frozen=True)
class File:
    """The size and checksum of a file in a bundle. size: bytes. sha256: of the content, 64 hexadecimal digits."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        """Raise ValueError where the numbers cannot be those of a file."""
        if not 0 <= self.size <= LARGEST_TOTAL or not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"a file of {self.size} bytes and SHA-256 {self.sha256[:80]!r}")


@dataclass(frozen=True)
class Manifest:
    """bundle.json. dataset: folder of the results folder that the model belongs into. model: its folder there,
    TRAINER__PLANS__CONFIGURATION, or `best` of a packed one. licence: of the model. files: by path, with /."""

    format: Literal["autolmk bundle"]
    dataset: str
    model: str
    licence: str
    autolmk: str
    files: dict[str, File]
    version: int = VERSION

    def __post_init__(self) -> None:
        """Raise ValueError where a name leads elsewhere, is none of a model folder, or stands twice on some system."""
        plain_name(self.dataset, "dataset")
        plain_name(self.model, "model")
        if self.model != BEST and self.model.count("__") != 2:
            raise ValueError(f"model must be {BEST} or TRAINER__PLANS__CONFIGURATION, got {self.model!r}")
        if len(self.files) > MOST_FILES:
            raise ValueError(f"{len(self.files)} files, more than {MOST_FILES}")
        for name, file in self.files.items():
            require_name(name, packed=self.packed)
            if file.size > LARGEST[name[name.rindex(".") :]]:
                raise ValueError(f"{name}: {file.size} bytes, more than makes sense")
        require_different(self.files)
        missing = {CARD, "recipe.json" if self.packed else "plans.json"} - set(self.files)
        if missing:
            raise ValueError(f"files has no {', '.join(sorted(missing))}")
        if self.total > LARGEST_TOTAL:
            raise ValueError(f"{self.total} bytes, more than {LARGEST_TOTAL}")

    @property
    def packed(self) -> bool:
        """Whether several models are in it, with a recipe."""
        return self.model == BEST

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def code(self) -> tuple[str, ...]:
        """Files that are code, of trainers outside autolmk."""
        return tuple(name for name in self.files if name.endswith(".py"))


def parse(value: Any, *, file: object) -> Manifest:
    """Parse a manifest from JSON. AutolmkError names the key at fault."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise AutolmkError(
            "this is no bundle of autolmk",
            file=str(file),
            expected=f'an object with "format": "{FORMAT}"',
            remedy="give a file that autolmk_export wrote",
        )
    if type(value.get("version")) is not int or value["version"] != VERSION:
        raise AutolmkError(
            "a bundle of another version",
            file=str(file),
            found=f"version {str(value.get('version'))[:80]}",
            expected=f"version {VERSION}",
            remedy="update autolmk, or ask for a bundle of this version",
        )
    return from_json(Manifest, value, file=str(file))


def require_name(name: str, *, packed: bool) -> None:
    """Raise ValueError where a path is none that a bundle may hold. packed: whether each model has a folder
    of its own.
    """
    parts = name.split("/")
    if len(name) > LONGEST_PATH or unicodedata.normalize("NFC", name) != name:
        raise ValueError(f"a path that not all systems hold: {name[:80]!r}")
    for part in parts:
        plain_name(part, "each part of a path in a bundle")
    if name in CARDS or (packed and name in ("recipe.json", "dataset.json", "dataset_fingerprint.json")):
        return
    inside = parts[1:] if packed else parts
    if not _of_model(inside):
        raise ValueError(f"{name[:200]!r} is no file of a model folder, so a bundle cannot hold it")


def _of_model(parts: list[str]) -> bool:
    """Whether these are the parts of a path inside the folder of one configuration."""
    if len(parts) == 1:
        return parts[0] in MODEL_FILES
    if len(parts) == 2 and parts[0] == SOURCE_FOLDER:
        return parts[1].endswith(".py")
    return len(parts) >= 2 and _FOLD.fullmatch(parts[0]) is not None and parts[-1] in FOLD_FILES


def require_different(names: Iterable[str]) -> None:
    """Raise ValueError where two paths are one on some system (case, forms of Unicode), or one is a folder of
    another.
    """
    seen: dict[str, str] = {}
    for name in names:
        folded = folded_path(name)
        if folded in seen:
            raise ValueError(f"the same path twice on some systems: {seen[folded][:80]!r}, {name[:80]!r}")
        seen[folded] = name
    for name in seen:
        above = name
        while "/" in above:
            above = above.rpartition("/")[0]
            if above in seen:
                raise ValueError(f"a file and a folder of one name: {seen[above][:80]!r}")


def folded_path(name: str) -> str:
    """The name in the form in which file systems compare that ignore case and Unicode form."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
