"""Rules that every planner may use: from what the fingerprint says to single numbers of a configuration, each with its
reason. Pure functions. Array axes are (z, y, x) of canonical orientation, physical axes (x, y, z)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from autolmk.files.digest import digest
from autolmk.plans import Augmentation, Normalization, Windows
from autolmk.shapes.pose import FEWEST_POINTS, FEWEST_SHAPES

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint, Intensity

T = TypeVar("T")
Because = tuple[T, str]  # a number and its reason

ANISOTROPIC = 3.0  # spacing of the coarsest axis over the others' from which nnU-Net takes its finer percentile
ANY_POSE = 45.0  # degrees of rotation from which axes of an image change places
TRAIN_ANY_ANGLE = 120.0  # degrees, margin included, from which every angle is trained
ROTATION_MARGIN, ROTATION_FLOOR = 1.25, 10.0  # factor; degrees
FEWEST_POSES, UNKNOWN_ROTATION = 3, 30.0  # cases; degrees
SCALE_MARGIN, SCALE_FLOOR = 0.05, 0.10
FEW_CASES, MOST_WIDER = 20, 2.0  # cases, below which augmentation is wider than they show; times, at most
STRETCH, MOST_STRETCH = 0.2, 0.1  # of what ranges are wider by; at most
COVERED = 0.95  # share of the cases that the fingerprint's ranges of poses hold
SIGMA_INPUT, SIGMA_OUTPUT = 1.5, 1.0  # typical width: the larger of so many input voxels and so many output voxels
SIGMA_LEAST = 0.75  # output voxels: the least that decoding inverts
SIGMA_APART = 0.75  # of the distance between nearest landmarks, at most
OUTPUT_APART = 1.0  # output voxels between nearest landmarks that the output stride must leave: each has its channel
APART = 2.0  # output voxels between nearest landmarks that coarsening must leave
TRANSLATION_FLOOR = 2.0  # voxels
SMALLEST = 4  # voxels of a window, along each axis
AVERAGED = 30.0  # a training has so many horizons of the weights' average
ELSEWHERE, ACROSS_BORDER = 0.2, 0.1  # shares of windows across the image's border or beyond: of one window, of many
EXACT = 0.25  # share of training windows that are not interpolated
SPLINE_ORDER = (2, 1)  # of the others (2D, 3D)
LOW_PASS = "turned windows are smoothed only where they are coarser than the image"
SCHEMES = {"ct": "ct", "nonorm": "none", "zscore": "zscore", "rescale_to_0_1": "robust_rescale", "rgb_to_0_1": "rgb"}
OUTLIERS = (10.0, 90.0)  # percentiles of the foreground that tell outliers
RESCALED = (0.5, 99.5)  # percentiles of the foreground that become 0 and 1
AS_ALIKE = 1.25  # times as much variance between cases that the foreground's statistics may leave at landmarks
TOLD_APART = 0.8  # share of the cases whose foreground must be told from background, for its statistics to be used


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
    """The distance, mm, that three of four landmarks keep from their nearest neighbour; infinite for a single
    landmark.
    """
    known = [s.nearest_distance for s in fingerprint.landmark_statistics.values()]
    finite = [d for d in known if d is not None and math.isfinite(d) and d > 0]
    return float(np.percentile(finite, 25)) if finite else math.inf


def normalizations(fingerprint: Fingerprint) -> Because[tuple[Normalization, ...]]:
    """Normalizations by channel name, as nnU-Net: CT with the numbers of the whole dataset, anything unknown case by
    case, see `case_scheme`."""
    result, reasons = [], []
    for name, found in zip(fingerprint.channel_names, fingerprint.intensity, strict=True):
        unnamed, why = case_scheme(found)
        scheme = SCHEMES.get(name.lower(), unnamed)
        reason = f"{name}: {scheme}"
        if scheme == "ct":
            mean, std = found.foreground_mean, max(found.std, 1e-8)
            result.append(Normalization("ct", mean, std, found.percentile_00_5, found.percentile_99_5))
            reason += ", with the numbers of all cases' foreground"
        elif scheme in ("foreground", "robust"):
            result.append(Normalization(scheme, low=OUTLIERS[0], high=OUTLIERS[1]))  # type: ignore[arg-type]
            reason += f", {why}"
        elif scheme == "robust_rescale":
            result.append(Normalization("robust_rescale", low=RESCALED[0], high=RESCALED[1]))
        else:
            result.append(Normalization(scheme))  # type: ignore[arg-type]
        reasons.append(reason)
    return tuple(result), f"by channel name ({'; '.join(reasons)})"


def case_scheme(intensity: Intensity) -> Because[str]:
    """`foreground` where it is told from background or padding in four of five cases, and landmarks then look as much
    alike as without (their share of variance between cases is at most 1.25 times as large); else `robust`."""
    if intensity.told_apart is None:
        return "foreground", "as the fingerprint does not say in how many cases it is seen"
    share = f"{intensity.told_apart:.0%} of the cases show background or padding around the foreground"
    if intensity.told_apart < TOLD_APART:
        return "robust", f"as only {share}"
    if intensity.unexplained is None:
        return "foreground", f"as {share}"
    by_foreground, by_all = intensity.unexplained
    said = f"{by_foreground:.2f} of the variance at landmarks differs between cases, {by_all:.2f} by all but padding"
    return "foreground" if by_foreground <= AS_ALIKE * by_all else "robust", f"as {share}, and {said}"


def heatmap_sigma(
    fingerprint: Fingerprint, spacing: Sequence[float], output_spacing: Sequence[float]
) -> Because[tuple[float, ...]]:
    """The width of heatmaps, mm an axis: 1.5 of the finest input voxel or 1 output voxel, at most three quarters of the
    nearest-landmark distance, and on no axis less than 0.75 output voxels, below which decoding fails.
    """
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
    wider, why_wider = widening(fingerprint.pose.n_cases)
    rotation, why_rotation = rotation_range(fingerprint, wider)
    scale, why_scale = scale_range(fingerprint, wider)
    translation, why_translation = translation_range(fingerprint, spacing, window, wider)
    mirror_axis, why_mirror = mirror_axis_of(fingerprint, rotation)
    intensity, why_intensity = intensity_strength(fingerprint)
    stretch, why_stretch = stretch_range(fingerprint)
    return Augmentation(rotation, scale, translation, mirror_axis, intensity, stretch), {
        "augmentation.rotation": why_rotation + why_wider * (fingerprint.pose.n_cases >= FEWEST_POSES),
        "augmentation.scale": why_scale + why_wider,
        "augmentation.translation": why_translation + why_wider,
        "augmentation.mirror_axis": why_mirror,
        "augmentation.intensity": why_intensity,
        "augmentation.stretch": why_stretch,
    }


def widening(n_cases: int) -> Because[float]:
    """The factor by which a range that 95 % of n cases show must be widened to hold a new case as surely: for a normal
    spread, the half width of the prediction interval, t_(n-1) sqrt(1 + 1/n), over that of many cases (Hahn and Meeker,
    Statistical Intervals, 1991); at most 2, and 1 from 20 cases on.
    """
    if n_cases >= FEW_CASES:
        return 1.0, ""
    from scipy.special import stdtrit

    n, upper = max(2, n_cases), (1 + COVERED) / 2
    t, normal = (float(stdtrit(freedom, upper)) for freedom in (n - 1, math.inf))
    wider = round(min(MOST_WIDER, t * math.sqrt(1 + 1 / n) / normal), 3)
    return wider, f"; what was seen counts {wider:.2f} times, as {n_cases} cases tell it poorly (a t quantile)"


def stretch_range(fingerprint: Fingerprint) -> Because[float]:
    """The range in which each axis of a window by itself is stretched or shortened: a fifth of what few cases add to
    the ranges of poses, see `widening`, at most 0.1; so 0 from 20 cases on, which show how shapes differ.
    """
    cases = fingerprint.n_cases
    if cases >= FEW_CASES:
        return 0.0, f"{cases} cases show how shapes differ"
    stretch = round(min(MOST_STRETCH, STRETCH * (widening(cases)[0] - 1)), 3)
    return stretch, f"{cases} cases show few shapes: the fewer, the more, at most {MOST_STRETCH:g}"


def rotation_range(fingerprint: Fingerprint, wider: float = 1.0) -> Because[tuple[float, ...]]:
    """Degrees about each physical axis: 1.25 times what 95 % of cases show, at least 10; from 120 on every angle, 180.
    Where too few cases show their pose, 30. wider: times, see `widening`."""
    measured = fingerprint.pose.rotation
    if fingerprint.pose.n_cases < FEWEST_POSES:
        return (UNKNOWN_ROTATION,) * len(measured), f"fewer than {FEWEST_POSES} cases show their pose"
    ranges = [max(ROTATION_FLOOR, ROTATION_MARGIN * wider * r) for r in measured]
    shown = ", ".join(f"{r:.0f}" for r in measured)
    return (
        tuple(180.0 if r >= TRAIN_ANY_ANGLE else round(r, 1) for r in ranges),
        f"the landmarks of 95 % of cases are turned by up to {shown} degrees; times 1.25, at least 10, from 120 on 180",
    )


def scale_range(fingerprint: Fingerprint, wider: float = 1.0) -> Because[tuple[float, float]]:
    """The range of scales, as factors: what 95 % of cases show, 5 % wider on each side, at least 0.9 to 1.1. wider:
    times, see `widening`.
    """
    low, high = fingerprint.pose.scale
    return (
        (
            round(min(1 - SCALE_FLOOR, low**wider * (1 - SCALE_MARGIN)), 4),
            round(max(1 + SCALE_FLOOR, high**wider * (1 + SCALE_MARGIN)), 4),
        ),
        f"the landmarks of 95 % of cases are {low:.2f} to {high:.2f} times the mean's size; 5 % wider, at least 10 %",
    )


def translation_range(
    fingerprint: Fingerprint, spacing: Sequence[float], window: Sequence[float], wider: float = 1.0
) -> Because[tuple[float, ...]]:
    """The range of translations, mm a physical axis: half of how far 95 % of the configurations lie off the image
    centre, at least 2 voxels, at most an eighth of the window. wider: times, see `widening`.
    """
    measured = fingerprint.pose.translation
    steps, sides = physical(spacing, len(measured)), physical(window, len(measured))
    ranges = [
        max(TRANSLATION_FLOOR * s, min(wider * t / 2, side / 8))
        for t, s, side in zip(measured, steps, sides, strict=True)
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


def whole_windows(ndim: int) -> tuple[Windows, dict[str, str]]:
    """Windows that hold the whole image, as training draws them."""
    order = SPLINE_ORDER[int(ndim == 3)]
    return Windows("whole", 1.0, elsewhere=ELSEWHERE, exact=EXACT, order=order, low_pass="crossed"), {
        "windows": "one window holds the whole image",
        "windows.elsewhere": "so that windows beyond the training images' field of view say that no landmark is there",
        "windows.exact": "prediction interpolates nothing, which would smooth noise: nor do some training windows",
        "windows.order": "keeps more of the noise than 1" if order > 1 else "higher ones take three times as long",
        "windows.low_pass": LOW_PASS,
    }


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
    """The extent, mm an array axis, that a window must span to hold the whole of (nearly) every image.

    The largest extent, but at most 1.5 medians (one whole-body scan among heads must not set the scale); axes that
    trained rotations of 45 degrees and more exchange take the larger one's.
    """
    extents = [
        min(largest, 1.5 * usual)
        for largest, usual in zip(fingerprint.max_extent, fingerprint.median_extent, strict=True)
    ]
    reach = exchanged(extents, rotation)
    turned = "; axes that rotation exchanges take the larger one" if reach != extents else ""
    return tuple(reach), f"the largest extent, at most 1.5 medians{turned}"


def exchanged(extents: Sequence[float], rotation: Sequence[float]) -> list[float]:
    """Axes that rotations of 45 degrees and more exchange take the larger one's extent."""
    n = len(extents)
    if n == 2:  # an image or a single slice turns in its plane, by the largest of the angles; see sampling
        turning = [(max(rotation), (0, 1))]
    else:  # array axes that rotation about x, y, z mixes
        turning = list(zip(rotation, [(1, 0), (2, 0), (2, 1)], strict=True))
    reach = list(extents)
    for angle, (a, b) in turning:
        if angle >= ANY_POSE:
            reach[a] = reach[b] = max(reach[a], reach[b])
    return reach


def tiles(extent: Sequence[float], window: Sequence[float]) -> int:
    """The number of windows, overlapping by half, that cover an image; both in mm."""
    return math.prod(max(1, math.ceil((e - w) / (w / 2) - 1e-9) + 1) for e, w in zip(extent, window, strict=True))


def iterations_per_epoch(
    fingerprint: Fingerprint, windows_per_case: int, batch_size: int, mirrored: bool, share: float, least: int
) -> Because[int]:
    """The iterations of an epoch, so many that validating a fifth of the cases after each epoch takes at most `share`
    of the time: a forward pass costs a third of a training step on the same window, reading and decoding are allowed as
    much again.
    """
    cases = max(1, math.ceil(fingerprint.n_cases / 5))
    steps = cases * windows_per_case * (2 if mirrored else 1) * (2 / 3) / batch_size
    wanted = math.ceil(steps * (1 - share) / share)
    return max(least, wanted), (
        f"validation of {cases} cases, {windows_per_case} windows each, costs about {steps:.0f} steps "
        f"and may take {share:.0%} of the time; at least {least}"
    )


def ema_decay(steps: float) -> Because[float]:
    """Weights are averaged over about a thirtieth of the training, 100 to 1000 steps; a run of another length than
    planned over as many as this says for its own, see `training.schedule.average_decay`."""
    horizon = ema_horizon(steps)
    return round(1 - 1 / horizon, 5), f"an average over about {horizon:.0f} of about {steps:.0f} steps"


def ema_horizon(steps: float) -> float:
    """Steps over which a training of `steps` steps averages its weights."""
    return min(1000.0, max(100.0, steps / AVERAGED))


def data_identifier(spacing: Sequence[float], normalization: Sequence[Normalization]) -> str:
    """Folder of the preprocessed data: the spacing to read, and 6 digits of a digest of all that makes the voxels."""
    made = digest({"spacing": list(spacing), "normalization": list(normalization)})
    return "spacing_" + "x".join(f"{s:.3g}" for s in spacing) + "_" + made[:6]


def rounded(spacing: Sequence[float]) -> tuple[float, ...]:
    """Numbers rounded to 6 significant digits, so that plans read well and digests do not hang on the last bit."""
    return tuple(float(f"{s:.6g}") for s in spacing)
