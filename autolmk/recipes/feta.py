"""FeTA 2.4 biometry: both ends of five measures of the fetal brain in MRI, marked in masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autolmk import imageio
from autolmk.annotations.formats import Imported
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.parsing import wrong
from autolmk.annotations.formats.source import ImportedFiles
from autolmk.dataset.description import Measurement
from autolmk.errors import some
from autolmk.geometry import FloatArray
from autolmk.recipes.public_dataset import PublicDataset, Published, RecipeChoices, reading, require_files

LABELS = {"LCC": 1, "HV": 2, "bBIP": 3, "sBIP": 4, "TCD": 5}
SPACES = {  # masks -> the images in whose space they lie, first the space in which the experts measured
    "derivatives/biometry": "derivatives/im_reo",
    "derivatives/biometry_mapped": ".",
}


def read(source: Path, choices: RecipeChoices) -> Imported:
    """Both ends of each measure; unknown where a mask lacks it. Masks and images must have the same grid."""
    masks, images = _space(source)
    collector = Collector(ImportedFiles(source, reading(choices)), "voxel")
    names = [f"{label}_{end}" for label in LABELS for end in (1, 2)]
    for mask in masks:
        case = mask.name.split("_")[0]
        found = [f for f in sorted(images.rglob(f"{case}_*T2w.nii*")) if _counts(f, images)]
        if len(found) > 1:
            wrong(mask, f"image of {case}", some([f.name for f in found]), "one image in the space of the mask")
        if found and not imageio.read_geometry(mask).is_close(imageio.read_geometry(found[0])):
            wrong(mask, f"grid of {case}", "another one than that of its image", f"the grid of {found[0]}",
                  "make images and masks of one space with the scripts of the dataset")  # fmt: skip
        collector.add(case, (found[0],) if found else None, names, _ends(mask), file=mask, identifier=case)
    measurements = {label: Measurement(distance=(f"{label}_1", f"{label}_2")) for label in LABELS}
    return collector.result(
        f"values of the masks are {LABELS}; of two ends, _1 has the lower voxel number",
        described={"measurements": measurements},
    )


def _space(source: Path) -> tuple[list[Path], Path]:
    for place, images in SPACES.items():
        masks = sorted(source.glob(f"{place}/sub-*/anat/*_meas.nii*"))
        if masks and any(_counts(f, source / images) for f in (source / images).rglob("sub-*T2w.nii*")):
            return masks, source / images
    require_files([], source, "derivatives/biometry with derivatives/im_reo, which code/im_original_to_realigned.py of "
                  "the dataset makes; or derivatives/biometry_mapped with sub-*/anat")  # fmt: skip
    raise AssertionError


def _counts(file: Path, images: Path) -> bool:
    """Whether an image is of that space: below it, and in no other derivatives."""
    return "derivatives" not in file.relative_to(images).parts


def _ends(mask: Path) -> FloatArray:
    """(10, 3) voxels x, y, z; NaN for a measure that the mask lacks. AutolmkError unless a value marks two voxels."""
    array = imageio.read_image([mask]).array[0]
    points = np.full((2 * len(LABELS), 3), np.nan)
    for row, (label, value) in enumerate(LABELS.items()):
        found = np.argwhere(array == value)[:, ::-1]
        if len(found) not in (0, 2):
            wrong(mask, label, f"{len(found)} voxels of the value {value}", "two, the ends of the measure, or none")
        if len(found):
            points[2 * row : 2 * row + 2] = sorted(found.tolist())
    return points


DATASET = PublicDataset(
    "feta",
    "FeTA 2.4: biometry of the fetal brain in MRI",
    "Dataset742_FeTA_2_4",
    "Sanchez et al., FeTA Biometry, https://doi.org/10.5281/zenodo.11192452; images: Synapse syn25649159",
    "see the terms of Synapse, which must be accepted there",
    ("fetch the images from https://www.synapse.org/Synapse:syn25649159/wiki/610007, and the masks with them",
     "make the images in the space of the masks with code/im_original_to_realigned.py of the dataset"),
    ("derivatives/biometry/sub-NUMBER/anat/*_meas.nii.gz: LCC 1, HV 2, bBIP 3, sBIP 4, TCD 5",
     "derivatives/im_reo/**/sub-NUMBER_*T2w.nii.gz: images in the space of these masks",
     "or derivatives/biometry_mapped/... with sub-NUMBER/anat/sub-NUMBER_*T2w.nii.gz"),
    ("80 cases of Zurich, 10 of which have no measures; some lack single ones",
     "the challenge's own test set is hidden; it is judged by the measures' mean absolute percentage error",
     "the dataset says of two raters: below 1 mm apart in measures, but for sBIP, 1.4 mm; 1.7 mm (HV) to 6 mm (sBIP) "
     "in landmarks"),
    read,
    (
        Published("best of the FeTA 2024 challenge, hidden test set", "Zalevskyi et al., arXiv 2505.02784, abstract",
                  other="MAPE of the measures 7.72 %"),
        Published("linear in gestational age", "the same", other="MAPE 9.56 %"),
        Published("two raters", "the same", other="MAPE 5.38 %"),
    ),
    ("errors of landmarks in mm on this part",
     "nnLandmark's division: its split_Dataset742_FeTA_2_4.json can be given with --split-file",
     "which of two statements of the dataset's readme on the values 1 and 2 holds: the recipe follows its table, "
     "LCC 1 and HV 2"),
)  # fmt: skip
