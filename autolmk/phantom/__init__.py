"""A phantom dataset with landmarks that are known exactly: `anatomy` says what a head holds, `phantom` draws it."""

from __future__ import annotations

from autolmk.phantom.phantom import SPACING, make_phantom, write_phantom

__all__ = ["SPACING", "make_phantom", "write_phantom"]
