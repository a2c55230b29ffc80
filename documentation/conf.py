"""Sphinx configuration of the documentation's site: `make docs`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "autolmk"
copyright = "the autolmk developers"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "autolmk"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # pages link to each other's headings
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "separated"
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository, which the site does not hold


def as_markdown(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: stars are no emphasis, and backquotes mean code."""
    for i, line in enumerate(lines):
        lines[i] = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line).replace("*", r"\*")


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", as_markdown)
