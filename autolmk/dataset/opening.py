"""A dataset without a dataset.json, or with one that leaves out most: what to offer instead."""

from __future__ import annotations

import json
import re
from pathlib import Path

from autolmk.dataset.description import DatasetDescription
from autolmk.dataset.inferring import complete, offer
from autolmk.dataset.raw import Dataset
from autolmk.errors import AutolmkError


def missing_description(folder: Path) -> tuple[AutolmkError, Dataset | None]:
    """The error that offers what dataset.json would say, and the dataset read so; None where the files do not tell."""
    file = folder / "dataset.json"
    try:
        inferred = infer_description(folder)
    except AutolmkError as error:
        problem = AutolmkError(
            "dataset.json is missing, and cannot be inferred from the files",
            file=file,
            found=str(error).replace("\n", "\n    "),
            remedy="mend that first, or write dataset.json",
        )
        return problem, None
    text = json.dumps(inferred.to_json(), indent=2, ensure_ascii=False)
    text = re.sub(r"\{\s*([^{}]*?)\s*\}", lambda found: "{" + re.sub(r"\n\s*", " ", found[1]) + "}", text)
    problem = AutolmkError(
        "dataset.json is missing",
        file=file,
        remedy=f"this is what the files say: check it, above all coordinates, and save it under that name\n{text}",
    )
    return problem, Dataset(folder, inferred)


def infer_description(folder: Path) -> DatasetDescription:
    """What dataset.json would say, as far as images and points tell. AutolmkError where they cannot be read."""
    dataset = Dataset(folder, DatasetDescription())
    return offer(Dataset(folder, complete(dataset)))


def lists_landmarks(folder: Path) -> bool:
    """Whether dataset.json says itself which landmarks there are."""
    file = folder / "dataset.json"
    return file.exists() and DatasetDescription.load(file).names is not None
