"""AASCE 2019: corners of 17 vertebrae in X-ray images of the spine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autolmk import imageio
from autolmk.annotations.formats import Imported
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.parsing import Table, wrong
from autolmk.annotations.formats.source import ImportedFiles, text_of
from autolmk.recipes.public_dataset import PublicDataset, RecipeChoices, reading, require_files

VERTEBRAE, CORNERS = 17, 4
NAMES = [f"V{v:02d}_{c}" for v in range(1, VERTEBRAE + 1) for c in range(1, CORNERS + 1)]


def read(source: Path, choices: RecipeChoices) -> Imported:
    """The rows of landmarks.csv, shares of the image's width and height; the folder test is the test part."""
    roots = [f.parent.parent.parent for f in sorted(source.rglob("labels/*/filenames.csv"))]
    require_files(roots, source, "labels/training/filenames.csv and landmarks.csv, and data/training")
    collector = Collector(ImportedFiles(source, reading(choices)), "voxel")
    for labels in sorted(source.rglob("labels/*/filenames.csv")):
        part, root = labels.parent.name, labels.parent.parent.parent
        names = [line.strip() for line in text_of(labels).splitlines() if line.strip()]
        table = Table(labels.with_name("landmarks.csv"), delimiters=",")
        rows = table.body(0, 2 * len(NAMES))
        if len(rows) != len(names):
            wrong(labels, "content", f"{len(names)} names, {len(rows)} rows of points", "as many of both")
        for name, (line, row) in zip(names, rows, strict=True):
            image = root / "data" / part / name
            if "/" in name or "\\" in name or not image.is_file():
                wrong(labels, name, "no image of that name", f"{root / 'data' / part}/{name}")
            height, width = imageio.read_geometry(image).shape
            values = np.array([table.number(v, line, f"column {i + 1}") for i, v in enumerate(row)]).reshape(2, -1)
            points = np.column_stack([values[0] * width, values[1] * height])
            collector.add(
                name, (image,), NAMES, points, file=labels, test=part.lower() == "test",
                identifier=imageio.stem_of(image),
            )  # fmt: skip
    return collector.result("a row of landmarks.csv is 68 shares of the width, then 68 shares of the height")


DATASET = PublicDataset(
    "aasce",
    "AASCE 2019: corners of vertebrae in X-ray images",
    "Dataset746_AASCE",
    "Wu et al., MICCAI 2017, BoostNet; SpineWeb's dataset 16: http://spineweb.digitalimaginggroup.ca/",
    "not known here: see SpineWeb",
    ("ask for dataset 16 at SpineWeb, and unpack boostnet_labeldata",),
    ("data/training/*.jpg, data/test/*.jpg", "labels/training/filenames.csv: a name a line",
     "labels/training/landmarks.csv: 136 numbers a line", "labels/test/..."),
    ("the folders training and test are the published division; 609 images in all",
     "images have no physical size: errors are in pixels",
     "the challenge is judged by Cobb angles (SMAPE), which autolmk does not compute",
     "some of its annotations are known to be wrong: look at the report of autolmk_check"),
    read,
    (),
    ("whether the shares count from the first pixel's edge or centre: they are multiplied by width and height",
     "in which order the four corners of a vertebra stand, and whether always in the same",
     "errors of landmarks in pixels that were published"),
)  # fmt: skip
