"""Rows of look-alikes: which landmarks are mistaken for each other, and how they lie side by side in training cases.

Vertebrae, ribs, teeth and fingers look alike one by one; only the whole row tells which one is which. What a row needs
to be told apart is measured when training ends: the members from held-out cases, how they lie from training cases.

Each member is compared with its parents, the nearest members that come before it. Where training rows keep their
direction (`Row.straight`) displacements count, else distances alone: those to two or three parents forbid folding back.

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
from autolmk.shape import fit_similarity

PARENTS = 3  # at most, that a member is compared with
STRAIGHT = 45.0  # degrees by which 95 % of the displacements turn at most where displacements count
VARIES = 0.15  # of a distance: standard deviation before any case is seen,
VARIES_CASES = 5.0  # worth so many cases
DIAGONAL = 0.3  # of a covariance that is shrunk to its diagonal
ENOUGH = 10  # training cases that tell where in images, and beside the other landmarks, a row lies
INFLATION = 1.25  # of deviations from a mean shape that these cases made themselves
MISSING = (1.0, 6.0)  # cost of a member that is missing though the image shows its place: least, most
SAME_PLACE = 0.3  # of the distance to the neighbour, within which two candidates are one place
BORDER = 0.5  # of the distance to the neighbour: what lies nearer to the image's end may as well be outside
USUAL_TEMPERATURE, USUAL_LEVEL = 4.0, -2.0  # without held-out cases


@dataclass(frozen=True)
class Row:
    """Landmarks that look alike, in an order along the row, and how they lie in training cases.

    names: M. parents: of each member, the places in `names` of up to 3 nearest earlier members. distances: to each
    parent, mm: shortest, mean, longest, standard deviation. neighbour: (M) mm, mean distance to the nearest member.
    offsets: (M, P) mm, mean place from the row's middle, and covariances: to each parent, (P * P) mm^2; both empty
    where the row turns from case to case. middle, middle_covariance: (P) mm from the image's centre and (P * P) mm^2,
    extent: (P) mm of these images; empty where few cases tell them. stray: mm an axis from where a fit of the mean
    shape to the other landmarks expects members; None where nothing tells it. missing: cost of a member that is missing
    inside the image. ValueError where lengths disagree.
    """

    names: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    distances: tuple[tuple[tuple[float, float, float, float], ...], ...]
    neighbour: tuple[float, ...]
    offsets: tuple[tuple[float, ...], ...] = ()
    covariances: tuple[tuple[tuple[float, ...], ...], ...] = ()
    middle: tuple[float, ...] = ()
    extent: tuple[float, ...] = ()
    middle_covariance: tuple[float, ...] = ()
    stray: float | None = None
    missing: float = MISSING[1]

    def __post_init__(self) -> None:
        n = len(self.names)
        if n < 2 or any(len(part) != n for part in (self.parents, self.distances, self.neighbour)):
            raise ValueError("a row needs two members or more, with parents, distances and a neighbour each")
        if any(not 0 <= p < i for i, each in enumerate(self.parents) for p in each):
            raise ValueError("parents must be earlier members")
        if self.straight and any(len(part) != n for part in (self.offsets, self.covariances)):
            raise ValueError("offsets and covariances must be of every member, or of none")
        rows = (self.distances, self.covariances) if self.straight else (self.distances,)
        if any(len(part[i]) != len(self.parents[i]) for part in rows for i in range(n)):
            raise ValueError("each parent needs distances, and a covariance where the row is straight")

    @property
    def straight(self) -> bool:
        """Whether the row keeps its direction in the images, so that displacements tell more than distances."""
        return len(self.offsets) > 0

    @property
    def same_place(self) -> FloatArray:
        """(M,) mm within which candidates of members are one place."""
        return SAME_PLACE * np.array(self.neighbour)


@dataclass(frozen=True)
class Rows:
    """The rows of a model's landmarks. temperature: that log-odds are divided by; level: log-odds at which a member is
    as well missing. cases: held-out ones that this was measured on. right: chosen members among them that were right;
    expected: the sum of their probabilities. used: whether rows are chosen as a whole; why."""

    rows: tuple[Row, ...] = ()
    temperature: float = USUAL_TEMPERATURE
    level: float = USUAL_LEVEL
    cases: int = 0
    right: float = 0.0
    expected: float = 0.0
    used: bool = True
    why: str = ""

    def __post_init__(self) -> None:
        names = [name for row in self.rows for name in row.names]
        if len(set(names)) < len(names):
            raise ValueError("a landmark belongs to one row")
        if self.temperature <= 0 or min(self.right, self.expected, self.cases) < 0:
            raise ValueError("temperature must be above 0, and numbers 0 or more")

    @property
    def trust(self) -> float:
        """Factor on probabilities: right choices over those expected on held-out cases, half a case of each added, so
        that nothing is surer than these cases can tell."""
        return min(self.right + 0.5, self.expected + 0.5) / (self.expected + 1.0)

    @classmethod
    def pooled(cls, folds: Sequence[Rows]) -> Rows:
        """Of several folds, whose scores are averaged: the longest rows of any that share no member; means of the
        temperatures' logarithms and of levels; counts added; used where folds with most held-out cases use them."""
        if not folds:
            return cls()
        rows: list[Row] = []
        for row in sorted((row for fold in folds if fold.used for row in fold.rows), key=lambda row: -len(row.names)):
            if not {name for one in rows for name in one.names} & set(row.names):
                rows.append(row)
        known = [fold for fold in folds if fold.rows] or list(folds)
        cases, using = sum(f.cases for f in known), sum(f.cases for f in known if f.used)
        return cls(
            tuple(rows),
            float(np.exp(np.mean([np.log(f.temperature) for f in known]))),
            float(np.mean([f.level for f in known])),
            cases,
            sum(f.right for f in known),
            sum(f.expected for f in known),
            2 * using > cases or all(f.used for f in known),
            f"folds with {using} of {cases} held-out cases found it no worse",
        )


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """What rows are measured on. landmarks: of N training cases. geometries: of their images. shape: (L, P) mean shape
    in mm, NaN where unknown; None where there is none."""

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
    points = training.points[:, which]
    noise = float(np.median([_side(geometry) for geometry in training.geometries]))
    parents = [_parents(apart, i) for i in range(len(order))]
    distances = tuple(tuple(_range(points[:, i] - points[:, p], noise) for p in ps) for i, ps in enumerate(parents))
    near = np.where(np.isfinite(apart), apart, np.inf)
    np.fill_diagonal(near, np.inf)
    row = Row(tuple(names[i] for i in which), tuple(parents), distances, tuple(map(float, near.min(axis=1))))
    return _placed(row, points, which, training, noise)


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


def expected_places(points: FloatArray, offsets: FloatArray) -> FloatArray:
    """(M, P) where each member would be beside the nearest one that has a place in points (M, P), NaN for none; the
    ones that have a place where that is. All NaN without any."""
    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    if not len(known):
        return np.full_like(points, np.nan)
    apart = np.linalg.norm(offsets[:, None] - offsets[known], axis=2)
    nearest = known[apart.argmin(axis=1)]
    return np.asarray(points[nearest] + offsets - offsets[nearest])


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


def _placed(row: Row, points: FloatArray, which: FloatArray, training: TrainingRows, noise: float) -> Row:
    """With displacements, the place in the image and beside the other landmarks, as far as cases tell them."""
    stray = _stray(points, which, training)
    values = {**vars(row), "stray": stray}
    if _is_straight(row, points):
        offsets, middles = _offsets(points)
        covariances = tuple(
            tuple(_covariance(points[:, i] - points[:, p] - offsets[i] + offsets[p], row.distances[i][k][1], noise)
                  for k, p in enumerate(ps)) for i, ps in enumerate(row.parents)
        )  # fmt: skip
        values |= {"offsets": _rows(offsets), "covariances": covariances}
        values |= _middle(middles, training, float(np.median(row.neighbour)), noise)
        values["missing"] = _missing(points, np.array(row.neighbour), offsets, which, training)
    return Row(**values)


def _is_straight(row: Row, points: FloatArray) -> bool:
    """Whether displacements from each member's nearest parent keep their direction."""
    turned = []
    for i, parents in enumerate(row.parents):
        if parents:
            moves = points[:, i] - points[:, parents[0]]
            moves = moves[np.isfinite(moves).all(axis=1)]
            unit = moves / np.maximum(np.linalg.norm(moves, axis=1, keepdims=True), 1e-12)
            mean = unit.mean(axis=0)
            turned += (unit @ mean / max(float(np.linalg.norm(mean)), 1e-12)).tolist()
    return bool(np.quantile(turned, 0.05) >= math.cos(math.radians(STRAIGHT)))


def _offsets(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """((M, P) mean places from the row's middle, (N, P) the cases' middles, NaN of those without a member): the least
    squares solution for cases that do not show all members."""
    seen = np.isfinite(points).all(axis=2)
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
    middles: FloatArray, training: TrainingRows, neighbour: float, noise: float
) -> dict[str, tuple[float, ...]]:
    """Of the row's middle from the image's centre, where enough cases tell it."""
    placed = middles - np.stack([geometry.centre for geometry in training.geometries])
    placed = placed[np.isfinite(placed).all(axis=1)]
    if len(placed) < ENOUGH:
        return {}
    mean = placed.mean(axis=0)
    extent = np.mean([physical_extent(geometry) for geometry in training.geometries], axis=0)
    return {
        "middle": tuple(map(float, mean)),
        "middle_covariance": _covariance(placed - mean, neighbour, noise),
        "extent": tuple(map(float, extent)),
    }


def physical_extent(geometry: Geometry) -> FloatArray:
    """(P,) mm of the image along the physical axes."""
    return np.asarray(np.abs(geometry.direction) @ np.array(geometry.extent))


def _stray(points: FloatArray, which: FloatArray, training: TrainingRows) -> float | None:
    """mm an axis, root mean square of members from where the mean shape, fitted to the other landmarks, puts them."""
    if training.shape is None:
        return None
    shape, square = training.shape, []
    others = np.isfinite(shape).all(axis=1)
    others[which] = False
    for case, row in zip(training.points, points, strict=True):
        expected = places_beside(shape, np.where(others[:, None], case, np.nan), which)
        distance = np.linalg.norm(row - expected, axis=1)
        if np.isfinite(distance).any():
            square.append(float(np.nanmean(distance**2)) / case.shape[1])
    return INFLATION * float(np.sqrt(np.mean(square))) if len(square) >= ENOUGH else None


def places_beside(shape: FloatArray, points: FloatArray, which: FloatArray) -> FloatArray:
    """(M, P) where the mean shape (L, P), fitted to points (L, P), NaN where not to count, puts the landmarks `which`
    (M); NaN where the points are too few, or on a line."""
    both = np.isfinite(shape).all(axis=1) & np.isfinite(points).all(axis=1)
    nothing = np.full((len(which), shape.shape[1]), np.nan)
    if both.sum() <= shape.shape[1]:
        return nothing
    extent = np.linalg.svd(shape[both] - shape[both].mean(axis=0), compute_uv=False)
    if extent[1] < 0.05 * extent[0]:
        return nothing
    return fit_similarity(shape[both], points[both]).similarity.apply(shape[which])


def _missing(
    points: FloatArray, neighbour: FloatArray, offsets: FloatArray, which: FloatArray, training: TrainingRows
) -> float:
    """Cost of a member that is missing though the image shows its place, not near its border: minus the logarithm of
    how often that is so."""
    inside = absent = 0
    for case, marks, geometry in zip(points, training.landmarks, training.geometries, strict=True):
        if np.isfinite(case).any():
            shown = well_inside(geometry, expected_places(case, offsets), BORDER * neighbour)
            status = marks.status[which]
            inside += int((shown & (status != Status.UNKNOWN)).sum())
            absent += int((shown & (status == Status.ABSENT)).sum())
    return float(np.clip(-np.log((absent + 0.5) / (inside + 1)), *MISSING))


def well_inside(geometry: Geometry, points: FloatArray, margin: FloatArray) -> npt.NDArray[np.bool_]:
    """(N,) whether points (N, P) lie further than `margin` (N,) mm inside the image."""
    voxels = geometry.to_voxels(points)
    edge = np.minimum(voxels + 0.5, np.array(geometry.shape) - 0.5 - voxels) * np.array(geometry.spacing)
    return np.asarray(edge.min(axis=1) > margin)


def _rows(values: FloatArray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in values)


def _side(geometry: Geometry) -> float:
    """mm: the geometric mean of a voxel's sides."""
    return float(np.exp(np.mean(np.log(geometry.spacing))))
