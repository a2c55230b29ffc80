"""Predicted points as the module shows them, and as it writes them for training. Coordinates are LPS, in mm."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

Position = tuple[float, float, float]

GROUPS = ("sure", "less sure", "unsure")
COLOURS = {"sure": (0.2, 0.75, 0.3), "less sure": (0.95, 0.75, 0.1), "unsure": (0.9, 0.2, 0.15)}
LIKELY, POSSIBLE = 0.9, 0.5  # likelihoods, where there is no error radius
ABSENT, PRESENT, UNKNOWN = "missing", "defined", "undefined"  # Slicer's positionStatus


@dataclass(frozen=True)
class Point:
    """A landmark: its place in LPS, None where it was not found, and what the model says of it; NaN where nothing."""

    name: str
    position: Position | None
    status: str
    likelihood: float = math.nan
    error_radius: float = math.nan
    flags: str = ""

    def description(self) -> str:
        """For the control point's description."""
        said = [] if math.isnan(self.likelihood) else [f"likelihood {self.likelihood:.2f}"]
        said += [] if math.isnan(self.error_radius) else [f"error radius {self.error_radius:.1f} mm"]
        return ", ".join([*said, *([self.flags] if self.flags else [])])

    def group(self, sure_up_to: float, unsure_from: float) -> str:
        """How sure the model is: by the error radius in mm, where it has none by the likelihood; never sure where it is
        flagged."""
        if not math.isnan(self.error_radius):
            rank = 0 if self.error_radius <= sure_up_to else 2 if self.error_radius >= unsure_from else 1
        else:
            rank = 0 if self.likelihood >= LIKELY else 1 if self.likelihood >= POSSIBLE else 2
        return GROUPS[max(rank, 1 if self.flags else 0)]


def read_points(points_file: Path, table: Path | None, case: str) -> list[Point]:
    """Points of CASE.mrk.json, with the flags of landmarks.csv. ValueError where it holds no point list in LPS."""
    markup = json.loads(Path(points_file).read_text(encoding="utf-8"))["markups"][0]
    if markup.get("type") != "Fiducial" or markup.get("coordinateSystem") != "LPS":
        raise ValueError(f"{points_file}: no point list in LPS")
    measured = {m["name"]: m["controlPointValues"] for m in markup.get("measurements", [])}
    flags = {} if table is None else _flags(Path(table), case)
    result = []
    for i, control in enumerate(markup["controlPoints"]):
        place, status = control["position"], control["positionStatus"]
        found = status == PRESENT and not isinstance(place, str)
        values = [_known(measured.get(name), i) for name in ("likelihood", "error_radius")]
        position = (float(place[0]), float(place[1]), float(place[2])) if found else None
        result.append(Point(control["label"], position, status, *values, flags=flags.get(control["label"], "")))
    return result


def _known(values: Sequence[float] | None, i: int) -> float:
    """A measurement's value; -1 stands for none."""
    return math.nan if values is None or values[i] < 0 else float(values[i])


def _flags(table: Path, case: str) -> dict[str, str]:
    with table.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["case"] == case]
    return {row["landmark"]: "; ".join(t for t in (row.get("flags"), row.get("outside")) if t) for row in rows}


def markups(points: Iterable[Point]) -> dict[str, object]:
    """The content of a .mrk.json file with these points, as autolmk reads it for training."""
    controls = [
        {
            "id": str(i + 1),
            "label": point.name,
            "description": "",
            "position": "" if point.position is None else list(point.position),
            "positionStatus": point.status if point.position is None else PRESENT,
        }
        for i, point in enumerate(points)
    ]
    listed = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": controls}
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    return {"@schema": schema + "markups-schema-v1.0.3.json#", "markups": [listed]}


def flipped(position: Sequence[float]) -> Position:
    """RAS to LPS, and back."""
    return (-float(position[0]), -float(position[1]), float(position[2]))
