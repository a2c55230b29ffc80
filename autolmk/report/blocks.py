"""The parts of a report: sections of blocks, which the template turns into HTML. It escapes all texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph. missing: it says what is not there, and how to get it."""

    kind: ClassVar[str] = "text"
    text: str
    missing: bool = False


@dataclass(frozen=True)
class Facts:
    """A list of names and values."""

    kind: ClassVar[str] = "facts"
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TableBlock:
    """A table. align: a letter a column, l or r. strong: indices of rows to stress."""

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.head) for row in (*self.rows, self.align)):
            raise ValueError(f"the table {self.caption!r} needs {len(self.head)} cells in every row")


@dataclass(frozen=True)
class Figure:
    """A figure. svg: well-formed, as `charts` and `pictures` make it, with its alternative text. wide: takes the whole
    width.
    """

    kind: ClassVar[str] = "figure"
    caption: str
    svg: str
    wide: bool = False


@dataclass(frozen=True)
class Gallery:
    """Figures side by side, as many as there is room for."""

    kind: ClassVar[str] = "gallery"
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Fold:
    """Blocks that a reader may hide, or is hidden at first; in print they are always shown."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: tuple[Block, ...]
    hidden: bool = False


Block = Text | Facts | TableBlock | Figure | Gallery | Fold


@dataclass(frozen=True)
class Section:
    """A section of the report. anchor: for links to it."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


def section(anchor: str, title: str, blocks: Sequence[Block]) -> Section:
    """Make a section with the blocks in order."""
    return Section(anchor, title, tuple(blocks))
