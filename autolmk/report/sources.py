"""All files that a report draws on, read once. What is not there is None; what is damaged is an error."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from autolmk.dataset import Dataset
from autolmk.dataset.description import DatasetDescription, Measurement
from autolmk.detections import FOLDER as DETECTIONS
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json
from autolmk.fingerprint import FILE_NAME as FINGERPRINT
from autolmk.fingerprint import Fingerprint
from autolmk.fold.held_out import TRUTH, VALIDATION, CrossValidation, read_crossval
from autolmk.landmarks import Landmarks
from autolmk.methods.registry import label
from autolmk.paths import Folders
from autolmk.plans import Plans
from autolmk.report.annotation_doubts import Skill, skill
from autolmk.report.naming import AND, ModelNames, model_names
from autolmk.report.results import PREDICTIONS, SUMMARY, Results, pooled, read_results

BEST, CROSSVAL, INFORMATION, EVALUATION = "best", "crossval", "inference_information.json", "evaluation"
FIND_BEST = "autolmk_find_best_configuration"


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained configuration, results/DATASET/TRAINER__PLANS__CONFIGURATION. folds: that were begun. validated: those
    of them whose held-out cases were predicted."""

    folder: Path
    plans: Plans
    folds: tuple[str, ...]
    validated: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the model's folder."""
        return self.folder.name

    @property
    def configuration(self) -> str:
        """The configuration, which is the last part of the folder's name."""
        return self.name.split("__")[-1]

    def log_folder(self, fold: str, stage: str) -> Path:
        """The folder in which a stage of the configuration was trained: the last one in the fold's folder, each earlier
        one in a folder of its name inside that of the next.
        """
        chain = self.plans.chain(self.configuration)
        return (self.folder / f"fold_{fold}").joinpath(*reversed(chain[chain.index(stage) : -1]))

    def crossval(self) -> CrossValidation | None:
        """The held-out detections of the folds; None where no fold has any."""
        folds = [fold for fold in self.validated if (self._validation(fold) / DETECTIONS).is_dir()]
        return read_crossval(self.folder, folds) if folds else None

    def _validation(self, fold: int) -> Path:
        return self.folder / f"fold_{fold}" / VALIDATION


@dataclass(frozen=True, eq=False)
class Sources:
    """The sources of one dataset's report. raw: None where its images are not at hand. final: folder of the packed
    model, information: what its inference_information.json says. held_out: of the final model, else of the model with
    the least held-out error, whose name `held_out_of` is. test: of the predictions folder, None where there is none or
    it was not evaluated.
    """

    name: str
    raw: Dataset | None
    description: DatasetDescription | None
    fingerprint: Fingerprint | None
    models: tuple[TrainedModel, ...]
    final: Path | None
    information: dict[str, Any] | None
    held_out: Results | None
    held_out_of: str
    test: Results | None
    predictions: Path

    @property
    def unit(self) -> str:
        """The unit of errors, mm or px."""
        if self.fingerprint is not None:
            return self.fingerprint.unit
        return self.models[0].plans.unit if self.models else "mm"

    @property
    def results(self) -> tuple[Results, ...]:
        """Held-out and test, as far as they are there."""
        return tuple(r for r in (self.held_out, self.test) if r is not None)

    @cached_property
    def names(self) -> ModelNames:
        """The names that the report gives the models, trained ones and those that were candidates."""
        found = (self.information or {}).get("candidates")
        candidates = found if isinstance(found, dict) else {}
        usual = {m.name: label(m.plans.configurations[m.configuration].trainer) for m in self.models}
        parts = (part for name in candidates for part in str(name).split(AND))
        return model_names([*(m.name for m in self.models), *parts], usual)

    @property
    def measurements(self) -> dict[str, Measurement]:
        """The measurements that dataset.json declares."""
        return (self.description.measurements if self.description else None) or {}

    def truth_of(self, results: Results) -> dict[str, Landmarks]:
        """Annotations of the cases of some results; empty where only the raw dataset has them and is not at hand."""
        return self._test_truth if results.truth is None else results.truth

    @cached_property
    def _test_truth(self) -> dict[str, Landmarks]:
        found: dict[str, Landmarks] = {}
        if self.raw is None:
            return found
        for case in self.raw.cases("Ts"):
            if case.annotation is not None:
                geometry = self.raw.read_geometry(case)
                found[case.identifier] = self.raw.read_landmarks(case, geometry)
        return found

    @cached_property
    def crossvals(self) -> dict[str, CrossValidation]:
        """Held-out detections by model."""
        found = {model.name: model.crossval() for model in self.models}
        return {name: crossval for name, crossval in found.items() if crossval is not None}

    @cached_property
    def skills(self) -> dict[str, Skill]:
        """The skill of each model."""
        return {name: skill(crossval) for name, crossval in self.crossvals.items()}


def read_sources(name: str, folders: Folders, *, model: Path | None = None, predictions: Path | None = None) -> Sources:
    """Read the sources of the dataset `name`. model: a packed or a single model's folder, by default results/NAME/best.
    predictions: by default results/NAME/predictions/imagesTs. AutolmkError where what is named is missing, or a file is
    damaged.
    """
    results = folders.results / name
    raw, description = _raw(folders.raw / name, (results / BEST, folders.preprocessed / name))
    models = _models(results)
    final = _final(results, model)
    if model is not None and final is None:
        models = tuple(m for m in models if m.folder.resolve() == model.resolve()) or (_model(model),)
    fingerprint = _first(FINGERPRINT, (folders.preprocessed / name, results / BEST, *(m.folder for m in models)))
    known = None if fingerprint is None else Fingerprint.load(fingerprint)
    held_out, held_out_of = _held_out(final, models, known)
    at = predictions or results / "predictions" / "imagesTs"
    if predictions is not None and not (predictions / PREDICTIONS).is_file():
        raise AutolmkError(
            "there are no predictions",
            file=predictions,
            expected=f"a folder that autolmk_predict wrote, with {PREDICTIONS}",
            remedy="check --predictions",
        )
    return Sources(
        name, raw, description, known, models, final, _information(final), held_out, held_out_of, _test(at), at
    )


def _raw(folder: Path, others: tuple[Path, ...]) -> tuple[Dataset | None, DatasetDescription | None]:
    """The dataset, where it is at hand, and dataset.json of it or of the first of `others` that has one."""
    if (folder / "dataset.json").is_file():
        dataset = Dataset.open(folder)
        return dataset, dataset.description
    file = _first("dataset.json", others)
    return None, None if file is None else DatasetDescription.load(file)


def _first(name: str, folders: tuple[Path, ...]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _models(results: Path) -> tuple[TrainedModel, ...]:
    folders = sorted(results.glob("*__*__*")) if results.is_dir() else []
    return tuple(_model(folder) for folder in folders if (folder / "plans.json").is_file())


def _model(folder: Path) -> TrainedModel:
    if not (folder / "plans.json").is_file():
        raise AutolmkError(
            "this is no model's folder",
            file=folder,
            expected=f"{INFORMATION}, or plans.json and fold_k",
            remedy="give results/DATASET/best or results/DATASET/TRAINER__PLANS__CONFIGURATION with -m",
        )
    folds = sorted(found[1] for f in folder.iterdir() if (found := re.fullmatch(r"fold_(\d+|all)", f.name)))
    validated = tuple(
        int(fold)
        for fold in folds
        if fold != "all" and all((folder / f"fold_{fold}" / VALIDATION / f).is_file() for f in (PREDICTIONS, TRUTH))
    )
    return TrainedModel(folder, Plans.load(folder / "plans.json"), tuple(folds), validated)


def _final(results: Path, model: Path | None) -> Path | None:
    """The packed model: what -m names, if it is one, else results/DATASET/best."""
    folder = results / BEST if model is None else model
    return folder if (folder / INFORMATION).is_file() or (folder / CROSSVAL / SUMMARY).is_file() else None


def _information(final: Path | None) -> dict[str, Any] | None:
    file = None if final is None else final / INFORMATION
    if file is None or not file.is_file():
        return None
    value = read_json(file, remedy=f"run {FIND_BEST} again")
    if not isinstance(value, dict):
        raise AutolmkError(
            "the record of the choice is damaged",
            file=file,
            found=type(value).__name__,
            expected="an object {...}",
            remedy=f"run {FIND_BEST} again",
        )
    return value


def _held_out(
    final: Path | None, models: tuple[TrainedModel, ...], fingerprint: Fingerprint | None
) -> tuple[Results | None, str]:
    if final is not None and (final / CROSSVAL / SUMMARY).is_file():
        folder = final / CROSSVAL
        return read_results("held-out cases", "Tr", folder, folder, remedy=f"run {FIND_BEST} again"), "the final model"
    found = {
        m.name: pooled(m.folder, m.validated, pairs=m.plans.pairs, unit=m.plans.unit, diagonals=_diagonals(fingerprint))
        for m in models
        if m.validated
    }
    if not found:
        return None, ""
    best = min(found, key=lambda name: found[name].evaluation.overall.mre.value or math.inf)
    return found[best], best


def _diagonals(fingerprint: Fingerprint | None) -> dict[str, float]:
    cases = fingerprint.cases if fingerprint else {}
    return {case: math.hypot(*(n * s for n, s in zip(g.shape, g.spacing, strict=True))) for case, g in cases.items()}


def _test(folder: Path) -> Results | None:
    if not (folder / PREDICTIONS).is_file() or not (folder / EVALUATION / SUMMARY).is_file():
        return None
    return read_results("test cases", "Ts", folder, folder / EVALUATION, remedy="run autolmk_evaluate again")
