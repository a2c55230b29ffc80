"""Rules that every planner may use: from what the fingerprint says to single numbers of a configuration, each with its
reason. Pure functions. Array axes are (z, y, x) of canonical orientation, physical axes (x, y, z)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from autolmk.plans import Augmentation, Normalization, SliceGroup, digest
from autolmk.shape import FEWEST_POINTS, FEWEST_SHAPES

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

T = TypeVar("T")
Because = tuple[T, str]  # a number and its reason

ANISOTROPIC = 3.0  # spacing of the coarsest axis over the others' from which nnU-Net takes its finer percentile
ANY_POSE = 45.0  # degrees of rotation from which axes of an image change places
TRAIN_ANY_ANGLE = 120.0  # degrees, margin included, from which every angle is trained
ROTATION_MARGIN, ROTATION_FLOOR = 1.25, 10.0  # factor; degrees
FEWEST_POSES, UNKNOWN_ROTATION = 3, 30.0  # cases; degrees
SCALE_MARGIN, SCALE_FLOOR = 0.05, 0.10
SIGMA_INPUT, SIGMA_OUTPUT = 1.5, 1.0  # typical width: the larger of so many input voxels and so many output voxels
SIGMA_LEAST = 0.75  # output voxels: the least that decoding inverts
SIGMA_APART = 0.75  # of the distance between nearest landmarks, at most
OUTPUT_APART = 1.0  # output voxels between nearest landmarks that the output stride must leave: each has its channel
APART = 2.0  # output voxels between nearest landmarks that coarsening must leave
TRANSLATION_FLOOR = 2.0  # voxels
POSE_TELLS = 2.0  # times its residual that a shape must extend across its longest axis to tell a pose
POSE_DIFFERS = 5.0  # degrees, and per cent of size, from which windows follow the pose
POSE_FLOOR = 7.0  # degrees
POSE_SCALE = 0.05  # by which sizes differ beyond what the fit of the mean shape tells
SAME_SLICES = 0.95  # share of the cases whose slices must run across one direction
UNNAMED_NORMALIZATION = "zscore"
SCHEMES = {"ct": "ct", "nonorm": "none", "zscore": "zscore", "rescale_to_0_1": "rescale", "rgb_to_0_1": "rgb"}


def finest_spacing(fingerprint: Fingerprint) -> Because[tuple[float, ...]]:
    """nnU-Net's: the median an axis, and the 10th percentile along an axis that is three times coarser than the others
    while it also holds three times fewer voxels."""
    spacing = list(fingerprint.median_spacing)
    shape = fingerprint.median_shape
    worst = int(np.argmax(spacing))
    others = [i for i in range(len(spacing)) if i != worst]
    coarse = spacing[worst] > ANISOTROPIC * max(spacing[i] for i in others)
    if coarse and shape[worst] * ANISOTROPIC < min(shape[i] for i in others):
        finer = fingerprint.spacing_percentile_10[worst]
        spacing[worst] = max(finer, max(spacing[i] for i in others))
        return tuple(spacing), f"median spacing; 10th percentile on axis {worst}, which is more than 3 times coarser"
    return tuple(spacing), "median spacing of the cases"


def coarsened(spacing: Sequence[float], step: float) -> tuple[float, ...]:
    """Axes that are finer than `step` mm come to it; the others stay, so that coarsening first makes voxels cubes."""
    return tuple(max(s, step) for s in spacing)


def nearest_distance(fingerprint: Fingerprint) -> float:
    """mm: what three of four landmarks keep from their nearest neighbour; infinite for a single landmark."""
    known = [s.nearest_distance for s in fingerprint.landmark_statistics.values()]
    finite = [d for d in known if d is not None and math.isfinite(d) and d > 0]
    return float(np.percentile(finite, 25)) if finite else math.inf


def normalizations(fingerprint: Fingerprint) -> Because[tuple[Normalization, ...]]:
    """By channel name, as nnU-Net: CT with the numbers of the whole dataset, anything unknown case by case."""
    result, reasons = [], []
    for name, found in zip(fingerprint.channel_names, fingerprint.intensity, strict=True):
        scheme = SCHEMES.get(name.lower(), UNNAMED_NORMALIZATION)
        if scheme == "ct":
            result.append(
                Normalization(
                    "ct",
                    mean=found.foreground_mean,
                    std=max(found.std, 1e-8),
                    low=found.percentile_00_5,
                    high=found.percentile_99_5,
                )
            )
        else:
            result.append(Normalization(scheme))  # type: ignore[arg-type]
        reasons.append(f"{name}: {scheme}")
    return tuple(result), f"by channel name ({'; '.join(reasons)}); ct: with the numbers of all cases' foreground"


def heatmap_sigma(
    fingerprint: Fingerprint, spacing: Sequence[float], output_spacing: Sequence[float]
) -> Because[tuple[float, ...]]:
    """mm an axis: 1.5 of the finest input voxel or 1 output voxel, at most three quarters of the nearest-landmark
    distance, and on no axis less than 0.75 output voxels, below which decoding fails."""
    nearest = nearest_distance(fingerprint)
    typical = max(SIGMA_INPUT * min(spacing), SIGMA_OUTPUT * min(output_spacing))
    width = min(typical, SIGMA_APART * nearest)
    sigma = tuple(max(width, SIGMA_LEAST * s) for s in output_spacing)
    apart = "there is one landmark" if math.isinf(nearest) else f"landmarks are {nearest:.3g} apart"
    return sigma, (
        "1.5 input voxels or 1 output voxel, at most 3/4 of the distance between landmarks "
        f"({apart}), at least 0.75 output voxels"
    )


def augmentation(
    fingerprint: Fingerprint, spacing: Sequence[float], window: Sequence[float]
) -> tuple[Augmentation, dict[str, str]]:
    """Ranges from the measured pose spread. spacing (D,) mm; window: its sides (D,) mm."""
    rotation, why_rotation = rotation_range(fingerprint)
    scale, why_scale = scale_range(fingerprint)
    translation, why_translation = translation_range(fingerprint, spacing, window)
    mirror_axis, why_mirror = mirror_axis_of(fingerprint, rotation)
    intensity, why_intensity = intensity_strength(fingerprint)
    return Augmentation(rotation, scale, translation, mirror_axis, intensity), {
        "augmentation.rotation": why_rotation,
        "augmentation.scale": why_scale,
        "augmentation.translation": why_translation,
        "augmentation.mirror_axis": why_mirror,
        "augmentation.intensity": why_intensity,
    }


def rotation_range(fingerprint: Fingerprint) -> Because[tuple[float, ...]]:
    """Degrees about each physical axis: 1.25 times what 95 % of cases show, at least 10; from 120 on every angle, 180.
    Where too few cases show their pose, 30."""
    measured = fingerprint.pose.rotation
    if fingerprint.pose.n_cases < FEWEST_POSES:
        return (UNKNOWN_ROTATION,) * len(measured), f"fewer than {FEWEST_POSES} cases show their pose"
    ranges = [max(ROTATION_FLOOR, ROTATION_MARGIN * r) for r in measured]
    shown = ", ".join(f"{r:.0f}" for r in measured)
    return (
        tuple(180.0 if r >= TRAIN_ANY_ANGLE else round(r, 1) for r in ranges),
        f"the landmarks of 95 % of cases are turned by up to {shown} degrees; times 1.25, at least 10, from 120 on 180",
    )


def scale_range(fingerprint: Fingerprint) -> Because[tuple[float, float]]:
    """Factors: what 95 % of cases show, 5 % wider on each side, at least 0.9 to 1.1."""
    low, high = fingerprint.pose.scale
    return (
        (
            round(min(1 - SCALE_FLOOR, low * (1 - SCALE_MARGIN)), 4),
            round(max(1 + SCALE_FLOOR, high * (1 + SCALE_MARGIN)), 4),
        ),
        f"the landmarks of 95 % of cases are {low:.2f} to {high:.2f} times the mean's size; 5 % wider, at least 10 %",
    )


def translation_range(
    fingerprint: Fingerprint, spacing: Sequence[float], window: Sequence[float]
) -> Because[tuple[float, ...]]:
    """mm an axis (physical): half of how far 95 % of the configurations lie off the image centre, at least 2 voxels, at
    most an eighth of the window."""
    measured = fingerprint.pose.translation
    steps, sides = physical(spacing, len(measured)), physical(window, len(measured))
    ranges = [
        max(TRANSLATION_FLOOR * s, min(t / 2, side / 8)) for t, s, side in zip(measured, steps, sides, strict=True)
    ]
    shown = ", ".join(f"{t:.3g}" for t in measured)
    return (
        tuple(round(t, 4) for t in ranges),
        f"landmarks' middle is up to {shown} {fingerprint.unit} off the image's; half of that, 2 voxels to 1/8 window",
    )


def physical(values: Sequence[float], n: int) -> tuple[float, ...]:
    """Values of array axes (z, y, x) in the order of n physical axes (x, y, z); a missing axis takes the last one's."""
    ordered = list(values)[::-1]
    return tuple(ordered[min(i, len(ordered) - 1)] for i in range(n))


def mirror_axis_of(fingerprint: Fingerprint, rotation: Sequence[float]) -> Because[int | None]:
    """The axis (0 = x) across which windows may be mirrored, if every landmark has a partner or lies on the plane.

    It is an axis of the images' grids in canonical orientation. None also where the plane's normal, as the grids show
    it, is further off the axis than half of the rotation that is trained anyway: mirroring across an axis that is off
    by an angle turns the anatomy by twice that angle.
    """
    mirror = fingerprint.mirror
    if mirror is None:
        return None, "no mirror plane found"
    if not mirror.complete:
        return None, "some landmark has no mirror partner and does not lie on the mirror plane"
    normal = np.abs(np.asarray(mirror.normal, dtype=np.float64))
    axis = int(np.argmax(normal))
    off = math.degrees(math.acos(min(1.0, float(normal[axis] / np.linalg.norm(normal)))))
    if 2 * off > max(rotation):
        return None, f"the mirror plane is {off:.0f} degrees off the image grids, more than half of the rotation range"
    return axis, f"every landmark has a mirror partner or lies on the plane, {off:.0f} degrees off grid axis {axis}"


def intensity_strength(fingerprint: Fingerprint) -> Because[float]:
    """Half where every channel has an absolute scale (CT), else full."""
    absolute = all(SCHEMES.get(name.lower()) == "ct" for name in fingerprint.channel_names)
    return (0.5, "CT numbers are absolute: half strength") if absolute else (1.0, "intensities have no absolute scale")


def shape_prior(fingerprint: Fingerprint) -> Because[bool]:
    """Whether points are drawn toward the mean shape where a fold's held-out cases gain by it: only tried where
    landmarks and cases are many enough to support it."""
    points, cases = len(fingerprint.landmarks), fingerprint.n_cases
    if fingerprint.ndim < fingerprint.physical_ndim:
        return False, "single slices of volumes do not show the shape in space"
    return points >= FEWEST_POINTS and cases >= FEWEST_SHAPES, (
        f"{points} landmarks (at least {FEWEST_POINTS}) and {cases} cases (at least {FEWEST_SHAPES}) support it; "
        "each fold decides on its held-out cases"
    )


def extents_to_cover(fingerprint: Fingerprint, rotation: Sequence[float]) -> Because[tuple[float, ...]]:
    """mm an array axis that a window must span to hold the whole of (nearly) every image.

    The largest extent, but at most 1.5 medians (one whole-body scan among heads must not set the scale); axes that
    trained rotations of 45 degrees and more exchange take the larger one's.
    """
    extents = [
        min(largest, 1.5 * usual)
        for largest, usual in zip(fingerprint.max_extent, fingerprint.median_extent, strict=True)
    ]
    n = len(extents)
    if n == 2:  # an image or a single slice turns in its plane, by the largest of the angles; see sampling
        turning = [(max(rotation), (0, 1))]
    else:  # array axes that rotation about x, y, z mixes
        turning = list(zip(rotation, [(1, 0), (2, 0), (2, 1)], strict=True))
    reach = list(extents)
    for angle, (a, b) in turning:
        if angle >= ANY_POSE:
            reach[a] = reach[b] = max(reach[a], reach[b])
    turned = "; axes that rotation exchanges take the larger one" if reach != extents else ""
    return tuple(reach), f"the largest extent, at most 1.5 medians{turned}"


def tiles(extent: Sequence[float], window: Sequence[float]) -> int:
    """How many windows, overlapping by half, cover an image; both in mm."""
    return math.prod(max(1, math.ceil((e - w) / (w / 2) - 1e-9) + 1) for e, w in zip(extent, window, strict=True))


def iterations_per_epoch(
    fingerprint: Fingerprint, windows_per_case: int, batch_size: int, mirrored: bool, share: float, least: int
) -> Because[int]:
    """So many that validating a fifth of the cases after each epoch takes at most `share` of the time: a forward pass
    costs a third of a training step on the same window, reading and decoding are allowed as much again."""
    cases = max(1, math.ceil(fingerprint.n_cases / 5))
    steps = cases * windows_per_case * (2 if mirrored else 1) * (2 / 3) / batch_size
    wanted = math.ceil(steps * (1 - share) / share)
    return max(least, wanted), (
        f"validation of {cases} cases, {windows_per_case} windows each, costs about {steps:.0f} steps "
        f"and may take {share:.0%} of the time; at least {least}"
    )


def ema_decay(steps: float) -> Because[float]:
    """Weights are averaged over about a thirtieth of the training, 100 to 1000 steps."""
    horizon = min(1000.0, max(100.0, steps / 30))
    return round(1 - 1 / horizon, 5), f"an average over about {horizon:.0f} of about {steps:.0f} steps"


def data_identifier(spacing: Sequence[float], normalization: Sequence[Normalization]) -> str:
    """Folder of the preprocessed data: the spacing to read, and 6 digits of a digest of all that makes the voxels."""
    made = digest({"spacing": list(spacing), "normalization": list(normalization)})
    return "spacing_" + "x".join(f"{s:.3g}" for s in spacing) + "_" + made[:6]


def rounded(spacing: Sequence[float]) -> tuple[float, ...]:
    """To 6 significant digits, so that plans read well and digests do not hang on the last bit."""
    return tuple(float(f"{s:.6g}") for s in spacing)


# -- later stages, which look at a window a landmark ------------------------------------------------------------------


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
    """Of windows of `side` (D,) voxels a landmark: in the pose's frame what its fit may be off by, else the ranges of
    the images' poses. Mirrored, a window shows the partner's surroundings; in pose it is so at the shape's own plane,
    however that lies in the images."""
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
