"""Charts as inline SVG. Colours are classes (s0, s1, ...) that the style sheet fills, in light, dark and print.

Every series is told apart by more than its colour: dashes for lines, shapes for marks.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from matplotlib.ticker import LogLocator, MaxNLocator

from autolmk.evaluation.bootstrap import Estimate

COLOURS = 6
WIDTH, HEIGHT = 360.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 10.0, 44.0
LINE = 18.0  # of a legend
ROW = 20.0  # of `whiskers`
LETTER, BOLD = 6.5, 7.4  # width of one, roughly
LABEL = 24  # letters of a line of a row's label, which goes on below
LINE_OF_LABEL = 14.0  # its height
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 4")


@dataclass(frozen=True)
class Axis:
    """An axis of a chart. label: with its unit. logarithmic: both ends above 0."""

    label: str
    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """The place of a value on the axis, 0 to 1, cut at the ends."""
        if self.logarithmic:
            part = math.log(max(value, 1e-12) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return min(max(part, 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Round values, four or so."""
        # By hand: the report draws its SVG without matplotlib, which would be loaded for its tickers alone.
        if self.logarithmic:
            values = LogLocator(subs=(1.0, 2.0, 5.0), numticks=100).tick_values(self.low, self.high)
        else:
            values = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        return [float(v) for v in values if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9) or abs(v) < 1e-12]


def axis(label: str, values: Sequence[float], *, zero: bool = True, logarithmic: bool = False) -> Axis:
    """One that holds the values, finite ones, and 0 where `zero`; some room where they are all alike."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not logarithmic)] or [1.0]
    low, high = min(finite), max(finite)
    if logarithmic:
        return Axis(label, low / 1.15, max(high * 1.15, low * 1.5), True)
    low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    room = (high - low) * 0.05 or max(abs(high), 1.0) * 0.1
    return Axis(label, low if zero and low == 0 else low - room, high if zero and low < high == 0 else high + room)


@dataclass(frozen=True)
class Series:
    """A series of a chart. points: (x, y), in order. colour: index. name: in the legend; without one it is
    not in it.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = 0
    style: Literal["line", "dots", "both", "rule"] = "line"
    dash: int = 0


@dataclass(frozen=True)
class ChartRow:
    """A row of `whiskers`: an estimate a series, None where it has none. strong: stressed."""

    label: str
    values: tuple[Estimate | None, ...]
    strong: bool = False


def lines(series: Sequence[Series], x: Axis, y: Axis, alternative: str) -> str:
    """A chart of lines and dots. alternative: what it shows, for those who do not see it."""
    named = [s for s in series if s.name]
    columns = max(1, int((WIDTH - LEFT) // (34 + LETTER * max((len(s.name) for s in named), default=1))))
    legend = LINE * -(-len(named) // columns)
    root = _root(WIDTH, HEIGHT + legend, alternative)
    box = (LEFT, TOP + legend, WIDTH - RIGHT, HEIGHT + legend - BOTTOM)
    _frame(root, box, x, y)
    for one in series:
        places = [_place(box, x, y, point) for point in one.points if all(map(math.isfinite, point))]
        group = _add(root, "g", {"class": f"s{one.colour % COLOURS} {one.style}"})
        if one.style != "dots" and len(places) > 1:
            path = "M" + "L".join(f"{px:.1f},{py:.1f}" for px, py in places)
            _add(group, "path", {"class": "line", "d": path, "stroke-dasharray": DASHES[one.dash % len(DASHES)]})
        if one.style in ("dots", "both"):
            for px, py in places:
                _mark(group, px, py, one.dash)
    for i, one in enumerate(named):
        px, py = LEFT + i % columns * (WIDTH - LEFT) / columns, TOP + LINE * (i // columns) + 5
        group = _add(root, "g", {"class": f"s{one.colour % COLOURS} {one.style}"})
        if one.style != "dots":
            dash = DASHES[one.dash % len(DASHES)]
            _add(group, "path", {"class": "line", "d": f"M{px:.1f},{py:.1f}h22", "stroke-dasharray": dash})
        if one.style in ("dots", "both"):
            _mark(group, px + 11, py, one.dash)
        _text(root, px + 28, py + 4, one.name, "start")
    return _written(root)


def whiskers(rows: Sequence[ChartRow], names: Sequence[str], x: Axis, alternative: str) -> str:
    """Dots with the whiskers of their intervals, a row a thing. names: of the series; two or more make a legend."""
    labels = [_wrapped(row.label) for row in rows]
    left = 16 + BOLD * max((len(part) for label in labels for part in label), default=1)
    legend = LINE if len(names) > 1 else 0.0
    sides = [ROW + LINE_OF_LABEL * (len(label) - 1) for label in labels]
    height = TOP + legend + sum(sides) + BOTTOM
    root = _root(WIDTH, height, alternative)
    box = (left, TOP + legend, WIDTH - RIGHT, height - BOTTOM)
    _frame(root, box, x, None)
    bottom = box[1]
    for row, label, side in zip(rows, labels, sides, strict=True):
        middle, bottom = bottom + side / 2, bottom + side
        for j, part in enumerate(label):
            py = middle + 4 + (j - (len(label) - 1) / 2) * LINE_OF_LABEL
            _text(root, left - 8, py, part, "end", "strong" if row.strong else "")
        for k, value in enumerate(row.values):
            if value is None or value.value is None:
                continue
            py = middle + (k - (len(row.values) - 1) / 2) * 7
            group = _add(root, "g", {"class": f"s{k % COLOURS}"})
            if value.low is not None and value.high is not None:
                ends = [box[0] + x.share(v) * (box[2] - box[0]) for v in (value.low, value.high)]
                _add(group, "path", {"class": "line", "d": f"M{ends[0]:.1f},{py:.1f}H{ends[1]:.1f}"})
            _mark(group, box[0] + x.share(value.value) * (box[2] - box[0]), py, k)
    for k, name in enumerate(names if legend else ()):
        px = left + k * (WIDTH - left) / len(names)
        _mark(_add(root, "g", {"class": f"s{k % COLOURS}"}), px + 6, TOP + 5, k)
        _text(root, px + 16, TOP + 9, name, "start")
    return _written(root)


_Box = tuple[float, float, float, float]  # left, top, right, bottom


def _place(box: _Box, x: Axis, y: Axis, point: tuple[float, float]) -> tuple[float, float]:
    return box[0] + x.share(point[0]) * (box[2] - box[0]), box[3] - y.share(point[1]) * (box[3] - box[1])


def _frame(root: ElementTree.Element, box: _Box, x: Axis, y: Axis | None) -> None:
    """Grid, ticks and labels."""
    grid = _add(root, "g", {"class": "grid"})
    for value in x.ticks():
        px = box[0] + x.share(value) * (box[2] - box[0])
        _add(grid, "path", {"d": f"M{px:.1f},{box[1]:.1f}V{box[3]:.1f}"})
        _text(root, px, box[3] + 16, f"{value:g}", "middle", "tick")
    _text(root, (box[0] + box[2]) / 2, box[3] + 36, x.label, "middle")
    if y is None:
        return
    for value in y.ticks():
        py = box[3] - y.share(value) * (box[3] - box[1])
        _add(grid, "path", {"d": f"M{box[0]:.1f},{py:.1f}H{box[2]:.1f}"})
        _text(root, box[0] - 6, py + 4, f"{value:g}", "end", "tick")
    middle = (box[1] + box[3]) / 2
    label = _text(root, 13, middle, y.label, "middle")
    label.set("transform", f"rotate(-90 13 {middle:.1f})")


def _mark(parent: ElementTree.Element, x: float, y: float, shape: int) -> None:
    """Circle, square, triangle or diamond."""
    paths = (None, "m-3.5,-3.5h7v7h-7z", "m0,-4.5l4.5,8h-9z", "m0,-5l5,5l-5,5l-5,-5z")
    path = paths[shape % len(paths)]
    if path is None:
        _add(parent, "circle", {"class": "mark", "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "3.6"})
    else:
        _add(parent, "path", {"class": "mark", "d": f"M{x:.1f},{y:.1f}{path}"})


def _root(width: float, height: float, alternative: str) -> ElementTree.Element:
    size = f"0 0 {width:.0f} {height:.0f}"
    root = ElementTree.Element("svg", {"class": "chart", "viewBox": size, "role": "img", "aria-label": alternative})
    _add(root, "title").text = alternative
    return root


def _add(parent: ElementTree.Element, tag: str, attributes: dict[str, str] | None = None) -> ElementTree.Element:
    known = {key: value for key, value in (attributes or {}).items() if value}
    return ElementTree.SubElement(parent, tag, known)


def _text(
    parent: ElementTree.Element, x: float, y: float, text: str, anchor: str, kind: str = ""
) -> ElementTree.Element:
    element = _add(parent, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind})
    element.text = text
    return element


def _wrapped(label: str) -> list[str]:
    """All of a label, in lines of at most `LABEL` letters."""
    return textwrap.wrap(label, LABEL) or [""]


def _written(root: ElementTree.Element) -> str:
    return ElementTree.tostring(root, encoding="unicode")
