"""Public datasets: one short module each, which says where it is from, how it becomes a raw dataset, by which protocol
it is judged and what was published; nothing is downloaded.

A module names a layout that its source documents or that code which reads the data shows. What could not be found is
listed as not known; it is never guessed.
"""

from __future__ import annotations

from autolmk.annotations.formats import plain_spelling
from autolmk.errors import AutolmkError
from autolmk.files.serialization import near
from autolmk.recipes import (
    aariz,
    aasce,
    afids,
    cephalograms,
    deeplabcut,
    feta,
    hands,
    lfc,
    mml,
    pddca,
    verse,
)
from autolmk.recipes.public_dataset import PublicDataset, Published, RecipeChoices

__all__ = ["DATASETS", "RecipeChoices", "PublicDataset", "Published", "dataset_named"]

DATASETS: dict[str, PublicDataset] = {
    dataset.name: dataset
    for dataset in (
        *(afids.AFIDS, afids.HCP, afids.OASIS, afids.SNSX, mml.DATASET, lfc.DATASET, feta.DATASET),
        *(pddca.PDDCA, pddca.PROSTATE, cephalograms.ISBI2015, cephalograms.CL_DETECTION, aariz.DATASET),
        *(aasce.DATASET, verse.DATASET, hands.DATASET, deeplabcut.DATASET),
    )
}


def dataset_named(name: str) -> PublicDataset:
    """The public dataset of that name, however it is spelt. AutolmkError where there is none."""
    plain = {plain_spelling(known): dataset for known, dataset in DATASETS.items()}
    if plain_spelling(name) in plain:
        return plain[plain_spelling(name)]
    raise AutolmkError(
        f"there is no recipe {name!r}{near(name, DATASETS)}",
        found=name,
        expected=f"one of {', '.join(DATASETS)}",
        remedy="see autolmk_recipe list",
    )
