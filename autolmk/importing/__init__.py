"""Import of foreign datasets: what `autolmk.annotations.formats` reads becomes a raw dataset, whole or not at all."""

from __future__ import annotations

from autolmk.importing.run import PREVIEW, Result, import_source

__all__ = ["PREVIEW", "Result", "import_source"]
