"""A dataset as users open it; and what is offered where there is no dataset.json, or one that leaves out most."""

from __future__ import annotations

import json
import re
from pathlib import Path

from autolmk.dataset.description import DatasetDescription
from autolmk.dataset.inferring import complete, offer, say_inferred
from autolmk.dataset.raw import RawDataset
from autolmk.errors import AutolmkError


class Dataset(RawDataset):
    """A raw dataset. Opening it reads dataset.json and lists files; images and points are read when asked for.

    >>> from autolmk.phantom import write_phantom
    >>> write_phantom(Path("Dataset001_Phantom"), n_train=2, n_test=0, ndim=2)
    >>> dataset = Dataset.open(Path("Dataset001_Phantom"))
    >>> case = dataset.cases()[0]
    >>> image = dataset.read_image(case)
    >>> landmarks = dataset.read_landmarks(case, image.geometry)
    >>> case.identifier, image.array.ndim, landmarks.names == dataset.landmark_names
    ('phantom_000', 3, True)
    """

    @classmethod
    def open(cls, folder: Path, description: DatasetDescription | None = None) -> Dataset:
        """The dataset in `folder`. AutolmkError where it is missing, or dataset.json is missing or wrong.

        description: instead of the folder's dataset.json. What either leaves out is inferred from the files.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise AutolmkError(
                "a dataset's folder is missing", file=folder, remedy="check --raw and the dataset's name"
            )
        if description is None:
            file = folder / "dataset.json"
            if not file.exists():
                raise missing_description(folder)[0]
            description = DatasetDescription.load(file)
        dataset = cls(folder, complete(cls(folder, description)))
        if description.channel_names is None:
            say_inferred(folder / "dataset.json", "channel_names", dataset.channel_names)
        if description.names is None:
            say_inferred(folder / "dataset.json", "landmarks", dataset.landmark_names)
        return dataset


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
    """Infer the description that dataset.json would hold from images and points. AutolmkError where they cannot be
    read.
    """
    dataset = Dataset(folder, DatasetDescription())
    return offer(Dataset(folder, complete(dataset)))


def lists_landmarks(folder: Path) -> bool:
    """Whether dataset.json says itself which landmarks there are."""
    file = folder / "dataset.json"
    return file.exists() and DatasetDescription.load(file).names is not None
