"""Import of foreign datasets: what `autolmk.annotations.formats` reads becomes a raw dataset, whole or not at all."""

from __future__ import annotations

from autolmk.importing.importer import PREVIEW, ImportResult, import_source

__all__ = ["PREVIEW", "ImportResult", "import_source"]
