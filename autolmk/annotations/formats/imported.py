"""The choices that a reader of a foreign format is given, and the cases that it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autolmk.annotations.annotation import Annotation, Frame, NamesFrom
from autolmk.errors import AutolmkError


@dataclass(frozen=True)
class Options:
    """Choices that the files of some formats leave to the user; documentation/import.md explains each.

    images: folder with the images, instead of the source. by_name: of a path in a file, only the last part counts.
    first_pixel: coordinate of the centre of an image's first pixel; None for the format's own convention.
    individual: which animal, track or object, where a file holds several.
    missing: numbers that stand in all coordinates of a point that is not there; () for none.
    unlisted: what a point without a position means. split: keep the source's division into training and test cases.
    """

    images: Path | None = None
    by_name: bool = False
    first_pixel: float | None = None
    frame: Frame | None = None
    y_from: Literal["top", "bottom"] | None = None
    scale: Literal["ignore", "mm", "applied"] | None = None
    missing: tuple[float, ...] | None = None
    negatives: Literal["missing", "real"] | None = None
    curves: Literal["ignore", "points"] | None = None
    annotator: Literal["junior", "senior", "mean"] | None = None
    side: Literal["moving", "target"] | None = None
    individual: str | None = None
    names_from: NamesFrom | None = None
    unlisted: Literal["unknown", "absent"] = "unknown"
    split: bool = False


@dataclass(frozen=True, eq=False)
class ImportedCase:
    """One case: its images by channel, and its points in LPS or voxels (ITK index order, 0 at a voxel's centre).

    spacing: of a pixel in mm, order x, y(, z), where the source says it of an image that carries no physical size.
    corrected: whether it also counts where the image carries another size: then the image is written anew with it.
    """

    identifier: str
    images: tuple[Path, ...]
    annotation: Annotation
    test: bool = False
    spacing: tuple[float, ...] | None = None
    corrected: bool = False


@dataclass(frozen=True, eq=False)
class Imported:
    """All complete cases of a source, what is incomplete, and sentences that say what was assumed.

    groups: regular expression for dataset.json, where cases of one subject are told by their names. described: further
    keys of dataset.json that the source implies.
    """

    cases: tuple[ImportedCase, ...]
    without_image: tuple[str, ...] = ()
    without_points: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    groups: str | None = None
    described: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """A format that can be imported.

    needs: the options that its files may make necessary, or that change how they are read.
    sniff: whether a file or folder looks like it, from its names and first bytes; never raises.
    read: None for a format that holds whole datasets, which `autolmk.dataset` converts.
    """

    name: str
    description: str
    sniff: Callable[[Path], bool]
    read: Callable[[Path, Options], Imported] | None
    needs: tuple[str, ...] = ()
    aliases: tuple[str, ...] = field(default=())


def undecided(question: str, file: Path, option: str, choices: Mapping[str, str]) -> AutolmkError:
    """The error that asks for an option. choices: its values, and what each would give for the first case."""
    return AutolmkError(
        question,
        file=file,
        found="nothing in the file that says so",
        expected="; ".join(f"{option} {choice}: {result}" for choice, result in choices.items()),
        remedy=f"run again with {option} and the value that fits the pictures",
    )
