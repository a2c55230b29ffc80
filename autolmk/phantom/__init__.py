"""A phantom dataset with landmarks that are known exactly: `anatomy` says what a head holds, `phantom` draws it, `rows`
draws columns of look-alikes."""

from __future__ import annotations

from autolmk.phantom.phantom import SPACING, make_phantom, write_phantom
from autolmk.phantom.rows import make_row_phantom, write_row_phantom

__all__ = ["SPACING", "make_phantom", "make_row_phantom", "write_phantom", "write_row_phantom"]
