"""Landmarks that annotators place on one slice of the image, put on one slice.

Each network finds its landmark by itself, yet annotators step through the slices, choose one, and place several
landmarks there. Which ones do so dataset.json declares, or is learned from the training cases
(`fingerprint.co_slice_groups`); nothing else is known of the anatomy. Across the slice a group's members then share one
coordinate, the mean of what they say, each weighted by its probability. A member that lies elsewhere has no say, and
takes a candidate of its own that lies on the slice, where it has one that is nearly as likely.

Shapes: L landmarks, K candidates, P physical axes. Everything in mm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autolmk.geometry import FloatArray, Geometry
from autolmk.plans import SliceGroup

LESS_LIKELY = 3.0  # natural log-odds by which a candidate on the slice may be: one case in twenty has members elsewhere
LEAST_WEIGHT = 1e-6  # of a member that is not believed at all


def on_one_slice(
    candidates: FloatArray,
    log_odds: FloatArray,
    likelihood: FloatArray,
    geometry: Geometry,
    groups: Sequence[SliceGroup],
    names: Sequence[str],
    radius: float,
) -> tuple[FloatArray, FloatArray]:
    """Candidates (L, K, P) and log-odds (L, K), the first of each member moved across its group's slice onto one plane.

    likelihood: (L,) of the best candidates. geometry: of the image in canonical orientation, whose slices are those of
    the file, at whatever spacing. radius: mm across the slice within which members agree.
    """
    candidates, log_odds = candidates.copy(), log_odds.copy()
    weight = np.maximum(np.nan_to_num(likelihood), LEAST_WEIGHT)
    for group in groups:
        normal = geometry.direction[:, group.axis]
        seen = np.isin(names, group.landmarks) & np.isfinite(candidates[:, 0]).all(axis=1)
        members = np.flatnonzero(seen)
        if len(members) < 2:
            continue
        place = _plane(candidates[members, 0] @ normal, weight[members], radius)
        for i in members:
            k = _nearest(candidates[i] @ normal - place, log_odds[i], radius)
            candidates[i, [0, k]], log_odds[i, [0, k]] = candidates[i, [k, 0]], log_odds[i, [k, 0]]
            candidates[i, 0] += (place - candidates[i, 0] @ normal) * normal
    return candidates, log_odds


def _plane(along: FloatArray, weight: FloatArray, radius: float) -> float:
    """Weighted mean of the places `along` (N,) within `radius` of the one that has the most weight around it."""
    near = np.abs(along[:, None] - along) <= radius
    agreeing = near[int((near * weight).sum(axis=1).argmax())]
    return float(np.average(along[agreeing], weights=weight[agreeing]))


def _nearest(apart: FloatArray, log_odds: FloatArray, radius: float) -> int:
    """Of a member's candidates, `apart` (K,) mm from the plane, NaN for none: the first one, or the likeliest one on
    the plane where the first one is not."""
    fits = (np.abs(apart) <= radius) & (log_odds >= log_odds[0] - LESS_LIKELY)
    return int(np.where(fits, log_odds, -np.inf).argmax()) if fits.any() and not fits[0] else 0
