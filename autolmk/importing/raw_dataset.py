"""Writing imported cases as a raw dataset."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autolmk import imageio
from autolmk.annotations import write_table
from autolmk.annotations.formats import Imported, ImportedCase
from autolmk.annotations.formats.source import DETACHED
from autolmk.dataset import TABLE, Dataset, DatasetDescription
from autolmk.dataset.inferring import complete
from autolmk.errors import AutolmkError, some
from autolmk.files.serialization import write_json
from autolmk.geometry import Geometry
from autolmk.image import Image

SAME_SIZE = 1e-3  # relative difference up to which two sizes of a voxel are the same
SAME_KIND = {".jpeg": ".jpg", ".tiff": ".tif"}  # other spellings of an ending
Spacing = tuple[float, ...] | dict[str, tuple[float, ...]]


def write_dataset(
    imported: Imported, folder: Path, *, link: bool, spacing: tuple[float, ...] | None, unlisted: str
) -> DatasetDescription:
    """Write images, landmarks.csv and dataset.json into `folder`; returns dataset.json.

    link: link to the images instead of copying them. spacing: mm, order x, y(, z), for images without a physical size.
    AutolmkError where the images are of several kinds, or one cannot be taken as it is.
    """
    training = [case for case in imported.cases if not case.test]
    test = [case for case in imported.cases if case.test]
    ending = _one_kind(training or test)
    for split, cases in (("Tr", training), ("Ts", test)):
        for case in cases:
            _write_images(case, folder / f"images{split}", link)
        if cases:
            write_table(folder / f"landmarks{split}" / TABLE, {case.identifier: case.annotation for case in cases})
    frame = imported.cases[0].annotation.frame
    description = DatasetDescription(
        name=folder.name.partition("_")[2] or folder.name,
        file_ending=ending,
        coordinates=frame,
        spacing=_spacing(imported.cases, spacing),
        groups=imported.groups,
        unlisted_landmark_means="absent" if unlisted == "absent" else "unknown",
        numTraining=len(training),
        numTest=len(test),
    )
    description = replace(description, **imported.described)
    if training:
        description = complete(Dataset(folder, description))
    write_json(folder / "dataset.json", description.to_json())
    return description


def kind_of(image: Path) -> str:
    """The ending that an image gets in the dataset."""
    ending = imageio.ending_of(image) or ""
    return SAME_KIND.get(ending, ending)


def _one_kind(cases: Sequence[ImportedCase]) -> str:
    kinds = Counter(kind_of(image) for case in cases for image in case.images)
    usual = max(kinds, key=lambda k: (kinds[k], k))
    odd = [image.name for case in cases for image in case.images if kind_of(image) != usual]
    if odd:
        raise AutolmkError(
            "the images are of several kinds",
            file=cases[0].images[0].parent,
            found=f"{some(odd)} among {kinds[usual]} × {usual}",
            expected=f"images that all end with {usual}",
            remedy="convert the others, without loss",
        )
    if usual in DETACHED:
        raise AutolmkError(
            "images whose data is in a second file cannot be imported",
            file=cases[0].images[0],
            found=f"the file ending {usual}",
            remedy="convert them to .nii.gz, .nrrd or .mha",
        )
    return usual


def _write_images(case: ImportedCase, folder: Path, link: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for channel, image in enumerate(case.images):
        ending = kind_of(image)
        target = folder / f"{case.identifier}_{channel:04d}{'' if ending == imageio.DICOM else ending}"
        if case.corrected and case.spacing is not None and _differs(image, case.spacing):
            _write_corrected(image, case.spacing, target)
        elif link:
            os.symlink(image.resolve(), target)
        elif image.is_dir():
            shutil.copytree(image, target)
        else:
            shutil.copyfile(image, target)


def _differs(image: Path, spacing: tuple[float, ...]) -> bool:
    """Whether an image carries another size of its voxels than these, in mm, order x, y, z."""
    own = imageio.read_geometry(image).spacing
    return imageio.has_physical_size(image) and not np.allclose(own, spacing[::-1], rtol=SAME_SIZE)


def _write_corrected(image: Path, spacing: tuple[float, ...], target: Path) -> None:
    found = imageio.read_image([image])
    geometry, sizes = found.geometry, spacing[::-1]
    corrected = Geometry.from_parts(geometry.shape, sizes, [float(x) for x in geometry.origin], geometry.direction)
    imageio.write_image(target, Image(found.array, corrected))


def _spacing(cases: Sequence[ImportedCase], given: tuple[float, ...] | None) -> Spacing | None:
    """For dataset.json; None where the images say it themselves, or nobody does."""
    if given is not None:
        return given
    said = {case.identifier: case.spacing for case in cases if case.spacing is not None}
    sizeless = [c.identifier for c in cases if not imageio.has_physical_size(c.images[0])]
    if not said or not sizeless:
        return None
    lacking = [name for name in sizeless if name not in said]
    if lacking:
        raise AutolmkError(
            "the source says of some images how large a pixel is, of others not",
            found=f"nothing of {some(lacking)}",
            expected="the size of all, or of none",
            remedy="complete the source, or give one size for all with --spacing",
        )
    sizes = set(said.values())
    return next(iter(sizes)) if len(sizes) == 1 else said
