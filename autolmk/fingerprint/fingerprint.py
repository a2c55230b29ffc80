"""Fingerprint: what a dataset says of itself, and all that a planner may know of it.

Lists an image axis are in array order (z, y, x) of canonical orientation, unless said `physical`: then x, y, z.
Lengths are in the dataset's unit: mm, or px for images without physical size.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, read_json, write_json
from autolmk.fingerprint.appearance import Appearance
from autolmk.fingerprint.case_pose import CasePose, case_pose, mean_pose, usual_of, voxel_side
from autolmk.fingerprint.consistency import contradiction
from autolmk.fingerprint.landmark_statistics import (
    CoSliceGroup,
    LandmarkStatistics,
    Pose,
    co_slice_groups,
    declared_slices,
    in_grids,
    landmark_statistics,
    pose_spread,
)
from autolmk.fingerprint.summary import CaseSummary, ChannelSummary, label_values, summarise
from autolmk.fingerprint.symmetry import mirror, pairs_from_names
from autolmk.imageio import files_of
from autolmk.parallel import default_workers, map_cases
from autolmk.shapes.pose import MeanShape, mean_shape, shape_deviations

if TYPE_CHECKING:
    from autolmk.dataset import Case, Dataset
    from autolmk.dataset.description import DeclaredSlice

VERSION = 2
FILE_NAME = "dataset_fingerprint.json"
FEWEST_SHOWN = 3  # cases that show a landmark, for the spread of its intensity to be known
BYTES_PER_STORED_BYTE = 16  # of memory that reading an image takes: compression, float32, working copies


@dataclass(frozen=True)
class CaseGeometry:
    """Geometry of one image in canonical orientation, and before it: letters of x, y, z directions, and degrees."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    obliquity: float


@dataclass(frozen=True)
class Intensity:
    """The intensities of one channel: over the foreground of all cases (see `data.foreground`), and at the landmarks;
    None where no landmark lies in its image.

    case_percentile_05, _50, _95: the (lowest, highest) over the cases of that percentile of a case's own foreground, in
    the file's values, see `foreground.foreground_quantiles`. told_apart: share of the cases in which background or
    padding was found around the foreground. unexplained: of the variance of normalised intensities at the landmarks,
    the share that differs from case to case at the same landmark, if normalised by the foreground, and by all but
    padding. None in fingerprints that older versions made, and unexplained where cases are too few.
    """

    foreground_mean: float
    std: float
    median: float
    percentile_00_5: float
    percentile_99_5: float
    min: float
    max: float
    landmarks_mean: float | None
    landmarks_std: float | None
    case_percentile_05: tuple[float, float] | None = None
    case_percentile_50: tuple[float, float] | None = None
    case_percentile_95: tuple[float, float] | None = None
    told_apart: float | None = None
    unexplained: tuple[float, float] | None = None


@dataclass(frozen=True)
class MirrorPlane:
    """Mirror plane of the landmarks. normal: (P,) unit length, as the images show it: x, y, z are their grids' axes in
    canonical orientation, not the patient's, see `in_grids`. residual: root mean square distance between reflected
    landmarks of the mean shape and their partners. complete: every landmark has a partner or lies on the plane."""

    normal: tuple[float, ...]
    residual: float
    complete: bool


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of a dataset, dataset_fingerprint.json.

    cases: of each training case's image. median_shape and shape percentiles: voxels of median_spacing; extents in mm.
    pairs: left/right partners, as dataset.json says or else as names and geometry do. midline: landmarks on the mirror
    plane. mean_shape: name -> (P,) physical, centred. shape_residual: root mean square distance of the cases' landmarks
    from it. label_maps: cases that have one. label_values: value -> in how many of them it occurs. failed: cases that
    could not be read and that nothing here speaks of. appearances, poses: how the cases' images look, by channel, and
    how their landmarks lie, mean_rotation (P, P) being the mean shape's mean pose in their grids: what new images are
    compared with, see `training_range`. Earlier versions wrote none of the three.
    """

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
    label_maps: int = 0
    label_values: dict[str, int] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    appearances: dict[str, tuple[Appearance, ...]] = field(default_factory=dict)
    poses: dict[str, CasePose] = field(default_factory=dict)
    mean_rotation: tuple[tuple[float, ...], ...] = ()
    version: int = VERSION

    @classmethod
    def load(cls, file: Path) -> Fingerprint:
        """Read and check dataset_fingerprint.json. AutolmkError names the key at fault."""
        value = read_json(file, remedy="run autolmk_extract_fingerprint again")
        if not isinstance(value, dict) or value.get("version") != VERSION:
            raise AutolmkError(
                "this is no fingerprint of this version of autolmk",
                file=file,
                found=f"version {value.get('version')!r}" if isinstance(value, dict) else "no object",
                expected=f"version {VERSION}",
                remedy="run autolmk_extract_fingerprint again",
            )
        found = from_json(cls, value, file=file)
        fault = contradiction(found)
        if fault is not None:
            raise AutolmkError(
                "a fingerprint contradicts itself",
                file=file,
                found=fault,
                remedy="run autolmk_extract_fingerprint again",
            )
        return found

    def save(self, file: Path) -> None:
        """Write the fingerprint to a file, atomically."""
        write_json(file, self)


def extract_fingerprint(dataset: Dataset, *, workers: int | None = None, progress: bool = True) -> Fingerprint:
    """The fingerprint of the training cases; each image is read once, in `workers` processes (None: as many as fit).

    With 0, in this process. A case that cannot be read is named in `failed`. AutolmkError where no case is left.
    """
    cases = {case.identifier: case for case in dataset.cases("Tr")}
    count = default_workers(largest_case_bytes(cases.values())) if workers is None else workers
    label = "reading cases" if progress else None
    results = dict(map_cases(partial(summarise_case, dataset), cases, workers=count, progress=label))
    summaries = {case: r for case, r in results.items() if not isinstance(r, AutolmkError)}
    failed = {case: r for case, r in results.items() if isinstance(r, AutolmkError)}
    if failed and not summaries:
        raise next(iter(failed.values()))
    return fingerprint_of(
        summaries,
        dataset_name=dataset.name,
        unit=dataset.unit,
        channel_names=dataset.channel_names,
        pairs=dataset.pairs,
        slices=dataset.co_slice_groups,
        failed=tuple(sorted(failed)),
    )


def summarise_case(dataset: Dataset, case: Case) -> CaseSummary:
    """Read one case's image and landmarks. AutolmkError names the case."""
    image = dataset.read_image(case)
    landmarks = dataset.read_landmarks(case, image.geometry)
    summary = summarise(image, landmarks, subject=case.subject, case=case.identifier)
    labels = dataset.read_labels(case, image.geometry)
    return summary if labels is None else dataclasses.replace(summary, labels=label_values(labels))


def largest_case_bytes(cases: Iterable[Case]) -> int:
    """Memory that reading the largest case may take, judged by the size of its files."""
    sizes = [sum(_stored_bytes(file) for file in case.images) for case in cases]
    return BYTES_PER_STORED_BYTE * max(sizes, default=0)


def _stored_bytes(file: Path) -> int:
    return sum(f.stat().st_size for f in files_of(file) if f.is_file())


def fingerprint_of(
    summaries: Mapping[str, CaseSummary],
    *,
    dataset_name: str,
    unit: Literal["mm", "px"],
    channel_names: Sequence[str],
    pairs: Sequence[tuple[str, str]] = (),
    slices: Sequence[DeclaredSlice] | None = None,
    failed: Sequence[str] = (),
) -> Fingerprint:
    """The fingerprint made of what the cases said, in the order of their names. pairs: those that dataset.json
    declares, which go before those that names and geometry show. slices: groups that it declares, instead of those that
    the annotations show; None where it declares none. AutolmkError where there is no case or no landmark is present in
    any.
    """
    cases = [summaries[name] for name in sorted(summaries)]
    landmarks, geometries = [case.landmarks for case in cases], [case.geometry for case in cases]
    if not cases or not any(case.present.any() for case in landmarks):
        raise AutolmkError(
            f"the dataset {dataset_name} has no annotated case",
            found=f"{len(cases)} readable training cases" + (f", {len(failed)} that cannot be read" if failed else ""),
            expected="at least one case with at least one landmark",
            remedy="run autolmk_check, which names every fault",
        )
    if len({geometry.physical_ndim for geometry in geometries}) > 1:
        raise AutolmkError(
            f"the dataset {dataset_name} mixes plane images and slices of volumes",
            found=", ".join(f"{name}: {summaries[name].geometry.physical_ndim} axes" for name in sorted(summaries)),
            expected="the same number of physical axes in all cases",
            remedy="run autolmk_check, which names the cases to convert",
        )
    names = landmarks[0].names
    shape = mean_shape(np.stack([case.points for case in landmarks]))
    deviations = shape_deviations(shape, np.stack([case.points for case in landmarks]))
    residual = float(np.sqrt(np.nanmean(deviations**2))) if np.isfinite(deviations).any() else 0.0
    symmetry = mirror(shape.points, names, pairs or None)
    normal = in_grids(symmetry.normal, shape, geometries) if symmetry else None
    seen = np.asarray(np.isfinite(shape.points).all(axis=1))
    statistics = landmark_statistics(landmarks, geometries, deviations)
    return Fingerprint(
        dataset_name=dataset_name,
        ndim=geometries[0].ndim,
        physical_ndim=geometries[0].physical_ndim,
        unit=unit,
        n_cases=len(cases),
        n_subjects=len({case.subject for case in cases}),
        channel_names=tuple(channel_names),
        landmarks=names,
        **_grids(summaries),
        intensity=tuple(_intensity([case.channels[c] for case in cases]) for c in range(len(cases[0].channels))),
        landmark_statistics=statistics,
        pairs=symmetry.pairs if symmetry else tuple(pairs) or pairs_from_names(names),
        midline=symmetry.midline if symmetry else (),
        mirror=MirrorPlane(_floats(normal), symmetry.residual, symmetry.complete)
        if symmetry and normal is not None
        else None,
        pose=pose_spread(shape, geometries, residual),
        mean_shape={name: _floats(shape.points[i]) for i, name in enumerate(names) if seen[i]},
        shape_residual=residual,
        co_slice_groups=co_slice_groups(landmarks, geometries, shape.points)
        if slices is None
        else declared_slices(slices, geometries),
        label_maps=sum(case.labels is not None for case in cases),
        label_values=_label_values(cases),
        failed=tuple(failed),
        appearances={name: summaries[name].appearances for name in sorted(summaries) if summaries[name].appearances},
        **_poses(summaries, shape, statistics, residual),
    )


def _poses(
    summaries: Mapping[str, CaseSummary],
    shape: MeanShape,
    statistics: Mapping[str, LandmarkStatistics],
    residual: float,
) -> dict[str, Any]:
    """The fields about how landmarks lie."""
    names = sorted(summaries)
    geometries = [summaries[name].geometry for name in names]
    mean = mean_pose(shape, geometries)
    if mean is None:
        return {}
    voxel = voxel_side(np.median([g.canonical().spacing for g in geometries], axis=0).tolist())
    deviations = [statistics[name].shape_deviation for name in summaries[names[0]].landmarks.names]
    usual = usual_of(shape.points, mean, deviations, residual, voxel)
    found = {name: case_pose(summaries[name].landmarks.points, summaries[name].geometry, usual) for name in names}
    poses = {name: pose[0] for name, pose in found.items() if pose is not None}
    return {"poses": poses, "mean_rotation": tuple(_floats(row) for row in mean)}


def _label_values(cases: Sequence[CaseSummary]) -> dict[str, int]:
    count = Counter(value for case in cases for value in case.labels or ())
    return {str(value): count[value] for value in sorted(count)}


def _grids(summaries: Mapping[str, CaseSummary]) -> dict[str, Any]:
    """The fields about spacing and shape."""
    cases = {}
    for name in sorted(summaries):
        native = summaries[name].geometry
        canonical = native.canonical()
        cases[name] = CaseGeometry(canonical.shape, canonical.spacing, native.orientation(), native.obliquity())
    spacings = np.array([case.spacing for case in cases.values()])
    extents = np.array([case.shape for case in cases.values()]) * spacings
    median_spacing = np.median(spacings, axis=0)
    low, middle, high = np.percentile(extents, [10, 50, 90], axis=0) / median_spacing
    return {
        "cases": cases,
        "median_spacing": _floats(median_spacing),
        "spacing_percentile_10": _floats(np.percentile(spacings, 10, axis=0)),
        "median_shape": _floats(middle),
        "shape_percentile_10": _floats(low),
        "shape_percentile_90": _floats(high),
        "median_extent": _floats(np.median(extents, axis=0)),
        "max_extent": _floats(extents.max(axis=0)),
    }


def _intensity(cases: Sequence[ChannelSummary]) -> Intensity:
    """Of one channel; every case counts alike, however large."""
    values = np.concatenate([case.samples for case in cases]).astype(np.float64)
    at_landmarks = np.concatenate([case.at_landmarks for case in cases])
    at_landmarks = at_landmarks[np.isfinite(at_landmarks)]
    low, middle, high = np.percentile(values, [0.5, 50, 99.5])
    quantiles = np.array([case.quantiles for case in cases])
    ranges = [(float(q.min()), float(q.max())) for q in quantiles.T]
    return Intensity(
        foreground_mean=float(values.mean()),
        std=float(values.std()),
        median=float(middle),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
        min=min(case.low for case in cases),
        max=max(case.high for case in cases),
        landmarks_mean=float(at_landmarks.mean()) if len(at_landmarks) else None,
        landmarks_std=float(at_landmarks.std()) if len(at_landmarks) else None,
        case_percentile_05=ranges[0],
        case_percentile_50=ranges[1],
        case_percentile_95=ranges[2],
        told_apart=float(np.mean([case.told_apart for case in cases])),
        unexplained=_unexplained(cases),
    )


def _unexplained(cases: Sequence[ChannelSummary]) -> tuple[float, float] | None:
    """See `Intensity`; of landmarks that three cases show, None where there are not two of them."""
    values = np.array([case.at_landmarks for case in cases])
    values = values[:, np.isfinite(values).sum(axis=0) >= FEWEST_SHOWN]
    if values.shape[1] < 2:
        return None
    shares = []
    for scheme in range(2):
        mean, std = np.array([case.scales[scheme] for case in cases]).T[:, :, None]
        normalized = (values - mean) / std
        within = float(np.nanvar(normalized, axis=0).mean())
        between = float(np.var(np.nanmean(normalized, axis=0)))
        shares.append(within / (within + between) if within + between > 0 else 0.0)
    return shares[0], shares[1]


def _floats(values: npt.ArrayLike) -> tuple[float, ...]:
    return tuple(float(v) for v in np.asarray(values).ravel())
