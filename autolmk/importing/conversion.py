"""The way out: points of a raw dataset or of predictions, written in a format of another program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

import autolmk
from autolmk import imageio
from autolmk.annotations import ENDINGS, Annotation, ending_of, read, read_table
from autolmk.annotations.csv import require_once
from autolmk.annotations.formats import Export, ExportedCase, Writer
from autolmk.dataset import TABLE, Dataset
from autolmk.errors import AutolmkError, counted, some
from autolmk.files.serialization import make_folder, read_json
from autolmk.geometry import Geometry
from autolmk.importing.importer import prepared, require_free
from autolmk.landmarks import Landmarks, normal
from autolmk.paths import plain_name

NO_CASES = ("review.csv", "measurements.csv", "points.csv", "summary.csv", "truth.csv")  # tables of predictions
Split = Literal["Tr", "Ts"]


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion. notes: what a reader of the files must know."""

    folder: Path
    cases: int
    landmarks: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Places:
    """The place of the images, for predictions, which do not hold them.

    images: their folder. dataset: a raw dataset that holds them, and says how large their pixels are. spacing: in mm,
    order x, y(, z), of images that carry no size.
    """

    images: Path | None = None
    dataset: Dataset | None = None
    spacing: tuple[float, ...] | None = None


def convert(export: Export, writer: Writer, target: Path) -> Conversion:
    """Write all points to the new folder `target`, whole or not at all. AutolmkError where the format cannot hold them,
    or something is at the target already."""
    require_free(target)
    _require_names([case.identifier for case in export.cases])
    make_folder(target.parent)
    try:
        with prepared(target) as inner:
            inner.mkdir()
            notes = writer.write(export, inner)
            require_free(target)
            inner.rename(target)
    except OSError as error:
        raise AutolmkError(
            "the files cannot be written",
            file=error.filename or target,
            found=error.strerror or str(error),
            remedy="free disk space, or choose another folder",
        ) from None
    return Conversion(target, len(export.cases), len(export.landmark_names), tuple(notes))


def of_dataset(dataset: Dataset, splits: Sequence[Split] = ("Tr", "Ts")) -> Export:
    """The annotated cases of a raw dataset. AutolmkError where there are none, or training and test share a name."""
    cases: list[ExportedCase] = []
    for split in splits:
        for case in dataset.cases(split):
            if case.annotation is None:
                continue
            geometry = _grid(case.images[0], partial(dataset.read_geometry, case))
            landmarks = dataset.read_landmarks(case, geometry)
            cases.append(ExportedCase(case.identifier, landmarks, case.images, geometry, split == "Ts"))
    twice = [name for name, n in Counter(case.identifier for case in cases).items() if n > 1]
    if not cases or twice:
        raise AutolmkError(
            "training and test cases have the same names" if twice else "no case of the dataset has landmarks",
            file=dataset.folder,
            found=some(twice) or "no annotation beside an image",
            expected="each name once" if twice else "points in landmarksTr or landmarksTs",
            remedy="convert them one by one, with --split" if twice else "check the dataset with autolmk_check",
        )
    name = dataset.description.name or dataset.name
    return Export(name, tuple(cases), dataset.unit, channel_names=dict(dataset.description.channel_names or {}))


def of_predictions(source: Path, places: Places) -> Export:
    """The points of a folder that autolmk_predict wrote, or of a table of its kind. AutolmkError where there are none,
    or an image that was named lacks."""
    found = _points(source)
    names = tuple(dict.fromkeys(name for annotation in found.values() for name in annotation.names))
    images = _images(places, found)
    unit = _unit(source)
    cases = []
    for case, annotation in sorted(found.items()):
        files = images.get(case, ())
        geometry = None
        if files:
            dataset = None if places.dataset is None else places.dataset.description
            spacing = None if dataset is None else dataset.spacing_of(case)
            spacing = tuple(places.spacing[::-1]) if places.spacing is not None else spacing
            form = None if dataset is None else dataset.nifti_affine
            sizes = None if unit == "px" else spacing
            geometry = _grid(files[0], partial(imageio.read_geometry, files[0], spacing=sizes, nifti_affine=form))
            _require_size(files[0], case, unit, spacing)
        landmarks = _landmarks(annotation, case, geometry).reordered(names)
        cases.append(ExportedCase(case, landmarks, files, geometry))
    name = (source if source.is_dir() else source.parent).absolute().name
    return Export(name, tuple(cases), unit, predicted=True)


def with_options(export: Export, *, y_from: Literal["bottom", "top"], link: bool) -> Export:
    """The same with the choices that some formats leave open, and the version that writes it."""
    return replace(export, y_from=y_from, link=link, version=autolmk.__version__)


def _grid(image: Path, read: Callable[[], Geometry]) -> Geometry:
    """The geometry of an image. AutolmkError where the sizes that are given make no grid."""
    try:
        return read()
    except ValueError as error:
        raise AutolmkError(
            "the size of a voxel makes no sense", file=image, found=str(error), remedy="correct spacing"
        ) from None


def _points(source: Path) -> dict[str, Annotation]:
    """case -> its points. AutolmkError where there are none."""
    table = source / TABLE if source.is_dir() else source
    if table.is_file() and ending_of(table) in (".csv", ".tsv"):
        found = {normal(case): points for case, points in read_table(table).items()}
    else:
        found = {}
        for file in sorted(source.iterdir()) if source.is_dir() else [source]:
            ending = ending_of(file) if file.is_file() else None
            if ending is None or file.name in NO_CASES or file.name.startswith("."):
                continue
            case = normal(file.name[: -len(ending)])
            if case in found:
                raise AutolmkError(
                    "a case has two files of points", file=file, case=case, remedy="keep one of them in the folder"
                )
            found[case] = read(file)
            require_once(found[case], file, case)
    if not found:
        raise AutolmkError(
            "there are no points to convert",
            file=source,
            found=some(sorted(f.name for f in source.iterdir())) if source.is_dir() else "no table, and no markups",
            expected=f"a raw dataset, a folder that autolmk_predict wrote, or files that end with {', '.join(ENDINGS)}",
            remedy="check the path",
        )
    return found


def _landmarks(annotation: Annotation, case: str, geometry: Geometry | None) -> Landmarks:
    """In LPS; of pictures with two coordinates."""
    frame = annotation.frame or "LPS"
    try:
        if geometry is not None:
            return annotation.landmarks(frame, geometry)
        points = annotation.points
        if points.shape[1] == 3 and not np.isfinite(points[annotation.present, 2]).any():
            points = points[:, :2]
        if frame == "RAS":
            points = points * np.array([-1.0, -1.0, 1.0])[: points.shape[1]]
        return Landmarks(annotation.names, points, annotation.status, annotation.likelihood, annotation.error_radius)
    except ValueError as error:
        raise AutolmkError(
            "the points of a case make no sense",
            case=case,
            found=str(error),
            expected="finite coordinates, as many as its image has axes",
            remedy="correct the file, or check that --images names the images of these points",
        ) from None


def _images(places: Places, found: Mapping[str, Annotation]) -> dict[str, tuple[Path, ...]]:
    """case -> its images by channel. AutolmkError where images are named, and some case has none."""
    images: dict[str, tuple[Path, ...]] = {}
    if places.images is not None:
        images = imageio.list_mixed_cases(places.images, None, None, known=found)
    elif places.dataset is not None:
        for split in ("Tr", "Ts"):
            folder = places.dataset.folder / f"images{split}"
            if folder.is_dir():
                images |= imageio.list_mixed_cases(folder, None, None, known=found)
    lacking = sorted(set(found) - set(images))
    if images and lacking:
        raise AutolmkError(
            "cases have no image",
            file=places.images or (places.dataset.folder if places.dataset else None),
            found=f"none of {some(lacking)}",
            expected="an image of every case that has points",
            remedy="add the images, or name another folder with --images",
        )
    return {case: files for case, files in images.items() if case in found}


def _unit(source: Path) -> str:
    """As run.json beside the predictions says; mm where nothing does."""
    file = (source if source.is_dir() else source.parent) / "run.json"
    value = read_json(file) if file.is_file() else None
    unit = value.get("unit") if isinstance(value, dict) else None
    return unit if unit in ("mm", "px") else "mm"


def _require_size(image: Path, case: str, unit: str, spacing: tuple[float, ...] | None) -> None:
    """AutolmkError where points are in mm, and nothing says how large a pixel is."""
    if unit == "px" or spacing is not None or imageio.has_physical_size(image):
        return
    raise AutolmkError(
        "points are in mm, and nothing says how large a pixel is",
        file=image,
        case=case,
        expected="the size of a pixel, as in the dataset on which the model was trained",
        remedy="name that raw dataset with --dataset, or give the size with --spacing",
    )


def _require_names(cases: Sequence[str]) -> None:
    """AutolmkError where a case's name is no name of a file, or two would be one file on some systems."""
    for case in cases:
        try:
            plain_name(case, "the name of a case")
        except ValueError as error:
            raise AutolmkError(
                "a case has a name that no file can have", case=case, found=str(error), remedy="rename the case"
            ) from None
    folded = Counter(case.casefold() for case in cases)
    alike = [case for case in cases if folded[case.casefold()] > 1]
    if alike:
        raise AutolmkError(
            "names of cases differ in capital letters alone",
            found=f"{counted(len(alike), 'case')}: {some(alike)}",
            expected="names that stay apart on every file system",
            remedy="rename the images",
        )
