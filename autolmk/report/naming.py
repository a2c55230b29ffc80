"""Models by the names that users say: heatmap, where the folder is heatmap__autolmkPlans__heatmap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SEPARATOR, AND = "__", " + "  # between a folder's parts; between the members of an ensemble


@dataclass(frozen=True)
class ModelNames:
    """The names of models on one page. said: of each model's folder TRAINER__PLANS__CONFIGURATION, what a reader is
    told.
    """

    said: Mapping[str, str]

    def of(self, name: str) -> str:
        """The name of a folder, or of an ensemble of folders joined by " + "; a name of another form is kept."""
        return AND.join(self.said.get(part, part) for part in name.split(AND))

    def within(self, text: str) -> str:
        """The text with every folder's name in it replaced; longer names first, as one may hold another."""
        for folder in sorted(self.said, key=len, reverse=True):
            text = text.replace(folder, self.said[folder])
        return text


def model_names(folders: Iterable[str], usual: Mapping[str, str] | None = None) -> ModelNames:
    """Name all folders that one page speaks of. The name is the configuration; where two have the same, or the trainer
    is not the one that the plans name, what tells them apart stands in brackets. usual: folder -> the plans' trainer.
    """
    parts = {folder: tuple(folder.split(SEPARATOR)) for folder in dict.fromkeys(folders)}
    known = {folder: part for folder, part in parts.items() if len(part) == 3 and all(part)}
    shared = Counter(configuration for _, _, configuration in known.values())
    said = {}
    for folder, (trainer, plans, configuration) in known.items():
        same = [other for other in known.values() if other[2] == configuration]
        own = (usual or {}).get(folder, trainer) != trainer
        apart = [trainer] if own or len({other[0] for other in same}) > 1 else []
        apart += [plans] if shared[configuration] > 1 and len({other[1] for other in same}) > 1 else []
        said[folder] = f"{configuration} ({', '.join(apart)})" if apart else configuration
    return ModelNames(said)
