"""Whether raw data changed since it was preprocessed: for autolmk_train, which works from preprocessed data alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from autolmk.errors import AutolmkError
from autolmk.paths import Folders

if TYPE_CHECKING:
    from autolmk.data.store import Store
    from autolmk.dataset import Case, Dataset

logger = logging.getLogger(__name__)


def raw_cases(folders: Folders, dataset: str) -> tuple[Dataset, list[Case]] | None:
    """The raw dataset and its cases; None, which is said, where it is not on this machine."""
    from autolmk.dataset import Dataset

    place = folders.raw / dataset
    if not (place / "imagesTr").is_dir() or not any((place / "imagesTr").iterdir()):
        logger.info("the raw data is not in %s: whether it changed since preprocessing is not looked at", place)
        return None
    opened = Dataset.open(place)
    return opened, opened.cases("Tr")


def require_unchanged(raw: tuple[Dataset, list[Case]] | None, store: Store, dataset: str) -> None:
    """Raise AutolmkError where raw cases were added, removed or edited since they were preprocessed."""
    from autolmk.dataset.changes import RawRecord, changes

    if raw is None:
        return
    record = RawRecord.load(store.folder)
    if record is None:
        logger.warning(
            "%s does not say what it was made from: whether the raw data changed since is not looked at; "
            "autolmk_preprocess -d %s notes it",
            *(store.folder, dataset),
        )
        return
    found = str(changes(record, *raw))
    if found:
        raise AutolmkError(
            "the raw data changed since it was preprocessed, and training would not see it",
            file=raw[0].folder,
            found=found,
            expected=f"the cases that {store.folder} was made from",
            remedy=f"run autolmk_preprocess -d {dataset} (autolmk_plan_and_preprocess -d {dataset} where cases were "
            "added, or where the plans should suit the data as it is now)",
        )
