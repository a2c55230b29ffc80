"""Measured: what a fold's training measured for prediction, kept beside its checkpoints in measured.json.

The mean shape comes from the fold's training cases only, the calibration of presence from its held-out cases only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.data.stage_windows import Placement, Shape
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, read_json, write_json
from autolmk.fold.point_errors import PointErrors
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks, Status
from autolmk.shapes.pose import left_out_deviations, mean_shape
from autolmk.shapes.row import Rows

VERSION = 1
FILE_NAME = "measured.json"
SCALE_MARGIN = 1.25  # beyond the smallest and the largest training configuration


@dataclass(frozen=True)
class Measured:
    """The numbers that a fold's training measured. mean_shape: name -> (P,) mm, centred; None where the training cases
    cannot tell one (too few points or cases). shape_spread: name -> root mean square distance (mm) of the training
    cases' points from the fitted mean shape. shape_residual: the same over all points. shape_cases: how many of them
    had enough points. scale_bounds: of a case's configuration over the mean shape, with margin. presence: likelihood =
    sigmoid(presence_slope * log_odds + presence_intercept + prior), calibrated on presence_cases held-out cases; 0 of
    them (fold `all`, or training unfinished) leaves the network's own log-odds as they are. prevalence: of landmarks
    that some training case lacks, the share of those that show it, of cases where that is known, half a case of each
    kind added; prior: its log-odds, 0 for other landmarks. untrained: landmarks that no training case shows, so that
    this fold's network knows nothing of them. placement: of a later stage's windows, from the errors of the stage
    before. decoding: what the codec measured on held-out cases, see `Codec.measure`. shape_left_out: as shape_spread,
    of cases that did not shape the mean; empty in files of earlier versions. errors: of the points on held-out cases,
    and whether they are drawn toward the mean shape; None in such files. rows: of look-alikes; None in such files, and
    of later stages, which keep the row that the first one chose.
    """

    mean_shape: dict[str, tuple[float, ...]] | None = None
    shape_spread: dict[str, float] = field(default_factory=dict)
    shape_residual: float | None = None
    shape_cases: int = 0
    scale_bounds: tuple[float, float] = (0.5, 2.0)
    presence_slope: float = 1.0
    presence_intercept: float = 0.0
    presence_cases: int = 0
    prevalence: dict[str, float] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()
    placement: Placement | None = None
    decoding: dict[str, Any] = field(default_factory=dict)
    shape_left_out: dict[str, float] = field(default_factory=dict)
    errors: PointErrors | None = None
    rows: Rows | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        sizes = {len(point) for point in (self.mean_shape or {}).values()}
        if len(sizes) > 1 or not sizes <= {2, 3}:
            raise ValueError(f"mean_shape must have 2 coordinates a point, or 3, got {sorted(sizes)}")
        distances = (*self.shape_spread.values(), *self.shape_left_out.values())
        if min(self.shape_cases, self.presence_cases, *distances) < 0:
            raise ValueError("numbers of cases and distances from the mean shape must be 0 or more")
        if not all(0 < share < 1 for share in self.prevalence.values()):
            raise ValueError("prevalence must be shares between 0 and 1")
        if not 0 < self.scale_bounds[0] <= self.scale_bounds[1]:
            raise ValueError(f"scale_bounds must be two factors above 0, the lower one first: {self.scale_bounds}")

    @classmethod
    def load(cls, fold_folder: Path) -> Measured:
        """Read the fold's measured.json. AutolmkError where it is missing or broken."""
        file = fold_folder / FILE_NAME
        value = read_json(file, remedy="restore it, or train this fold again")
        if isinstance(value, dict) and value.get("version") != VERSION:
            raise AutolmkError(
                "measurements of another version",
                file=file,
                found=value.get("version"),
                expected=f"version {VERSION}",
                remedy="update autolmk, or train again",
            )
        return from_json(cls, value, file=file)

    def shape(self, names: Sequence[str]) -> Shape | None:
        """The mean shape as (L, P) in the order of `names`; None where the training cases could not tell one."""
        if not self.mean_shape:
            return None
        nowhere = (float("nan"),) * len(next(iter(self.mean_shape.values())))
        points = np.array([self.mean_shape.get(name, nowhere) for name in names], dtype=np.float64)
        return Shape(points, self.scale_bounds)

    def prior(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """The log-odds (L,) of presence before an image is seen, in the order of `names`."""
        share = np.array([self.prevalence.get(name, 0.5) for name in names], dtype=np.float64)
        return np.asarray(np.log(share / (1 - share)))

    def save(self, fold_folder: Path) -> None:
        """Write measured.json into the fold's folder, atomically."""
        write_json(fold_folder / FILE_NAME, self)

    def held_out_as(self, other: Measured) -> Measured:
        """A copy with all that held-out cases told another run, trained on fewer cases: presence, decoding, errors,
        rows.
        """
        taken = ("presence_slope", "presence_intercept", "presence_cases", "decoding", "errors", "rows")
        return dataclasses.replace(self, **{name: getattr(other, name) for name in taken})

    def with_presence(self, *, slope: float, intercept: float, cases: int) -> Measured:
        """A copy with presence calibrated on `cases` held-out cases."""
        return dataclasses.replace(self, presence_slope=slope, presence_intercept=intercept, presence_cases=cases)


def measure(cases: Sequence[Landmarks]) -> Measured:
    """All that the training cases' landmarks (in the same order of names) tell: the shape, prevalence, what none
    shows. No point is drawn toward that shape until held-out cases tell that this helps."""
    names = cases[0].names if cases else ()
    shown = np.any([case.present for case in cases], axis=0) if cases else np.empty(0, dtype=bool)
    untrained = tuple(name for name, any_case in zip(names, shown, strict=True) if not any_case)
    errors = PointErrors(why="no held-out case has been looked at")
    return dataclasses.replace(measure_shape(cases), untrained=untrained, prevalence=_prevalence(cases), errors=errors)


def _prevalence(cases: Sequence[Landmarks]) -> dict[str, float]:
    """See `Measured`; of landmarks that some case shows and another one lacks."""
    if not cases:
        return {}
    present, absent = (sum((case.status == s).astype(int) for case in cases) for s in (Status.PRESENT, Status.ABSENT))
    counts = zip(cases[0].names, np.asarray(present).tolist(), np.asarray(absent).tolist(), strict=True)
    return {name: (shown + 0.5) / (shown + lacking + 1) for name, shown, lacking in counts if shown and lacking}


def measure_shape(cases: Sequence[Landmarks]) -> Measured:
    """The shape part, from the training cases' landmarks (all in the same order of names).

    No shape where fewer than P + 1 landmarks are ever present, or fewer than two cases hold P of them.
    """
    if not cases:
        return Measured()
    names = cases[0].names
    points = np.stack([case.points for case in cases])
    present = np.stack([case.present for case in cases])
    p = points.shape[2]
    enough = present.sum(axis=1) >= p
    if enough.sum() < 2 or present.any(axis=0).sum() <= p:
        return Measured()
    shape = mean_shape(points, present)
    residuals = np.full(points.shape[:2], np.nan)
    scales = []
    for row, pose in enumerate(shape.poses):
        if pose is not None and enough[row]:
            residuals[row] = np.linalg.norm(points[row] - pose.apply(shape.points), axis=1)
            scales.append(pose.scale)
    if not scales:
        return Measured()
    known: dict[str, Any] = {
        name: tuple(map(float, point))
        for name, point in zip(names, shape.points, strict=True)
        if np.isfinite(point).all()
    }
    points = np.where((present & enough[:, None])[..., None], points, np.nan)
    return Measured(
        mean_shape=known,
        shape_spread=_root_mean_squares(names, known, residuals),
        shape_left_out=_root_mean_squares(names, known, left_out_deviations(shape, points)),
        shape_residual=float(np.sqrt(np.nanmean(residuals**2))),
        shape_cases=len(scales),
        scale_bounds=(float(min(scales)) / SCALE_MARGIN, float(max(scales)) * SCALE_MARGIN),
    )


def _root_mean_squares(names: Sequence[str], known: dict[str, Any], distances: FloatArray) -> dict[str, float]:
    """name -> of the finite distances (N, L) mm, of the landmarks that are known and have one."""
    columns = {name: column[np.isfinite(column)] for name, column in zip(names, distances.T, strict=True)}
    return {n: float(np.sqrt((column**2).mean())) for n, column in columns.items() if n in known and len(column)}
