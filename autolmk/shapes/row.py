"""Rows of look-alikes: which landmarks are mistaken for each other, and how they lie side by side in training cases.

Vertebrae, ribs, teeth and fingers look alike one by one; only the whole row tells which one is which. What a row needs
to be told apart is measured when training ends: the members from held-out cases, how they lie from training cases.

Each member is compared with its parents, the nearest members that come before it. Where training rows keep their
direction (`Row.straight`) displacements count, else distances alone: those to two or three parents forbid folding back.

Shapes: M members of a row, P physical axes. Everything in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.geometry import FloatArray, Geometry
from autolmk.shapes.pose import fit_similarity

VARIES = 0.15  # of a distance: standard deviation before any case is seen
MISSING = (1.0, 6.0)  # cost of a member that is missing though the image shows its place: least, most
SAME_PLACE = 0.3  # of the distance to the neighbour, within which two candidates are one place
BORDER = 0.5  # of the distance to the neighbour: what lies nearer to the image's end may as well be outside
BELIEVED = 20.0  # cases whose probabilities are taken to be as right as they say
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
    inside the image. scales: at which the row may lie, where rows differ in size by more than a tenth; all lengths are
    then those of scale 1; empty where they count as they are. ValueError where lengths disagree.
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
    scales: tuple[float, ...] = ()

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
        """The distance, (M,) mm, within which candidates of members are one place."""
        return SAME_PLACE * np.array(self.neighbour)

    def at_scales(self) -> list[Row]:
        """The row as it may lie in an image, at each of its scales."""
        return [self._at_scale(scale) for scale in self.scales] or [self]

    def _at_scale(self, scale: float) -> Row:
        return replace(
            self,
            distances=_times(self.distances, scale),
            neighbour=_times(self.neighbour, scale),
            offsets=_times(self.offsets, scale),
            covariances=_times(self.covariances, scale**2),
            middle=_times(self.middle, scale),
            extent=_times(self.extent, scale),
            middle_covariance=_times(self.middle_covariance, scale**2),
            scales=(),
        )


def _times(values: tuple[Any, ...], factor: float) -> tuple[Any, ...]:
    """Nested tuples of numbers, each times a factor."""
    return tuple(_times(value, factor) if isinstance(value, tuple) else value * factor for value in values)


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
        """Factor on probabilities: right choices over those expected on held-out cases, as if twenty more had been as
        expected, and half a one wrong."""
        return (min(self.right, self.expected) + BELIEVED) / (self.expected + BELIEVED + 0.5)

    @classmethod
    def pooled(cls, folds: Sequence[Rows]) -> Rows:
        """Pool the rows of several folds, whose scores are averaged: the longest rows of any that share no member;
        means of the temperatures' logarithms and of levels; counts added; used where folds with most held-out cases use
        them.
        """
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


def expected_places(points: FloatArray, offsets: FloatArray) -> FloatArray:
    """The places (M, P) where each member would be beside the nearest one that has a place in points (M, P), NaN for
    none; the ones that have a place where that is. All NaN without any.
    """
    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    if not len(known):
        return np.full_like(points, np.nan)
    apart = np.linalg.norm(offsets[:, None] - offsets[known], axis=2)
    nearest = known[apart.argmin(axis=1)]
    return np.asarray(points[nearest] + offsets - offsets[nearest])


def places_beside(shape: FloatArray, points: FloatArray, which: npt.NDArray[np.int_]) -> FloatArray:
    """The places (M, P) where the mean shape (L, P), fitted to points (L, P), NaN where not to count, puts the
    landmarks `which` (M); NaN where the points are too few, or on a line.
    """
    both = np.isfinite(shape).all(axis=1) & np.isfinite(points).all(axis=1)
    nothing = np.full((len(which), shape.shape[1]), np.nan)
    if both.sum() <= shape.shape[1]:
        return nothing
    extent = np.linalg.svd(shape[both] - shape[both].mean(axis=0), compute_uv=False)
    if extent[1] < 0.05 * extent[0]:
        return nothing
    return fit_similarity(shape[both], points[both]).similarity.apply(shape[which])


def physical_extent(geometry: Geometry) -> FloatArray:
    """The extent (P,) mm of the image along the physical axes."""
    return np.asarray(np.abs(geometry.direction) @ np.array(geometry.extent))


def well_inside(geometry: Geometry, points: FloatArray, margin: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether points (N, P) lie further than `margin` (N,) mm inside the image."""
    voxels = geometry.to_voxels(points)
    edge = np.minimum(voxels + 0.5, np.array(geometry.shape) - 0.5 - voxels) * np.array(geometry.spacing)
    return np.asarray(edge.min(axis=1) > margin)
