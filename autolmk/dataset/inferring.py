"""The inference of what dataset.json leaves out from the files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from autolmk import imageio
from autolmk.annotations import FRAMES, Annotation, Frame
from autolmk.annotations.formats import suggestion
from autolmk.dataset.description import DatasetDescription, LandmarkDescription
from autolmk.dataset.raw import Case, RawDataset
from autolmk.errors import AutolmkError, some
from autolmk.geometry import Geometry
from autolmk.landmarks import breaks_lines
from autolmk.nifti_header import Form

logger = logging.getLogger(__name__)

MODALITY = "0008|0060"
AIR, BONE = -500.0, 300.0  # Hounsfield units: an image that spans them is taken for CT
CASES_FOR_FRAME = 5
CASES_FOR_CHANNELS, CASES_FOR_COLOUR = 3, 25  # of which most decide; pictures are small, and differ more often


def complete(dataset: RawDataset) -> DatasetDescription:
    """The dataset's description with file_ending, channel_names and landmarks filled in where they are left out.

    AutolmkError where it names landmarks that no file has."""
    description = dataset.description
    if description.file_ending is None:
        kinds = Counter(str(imageio.ending_of(case.images[0])) for case in _some_cases(dataset))
        usual = max(kinds, key=lambda kind: (kinds[kind], kind))
        if kinds.keys() <= set(imageio.same_format(usual)):  # else all that is there counts, whatever it is
            description = replace(description, file_ending=usual)
    if description.channel_names is None:
        names = _channel_names(_some_cases(dataset), description.nifti_affine)
        description = replace(description, channel_names={str(i): name for i, name in enumerate(names)})
    if description.names is None:
        found = {name: LandmarkDescription(i) for i, name in enumerate(_landmark_names(dataset))}
        try:
            description = replace(description, landmarks=found)
        except ValueError as error:
            raise AutolmkError(
                "dataset.json names landmarks that the files do not have",
                file=dataset.folder / "dataset.json",
                found=str(error),
                expected=f"landmarks among {some(list(found))}",
                remedy="correct it, or list all landmarks under landmarks",
            ) from None
    return description


@cache
def say_inferred(file: Path, key: str, names: tuple[str, ...]) -> None:
    """Say that dataset.json leaves out a list of names; once a process, however often the dataset is opened."""
    logger.info("%s is not in %s; inferred from the files: %s", key, file.name, ", ".join(names))


def offer(dataset: RawDataset) -> DatasetDescription:
    """The description of a dataset without dataset.json, with name, numTraining and, if it matters, coordinates."""
    cases = dataset.cases("Tr")
    name = dataset.name.partition("_")[2] or dataset.name
    description = replace(dataset.description, name=name, numTraining=len(cases))
    frame = _frame(dataset, [c for c in cases if c.annotation is not None][:CASES_FOR_FRAME])
    return description if frame is None else replace(description, coordinates=frame)


def _some_cases(dataset: RawDataset) -> list[Case]:
    cases = dataset.cases("Tr")
    if not cases:
        raise AutolmkError(
            "a dataset has no training images",
            file=dataset.folder / "imagesTr",
            found=imageio.others_in(dataset.folder / "imagesTr"),
            expected="imagesTr/CASE_0000.ext",
            remedy=imageio.conversion_in(dataset.folder / "imagesTr")
            or "add the images, or convert those that are there",
        )
    return cases


def _channel_names(cases: list[Case], form: Form | None) -> tuple[str, ...]:
    """Of most of a few cases: CT and MR where DICOM says so or the values are Hounsfield units."""
    found: Counter[tuple[str, ...]] = Counter()
    damaged: AutolmkError | None = None
    few = CASES_FOR_COLOUR if imageio.ending_of(cases[0].images[0]) in imageio.SIZELESS else CASES_FOR_CHANNELS
    for case in cases:
        try:
            with imageio.noticed():  # reading the case says what is odd
                found[_channels_of(case, form)] += 1
        except AutolmkError as error:
            damaged = damaged or error
        if found.total() == few:
            break
    if damaged is not None and not found:
        raise damaged
    return found.most_common(1)[0][0]


def _channels_of(case: Case, form: Form | None) -> tuple[str, ...]:
    image = imageio.read_image(case.images, nifti_affine=form)
    modality = imageio.metadata(case.images[0], MODALITY)
    if len(case.images) == 1:
        image = imageio.as_channels(image, 1, case.images[0])  # a grey picture saved in colour
    n = len(image.array)
    if n == 3 and len(case.images) == 1:
        return ("R", "G", "B")
    hounsfield = image.geometry.ndim == 3 and image.array.min() <= AIR and image.array.max() >= BONE
    if n == 1 and (modality in ("CT", "MR") or hounsfield):
        return (modality if modality in ("CT", "MR") else "CT",)
    return tuple(f"channel {i}" for i in range(n))


def _require_printable(names: Iterable[str], case: Case) -> None:
    odd = [name for name in names if breaks_lines(name)]
    if odd:
        raise AutolmkError(
            "a landmark's name holds line breaks or other control characters",
            file=case.annotation,
            case=case.identifier,
            found=repr(odd[0][:100]),
            remedy="rename the landmark in all files",
        )


def _landmark_names(dataset: RawDataset) -> list[str]:
    """In the order in which they first appear, case by case."""
    names: dict[str, None] = {}
    damaged: AutolmkError | None = None
    for case in dataset.cases("Tr"):
        if case.annotation is None:
            continue
        try:
            found = dataset.read_annotation(case).names
        except AutolmkError as error:
            damaged = damaged or error
            continue
        _require_printable(found, case)
        names.update(dict.fromkeys(found))
    if names:
        return list(names)
    if damaged is not None:
        raise damaged
    raise _no_landmarks(dataset)


def _no_landmarks(dataset: RawDataset) -> AutolmkError:
    """What is in landmarksTr instead."""
    images, points = [case.identifier for case in dataset.cases("Tr")], list(dataset.annotation_files("Tr"))
    if points:
        return AutolmkError(
            "none of a dataset's landmarks belong to a training image",
            file=dataset.folder / "landmarksTr",
            found=f"landmarks of {some(points)}; images of {some(images)}",
            expected="the same names",
            remedy="name landmark files, or the cases in landmarks.csv, as the images are without _0000 and ending; a "
            "table of several cases must be called landmarks.csv",
        )
    folder = dataset.folder / "landmarksTr"
    others = sorted(f.name for f in folder.iterdir() if not f.name.startswith(".")) if folder.is_dir() else []
    known = next((said for name in others if (said := suggestion(folder / name)) is not None), None)
    return AutolmkError(
        "a dataset has no landmarks",
        file=folder,
        found=some(others) or ("an empty folder" if folder.is_dir() else "no such folder"),
        expected="CASE.mrk.json, CASE.fcsv or CASE.csv a case, or landmarks.csv for all",
        remedy=known or "add the files, named as the images are without _0000 and ending",
    )


def _frame(dataset: RawDataset, cases: list[Case]) -> Frame | None:
    """The reading under which most points lie inside their images; None where files say.

    Where readings agree: voxel for images without physical size, which stays right once a spacing is given, else LPS.
    """
    frames: tuple[Frame, ...] = ("voxel", "LPS", "RAS") if dataset.unit == "px" else FRAMES
    inside = dict.fromkeys(frames, 0)
    for case in cases:
        try:
            annotation = dataset.read_annotation(case)
            geometry = dataset.read_geometry(case)
        except AutolmkError:
            continue  # a damaged case tells nothing of the frame
        if annotation.frame is not None:
            return None
        for frame in frames:
            inside[frame] += _count_inside(annotation, frame, geometry)
    best: Frame = max(frames, key=inside.__getitem__)
    return best if cases else None


def _count_inside(annotation: Annotation, frame: Frame, geometry: Geometry) -> int:
    try:
        points = annotation.physical_points(frame, geometry)[annotation.present]
    except ValueError:
        return 0
    return int(np.count_nonzero(geometry.contains(geometry.to_voxels(points), margin=1.0)))
