"""Geometry: the only place where voxels and millimetres meet.

Conventions, everywhere in autolmk:

- A *voxel* coordinate is in array order, (z, y, x) in 3D and (y, x) in 2D; index 0 is the **centre** of the first
  voxel, so an image of n voxels covers [-0.5, n - 0.5].
- A *physical* coordinate is (x, y, z) in mm in the LPS frame of DICOM and ITK (x to the patient's left, y to the
  posterior, z to the superior); (x, y) for images that have no third axis; in pixels where an image has no physical
  size.
- All coordinates are float64.

D is the number of array axes, P the number of physical axes; D <= P: a single slice of a volume keeps its 3D frame.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.nifti_header import RAS_TO_LPS, Form, ras_affine

FloatArray = npt.NDArray[np.float64]

LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # where x, y and z come from and lead to
LEANING = math.sin(math.pi / 8)  # share of an axis in a direction from which on its letter is named

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid of voxels in physical space.

    shape: D integers in array order. affine: (P + 1, D + 1) float64; physical = affine @ (voxel, 1).
    Raises ValueError where the shape is not positive or the affine has the wrong shape, is not finite or is singular.

    >>> geometry = Geometry.from_parts(shape=(10, 20, 30), spacing=(2.0, 1.0, 0.5), origin=(-5.0, 0.0, 100.0))
    >>> geometry.to_physical((1, 0, 4)).tolist()  # voxels count z, y, x; points x, y, z
    [-3.0, 0.0, 102.0]
    >>> geometry.to_voxels((-3.0, 0.0, 102.0)).tolist()
    [1.0, 0.0, 4.0]
    >>> geometry.crop(start=(1, 0, 4), shape=(2, 2, 2)).origin.tolist()
    [-3.0, 0.0, 102.0]
    """

    shape: tuple[int, ...]
    affine: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        if not 2 <= len(shape) <= 3 or min(shape) < 1:
            raise ValueError(f"shape must be 2 or 3 positive integers, got {self.shape}")
        if affine.ndim != 2 or affine.shape[1] != len(shape) + 1 or not len(shape) + 1 <= affine.shape[0] <= 4:
            raise ValueError(f"affine must be (P + 1, {len(shape) + 1}), {len(shape)} <= P <= 3, got {affine.shape}")
        if not np.isfinite(affine).all():
            raise ValueError("affine must be finite")
        if np.linalg.matrix_rank(affine[:-1, :-1]) < len(shape):
            raise ValueError("affine must not be singular")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_parts(
        cls,
        shape: Sequence[int],
        spacing: Sequence[float],
        origin: Sequence[float] | None = None,
        direction: npt.ArrayLike | None = None,
    ) -> Geometry:
        """Make a geometry from shape (D,) and spacing (D,) mm in array order, and origin (P,) mm of the first voxel's
        centre.

        direction: (P, D), column a is the unit vector of array axis a. Default: axis-aligned, origin 0.
        """
        d = len(shape)
        p = d if origin is None else len(origin)
        axes = np.eye(p)[:, ::-1][:, p - d :] if direction is None else np.asarray(direction, dtype=np.float64)
        affine = np.zeros((p + 1, d + 1))
        affine[:-1, :-1] = axes * np.asarray(spacing, dtype=np.float64)
        affine[:-1, -1] = 0.0 if origin is None else origin
        affine[-1, -1] = 1.0
        return cls(tuple(shape), affine)

    @classmethod
    def from_sitk(cls, image: Any) -> Geometry:
        """Take the geometry of a SimpleITK image (D = P = 2 or 3): its size, spacing, origin and direction, which are
        LPS.
        """
        d = image.GetDimension()
        direction = np.array(image.GetDirection(), dtype=np.float64).reshape(d, d)[:, ::-1]
        return cls.from_parts(image.GetSize()[::-1], image.GetSpacing()[::-1], image.GetOrigin(), direction)

    @classmethod
    def from_ras(cls, shape: Sequence[int], affine: npt.ArrayLike) -> Geometry:
        """Make the geometry of an array (i, j[, k]) whose (4, 4) matrix leads to RAS mm, as nibabel has it: reversed
        axes, LPS.

        A plane that says nothing of a third axis has P = 2.
        """
        lps = RAS_TO_LPS @ np.asarray(affine, dtype=np.float64)
        if len(shape) == 3:
            return cls(tuple(shape[::-1]), lps[:, [2, 1, 0, 3]])
        rows = [0, 1, 2, 3] if np.any(lps[2, :2]) else [0, 1, 3]
        return cls(tuple(shape[::-1]), lps[rows][:, [1, 0, 3]])

    @classmethod
    def from_nibabel(cls, image: Any, *, form: Form | None = None) -> Geometry:
        """Take the geometry of a nibabel image, whose affine is RAS and whose array is (i, j, k), by the rules for
        NIfTI files.

        form: which counts where qform and sform of a NIfTI header disagree. The array that belongs to this geometry is
        `image.get_fdata().transpose()`, (k, j, i); of an image with more axes, each of one element, without them.
        ValueError where a header contradicts itself, see
        `autolmk.nifti_header`. A bare matrix is refused, because nothing says which frame it is in: TypeError.
        """
        if not hasattr(image, "affine") or not hasattr(image, "shape"):
            raise TypeError(
                "from_nibabel needs a nibabel image, not a bare matrix, which does not say whether it is RAS or LPS; "
                "use Geometry(shape, affine) with an LPS affine in array order (z, y, x)"
            )
        shape = tuple(image.shape[:3])
        if len(shape) < 2 or any(n != 1 for n in image.shape[3:]):
            raise ValueError(f"from_nibabel needs an image of 2 or 3 axes, got {len(image.shape)}D: {image.shape}")
        header = getattr(image, "header", None)
        if header is None or "sform_code" not in getattr(header, "keys", tuple)():
            return cls.from_ras(shape, image.affine)
        affine, remarks = ras_affine(header, form)
        for problem, found, remedy in remarks:
            logger.warning("%s: %s; what to do: %s", problem, found, remedy)
        return cls.from_ras(shape, affine)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Geometry:
        """Read a geometry from JSON; inverse of `to_json`."""
        return cls(tuple(value["shape"]), np.array(value["affine"], dtype=np.float64))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, exact: Python's JSON writes the shortest decimal that reads back to the same float64."""
        return {"shape": list(self.shape), "affine": self.affine.tolist()}

    # -- looking at it ------------------------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """D, the number of array axes."""
        return len(self.shape)

    @property
    def physical_ndim(self) -> int:
        """P, the number of physical axes."""
        return int(self.affine.shape[0] - 1)

    @property
    def matrix(self) -> FloatArray:
        """The matrix (P, D) whose column a is one step along array axis a, in mm."""
        return self.affine[:-1, :-1]

    @property
    def origin(self) -> FloatArray:
        """The centre of the first voxel, (P,) mm."""
        return self.affine[:-1, -1]

    @property
    def spacing(self) -> tuple[float, ...]:
        """The voxels' spacing, (D,) mm in array order."""
        return tuple(float(s) for s in np.linalg.norm(self.matrix, axis=0))

    @property
    def direction(self) -> FloatArray:
        """The unit vectors of the array axes, (P, D)."""
        return np.asarray(self.matrix / np.linalg.norm(self.matrix, axis=0))

    @property
    def centre(self) -> FloatArray:
        """The middle of the grid, (P,) mm."""
        return self.to_physical((np.array(self.shape) - 1) / 2)

    @property
    def extent(self) -> tuple[float, ...]:
        """The side lengths, (D,) mm in array order, from voxel edge to voxel edge."""
        return tuple(n * s for n, s in zip(self.shape, self.spacing, strict=True))

    def is_close(self, other: Geometry, tolerance: float = 1e-3) -> bool:
        """Same shape, and no corner further apart than `tolerance` voxels."""
        if self.shape != other.shape or self.physical_ndim != other.physical_ndim:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(self.ndim, -1).T
        apart = np.linalg.norm(self.to_physical(corners) - other.to_physical(corners), axis=1).max()
        return bool(apart <= tolerance * min(self.spacing))

    # -- points -------------------------------------------------------------------------------------------------------

    def to_physical(self, voxels: npt.ArrayLike) -> FloatArray:
        """Voxels (..., D), array order, 0 = centre of the first voxel -> points (..., P) mm, LPS."""
        return np.asarray(voxels, dtype=np.float64) @ self.matrix.T + self.origin

    def to_voxels(self, points: npt.ArrayLike) -> FloatArray:
        """Points (..., P) mm, LPS -> voxels (..., D), array order. Where D < P, a point is projected onto the plane."""
        relative = np.asarray(points, dtype=np.float64) - self.origin
        inverse = np.linalg.inv(self.matrix) if self.ndim == self.physical_ndim else np.linalg.pinv(self.matrix)
        return relative @ inverse.T

    def contains(self, voxels: npt.ArrayLike, margin: float = 0.0) -> npt.NDArray[np.bool_]:
        """Whether voxels (..., D) lie within [-0.5 - margin, n - 0.5 + margin] on every axis; NaN does not."""
        v = np.asarray(voxels, dtype=np.float64)
        low, high = -0.5 - margin, np.array(self.shape) - 0.5 + margin
        return np.asarray(((v >= low) & (v <= high)).all(axis=-1))

    def map_to(self, other: Geometry) -> tuple[FloatArray, FloatArray]:
        """The map to another grid, matrix (D, D) and offset (D,), with `voxel_in_other = matrix @ voxel_in_self +
        offset`.
        """
        offset = other.to_voxels(self.origin)
        return (other.to_voxels(self.origin + self.matrix.T) - offset).T, offset

    # -- other grids --------------------------------------------------------------------------------------------------

    def crop(self, start: Sequence[float], shape: Sequence[int]) -> Geometry:
        """The grid of `shape` whose first voxel is this grid's voxel `start`; negative or beyond the end pads."""
        affine = self.affine.copy()
        affine[:-1, -1] = self.to_physical(start)
        return Geometry(tuple(shape), affine)

    def resampled(self, spacing: Sequence[float]) -> Geometry:
        """The same field of view at `spacing` (D,) mm: exactly this spacing, same centre, sides rounded to voxels."""
        factor = np.asarray(spacing, dtype=np.float64) / np.array(self.spacing)
        shape = np.maximum(1, np.round(np.array(self.shape) / factor)).astype(int)
        affine = self.affine.copy()
        affine[:-1, :-1] = self.matrix * factor
        affine[:-1, -1] = self.centre - affine[:-1, :-1] @ ((shape - 1) / 2)
        return Geometry(tuple(shape), affine)

    def window(self, centre: npt.ArrayLike, shape: Sequence[int], transform: npt.ArrayLike | None = None) -> Geometry:
        """A grid of `shape` voxels of this grid's size and direction, its middle at `centre` (P,) mm.

        transform: (P, P), applied to the axes: a rotation turns the window, a factor of 2 doubles its voxels' width.
        """
        matrix = self.matrix if transform is None else np.asarray(transform, dtype=np.float64) @ self.matrix
        affine = self.affine.copy()
        affine[:-1, :-1] = matrix
        affine[:-1, -1] = np.asarray(centre, dtype=np.float64) - matrix @ ((np.array(shape) - 1) / 2)
        return Geometry(tuple(shape), affine)

    def mirrored(self, axis: int) -> Geometry:
        """The grid whose array is this one's, reversed along array axis `axis`."""
        affine = self.affine.copy()
        affine[:-1, -1] += (self.shape[axis] - 1) * self.matrix[:, axis]
        affine[:-1, axis] *= -1
        return Geometry(self.shape, affine)

    def permuted(self, axes: Sequence[int]) -> Geometry:
        """The grid whose array is this one's, transposed by `axes`."""
        return Geometry(tuple(self.shape[a] for a in axes), self.affine[:, [*axes, self.ndim]])

    def canonical_axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The permutation, and the axes to reverse after it, that bring the array nearest to canonical orientation.

        That is: axes in the order (z, y, x), each pointing to larger physical coordinates. Obliquity stays.
        """
        nearest, direction = self._nearest_axes(), self.direction
        permutation = tuple(sorted(nearest, key=lambda a: -nearest[a]))
        flips = tuple(i for i, a in enumerate(permutation) if direction[nearest[a], a] < 0)
        return permutation, flips

    def _nearest_axes(self) -> dict[int, int]:
        """Array axis -> physical axis, each physical axis once, the closest match first."""
        strength, nearest = np.abs(self.direction), dict[int, int]()
        for _ in range(self.ndim):
            physical, axis = np.unravel_index(int(np.argmax(strength)), strength.shape)
            nearest[int(axis)] = int(physical)
            strength[physical, :] = -1
            strength[:, axis] = -1
        return nearest

    def array_axis(self, physical: int) -> int | None:
        """The array axis that canonical orientation takes for physical axis 0, 1, 2 (x, y, z); None where none is left,
        for a slice across it. Under strong obliquity that need not be the axis nearest to it."""
        return {place: axis for axis, place in self._nearest_axes().items()}.get(physical)

    def canonical(self) -> Geometry:
        """The grid in canonical orientation, see `canonical_axes`; the array follows with `image.canonical`."""
        permutation, flips = self.canonical_axes()
        result = self.permuted(permutation)
        for axis in flips:
            result = result.mirrored(axis)
        return result

    def frame(self) -> FloatArray:
        """The rotation (P, P) to the grid's own frame: the grid's own axes, each in the place (x, y, z) of the physical
        axis that it is nearest to and pointing the same way; the identity without obliquity. A single slice's normal
        takes the place that is left.
        """
        axes = self.canonical().direction[:, ::-1]
        if self.ndim < self.physical_ndim:
            place = 3 - sum(self._nearest_axes().values())  # the axis of 0, 1, 2 that is left
            axes = np.insert(axes, place, np.cross(axes[:, 0], axes[:, 1]), axis=1)
            axes[:, place] *= np.sign(np.linalg.det(axes))
        u, _, vt = np.linalg.svd(axes)  # a header may hold axes that are not quite at right angles
        return np.asarray(u @ vt)

    def orientation(self) -> str:
        """Letters of the directions in which x, y, z indices grow, such as LPS or RAS; D letters, no axis twice."""
        nearest, axes = self._nearest_axes(), reversed(range(self.ndim))
        return "".join(LETTERS[nearest[a]][int(self.direction[nearest[a], a] > 0)] for a in axes)

    def sides(self, axis: int) -> tuple[str, str]:
        """Letters of where an array axis comes from and where it leads, such as ("R", "L") for x of an LPS image.

        An oblique axis has a second letter where it leans by 22.5 degrees or more: ("RP", "LA"). Empty where P is 2.
        """
        if self.physical_ndim < 3:
            return "", ""
        lean: FloatArray = self.direction[:, axis]
        order = [a for a in np.argsort(-np.abs(lean), kind="stable")[:2] if abs(lean[a]) >= LEANING]
        ends = ("".join(LETTERS[a][int(sign * lean[a] > 0)] for a in order) for sign in (-1, 1))
        return next(ends), next(ends)

    def obliquity(self) -> float:
        """Largest angle, in degrees, between an array axis and the physical axis that it is nearest to."""
        cosine = np.abs(self.direction).max(axis=0).clip(0.0, 1.0)
        return float(np.degrees(np.arccos(cosine.min())))


def round_length(longest: float) -> float:
    """The longest of 1, 2 and 5 times a power of ten that is at most this long (above 0), for a scale bar."""
    power = 10.0 ** math.floor(math.log10(longest))
    return max(m * power for m in (1.0, 2.0, 5.0) if m == 1.0 or m * power <= longest * (1 + 1e-9))
