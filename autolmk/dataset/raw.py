"""A raw dataset: its cases, their images and landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from autolmk import imageio
from autolmk.annotations import Annotation, Frame, ending_of, read, read_table
from autolmk.dataset.description import DatasetDescription, DeclaredSlice
from autolmk.errors import AutolmkError, counted
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status, normal

TABLE = "landmarks.csv"  # in landmarksTr or landmarksTs: the points of all cases
SAMPLED = 50  # headers that say what is usual in a dataset
Split = Literal["Tr", "Ts"]


@dataclass(frozen=True)
class Case:
    """One case of a raw dataset. images: by channel. annotation: the file that holds its points, perhaps of other cases
    too; None without. labels: its label map; None without.
    """

    identifier: str
    subject: str
    images: tuple[Path, ...]
    annotation: Path | None
    labels: Path | None = None


class RawDataset:
    """The files of a raw dataset, read as `description` says; images and points are read when they are asked for."""

    def __init__(self, folder: Path, description: DatasetDescription) -> None:
        self.folder, self.description = Path(folder), description
        self._tables: dict[Path, dict[str, Annotation]] = {}

    @property
    def name(self) -> str:
        """The folder's name, such as Dataset001_Name."""
        return self.folder.absolute().name

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The channels' names, by index."""
        names = self.description.channel_names or {}
        return tuple(names[str(i)] for i in range(len(names)))

    @property
    def landmark_names(self) -> tuple[str, ...]:
        """The landmarks' names, by index."""
        return self.description.names or ()

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Left/right pairs that dataset.json declares."""
        return self.description.pairs

    @property
    def co_slice_groups(self) -> tuple[DeclaredSlice, ...] | None:
        """Landmarks that share a slice, as dataset.json declares them; None where it says nothing."""
        return self.description.co_slice_groups

    @cached_property
    def ndim(self) -> int:
        """The number of image axes: 2 where most images are planes or single slices of volumes, else 3."""
        flat = [geometry.ndim == 2 or geometry.shape.count(1) == 1 for geometry, _ in self._sampled]
        return 2 if 2 * sum(flat) > len(flat) else 3

    @cached_property
    def unit(self) -> Literal["mm", "px"]:
        """The unit of distances: mm where most images, or dataset.json, say how large a pixel is, else px."""
        if self.description.spacing is not None:
            return "mm"
        sized = [has_size for _, has_size in self._sampled]
        return "mm" if 2 * sum(sized) >= len(sized) else "px"

    def cases(self, split: Split = "Tr") -> list[Case]:
        """The cases that have an image, by name; none where there are no test cases. Test images may be of any kind.

        AutolmkError where imagesTr is missing, a case has two annotations or label maps, or `groups` does not match.
        """
        folder = self.folder / f"images{split}"
        if split == "Ts" and not folder.is_dir():
            return []
        if not folder.is_dir():
            raise AutolmkError(
                "the folder of training images is missing",
                file=folder,
                expected="imagesTr/CASE_0000.ext, and the points in landmarksTr",
                remedy="put the images there, or correct the dataset's folder",
            )
        found, labels = self.annotation_files(split), self.label_files(split)
        known = found or (self.annotation_files("Tr") if split == "Ts" else {})
        channels = None if self.description.channel_names is None else len(self.description.channel_names)
        listed = imageio.list_mixed_cases if split == "Ts" else imageio.list_cases
        files = listed(folder, self.description.file_ending, channels, known=known)
        for what, given in (("annotations", found), ("label maps", labels)):
            for case in files:
                if len(given.get(case, ())) > 1:
                    raise AutolmkError(
                        f"a case has two {what}",
                        case=case,
                        found=" and ".join(str(f) for f in given[case]),
                        remedy="keep one of them",
                    )
        return [
            Case(
                case,
                self.description.subject(case),
                images,
                next(iter(found.get(case, ())), None),
                next(iter(labels.get(case, ())), None),
            )
            for case, images in files.items()
        ]

    def label_files(self, split: Split = "Tr") -> dict[str, tuple[Path, ...]]:
        """The label maps of each case in labelsTr or labelsTs, whether it has an image or not."""
        folder = self.folder / f"labels{split}"
        found: dict[str, tuple[Path, ...]] = {}
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            ending = imageio.ending_of(file)
            if file.is_file() and ending is not None and not file.name.startswith("."):
                case = normal(file.name[: -len(ending)])
                found[case] = (*found.get(case, ()), file)
        return found

    def annotation_files(self, split: Split = "Tr") -> dict[str, tuple[Path, ...]]:
        """The files that hold points of each case, whether it has an image or not."""
        folder = self.folder / f"landmarks{split}"
        found: dict[str, tuple[Path, ...]] = {}
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            ending = ending_of(file)
            if file.name.startswith(".") or ending is None:
                continue
            cases = self._table(file) if file.name == TABLE else [normal(file.name[: -len(ending)])]
            for case in cases:
                found[case] = (*found.get(case, ()), file)
        return found

    def spacing_of(self, case: Case) -> tuple[float, ...] | None:
        """The spacing, (D,) mm in array order, that dataset.json gives for images without physical size; None where it
        gives none.

        AutolmkError where it lists spacings by case, but lacks the one that this case needs.
        """
        spacing = self.description.spacing_of(case.identifier)
        if spacing is None and self.description.spacing is not None and not imageio.has_physical_size(case.images[0]):
            raise AutolmkError(
                "nothing says how large the pixels of a case are",
                file=case.images[0],
                case=case.identifier,
                expected="its name in spacing in dataset.json, as for other cases",
                remedy="add it",
            )
        return spacing

    def read_image(self, case: Case) -> Image:
        """Read a case's image, (C, *S) float32; one slice of a volume becomes a plane in 3D where the dataset is 2D.
        AutolmkError names the case.
        """
        try:
            imageio.check_channels(case.identifier, case.images, len(self.channel_names))
            image = imageio.read_image(
                case.images, spacing=self.spacing_of(case), nifti_affine=self.description.nifti_affine
            )
            if len(case.images) == 1:
                image = imageio.as_channels(image, len(self.channel_names), case.images[0])
            if self.ndim == 2 and image.geometry.ndim == 3:
                image = imageio.squeeze(image)
        except AutolmkError as error:
            raise error.of_case(case.identifier) from None
        if len(image.array) != len(self.channel_names) or image.geometry.ndim != self.ndim:
            raise AutolmkError(
                "an image does not fit the dataset",
                file=case.images[0],
                case=case.identifier,
                found=f"{counted(len(image.array), 'channel')}, {image.geometry.ndim} axes of "
                f"{image.geometry.shape[::-1]} voxels",
                expected=f"{counted(len(self.channel_names), 'channel')} ({', '.join(self.channel_names)}), "
                f"{self.ndim} axes",
                remedy="add the missing channels (CASE_0001, ...), or convert or remove the image, or correct "
                "channel_names in dataset.json",
            )
        self._require_unit(case)
        return image

    def read_geometry(self, case: Case) -> Geometry:
        """The geometry of the case's first image as its file has it, from the header alone."""
        spacing, form = self.spacing_of(case), self.description.nifti_affine
        return imageio.read_geometry(case.images[0], spacing=spacing, nifti_affine=form)

    def read_labels(self, case: Case, geometry: Geometry) -> npt.NDArray[np.uint8] | None:
        """Read a case's label map (*S), None if there is none; `geometry` is that of its image. AutolmkError where it
        does not lie on the image's grid, or holds other values than whole numbers from 0 to 255 (255: unknown).
        """
        if case.labels is None:
            return None
        try:
            image = imageio.read_image(
                [case.labels], spacing=self.spacing_of(case), nifti_affine=self.description.nifti_affine
            )
            if self.ndim == 2 and image.geometry.ndim == 3:
                image = imageio.squeeze(image)
        except AutolmkError as error:
            raise error.of_case(case.identifier) from None
        values = image.array[0]
        if len(image.array) != 1 or not image.geometry.is_close(geometry):
            found = f"{' x '.join(map(str, image.geometry.shape[::-1]))} voxels, {counted(len(image.array), 'channel')}"
            problem, expected = "a label map does not lie on the grid of its image", "the image's shape and geometry"
        elif (values != np.round(values)).any() or values.min() < 0 or values.max() > 255:
            found = f"values from {values.min():g} to {values.max():g}"
            problem, expected = "a label map holds strange values", "whole numbers from 0 to 255, where 255 is unknown"
        else:
            return np.asarray(values.astype(np.uint8))
        raise AutolmkError(
            problem,
            file=case.labels,
            case=case.identifier,
            found=found,
            expected=expected,
            remedy="export it again, or remove it from its folder: label maps are not required",
        )

    def read_annotation(self, case: Case) -> Annotation:
        """The points as the file holds them. AutolmkError where the case has none, or the file is damaged."""
        if case.annotation is None:
            raise AutolmkError(
                "a case has no landmarks",
                case=case.identifier,
                expected=f"{case.identifier}.mrk.json, or rows of it in {TABLE}",
                remedy="add the file to the folder of landmarks, or remove the image",
            )
        try:
            if case.annotation.name == TABLE:
                found = self._table(case.annotation)[case.identifier]
            else:
                found = read(case.annotation, label=self.description.names_from)
        except AutolmkError as error:
            raise error.of_case(case.identifier) from None
        return self.description.understood(found)

    def frame_of(self, case: Case, annotation: Annotation) -> Frame:
        """The frame of an annotation: its own, else `coordinates`, else LPS, which is not assumed of an .fcsv file."""
        if annotation.frame is not None:
            return annotation.frame
        if self.description.coordinates is not None:
            return self.description.coordinates
        if case.annotation is not None and case.annotation.name.lower().endswith(".fcsv"):
            raise AutolmkError(
                "a .fcsv file does not say in which frame its points are",
                file=case.annotation,
                case=case.identifier,
                expected="a line '# CoordinateSystem = LPS' or RAS",
                remedy='add "coordinates": "RAS" or "LPS" to dataset.json (old versions of 3D Slicer wrote RAS)',
            )
        return "LPS"

    def read_landmarks(self, case: Case, geometry: Geometry) -> Landmarks:
        """The landmarks of a case in LPS, in the order of `landmark_names`; names that it does not list are dropped.

        geometry: of the case's image. AutolmkError where points are missing, doubled, not finite, or of another frame's
        dimension.
        """
        annotation = self.read_annotation(case)
        frame = self.frame_of(case, annotation)
        if frame == "voxel" and geometry.ndim < geometry.physical_ndim:  # the file counts voxels of the whole volume
            geometry = self.read_geometry(case)
        try:
            landmarks = annotation.landmarks(frame, geometry)
            if geometry.physical_ndim == 2 and np.abs(annotation.depth()[annotation.present]).max(initial=0) > 0.5:
                raise ValueError("points lie outside the plane of a 2D image")
        except ValueError as error:
            raise AutolmkError(
                "the landmarks of a case make no sense",
                file=case.annotation,
                case=case.identifier,
                found=str(error),
                expected=f"each landmark once, with finite coordinates ({frame})",
                remedy="mend the file, and correct coordinates in dataset.json",
            ) from None
        unlisted = Status.ABSENT if self.description.unlisted_landmark_means == "absent" else Status.UNKNOWN
        return landmarks.reordered(self.landmark_names, unlisted=unlisted)

    def _require_unit(self, case: Case) -> None:
        """AutolmkError where only this image says, or does not say, how large its pixels are: mm and px do not mix."""
        sized = imageio.has_physical_size(case.images[0])
        if self.description.spacing is not None or sized == (self.unit == "mm"):
            return
        geometry = imageio.read_geometry(case.images[0], nifti_affine=self.description.nifti_affine)
        size = " x ".join(f"{s:.4g}" for s in geometry.spacing[::-1])
        raise AutolmkError(
            "only some images of a dataset say how large their pixels are",
            file=case.images[0],
            case=case.identifier,
            found=f"pixels of {size} mm" if sized else "no physical size",
            expected="a physical size in mm, as in most cases" if self.unit == "mm" else "none, as in most cases",
            remedy='give the sizes that are missing as "spacing": {"CASE": [x, y], ...} in dataset.json, or remove the '
            "odd cases",
        )

    def _table(self, file: Path) -> dict[str, Annotation]:
        if file not in self._tables:
            self._tables[file] = {normal(case): points for case, points in read_table(file, twice=True).items()}
        return self._tables[file]

    @cached_property
    def _sampled(self) -> list[tuple[Geometry, bool]]:
        """Geometry of an image, and whether its file says it, of cases spread over the dataset, of all where these
        differ. AutolmkError where no image can be read."""
        cases = self._some_cases()
        first = [self._looked_at(case) for case in cases[:: max(1, len(cases) // SAMPLED)]]
        found = [look for look in first if look is not None]
        kinds = {(geometry.ndim == 2 or geometry.shape.count(1) == 1, sized) for geometry, sized in found}
        if len(kinds) != 1 and len(first) < len(cases):
            found = [look for case in cases if (look := self._looked_at(case)) is not None]
        if not found:
            imageio.read_geometry(cases[0].images[0], nifti_affine=self.description.nifti_affine)
        return found

    def _looked_at(self, case: Case) -> tuple[Geometry, bool] | None:
        """None where the header cannot be read: one unreadable case does not decide, and reading it says what is
        wrong."""
        try:
            with imageio.noticed():  # reading the case says what is odd
                return imageio.read_geometry(
                    case.images[0], nifti_affine=self.description.nifti_affine
                ), imageio.has_physical_size(case.images[0])
        except AutolmkError:
            return None

    def _some_cases(self) -> list[Case]:
        cases = self.cases("Tr") if (self.folder / "imagesTr").is_dir() else self.cases("Ts")
        if not cases:
            raise AutolmkError(
                "a dataset has no images",
                file=self.folder / "imagesTr",
                found=imageio.others_in(self.folder / "imagesTr"),
                expected="imagesTr/CASE_0000.ext",
                remedy=imageio.conversion_in(self.folder / "imagesTr")
                or "add the images, or convert those that are there",
            )
        return cases
