"""The description of a dataset, dataset.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import regex

from autolmk.annotations import Annotation, Frame, NamesFrom
from autolmk.errors import AutolmkError, counted
from autolmk.files.serialization import from_json, near, read_json, to_json
from autolmk.landmarks import Status, breaks_lines
from autolmk.nifti_header import Form

LONGEST_GROUPS = 300  # characters
GROUPS_SECONDS = 0.2  # of computing, for one case; an ordinary expression takes microseconds


@dataclass(frozen=True)
class LandmarkDescription:
    """The description of one landmark. index: place in every list of landmarks; by default as listed. pair: the
    landmark on the body's other side.
    """

    index: int | None = None
    definition: str | None = None
    pair: str | None = None


@dataclass(frozen=True)
class Measurement:
    """One of: distance between two landmarks, angle at the middle one of three, ratio of two other measurements, which
    are distances."""

    distance: tuple[str, str] | None = None
    angle: tuple[str, str, str] | None = None
    ratio: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        given = [names for names in (self.distance, self.angle, self.ratio) if names is not None]
        if len(given) != 1:
            raise ValueError("a measurement is either a distance, an angle or a ratio")
        if len(set(given[0])) < len(given[0]):
            raise ValueError(f"a measurement is of different landmarks or distances, got {list(given[0])}")

    @property
    def landmarks(self) -> tuple[str, ...]:
        """The landmarks that the measurement itself names; a ratio names none."""
        return self.distance or self.angle or ()


@dataclass(frozen=True)
class DeclaredSlice:
    """Landmarks that annotators place on one slice. axis: array axis of the file across it, 0 for the slice number."""

    axis: int
    landmarks: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.axis not in (0, 1, 2):
            raise ValueError(f"axis must be 0 (slices), 1 (rows) or 2 (columns), got {self.axis}")
        if len(set(self.landmarks)) < 2 or len(set(self.landmarks)) < len(self.landmarks):
            raise ValueError(f"a slice needs at least two different landmarks, got {list(self.landmarks)}")


@dataclass(frozen=True)
class DatasetDescription:
    """dataset.json. Whatever is None is inferred from the files; see documentation/dataset_format.md for every key.

    spacing is in mm in the order x, y, z, for all images or a case; it serves images that carry no physical size. The
    keys from `labels` on are nnU-Net's: `labels` is a synonym of `landmarks`, the others are kept but not used.
    """

    channel_names: dict[str, str] | None = None
    landmarks: dict[str, LandmarkDescription] | None = None
    file_ending: str | None = None
    numTraining: int | None = None
    name: str | None = None
    coordinates: Frame | None = None
    spacing: tuple[float, ...] | dict[str, tuple[float, ...]] | None = None
    nifti_affine: Form | None = None
    unlisted_landmark_means: Literal["unknown", "absent"] = "unknown"
    names_from: NamesFrom = "label"
    missing_points: tuple[tuple[float, ...], ...] | None = None
    groups: str | None = None
    measurements: dict[str, Measurement] | None = None
    co_slice_groups: tuple[DeclaredSlice, ...] | None = None
    labels: dict[str, int] | None = None
    numTest: int | None = None
    description: Any = None
    reference: Any = None
    licence: Any = None
    license: Any = None
    release: Any = None
    citation: Any = None
    intended_use: Any = None
    converted_by: Any = None
    dataset_name: Any = None
    tensorImageSize: Any = None
    regions_class_order: Any = None
    overwrite_image_reader_writer: Any = None

    def __post_init__(self) -> None:
        if self.channel_names is not None:
            _check_channel_names(self.channel_names)
        if self.landmarks is not None and self.labels is not None:
            raise ValueError("'labels' is a synonym of 'landmarks': give one of them")
        if self.labels is not None:
            values = sorted(v for name, v in self.labels.items() if name.lower() != "background")
            if len(set(values)) != len(values):
                raise ValueError("two labels have the same value")
        if self.landmarks is not None:
            _check_landmarks(self.landmarks)
        _check_ratios(self.measurements or {})
        for name in self.names or ():
            if breaks_lines(name):
                raise ValueError(f"a landmark's name holds line breaks or other control characters: {name!r}")
        if self.names is not None:
            self._check_measurements(set(self.names))
            self._check_slices(set(self.names))
        if self.groups is not None:
            _check_groups(self.groups)
        for code in self.missing_points or ():
            if len(code) not in (2, 3):
                raise ValueError(f"missing_points lists points of 2 or 3 coordinates, got {list(code)}")
        for spacing in self._spacings():
            if len(spacing) not in (2, 3) or not all(np.isfinite(s) and s > 0 for s in spacing):
                raise ValueError(f"spacing must be 2 or 3 positive numbers in the order x, y, z, got {list(spacing)}")

    @classmethod
    def load(cls, file: Path) -> DatasetDescription:
        """Read dataset.json. AutolmkError names whatever is wrong in it."""
        return from_json(cls, read_json(file), file=file)

    @classmethod
    def from_json(cls, value: Any) -> DatasetDescription:
        """Read the description from parsed JSON; inverse of `to_json`."""
        return from_json(cls, value)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, without what is None."""
        content = {key: value for key, value in to_json(self).items() if value is not None}
        for key in ("landmarks", "measurements"):
            if key in content:
                content[key] = {n: {k: v for k, v in d.items() if v is not None} for n, d in content[key].items()}
        return content

    @property
    def names(self) -> tuple[str, ...] | None:
        """Landmark names by index; None where the file lists none."""
        if self.labels is not None:
            foreground = {name: v for name, v in self.labels.items() if name.lower() != "background"}
            return tuple(sorted(foreground, key=lambda name: foreground[name]))
        if self.landmarks is None:
            return None
        places = {name: i if d.index is None else d.index for i, (name, d) in enumerate(self.landmarks.items())}
        return tuple(sorted(places, key=lambda name: places[name]))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Declared left/right pairs, each once, in the order of the names."""
        landmarks = self.landmarks or {}
        found = {frozenset((name, d.pair)) for name, d in landmarks.items() if d.pair}
        return tuple(sorted((a, b) for a, b in (sorted(pair) for pair in found)))

    def subject(self, case: str) -> str:
        """The subject that `groups` finds in the case's name: the pattern's first group, or the match. AutolmkError
        without a match.
        """
        if self.groups is None:
            return case
        try:
            match = regex.search(self.groups, case, timeout=GROUPS_SECONDS)
        except TimeoutError:
            raise AutolmkError(
                "the regular expression of groups does not come to an end",
                case=case,
                found=f"{self.groups!r}, which still tries after {GROUPS_SECONDS:g} s",
                expected="one without repetitions inside repetitions, such as (a+)+",
                remedy="simplify groups in dataset.json",
            ) from None
        if match is None or not (match.group(1) if match.re.groups else match.group()):
            raise AutolmkError(
                "groups does not match the name of a case",
                case=case,
                expected=f"a match of the regular expression {self.groups!r}",
                remedy="correct groups in dataset.json, or rename the case",
            )
        return str(match.group(1) if match.re.groups else match.group())

    def understood(self, annotation: Annotation) -> Annotation:
        """The points of a file with the names that `landmarks` lists in place of numbers, where `names_from` takes
        numbers, and without those that `missing_points` calls codes for "not there"."""
        names, points, status = annotation.names, annotation.points.copy(), annotation.status.copy()
        if self.names is not None and self.names_from in ("number", "order"):
            by_number = {str(i): name for i, name in enumerate(self.names, 1)}
            names = tuple(by_number.get(name, name) for name in names)
        for code in self.missing_points or ():
            n = min(len(code), points.shape[1])
            coded = (points[:, :n] == np.array(code[:n])).all(axis=1)
            status[coded] = Status.ABSENT if self.unlisted_landmark_means == "absent" else Status.UNKNOWN
            points[coded] = np.nan
        return replace(annotation, names=names, points=points, status=status)

    def spacing_of(self, case: str) -> tuple[float, ...] | None:
        """The declared spacing, (D,) mm in array order, for a case whose images carry no physical size; None where none
        is given.
        """
        spacing = self.spacing.get(case) if isinstance(self.spacing, Mapping) else self.spacing
        return None if spacing is None else tuple(spacing[::-1])

    def _spacings(self) -> list[tuple[float, ...]]:
        if self.spacing is None:
            return []
        return list(self.spacing.values()) if isinstance(self.spacing, Mapping) else [self.spacing]

    def _check_measurements(self, names: set[str]) -> None:
        for key, measurement in (self.measurements or {}).items():
            for name in measurement.landmarks:
                if name not in names:
                    raise ValueError(f"the measurement {key!r} names an unknown landmark {name!r}{near(name, names)}")

    def _check_slices(self, names: set[str]) -> None:
        groups = self.co_slice_groups or ()
        for group in groups:
            for name in group.landmarks:
                if name not in names:
                    raise ValueError(f"co_slice_groups names an unknown landmark {name!r}{near(name, names)}")
        axes = [(group.axis, name) for group in groups for name in group.landmarks]
        if len(set(axes)) < len(axes):
            raise ValueError("co_slice_groups: a landmark is in two groups across the same axis")


def _check_groups(pattern: str) -> None:
    if len(pattern) > LONGEST_GROUPS:
        raise ValueError(f"groups has {len(pattern)} characters; more than {LONGEST_GROUPS} make no sense")
    try:
        re.compile(pattern)
        regex.compile(pattern)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"groups is not a regular expression: {error}") from None


def _check_channel_names(names: Mapping[str, str]) -> None:
    expected = [str(i) for i in range(len(names))]
    if not names or sorted(names, key=lambda k: (len(k), k)) != expected:
        raise ValueError(f'channel_names must number the channels "0", "1", ..., got {list(names)}')


def _check_ratios(measurements: Mapping[str, Measurement]) -> None:
    distances = [key for key, measurement in measurements.items() if measurement.distance is not None]
    for key, measurement in measurements.items():
        for name in measurement.ratio or ():
            if name not in distances:
                kind = "is no distance" if name in measurements else "is not declared"
                raise ValueError(
                    f"the ratio {key!r} is of two distances in measurements, but {name!r} {kind}{near(name, distances)}"
                )


def _check_landmarks(landmarks: Mapping[str, LandmarkDescription]) -> None:
    if not landmarks:
        raise ValueError("landmarks lists none")
    given = [d.index for d in landmarks.values()]
    if any(i is not None for i in given) and sorted(i for i in given if i is not None) != list(range(len(given))):
        raise ValueError(
            f"the indices of {counted(len(given), 'landmark')} must be 0 to {len(given) - 1}, each once, got {given}"
        )
    for name, description in landmarks.items():
        partner = description.pair
        if partner is None:
            continue
        if partner not in landmarks:
            raise ValueError(f"the pair of {name!r} is no landmark: {partner!r}{near(partner, landmarks)}")
        if partner == name or landmarks[partner].pair not in (None, name):
            raise ValueError(f"{name!r} names {partner!r} as its pair, but that names {landmarks[partner].pair!r}")
        if [d.pair for d in landmarks.values()].count(partner) > 1:
            raise ValueError(f"{partner!r} is the pair of two landmarks")
