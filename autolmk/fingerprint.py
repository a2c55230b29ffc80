"""Fingerprint: what a dataset says of itself, and all that a planner may know of it.

Lists an image axis are in array order (z, y, x) of canonical orientation, unless said `physical`: then x, y, z.
Lengths are in the dataset's unit: mm, or px for images without physical size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autolmk.errors import AutolmkError
from autolmk.serialization import from_json, read_json, write_json

VERSION = 1


@dataclass(frozen=True)
class CaseGeometry:
    """Of one image in canonical orientation, and how it lay before: letters of the x, y, z directions, and degrees."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    obliquity: float


@dataclass(frozen=True)
class Intensity:
    """Of one channel: over the foreground of all cases (see `summary.foreground`), and at the landmarks. None: no landmark
    was seen."""

    foreground_mean: float
    std: float
    median: float
    percentile_00_5: float
    percentile_99_5: float
    min: float
    max: float
    landmarks_mean: float | None
    landmarks_std: float | None


@dataclass(frozen=True)
class LandmarkStatistics:
    """n_*: cases by status. spread: (P,) physical, standard deviation of its place about the images' centres. nearest_distance:
    to the nearest other landmark of the case, median over cases. None where too few cases show it."""

    n_present: int
    n_absent: int
    n_unknown: int
    spread: tuple[float, ...] | None
    nearest_distance: float | None


@dataclass(frozen=True)
class MirrorPlane:
    """Of the mean shape. normal: (P,) physical, unit length. residual: root mean square distance between reflected
    landmarks and their partners. complete: every landmark has a partner or lies on the plane."""

    normal: tuple[float, ...]
    residual: float
    complete: bool


@dataclass(frozen=True)
class Pose:
    """How the landmark configuration lies in the images, against its mean pose (Procrustes).

    n_cases: that had enough points to tell. rotation: degrees about physical x, y, z (2D: one number), 95th percentile of
    the size of the rotation vector's component; rotation_max: the largest angle. scale: 2.5th and 97.5th percentile of the
    factor. translation: (P,) physical, 95th percentile of the distance of the configuration's middle from the image's.
    """

    n_cases: int
    rotation: tuple[float, ...]
    rotation_max: float
    scale: tuple[float, float]
    translation: tuple[float, ...]


@dataclass(frozen=True)
class CoSliceGroup:
    """Landmarks that annotators placed in one slice. axis: array axis of the image as it lies in its file (for volumes
    axis 0 is the slice number), not of canonical orientation. note: which direction of the body that is."""

    axis: int
    names: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Fingerprint:
    """dataset_fingerprint.json. median_shape and shape percentiles: in voxels of median_spacing; extents in mm."""

    dataset_name: str
    ndim: int
    physical_ndim: int
    unit: Literal["mm", "px"]
    n_cases: int
    n_subjects: int
    channel_names: tuple[str, ...]
    landmarks: tuple[str, ...]
    cases: dict[str, CaseGeometry]
    median_spacing: tuple[float, ...]
    spacing_percentile_10: tuple[float, ...]
    median_shape: tuple[float, ...]
    shape_percentile_10: tuple[float, ...]
    shape_percentile_90: tuple[float, ...]
    median_extent: tuple[float, ...]
    max_extent: tuple[float, ...]
    intensity: tuple[Intensity, ...]
    landmark_statistics: dict[str, LandmarkStatistics]
    pairs: tuple[tuple[str, str], ...]
    midline: tuple[str, ...]
    mirror: MirrorPlane | None
    pose: Pose
    mean_shape: dict[str, tuple[float, ...]]
    shape_residual: float
    co_slice_groups: tuple[CoSliceGroup, ...]
    failed: tuple[str, ...] = ()
    version: int = VERSION

    @classmethod
    def load(cls, file: Path) -> Fingerprint:
        """Read and check dataset_fingerprint.json. AutolmkError names the key at fault."""
        value = read_json(file)
        if not isinstance(value, dict) or value.get("version") != VERSION:
            raise AutolmkError(
                "this is no fingerprint of this version of autolmk",
                file=file,
                found=f"version {value.get('version')!r}" if isinstance(value, dict) else "no object",
                expected=f"version {VERSION}",
                remedy="run autolmk_extract_fingerprint again",
            )
        return from_json(cls, value, file=file)

    def save(self, file: Path) -> None:
        """Write atomically."""
        write_json(file, self)
