"""Codes for points that are not there, found in the numbers as the file has them: a turned axis would hide them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autolmk.annotations.formats.imported import Options, undecided
from autolmk.geometry import FloatArray

FAR = 90.0  # from which a number below 0 that stands in all coordinates is taken for a code


def without_codes(points: FloatArray, names: Sequence[str], key: str, file: Path, options: Options) -> FloatArray:
    """Points (n, 2 or 3) as the file has them, NaN where all coordinates are a code of --missing.

    AutolmkError where none is given, and a point is probably one: -1 or a number such as -9999 in all coordinates, or
    several points of a case at 0.
    """
    points = np.array(points, dtype=np.float64)
    if not len(points):
        return points
    flat = points if np.any(np.nan_to_num(points[:, 2:]) != 0) else points[:, :2]  # a column of zeros says nothing
    value = flat[:, 0]
    same = np.asarray((flat == value[:, None]).all(axis=1))
    if options.missing is not None:
        points[same & np.isin(value, options.missing)] = np.nan
        return points
    zero = same & (value == 0)
    coded = same & ((value == -1) | (value <= -FAR) | (zero & (np.count_nonzero(zero) > 1)))
    if not coded.any():
        return points
    i = int(np.flatnonzero(coded)[0])
    where = f"point {names[i]!r} of {key}, {flat[i].tolist()}"
    choices = {f"{value[i]:g}": f"{where}, has no position", "none": f"{where}, is a place"}
    raise undecided("points hold what is probably a code for missing ones", file, "--missing", choices)
