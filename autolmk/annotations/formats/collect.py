"""Cases gathered one by one, with the faults that every format shares."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from autolmk import imageio
from autolmk.annotations.annotation import Annotation, Frame
from autolmk.annotations.formats.imported import Imported, ImportedCase, Options, undecided
from autolmk.annotations.formats.missing import without_codes
from autolmk.annotations.formats.parsing import LARGEST
from autolmk.annotations.formats.source import Images, ImportedFiles, inside, stem_of
from autolmk.annotations.text import whole_or_nothing
from autolmk.errors import AutolmkError, some
from autolmk.geometry import FloatArray
from autolmk.landmarks import Status

MAX_POINTS = 100_000  # of one case
FRAMES: tuple[Frame, ...] = ("LPS", "RAS", "voxel")


class AboutCase(TypedDict, total=False):
    """The fields of `ImportedCase` that `Collector.add` takes by keyword alone."""

    identifier: str | None
    test: bool
    spacing: tuple[float, ...] | None
    corrected: bool


class Collector:
    """Gathers the cases of a source.

    frame: of all points; None where the files do not say, so that --frame must. first_pixel: the format's convention.
    """

    def __init__(self, source: ImportedFiles, frame: Frame | None, first_pixel: float = 0.0) -> None:
        self.source, self.frame = source, frame
        given = source.options.first_pixel
        self.first_pixel = first_pixel if given is None else given
        self._cases: list[ImportedCase] = []
        self._images: dict[Path, str] = {}
        self._without_image: list[str] = []
        self._without_points: list[str] = []

    def add(
        self,
        key: str,
        images: Images | None,
        names: Sequence[str],
        points: Sequence[Sequence[float]] | FloatArray,
        *,
        file: Path,
        status: npt.NDArray[np.int8] | None = None,
        **about: Unpack[AboutCase],
    ) -> None:
        """Add one case. key: its name in the file. points: (n, 2 or 3), NaN where the file gives no position. status:
        (n,) of `Status`, where the file says more than that. about: fields of `ImportedCase`; its identifier is by
        default that of its image.

        AutolmkError where names are empty or stand twice, or two cases share an image.
        """
        annotation = _annotation(key, names, points, file, self.source.options)
        if status is not None:
            known = np.where((status == Status.PRESENT) & ~annotation.present, Status.UNKNOWN, status)
            annotation = Annotation(annotation.names, annotation.points, known.astype(np.int8))
        for image in images or ():
            inside(image, self.source.images_folder)
        if images is None:
            self._without_image.append(key)
        elif not annotation.present.any() and self.source.options.unlisted != "absent":
            self._without_points.append(key)
            self._images.setdefault(images[0], key)
        else:
            self._claim(images[0], key, file)
            annotation = self._converted(annotation, images, file)
            given, spacing = about.get("identifier"), about.get("spacing")
            name = _identifier(images) if given is None else normal_name(given)
            test, corrected = about.get("test", False), about.get("corrected", False)
            self._cases.append(ImportedCase(name, images, annotation, test, spacing, corrected))

    def result(self, *assumed: str, described: Mapping[str, Any] | None = None) -> Imported:
        """All cases by name. AutolmkError where none is complete. assumed: sentences for the user. described: keys of
        dataset.json."""
        claimed = self._claimed()
        unused = [stem_of(f) for f in self.source.all_images() if f not in claimed]
        if not self._cases:
            raise AutolmkError(
                "no image of the source has points",
                file=self.source.images_folder,
                found=f"points of {some(self._without_image) or 'nothing'}; images {some(unused) or 'none'}",
                expected="images named as the annotations say, in a format that autolmk reads",
                remedy="name the folder of the images with --images; convert images of other formats, without loss: "
                "pictures to .png, volumes to .nii.gz or .nrrd",
            )
        where = {"voxel": f"pixels or voxels, {self.first_pixel:g} at the centre of the first"}.get(
            str(self.frame), f"mm, {self.frame}"
        )
        cases = sorted(_unique(self._cases, self.source.images_folder), key=lambda case: case.identifier)
        sentences = (f"coordinates are read as {where}", *assumed)
        left_out = (tuple(self._without_image), (*self._without_points, *unused))
        return Imported(tuple(cases), *left_out, sentences, described=described or {})

    def _claimed(self) -> set[Path]:
        return set(self._images) | {image for case in self._cases for image in case.images}

    def _claim(self, image: Path, key: str, file: Path) -> None:
        if image in self._images:
            raise AutolmkError(
                "two cases have the same image",
                file=file,
                found=f"{self._images[image]!r} and {key!r} both name {image.name}",
                expected="an image a case",
                remedy="remove one of them, or correct the names; of several animals or objects in an image choose one "
                "with --individual",
            )
        self._images[image] = key

    def _converted(self, annotation: Annotation, images: Images, file: Path) -> Annotation:
        """In LPS, or in voxels with 0 at the first one's centre."""
        if self.frame is None:
            self.frame = self.source.options.frame
        if self.frame is None:
            raise undecided(
                "the files do not say in which frame their points are", file, "--frame", _readings(annotation, images)
            )
        points = annotation.points
        if self.frame == "voxel":
            return Annotation(annotation.names, points - self.first_pixel, annotation.status, "voxel")
        sign = np.array([-1.0, -1.0, 1.0])[: points.shape[1]] if self.frame == "RAS" else 1.0
        return Annotation(annotation.names, points * sign, annotation.status, "LPS")


def numbered(n: int) -> list[str]:
    """The names '1' to 'n', for points that have none."""
    return [str(i + 1) for i in range(n)]


def normal_name(name: str) -> str:
    """A name without blanks around it, in the normal form in which letters and their accents are one."""
    return unicodedata.normalize("NFC", name.strip())


def require_size(images: Images | None, width: Any, height: Any, file: Path) -> None:
    """Raise AutolmkError where a picture has another size than the file says it had when its points were placed."""
    if images is None or not all(isinstance(n, int) and n > 0 for n in (width, height)):
        return
    shape = imageio.read_geometry(images[0]).shape[-2:]
    if shape != (height, width):
        raise AutolmkError(
            "a picture has another size than when its points were placed",
            file=images[0],
            found=f"{shape[1]} x {shape[0]} pixels; {file.name} says {width} x {height}",
            expected="the picture that was annotated, neither scaled, cropped nor turned",
            remedy="import with the original pictures, or scale the points as the picture was; if the points fit the "
            f"pictures, correct the sizes in {file.name}",
        )


def height_of(image: Path) -> int:
    """The rows of a picture, from its header. AutolmkError where it is a volume."""
    shape = imageio.read_geometry(image).shape
    if len(shape) == 3 and shape[0] == 1:  # a picture in a volume of a single slice
        shape = shape[1:]
    if len(shape) != 2:
        raise AutolmkError(
            "points in pixels need a picture",
            file=image,
            found=f"{len(shape)} axes",
            expected="a picture with rows and columns",
            remedy="name the folder of the pictures with --images",
        )
    return int(shape[0])


def _annotation(
    key: str, names: Sequence[str], points: Sequence[Sequence[float]] | FloatArray, file: Path, options: Options
) -> Annotation:
    named = [normal_name(name) for name in names]
    twice = sorted(name for name, n in Counter(named).items() if n > 1)
    odd = [name for name in named if not name or not name.isprintable()]
    if twice or odd:
        raise AutolmkError(
            "a landmark's name stands twice" if twice else "a landmark has no name that can be printed",
            file=file,
            case=key,
            found=some([repr(name) for name in twice or odd]),
            expected="each landmark once, with a name",
            remedy="correct the names in the file",
        )
    array = np.array(points, dtype=np.float64)
    array = array.reshape(len(named), -1) if len(named) else np.empty((0, 3))
    array = without_codes(array, named, key, file, options)
    if len(array) > MAX_POINTS:
        raise AutolmkError(
            "a case has too many points",
            file=file,
            case=key,
            found=len(array),
            expected=f"at most {MAX_POINTS}",
            remedy="check that it holds landmarks",
        )
    if np.abs(np.nan_to_num(array, posinf=0, neginf=0)).max(initial=0) > LARGEST:
        raise AutolmkError(
            "a coordinate is larger than any image",
            file=file,
            case=key,
            found=f"{np.nanmax(np.abs(array)):g}",
            expected=f"at most {LARGEST:g}",
            remedy="correct the file",
        )
    located = np.isfinite(array).all(axis=1)
    for i in np.flatnonzero(~located & np.isfinite(array).any(axis=1))[:1].tolist():
        whole_or_nothing(array[i].tolist(), file=file, where=f"of {named[i]!r} in {key}")
    missing = Status.ABSENT if options.unlisted == "absent" else Status.UNKNOWN
    array[~located] = np.nan
    return Annotation(tuple(named), array, np.where(located, Status.PRESENT, missing).astype(np.int8))


def _readings(annotation: Annotation, images: Images) -> dict[str, str]:
    """How many points lie inside the image under each reading."""
    geometry = imageio.read_geometry(images[0])
    result: dict[str, str] = {}
    for frame in FRAMES:
        try:
            points = annotation.physical_points(frame, geometry)[annotation.present]
            inside = int(np.count_nonzero(geometry.contains(geometry.to_voxels(points), margin=1.0)))
        except ValueError as error:
            result[frame] = str(error)
            continue
        result[frame] = f"{inside} of {len(points)} points of {stem_of(images[0])} lie inside its image"
    return result


def _identifier(images: Images) -> str:
    return normal_name(imageio.split_name(images[0])[0] if len(images) > 1 else _single(images[0]))


def _single(image: Path) -> str:
    stem = stem_of(image)
    return stem[:-5] if stem.endswith("_0000") and len(stem) > 5 else stem


def _unique(cases: Sequence[ImportedCase], folder: Path) -> list[ImportedCase]:
    """The cases with names of their own: where files in several folders have the same name, with the folders'."""
    counts = Counter(case.identifier for case in cases)
    result = []
    for case in cases:
        name = case.identifier
        if counts[name] > 1:
            name = "_".join([*case.images[0].relative_to(folder).parent.parts, name])
        result.append(replace(case, identifier=name))
    twice = [name for name, n in Counter(case.identifier for case in result).items() if n > 1]
    strange = [case.identifier for case in result if not case.identifier.isprintable()]
    if twice or strange:
        raise AutolmkError(
            "two cases have the same name" if twice else "the name of a case cannot be printed",
            file=folder,
            found=some([repr(name) for name in twice or strange]),
            expected="a name of its own for each image",
            remedy="rename the images",
        )
    return result
