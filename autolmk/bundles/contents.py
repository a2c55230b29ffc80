"""The parts of a model folder that go into a bundle: all that prediction needs, without names of cases and paths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autolmk.bundles.privacy import Secrets, numbered, planner_names, require_none, shortened, without_reasons
from autolmk.dataset import DatasetDescription
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, read_json, read_limited, to_json
from autolmk.fingerprint import FILE_NAME as FINGERPRINT
from autolmk.fingerprint.fingerprint import VERSION as FINGERPRINT_VERSION
from autolmk.fingerprint.fingerprint import Fingerprint
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.measured import FILE_NAME as MEASURED
from autolmk.fold.measured import Measured
from autolmk.methods.sources import Source, kept_sources
from autolmk.paths import MEASURING, SOURCE_RECORD
from autolmk.plans import Plans
from autolmk.selection import RECIPE, Recipe

OF_DATASET = (  # keys of dataset.json that prediction or the model card need; no regular expression on cases' names
    *("channel_names", "landmarks", "labels", "file_ending", "name", "coordinates", "nifti_affine"),
    *("unlisted_landmark_means", "names_from", "missing_points", "measurements", "co_slice_groups", "numTraining"),
    *("description", "intended_use", "reference", "licence", "license", "release", "citation"),
)
OF_CONFIG = (  # keys of a fold's config.json
    *("trainer", "plans", "configuration", "options", "plans_digest", "seed", "device", "precision", "iterations"),
    *("max_seconds", "layer_rates", "autolmk", "torch"),
)
OF_RECORD = (  # keys of the JSON in a checkpoint
    *("kind", "iteration", "seed", "best", "best_iteration", "digest", "trainer", "options", "landmarks", "channels"),
    *("autolmk", "torch"),
)
LARGEST_SOURCE = 2**22  # bytes of a trainer's file


@dataclass(frozen=True)
class Entry:
    """A file of a bundle. name: its path there. data: its content, or the file that is copied as it is."""

    name: str
    data: bytes | Path


@dataclass(frozen=True)
class BundlePart:
    """A configuration's folder. prefix: of its paths in the bundle, with its /; empty where it is the bundle itself."""

    folder: Path
    prefix: str
    folds: tuple[str, ...]

    @property
    def places(self) -> list[Path]:
        """Folders of the folds and of their stages, in order."""
        found = []
        for fold in self.folds:
            top = self.folder / f"fold_{fold}"
            stages = [file.parent for file in sorted(top.rglob("config.json"))]
            found += [place for place in stages if MEASURING not in place.relative_to(top).parts]
        return found


def parts_of(folder: Path, folds: Sequence[str] | None = None) -> tuple[list[BundlePart], Recipe | None]:
    """The configurations of a model folder with their folds, and the recipe of a packed one. AutolmkError where it is
    none, a fold is not finished, or folds are chosen of a packed one, which has chosen them itself.
    """
    from autolmk.prediction.model import chosen_folds

    if (folder / RECIPE).is_file():
        if folds is not None:
            raise AutolmkError(
                "a packed model says by itself which folds count",
                file=folder,
                found=f"folds {', '.join(folds)} asked for",
                remedy="leave -f out, or export one of the model folders in it",
            )
        recipe = Recipe.load(folder)
        return [BundlePart(folder / m.model, f"{m.model}/", m.folds) for m in recipe.members], recipe
    if not (folder / "plans.json").is_file():
        raise AutolmkError(
            "this is no model folder",
            file=folder,
            found=f"neither plans.json nor {RECIPE}",
            expected="TRAINER__PLANS__CONFIGURATION, with plans.json and fold_k folders, or a packed model",
            remedy="check the path",
        )
    return [BundlePart(folder, "", tuple(chosen_folds(folder, folds, "final")))], None


def secrets_of(parts: Sequence[BundlePart], recipe: Recipe | None) -> Secrets:
    """All names of cases and subjects that the files of these models know."""
    names: set[str] = set()
    known: list[str] = [] if recipe is None else [recipe.dataset_name, *recipe.measurements]
    for part in parts:
        plans = Plans.load(part.folder / "plans.json")
        known += [*plans.landmarks, *plans.channel_names, plans.dataset_name, plans.plans_name, *plans.configurations]
        fingerprint = _fingerprint(part.folder)
        if fingerprint is not None:
            names |= {*fingerprint.cases, *fingerprint.failed}
        for place in part.places:
            config = read_json(place / "config.json")
            names |= {str(c) for key in ("train_cases", "val_cases") for c in (config.get(key) or ())}
            placement = Measured.load(place).placement
            names |= set(() if placement is None else placement.cases)
        description = _description(part.folder)
        if description is not None:
            names |= set(description.spacing) if isinstance(description.spacing, Mapping) else set()
            names |= {_subject(description, case) for case in names}
    return Secrets(names, known)


def _subject(description: DatasetDescription, case: str) -> str:
    try:
        return description.subject(case)
    except AutolmkError:
        return case


def entries(parts: Sequence[BundlePart], recipe: Recipe | None, secrets: Secrets, temporary: Path) -> Iterator[Entry]:
    """The files of a bundle without its card and manifest. temporary: a folder for checkpoints that must be written
    anew. AutolmkError where a file is damaged or a text in it names a case or a path."""
    if recipe is not None:
        yield _json(RECIPE, to_json(recipe), secrets)
        for name in ("dataset.json", FINGERPRINT):
            yield from _shared(parts[0].folder.parent, name, "", secrets)
    for part in parts:
        sources = kept_sources(part.folder)
        yield _json(f"{part.prefix}plans.json", _plans(part.folder), secrets)
        for name in ("dataset.json", FINGERPRINT):
            yield from _shared(part.folder, name, part.prefix, secrets)
        if sources:
            yield from _code(part, sources, secrets)
        for place in part.places:
            yield from _of_place(part, place, secrets, temporary)


def _shared(folder: Path, name: str, prefix: str, secrets: Secrets) -> Iterator[Entry]:
    """dataset.json or the fingerprint, where there is one."""
    if name == FINGERPRINT:
        found = _fingerprint(folder)
        value = None if found is None else anonymous(found)
    else:
        description = _description(folder)
        value = None if description is None else of_dataset(description)
    if value is not None:
        yield _json(prefix + name, value, secrets)


def _description(folder: Path) -> DatasetDescription | None:
    file = folder / "dataset.json"
    return DatasetDescription.load(file) if file.is_file() else None


def _fingerprint(folder: Path) -> Fingerprint | None:
    """None where there is none, or one of another version of autolmk, which prediction does not look at either."""
    file = folder / FINGERPRINT
    value = read_json(file) if file.is_file() else None
    known = not isinstance(value, dict) or value.get("version") == FINGERPRINT_VERSION
    return Fingerprint.load(file) if value is not None and known else None


def of_dataset(description: DatasetDescription) -> dict[str, Any]:
    """dataset.json without what is about single cases."""
    content = {key: value for key, value in description.to_json().items() if key in OF_DATASET}
    if description.spacing is not None and not isinstance(description.spacing, Mapping):
        content["spacing"] = list(description.spacing)
    return content


def anonymous(fingerprint: Fingerprint) -> dict[str, Any]:
    """A fingerprint whose cases have numbers."""
    value: dict[str, Any] = to_json(fingerprint)
    for key in ("cases", "appearances", "poses"):
        value[key] = numbered(value[key].values())
    return {**value, "failed": []}


def _plans(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = to_json(Plans.load(folder / "plans.json"))
    value["planner"] = planner_names(value["planner"])
    for configuration in value["configurations"].values():
        configuration["trainer"] = shortened(configuration["trainer"])
    return value


def _of_place(part: BundlePart, place: Path, secrets: Secrets, temporary: Path) -> Iterator[Entry]:
    """The files of one fold, or of a stage in it."""
    prefix = part.prefix + place.relative_to(part.folder).as_posix() + "/"
    yield _json(f"{prefix}config.json", of_config(read_json(place / "config.json")), secrets)
    measured: dict[str, Any] = to_json(Measured.load(place))
    if measured["placement"] is not None:
        measured["placement"]["cases"] = list(numbered(measured["placement"]["cases"]))
    yield _json(prefix + MEASURED, measured, secrets)
    file = checkpoint_file(place, "final")
    record = checkpoint.read_record(file)
    kept = {key: record[key] for key in OF_RECORD if key in record} | {"trainer": shortened(str(record.get("trainer")))}
    if kept != record:
        loaded = checkpoint.load(file)
        file = temporary / f"{hashlib.sha256(str(place).encode()).hexdigest()}.safetensors"
        checkpoint.save(file, loaded.tensors, kept)
    require_none(kept, secrets, prefix + "checkpoint_final.safetensors")
    yield Entry(prefix + "checkpoint_final.safetensors", file)


def of_config(value: Mapping[str, Any]) -> dict[str, Any]:
    """A fold's config.json without cases and paths, but with their numbers."""
    content = {key: value[key] for key in OF_CONFIG if key in value}
    content["trainer"] = shortened(content["trainer"])
    content["configuration"] = content["configuration"] | {"trainer": shortened(content["configuration"]["trainer"])}
    if isinstance(content.get("plans"), Mapping) and "planner" in content["plans"]:
        content["plans"] = content["plans"] | {"planner": planner_names(content["plans"]["planner"])}
    counted = {key: len(value.get(f"{key}_cases") or ()) for key in ("train", "val")}
    content["cases"] = counted if "train_cases" in value else from_json(dict[str, int], value.get("cases") or counted)
    taken = value.get("pretrained")
    kept = {key: taken[key] for key in ("share", "sha256") if key in taken} if isinstance(taken, Mapping) else None
    content["pretrained"] = kept
    return content


def _code(part: BundlePart, sources: Mapping[str, Source], secrets: Secrets) -> Iterator[Entry]:
    """The record of users' trainers and their files. AutolmkError where one was changed after training."""
    record, written = {}, set()
    for specification, source in sources.items():
        short = shortened(specification)
        record[short] = Source(short, source.class_name, source.file, source.sha256)
        data = read_limited(part.folder / source.file, LARGEST_SOURCE)
        if hashlib.sha256(data).hexdigest() != source.sha256:
            raise AutolmkError(
                "the trainer's source was changed after training",
                file=part.folder / source.file,
                expected=f"SHA-256 {source.sha256}",
                remedy="restore the file",
            )
        named = secrets.named(data.decode("utf-8", "replace"))
        if named is not None:
            raise AutolmkError(
                "the code of a trainer, which would go into the bundle, names a case or a subject",
                file=part.folder / source.file,
                found=named,
                expected="nothing that tells whose images the model was trained on",
                remedy="take the name out of the trainer's file and train again",
            )
        if source.file not in written:
            written.add(source.file)
            yield Entry(part.prefix + source.file, data)
    yield _json(part.prefix + SOURCE_RECORD, to_json(record), secrets)


def _json(name: str, value: Any, secrets: Secrets) -> Entry:
    content = without_reasons(value, secrets)
    require_none(content, secrets, name)
    return Entry(name, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
