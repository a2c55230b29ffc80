"""The raw, preprocessed and results folders: argument, else environment variable, else ~/autolmk.

raw/DATASET/{dataset.json, imagesTr, landmarksTr, imagesTs, landmarksTs}
preprocessed/DATASET/{dataset.json, dataset_fingerprint.json, PLANS.json, splits_final.json, DATA_IDENTIFIER/}
results/DATASET/TRAINER__PLANS__CONFIGURATION/{plans.json, ..., fold_k/}, results/DATASET/best/
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autolmk.errors import AutolmkError
from autolmk.escaping import visible
from autolmk.files.serialization import near

DEFAULT = Path("~/autolmk")
DEFAULT_PLANS_NAME = "autolmkPlans"
SOURCE_FOLDER = "trainer_source"  # in a model folder: copies of the trainers' own files
SOURCE_RECORD = "trainer_source.json"  # what they are copies of
BEST = "best"  # in results/DATASET: the packed model that autolmk_find_best_configuration writes
MEASURING = "measuring"  # in the folder of a stage or fold: its training without the cases that tell how far it errs
LONGEST_NAME = 200  # bytes of a plain name; file systems allow 255, and endings are added to it
RESERVED = re.compile(
    r"(con|prn|aux|nul|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])", re.IGNORECASE
)  # by Windows
DATASET_NAME = re.compile(r"Dataset(\d{3,})_(.+)")


def plain_name(name: str, what: str) -> str:
    """The name, where it is one of a file or folder inside the folder where it is looked for, on every system.

    ValueError, which says what it is the name of, where it is a path, leads elsewhere, or cannot be a name everywhere.
    """
    fault = None
    if not name or name in (".", ".."):
        fault = "no name"
    elif any(c in name for c in "/\\") or re.match(r"[A-Za-z]:", name) or name.startswith("~"):
        fault = "a path"
    elif any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        fault = "a name with control characters"
    elif name != name.rstrip(" .") or RESERVED.fullmatch(name.partition(".")[0].rstrip(" ")):
        fault = "a name that not all systems can hold"
    elif len(name.encode()) > LONGEST_NAME:
        fault = "a name that is too long"
    if fault is not None:
        raise ValueError(f"{what} must be a plain name, without folders, got {fault}: {visible(name[:LONGEST_NAME])!r}")
    return name


@dataclass(frozen=True)
class Folder:
    """A folder and what decided that it is this one."""

    path: Path
    source: str

    def __str__(self) -> str:
        return self.describe(self.path)

    def describe(self, place: Path) -> str:
        """A place in this folder for a message, which says what decided that the folder is this one."""
        return f"{place} ({self.source})"

    def __truediv__(self, name: str | Path) -> Path:
        return self.path / name


@dataclass(frozen=True)
class Folders:
    """The three folders of nnU-Net's layout."""

    raw: Folder
    preprocessed: Folder
    results: Folder


def folders(
    raw: Path | str | None = None,
    preprocessed: Path | str | None = None,
    results: Path | str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Folders:
    """Argument (--raw, --preprocessed, --results) before environment (autolmk_raw, ...) before ~/autolmk/{raw, ...}."""
    return Folders(
        raw=_folder("raw", raw, environ),
        preprocessed=_folder("preprocessed", preprocessed, environ),
        results=_folder("results", results, environ),
    )


def _folder(name: str, given: Path | str | None, environ: Mapping[str, str]) -> Folder:
    variable = f"autolmk_{name}"
    if given is not None:
        path, source = Path(given), f"from --{name}"
    elif environ.get(variable):
        path, source = Path(environ[variable]), f"from the environment variable {variable}"
    else:
        path, source = DEFAULT / name, f"the default; --{name} or {variable} change it"
    return Folder(path.expanduser().absolute(), source)


def dataset_name(given: str, folders: Folders) -> str:
    """The full name of the dataset that `1`, `001` or `Dataset001_Name` means, sought in all three folders.

    AutolmkError where there is none (with near names) or more than one.
    """
    places = (folders.raw, folders.preprocessed, folders.results)
    known = sorted({name for folder in places for name in _datasets(folder)})
    if given in known:
        return given
    found = [name for name in known if given.isdecimal() and _number(name) == int(given)]
    if len(found) == 1:
        return found[0]
    looked = ", ".join(map(str, places))
    if found:
        raise AutolmkError(
            f"the number {given} belongs to more than one dataset",
            found=", ".join(found),
            expected="one dataset a number",
            remedy="give the full name, or rename one of the folders",
        )
    raise AutolmkError(
        f"there is no dataset {given!r}{near(given, known)}",
        found=f"{', '.join(known) or 'no dataset'} in {looked}",
        expected="a number such as 1, or a folder's name such as Dataset001_Name",
        remedy="check the name, or say with --raw, --preprocessed and --results where the datasets are",
    )


def plans_file(folders: Folders, dataset: str, plans_name: str) -> Path:
    """preprocessed/DATASET/PLANS.json. AutolmkError, with the plans that there are, where it is missing."""
    folder = folders.preprocessed / dataset
    file = folder / f"{plans_name}.json"
    if not file.is_file():
        others = ("dataset", "dataset_fingerprint", "splits_final")
        planned = sorted(p.stem for p in folder.glob("*.json") if p.stem not in others)
        raise AutolmkError(
            f"{dataset} has no plans {plans_name!r}{near(plans_name, planned)}",
            file=file,
            found=f"{', '.join(planned) or 'none'} in {folders.preprocessed}",
            remedy=f"run autolmk_plan_and_preprocess -d {dataset}, or choose other plans",
        )
    return file


def _datasets(folder: Folder) -> list[str]:
    if not folder.path.is_dir():
        return []
    return [entry.name for entry in folder.path.iterdir() if DATASET_NAME.fullmatch(entry.name) and entry.is_dir()]


def _number(name: str) -> int:
    match = DATASET_NAME.fullmatch(name)
    return int(match.group(1)) if match else -1


def model_folder(results: Path, dataset: str, trainer: str, plans_name: str, configuration: str) -> Path:
    """results/DATASET/TRAINER__PLANS__CONFIGURATION, which holds one folder a fold."""
    return results / dataset / f"{trainer}__{plans_name}__{configuration}"
