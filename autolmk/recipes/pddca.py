"""PDDCA 1.4.1, bony landmarks in CT of head and neck; and datasets of its layout, such as one of the prostate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autolmk import imageio
from autolmk.annotations.formats import Imported
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.parsing import wrong
from autolmk.annotations.formats.slicer import annotation_of
from autolmk.annotations.formats.source import ImportedFiles
from autolmk.annotations.formats.states import add_annotation
from autolmk.errors import some
from autolmk.recipes.public_dataset import PublicDataset, Published, RecipeChoices, reading, require_files


def read(source: Path, choices: RecipeChoices) -> Imported:
    """A case a folder: its one image, and the points of its one .fcsv; RAS, where the file names no frame."""
    files = sorted(source.glob("*/*.fcsv"))
    require_files(files, source, "CASE/img.nrrd and CASE/*.fcsv")
    options = reading(choices)
    collector = Collector(ImportedFiles(source, options), "LPS")
    for file in files:
        images = [f for f in sorted(file.parent.iterdir()) if f.is_file() and imageio.ending_of(f) is not None]
        named = [f for f in images if imageio.stem_of(f) == "img"] or images
        points = sorted(file.parent.glob("*.fcsv"))
        if len(named) != 1 or len(points) != 1:
            wrong(file.parent, "case", some([f.name for f in [*named, *points]]), "one image and one .fcsv")
        annotation = annotation_of(file, options)
        annotation = replace(annotation, frame=annotation.frame or "RAS")
        case = file.parent.name
        add_annotation(collector, case, (named[0],), annotation, file, identifier=case)
    return collector.result("points are in RAS where the file says nothing, as 3D Slicer wrote them then")


FIGURE = "MIDL 2023, Prior Guided 3D Landmark Localization, results"
LAYOUT = ("CASE/img.nrrd", "CASE/*.fcsv", "CASE/structures/...: left aside")


def _row(method: str, mre: float, sd: float, *sdr: float) -> Published:
    return Published(method, FIGURE, mre, sd, dict(zip((2.0, 2.5, 3.0, 4.0, 8.0), sdr, strict=True)))


PDDCA = PublicDataset(
    "pddca",
    "PDDCA 1.4.1: bony landmarks in CT of head and neck",
    "Dataset740_PDDCA",
    "Raudaschl et al., Medical Physics 44(5), 2020-2036, 2017: http://www.imagenglab.com/newsite/pddca/",
    "given to the community by its authors; terms in pddca.odt beside the data",
    ("fetch parts 1 to 3 from that page", "unpack them into one folder"),
    LAYOUT,
    ("48 patients; those without an .fcsv are left out", "landmarks chin, mand_l, mand_r, odont_proc, occ_bone",
     "the published figures are of three-fold cross-validation: autolmk trains five folds; to compare, make three in "
     "splits_final.json",
     "MRE and SD in mm, SDR at 2, 2.5, 3, 4 and 8 mm"),
    read,
    (
        _row("3D U-Net", 7.69, 5.24, 2.03, 3.25, 5.05, 16.28, 67.90),
        _row("SCN", 7.44, 4.26, 2.65, 6.74, 10.98, 21.36, 69.30),
        _row("DRM", 6.39, 3.37, 7.27, 12.72, 16.36, 29.09, 74.54),
        _row("LA-GCN", 3.23, 2.52, 35.68, 46.76, 58.19, 69.48, 94.74),
        _row("SA-LSTM", 2.37, 1.60, 56.36, 71.60, 80.00, 89.99, 95.91),
        _row("proposed there", 2.13, 1.18, 55.23, 70.12, 86.20, 93.50, 99.40),
    ),
    ("which cases are in which of the three folds",
     "why the five landmarks' means of the proposed method average 1.91 mm, and its row says 2.13"),
)  # fmt: skip

PROSTATE = PublicDataset(
    "prostate",
    "Landmarks of the prostate, in PDDCA's layout",
    "Dataset743_Prostate",
    "MIDL 2023, Prior Guided 3D Landmark Localization: an in-house dataset, which is not public",
    "none: the data is private",
    ("the data cannot be fetched; the recipe serves those who have it, or their own in this layout",),
    LAYOUT,
    ("MRE and SD in mm, SDR at 2, 2.5, 3, 4 and 8 mm",),
    read,
    (
        _row("3D U-Net", 3.57, 2.27, 23.84, 36.82, 48.23, 68.12, 96.32),
        _row("SCN", 3.48, 2.31, 25.68, 39.34, 51.74, 69.57, 95.73),
        _row("DRM", 3.44, 2.21, 26.74, 38.24, 52.13, 70.54, 97.58),
        _row("proposed there", 3.29, 2.26, 31.17, 41.67, 54.13, 73.22, 95.62),
    ),
    ("the number of cases and of landmarks, and the division",),
)
