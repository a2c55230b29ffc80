"""Aariz (CEPHA29): 1000 cephalograms of seven devices with 29 landmarks of two groups of orthodontists."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autolmk import imageio
from autolmk.annotations.formats import Imported
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.parsing import Table, coordinate, field, json_of, wrong
from autolmk.annotations.formats.source import ImportedFiles
from autolmk.errors import some
from autolmk.recipes.public_dataset import PublicDataset, Published, RecipeChoices, reading, require_files, subfolder

SIZES = "cephalogram_machine_mappings.csv"
PLACE = "Annotations/Cephalometric Landmarks"
FOLDERS = {"junior": "Junior Orthodontists", "senior": "Senior Orthodontists"}


def read(source: Path, choices: RecipeChoices) -> Imported:
    """The mean of both groups unless one is chosen; the folder test is the test part."""
    annotator = choices.annotator or "mean"
    wanted = [FOLDERS[a] for a in FOLDERS if annotator in (a, "mean")]
    sizes = _sizes(source / SIZES)
    collector = Collector(ImportedFiles(source, reading(choices)), "voxel")
    images: list[Path] = []
    for part in ("train", "valid", "test"):
        folder = subfolder(source, part)
        for image in (
            sorted((folder / "Cephalograms").iterdir()) if folder and (folder / "Cephalograms").is_dir() else ()
        ):
            if folder is None or imageio.ending_of(image) is None:
                continue
            images.append(image)
            case = imageio.stem_of(image)
            seen = [_points(folder / PLACE / group / f"{case}.json") for group in wanted]
            names = list(seen[0])
            if any(set(points) != set(names) for points in seen):
                wrong(image, f"landmarks of {case}", "other ones of the junior than of the senior group", "the same")
            if case not in sizes:
                wrong(source / SIZES, f"size of a pixel of {case}", "none", "its row")
            mean = np.mean([[points[name] for name in names] for points in seen], axis=0)
            size = sizes[case]
            collector.add(
                case, (image,), names, mean, file=image, test=part == "test", spacing=(size, size), identifier=case
            )
    require_files(images, source, f"train/Cephalograms and train/{PLACE}")
    return collector.result(f"points of: {annotator}")


def _sizes(file: Path) -> dict[str, float]:
    """cephalogram -> mm a pixel."""
    table = Table(file)
    header = [name.lower() for name in table.rows[0][1]]
    if not {"cephalogram_id", "pixel_size"} <= set(header):
        wrong(file, "header", some(header), "cephalogram_id and pixel_size")
    key, size = header.index("cephalogram_id"), header.index("pixel_size")
    return {row[key]: table.number(row[size], line, "pixel_size") for line, row in table.body(1, len(header))}


def _points(file: Path) -> dict[str, list[float]]:
    """Symbol -> x, y."""
    found: dict[str, list[float]] = {}
    for i, entry in enumerate(field(json_of(file), "landmarks", list, file, "the file")):
        where = f"landmarks[{i}]"
        symbol = field(entry, "symbol", str, file, where)
        value = field(entry, "value", dict, file, where)
        if symbol in found:
            wrong(file, where, f"{symbol} a second time", "each landmark once")
        found[symbol] = [coordinate(value.get(axis), file, f"{axis} of {where}") for axis in "xy"]
    return found


DATASET = PublicDataset(
    "aariz",
    "Aariz: cephalograms with 29 landmarks",
    "Dataset745_Aariz",
    "Khalid et al., arXiv 2302.07797: https://github.com/manwaarkhd/aariz-cephalometric-dataset",
    "not known here: see the data's page",
    ("follow the link in that repository, or of https://www.nature.com/articles/s41597-025-05542-3",),
    (SIZES, "train/Cephalograms/ID.png", f"train/{PLACE}/Junior Orthodontists/ID.json",
     f"train/{PLACE}/Senior Orthodontists/ID.json", "valid/...", "test/..."),
    ("train, valid and test are the published division, 1000 images in all",
     "valid joins train, as autolmk makes its own folds",
     "the truth is the mean of both groups (--annotator mean, the default); some code rounds it up to whole pixels, "
     "which the recipe does not",
     "MRE in mm by the size of each device's pixels, and SDR at 2, 2.5, 3 and 4 mm"),
    read,
    (Published("CephRes-MHNet", "arXiv 2511.10173, abstract", mre=1.23, sdr={2.0: 85.5}),
     Published("AFPF-Net", "arXiv 2511.10173, abstract", mre=1.25, sdr={2.0: 84.1})),
    ("the licence", "which annotators' points the published figures are of"),
    annotators=True,
)  # fmt: skip
