"""Rules for what a first look must see to tell landmarks apart: how far they extend, whether they stand in an even row,
and how far a configuration's network sees. As `rules`: from what the fingerprint says to a number and its reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autolmk.geometry import FloatArray
from autolmk.networks.receptive_field import cells_field, unet_field
from autolmk.planning.rules import ANY_POSE, Because
from autolmk.plans import Configuration

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

ROW_LEAST = 5  # landmarks that make an even row; four are so by chance among a dozen
ROW_UNEVEN = 0.3  # of a step, by which the next one may differ from it
ROW_NEIGHBOURS = 6  # nearest landmarks, from each of which a row may begin
SEES_ROW = 2.0  # times the landmarks' extent that a field must be, so that each landmark sees all the others


def receptive_field(configuration: Configuration) -> tuple[float, ...]:
    """The receptive field, (D,) mm that the network sees around a point; infinite where it answers for the window as a
    whole, as `coordinates` does. Windows that hold a part of the image bound it.
    """
    c = configuration
    if c.trainer == "coordinates":
        voxels: tuple[float, ...] = (math.inf,) * len(c.spacing)
    elif c.architecture.n_conv_per_stage_decoder or c.windows.kind == "landmark":
        voxels = unet_field(c.architecture)
    else:
        voxels = cells_field(c.architecture)
    if c.windows.kind != "whole":
        voxels = tuple(min(pair) for pair in zip(voxels, c.patch_size, strict=True))
    return tuple(v * s for v, s in zip(voxels, c.spacing, strict=True))


def landmarks_extent(fingerprint: Fingerprint) -> tuple[float, ...]:
    """The extent of the landmarks, (D,) mm that the mean shape spans along each array axis of the images; its diameter
    along all of them where poses differ by 45 degrees and more, or where it is not known how it lies.
    """
    shape = _mean_shape(fingerprint)
    if len(shape) < 2:
        return (0.0,) * fingerprint.ndim
    known = len(fingerprint.mean_rotation) == fingerprint.ndim == fingerprint.physical_ndim
    if not known or fingerprint.pose.rotation_max >= ANY_POSE:
        longest = float(np.linalg.norm(shape[:, None] - shape[None], axis=2).max())
        return (longest,) * fingerprint.ndim
    lying = shape @ np.asarray(fingerprint.mean_rotation, dtype=np.float64).T
    return tuple(float(span) for span in np.ptp(lying, axis=0)[::-1])


def seen_of_extent(fingerprint: Fingerprint, configuration: Configuration) -> Because[float]:
    """Receptive field over the landmarks' extent, along the axis where it is least; infinite for one landmark."""
    field, extent = receptive_field(configuration), landmarks_extent(fingerprint)
    share = min((f / e if e > 0 else math.inf for f, e in zip(field, extent, strict=True)), default=math.inf)
    unit = fingerprint.unit
    sees = "the whole window" if math.isinf(max(field)) else f"{_sides(field)} {unit} around a point"
    if math.isinf(share):
        return share, f"sees {sees}"
    row = even_row(fingerprint)
    told = (
        f"; each landmark of an even row ({row[0]} to {row[-1]}, {len(row)} landmarks) sees all the others "
        f"from {SEES_ROW:g} times on"
        if row
        else ""
    )
    return share, f"sees {sees}, {share:.2g} times the landmarks' extent of {_sides(extent)} {unit}{told}"


def even_row(fingerprint: Fingerprint) -> tuple[str, ...]:
    """Names of the longest even row of landmarks, in order; () where none has 5. Vertebrae, teeth and ribs are such
    rows: their neighbours look alike, and nothing but the rest of the row tells which is which."""
    names = [n for n, point in fingerprint.mean_shape.items() if np.isfinite(point).all()]
    row = longest_row(_mean_shape(fingerprint))
    return tuple(names[i] for i in row) if len(row) >= ROW_LEAST else ()


def longest_row(points: FloatArray) -> tuple[int, ...]:
    """Indices of the longest chain of points (N, P) in which each step is as the one before it, within ROW_UNEVEN of
    its length, so that rows may bend. Of two directions, the one that begins with the lower index."""
    if len(points) < 3:
        return ()
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    best: tuple[int, ...] = ()
    for start in range(len(points)):
        for second in np.argsort(apart[start], kind="stable")[1 : 1 + ROW_NEIGHBOURS]:
            row = _continued(points, [start, int(second)])
            if len(row) > len(best) or (len(row) == len(best) and row[0] < best[0]):
                best = row
    return best if best[0] <= best[-1] else best[::-1]


def _continued(points: FloatArray, row: list[int]) -> tuple[int, ...]:
    while True:
        step = points[row[-1]] - points[row[-2]]
        off = np.linalg.norm(points - (points[row[-1]] + step), axis=1)
        off[row] = math.inf
        nearest = int(np.argmin(off))
        if not off[nearest] <= ROW_UNEVEN * float(np.linalg.norm(step)):
            return tuple(row)
        row.append(nearest)


def _mean_shape(fingerprint: Fingerprint) -> FloatArray:
    known = [point for point in fingerprint.mean_shape.values() if np.isfinite(point).all()]
    return np.array(known, dtype=np.float64).reshape(-1, fingerprint.physical_ndim)


def _sides(lengths: Sequence[float]) -> str:
    return "x".join(f"{length:.3g}" for length in lengths)
