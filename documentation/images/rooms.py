"""Draws the import graph of the rooms, `documentation/images/rooms.svg`: `python documentation/images/rooms.py`.

Rows are the layers of the contract in pyproject.toml, top first. An arrow says that a room imports another one; arrows
that follow from others (a room below is reached through a third) are left out, so that the picture can be read.
"""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "documentation" / "images" / "rooms.svg"
WIDTH, ROW, BOX, HEIGHT = 1000, 66, 112, 30
ASIDE = (0, 60, -60, 100, -100)  # of one row after the other, so that arrows pass beside boxes


def layers() -> list[list[str]]:
    """The rooms, top first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = project["tool"]["importlinter"]["contracts"][0]["layers"]
    return [line.split(" | ") for line in lines]


def imports() -> dict[str, set[str]]:
    """Room -> rooms that it imports, types included."""
    graph = grimp.build_graph("autolmk", cache_dir=None)
    found: dict[str, set[str]] = {room: set() for line in layers() for room in line}
    for module in graph.modules - {"autolmk"}:
        room = module.split(".")[1]
        others = graph.find_modules_directly_imported_by(module) - {"autolmk"}
        if room in found:
            found[room] |= {other.split(".")[1] for other in others} & set(found) - {room}
    return found


def reduced(known: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that follow from others."""

    def below(room: str) -> set[str]:
        return known[room].union(*map(below, known[room]))

    return {room: others - set().union(*map(below, others)) for room, others in known.items()}


def drawing(lines: list[list[str]], arrows: dict[str, set[str]]) -> str:
    """The picture, as SVG."""
    place = {
        room: (WIDTH * (i + 1) / (len(line) + 1) + ASIDE[row % len(ASIDE)], 10 + ROW * row)
        for row, line in enumerate(lines)
        for i, room in enumerate(line)
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {ROW * len(lines)}" font-family="sans-serif">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#789"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{ROW * len(lines)}" fill="#fff"/>',
    ]
    for room, others in arrows.items():
        x, y = place[room]
        for other in sorted(others):
            u, v = place[other]
            bend = (v - y - HEIGHT) / 2
            parts.append(
                f'<path d="M{x:.0f} {y + HEIGHT}C{x:.0f} {y + HEIGHT + bend:.0f} {u:.0f} {v - bend:.0f} {u:.0f} {v}" '
                'fill="none" stroke="#789" marker-end="url(#head)"/>'
            )
    for room, (x, y) in place.items():
        parts.append(
            f'<rect x="{x - BOX / 2:.0f}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="4" fill="#eef3f8" stroke="#456"/>'
            f'<text x="{x:.0f}" y="{y + 20}" font-size="13" text-anchor="middle">{escape(room)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    FILE.write_text(drawing(layers(), reduced(imports())))
