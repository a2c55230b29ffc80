"""The model card of a model folder, made from dataset.json, the fingerprint, folds and held-out cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import autolmk
from autolmk.bundles.card import NOT_STATED, Card, CardLandmark, Coverage, HeldOutErrors
from autolmk.bundles.contents import BundlePart
from autolmk.bundles.manifest import CARD
from autolmk.dataset import DatasetDescription
from autolmk.errors import AutolmkError, counted, some
from autolmk.evaluation import Scores
from autolmk.files.serialization import from_json, read_json
from autolmk.fingerprint import FILE_NAME as FINGERPRINT
from autolmk.fingerprint.fingerprint import VERSION as FINGERPRINT_VERSION
from autolmk.fingerprint.fingerprint import Fingerprint
from autolmk.fold.held_out import TRUTH, VALIDATION, read_crossval
from autolmk.methods.registry import label
from autolmk.plans import Plans
from autolmk.report.reliability import coverage, scores_of
from autolmk.report.results import Results, pooled, read_results
from autolmk.report.wording import number, plain
from autolmk.selection import Recipe

CROSSVAL = "crossval"  # in a packed folder: the held-out cases through the whole pipeline
LONGEST = 20_000  # characters of a text of dataset.json
AXES = {2: "rows, columns", 3: "z, y, x"}


def card_of_model(
    folder: Path, parts: Sequence[BundlePart], recipe: Recipe | None, name: str, licence: str | None = None
) -> Card:
    """Make the model card of a model folder. name: of the folder. licence: instead of dataset.json's. AutolmkError
    where a file that it is made from is damaged.
    """
    plans = Plans.load(parts[0].folder / "plans.json")
    described = parts[0].folder / "dataset.json"
    description = DatasetDescription.load(described) if described.is_file() else DatasetDescription()
    fingerprint = _fingerprint(parts[0].folder)
    results = _held_out(folder, parts, plans, packed=recipe is not None)
    scores = {} if results is None else results.evaluation.landmarks
    card = Card(
        dataset=plans.dataset_name,
        model=name,
        autolmk=autolmk.__version__,
        unit=plans.unit,
        channels=plans.channel_names,
        landmarks=tuple(_landmark(one, description, fingerprint, plans, scores.get(one)) for one in plans.landmarks),
        licence=licence or _text(description.licence or description.license),
        training=_training(parts, plans, fingerprint),
        ranges={} if fingerprint is None else ranges(fingerprint),
        limits=_limits(plans, fingerprint),
        held_out=None if results is None else _errors(results.evaluation.overall),
        held_out_cases=0 if results is None else results.evaluation.n_cases,
        how=_how(results, packed=recipe is not None),
        coverage=_coverage(recipe, results),
        description=_text(description.description),
        intended_use=_text(description.intended_use),
        reference=_text(description.reference),
        citation=_text(description.citation),
    )
    return card if results is not None else _as_before(card, folder)


def _as_before(card: Card, folder: Path) -> Card:
    """With the errors that the card of an installed bundle states, where it is of the same folds; its held-out cases
    stayed where it was trained."""
    file = folder / CARD
    if not file.is_file():
        return card
    kept = from_json(Card, read_json(file), file=file)
    if kept.training.get("models") != card.training["models"]:
        return card
    errors = {one.name: one.errors for one in kept.landmarks}
    landmarks = tuple(replace(one, errors=errors.get(one.name)) for one in card.landmarks)
    return replace(
        card,
        landmarks=landmarks,
        held_out=kept.held_out,
        held_out_cases=kept.held_out_cases,
        how=kept.how,
        coverage=kept.coverage,
    )


def _text(value: Any) -> str:
    """Of a key of dataset.json, whose author may write any JSON."""
    said = NOT_STATED if value in (None, "", [], {}) else plain(value)
    if len(said) > LONGEST:
        raise AutolmkError(
            "a text of dataset.json is too long for a model card",
            file="dataset.json",
            found=f"{len(said)} characters, beginning with {said[:80]!r}",
            expected=f"at most {LONGEST}",
            remedy="shorten it",
        )
    return said


def _fingerprint(folder: Path) -> Fingerprint | None:
    file = folder / FINGERPRINT
    value = read_json(file) if file.is_file() else {}
    return Fingerprint.load(file) if isinstance(value, dict) and value.get("version") == FINGERPRINT_VERSION else None


def _landmark(
    name: str, described: DatasetDescription, known: Fingerprint | None, plans: Plans, scores: Scores | None
) -> CardLandmark:
    own = (described.landmarks or {}).get(name)
    pairs = {a: b for pair in plans.pairs for a, b in (pair, pair[::-1])}
    counts = None if known is None else known.landmark_statistics.get(name)
    return CardLandmark(
        name,
        definition=None if own is None else own.definition,
        pair=pairs.get(name),
        shown=None if counts is None else counts.n_present,
        absent=None if counts is None else counts.n_absent,
        errors=None if scores is None or not scores.n else _errors(scores),
    )


def _errors(scores: Scores) -> HeldOutErrors:
    return HeldOutErrors(scores.n, scores.missing, scores.mre, scores.median, dict(scores.sdr), scores.swaps)


# -- held-out cases ---------------------------------------------------------------------------------------------------


def _held_out(folder: Path, parts: Sequence[BundlePart], plans: Plans, *, packed: bool) -> Results | None:
    """None where no case was held out, or its predictions were not kept."""
    if packed:
        place = folder / CROSSVAL
        remedy = "run autolmk_find_best_configuration again"
        return read_results("held-out cases", "Tr", place, place, remedy=remedy) if place.is_dir() else None
    (part,) = parts
    folds = [int(fold) for fold in part.folds if fold != "all"]
    if not folds or not all((folder / f"fold_{fold}" / VALIDATION / TRUTH).is_file() for fold in folds):
        return None
    diagonals = read_crossval(folder, folds).diagonals()
    return pooled(folder, folds, pairs=plans.pairs, unit=plans.unit, diagonals=diagonals)


def _how(results: Results | None, *, packed: bool) -> str:
    if results is None:
        return "No errors on new images are known: no case was held out, or what was said of those was not kept."
    cases = counted(results.evaluation.n_cases, "case")
    if packed:
        return (
            f"Errors of the whole pipeline on {cases} that were held out of training: all that was chosen or fitted "
            "for a case was chosen without its fold."
        )
    return f"Errors on {cases}, each predicted by the fold that held it out. Several folds together usually err less."


def _coverage(recipe: Recipe | None, results: Results | None) -> Coverage | None:
    radius = None if recipe is None else recipe.error_radius
    if radius is None:
        return None
    scores = {} if results is None else scores_of(results)
    return Coverage(radius.level, coverage(scores) if scores else None, radius.n_cases, radius.why)


# -- what it was trained on -------------------------------------------------------------------------------------------


def _training(parts: Sequence[BundlePart], plans: Plans, known: Fingerprint | None) -> dict[str, str]:
    """Names and values, in words."""
    configs = [read_json(place / "config.json") for part in parts for place in part.places]
    said = {}
    if known is not None:
        said["training cases"] = f"{known.n_cases}, of {counted(known.n_subjects, 'subject')}"
    said["images"] = f"{plans.ndim}D, {counted(len(plans.channel_names), 'channel')}: {', '.join(plans.channel_names)}"
    said["models"] = "; ".join(f"{_configuration(part)}, {_folds(part)}" for part in parts)
    said["trainers"] = ", ".join(dict.fromkeys(label(str(config.get("trainer"))) for config in configs))
    said["seeds"] = ", ".join(sorted({str(config.get("seed")) for config in configs}))
    said["preset"] = plans.preset
    for key, title in (("autolmk", "trained with autolmk"), ("torch", "and torch")):
        said[title] = ", ".join(sorted({str(config.get(key)) for config in configs}))
    return said


def _configuration(part: BundlePart) -> str:
    return part.folder.resolve().name.rpartition("__")[2]


def _folds(part: BundlePart) -> str:
    return f"fold{'s' * (len(part.folds) > 1)} {', '.join(part.folds)}"


def ranges(known: Fingerprint) -> dict[str, str]:
    """The ranges that the training images span: name -> lowest to highest, in words."""
    cases = list(known.cases.values())
    spacing = np.array([case.spacing for case in cases]).reshape(len(cases), -1)
    extent = spacing * np.array([case.shape for case in cases]).reshape(spacing.shape)
    axes = AXES.get(known.ndim, "")
    said = {}
    if len(cases):
        said[f"spacing ({axes}), {known.unit}"] = _spans(spacing)
        said[f"field of view ({axes}), {known.unit}"] = _spans(extent)
        orientations = sorted({case.orientation for case in cases})
        said["orientation of the files"] = some(orientations)
        said["obliquity, degrees"] = _span([case.obliquity for case in cases])
    for channel, values in zip(known.channel_names, known.intensity, strict=True):
        said[f"grey values, {channel}"] = _span([values.min, values.max])
    poses = list(known.poses.values())
    if poses:
        said["landmarks turned by, degrees"] = _span([pose.rotation for pose in poses])
        said["landmarks' size over the mean's"] = _span([pose.scale for pose in poses])
    return said


def _spans(table: Any) -> str:
    return " × ".join(_span(column) for column in table.T)


def _span(values: Any) -> str:
    low, high = number(float(np.min(values))), number(float(np.max(values)))
    return low if low == high else f"{low} to {high}"


def _limits(plans: Plans, known: Fingerprint | None) -> tuple[str, ...]:
    """Sentences of what it was never shown, besides images beyond the ranges."""
    if known is None:
        return ("The training images' range is not known: images unlike them are not flagged.",)
    counts: Mapping[str, Any] = known.landmark_statistics
    never = [name for name in plans.landmarks if name in counts and not counts[name].n_present]
    always = [name for name in plans.landmarks if name not in plans.sometimes_absent]
    said = []
    if never:
        said.append(f"No training case shows {some(never)}: it cannot find that.")
    if always:
        said.append(
            f"No training case lacks {some(always)}: it always reports "
            f"{'that landmark' if len(always) == 1 else 'these landmarks'} present, with a likelihood."
        )
    if len(known.cases) and known.n_subjects < 10:
        said.append(f"Only {counted(known.n_subjects, 'subject')}: rare anatomy was hardly ever shown.")
    return tuple(said)
