"""VerSe 2019 and 2020: centroids of vertebrae in CT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autolmk.annotations.formats import FORMATS, Imported
from autolmk.annotations.formats.parsing import wrong
from autolmk.recipes.public_dataset import PublicDataset, RecipeChoices, divided, reading


def read(source: Path, choices: RecipeChoices) -> Imported:
    """All centroids of the subject based structure; cases below a folder called test are test cases."""
    reader = FORMATS["verse"].read
    if reader is None:
        wrong(source, "format", "verse", "a reader")
    found = reader(source, reading(choices, "absent"))
    return replace(found, cases=divided(found.cases, source, "test"), groups=r"(sub-[A-Za-z0-9]+)")


DATASET = PublicDataset(
    "verse",
    "VerSe: centroids of vertebrae in CT",
    "Dataset747_VerSe",
    "Sekuboyina et al., Medical Image Analysis 73, 102166, 2021: https://github.com/anjany/verse",
    "CC BY-SA 4.0",
    ("fetch the subject based structure of VerSe2019 and VerSe2020 (https://osf.io/4skx2/ and the links there)",
     "unpack the parts training, validation and test into one folder"),
    ("training/rawdata/sub-verseNUMBER/sub-verseNUMBER_*ct.nii.gz",
     "training/derivatives/sub-verseNUMBER/sub-verseNUMBER_*_seg-subreg_ctd.json", "validation/...", "test/..."),
    ("the folders are the published division; validation joins training, as autolmk makes its own folds",
     "a vertebra that a file does not list is not in the image: absent",
     "judged by the identification rate, the share of vertebrae whose prediction is nearest to their own centroid and "
     "less than 20 mm away, and by the mean distance; SDR at 20 mm is near to the former, not the same"),
    read,
    (),
    ("published identification rates and distances: no table could be read at its source",),
    unlisted="absent",
)  # fmt: skip
