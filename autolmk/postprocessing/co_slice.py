"""Landmarks that annotators place on one slice are put on one slice, see `autolmk.shapes.shared_slice`.

Detections are what a model says before that step, so that it can be judged, and done, here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from autolmk.detections import Detections
from autolmk.plans import SliceGroup
from autolmk.postprocessing.context import Context, HeldOut, errors_of
from autolmk.shapes.shared_slice import on_one_slice

RADII = (2.0, 4.0, 8.0)  # voxels across the slice, of which the best one is taken


@dataclass(frozen=True)
class CoSlice:
    """The step that puts members of a group on one slice. groups: as in the plans. radius: mm across the slice within
    which members of a group agree.
    """

    groups: tuple[SliceGroup, ...]
    radius: float
    name: ClassVar[str] = "co_slice"

    def apply(self, found: Detections) -> Detections:
        """The best candidate of each member moved across its slice. The spread is unknown, NaN, where another candidate
        became the best."""
        candidates, log_odds = on_one_slice(
            found.candidates, found.log_odds, found.likelihood, found.geometry, self.groups, found.names, self.radius
        )
        changed = log_odds[:, 0] != found.log_odds[:, 0]
        spread = np.where(changed, np.nan, found.spread)
        return replace(found, candidates=candidates, log_odds=log_odds, spread=spread)


def fit(held_out: HeldOut, context: Context) -> CoSlice | str:
    """Fit the step: the radius of the least mean error of the groups' members on these cases."""
    if not context.co_slice_groups:
        return "no landmarks share a slice"
    across = [found.geometry.spacing[group.axis] for found, _ in held_out for group in context.co_slice_groups]
    if not across:
        return "there is no held-out case"
    options = [CoSlice(context.co_slice_groups, radius * float(np.median(across))) for radius in RADII]
    return min(options, key=lambda step: _mean_error(step, held_out))


def _mean_error(step: CoSlice, held_out: HeldOut) -> float:
    members = {name for group in step.groups for name in group.landmarks}
    errors = [errors_of(step.apply(found), truth)[np.isin(found.names, list(members))] for found, truth in held_out]
    pooled = np.concatenate(errors)
    return float(np.nanmean(pooled)) if np.isfinite(pooled).any() else 0.0
