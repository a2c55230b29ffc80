"""Where a later stage looks: a window around each landmark that the stage before found, in training and in prediction.

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
from autolmk.shape import Similarity, fit_similarity

FEWEST = 4  # cases whose errors are resampled; with fewer, errors are Gaussian
COVERED = 99.0  # percentile of the errors along an axis that a window's half side holds
MARGIN = 6.0  # voxels between that error and the window's border: what the network sees around the landmark
WIDTH = 1.5  # a heatmap's width in typical errors: a narrower one than points can be told by learns their noise
WIDEST = 3.0  # times the plan's width, at most: a poor first stage says nothing of that
STRETCH = 1.5  # resampled errors are up to so many times as large, either way: few cases give many, later looks err
# less, and a mean error of the stage before, which these looks no longer have, must not be learnt as one to undo
BLUR = 0.5  # standard deviation of what is added to resampled errors, in typical errors


@dataclass(frozen=True)
class Placement:
    """What a fold's training measured of the stage before, on cases that this had not seen; kept in measured.json.

    side: (D,) voxels of a window. spread: mm an axis, typical size of an error (robust: from the median).
    errors: (R, L, P) mm in the frame in which windows lie, None where a case does not tell. cases: the R of them.
    sigma: (D,) mm, width of the heatmaps in the windows; empty: the plan's. longest, planned_sigma: (D,) what the plans
    said, the bounds of both; empty where unknown. why: how these came about. ValueError where the errors are no table.
    """

    side: tuple[int, ...]
    spread: float
    errors: tuple[tuple[tuple[float | None, ...], ...], ...] = ()
    cases: tuple[str, ...] = ()
    sigma: tuple[float, ...] = ()
    longest: tuple[int, ...] = ()
    planned_sigma: tuple[float, ...] = ()
    why: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = {len(case) for case in self.errors}
        columns = {len(point) for case in self.errors for point in case}
        if len(rows) > 1 or len(columns) > 1 or min(self.side, default=0) < 1:
            raise ValueError("side must be voxels, and errors must have as many landmarks and axes in each case")

    def holds(self, spacing: Sequence[float]) -> float:
        """Log-odds that a window, of voxels of `spacing` (D,) mm, holds its landmark: of the measured errors, one more
        inside and one more outside. 0 without measured errors."""
        errors = self._known()
        half = np.multiply(self.side, spacing)[::-1] / 2  # axes z, y, x; errors are x, y, z
        outside = int((np.abs(errors[:, : len(half)]) > half).any(axis=1).sum())
        return float(np.log((len(errors) - outside + 1) / (outside + 1))) if len(errors) else 0.0

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
    """How windows lie in one image. rotation: (P, P) from the frame's axes x, y, z to physical ones. direction: (P, D)
    of the windows' array axes. scale: of their voxels. expected: (L, P) where the fitted mean shape has the landmarks,
    NaN where it says nothing. pose: of that fit, None without one."""

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
        """(..., P) of the frame to physical mm."""
        return np.asarray(self.scale * errors @ self.rotation.T)

    def express(self, offsets: FloatArray) -> FloatArray:
        """Inverse of `carry`."""
        return np.asarray(offsets @ self.rotation / self.scale)


@dataclass(frozen=True, eq=False)
class Shape:
    """points: (L, P) mean shape, NaN where unknown. scale_bounds: of its fit."""

    points: FloatArray
    scale_bounds: tuple[float, float]

    def fit(self, points: FloatArray, initial: Similarity | None = None) -> Similarity | None:
        """To points (L, P), robust; None where no more than P of them are known."""
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
    """(P,) of the plane at which windows may be mirrored: of windows in pose that of the mean shape, along which
    partners lie apart, else that of the grid's axis. None where the plan forbids it, or the pose or partners are not
    known. partners: (L,) index of each landmark's, its own where it has none."""
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
    """(L, P) middles of the landmarks' windows: points where known, else where the mean shape has them, else NaN.

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
    rng: np.random.Generator, truth: FloatArray, frame: Frame, configuration: Configuration, placement: Placement
) -> FloatArray:
    """Points (L, P) as the stage before might have found them, for truth (L, P) that lies in `frame`; NaN rows stay."""
    n, p = truth.shape
    windows, sides = configuration.windows, np.multiply(placement.side, configuration.spacing)
    if windows.drawn != "measured":
        return truth + frame.carry(_drawn_off(rng, windows, np.resize(sides[::-1], p), n))
    if len(placement.errors) < FEWEST:
        width = windows.jitter * min(sides)
        return truth + frame.carry(rng.normal(0.0, min(width, 3 * placement.spread), (n, p)))
    errors = np.array(placement.errors, dtype=np.float64)
    drawn = errors[rng.integers(len(errors))]
    other = errors[rng.integers(len(errors), size=n), np.arange(n)]
    drawn = np.where(np.isfinite(drawn), drawn, other)
    drawn = np.where(np.isfinite(drawn), drawn, rng.normal(0.0, placement.spread, (n, p)))
    drawn = drawn * rng.uniform(-STRETCH, STRETCH) + rng.normal(0.0, BLUR * placement.spread, (n, p))
    return truth + frame.carry(drawn)


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
    """From the stage before on R held-out cases: found and truth (L, P) a case, NaN where there is none.

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
    side, why_side = _side(float(np.percentile(np.abs(known), COVERED)), configuration, multiple)
    return Placement(
        side=side,
        spread=spread,
        errors=rows,
        cases=tuple(cases),
        sigma=tuple(min(max(s, WIDTH * spread), WIDEST * s) for s in configuration.sigma),
        longest=longest,
        planned_sigma=configuration.sigma,
        why={
            "side": why_side,
            "errors": f"of {len(cases)} held-out cases, "
            + ("resampled a case at a time" if told else f"too few to resample (fewer than {FEWEST}): Gaussian"),
            "sigma": f"{WIDTH:g} times the typical error {spread:.3g}; the plan's to {WIDEST:g} times it",
        },
    )


def _side(covered: float, configuration: Configuration, multiple: Sequence[int]) -> tuple[tuple[int, ...], str]:
    """(D,) voxels that hold an error of `covered` mm along an axis and what lies around, within the plan's bounds."""
    longest = configuration.patch_size
    least = configuration.windows.least_side or longest
    side = []
    for n, shortest, spacing, m in zip(longest, least, configuration.spacing, multiple, strict=True):
        wanted = 2 * (covered / spacing + MARGIN)
        side.append(min(n, max(shortest, int(np.ceil(wanted / m)) * m)))
    return tuple(side), (
        f"{COVERED:g} % of held-out errors along an axis are below {covered:.3g}, and {MARGIN:g} voxels more, "
        f"within the plan's {list(least)} to {list(longest)}"
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
