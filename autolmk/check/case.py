"""The faults that one case shows by itself. Runs in worker processes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from autolmk import imageio
from autolmk.annotations import FRAMES, Annotation, Frame
from autolmk.check.doubtful_points import code_faults, extent_faults, unit_faults
from autolmk.check.report import Fault, Severity, Split
from autolmk.dataset import Case, Dataset
from autolmk.errors import AutolmkError, some
from autolmk.fingerprint.summary import CaseSummary, label_values, summarise
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image

T = TypeVar("T")

INSIDE_SHARE = 0.95  # of the points that another frame must bring into the image
OUTSIDE_SHARE = 0.5  # of the points that must lie outside before other frames are tried
FRAME_WORDS = {"LPS": "mm, LPS", "RAS": "mm, RAS", "voxel": "voxel indices (x, y, z from 0)"}


@dataclass(frozen=True, eq=False)
class Findings:
    """The findings of one case. summary: None where it has a fault of its own. readings: frame -> (L, P) mm, LPS, the
    points read in each frame that is possible; NaN where not present. frame: that counts; own_frame: that the file
    names. other_frame: that brings the points into the image, where the one that counts does not. digest: of the image.
    names: of all points in the file.
    """

    split: Split
    case: Case
    faults: tuple[Fault, ...] = ()
    summary: CaseSummary | None = None
    digest: str | None = None
    frame: Frame | None = None
    own_frame: Frame | None = None
    other_frame: Frame | None = None
    names: tuple[str, ...] = ()
    readings: dict[Frame, FloatArray] = field(default_factory=dict)


def inspect_case(dataset: Dataset, item: tuple[Split, Case]) -> Findings:
    """Read one case and say what is wrong with it. Test cases may be without landmarks."""
    with imageio.noticed() as notices:
        findings = _inspect_case(dataset, *item)
    said = tuple(Fault.of_notice(n, item[1].identifier, item[0]) for n in notices)
    return replace(findings, faults=(*findings.faults, *said))


def _inspect_case(dataset: Dataset, split: Split, case: Case) -> Findings:
    faults: list[Fault] = []
    image, labels = _attempt(faults, case, lambda: dataset.read_image(case)), None
    if image is not None:
        _attempt(faults, case, lambda: imageio.require_contrast(image, case.images[0]))
        labels = _attempt(faults, case, lambda: dataset.read_labels(case, image.geometry))
    findings = Findings(split, case, digest=None if image is None else _digest(image))
    if split == "Ts" and case.annotation is None:
        return replace(findings, faults=_of_split(faults, split))
    annotation = _attempt(faults, case, lambda: dataset.read_annotation(case))
    if annotation is not None:
        faults += _file_faults(case, annotation, set(dataset.landmark_names))
        findings = replace(findings, own_frame=annotation.frame, names=tuple(dict.fromkeys(annotation.names)))
    if image is not None and annotation is not None and not any(fault.severity == "case" for fault in faults):
        findings = _placed(dataset, findings, image, annotation, faults)
    if findings.summary is not None and labels is not None:
        findings = replace(findings, summary=replace(findings.summary, labels=label_values(labels)))
    good = findings.other_frame is None and not any(fault.severity == "case" for fault in faults)
    return replace(findings, faults=_of_split(faults, split), summary=findings.summary if good else None)


def _of_split(faults: list[Fault], split: Split) -> tuple[Fault, ...]:
    return tuple(replace(fault, split=split) for fault in faults)


def _placed(
    dataset: Dataset, findings: Findings, image: Image, annotation: Annotation, faults: list[Fault]
) -> Findings:
    """With where the points lie in the image."""
    case = findings.case
    frame = _attempt(faults, case, lambda: dataset.frame_of(case, annotation))
    landmarks = None if frame is None else _attempt(faults, case, lambda: dataset.read_landmarks(case, image.geometry))
    if frame is None or landmarks is None:
        return findings
    whole = image.geometry
    if whole.ndim < whole.physical_ndim:  # a single slice: points must be in it, not only above it
        whole = dataset.read_geometry(case)
    readings = _readings(dataset, annotation, frame, landmarks.points, whole)
    other = _better_frame(readings, frame, whole)
    coded = code_faults(dataset, case, annotation, frame, whole)
    faults += coded + (unit_faults(case, annotation, frame, whole) or extent_faults(case, annotation, frame, whole))
    if other is None and not coded:
        faults += _outside_faults(case, landmarks.names, landmarks.points, whole)
    faults += _same_place(case, landmarks.names, landmarks.points, image.geometry)
    summary = summarise(image, landmarks, subject=case.subject, case=case.identifier)
    return replace(findings, frame=frame, other_frame=other, readings=readings, summary=summary)


def _attempt(faults: list[Fault], case: Case, action: Callable[[], T]) -> T | None:
    """The action's result, or None and a fault of the case."""
    try:
        return action()
    except AutolmkError as error:
        faults.append(Fault.of(error, "case", case=case.identifier))
        return None


def _digest(image: Image) -> str:
    return hashlib.blake2b(image.array.tobytes(), digest_size=16).hexdigest()


def frame_fault(
    case: Case,
    frame: Frame,
    other: Frame,
    own: bool,
    *,
    severity: Severity = "case",
    n: int = 1,
    split: Split | None = None,
) -> Fault:
    """The points of `n` cases, of which `case` is one, lie in the image only if read as `other`."""
    which = "the points of a case" if n == 1 else f"the points of {n} cases"
    remedy = (
        f"the file names its frame itself: export it again, or correct the frame in it to {other}"
        if own
        else f'write "coordinates": "{other}" in dataset.json'
    )
    fault = _fault(
        case,
        severity,
        f"{which} are in another frame than said",
        file=str(case.annotation),
        found=f"read as {FRAME_WORDS[frame]} they lie outside the image, as {FRAME_WORDS[other]} inside",
        expected=f"points in {FRAME_WORDS[frame]}",
        remedy=remedy,
    )
    return replace(fault, split=split)


def _fault(
    case: Case,
    severity: Severity,
    problem: str,
    *,
    file: str | None = None,
    found: str | None = None,
    expected: str | None = None,
    remedy: str | None = None,
) -> Fault:
    return Fault(severity, problem, file or str(case.annotation), case.identifier, found, expected, remedy)


def _file_faults(case: Case, annotation: Annotation, known: set[str]) -> list[Fault]:
    """Of the points as they stand in the file."""
    faults = []
    twice = [name for name, count in Counter(annotation.names).items() if count > 1 and name in known]
    if twice:
        faults.append(
            _fault(
                case,
                "case",
                "a landmark stands twice in an annotation",
                found=", ".join(twice),
                expected="each landmark once",
                remedy="remove the wrong one of the two",
            )
        )
    finite = np.asarray(np.isfinite(annotation.points).all(axis=1))
    lost = [
        n
        for n, p, ok in zip(annotation.names, annotation.present.tolist(), finite.tolist(), strict=True)
        if p and not ok
    ]
    if lost:
        faults.append(
            _fault(
                case,
                "case",
                "a landmark is called present, but has no finite coordinates",
                found=", ".join(lost),
                expected="finite numbers",
                remedy="place the point, or set its status to absent or unknown",
            )
        )
    if not annotation.present.any():
        faults.append(_fault(case, "warning", "a case has no present landmark", remedy="look whether that is meant"))
    return faults


def _readings(
    dataset: Dataset, annotation: Annotation, frame: Frame, declared: FloatArray, geometry: Geometry
) -> dict[Frame, FloatArray]:
    where = {name: i for i, name in enumerate(annotation.names)}
    rows = [where.get(name, -1) for name in dataset.landmark_names]
    readings: dict[Frame, FloatArray] = {frame: declared}
    for other in FRAMES if where else ():
        if other == frame or (other != "voxel" and dataset.unit == "px"):
            continue
        try:
            points = annotation.physical_points(other, geometry)[rows]
        except ValueError:
            continue  # too few coordinates to be read so
        readings[other] = np.where(np.isfinite(declared), points, np.nan)
    return readings


def _better_frame(readings: dict[Frame, FloatArray], frame: Frame, geometry: Geometry) -> Frame | None:
    """A frame that brings the points into the image, where `frame` leaves most of them outside."""
    present = np.isfinite(readings[frame]).all(axis=1)
    if not present.any():
        return None
    share = {f: float(geometry.contains(geometry.to_voxels(p[present]), 1.0).mean()) for f, p in readings.items()}
    if share[frame] >= OUTSIDE_SHARE:
        return None
    best = max(share, key=lambda f: share[f])
    return best if share[best] >= INSIDE_SHARE else None


def _outside_faults(case: Case, names: tuple[str, ...], points: FloatArray, geometry: Geometry) -> list[Fault]:
    voxels = geometry.to_voxels(points)
    size = np.array(geometry.shape)
    grid = f"{' x '.join(map(str, geometry.shape[::-1]))} voxels ({', '.join('xyz'[: geometry.ndim])})"
    beyond = np.maximum(-0.5 - voxels, voxels - (size - 0.5)).max(axis=1)
    faults = []
    for low, high, severity in ((0.0, 1.0, "warning"), (1.0, np.inf, "case")):
        which = np.flatnonzero((beyond > low + 1e-6) & (beyond <= high + 1e-6))
        if len(which):
            listed = [f"{names[i]} by {beyond[i]:.1f} voxels" for i in which[np.argsort(-beyond[which])]]
            faults.append(
                _fault(
                    case,
                    severity,  # type: ignore[arg-type]
                    "points lie outside the image" if severity == "case" else "points lie just outside the image",
                    found=some(listed),
                    expected=f"inside {grid}",
                    remedy="move the points, or call the landmarks absent or unknown; if all are off, see to the frame"
                    if severity == "case"
                    else "nothing, or move the points",
                )
            )
    return faults


def _same_place(case: Case, names: tuple[str, ...], points: FloatArray, geometry: Geometry) -> list[Fault]:
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    first, second = np.nonzero(np.triu(apart < 1e-3 * min(geometry.spacing), k=1))
    if not len(first):
        return []
    listed = [f"{names[i]} and {names[j]}" for i, j in zip(first, second, strict=True)]
    return [
        _fault(
            case,
            "warning",
            "two landmarks are at the same place",
            found=some(listed),
            expected="each landmark at its own",
            remedy="look whether one of them was forgotten",
        )
    ]
