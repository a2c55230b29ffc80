"""Statistics of how a row of look-alikes lies in training cases, see `shapes.row.Row`.

Shapes: N training cases, M members of a row, P physical axes. Everything in mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.shapes.row import (
    BORDER,
    MISSING,
    VARIES,
    Row,
    expected_places,
    physical_extent,
    places_beside,
    well_inside,
)

PARENTS = 3  # at most, that a member is compared with
STRAIGHT = 45.0  # degrees by which 95 % of the displacements turn at most where displacements count
VARIES_CASES = 5.0  # cases that the usual deviation `VARIES` is worth
DIAGONAL = 0.3  # of a covariance that is shrunk to its diagonal
SCALED = 0.1  # standard deviation of the logarithm of rows' sizes, from which on a row is looked for at
SCALES = (0.05, 0.275, 0.5, 0.725, 0.95)  # these quantiles of sizes
ENOUGH = 10  # training cases that tell where in images, and beside the other landmarks, a row lies
INFLATION = 1.25  # of deviations from a mean shape that these cases made themselves
Indices = npt.NDArray[np.int_]


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """The training cases on which rows are measured. landmarks: of N training cases. geometries: of their images.
    shape: (L, P) mean shape in mm, NaN where unknown; None where there is none.
    """

    landmarks: Sequence[Landmarks]
    geometries: Sequence[Geometry]
    shape: FloatArray | None = None
    points: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        stacked = np.stack([np.where(m.present[:, None], m.points, np.nan) for m in self.landmarks])
        object.__setattr__(self, "points", stacked)


def measure_row(members: Sequence[str], training: TrainingRows) -> Row | None:
    """The row of these landmarks, as training cases show it; None where no case shows two of them.

    Members that no case shows beside another one are left out.
    """
    names = training.landmarks[0].names
    which = np.array([names.index(name) for name in members])
    apart = _distances(training.points[:, which])
    order = along(apart)
    if len(order) < 2:
        return None
    which, apart = which[order], apart[np.ix_(order, order)]
    noise = float(np.median([_side(geometry) for geometry in training.geometries]))
    parents = [_parents(apart, i) for i in range(len(order))]
    scale = _scales(training.points[:, which], parents)
    points = training.points[:, which] / scale[:, None, None]
    distances = tuple(tuple(_range(points[:, i] - points[:, p], noise) for p in ps) for i, ps in enumerate(parents))
    near = _distances(points)
    near = np.where(np.isfinite(near) & ~np.eye(len(near), dtype=bool), near, np.inf).min(axis=1)
    scales = tuple(map(float, np.quantile(scale, SCALES))) if (scale != 1).any() else ()
    row = Row(tuple(names[i] for i in which), tuple(parents), distances, tuple(map(float, near)), scales=scales)
    return _placed(row, points, scale, which, training, noise)


def _scales(points: FloatArray, parents: Sequence[Sequence[int]]) -> FloatArray:
    """(N,) how large the rows of cases (N, M, P) are beside each other, from distances to parents; all 1 where they
    differ by less than `SCALED`."""
    lengths = np.stack(
        [np.linalg.norm(points[:, i] - points[:, p], axis=1) for i, ps in enumerate(parents) for p in ps], axis=1
    )
    log = np.log(np.maximum(lengths, 1e-12))
    seen = np.isfinite(log)
    scale = np.zeros(len(points))
    for _ in range(5):  # cases and distances in turn, as not every case shows all
        usual = np.nanmedian(log - scale[:, None], axis=0)
        for c in np.flatnonzero(seen.any(axis=1)):
            scale[c] = np.median((log[c] - usual)[seen[c]])
    scale -= np.median(scale)
    differ = seen.any(axis=1).sum() >= ENOUGH and np.std(scale[seen.any(axis=1)]) > SCALED
    return np.exp(scale) if differ else np.ones(len(points))


def along(apart: FloatArray) -> list[int]:
    """Members in an order along their row: from one end, each time the one nearest to any of those before. apart:
    (M, M) mm, NaN where unknown. Members without any known distance are left out."""
    near = np.where(np.isfinite(apart), apart, np.inf)
    np.fill_diagonal(near, np.inf)
    known = np.isfinite(near).any(axis=1)
    if not known.any():
        return []
    far = np.where(np.isfinite(near), near, 0.0).sum(axis=1) / np.maximum(np.isfinite(near).sum(axis=1), 1)
    order = [int(np.where(known, far, -1.0).argmax())]
    while len(order) < known.sum():
        nearest = near[order].min(axis=0)
        nearest[order] = np.inf
        if not np.isfinite(nearest).any():
            break
        order.append(int(nearest.argmin()))
    return order


def _distances(points: FloatArray) -> FloatArray:
    """(M, M) median distances over cases (N, M, P), NaN where no case shows both."""
    apart = np.linalg.norm(points[:, :, None] - points[:, None], axis=3)
    result = np.full(apart.shape[1:], np.nan)
    for i, j in np.argwhere(np.isfinite(apart).any(axis=0)):
        result[i, j] = np.median(apart[np.isfinite(apart[:, i, j]), i, j])
    return result


def _parents(apart: FloatArray, i: int) -> tuple[int, ...]:
    """The nearest of the members before i whose distance is known."""
    known = np.flatnonzero(np.isfinite(apart[i, :i]))
    return tuple(int(p) for p in known[np.argsort(apart[i, known], kind="stable")][:PARENTS])


def _range(moves: FloatArray, noise: float) -> tuple[float, float, float, float]:
    """Of the lengths of displacements (N, P): shortest, mean, longest, standard deviation."""
    length = np.linalg.norm(moves[np.isfinite(moves).all(axis=1)], axis=1)
    mean = float(length.mean())
    variance = (((length - mean) ** 2).sum() + VARIES_CASES * (VARIES * mean) ** 2) / (len(length) + VARIES_CASES)
    return float(length.min()), mean, float(length.max()), float(np.sqrt(variance + noise**2))


def _placed(
    row: Row, points: FloatArray, scale: FloatArray, which: Indices, training: TrainingRows, noise: float
) -> Row:
    """With displacements, the place in the image and beside the other landmarks, as far as cases tell them. points:
    (N, M, P) over the scale (N,) of the row in each case."""
    stray = _stray(training.points[:, which], which, training)
    values = {**vars(row), "stray": stray}
    if _is_straight(row, points):
        offsets, middles = _offsets(points)
        covariances = tuple(
            tuple(_covariance(points[:, i] - points[:, p] - offsets[i] + offsets[p], row.distances[i][k][1], noise)
                  for k, p in enumerate(ps)) for i, ps in enumerate(row.parents)
        )  # fmt: skip
        values |= {"offsets": _rows(offsets), "covariances": covariances}
        values |= _middle(middles, scale, training, float(np.median(row.neighbour)), noise)
        values["missing"] = _missing(points * scale[:, None, None], row.neighbour, offsets, scale, which, training)
    return Row(**values)


def _is_straight(row: Row, points: FloatArray) -> bool:
    """Whether displacements from each member's nearest parent have the direction that the other cases have."""
    turned = []
    for i, parents in enumerate(row.parents):
        if parents:
            moves = points[:, i] - points[:, parents[0]]
            moves = moves[np.isfinite(moves).all(axis=1)]
            unit = moves / np.maximum(np.linalg.norm(moves, axis=1, keepdims=True), 1e-12)
            others = unit.sum(axis=0) - unit
            if len(unit) > 1:
                length = np.maximum(np.linalg.norm(others, axis=1), 1e-12)
                turned += ((unit * others).sum(axis=1) / length).tolist()
    return len(turned) > 0 and bool(np.quantile(turned, 0.05) >= math.cos(math.radians(STRAIGHT)))


def _offsets(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """((M, P) mean places from the row's middle, (N, P) the cases' middles, NaN of those without a member): the least
    squares solution for cases that do not show all members."""
    seen = np.asarray(np.isfinite(points).all(axis=2))
    count = np.maximum(seen.sum(axis=1), 1)
    values = np.where(seen[..., None], points, 0.0)
    centred = np.where(seen[..., None], values - (values.sum(axis=1) / count[:, None])[:, None], 0.0)
    weight = seen.astype(np.float64)
    normal = np.diag(weight.sum(axis=0)) - weight.T @ (weight / count[:, None])
    offsets = np.linalg.pinv(normal, rcond=1e-9) @ centred.sum(axis=0)
    offsets -= offsets.mean(axis=0)
    middles = np.where(seen[..., None], values - offsets, 0.0).sum(axis=1) / count[:, None]
    middles[~seen.any(axis=1)] = np.nan
    return offsets, middles


def _covariance(moves: FloatArray, length: float, noise: float) -> tuple[float, ...]:
    """(P * P) of displacements (N, P) from their mean, shrunk to its diagonal, and for few cases to a usual one."""
    moves = moves[np.isfinite(moves).all(axis=1)]
    p = moves.shape[1]
    found = (moves.T @ moves + VARIES_CASES * (VARIES * length) ** 2 * np.eye(p)) / (len(moves) + VARIES_CASES)
    found = (1 - DIAGONAL) * found + DIAGONAL * np.diag(np.diag(found)) + noise**2 * np.eye(p)
    return tuple(map(float, found.ravel()))


def _middle(
    middles: FloatArray, scale: FloatArray, training: TrainingRows, neighbour: float, noise: float
) -> dict[str, tuple[float, ...]]:
    """Of the row's middle from the image's centre, where enough cases tell it; middles (N, P) are over the scale (N,)
    of each row."""
    placed = middles - np.stack([geometry.centre for geometry in training.geometries]) / scale[:, None]
    placed = placed[np.isfinite(placed).all(axis=1)]
    if len(placed) < ENOUGH:
        return {}
    mean = placed.mean(axis=0)
    extent = np.mean([physical_extent(g) / size for g, size in zip(training.geometries, scale, strict=True)], axis=0)
    return {
        "middle": tuple(map(float, mean)),
        "middle_covariance": _covariance(placed - mean, neighbour, noise),
        "extent": tuple(map(float, extent)),
    }


def _stray(points: FloatArray, which: Indices, training: TrainingRows) -> float | None:
    """mm an axis, root mean square of members from where the mean shape, fitted to the other landmarks, puts them."""
    if training.shape is None:
        return None
    shape, square = training.shape, []
    others = np.asarray(np.isfinite(shape).all(axis=1))
    others[which] = False
    for case, row in zip(training.points, points, strict=True):
        expected = places_beside(shape, np.where(others[:, None], case, np.nan), which)
        distance = np.linalg.norm(row - expected, axis=1)
        if np.isfinite(distance).any():
            square.append(float(np.nanmean(distance**2)) / case.shape[1])
    return INFLATION * float(np.sqrt(np.mean(square))) if len(square) >= ENOUGH else None


def _missing(
    points: FloatArray,
    neighbour: Sequence[float],
    offsets: FloatArray,
    scale: FloatArray,
    which: Indices,
    training: TrainingRows,
) -> float:
    """Cost of a member that is missing though the image shows its place, not near its border: minus the logarithm of
    how often that is so."""
    inside = absent = 0
    for case, size, marks, geometry in zip(points, scale, training.landmarks, training.geometries, strict=True):
        if np.isfinite(case).any():
            margin = BORDER * size * np.array(neighbour)
            shown = well_inside(geometry, expected_places(case, size * offsets), margin)
            status = marks.status[which]
            inside += int((shown & (status != Status.UNKNOWN)).sum())
            absent += int((shown & (status == Status.ABSENT)).sum())
    return float(np.clip(-np.log((absent + 0.5) / (inside + 1)), *MISSING))


def _rows(values: FloatArray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in values)


def _side(geometry: Geometry) -> float:
    """mm: the geometric mean of a voxel's sides."""
    return float(np.exp(np.mean(np.log(geometry.spacing))))
