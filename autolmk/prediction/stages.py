"""The stages of a method, one after the other: the first sees the image, each later one windows around the points of
the one before. The one way in which validation during training and autolmk_predict run a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autolmk.fold.checkpoint import checkpoint_file, load_weights
from autolmk.fold.measured import Measured
from autolmk.image import Image
from autolmk.methods.trainer import Trainer, build
from autolmk.networks.precision import Precision
from autolmk.plans import Configuration, Plans
from autolmk.prediction.inference import Member, Prediction, predict_image
from autolmk.prediction.refinement import look_again


@dataclass(frozen=True, eq=False)
class Prepared:
    """A preprocessed image (canonical, at a configuration's spacing, normalised); fill: (C,) the value outside it."""

    image: Image
    fill: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Stage:
    """A trained configuration, ready to predict. members and what their folds measured, in the same order."""

    configuration: Configuration
    members: tuple[Member, ...]
    measured: tuple[Measured, ...]


def load_stage(trainers: Sequence[Trainer], folders: Sequence[Path], checkpoint: str, device: torch.device) -> Stage:
    """The networks that these folders of folds hold, one of each trainer, with checkpoint_`checkpoint`.

    AutolmkError where a file is missing or damaged, or does not fit its trainer.
    """
    precision = Precision(device)
    members, measured = [], []
    for trainer, folder in zip(trainers, folders, strict=True):
        network, codec = build(trainer)
        load_weights(checkpoint_file(folder, checkpoint), network, codec)
        measured.append(Measured.load(folder))
        part = trainer.prediction_network(network).eval()
        members.append(Member(precision.place(part), codec.eval().to(device), measured[-1].untrained))
    for member in members:
        member.codec.adopt(type(member.codec).pooled([one.decoding for one in measured]))
    return Stage(trainers[0].configuration, tuple(members), tuple(measured))


def predict_stages(
    images: Sequence[Prepared],
    stages: Sequence[Stage],
    plans: Plans,
    *,
    device: torch.device | str,
    mirror: bool = True,
    step: float = 0.5,
) -> Prediction:
    """Landmarks of one image, in mm; images: as each stage needs it. mirror, step: see `inference.predict_image`.

    Raises AutolmkError where a network's output is not finite, ValueError without a stage.
    """
    found: Prediction | None = None
    for image, stage in zip(images, stages, strict=True):
        rest = (stage.members, plans, stage.configuration, stage.measured)
        if found is None:
            found = predict_image(image.image, image.fill, *rest, device=device, mirror=mirror, step=step)
        else:
            found = look_again(image.image, image.fill, found, *rest, device=device)
    if found is None:
        raise ValueError("prediction needs at least one stage")
    return found
