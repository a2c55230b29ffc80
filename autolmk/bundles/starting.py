"""The choice of weights, in a model folder or an unpacked bundle, from which training starts."""

from __future__ import annotations

import logging
from pathlib import Path

from autolmk.bundles.contents import BundlePart, parts_of
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.methods.registry import label

logger = logging.getLogger(__name__)


def checkpoint_in(place: Path | None, configuration: str, trainer: str) -> Path | None:
    """The checkpoint to start `configuration` from, which `trainer` trains: of the model of that configuration, else of
    that trainer, its first fold. A file, and None, stay as they are. AutolmkError where no single model suits."""
    if place is None or not place.is_dir():
        return place
    parts, _ = parts_of(place)
    fitting = [part for part in parts if part.folder.resolve().name.rpartition("__")[2] == configuration]
    fitting = fitting or [part for part in parts if _trainer(part) == label(trainer)] or parts
    if len(fitting) != 1:
        raise AutolmkError(
            "no single model of these weights suits what is to be trained",
            file=place,
            found=", ".join(part.folder.name for part in fitting),
            expected=f"one of the configuration {configuration}, or of the trainer {label(trainer)}",
            remedy="unzip the bundle and give one of the checkpoint_final.safetensors in it",
        )
    part = fitting[0]
    logger.info("starting from the weights of %s, fold %s", part.folder.name, part.folds[0])
    return checkpoint_file(part.folder / f"fold_{part.folds[0]}", "final")


def _trainer(part: BundlePart) -> str:
    """Short name, of the last stage."""
    return label(str(read_json(part.folder / f"fold_{part.folds[0]}" / "config.json").get("trainer")))
