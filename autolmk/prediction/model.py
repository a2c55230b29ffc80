"""Model: a trained configuration with its folds, ready to predict; original geometry in, LPS millimetres out.

A model folder holds plans.json, dataset.json and fold_k/{config.json, measured.json, checkpoint_NAME.safetensors}; no
environment variable and no preprocessed data are needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autolmk.data.preprocessing import Preparation
from autolmk.dataset import DatasetDescription
from autolmk.errors import AutolmkError
from autolmk.files.digest import digest
from autolmk.files.serialization import from_json, near, read_json
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.measured import Measured
from autolmk.image import FloatImage, Image
from autolmk.imageio import squeeze
from autolmk.methods.sources import model_trainer_class
from autolmk.networks.precision import choose_device
from autolmk.plans import Configuration, Plans
from autolmk.prediction.first_look import Look
from autolmk.prediction.options import TestTime
from autolmk.prediction.shrinkage import is_drawn
from autolmk.prediction.stage import Prepared, Stage, load_stage

logger = logging.getLogger(__name__)

CHECKPOINTS = ("final", "best", "latest")
NOT_SEEN = ("batch_size", "schedule", "why", "options", "data_identifier")  # of a configuration, by prediction


class Model:
    """A model folder, loaded once; AutolmkError where it is incomplete or damaged.

    test_time: what a user chooses. stages: of the method, first to last. digests: SHA-256 of each fold's checkpoints,
    by fold or fold/stage.
    """

    def __init__(self, model_folder: Path | str, test_time: TestTime | None = None) -> None:
        self.model_folder = Path(model_folder).expanduser()
        self.test_time = test_time = test_time or TestTime()
        self.plans = Plans.load(self.model_folder / "plans.json")
        description = self.model_folder / "dataset.json"
        self.description = DatasetDescription.load(description) if description.is_file() else None
        self.folds = chosen_folds(self.model_folder, test_time.folds, test_time.checkpoint)
        self.device = choose_device(test_time.device)
        self.digests: dict[str, str] = {}
        loaded = self._load_stages()
        if test_time.stages is not None and not 1 <= test_time.stages <= len(loaded):
            raise AutolmkError(
                "there are not so many stages",
                file=self.model_folder,
                found=test_time.stages,
                expected=f"1 to {len(loaded)}",
                remedy="correct --stages, or leave it out",
            )
        *before, last = loaded[: test_time.stages]
        self.configuration = dataclasses.replace(
            last.configuration,
            shape_prior=last.configuration.shape_prior and test_time.shape_prior,
            co_slice=last.configuration.co_slice and test_time.co_slice,
        )
        self.stages = (*before, dataclasses.replace(last, configuration=self.configuration))

    def _load_stages(self) -> list[Stage]:
        """All stages, first to last; notes the digests of their checkpoints."""
        stages: list[Stage] = []
        folders = {fold: self.model_folder / f"fold_{fold}" for fold in self.folds}
        kind, given = self.test_time.checkpoint, self.test_time.trainer
        earlier: list[str] = []  # names of the stages before the last
        while folders:
            stages.insert(0, self._load_stage(folders, kind, given, last=not stages))
            for folder in folders.values():
                place = folder.relative_to(self.model_folder).as_posix().removeprefix("fold_")
                self.digests[place] = hashlib.sha256(checkpoint_file(folder, kind).read_bytes()).hexdigest()
            before = stages[0].configuration.previous_stage
            self._require_new(before, earlier, next(iter(folders.values())) / "config.json")
            folders = {} if before is None else {fold: folder / before for fold, folder in folders.items()}
            kind, given = "final", None  # what a later stage was trained on
        return stages

    def _load_stage(self, folders: Mapping[str, Path], checkpoint: str, given: str | None, *, last: bool) -> Stage:
        """One stage, of the folds in `folders`; given: its trainer, as a user names it."""
        trainers, configurations, rights = [], [], {"trust_code": self.test_time.trust_code, "last": last}
        for folder in folders.values():
            configuration, options, specification = _fold_config(folder)
            cls = model_trainer_class(specification, self.model_folder, given=given, **rights)
            configurations.append(configuration)
            trainers.append(cls(self.plans, configuration, options))
        stage = load_stage(trainers, list(folders.values()), checkpoint, self.device)
        common = _common(configurations, self.folds, self.model_folder)
        test_time = self.test_time
        return dataclasses.replace(stage, configuration=common, mirror=test_time.mirror, step=test_time.step)

    def _require_new(self, before: str | None, earlier: list[str], file: Path) -> None:
        """Note a stage's name. AutolmkError where the plans lack it or the stages run in a circle."""
        if before is None:
            return
        if before in earlier or before not in self.plans.configurations:
            raise AutolmkError(
                "a model's stages run in a circle" if before in earlier else "a model's plans lack one of its stages",
                file=file,
                found=f"previous_stage {before!r}",
                expected=f"another stage of {', '.join(self.plans.configurations)}",
                remedy="restore the file, or train the fold again",
            )
        earlier.append(before)

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The measurements of the last stage's folds."""
        return self.stages[-1].measured

    @property
    def is_drawn(self) -> bool:
        """Whether points of the last stage are drawn toward the mean shape: by the plans, and by what its folds found
        on their held-out cases."""
        return self.configuration.shape_prior and is_drawn([one.errors for one in self.measured])

    def preparation(self, image: Image) -> Preparation:
        """Prepare a raw image once, for `prepare`: models that predict together share it. AutolmkError where the plans
        are of planes, and the image is a volume of several slices.
        """
        if self.plans.ndim == 2 and image.geometry.ndim == 3:
            image = squeeze(image)
        return Preparation(image, self._uploaded if self.device.type == "cuda" else None)

    def _uploaded(self, channels: FloatImage) -> Tensor:
        """On the device, not through pinned memory, which torch would keep, in powers of two, for each large image."""
        return torch.as_tensor(channels).to(self.device)

    def prepare(self, image: Image | Preparation) -> list[Prepared]:
        """Preprocess for each stage, as training did. AutolmkError where the image does not suit the plans."""
        shared = image if isinstance(image, Preparation) else self.preparation(image)
        with suppress(torch.OutOfMemoryError):
            return [Prepared(*shared.of(stage.configuration)) for stage in self.stages]
        shared.leave_device()
        torch.cuda.empty_cache()
        logger.info("the GPU has no room for a whole image, which is resampled on the processor")
        return [Prepared(*shared.of(stage.configuration)) for stage in self.stages]

    def first_look(self, prepared: Sequence[Prepared]) -> Look:
        """The look of the first stage, which sees windows that hold many landmarks, for those who want a window's
        scores, such as `crops.heatmap_crops`."""
        return Look(self.stages[0], prepared[0])


def trained_folds(model_folder: Path, checkpoint: str) -> list[str]:
    """Folds with that checkpoint: numbers in order, then "all"."""
    found = [
        p.name.removeprefix("fold_") for p in model_folder.glob("fold_*") if checkpoint_file(p, checkpoint).is_file()
    ]
    numbered = sorted((fold for fold in found if fold.isascii() and fold.isdecimal()), key=int)
    return [*numbered, *(fold for fold in found if fold == "all")]


def chosen_folds(model_folder: Path, folds: Sequence[int | str] | None, checkpoint: str) -> list[str]:
    """The folds to predict with. By default all that were trained; where there are numbered ones, without "all"."""
    if checkpoint not in CHECKPOINTS:
        raise AutolmkError(
            f"there is no kind of checkpoint {checkpoint!r}{near(checkpoint, CHECKPOINTS)}",
            expected="final or best",
            remedy="choose one with -chk",
        )
    trained = trained_folds(model_folder, checkpoint)
    if folds is None:
        numbered = [fold for fold in trained if fold != "all"]
        if not trained:
            started = sorted(p.name for p in model_folder.glob("fold_*"))
            raise AutolmkError(
                f"no fold of this model has a checkpoint_{checkpoint}",
                file=model_folder,
                found=", ".join(started) or "no fold",
                remedy="finish training with autolmk_train (the same command goes on), or choose -chk best",
            )
        return numbered or trained
    wanted = list(dict.fromkeys(str(fold) for fold in folds))
    missing = [fold for fold in wanted if fold not in trained]
    if missing or not wanted:
        raise AutolmkError(
            f"fold {', '.join(missing) or '(none)'} of this model has no checkpoint_{checkpoint}",
            file=model_folder,
            found=f"trained folds: {', '.join(trained) or 'none'}",
            remedy="train it with autolmk_train, or choose from those with -f",
        )
    return wanted


def _fold_config(folder: Path) -> tuple[Configuration, dict[str, Any], str]:
    """(configuration, options, trainer's specification) that the fold was trained with."""
    file = folder / "config.json"
    value = read_json(file, remedy="restore it, or train this fold again")
    missing = [k for k in ("configuration", "options", "trainer") if not isinstance(value, dict) or k not in value]
    if missing:
        raise AutolmkError(
            "a fold's record of its training is incomplete",
            file=file,
            found=f"no {', '.join(missing)}",
            remedy="restore the file, or train the fold again",
        )
    configuration = from_json(Configuration, value["configuration"], file=file, path="configuration")
    options = from_json(dict[str, Any], value["options"], file=file, path="options")
    return configuration, options, from_json(str, value["trainer"], file=file, path="trainer")


def _common(configurations: Sequence[Configuration], folds: Sequence[str], model_folder: Path) -> Configuration:
    """The configuration that all folds share, as far as prediction can see it."""

    def seen(configuration: Configuration) -> str:
        own = ("patch_size", "sigma") if configuration.windows.kind == "landmark" else ()  # measured by each fold
        return digest({k: v for k, v in vars(configuration).items() if k not in (*NOT_SEEN, *own)})

    for fold, configuration in zip(folds, configurations, strict=True):
        if seen(configuration) != seen(configurations[0]):
            raise AutolmkError(
                "the folds of this model were trained with different plans, so they cannot be averaged",
                file=model_folder,
                found=f"fold {fold} differs from fold {folds[0]}",
                remedy="predict with one of them (-f), or train the others again",
            )
    return configurations[0]
