"""Payer's 37 landmarks in X-ray images of hands, of the Digital Hand Atlas."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autolmk import imageio
from autolmk.annotations.formats import Imported
from autolmk.annotations.formats.collect import Collector, numbered
from autolmk.annotations.formats.parsing import Table, wrong
from autolmk.annotations.formats.source import ImportedFiles
from autolmk.errors import some
from autolmk.recipes.public_dataset import PublicDataset, RecipeChoices, reading, require_files


def read(source: Path, choices: RecipeChoices) -> Imported:
    """The rows of all.csv: an image's name, then x and y of each landmark, without a header."""
    files = sorted(source.rglob("all.csv"))
    require_files(files, source, "all.csv of Payer's repository, and the images, in any folder below")
    if len(files) > 1:
        wrong(source, "source", some([str(f.relative_to(source)) for f in files]), "one all.csv")
    reader = ImportedFiles(source, reading(choices))
    collector = Collector(reader, "voxel")
    table = Table(files[0], delimiters=",")
    width = len(table.rows[0][1])
    if width < 3 or width % 2 == 0:
        wrong(files[0], "line 1", f"{width} fields", "the name of an image, and x and y of each landmark")
    for line, row in table.body(0, width):
        points = np.array([table.number(v, line, f"column {i + 2}") for i, v in enumerate(row[1:])]).reshape(-1, 2)
        images = reader.image(row[0], files[0], f"line {line}")
        name = imageio.stem_of(images[0]) if images else row[0]
        collector.add(row[0], images, numbered(len(points)), points, file=files[0], identifier=name)
    return collector.result("a row of all.csv is the name of an image, then x and y of each landmark")


DATASET = PublicDataset(
    "hands",
    "Hands: 37 landmarks in X-ray images",
    "Dataset748_Hands",
    "Payer et al., Medical Image Analysis 54, 207-219, 2019; images: Digital Hand Atlas, https://ipilab.usc.edu/",
    "not known here: see the Digital Hand Atlas, and Payer's repository",
    ("ask for the images of the Digital Hand Atlas (https://ipilab.usc.edu/research/baaweb)",
     "fetch hand_xray/hand_xray_dataset/setup of "
     "https://github.com/christianpayer/MedicalDataAugmentationTool-HeatmapRegression, which holds all.csv"),
    ("all.csv", "*.jpg named as in its first column, in any folder below"),
    ("cross-validation by lists of names: give the test.txt of one part with --split-file",
     "images have no physical size: errors are in pixels unless --spacing or sizes of your own are added"),
    read,
    (),
    ("the rule by which papers turn pixels into mm", "published errors: no table could be read at its source",
     "the licence"),
)  # fmt: skip
