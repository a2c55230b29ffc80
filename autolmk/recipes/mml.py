"""Mandibular molar landmarks (MML): 14 landmarks of molars in dental CT, some of which do not exist in some jaws."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autolmk.annotations.formats import Imported
from autolmk.annotations.formats.collect import Collector, numbered
from autolmk.annotations.formats.parsing import wrong
from autolmk.annotations.formats.source import ImportedFiles
from autolmk.geometry import FloatArray
from autolmk.landmarks import Status
from autolmk.recipes.public_dataset import PublicDataset, Published, RecipeChoices, reading, require_files

NONEXISTENT = -100.0  # mean of the coordinates of a landmark that is not in the volume, at most
LARGEST = 2**20  # bytes of an array of points


def read(source: Path, choices: RecipeChoices) -> Imported:
    """The cases of train, val and test; the size of a voxel is the one of _spacing.npy, whatever the image says."""
    files = sorted(f for part in ("train", "val", "test") for f in source.glob(f"{part}/*_volume.nrrd"))
    require_files(files, source, "train/*_volume.nrrd, val/*_volume.nrrd and test/*_volume.nrrd")
    collector = Collector(ImportedFiles(source, reading(choices)), "voxel")
    for file in files:
        stem = file.name.removesuffix("_volume.nrrd")
        points = _array(file.with_name(f"{stem}_label.npy"), 2)
        spacing = _array(file.with_name(f"{stem}_spacing.npy"), 1)
        if points.shape[1] != 3 or spacing.shape != (3,) or not (spacing > 0).all():
            wrong(file, "shape of _label.npy and _spacing.npy", f"{points.shape} and {spacing.tolist()}",
                  "(landmarks, 3) and 3 positive numbers")  # fmt: skip
        there = points.mean(axis=1) >= NONEXISTENT
        collector.add(
            stem, (file,), numbered(len(points)), np.where(there[:, None], points, np.nan), file=file,
            status=np.where(there, Status.PRESENT, Status.ABSENT).astype(np.int8), test=file.parent.name == "test",
            spacing=tuple(spacing.tolist()), identifier=stem, corrected=True,
        )  # fmt: skip
    return collector.result("a landmark whose coordinates lie below -100 does not exist in this volume: absent")


def _array(file: Path, axes: int) -> FloatArray:
    if not file.is_file() or file.stat().st_size > LARGEST:
        wrong(file, "file", "missing, or too large", "the array of points or of spacings beside the volume")
    try:
        array = np.asarray(np.load(file, allow_pickle=False), dtype=np.float64)
    except Exception as error:  # of any kind, as NumPy parses the header as Python
        wrong(file, "content", str(error)[:200], "a NumPy array of numbers")
    if array.ndim != axes:
        wrong(file, "content", f"an array of {array.ndim} axes", f"{axes}")
    return array


DATASET = PublicDataset(
    "mml",
    "MML: mandibular molar landmarks in dental CT",
    "Dataset733_MML",
    "code and link to the data: https://github.com/ithet1007/mmld_code",
    "not stated beside the data; the repository of the code has a licence file of its own",
    ("follow the link to the Google Drive in that repository's readme", "unpack mmld_dataset"),
    ("train/NAME_volume.nrrd", "train/NAME_label.npy: (14, 3) voxels i, j, k", "train/NAME_spacing.npy: mm",
     "val/...", "test/..."),
    ("the folders train (458 volumes as its readme says), val (100) and test (100) are the published division",
     "val joins train, as autolmk makes its own folds; test is left for the end",
     "MRE and SDR at 2, 2.5, 3 and 4 mm are of landmarks that exist"),
    read,
    (Published("nnLandmark", "Ertl et al., arXiv 2504.06742, abstract", mre=1.5),),
    ("which of the volumes nnLandmark's figure is of: its paper also names a part with all landmarks present",
     "names of the 14 landmarks: they are numbered as in the files"),
)  # fmt: skip
