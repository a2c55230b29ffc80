"""Rows of look-alikes on simulated candidates: each channel sees each body with random log-odds, the right one 1.5 better
on average; some right places are not seen, some places are no bodies."""

from __future__ import annotations

import numpy as np
import pytest

from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.prediction.row_search import search
from autolmk.prediction.rows import Chosen, choose_rows, pose
from autolmk.row_shape import Row, Rows, TrainingRows, measure_row

K, STEP = 5, 30.0
GAIN, LOST, CLUTTER = 1.5, 0.05, 0.3  # of the right place's log-odds; shares of channels
TEMPERATURE = 0.7  # of log-odds so simulated: variance over gain


def case(n: int, rng: np.random.Generator, partial: bool) -> tuple[FloatArray, Geometry]:
    """((n + 2, 3) mm, of which the outermost are no landmarks; the image) of a bent column in an image that shows it
    whole, or half to three quarters of it."""
    along = (np.arange(n + 2) - (n + 1) / 2) * STEP * rng.uniform(0.85, 1.15)
    bend = 25 * np.sin(np.linspace(0, np.pi * n / 12, n + 2) + rng.normal(0, 0.2))
    points = np.stack([np.zeros(n + 2), bend, along], axis=1) + rng.normal(0, 1.5, (n + 2, 3))
    angle = rng.normal(0, 0.15)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    points = points @ turn.T + rng.normal(0, 15, 3)
    low, high = points[0, 2] - 40, points[-1, 2] + 40
    if partial:
        shown = rng.uniform(0.5, 0.75) * (high - low)
        low = rng.uniform(low, high - shown)
        high = low + shown
    return points, Geometry.from_parts((int((high - low) / 4), 50, 50), (4.0, 4.0, 4.0), [-98.0, -98.0, low])


def look(
    points: FloatArray, image: Geometry, rng: np.random.Generator, gain: float = GAIN
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(candidates (L, K, 3), log-odds (L, K), whether each landmark is in the image (L,))."""
    n, shown = len(points) - 2, image.contains(image.to_voxels(points))
    candidates, odds = np.full((n, K, 3), np.nan), np.full((n, K), -np.inf)
    for i in range(n):
        rows = []
        for j in np.flatnonzero(shown):
            off = abs(j - i - 1)
            if off or rng.random() >= LOST:
                value = rng.normal() + gain * (off == 0) - 0.25 * max(off - 1, 0)
                rows.append((value, points[j] + rng.normal(0, 1.5, 3)))
        if rng.random() < CLUTTER:
            rows.append((rng.normal(-1, 1), image.to_physical(rng.uniform(0, 1, 3) * np.array(image.shape))))
        for k, (value, point) in enumerate(sorted(rows, key=lambda row: -row[0])[:K]):
            candidates[i, k], odds[i, k] = point, value
    return candidates, odds, shown[1:-1]


def names_of(n: int) -> tuple[str, ...]:
    return tuple(f"body {i}" for i in range(n))


def marks(points: FloatArray, image: Geometry) -> Landmarks:
    inside = image.contains(image.to_voxels(points))
    return Landmarks(names_of(len(points)), points, np.where(inside, Status.PRESENT, Status.ABSENT))


def rows_of(n: int, rng: np.random.Generator, partial: bool, cases: int = 20) -> Rows:
    """As training cases measure them, with the temperature of these simulated looks."""
    shown = [case(n, rng, partial) for _ in range(cases)]
    training = TrainingRows([marks(points[1:-1], image) for points, image in shown], [image for _, image in shown])
    row = measure_row(names_of(n), training)
    assert row is not None and row.names in (names_of(n), names_of(n)[::-1])
    return Rows((row,), temperature=TEMPERATURE, right=100, expected=100)


def gross(points: FloatArray, truth: FloatArray) -> FloatArray:
    """(L,) whether points lie more than half a step off."""
    return np.asarray(np.linalg.norm(points - truth, axis=1) > STEP / 2)


def looked_at(n: int, partial: bool, repeats: int) -> tuple[dict[str, float], FloatArray, FloatArray]:
    """(shares of the points in images: gross before and after, and unflagged; of the absent ones: placed unflagged;
    probabilities and whether points are right)."""
    rng = np.random.default_rng(0)
    rows, found = rows_of(n, rng, partial), []
    for _ in range(repeats):
        points, image = case(n, rng, partial)
        candidates, odds, shown = look(points, image, rng)
        chosen = choose_rows(candidates, odds, names_of(n), rows, image)
        off = gross(chosen.candidates[:, 0], points[1:-1])
        found.append(np.stack([shown, gross(candidates[:, 0], points[1:-1]), off, chosen.probability], axis=1))
    shown, before, after, sure = np.concatenate(found).T
    there = shown > 0
    numbers = {
        "before": float(before[there].mean()),
        "after": float(after[there].mean()),
        "unflagged": float((after * (sure >= 0.9))[there].mean()),
        "absent placed": float((sure >= 0.9)[~there].mean()) if (~there).any() else 0.0,
    }
    return numbers, sure[there], 1 - after[there]


@pytest.mark.parametrize(("n", "repeats"), [(5, 80), (12, 30), (24, 10)])
def test_a_row_in_full_view_is_found(n: int, repeats: int) -> None:
    numbers, *_ = looked_at(n, False, repeats)
    assert numbers["before"] > 0.3
    assert numbers["after"] <= 0.02


@pytest.mark.parametrize(("n", "repeats"), [(12, 30), (24, 12)])
def test_a_row_of_which_a_part_is_shown_is_found_or_flagged(n: int, repeats: int) -> None:
    numbers, *_ = looked_at(n, True, repeats)
    assert numbers["before"] > 0.3
    assert numbers["after"] <= 0.05
    assert numbers["unflagged"] <= 0.02
    assert numbers["absent placed"] <= 0.02


def test_probabilities_are_those_of_right_places() -> None:
    found = [looked_at(n, partial, 60)[1:] for n, partial in ((5, False), (12, True))]
    sure, right = (np.concatenate(part) for part in zip(*found, strict=True))
    tenth = np.minimum((10 * sure).astype(int), 9)
    gaps = [abs(sure[tenth == k].mean() - right[tenth == k].mean()) * (tenth == k).mean() for k in set(tenth.tolist())]
    assert sum(gaps) <= 0.05


def chosen(row: Row, candidates: FloatArray, odds: FloatArray, image: Geometry, level: float = -4.0) -> Chosen:
    names = names_of(len(candidates))
    return choose_rows(candidates, odds, names, Rows((row,), TEMPERATURE, level, right=100, expected=100), image)
