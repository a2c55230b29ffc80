"""Simulated populations of landmark configurations of several kinds of anatomy, and faults of annotation in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autolmk.geometry import FloatArray

Rng = np.random.Generator


@dataclass(frozen=True)
class World:
    """points: (N, L, P). blocks: (B, C) landmarks of each look-alike, in order; of all rows end to end.
    sides: (S, 2) left/right pairs. posed: whether all cases lie nearly in one pose."""

    points: FloatArray
    names: tuple[str, ...]
    blocks: tuple[tuple[tuple[int, ...], ...], ...]
    sides: tuple[tuple[int, int], ...]
    posed: bool = True


def _turn(rng: Rng, p: int, degrees: float) -> FloatArray:
    """A rotation by a normal angle about a random axis; any one from 180 degrees on."""
    if degrees >= 180:
        q, r = np.linalg.qr(rng.normal(size=(p, p)))
        q = q * np.sign(np.diag(r))
        q[:, 0] *= np.sign(np.linalg.det(q))
        return np.asarray(q)
    angle = np.radians(rng.normal(0, degrees))
    c, s = np.cos(angle), np.sin(angle)
    if p == 2:
        return np.array([[c, -s], [s, c]])
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + s * k + (1 - c) * k @ k)


def _posed(rng: Rng, points: FloatArray, degrees: float, scale: float = 0.15) -> FloatArray:
    p = points.shape[1]
    moved = np.exp(rng.normal(0, scale)) * (points - points.mean(axis=0)) @ _turn(rng, p, degrees).T
    return np.asarray(moved + rng.normal(0, 30, p))


def _clicks(rng: Rng, shape: tuple[int, ...], sd: float) -> FloatArray:
    """An annotator's errors, with heavy tails (Student's t, 5 degrees of freedom)."""
    return np.asarray(sd * rng.standard_t(5, size=shape) / np.sqrt(5 / 3))


def _curve(rng: Rng, n: int, strength: float) -> FloatArray:
    """(n,) radians: the tilt along a column; a few columns are bent much more than most."""
    t = np.linspace(0, 1, n)
    bend = strength * rng.gamma(1.0, 1.0)
    waves = [rng.normal() * np.sin(2 * np.pi * (t * f + rng.random())) for f in (0.5, 1.0, 1.6)]
    return np.asarray(bend * np.sum(waves, axis=0))


def spine(seed: int, n: int) -> World:
    """Frontal radiographs: four corners of each of 17 vertebrae; scoliosis, wedges, thin discs."""
    rng = np.random.default_rng([11, seed])
    cases = []
    for _ in range(n):
        height = np.linspace(16, 28, 17) * np.exp(rng.normal(0, 0.05, 17))
        width = np.linspace(26, 44, 17) * np.exp(rng.normal(0, 0.05, 17)) * np.exp(rng.normal(0, 0.08))
        disc = np.linspace(4, 9, 17) * np.exp(rng.normal(0, 0.25, 17))
        tilt = _curve(rng, 17, 0.13) + rng.normal(0, 0.03, 17)
        at, corners = np.zeros(2), []
        for h, w, d, a in zip(height, width, disc, tilt, strict=True):
            along, across = np.array([np.sin(a), np.cos(a)]), np.array([np.cos(a), -np.sin(a)])
            wedge = h * (1 + rng.normal(0, 0.05, 2)) / 2
            mid = at + along * h / 2
            corners += [mid + sx * across * w / 2 + sy * along * wedge[int(sx > 0)] for sy in (-1, 1) for sx in (-1, 1)]
            at = at + along * (h + d)
        points = np.array(corners) + _clicks(rng, (68, 2), 0.9)
        cases.append(_posed(rng, points, 5))
    blocks = tuple(tuple(range(4 * v, 4 * v + 4)) for v in range(17))
    sides = tuple((4 * v + 2 * k, 4 * v + 2 * k + 1) for v in range(17) for k in range(2))
    names = tuple(f"V{v + 1}_{corner}" for v in range(17) for corner in ("TL", "TR", "BL", "BR"))
    return World(np.array(cases), names, (blocks,), sides)


def column(seed: int, n: int) -> World:
    """CT: centres of 24 vertebrae in 3D, of which each case shows a part, and single ones are missing."""
    rng = np.random.default_rng([12, seed])
    cases = []
    for _ in range(n):
        step = np.linspace(14, 36, 24) * np.exp(rng.normal(0, 0.06, 24))
        flat = _curve(rng, 24, 0.08)
        side = 0.5 * np.sin(np.linspace(0, 2.2 * np.pi, 24)) * np.exp(rng.normal(0, 0.2)) + _curve(rng, 24, 0.05)
        along = np.stack([np.sin(flat), np.sin(side), -np.ones(24)], axis=1)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        points = np.cumsum(step[:, None] * along, axis=0) + _clicks(rng, (24, 3), 1.0)
        points = _posed(rng, points, 6)
        if rng.random() < 0.5:
            first = int(rng.integers(0, 10))
            points[:first] = points[first + int(rng.integers(9, 15)) :] = np.nan
        points[rng.random(24) < 0.01] = np.nan
        cases.append(points)
    return World(np.array(cases), tuple(f"v{i + 1}" for i in range(24)), (tuple((i,) for i in range(24)),), ())


def ribs(seed: int, n: int) -> World:
    """Two rows of 12 in 3D, mirror images of one another, in any pose."""
    rng = np.random.default_rng([13, seed])
    cases = []
    modes = np.random.default_rng(5).normal(0, 1.2, (4, 24, 3))
    for _ in range(n):
        level = np.linspace(0, 1, 12) + rng.normal(0, 0.008, 12)
        half = np.stack([40 + 60 * np.sin(np.pi * (0.2 + 0.6 * level)), 30 * level**2, -220 * level], axis=1)
        both = np.concatenate([half, half * [-1, 1, 1]])
        both = both + np.tensordot(rng.normal(size=4), modes, 1) + _clicks(rng, (24, 3), 1.5)
        cases.append(_posed(rng, both, 180))
    names = (*(f"rib{i + 1}_L" for i in range(12)), *(f"rib{i + 1}_R" for i in range(12)))
    rows = tuple(tuple((12 * k + i,) for i in range(12)) for k in range(2))
    return World(np.array(cases), names, rows, tuple((i, i + 12) for i in range(12)), posed=False)


def face(seed: int, n: int) -> World:
    """Photographs: 29 points, eyes that shut and a mouth that opens."""
    rng = np.random.default_rng([14, seed])
    eye = np.array([[-12, 0], [0, 5], [12, 0], [0, -5]])
    brow = np.array([[-15, 16], [-5, 20], [6, 20], [15, 15]])
    middle = np.array([[0, 30], [0, 5], [0, -8], [0, -24], [0, -32], [0, -60], [0, 62]])
    mouth = np.array([[-22, -28], [-9, -22], [-10, -35]])
    side = np.concatenate([eye + np.array([-28, 22]), brow + np.array([-28, 22]), mouth])
    mean = np.concatenate([side, side * [-1, 1], middle])
    modes = np.random.default_rng(6).normal(0, 1.2, (5, len(mean), 2))
    cases = []
    for _ in range(n):
        points = mean * np.exp(rng.normal(0, 0.07, 2))
        shut, open_ = rng.uniform(0.3, 1.2), abs(rng.normal(0, 6))
        points[[1, 12], 1] -= 5 * (1 - shut)
        points[[3, 14], 1] += 5 * (1 - shut)
        points[[10, 21, 26, 27], 1] -= open_
        points = points + np.tensordot(rng.normal(size=5), modes, 1) + _clicks(rng, points.shape, 0.5)
        points = _posed(rng, points, 8)
        points[rng.random(len(points)) < 0.02] = np.nan
        cases.append(points)
    k = len(side)
    names = (*(f"left_{i}" for i in range(k)), *(f"right_{i}" for i in range(k)), *(f"mid_{i}" for i in range(7)))
    return World(np.array(cases), names, (), tuple((i, i + k) for i in range(k)))


def skull(seed: int, n: int) -> World:
    """Twelve landmarks of their own and a row of five, in 3D."""
    rng = np.random.default_rng([15, seed])
    own = np.random.default_rng(0).normal(0, 20, (12, 3))
    mean = np.concatenate([own, [[22, 9.0 * (i - 2), -24 + i * i] for i in range(5)]])
    modes = np.random.default_rng(2).normal(0, 0.8, (3, 17, 3))
    cases = [
        _posed(rng, mean + np.tensordot(rng.normal(size=3), modes, 1) + _clicks(rng, (17, 3), 0.6), 15)
        for _ in range(n)
    ]
    names = (*(f"own_{i}" for i in range(12)), *(f"row_{i}" for i in range(5)))
    return World(np.array(cases), names, (tuple((12 + i,) for i in range(5)),), ())


def hand(seed: int, n: int) -> World:
    """Radiographs: four joints in each of five fingers that spread and bend, and five of the wrist."""
    rng = np.random.default_rng([16, seed])
    cases = []
    for _ in range(n):
        points = [np.array([x, y]) for x, y in ((-14, -4), (-5, -8), (5, -8), (14, -5), (0, 2))]
        spread = np.exp(rng.normal(0, 0.15))
        for f in range(5):
            angle = spread * np.radians((-48, -20, 0, 16, 32)[f]) + rng.normal(0, 0.05)
            at = np.array([-14 + 7 * f, 6.0])
            for length in np.array([40, 27, 18, 14]) * (0.8, 1, 1.08, 1, 0.8)[f] * np.exp(rng.normal(0, 0.04, 4)):
                at = at + length * np.array([np.sin(angle), np.cos(angle)])
                points.append(at)
                angle += rng.normal(0, 0.05)
        cases.append(_posed(rng, np.array(points) + _clicks(rng, (25, 2), 0.6), 10))
    names = (*(f"wrist_{i}" for i in range(5)), *(f"finger{f}_{j}" for f in range(5) for j in range(4)))
    rows = tuple(tuple((5 + 4 * f + j,) for j in range(4)) for f in range(5))
    return World(np.array(cases), names, rows, ())


WORLDS: dict[str, Callable[[int, int], World]] = {f.__name__: f for f in (spine, column, ribs, face, skull, hand)}


# -- faults -----------------------------------------------------------------------------------------------------------

Plant = Callable[[Rng, World, FloatArray], FloatArray | None]


def _row(rng: Rng, world: World, case: FloatArray, least: int) -> list[list[int]] | None:
    """A row whose members this case shows, at least so many."""
    if not world.blocks:
        return None
    rows = [[list(b) for b in row if np.isfinite(case[list(b)]).all()] for row in world.blocks]
    rows = [row for row in rows if len(row) >= least]
    return rows[int(rng.integers(len(rows)))] if rows else None


def stored_twice(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    """One of a row also under its neighbour's names."""
    row = _row(rng, world, case, 3)
    if row is None:
        return None
    i = int(rng.integers(len(row) - 1))
    a, b = (i, i + 1) if rng.random() < 0.5 else (i + 1, i)
    case[row[a]] = case[row[b]]
    return case


def drawn_twice(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    """As before, but drawn anew."""
    row = _row(rng, world, case, 3)
    if row is None:
        return None
    i = int(rng.integers(len(row) - 1))
    step = float(np.linalg.norm(case[row[i + 1]].mean(axis=0) - case[row[i]].mean(axis=0)))
    case[row[i]] = case[row[i + 1]] + rng.normal(0, 0.02 * step, case[row[i]].shape)
    return case


def stored_twice_and_shifted(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    """One of a row twice, and all after it one place late."""
    row = _row(rng, world, case, 4)
    if row is None:
        return None
    i, old = int(rng.integers(len(row) - 2)), case.copy()
    for k in range(i + 1, len(row)):
        case[row[k]] = old[row[k - 1]]
    return case


def skipped(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    """One of a row left out: all after it one place early, and the last missing."""
    row = _row(rng, world, case, 4)
    if row is None:
        return None
    i, old = int(rng.integers(1, len(row) - 2)), case.copy()
    for k in range(i, len(row) - 1):
        case[row[k]] = old[row[k + 1]]
    case[row[-1]] = np.nan
    return case


def neighbours_swapped(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    row = _row(rng, world, case, 3)
    if row is None:
        return None
    i = int(rng.integers(len(row) - 1))
    case[row[i] + row[i + 1]] = case[row[i + 1] + row[i]]
    return case


def part_backwards(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    row = _row(rng, world, case, 4)
    if row is None:
        return None
    n = int(rng.integers(3, len(row)))
    i = int(rng.integers(len(row) - n + 1))
    part = row[i : i + n]
    case[np.concatenate(part)] = case[np.concatenate(part[::-1])]
    return case


def all_backwards(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    """Where something else, or the pose of the others, tells."""
    row = _row(rng, world, case, 3)
    if row is None:
        return None
    case[np.concatenate(row)] = case[np.concatenate(row[::-1])]
    return case


def upside_down(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    if not world.posed:
        return None
    middle, turned = np.nanmean(case, axis=0), [-1, -1] if case.shape[1] == 2 else [-1, 1, -1]
    return np.asarray((case - middle) * turned + middle)


def one_pair_swapped(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    shown = [s for s in world.sides if np.isfinite(case[list(s)]).all()]
    if not shown:
        return None
    a, b = shown[int(rng.integers(len(shown)))]
    case[[a, b]] = case[[b, a]]
    return case


def block_sides_swapped(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    """All pairs of one of a row."""
    if not world.sides or len(world.blocks) != 1:
        return None
    block = set(world.blocks[0][int(rng.integers(len(world.blocks[0])))])
    for a, b in world.sides:
        if a in block:
            case[[a, b]] = case[[b, a]]
    return case


def all_sides_swapped(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    if not world.sides:
        return None
    for a, b in world.sides:
        case[[a, b]] = case[[b, a]]
    return case


def two_exchanged(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    shown = np.flatnonzero(np.isfinite(case).all(axis=1))
    a, b = rng.choice(shown, 2, replace=False)
    case[[a, b]] = case[[b, a]]
    return case


def two_at_one_place(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    shown = np.flatnonzero(np.isfinite(case).all(axis=1))
    a, b = rng.choice(shown, 2, replace=False)
    case[a] = case[b]
    return case


def rows_shifted(rng: Rng, world: World, case: FloatArray) -> FloatArray | None:
    """All points one line down in the file, the last at the first's place."""
    shown = np.flatnonzero(np.isfinite(case).all(axis=1))
    case[shown] = case[np.roll(shown, 1)]
    return case


FAULTS: dict[str, Plant] = {
    f.__name__: f
    for f in (
        stored_twice,
        drawn_twice,
        stored_twice_and_shifted,
        skipped,
        neighbours_swapped,
        part_backwards,
        all_backwards,
        upside_down,
        one_pair_swapped,
        block_sides_swapped,
        all_sides_swapped,
        two_exchanged,
        two_at_one_place,
        rows_shifted,
    )
}


def with_faults(world: World, seed: int, share: float = 0.05) -> tuple[FloatArray, dict[int, str]]:
    """The points with a fault in that share of the cases, at least two, and which."""
    rng = np.random.default_rng([17, seed])
    points = world.points.copy()
    count = max(2, round(share * len(points)))
    planted = {}
    kinds = list(FAULTS)
    for case in rng.choice(len(points), count, replace=False).tolist():
        changed = None
        while changed is None:
            kind = kinds[int(rng.integers(len(kinds)))]
            changed = FAULTS[kind](rng, world, points[case].copy())
        points[case], planted[case] = changed, kind
    return points, planted
