"""The ways in and out: what `autolmk.annotations.formats` reads becomes a raw dataset, and points of a dataset or of
predictions become what it writes; whole or not at all."""

from __future__ import annotations

from autolmk.importing.conversion import Conversion, Places, convert, of_dataset, of_predictions
from autolmk.importing.importer import PREVIEW, ImportResult, import_source

__all__ = [
    "PREVIEW",
    "Conversion",
    "Places",
    "ImportResult",
    "convert",
    "import_source",
    "of_dataset",
    "of_predictions",
]
