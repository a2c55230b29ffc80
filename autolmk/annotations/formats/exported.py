"""The material that a writer of a foreign format is given, and what all writers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from autolmk.errors import AutolmkError, counted, some
from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks, Status

SQUARE = 1e-6  # relative difference of a pixel's sides up to which it is square


@dataclass(frozen=True, eq=False)
class ExportedCase:
    """One case to write: its landmarks in LPS, in mm or, of pictures without a size, in pixels.

    images: by channel, and geometry: of the first one as its file has it; neither where no image is known.
    """

    identifier: str
    landmarks: Landmarks
    images: tuple[Path, ...] = ()
    geometry: Geometry | None = None
    test: bool = False

    @property
    def image_name(self) -> str:
        """The name by which readers find the image: its file's, where there is only one."""
        return self.images[0].name if len(self.images) == 1 else self.identifier

    @property
    def plane(self) -> Geometry | None:
        """The grid of a picture, also of one that a volume of a single slice holds; None where there is none."""
        if self.geometry is None or self.geometry.ndim == 2:
            return self.geometry
        single = self.geometry.shape[0] == 1
        return Geometry(self.geometry.shape[1:], self.geometry.affine[:, 1:]) if single else None

    @property
    def planar(self) -> bool:
        """Whether it is a picture."""
        return self.landmarks.points.shape[1] == 2 if self.geometry is None else self.plane is not None


@dataclass(frozen=True, eq=False)
class Export:
    """All cases to write, with the same landmarks in the same order.

    predicted: whether a model placed the points. unit: mm or px. y_from: the edge of a picture from which formats that
    leave it open count y. link: link to images instead of copying them, in formats that hold images. version: of
    autolmk, for formats that name what made them.
    """

    name: str
    cases: tuple[ExportedCase, ...]
    unit: str = "mm"
    predicted: bool = False
    channel_names: dict[str, str] = field(default_factory=dict)
    y_from: Literal["bottom", "top"] = "bottom"
    link: bool = False
    version: str = ""

    @property
    def landmark_names(self) -> tuple[str, ...]:
        """The landmarks' names, in the order of all formats that number their points."""
        return self.cases[0].landmarks.names

    @property
    def planar(self) -> bool:
        """Whether the cases are pictures. AutolmkError where some are volumes."""
        kinds = {case.planar for case in self.cases}
        if len(kinds) > 1:
            flat = [case.identifier for case in self.cases if case.planar]
            raise AutolmkError(
                "some cases are pictures, others volumes",
                found=f"{counted(len(flat), 'picture')}: {some(flat)}",
                expected="cases of one kind",
                remedy="convert them in two runs, from two folders",
            )
        return kinds.pop()

    def missing(self) -> str | None:
        """A sentence that counts absent and unknown landmarks, for formats that cannot tell them apart; None where
        there are none of one kind."""
        states = np.concatenate([case.landmarks.status for case in self.cases])
        absent, unknown = int((states == Status.ABSENT).sum()), int((states == Status.UNKNOWN).sum())
        if not absent:
            return None
        return f"{absent} absent and {unknown} unknown landmarks are both written as missing: the format has one code"

    def voxels(self, case: ExportedCase) -> FloatArray:
        """The points as voxels of the image's file, (L, D) in the order x, y(, z), 0 at the first one's centre; NaN
        where not present. AutolmkError where the image is not known.
        """
        return self._on(case.geometry, case)

    def pixels(self, case: ExportedCase) -> FloatArray:
        """The points as pixels of a picture, (L, 2), x and y, 0 at the first one's centre; NaN where not present.
        AutolmkError where the image is not known.
        """
        return self._on(case.plane, case)

    def _on(self, geometry: Geometry | None, case: ExportedCase) -> FloatArray:
        if geometry is not None:
            return geometry.to_voxels(case.landmarks.points)[:, ::-1]
        if self.unit == "px":  # a picture without a size: its pixels are the physical coordinates
            return case.landmarks.points
        raise AutolmkError(
            "this format counts pixels, and the image of a case is not known",
            case=case.identifier,
            expected="the image, whose header says where its pixels lie",
            remedy="name the folder of the images with --images, or the raw dataset that holds them with --dataset",
        )

    def pixel_size(self, case: ExportedCase) -> float | None:
        """The side of a picture's pixels in mm; None where nobody knows it. AutolmkError where they are not square."""
        plane = case.plane
        if self.unit == "px" or plane is None:
            return None
        height, width = plane.spacing
        if abs(height - width) > SQUARE * width:
            raise AutolmkError(
                "this format knows only square pixels",
                case=case.identifier,
                found=f"pixels of {width:g} x {height:g} mm",
                expected="square ones, or shapes would be distorted",
                remedy="resample the pictures, or convert to csv or coco",
            )
        return width

    def from_edge(self, case: ExportedCase) -> FloatArray:
        """The points as pixels, (L, 2), with y counted from the edge that `y_from` names: 0 at the centre of the lowest
        or of the first row. AutolmkError where the picture's height is not known.
        """
        pixels, plane = self.pixels(case).copy(), case.plane
        if self.y_from == "bottom":
            if plane is None:
                raise AutolmkError(
                    "y is counted from the lower edge, and the picture's height is not known",
                    case=case.identifier,
                    remedy="name the folder of the pictures with --images, or count with --y-from top",
                )
            pixels[:, 1] = plane.shape[0] - 1 - pixels[:, 1]
        return pixels

    def coordinates(self, case: ExportedCase) -> FloatArray:
        """The points as a picture's pixels, (L, 2), see `from_edge`, or (L, 3) mm of a volume, LPS; NaN where not
        present.
        """
        if self.planar:
            self.pixel_size(case)  # refuses what would distort shapes
            return self.from_edge(case)
        return case.landmarks.points


@dataclass(frozen=True)
class Writer:
    """A format that `autolmk_convert` writes.

    write: into an empty folder; returns sentences that say what a reader of the files must know. AutolmkError where the
    format cannot hold the points. needs_images: of which cases.
    """

    name: str
    description: str
    write: Callable[[Export, Path], Sequence[str]]
    needs_images: Literal["never", "pictures", "always"] = "pictures"


def cannot_hold(what: str, format_name: str, found: object, expected: str, remedy: str) -> NoReturn:
    """Raise the AutolmkError of something that a format has no room for."""
    raise AutolmkError(f"{format_name} cannot hold {what}", found=found, expected=expected, remedy=remedy)


def numbers(point: FloatArray) -> str:
    """The coordinates of a point (P,) as the shortest decimals that read back to the same numbers, separated
    by blanks.
    """
    return " ".join(repr(float(x)) for x in point)


def names_file(export: Export) -> str:
    """The names of numbered points: a line each, in order, for a file beside a format that has no names."""
    return "".join(f"{name}\n" for name in export.landmark_names)
