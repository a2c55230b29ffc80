"""Reproducibility sheet of a model: a methods paragraph with references, versions, seeds and hashes, ready to paste."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autolmk.bundles.contents import BundlePart, parts_of
from autolmk.bundles.making_card import ranges
from autolmk.bundles.privacy import planner_names, shortened
from autolmk.bundles.references import FORMER, REFERENCES, TRAINERS, Reference, software
from autolmk.errors import counted
from autolmk.escaping import lines
from autolmk.files.digest import digest, sha256_of
from autolmk.files.serialization import read_json
from autolmk.fingerprint import FILE_NAME as FINGERPRINT
from autolmk.fingerprint.fingerprint import VERSION as FINGERPRINT_VERSION
from autolmk.fingerprint.fingerprint import Fingerprint
from autolmk.fold.checkpoint import checkpoint_file, read_record
from autolmk.methods.registry import label
from autolmk.plans import Plans
from autolmk.selection import Recipe

ALWAYS = ("autolmk", "isensee2021")
SOFTWARE = "autolmk"  # the key of autolmk itself
WHOLE = re.compile(
    r"## Methods\n\n[^\n]+\n\n## Reproducibility\n\n(\|[^\n]*\n)+\n## References\n\n```bibtex\n(?P<bibtex>.*)```\n",
    re.DOTALL,
)
KEY = re.compile(r"@\w+\s*\{\s*([^,\s}]+)")
CITED = re.compile(r"(?<!\\)\[@\w+(?:; @\w+)*\]")
KEYS = re.compile(r"@(\w+)")
ESCAPED = re.compile(r"\\([\\`*_\[\]<>|@])")
MARKUP = re.compile(r"([\\`*_\[\]<>|@])")


@dataclass(frozen=True)
class Sheet:
    """The citations that a user of autolmk needs. paragraph: for the methods section, with keys of references in
    brackets. facts: versions, seeds and hashes, by name. keys: of the references that the paragraph cites, in their
    order.
    """

    paragraph: str
    facts: dict[str, str]
    keys: tuple[str, ...]

    def text(self) -> str:
        """The paragraph as plain text, with references as a paper cites them."""
        cited = CITED.sub(
            lambda found: f"({'; '.join(_reference(key).short for key in KEYS.findall(found[0]))})", self.paragraph
        )
        return ESCAPED.sub(r"\1", cited)

    def references(self) -> tuple[str, ...]:
        """The works that the paragraph cites, a line each."""
        return tuple(_reference(key).text() for key in self.keys)

    def bibtex(self) -> str:
        """Entries of the references."""
        return "\n\n".join(_reference(key).bibtex(key) for key in self.keys) + "\n"

    def markdown(self) -> str:
        """The whole sheet as Markdown."""
        rows = [f"| {_cell(name)} | `{_cell(value)}` |" for name, value in self.facts.items()]
        table = "\n".join(["| | |", "|---|---|", *rows])
        parts = ["## Methods", self.paragraph, "## Reproducibility", table, "## References", "```bibtex"]
        return "\n\n".join(parts) + "\n" + self.bibtex() + "```\n"


def sheet(folder: Path | None) -> Sheet:
    """The citations for a model folder, of one configuration or packed; with None, those for autolmk alone.
    AutolmkError where it is incomplete or damaged.
    """
    if folder is None:
        text = f"Landmarks were located with autolmk {_cite(SOFTWARE)}, which configures itself as nnU-Net does "
        return Sheet(f"{text}{_cite('isensee2021')}.", {"autolmk": software().fields["version"]}, ALWAYS)
    return sheet_of(*parts_of(folder))


def sheet_of(parts: list[BundlePart], recipe: Recipe | None) -> Sheet:
    """The citations for a model of these parts, all of whose folds count. AutolmkError where a file is damaged."""
    plans = Plans.load(parts[0].folder / "plans.json")
    sentences = [_planning(plans), *_data(parts[0].folder), *_models(parts), *_training(parts)]
    keys = [*ALWAYS, *(key for trainer in _trainers(parts) for key in TRAINERS.get(trainer, ("", ()))[1])]
    keys += ["loshchilov2019"] * _uses_adamw(parts)
    if recipe is not None:
        said, more = _finishing(recipe)
        sentences, keys = [*sentences, *said], [*keys, *more]
    return Sheet(" ".join(sentences), _facts(parts, plans, recipe), tuple(dict.fromkeys(keys)))


def is_sheet(text: str) -> bool:
    """Whether a text is what a sheet writes, of any model and version of autolmk, and holds no reference beside."""
    whole = WHOLE.fullmatch(text)
    references = whole["bibtex"] if whole else text
    keys = set(KEY.findall(references))
    return (
        references.startswith("@")
        and references.endswith("}\n")
        and SOFTWARE in keys
        and keys <= {SOFTWARE, *REFERENCES, *FORMER}
    )


def _reference(key: str) -> Reference:
    return software() if key == SOFTWARE else REFERENCES[key]


def _cite(*keys: str) -> str:
    return f"[{'; '.join(f'@{key}' for key in dict.fromkeys(keys))}]"


def _planning(plans: Plans) -> str:
    unit = "" if plans.unit == "mm" else " without physical size"
    return (
        f"{counted(len(plans.landmarks), 'landmark')} were located in {plans.ndim}D images{unit} "
        f"({', '.join(map(_word, plans.channel_names))}) with autolmk {_cite(SOFTWARE)}, which derives preprocessing, "
        f"networks and training from the dataset as nnU-Net does {_cite('isensee2021')} (preset {plans.preset})."
    )


def _data(folder: Path) -> list[str]:
    file = folder / FINGERPRINT
    value = read_json(file) if file.is_file() else {}
    if not isinstance(value, dict) or value.get("version") != FINGERPRINT_VERSION:
        return []
    known = Fingerprint.load(file)
    spans = [f"{name} {span}" for name, span in ranges(known).items() if name.startswith(("spacing", "field of view"))]
    return [f"The training set had {counted(known.n_cases, 'image')} of {counted(known.n_subjects, 'subject')} "
            f"({'; '.join(spans)})."]  # fmt: skip


def _trainers(parts: Iterable[BundlePart]) -> list[str]:
    """Short names, each once, in the order of stages."""
    configs = [config for part in parts for config in reversed(_configs(part))]
    return list(dict.fromkeys(label(str(config.get("trainer"))) for config in configs))


def _configs(part: BundlePart) -> list[dict[str, Any]]:
    return [read_json(place / "config.json") for place in part.places]


def _models(parts: Iterable[BundlePart]) -> list[str]:
    said = []
    for trainer in _trainers(parts):
        what, keys = TRAINERS.get(trainer, (f"the trainer {_word(trainer)}, which is not part of autolmk", ()))
        said.append(f"{what}{f' {_cite(*keys)}' if keys else ''}")
    first, *others = said
    text = f"The model was {first}" + "".join(f"; then {other}" for other in others)
    return [f"{text}."]


def _uses_adamw(parts: Iterable[BundlePart]) -> bool:
    """Whether a shipped trainer's optimizer was AdamW."""
    chosen = [(c.get("options") or {}).get("optimizer", "adamw") for part in parts for c in _configs(part)]
    return "adamw" in chosen and any(trainer in TRAINERS for trainer in _trainers(parts))


def _training(parts: list[BundlePart]) -> list[str]:
    folds = sorted({fold for part in parts for fold in part.folds}, key=lambda fold: (len(fold), fold))
    records = [read_record(checkpoint_file(place, "final")) for part in parts for place in part.places]
    steps = sorted(int(record["iteration"]) for record in records if isinstance(record.get("iteration"), int))
    seeds = sorted({str(config.get("seed")) for part in parts for config in _configs(part)})
    optimiser = f" by AdamW {_cite('loshchilov2019')}" if _uses_adamw(parts) else ""
    said = f"Networks were trained{optimiser} on fold{'s' * (len(folds) > 1)} {', '.join(map(_word, folds))}"
    if steps:
        said += f", for {' to '.join(dict.fromkeys((str(steps[0]), str(steps[-1]))))} steps each"
    return [f"{said} (seed {', '.join(map(_word, seeds))})."]


def _finishing(recipe: Recipe) -> tuple[list[str], list[str]]:
    """(sentences, keys) of what a packed model does after its networks."""
    said, keys = [], []
    if len(recipe.members) > 1:
        names = ", ".join(_word(member.model) for member in recipe.members)
        said.append(f"Predictions of {counted(len(recipe.members), 'model')} ({names}) were combined.")
    kept = [decision.name for decision in recipe.postprocessing.decisions if decision.kept]
    if kept:
        said.append(f"Postprocessing that held-out cases supported was applied: {', '.join(map(_word, kept))}.")
    if recipe.error_radius is not None and recipe.error_radius.quantile is not None:
        said.append(
            f"Each point has an error radius that covers it with {recipe.error_radius.level:.0%}, by split conformal "
            f"prediction {_cite('lei2018')} from {counted(recipe.error_radius.n_cases, 'held-out case')}."
        )
        keys.append("lei2018")
    return said, keys


def _facts(parts: list[BundlePart], plans: Plans, recipe: Recipe | None) -> dict[str, str]:
    said = {"autolmk (now)": software().fields["version"], "numpy (now)": np.__version__}
    configs = [config for part in parts for config in _configs(part)]
    for key, name in (("autolmk", "autolmk (training)"), ("torch", "torch (training)"), ("precision", "precision"),
                      ("device", "device (training)"), ("seed", "seeds")):  # fmt: skip
        said[name] = _values(configs, key)
    said["dataset"], said["planner"] = plans.dataset_name, planner_names(plans.planner)
    said["trainers"] = ", ".join(dict.fromkeys(shortened(str(config.get("trainer"))) for config in configs))
    for part in parts:
        own = Plans.load(part.folder / "plans.json")
        said[f"plans, {part.folder.resolve().name}"] = own.digest()
        for place in part.places:
            name = f"{part.folder.resolve().name}/{place.relative_to(part.folder).as_posix()}"
            said[f"SHA-256 of the weights, {name}"] = sha256_of(checkpoint_file(place, "final"))
    if recipe is not None:
        said["recipe"] = digest(vars(recipe))
    return said


def _values(configs: Iterable[Mapping[str, Any]], key: str) -> str:
    return ", ".join(sorted({str(config.get(key)) for config in configs}))


def _cell(text: str) -> str:
    return " ".join(lines(text).split()).replace("|", "/").replace("`", "'")


def _word(text: str) -> str:
    """A name within a sentence of Markdown: nothing in it is markup."""
    return MARKUP.sub(r"\\\1", " ".join(lines(text).split()))
