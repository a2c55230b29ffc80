"""The windows of a later stage: a window around each landmark that the stage before found, in training and in
prediction.

With `Windows.pose` windows are turned and scaled as the mean shape of the training landmarks lies in the image, so that
a network sees each landmark from one side and at one size; else they lie as the image does. In training the points that
windows are cut around are the truth plus errors that the stage before made on cases that it had not seen, resampled a
whole case at a time in the pose of the anatomy.

Shapes: L landmarks, P physical axes, D image axes, R cases whose errors were measured. Everything in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from autolmk.geometry import FloatArray, Geometry
from autolmk.plans import Configuration, SliceGroup, Windows
from autolmk.shapes.pose import Similarity, fit_similarity

FEWEST = 4  # cases whose errors are resampled; with fewer, errors are Gaussian
COVERED = 99.0  # percentile of the errors along an axis that half the side of the first look's window holds
MARGIN = 6.0  # voxels between that error and the window's border: what the network sees around the landmark; of cubes
NARROWING = (
    4.0  # times that voxels become finer from one look to the next, at most: the next window must hold its misses
)
WIDTH = 1.5  # a heatmap's width in typical errors: a narrower one than points can be told by learns their noise
WIDEST = 3.0  # times the plan's width, at most: a poor first stage says nothing of that
STRETCH = 1.5  # resampled errors are up to so many times as large, either way: few cases give many, later looks err
# less, and a mean error of the stage before, which these looks no longer have, must not be learnt as one to undo
ROUNDING = 1e-6  # of a side
BLUR = 0.5  # standard deviation of what is added to resampled errors, in typical errors


def in_cubes(n: float, spacing: Sequence[float]) -> tuple[int, ...]:
    """The number of voxels (D,) of `spacing` (D,) mm that equals n cubes of the same volume: one length in mm along all
    axes, at least 1 voxel.
    """
    cube = np.exp(np.mean(np.log(spacing)))
    return tuple(max(1, round(float(n * cube / s))) for s in spacing)


@dataclass(frozen=True)
class Placement:
    """Measurements of the stage before, made in a fold's training on cases that this stage had not seen; kept in
    measured.json.

    side: (D,) voxels of a window. spread: mm an axis, typical size of an error (robust: from the median).
    errors: (R, L, P) mm in the frame in which windows lie, None where a case does not tell. cases: the R of them.
    sigma: (D,) mm, width of the heatmaps in the windows; empty: the plan's. longest, planned_sigma: (D,) what the plans
    said, the bounds of both; empty where unknown. spacings: (D,) mm of the windows' voxels in each look, from coarse
    to fine, where the planned spacing does not hold the errors; empty: the plan's, in all looks. why: how these came
    about. ValueError where the errors are no table.
    """

    side: tuple[int, ...]
    spread: float
    errors: tuple[tuple[tuple[float | None, ...], ...], ...] = ()
    cases: tuple[str, ...] = ()
    sigma: tuple[float, ...] = ()
    longest: tuple[int, ...] = ()
    planned_sigma: tuple[float, ...] = ()
    spacings: tuple[tuple[float, ...], ...] = ()
    why: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = {len(case) for case in self.errors}
        columns = {len(point) for case in self.errors for point in case}
        if len(rows) > 1 or len(columns) > 1 or min(self.side, default=0) < 1:
            raise ValueError("side must be voxels, and errors must have as many landmarks and axes in each case")
        if not all(len(look) == len(self.side) and min(look) > 0 for look in self.spacings):
            raise ValueError("spacings must be numbers above 0, one an axis each")

    def looks(self, planned: Sequence[float], rounds: int = 1) -> tuple[tuple[float, ...], ...]:
        """The spacing (D,) mm of the windows' voxels in each look; there are at least `rounds` looks, and the last ones
        are alike.
        """
        known = self.spacings or (tuple(planned),)
        return known + known[-1:] * (rounds - len(known))

    def holds(self, spacing: Sequence[float]) -> float:
        """Log-odds that a window, of voxels of `spacing` (D,) mm, holds its landmark: of the measured errors, one more
        inside and one more outside. 0 without measured errors."""
        n = len(self._known())
        outside = round(n * self.outside(spacing))
        return float(np.log((n - outside + 1) / (outside + 1))) if n else 0.0

    def outside(self, spacing: Sequence[float]) -> float:
        """Share of the measured errors that a window of voxels of `spacing` (D,) mm does not hold; 0 without any."""
        return _outside(self._known(), self.side, spacing)

    def log_tail(self, distances: npt.ArrayLike) -> FloatArray:
        """Logarithm of the share of measured errors that are at least as long as distances (...) mm of the frame,
        counting one more that is. 0 without measured errors."""
        errors = np.sort(np.linalg.norm(self._known(), axis=1))
        shorter = np.searchsorted(errors, np.asarray(distances, dtype=np.float64))
        return np.asarray(np.log((len(errors) - shorter + 1) / (len(errors) + 1)))

    def _known(self) -> FloatArray:
        """(N, P) of the errors."""
        if not self.errors:
            return np.empty((0, len(self.side)))
        errors = np.array(self.errors, dtype=np.float64).reshape(-1, len(self.errors[0][0]))
        return np.asarray(errors[np.isfinite(errors).all(axis=1)])


@dataclass(frozen=True, eq=False)
class Frame:
    """The orientation and scale of windows in one image. rotation: (P, P) from the frame's axes x, y, z to physical
    ones. direction: (P, D) of the windows' array axes. scale: of their voxels. expected: (L, P) where the fitted mean
    shape has the landmarks, NaN where it says nothing. pose: of that fit, None without one.
    """

    rotation: FloatArray
    direction: FloatArray
    scale: float
    expected: FloatArray
    pose: Similarity | None = None

    def window(
        self, centre: npt.ArrayLike, side: Sequence[int], spacing: Sequence[float], transform: FloatArray | None = None
    ) -> Geometry:
        """A window of `side` (D,) voxels of `spacing` (D,) mm, its middle at `centre` (P,); transform: (P, P)."""
        p, d = self.direction.shape
        affine = np.eye(p + 1, d + 1)
        affine[:-1, :-1] = self.direction * self.scale * np.asarray(spacing)
        affine[-1, :-1] = 0.0
        return Geometry(tuple(side), affine).window(centre, side, transform)

    def carry(self, errors: FloatArray) -> FloatArray:
        """Turn offsets (..., P) of the frame into physical mm."""
        return np.asarray(self.scale * errors @ self.rotation.T)

    def express(self, offsets: FloatArray) -> FloatArray:
        """Turn physical offsets (..., P) mm into those of the frame; inverse of `carry`."""
        return np.asarray(offsets @ self.rotation / self.scale)


@dataclass(frozen=True, eq=False)
class Shape:
    """The mean shape that windows are placed by. points: (L, P) mean shape, NaN where unknown. scale_bounds: of its
    fit.
    """

    points: FloatArray
    scale_bounds: tuple[float, float]

    def fit(self, points: FloatArray, initial: Similarity | None = None) -> Similarity | None:
        """Fit the mean shape to points (L, P), robustly; None where no more than P of them are known."""
        if np.isfinite(self.points + points).all(axis=1).sum() <= points.shape[1]:
            return None
        return fit_similarity(self.points, points, scale_bounds=self.scale_bounds, initial=initial).similarity


def frame_of(
    points: FloatArray, geometry: Geometry, windows: Windows, shape: Shape | None, initial: Similarity | None = None
) -> Frame:
    """The frame that points (L, P), NaN where there is none, give an image of `geometry`."""
    pose = None if shape is None else shape.fit(points, initial)
    expected = np.full(points.shape, np.nan) if pose is None or shape is None else pose.apply(shape.points)
    if not windows.pose or pose is None or geometry.ndim != geometry.physical_ndim:
        return Frame(geometry.frame(), geometry.direction, 1.0, expected, pose)
    return Frame(pose.rotation, pose.rotation[:, ::-1], pose.scale, expected, pose)


def mirror_normal(
    frame: Frame, geometry: Geometry, configuration: Configuration, shape: Shape | None, partners: Sequence[int]
) -> FloatArray | None:
    """The normal (P,) of the plane at which windows may be mirrored: for windows in pose the mean shape's, along which
    partners lie apart, else the grid axis's. None where the plan forbids it, or the pose or partners are not known.
    partners: (L,) index of each landmark's, its own where it has none.
    """
    axis = configuration.augmentation.mirror_axis
    if axis is None:
        return None
    if not configuration.windows.pose:
        return np.asarray(geometry.direction[:, geometry.array_axis(axis)])
    if shape is None or frame.pose is None:
        return None
    apart = shape.points - shape.points[list(partners)]
    apart = apart[np.isfinite(apart).all(axis=1)]
    if not apart.any():
        return None
    return np.asarray(frame.pose.rotation @ np.linalg.eigh(apart.T @ apart)[1][:, -1])


def centres(
    points: FloatArray, frame: Frame, geometry: Geometry, groups: Sequence[SliceGroup], names: Sequence[str]
) -> FloatArray:
    """The middles (L, P) of the landmarks' windows: points where known, else where the mean shape has them, else NaN.

    The windows of a group share their place across its slice: the median of its points.
    """
    result = np.where(np.isfinite(points), points, frame.expected)
    for group in groups:
        members = np.isin(names, group.landmarks)
        normal = geometry.direction[:, group.axis]
        along = result[members] @ normal
        if np.isfinite(along).any():
            shift = np.nanmedian(along) - along
            result[members] += shift[:, None] * normal
    return np.asarray(result)


def simulate(
    rng: np.random.Generator,
    truth: FloatArray,
    frame: Frame,
    configuration: Configuration,
    placement: Placement,
    less: float = 1.0,
) -> FloatArray:
    """Points (L, P) as the stage before might have found them, for truth (L, P) that lies in `frame`; NaN rows stay.
    less: factor of its errors, for looks after the first."""
    n, p = truth.shape
    windows, sides = configuration.windows, np.multiply(placement.side, configuration.spacing)
    if windows.drawn != "measured":
        return truth + frame.carry(_drawn_off(rng, windows, np.resize(sides[::-1], p), n))
    if len(placement.errors) < FEWEST:
        width = windows.jitter * min(np.multiply(placement.side, placement.looks(configuration.spacing)[0]))
        return truth + less * frame.carry(rng.normal(0.0, min(width, 3 * placement.spread), (n, p)))
    errors = np.array(placement.errors, dtype=np.float64)
    drawn = errors[rng.integers(len(errors))]
    other = errors[rng.integers(len(errors), size=n), np.arange(n)]
    drawn = np.where(np.isfinite(drawn), drawn, other)
    drawn = np.where(np.isfinite(drawn), drawn, rng.normal(0.0, placement.spread, (n, p)))
    drawn = drawn * rng.uniform(-STRETCH, STRETCH) + rng.normal(0.0, BLUR * placement.spread, (n, p))
    return truth + less * frame.carry(drawn)


def _drawn_off(rng: np.random.Generator, windows: Windows, sides: FloatArray, n: int) -> FloatArray:
    """(n, P) mm that windows of sides (P,) mm lie off their landmarks, as the plan says."""
    if windows.drawn == "uniform":
        return np.asarray(rng.uniform(-0.5, 0.5, (n, len(sides))) * sides)
    return np.asarray(rng.normal(0.0, windows.jitter, (n, len(sides))) * sides)


def measure_placement(
    cases: Sequence[str],
    found: Sequence[FloatArray],
    truth: Sequence[FloatArray],
    geometries: Sequence[Geometry],
    configuration: Configuration,
    shape: Shape | None,
    multiple: Sequence[int],
) -> Placement:
    """Measure the stage before on R held-out cases: found and truth (L, P) a case, NaN where there is none.

    multiple: (D,) voxels that sides must be multiples of. Without any error the plan's bounds stand.
    """
    windows, longest = configuration.windows, configuration.patch_size
    errors = []
    for one, other, geometry in zip(found, truth, geometries, strict=True):
        frame = frame_of(other, geometry, windows, shape)
        errors.append(frame.express(one - other))
    stacked = np.array(errors).reshape(len(cases), -1, geometries[0].physical_ndim if geometries else len(longest))
    known = stacked[np.isfinite(stacked)]
    if not len(known):
        jitter = windows.jitter * min(np.multiply(longest, configuration.spacing))
        why = {"side": "the plan's: nothing was measured", "errors": "Gaussian"}
        return Placement(longest, float(jitter), longest=longest, planned_sigma=configuration.sigma, why=why)
    spread = float(max(np.median(np.abs(known)) / 0.6745, 0.5 * min(configuration.spacing)))
    told = len(cases) >= FEWEST
    if windows.drawn != "measured":
        why = {"side": "the plan's", "errors": f"not resampled: drawn from a {windows.drawn} distribution, by the plan"}
        return Placement(longest, spread, longest=longest, planned_sigma=configuration.sigma, why=why)
    rows = tuple(tuple(tuple(_number(v) for v in row) for row in case) for case in stacked) if told else ()
    covered = np.nanpercentile(np.abs(stacked), COVERED, axis=(0, 1))[: len(longest)][::-1]  # of windows' axes
    side, why_side = _side(covered, configuration, multiple)
    spacings, why_spacings = _spacings(covered, side, configuration, geometries)
    why = {
        "side": why_side,
        "errors": f"of {len(cases)} held-out cases, "
        + ("resampled a case at a time" if told else f"too few to resample (fewer than {FEWEST}): Gaussian"),
        "sigma": f"{WIDTH:g} times the typical error {spread:.3g}; the plan's to {WIDEST:g} times it",
        "spacings": why_spacings,
    }
    first = spacings[0] if spacings else configuration.spacing
    if (2 * covered > np.multiply(side, first)).any():
        share = _outside(stacked[np.isfinite(stacked).all(axis=2)], side, first)
        why["outside"] = (
            f"{share:.1%} of held-out errors lie outside the windows of {_listed(np.multiply(side, first))}, which are "
            "no larger than the images; in prediction they are searched around"
        )
    sigma = tuple(min(max(s, WIDTH * spread), WIDEST * s) for s in configuration.sigma)
    bounds = (longest, configuration.sigma, spacings, why)
    return Placement(side, spread, rows, tuple(cases), sigma, *bounds)


def _side(covered: FloatArray, configuration: Configuration, multiple: Sequence[int]) -> tuple[tuple[int, ...], str]:
    """(D,) voxels that hold an error of `covered` (D,) mm and what lies around, within the plan's bounds."""
    longest, spacing = configuration.patch_size, configuration.spacing
    least = configuration.windows.least_side or longest
    wanted = 2 * (covered / spacing + in_cubes(MARGIN, spacing))
    side = [
        min(n, max(shortest, int(np.ceil(w / m)) * m))
        for n, shortest, w, m in zip(longest, least, wanted, multiple, strict=True)
    ]
    return tuple(side), (
        f"{COVERED:g} % of held-out errors are below {_listed(covered)} along the axes, and {MARGIN:g} voxels more, "
        f"within the plan's {list(least)} to {list(longest)}"
    )


def _spacings(
    covered: FloatArray, side: Sequence[int], configuration: Configuration, geometries: Sequence[Geometry]
) -> tuple[tuple[tuple[float, ...], ...], str]:
    """Of the looks, as `Placement`: the first one's windows, of `side` (D,) voxels, hold an error of `covered` (D,) mm
    and the margin in mm, as far as windows stay within the largest image; the last one's are the plan's. All axes grow
    alike, so that the network sees the same anatomy at another size."""
    spacing, rounds = configuration.spacing, configuration.windows.rounds
    extent = np.max([geometry.extent for geometry in geometries], axis=0)
    if configuration.windows.pose:  # windows lie as the anatomy does, whose axes may be any of the image's
        extent = np.full_like(extent, extent.max())
    sides = np.multiply(side, spacing)
    wanted = np.minimum(2 * (covered + np.multiply(in_cubes(MARGIN, spacing), spacing)), extent)
    factor = float((wanted / sides).max())
    if factor <= 1 + ROUNDING:
        return (), "the plan's: its windows hold the errors"
    factors = np.maximum(1, np.minimum(factor, extent / sides))
    looks = 1 if rounds == 1 else max(rounds, 1 + int(np.ceil(np.log(factor) / np.log(NARROWING) - ROUNDING)))
    powers = [1.0] if looks == 1 else np.linspace(1, 0, looks)
    found = tuple(tuple(float(f"{v:.6g}") for v in spacing * factors**power) for power in powers)
    return found, (
        f"windows of {_listed(sides)} do not hold {COVERED:g} % of the errors with what surrounds them "
        f"({_listed(wanted)}, no larger than the images): voxels {factor:.3g} times as wide"
        + (" in the first look, the plan's in the last" if looks > 1 else ", as there is one look")
    )


def _listed(values: Sequence[float] | FloatArray) -> str:
    return " x ".join(f"{v:.3g}" for v in values)


def _outside(errors: FloatArray, side: Sequence[int], spacing: Sequence[float]) -> float:
    """Share of errors (N, P) mm that windows of `side` (D,) voxels do not hold; 0 without any."""
    half = np.multiply(side, spacing)[::-1] / 2  # axes z, y, x; errors are x, y, z
    return float((np.abs(errors[:, : len(half)]) > half).any(axis=1).mean()) if len(errors) else 0.0


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
