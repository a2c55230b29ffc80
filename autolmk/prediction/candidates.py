"""Candidates of an image's landmarks, gathered over windows, merged by distance and ranked by log-odds. No heatmaps.

Shapes: L landmarks, K candidates a landmark, D image axes. Voxels are those of the whole image, array order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autolmk.geometry import FloatArray

Indices = npt.NDArray[np.int_]

CENTRAL_ENOUGH = 0.5  # centrality above which a window is as good as any other
KEPT = 64  # candidates a landmark that the pool holds at most, times two before it is thinned


@dataclass(frozen=True, eq=False)
class Ranked:
    """Merged candidates, best first. voxels: (L, K, D), NaN where there is none; log_odds: (L, K), -inf where there is
    none; centrality: (L, K) of the window that each came from, 0 at its border to 1 at its centre; spread: (L, K) width
    of its peak, voxels, NaN where the codec tells none."""

    voxels: FloatArray
    log_odds: FloatArray
    centrality: FloatArray
    spread: FloatArray


def tile_starts(shape: Sequence[int], patch: Sequence[int], step: float) -> list[tuple[int, ...]]:
    """First voxels of windows of `patch` that cover an image of `shape`, neighbours at most step * patch apart.

    Evenly spread from border to border; where the image is smaller than the patch, one window with the image in its
    middle. step: in (0, 1].
    """
    if not 0 < step <= 1:
        raise ValueError(f"step must be in (0, 1], got {step}")
    axes = []
    for size, side in zip(shape, patch, strict=True):
        if size <= side:
            axes.append([-((side - size) // 2)])
        else:
            count = int(np.ceil((size - side) / max(1.0, side * step))) + 1
            axes.append([int(v) for v in np.round(np.linspace(0, size - side, count))])
    grid = np.meshgrid(*axes, indexing="ij")
    return [tuple(int(v) for v in row) for row in np.stack(grid, axis=-1).reshape(-1, len(axes))]


def centred_start(voxel: npt.ArrayLike, shape: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """First voxel of the window whose centre is nearest to `voxel` (D,) among those that do not leave the image."""
    size, side = np.array(shape), np.array(patch)
    start = np.round(np.asarray(voxel, dtype=np.float64) - (side - 1) / 2).astype(int)
    start = np.where(size > side, start.clip(0, np.maximum(size - side, 0)), -((side - size) // 2))
    return tuple(int(v) for v in start)


def centrality(
    voxels: FloatArray, start: Sequence[int], shape: Sequence[int], patch: Sequence[int]
) -> npt.NDArray[np.float64]:
    """The centrality of voxels (..., D) in the window of `patch` at `start`: 0 at a border, 1 in the middle.

    A border at the image's own edge, or beyond it, does not count: no window sees more there.
    """
    first, side, size = np.array(start), np.array(patch), np.array(shape)
    low = np.where(first <= 0, np.inf, voxels - (first - 0.5))
    high = np.where(first + side >= size, np.inf, (first + side - 0.5) - voxels)
    return np.asarray((np.minimum(low, high) / (side / 2)).clip(0.0, 1.0).min(axis=-1))


def cover(voxels: FloatArray, shape: Sequence[int], patch: Sequence[int], least: float) -> list[tuple[int, ...]]:
    """First voxels of few windows that hold every one of voxels (N, D) with a centrality of at least `least`.

    Greedy: the window around the point that serves most of the points left, moved to the middle of those where it still
    serves them all. A window around a point always serves it, so the loop ends.
    """
    left = np.asarray(voxels, dtype=np.float64)
    starts = []
    while len(left):
        options = [centred_start(v, shape, patch) for v in left]
        served = np.stack([centrality(left, start, shape, patch) >= least for start in options])
        best = int(served.sum(axis=1).argmax())
        mine = served[best]
        mine[best] = True
        middle = centred_start((left[mine].min(axis=0) + left[mine].max(axis=0)) / 2, shape, patch)
        improved = (centrality(left[mine], middle, shape, patch) >= least).all()
        starts.append(middle if improved else options[best])
        left = left[~mine]
    return starts


class Pool:
    """Candidates of one image, as its windows are looked at one by one. Its size does not grow with the image."""

    def __init__(self, n_landmarks: int, shape: Sequence[int], patch: Sequence[int]) -> None:
        self.shape, self.patch = tuple(shape), tuple(patch)
        d = len(self.shape)
        self._rows: list[FloatArray] = [np.empty((0, d + 3)) for _ in range(n_landmarks)]  # see `merge`

    def add(self, voxels: FloatArray, log_odds: FloatArray, spread: FloatArray, start: Sequence[int]) -> None:
        """Candidates (L, K, D), in voxels of the window at `start`, with log-odds (L, K), -inf where there is none, and
        the widths of their peaks (L, K), voxels."""
        here = voxels + np.array(start, dtype=np.float64)
        central = centrality(here, start, self.shape, self.patch)
        for landmark, rows in enumerate(self._rows):
            good = np.isfinite(log_odds[landmark])
            new = np.column_stack([here[landmark], log_odds[landmark], central[landmark], spread[landmark]])[good]
            rows = np.concatenate([rows, new])
            if len(rows) > 2 * KEPT:
                rows = rows[np.argsort(-rows[:, -3], kind="stable")[:KEPT]]
            self._rows[landmark] = rows

    def ranked(self, n_candidates: int, spacing: Sequence[float], radius: float) -> Ranked:
        """The best `n_candidates` a landmark, by log-odds, after merging those within `radius` mm of each other."""
        d = len(self.shape)
        voxels = np.full((len(self._rows), n_candidates, d), np.nan)
        log_odds = np.full(voxels.shape[:2], -np.inf)
        central, widths = np.zeros(voxels.shape[:2]), np.full(voxels.shape[:2], np.nan)
        for landmark, rows in enumerate(self._rows):
            merged = merge(rows, np.array(spacing), radius)[:n_candidates]
            count = len(merged)
            voxels[landmark, :count] = merged[:, :d]
            log_odds[landmark, :count] = merged[:, d]
            central[landmark, :count] = merged[:, d + 1]
            widths[landmark, :count] = merged[:, d + 2]
        return Ranked(voxels, log_odds, central, widths)

    def drop(self, landmark: int, voxel: FloatArray, spacing: Sequence[float], radius: float, below: float) -> None:
        """Forget a landmark's candidates within `radius` mm of `voxel` (D,), at `spacing` (D,) mm, whose centrality is
        under `below`.
        """
        rows = self._rows[landmark]
        d = len(self.shape)
        near = np.linalg.norm((rows[:, :d] - voxel) * np.array(spacing), axis=1) <= radius
        self._rows[landmark] = rows[~(near & (rows[:, d + 1] < below))]


def merge(rows: FloatArray, spacing: npt.NDArray[np.floating], radius: float) -> FloatArray:
    """Rows (N, D + 3) of voxel, log-odds, centrality and width, where those within `radius` mm of a better one are one.

    Of such a group the row from the most central window speaks (beyond `CENTRAL_ENOUGH` log-odds decide), because a
    window sees badly at its border. Result: best log-odds first.
    """
    d = rows.shape[1] - 3
    left = rows[np.argsort(-rows[:, d], kind="stable")]
    result = []
    while len(left):
        near = np.linalg.norm((left[:, :d] - left[0, :d]) * spacing, axis=1) <= radius
        group = left[near]
        order = np.lexsort((-group[:, d], -group[:, d + 1].clip(max=CENTRAL_ENOUGH)))
        result.append(group[order[0]])
        left = left[~near]
    merged = np.array(result).reshape(-1, d + 3)
    return merged[np.argsort(-merged[:, d], kind="stable")]
