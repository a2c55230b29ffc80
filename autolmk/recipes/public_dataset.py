"""The recipe of a public dataset, and what all recipes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from autolmk import imageio
from autolmk.annotations.formats import Imported, ImportedCase, Options
from autolmk.annotations.formats.parsing import wrong
from autolmk.errors import AutolmkError, counted, some
from autolmk.recipes.published_splits import read_split

ON_IMAGE = 0.9  # share of points that must lie on their images, or the frame is wrong
SMALLEST, LARGEST = 1e-6, 1e4  # mm: the side of a voxel
MARGIN = 1.0  # voxels by which an annotator may place a point beyond the border
Annotator = Literal["junior", "senior", "mean"]


@dataclass(frozen=True)
class RecipeChoices:
    """The choices that a recipe leaves to the user. annotator: whose points. split: a file of published parts, see
    `splits`.
    """

    annotator: Annotator | None = None
    split: Path | None = None


@dataclass(frozen=True)
class Published:
    """A published result. mre, sd: mm. sdr: radius in mm -> percent. other: what is not one of these. reference: where
    it stands."""

    method: str
    reference: str
    mre: float | None = None
    sd: float | None = None
    sdr: Mapping[float, float] = field(default_factory=dict)
    other: str = ""


@dataclass(frozen=True)
class PublicDataset:
    """A public dataset and the facts that its recipe needs.

    folder: name of its raw dataset. source, licence, fetch, protocol: sentences. layout: lines that show the files
    below the source folder. not_known: facts that no source at hand gave. read: the cases of a source folder. unlisted:
    what it means that a case lacks a landmark. annotators: whether `RecipeChoices.annotator` applies.
    """

    name: str
    title: str
    folder: str
    source: str
    licence: str
    fetch: tuple[str, ...]
    layout: tuple[str, ...]
    protocol: tuple[str, ...]
    read: Callable[[Path, RecipeChoices], Imported]
    published: tuple[Published, ...] = ()
    not_known: tuple[str, ...] = ()
    unlisted: Literal["unknown", "absent"] = "unknown"
    annotators: bool = False

    def imported(self, source: Path, choices: RecipeChoices) -> Imported:
        """The cases of the source folder, its points on their images, divided as published.

        AutolmkError where the layout is another one, more than a tenth of all points lie beside their images, or a
        published part names a case that is not there.
        """
        if choices.annotator is not None and not self.annotators:
            raise AutolmkError(
                "this dataset has one set of points", found=f"--annotator {choices.annotator}", remedy="leave it out"
            )
        if not source.is_dir():
            raise AutolmkError(
                "the folder of the public dataset is missing",
                file=source,
                expected=self._expected(),
                remedy="fetch it, as autolmk_recipe says with the dataset's name alone, and give its folder",
            )
        try:
            found = self.read(source, choices)
        except AutolmkError as error:
            if error.expected is not None and error.case is not None:
                raise
            expected = f"{error.expected or 'files'}\nthe layout of {self.title}:\n{self._expected()}"
            remedy = error.remedy or "check the folder that --source names"
            raise AutolmkError(
                error.problem, file=error.file or source, case=error.case, found=error.found, expected=expected,
                remedy=remedy,
            ) from None  # fmt: skip
        _require_sizes(found.cases, source)
        _require_on_image(found.cases, source)
        if choices.split is not None:
            parts = read_split(choices.split, [case.identifier for case in found.cases])
            cases = [replace(c, test=c.identifier in parts.test) for c in found.cases if c.identifier in parts.all]
            found = replace(found, cases=tuple(cases))
        described = {"name": self.title, "license": self.licence, "reference": self.source, **found.described}
        return replace(found, described=described)

    def _expected(self) -> str:
        return "\n".join(f"    {line}" for line in self.layout)


def divided(cases: Sequence[ImportedCase], source: Path, word: str) -> tuple[ImportedCase, ...]:
    """The cases, those for test whose image lies, below the source, in a folder whose name holds the word."""
    folders = [case.images[0].parent.relative_to(source).parts for case in cases]
    return tuple(
        replace(case, test=any(word in part.lower() for part in parts))
        for case, parts in zip(cases, folders, strict=True)
    )


def subfolder(source: Path, *names: str) -> Path | None:
    """The folder of one of these names in the source, whatever their capital letters; None where there is none."""
    found = {entry.name.lower(): entry for entry in sorted(source.iterdir()) if entry.is_dir()}
    return next((found[name.lower()] for name in names if name.lower() in found), None)


def require_files(found: Sequence[Path], source: Path, expected: str) -> None:
    """Raise AutolmkError where a recipe finds none of the files that it reads."""
    if not found:
        wrong(source, "source", some(sorted(p.name for p in source.iterdir())) or "an empty folder", expected,
              "name the folder that holds them with --source")  # fmt: skip


def reading(choices: RecipeChoices, unlisted: Literal["unknown", "absent"] = "unknown") -> Options:
    """Options for the readers of `annotations.formats`."""
    return Options(annotator=choices.annotator, unlisted=unlisted, split=True)


def _require_sizes(cases: Sequence[ImportedCase], source: Path) -> None:
    """AutolmkError where the source says of a voxel that it is as large as none can be."""
    for case in cases:
        if case.spacing is not None and not all(SMALLEST <= size <= LARGEST for size in case.spacing):
            raise AutolmkError(
                "the size of a voxel makes no sense",
                file=source,
                case=case.identifier,
                found=f"{list(case.spacing)} mm",
                expected=f"{SMALLEST:g} to {LARGEST:g} mm",
                remedy="fetch the file that says it again",
            )


def _require_on_image(cases: Sequence[ImportedCase], source: Path) -> None:
    """AutolmkError where so many points lie beside their images that their frame must be another one."""
    inside = total = 0
    worst: tuple[float, str] = (0.0, "")
    for case in cases:
        geometry = imageio.read_geometry(case.images[0], spacing=None if case.spacing is None else case.spacing[::-1])
        annotation = case.annotation
        if annotation.frame == "voxel":
            voxels = annotation.points[annotation.present][:, : geometry.ndim][:, ::-1]
        else:
            points = annotation.physical_points(annotation.frame or "LPS", geometry)[annotation.present]
            voxels = geometry.to_voxels(points)
        on = geometry.contains(voxels, margin=MARGIN)
        inside, total = inside + int(on.sum()), total + len(on)
        beside = float(np.mean(~on)) if len(on) else 0.0
        worst = max(worst, (beside, case.identifier))
    if total and inside < ON_IMAGE * total:
        raise AutolmkError(
            "the points of a public dataset do not lie on its images",
            file=source,
            case=worst[1],
            found=f"{inside} of {counted(total, 'point')} on an image",
            expected=f"at least {ON_IMAGE:.0%} of them: their frame or their order is not as the recipe has it",
            remedy="check that images and points are of the same version, and were not converted before",
        )
