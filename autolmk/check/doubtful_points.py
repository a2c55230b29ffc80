"""Numbers that are probably no points: codes for missing ones, and units that other programs would not believe."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autolmk.annotations import Annotation, Frame
from autolmk.check.report import Fault
from autolmk.dataset import Case, Dataset
from autolmk.errors import counted, some
from autolmk.geometry import Geometry

MILLIMETRES = {
    "um": 1e-3,
    "nm": 1e-6,
    "cm": 10.0,
    "dm": 100.0,
    "m": 1000.0,
    "km": 1e6,
    "inch": 25.4,
    "in": 25.4,
    "ft": 304.8,
}
ONE_VOXEL = 1.5  # within which all points of a case are not where they belong
HALF = 0.5  # of the points, that lie in the image if read as metres
LEAST_IMAGE = 8  # voxels along its shortest axis
FAR = 90.0  # from which a number that stands in all coordinates, outside the image, is taken for a code


def code_faults(dataset: Dataset, case: Case, annotation: Annotation, frame: Frame, geometry: Geometry) -> list[Fault]:
    """Present points that are probably a code for "not there": -1, 0 or a number such as -9999 in all coordinates.

    0 is taken for one where it is the image's corner, as in voxels, or where several points of the case stand there.
    Not looked for where dataset.json lists `missing_points`, be it an empty list.
    """
    if dataset.description.missing_points is not None:
        return []
    points = annotation.points[annotation.present]
    names = [name for name, there in zip(annotation.names, annotation.present.tolist(), strict=True) if there]
    flat = points if np.any(points[:, 2:] != 0) else points[:, :2]  # a third column of zeros says nothing
    value = flat[:, 0]
    same = (flat == value[:, None]).all(axis=1)
    outside = ~_inside(annotation, frame, geometry)[annotation.present]
    zero = same & (value == 0)
    corner = np.abs(geometry.to_voxels(np.zeros((1, geometry.physical_ndim)))).max() < ONE_VOXEL
    counts = frame == "voxel" or corner or np.count_nonzero(zero) > 1
    coded = (same & (value == -1)) | (zero & counts) | (same & outside & (np.abs(value) >= FAR))
    if not coded.any():
        return []
    codes = sorted({tuple(p) for p in flat[coded].tolist()})
    listed = ", ".join(f"[{', '.join(f'{x:g}' for x in code)}]" for code in codes)
    which = some([name for name, bad in zip(names, coded.tolist(), strict=True) if bad])
    return [
        Fault(
            "case",
            "points hold what is probably a code for missing ones",
            str(case.annotation),
            case.identifier,
            found=f"{listed} for {which}",
            expected="places in the image",
            remedy=f'write "missing_points": [{listed}] in dataset.json, and such points are unknown; or [] if they '
            "are places indeed",
        )
    ]


def unit_faults(case: Case, annotation: Annotation, frame: Frame, geometry: Geometry) -> list[Fault]:
    """A file that names another unit than mm: 3D Slicer writes there what it displays, and points in mm all the same.

    A warning where the points lie in the image as mm; a fault where they do so only if the unit is believed.
    """
    if annotation.unit is None:
        return []
    factor = MILLIMETRES.get(annotation.unit.lower())
    present = annotation.present
    as_mm = int(_inside(annotation, frame, geometry)[present].sum())
    scaled = 0 if factor is None else int(_inside(annotation, frame, geometry, factor)[present].sum())
    n = int(present.sum())
    spread = np.ptp(annotation.points[present], axis=0).max(initial=0)
    believed = scaled > as_mm or (n > 1 and scaled == n and spread < min(geometry.spacing))  # all in one voxel, as mm
    said = f"coordinateUnits {annotation.unit!r}; {as_mm} of {counted(n, 'point')} lie in the image if read as mm"
    if factor is not None:
        said += f", {scaled} if read as {annotation.unit}"
    return [
        Fault(
            "case" if believed else "warning",
            "the points of a file are in another unit than mm" if believed else "a file names another unit than mm",
            str(case.annotation),
            case.identifier,
            found=said,
            expected="points in mm, as 3D Slicer writes them whatever unit it displays",
            remedy="save the points in mm, and coordinateUnits mm"
            if believed
            else "nothing, if the points are right in 3D Slicer: they are read as mm, as it does",
        )
    ]


def extent_faults(case: Case, annotation: Annotation, frame: Frame, geometry: Geometry) -> list[Fault]:
    """Three points or more that all lie within about a voxel: metres, or coordinates from 0 to 1 over the image."""
    shown = annotation.present & np.isfinite(annotation.points).all(axis=1)
    voxels = geometry.to_voxels(annotation.physical_points(frame, geometry)[shown])
    if len(voxels) < 3 or np.ptp(voxels, axis=0).max() > ONE_VOXEL or not np.ptp(voxels, axis=0).any():
        return []
    if min(geometry.shape) < LEAST_IMAGE:
        return []
    low, high = annotation.points[shown].min(), annotation.points[shown].max()
    share, metres = low >= 0 and high <= 1, _inside(annotation, frame, geometry, 1000.0)[shown].mean() > HALF
    if not share and not metres:
        return []  # landmarks that are close, in an image that is coarse
    said = ", as numbers from 0 to 1 over the image's size do" if share else ", as numbers in m do"
    return [
        Fault(
            "case",
            "all points of a case lie in one voxel",
            str(case.annotation),
            case.identifier,
            found=f"{counted(len(voxels), 'point')} with coordinates from {low:g} to {high:g}{said}",
            expected="points in voxels" if frame == "voxel" else f"points in mm, {frame}",
            remedy="export the points again in that unit, or multiply them",
        )
    ]


def _inside(annotation: Annotation, frame: Frame, geometry: Geometry, factor: float = 1.0) -> npt.NDArray[np.bool_]:
    """(n,) bool: whether a point lies in the image, or at most a voxel outside."""
    points = annotation.physical_points(frame, geometry) * factor
    return np.asarray(geometry.contains(geometry.to_voxels(points), 1.0))
