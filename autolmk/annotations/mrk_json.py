"""The markups JSON of 3D Slicer (.mrk.json), schema 1.0.x.

Slicer's positionStatus maps to `Status`: defined is present, missing is absent, undefined and preview are unknown.
Slicer writes `"position": ""`, a text, for points that are not defined. A file that names no frame is in LPS.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from autolmk.annotations.annotation import Annotation, Frame, NamesFrom, name_of, remark_on_names
from autolmk.errors import AutolmkError, counted
from autolmk.files.serialization import near, read_json, write_json
from autolmk.geometry import FloatArray
from autolmk.imageio import notice
from autolmk.landmarks import Landmarks, Status

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/"
    "Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
)
STATUS = {
    "defined": Status.PRESENT,
    "missing": Status.ABSENT,
    "undefined": Status.UNKNOWN,
    "preview": Status.UNKNOWN,
}
STATUS_NAME = {Status.PRESENT: "defined", Status.ABSENT: "missing", Status.UNKNOWN: "undefined"}
UNITS = ("mm", "um", "cm", "m", "nm", "dm", "km", "inch", "in", "ft", "pixel", "px")  # that are known by name
SNIFFED = 1 << 16  # bytes in which a markups file shows what it is
NOT_KNOWN = -1.0  # in a measurement: JSON has no NaN, and Slicer reads only numbers there


def is_markups(file: Path) -> bool:
    """Whether a file begins as a markups file of 3D Slicer does, whatever its name."""
    try:
        with file.open("rb") as stream:
            start = stream.read(SNIFFED)
    except OSError:
        return False
    return b'"markups"' in start or b"markups-schema" in start


def read(file: Path, *, label: NamesFrom = "label") -> Annotation:
    """All control points of all point lists in the file, which must agree on the frame. AutolmkError on other content.

    Control points of other markups, such as a box or a curve, are no landmarks: they are left aside, which is noticed.
    """
    content = read_json(file, nan=True)
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list) or not all(isinstance(m, dict) for m in markups):
        raise AutolmkError(
            "this is not a markups file of 3D Slicer",
            file=file,
            found="no list 'markups'",
            expected='{"markups": [{"controlPoints": [...]}]}',
            remedy="save the points in 3D Slicer as .mrk.json",
        )
    markups = _point_lists(markups, file)
    frames = {_frame(markup, file) for markup in markups}
    if len(frames) > 1:
        raise AutolmkError(
            "the markups of one file are in different frames",
            file=file,
            found=" and ".join(sorted(frames)),
            expected="one coordinateSystem",
            remedy="save each markup in a file of its own, or all in LPS",
        )
    names: list[str] = []
    units: list[str | None] = []
    points: list[list[float]] = []
    status: list[Status] = []
    measured: dict[str, list[float]] = {"likelihood": [], "error_radius": []}
    for markup in markups:
        units.append(_unit(markup, file))
        controls = markup.get("controlPoints", [])
        if not isinstance(controls, list):
            raise _wrong(file, "controlPoints", controls, "a list [...]")
        for i, control in enumerate(controls):
            name, position, state = _control_point(control, f"control point {i + 1}", len(names) + 1, label, file)
            names.append(name)
            points.append(position)
            status.append(state)
        for key, values in measured.items():
            values.extend(_measurement(markup, key, len(controls), file))
    controls = [control for markup in markups for control in markup.get("controlPoints", [])]
    remark_on_names(file, [(str(c.get("label", "")), str(c.get("description", ""))) for c in controls], label)
    return Annotation(
        tuple(names),
        np.array(points, dtype=np.float64).reshape(-1, 3),
        np.array(status, dtype=np.int8),
        next(iter(frames), "LPS"),
        unit=next((unit for unit in units if unit), None),
        likelihood=np.array(measured["likelihood"]),
        error_radius=np.array(measured["error_radius"]),
    )


def write(file: Path, landmarks: Landmarks, *, unit: str = "mm") -> None:
    """Write a point list in LPS; likelihood and error radius, where known, as measurements with a value a point.

    2D points get z = 0. A value of -1 in a measurement means that it is not known.
    """
    controls = [
        _to_control_point(i, name, point, Status(status), likelihood, radius, unit)
        for i, (name, point, status, likelihood, radius) in enumerate(
            zip(
                landmarks.names,
                landmarks.points,
                landmarks.status,
                landmarks.likelihood,
                landmarks.error_radius,
                strict=True,
            )
        )
    ]
    measurements = [
        _to_measurement("likelihood", landmarks.likelihood, ""),
        _to_measurement("error_radius", landmarks.error_radius, unit),
    ]
    markup: dict[str, Any] = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": True,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(controls),
        "controlPoints": controls,
        "measurements": [m for m in measurements if m is not None],
    }
    write_json(file, {"@schema": SCHEMA, "markups": [markup]})


def _frame(markup: dict[str, Any], file: Path) -> Frame:
    frame = markup.get("coordinateSystem", "LPS")
    if frame in ("LPS", "RAS"):
        return "LPS" if frame == "LPS" else "RAS"
    if isinstance(frame, (int, str)) and str(frame) in ("0", "1"):  # Slicer's codes, as in old .fcsv files
        return "LPS" if str(frame) == "1" else "RAS"
    raise _wrong(file, "coordinateSystem", frame, "'LPS' or 'RAS'")


def _point_lists(markups: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Those of type Fiducial."""
    kinds = [str(markup.get("type", "Fiducial")) for markup in markups]
    others = sorted({kind for kind in kinds if kind.lower() != "fiducial"})
    lists = [markup for markup, kind in zip(markups, kinds, strict=True) if kind.lower() == "fiducial"]
    if others and not lists:
        raise AutolmkError(
            "a markups file holds no point list",
            file=file,
            found=f"markups of type {', '.join(others)}",
            expected="type Fiducial: control points of a box, a line or a curve are no landmarks",
            remedy="place the landmarks as a point list in 3D Slicer, or correct the type if they are one",
        )
    if others:
        remedy = "nothing, if they are no landmarks: only point lists are read"
        notice("a markups file holds more than point lists", file, found=f"type {', '.join(others)}", remedy=remedy)
    return lists


def _unit(markup: dict[str, Any], file: Path) -> str | None:
    """What coordinateUnits names, where that is not mm: what Slicer displays; positions are in mm all the same."""
    unit = markup.get("coordinateUnits", "mm")
    code = unit[0] if isinstance(unit, list) and unit else unit  # either "mm" or a DICOM code, ["mm", "UCUM", ...]
    plain = code.strip().replace("\u00b5", "u").replace("\u03bc", "u") if isinstance(code, str) else ""
    if plain.lower() not in UNITS:
        raise _wrong(file, "coordinateUnits", unit, f"one of {', '.join(UNITS)}")
    return None if plain.lower() == "mm" else plain


def _control_point(
    control: Any, where: str, place: int, label: NamesFrom, file: Path
) -> tuple[str, list[float], Status]:
    if not isinstance(control, dict):
        raise _wrong(file, where, control, "an object {...}")
    texts = {key: value if isinstance(value := control.get(key, ""), str) else "" for key in ("label", "description")}
    name = name_of(texts["label"], texts["description"], place, label)
    if not name:
        raise AutolmkError(
            f"{where} has no name",
            file=file,
            found=", ".join(f"{key} {text[:60]!r}" for key, text in texts.items()),
            expected=f"the landmark's name as its {label}",
            remedy="name the point in 3D Slicer, or choose with names_from in dataset.json where the names are",
        )
    position = control.get("position", "")
    located = isinstance(position, list)
    state = control.get("positionStatus", "defined" if located else "undefined")
    if state not in STATUS:
        raise _wrong(
            file, f"positionStatus of {name!r}", state, f"one of {', '.join(STATUS)}{near(str(state), STATUS)}"
        )
    if not located:
        if position not in ("", None) or STATUS[state] == Status.PRESENT:
            raise _wrong(file, f"position of {name!r}", position, "three numbers [x, y, z]")
        return name, [math.nan] * 3, STATUS[state]
    if len(position) != 3 or not all(_is_number(x) for x in position):
        raise _wrong(file, f"position of {name!r}", position, "three numbers [x, y, z]")
    return name, [float(x) for x in position], STATUS[state]


def _measurement(markup: dict[str, Any], name: str, n: int, file: Path) -> list[float]:
    measurements = markup.get("measurements", [])
    for measurement in measurements if isinstance(measurements, list) else []:
        if not isinstance(measurement, dict) or measurement.get("name") != name:
            continue
        values = measurement.get("controlPointValues")
        if not isinstance(values, list) or len(values) != n or not all(_is_number(v) for v in values):
            raise _wrong(file, f"controlPointValues of the measurement {name!r}", values, counted(n, "number"))
        return [math.nan if v == NOT_KNOWN else float(v) for v in values]
    return [math.nan] * n


def _to_control_point(
    i: int, name: str, point: FloatArray, status: Status, likelihood: float, radius: float, unit: str
) -> dict[str, Any]:
    known = [f"likelihood {likelihood:.3f}"] if math.isfinite(likelihood) else []
    known += [f"error radius {radius:.2f} {unit}"] if math.isfinite(radius) else []
    present = status == Status.PRESENT
    return {
        "id": str(i + 1),
        "label": name,
        "description": ", ".join(known),
        "associatedNodeID": "",
        "position": [*map(float, point), 0.0][:3] if present else "",
        "orientation": [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0],
        "selected": present,
        "locked": False,
        "visibility": True,
        "positionStatus": STATUS_NAME[status],
    }


def _to_measurement(name: str, values: FloatArray, unit: str) -> dict[str, Any] | None:
    if not np.isfinite(values).any():
        return None
    numbers = [float(v) if math.isfinite(v) else NOT_KNOWN for v in values]
    return {"name": name, "enabled": True, "units": unit, "controlPointValues": numbers}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 10**300


def _wrong(file: Path, where: str, found: Any, expected: str) -> AutolmkError:
    return AutolmkError(
        f"wrong {where}",
        file=file,
        found=re.sub(r"\s+", " ", repr(found))[:200],
        expected=expected,
        remedy="mend the file, or save it again from 3D Slicer",
    )
