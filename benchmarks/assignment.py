"""What assignment of left and right, and drawing points toward the mean shape, mend in simulated first looks.

    python benchmarks/assignment.py --data FOLDER mouse_ct_small

FOLDER/NAME as for real_data.py. Nothing is trained: the mean shape comes from the training cases' points, the first
looks are made from the test cases' points. Each channel shows its own place and, where it has a mirror partner, the
partner's, both with noise on each axis, the better one 1 to 5 log-odds above the other. A channel is swapped where the
partner's place is the better one, lost where it is swapped and does not show its own place at all, astray where a place
anywhere in the head is better still.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autolmk.fingerprint.symmetry import mirror
from autolmk.fold.measured import measure_shape
from autolmk.geometry import FloatArray
from autolmk.imageio import read_geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.prediction.assignment import ShapePrior, assign
from autolmk.prediction.shrinkage import shrink

K = 5  # candidates a channel
REPEATS = 3  # of each test case
FAR = 4.0  # mm
RADIUS = 1.0  # mm, within which two candidates are one place


@dataclass(frozen=True)
class Look:
    """Shares of channels that go wrong; lost is of the swapped ones."""

    name: str
    swapped: float
    lost: float = 0.0
    astray: float = 0.0


LOOKS = (
    Look("every sixth channel swapped, 2 % astray", 1 / 6, astray=0.02),
    Look("every second channel swapped", 0.5),
    Look("every channel swapped", 1.0),
    Look("half swapped, a third of them lost, 15 % astray", 0.5, lost=1 / 3, astray=0.15),
    Look("nothing swapped", 0.0),
)


def main() -> None:
    """Print a row a simulated look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="folder below --data, such as mouse_ct_small")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--noise", type=float, default=0.25, help="standard deviation on each axis, mm")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names, train, test = read_points(args.data / args.name)
    prior = shape_of(names, train)
    variance = np.full(len(names), args.noise**2)  # as held-out cases would tell it
    print(f"{len(train)} training cases, {len(test)} test cases {REPEATS} times, noise of {args.noise:g} mm an axis")
    columns = ("simulated first look", "swaps", "after", "over 4 mm", "after", "MRE", "after", "drawn to the shape")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for look in LOOKS:
        rng, found = np.random.default_rng(args.seed), []
        for truth in np.repeat(test, REPEATS, axis=0):
            points, odds = simulated(look, truth, prior.partner, args.noise, rng)
            settled, settled_odds = assign(points, odds, prior, radius=RADIUS)
            drawn = shrink(settled[:, 0], settled_odds[:, 0], variance, prior)
            found.append([figures(p, truth, prior.partner) for p in (points[:, 0], settled[:, 0], drawn)])
        before, after, drawn_to = np.mean(found, axis=0)
        shares = " | ".join(f"{100 * before[i]:.1f} % | {100 * after[i]:.1f} %" for i in (0, 1))
        print(f"| {look.name} | {shares} | {before[2]:.2f} mm | {after[2]:.2f} mm | {drawn_to[2]:.2f} mm |", flush=True)


def read_points(source: Path) -> tuple[tuple[str, ...], FloatArray, FloatArray]:
    """(names, training points (N, L, P), test points (N, L, P)) in mm, voxel index times spacing."""
    split = json.loads((source / "split.json").read_text())
    rows: dict[str, dict[str, list[float]]] = {}
    with open(source / "landmarks.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            rows.setdefault(row["case"], {})[row["landmark"]] = [float(row[k]) for k in "xyz"]
    image = min((source / "images").iterdir())
    spacing = np.array(read_geometry(image).spacing[::-1])
    axes = len(spacing)
    names = tuple(sorted(next(iter(rows.values()))))
    train, test = (np.array([[rows[c][n][:axes] for n in names] for c in split[part]]) for part in ("train", "test"))
    return names, train * spacing, test * spacing


def shape_of(names: tuple[str, ...], train: FloatArray) -> ShapePrior:
    """Mean shape of the training cases (N, L, P), pairs by its geometry."""
    status = np.full(len(names), Status.PRESENT, dtype=np.int8)
    measured = measure_shape([Landmarks(names, points, status) for points in train])
    assert measured.mean_shape is not None
    points = np.array([measured.mean_shape[name] for name in names])
    found = mirror(points, names)
    where, partner = {name: i for i, name in enumerate(names)}, list(range(len(names)))
    for a, b in found.pairs if found else ():
        partner[where[a]], partner[where[b]] = where[b], where[a]
    spread = np.array([measured.shape_spread[name] for name in names])
    left_out = np.array([measured.shape_left_out[name] for name in names])
    return ShapePrior(points, tuple(partner), spread, measured.scale_bounds, measured.shape_cases, left_out)


def simulated(
    look: Look, truth: FloatArray, partner: tuple[int, ...], noise: float, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Candidates (L, K, P) and their log-odds (L, K), best first, as a network of that kind would give them."""
    p, low, high = truth.shape[1], truth.min(axis=0), truth.max(axis=0)
    points, odds = np.full((len(truth), K, p), np.nan), np.full((len(truth), K), -np.inf)
    for i, other in enumerate(partner):
        own, opposite = (truth[j] + rng.normal(0, noise, p) for j in (i, other))
        best = rng.uniform(3, 9)
        rows = [(own, best)]
        if other != i:
            second, wrong = best - rng.uniform(1, 5), rng.random() < look.swapped
            rows = [(opposite, best), (own, second)] if wrong else [(own, best), (opposite, second)]
            if wrong and rng.random() < look.lost:
                rows = rows[:1]
        if rng.random() < look.astray:
            rows.append((rng.uniform(low, high), best + 1))
        rows += [(rng.uniform(low, high), rng.uniform(-9, -3)) for _ in range(K - len(rows))]
        for k, (point, value) in enumerate(sorted(rows, key=lambda row: -row[1])):
            points[i, k], odds[i, k] = point, value
    return points, odds


def figures(points: FloatArray, truth: FloatArray, partner: tuple[int, ...]) -> tuple[float, float, float]:
    """(share of points with a partner that are nearer to its true place, share further off than 4 mm, MRE)."""
    error = np.linalg.norm(points - truth, axis=1)
    paired = np.array([i != p for i, p in enumerate(partner)])
    swapped = np.linalg.norm(points - truth[list(partner)], axis=1) < error
    return float(swapped[paired].mean()), float((error > FAR).mean()), float(error.mean())


if __name__ == "__main__":
    main()
