"""Candidates beyond the image give way to the next one inside it.

Annotations may lie a little beyond the outermost voxels, so the image is taken larger by a margin: half a voxel, or as
much as the furthest annotation of the held-out cases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from autolmk.detections import Detections
from autolmk.postprocessing.context import Context, HeldOut

LEAST_MARGIN = 0.5  # voxels


@dataclass(frozen=True)
class Outside:
    """The step that drops points outside the image. margin: voxels by which the image is taken larger on every side."""

    margin: float = LEAST_MARGIN
    name: ClassVar[str] = "outside"

    def apply(self, found: Detections) -> Detections:
        """Candidates inside, in their order. A landmark left without any has none, and likelihood 0 (NaN stays).
        The spread is unknown, NaN, where another candidate became the best."""
        inside = found.geometry.contains(found.geometry.to_voxels(found.candidates), self.margin)
        beyond = np.isfinite(found.log_odds) & ~inside
        if not beyond.any():
            return found
        order = np.argsort(~inside, axis=1, kind="stable")
        kept = np.take_along_axis(inside, order, axis=1)
        candidates = np.take_along_axis(found.candidates, order[..., None], axis=1)
        log_odds = np.where(kept, np.take_along_axis(found.log_odds, order, axis=1), -np.inf)
        nowhere = ~kept[:, 0] & np.isfinite(found.log_odds[:, 0])
        return replace(
            found,
            candidates=np.where(kept[..., None], candidates, np.nan),
            log_odds=log_odds,
            spread=np.where(beyond[:, 0], np.nan, found.spread),
            likelihood=np.where(nowhere & ~np.isnan(found.likelihood), 0.0, found.likelihood),
        )


def fit(held_out: HeldOut, context: Context) -> Outside:
    """Fit the step: the margin that holds every annotation of these cases."""
    furthest = 0.0
    for found, truth in held_out:
        voxels = found.geometry.to_voxels(truth.points[truth.present])
        last = np.array(found.geometry.shape) - 0.5
        if len(voxels):
            furthest = max(furthest, float(np.maximum(-0.5 - voxels, voxels - last).max()))
    return Outside(max(LEAST_MARGIN, furthest))
