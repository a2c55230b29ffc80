"""Rules for later stages, which look at a window a landmark: as `rules`, from what the fingerprint says to single
numbers of a configuration, each with its reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autolmk.planning.rules import (
    SMALLEST,
    Because,
    augmentation,
    exchanged,
    mirror_axis_of,
    rotation_range,
)
from autolmk.plans import Augmentation, SliceGroup
from autolmk.shapes.pose import FEWEST_POINTS, FEWEST_SHAPES

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

POSE_TELLS = 2.0  # times its residual that a shape must extend across its longest axis to tell a pose
POSE_DIFFERS = 5.0  # degrees, and per cent of size, from which windows follow the pose
POSE_FLOOR = 7.0  # degrees
POSE_SCALE = 0.05  # by which sizes differ beyond what the fit of the mean shape tells
SAME_SLICES = 0.95  # share of the cases whose slices must run across one direction


def slice_groups(fingerprint: Fingerprint) -> Because[tuple[SliceGroup, ...]]:
    """The fingerprint's co-slice groups, their axes those of canonical orientation: in the files these may lie in any
    order (without cases: in that one). Groups whose slices run across one direction in 95 % of the cases at least."""
    kept, reasons = [], []
    for group in fingerprint.co_slice_groups:
        axes = [_canonical_axis(case.orientation, group.axis) for case in fingerprint.cases.values()] or [group.axis]
        most = max(set(axes), key=lambda axis: (axes.count(axis), -axis))
        share = axes.count(most) / len(axes)
        kept += [SliceGroup(most, group.names)] if share >= SAME_SLICES else []
        said = "" if share >= SAME_SLICES else f", but these are so in {share:.0%} of the cases alone: left out"
        reasons.append(f"{', '.join(group.names)} share one of the {group.note}{said}")
    return tuple(kept), "; ".join(reasons) or "no landmarks share a slice of the images"


def _canonical_axis(orientation: str, axis: int) -> int:
    """The array axis (z, y, x) that canonical orientation makes of array axis `axis` of a volume's file."""
    letter = orientation[len(orientation) - 1 - axis]  # letters are of the indices x, y, z, array axes z, y, x
    return 2 - next(i for i, ends in enumerate(("RL", "AP", "IS")) if letter in ends)


def longest_window(
    fingerprint: Fingerprint, spacing: Sequence[float], multiple: Sequence[int]
) -> Because[tuple[int, ...]]:
    """The longest window around a landmark, (D,) voxels of `spacing` (D,) mm: multiples of `multiple` (D,) that the
    median image holds, but at least 4; axes that trained rotations exchange take the larger extent.
    """
    extents = exchanged(fingerprint.median_extent, rotation_range(fingerprint)[0])
    voxels = [
        max(math.ceil(SMALLEST / m), int(extent / s / m + 1e-6)) * m
        for extent, s, m in zip(extents, spacing, multiple, strict=True)
    ]
    return tuple(voxels), f"no larger than the median image ({'x'.join(f'{e:.4g}' for e in extents)})"


def pose_windows(fingerprint: Fingerprint) -> Because[bool]:
    """Whether windows turn and scale with the fitted mean shape: where enough landmarks, not on a line (in 3D: nor
    nearly), and enough cases tell it, where poses differ, and no landmarks share a slice of the image."""
    if fingerprint.ndim < fingerprint.physical_ndim:
        return False, "single slices of volumes do not show the shape in space"
    if slice_groups(fingerprint)[0]:
        return False, "landmarks were annotated slice by slice, and slices turn only within themselves"
    points, cases = len(fingerprint.landmarks), fingerprint.n_cases
    if len(_mean_shape(fingerprint)) < FEWEST_POINTS or cases < FEWEST_SHAPES:
        return False, (
            f"{points} landmarks (at least {FEWEST_POINTS}) and {cases} cases (at least {FEWEST_SHAPES}) would tell "
            "the mean shape's pose"
        )
    shape = _mean_shape(fingerprint)
    extent = np.linalg.svd(shape - shape.mean(axis=0), compute_uv=False) / math.sqrt(max(1, len(shape)))
    arranged = float(extent[1]) if len(extent) > 1 else 0.0
    if arranged < POSE_TELLS * fingerprint.shape_residual:
        return False, f"landmarks lie within {arranged:.3g} {fingerprint.unit} of a line: they do not tell a pose"
    turn, (low, high) = fingerprint.pose.rotation_max, fingerprint.pose.scale
    if turn < POSE_DIFFERS and high / low < 1 + POSE_DIFFERS / 100:
        return False, f"poses differ by {turn:.0f} degrees and {high / low - 1:.0%} in size at most: position is enough"
    return True, (
        f"{points} landmarks of {cases} cases tell the pose, which differs by up to {turn:.0f} degrees and "
        f"{high / low - 1:.0%} in size"
    )


def pose_error(fingerprint: Fingerprint) -> Because[float]:
    """Degrees by which the fit of the mean shape may be turned off: three standard errors, which are the shape's
    residual an axis over the root of its moment about the narrowest axis, at least 7."""
    shape = _mean_shape(fingerprint)
    moments = np.sort(np.linalg.svd(shape - shape.mean(axis=0), compute_uv=False))
    narrow = float(np.linalg.norm(moments[:2]) if len(moments) == 3 else np.linalg.norm(moments))
    error = math.degrees(fingerprint.shape_residual / math.sqrt(shape.shape[1]) / max(narrow, 1e-9))
    return min(30.0, max(POSE_FLOOR, round(3 * error, 1))), (
        f"the fit of the mean shape is good to {error:.2g} degrees; three times that, at least {POSE_FLOOR:g}"
    )


def window_augmentation(
    fingerprint: Fingerprint, spacing: Sequence[float], side: Sequence[int], pose: bool
) -> tuple[Augmentation, dict[str, str]]:
    """The augmentation of windows of `side` (D,) voxels a landmark: in the pose's frame what its fit may be off by,
    else the ranges of the images' poses. Mirrored, a window shows the partner's surroundings; in pose it is so at the
    shape's own plane, however that lies in the images."""
    image, why = augmentation(fingerprint, spacing, [n * s for n, s in zip(side, spacing, strict=True)])
    if slice_groups(fingerprint)[0]:
        image = dataclasses.replace(image, mirror_axis=None)
        why["augmentation.mirror_axis"] = "the windows of a slice are seen together, partners may be on another"
    if not pose:
        return image, why
    turn, why_turn = pose_error(fingerprint)
    mirror_axis, why_mirror = mirror_axis_of(fingerprint, (math.inf,))
    turned = dataclasses.replace(
        image,
        rotation=(turn,) * len(image.rotation),
        scale=(1 - POSE_SCALE, 1 + POSE_SCALE),
        mirror_axis=mirror_axis,
    )
    return turned, {
        **why,
        "augmentation.mirror_axis": why_mirror
        + ("; windows are mirrored at the mean shape's plane" if mirror_axis is not None else ""),
        "augmentation.rotation": why_turn,
        "augmentation.scale": f"the fit of the mean shape takes the size away; {POSE_SCALE:.0%} are left",
    }


def _mean_shape(fingerprint: Fingerprint) -> npt.NDArray[np.float64]:
    """(N, P) mm of the landmarks that have a place in it."""
    known = [point for point in fingerprint.mean_shape.values() if np.isfinite(point).all()]
    return np.array(known, dtype=np.float64).reshape(-1, fingerprint.physical_ndim)
