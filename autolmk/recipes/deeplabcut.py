"""Any project of DeepLabCut: parts of animals in frames of videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autolmk.annotations.formats import FORMATS, Imported, ImportedCase
from autolmk.annotations.formats.parsing import wrong
from autolmk.recipes.public_dataset import PublicDataset, RecipeChoices, reading


def read(source: Path, choices: RecipeChoices) -> Imported:
    """All labelled frames, named VIDEO__FRAME; where there are several videos, each goes to one fold as a whole."""
    reader = FORMATS["deeplabcut"].read
    if reader is None:
        wrong(source, "format", "deeplabcut", "a reader")
    found = reader(source, reading(choices))
    cases = tuple(sorted((_named(case) for case in found.cases), key=lambda case: case.identifier))
    videos = {case.images[0].parent for case in cases}
    return replace(found, cases=cases, groups=r"^(.+)__" if len(videos) > 1 else None)


def _named(case: ImportedCase) -> ImportedCase:
    image = case.images[0]
    return replace(case, identifier=f"{image.parent.name}__{image.name.rsplit('.', 1)[0]}")


DATASET = PublicDataset(
    "deeplabcut",
    "A project of DeepLabCut",
    "Dataset749_DeepLabCut",
    "Nath et al., Nature Protocols 2019, https://doi.org/10.1038/s41596-019-0176-0; the project's own authors",
    "of each project",
    ("copy a project of your own, or one of DeepLabCut's examples",),
    ("config.yaml: left aside", "labeled-data/VIDEO/CollectedData_SCORER.csv", "labeled-data/VIDEO/img001.png ..."),
    ("errors are in pixels",
     "DeepLabCut divides single frames; here a video is in one fold as a whole, as its frames look alike",
     "to divide as a project did, give a list of its test frames, VIDEO__FRAME, with --split-file"),
    read,
    (),
    ("published errors, as they are of single projects",),
)  # fmt: skip
