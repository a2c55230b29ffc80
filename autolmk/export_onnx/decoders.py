"""Decoders by NumPy for what `codecs` decode by torch, from the same numbers; each class names the one that it follows.

Shapes: L landmarks or windows, K candidates, D image axes, *O output cells. A decoder's `decode` takes the scores
(L, ...) of one window and gives voxels (L, K, D), NaN where there is none, log-odds (L, K), -inf there, and widths
(L, K), all float64, best first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError
from autolmk.geometry import FloatArray

Decoded = tuple[FloatArray, FloatArray, FloatArray]


def decoder_of(numbers: Mapping[str, Any]) -> Any:
    """The decoder that a `decoding` entry of pipeline.json describes. AutolmkError where its kind is not known."""
    kinds = {"heatmap": HeatmapDecoder, "cells": CellDecoder, "coordinates": CoordinateDecoder}
    kind = numbers.get("kind")
    if kind not in kinds:
        raise AutolmkError(
            "an exported model is decoded in a way that this runner does not know",
            found=f"decoding.kind {kind!r}",
            expected=", ".join(kinds),
            remedy="use the run_onnx.py that was written beside pipeline.json",
        )
    return kinds[kind](numbers)


class HeatmapDecoder:
    """Follows `codecs.HeatmapCodec`: local maxima of log-odds, each refined by a least-squares quadratic.

    numbers: stride (D,), cells (D,), sigma (D,) in cells, n_candidates; reach in sigmas, no_lower_than below a peak,
    widest in sigmas.
    """

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self.stride, self.sigma = (np.array(numbers[k], dtype=np.float64) for k in ("stride", "sigma"))
        self.cells, self.n_candidates = np.array(numbers["cells"]), int(numbers["n_candidates"])
        self.no_lower_than, self.widest = float(numbers["no_lower_than"]), float(numbers["widest"])
        self.log_volume = float(np.log(self.sigma * math.sqrt(2 * math.pi)).sum())
        reach = [
            min(math.ceil(numbers["reach"] * g - 1e-9), (int(n) - 1) // 2)
            for g, n in zip(self.sigma, self.cells, strict=True)
        ]
        self.radius = np.array(reach)
        self.box = np.array(list(itertools.product(*[range(-r, r + 1) for r in reach])))
        self.terms = list(itertools.combinations_with_replacement(range(len(reach)), 2))
        x = self.box / self.sigma
        columns = [np.ones(len(x)), *x.T, *(x[:, a] * x[:, b] for a, b in self.terms)]
        weight = np.exp(-(x**2).sum(1) / 4)[:, None]  # square root of the Gaussian
        self.solve = np.linalg.pinv(weight * np.stack(columns, 1)) * weight.T

    def mirror(self, scores: npt.NDArray[Any], axis: int, partner: Sequence[int]) -> npt.NDArray[Any]:
        """Scores (L, *O) of a window reversed along an axis -> those of the window itself."""
        return np.ascontiguousarray(np.flip(scores, 1 + axis)[list(partner)])

    def decode(self, scores: npt.NDArray[Any]) -> Decoded:
        """Decode log-odds (L, *O) against "elsewhere"."""
        n, d, k = len(scores), len(self.cells), self.n_candidates
        voxels, log_odds = np.full((n, k, d), np.nan), np.full((n, k), -np.inf)
        spread = np.full((n, k), np.nan)
        for i, of_landmark in enumerate(scores):
            peaks, heights = self._maxima(of_landmark)
            centres, variances = self._fitted(of_landmark.astype(np.float64), peaks, heights)
            stands = self._distinct(centres, heights)[:k]
            m = len(stands)
            voxels[i, :m] = centres[stands] * self.stride + (self.stride - 1) / 2
            log_odds[i, :m] = heights[stands] + self.log_volume
            spread[i, :m] = np.sqrt((variances[stands] * self.stride**2).mean(-1))
        return voxels, log_odds, spread

    def _maxima(self, scores: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int_], FloatArray]:
        """Cells (N, D) and heights (N,) of the highest local maxima, best first: the maximum of a block about one sigma
        wide stands if no neighbouring block holds more."""
        block = [max(1, min(math.ceil(g), int(n))) for g, n in zip(self.sigma, scores.shape, strict=True)]
        padded = np.pad(
            scores, [(0, -n % b) for n, b in zip(scores.shape, block, strict=True)], constant_values=-np.inf
        )
        sides = [side for n, b in zip(padded.shape, block, strict=True) for side in (n // b, b)]
        top = padded.reshape(sides).max(axis=tuple(range(1, 2 * len(block), 2)))
        standing = np.where(top >= neighbourhood(top, np.maximum, -np.inf), top, -np.inf)
        order = np.argsort(-standing.ravel(), kind="stable")[: 2 * self.n_candidates]
        order = order[np.isfinite(standing.ravel()[order])]
        starts = np.stack(np.unravel_index(order, top.shape), -1) * np.array(block)
        spans = np.array(list(itertools.product(*map(range, block))))
        cells = np.minimum(starts[:, None] + spans, np.array(scores.shape) - 1)
        best = scores[tuple(np.moveaxis(cells, -1, 0))].argmax(axis=1)
        return cells[np.arange(len(cells)), best], standing.ravel()[order].astype(np.float64)

    def _fitted(
        self, scores: FloatArray, peaks: npt.NDArray[np.int_], heights: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Centres and variances (N, D), in cells, of the quadratic through the box around each peak."""
        d = len(self.sigma)
        middle = np.minimum(np.maximum(peaks, self.radius), self.cells - 1 - self.radius)
        values = scores[tuple(np.moveaxis(middle[:, None] + self.box, -1, 0))]
        values = np.maximum(values, heights[:, None] - self.no_lower_than)
        coefficients = values @ self.solve.T
        curvature = np.zeros((len(peaks), d, d))  # minus the Hessian, in units of sigma
        for i, (a, b) in enumerate(self.terms):
            curvature[:, a, b] -= coefficients[:, d + 1 + i]
            curvature[:, b, a] -= coefficients[:, d + 1 + i]
        widths, axes = np.linalg.eigh(curvature)
        covariance = (axes / np.maximum(widths, self.widest**-2)[:, None, :]) @ np.swapaxes(axes, 1, 2)
        centre = middle + (covariance @ coefficients[:, 1 : d + 1, None])[..., 0] * self.sigma
        furthest = np.maximum(self.sigma, 1.0)
        centre = np.minimum(np.maximum(centre, peaks - furthest), peaks + furthest)
        return centre, np.diagonal(covariance, axis1=1, axis2=2) * self.sigma**2

    def _distinct(self, centres: FloatArray, heights: FloatArray) -> list[int]:
        """Indices of candidates, best first, that do not lie within a sigma of a better one."""
        stands: list[int] = []
        for k in range(len(heights)):
            away = (((centres[k] - centres[stands]) / self.sigma) ** 2).sum(-1)
            if not (away < 1.0).any():
                stands.append(k)
        return stands


class CellDecoder:
    """Follows `codecs.CellCodec`: cells vote where a landmark lies.

    numbers: cells (D,), cell_size (D,) voxels, exclusive, n_candidates; power and reach (null: all cells) of the vote;
    longest: of a logarithmic displacement; certain: evidence that is its own exponential's logarithm.
    """

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self.shape, self.size = tuple(numbers["cells"]), tuple(numbers["cell_size"])
        self.exclusive, self.n_candidates = bool(numbers["exclusive"]), int(numbers["n_candidates"])
        self.power, self.reach = float(numbers["power"]), numbers["reach"]
        self.longest, self.certain = float(numbers["longest"]), float(numbers["certain"])
        axes = [np.arange(n) * s + (s - 1) / 2 for n, s in zip(self.shape, self.size, strict=True)]
        self.grid = np.stack(np.meshgrid(*axes, indexing="ij"))

    def mirror(self, scores: npt.NDArray[Any], axis: int, partner: Sequence[int]) -> npt.NDArray[Any]:
        """Mirror the scores along an array axis, see `HeatmapDecoder.mirror`; displacements along the axis change their
        sign.
        """
        result = np.ascontiguousarray(np.flip(scores, 2 + axis)[list(partner)])
        result[:, 1 + axis] *= -1
        return result

    def decode(self, scores: npt.NDArray[Any]) -> Decoded:
        """Decode logits and logarithmic displacements (L, 1 + D, *O)."""
        scores = scores.astype(np.float64)
        n, d, k = len(scores), len(self.shape), self.n_candidates
        voxels, odds = np.full((n, k, d), np.nan), np.full((n, k), -np.inf)
        spread = np.full((n, k), np.nan)
        for i, (logits, *log_displacements) in enumerate(scores):
            t = np.stack(log_displacements)
            votes = self.grid + np.sign(t) * np.expm1(np.minimum(np.abs(t), self.longest) * math.log(10))
            peaks = logits == neighbourhood(logits, np.maximum, -np.inf)
            standing = np.where(peaks, self._evidence(logits), -np.inf).ravel()
            log_c = logits if self.exclusive else -np.logaddexp(0.0, -logits)
            order = np.argsort(-standing, kind="stable")[:k]
            for j, flat in enumerate(order[np.isfinite(standing[order])]):
                reach = 1 if j > 0 and self.reach is None else self.reach
                voxels[i, j] = self._mean(votes, self.power * log_c, int(flat), reach)[0]
                spread[i, j] = self._mean(votes, log_c, int(flat), 1)[1]
                odds[i, j] = standing[flat]
        return voxels, odds, spread

    def _evidence(self, logits: FloatArray) -> FloatArray:
        """Log-odds that one of a cell and its neighbours holds the landmark."""
        if self.exclusive:
            highest = logits.max()
            with np.errstate(divide="ignore"):
                return np.asarray(np.log(neighbourhood(np.exp(logits - highest), np.add, 0.0)) + highest)
        total = neighbourhood(np.logaddexp(0.0, logits), np.add, 0.0)
        low = np.log(np.expm1(np.minimum(total, self.certain)))
        return np.asarray(np.where(total > self.certain, total, low))

    def _mean(
        self, votes: FloatArray, log_weight: FloatArray, flat: int, reach: int | None
    ) -> tuple[FloatArray, float]:
        """Weighted mean (D,) of votes (D, *O) of the cells in reach, and the axes' root mean square deviation."""
        near = np.ones(self.shape, dtype=bool)
        for axis, row in enumerate(np.unravel_index(flat, self.shape)):
            close = np.abs(np.arange(self.shape[axis]) - row) <= (max(self.shape) if reach is None else reach)
            near &= close.reshape([-1 if a == axis else 1 for a in range(len(self.shape))])
        weight = np.exp(log_weight[near] - log_weight[near].max())
        weight = weight / weight.sum()
        counted = votes[:, near]
        mean = (weight * counted).sum(1)
        variance = (weight * (counted - mean[:, None]) ** 2).sum(1)
        return mean, float(np.sqrt(variance.mean()))


class CoordinateDecoder:
    """Follows `codecs.CoordinateCodec`: coordinates between -1 and 1, and a logit. numbers: patch_size (D,)."""

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self.patch = np.array(numbers["patch_size"], dtype=np.float64)

    def mirror(self, scores: npt.NDArray[Any], axis: int, partner: Sequence[int]) -> npt.NDArray[Any]:
        """Mirror the scores along an array axis, see `HeatmapDecoder.mirror`."""
        result = np.ascontiguousarray(scores[list(partner)])
        result[:, axis] *= -1
        return result

    def decode(self, scores: npt.NDArray[Any]) -> Decoded:
        """Decode scores (L, D + 1) into one candidate a landmark, whose width is not known."""
        found = scores.astype(np.float64)[:, None]
        log_odds = found[..., -1].copy()
        return ((found[..., :-1] + 1) * self.patch - 1) / 2, log_odds, np.full_like(log_odds, np.nan)


def neighbourhood(values: npt.NDArray[Any], combine: Any, outside: float) -> npt.NDArray[Any]:
    """Each cell (*O) combined with those next to it along every axis, corners too; `outside` beyond the border."""
    result = values
    for axis in range(values.ndim):
        padded = np.pad(result, [(1, 1) if a == axis else (0, 0) for a in range(values.ndim)], constant_values=outside)
        n = values.shape[axis]
        before, here, after = (np.take(padded, range(i, i + n), axis) for i in range(3))
        result = combine(combine(before, here), after)
    return result
