"""Model card: what a model was trained on, how it erred on held-out cases, and what it was never shown.

After Mitchell et al., Model cards for model reporting, FAT* 2019. It is data, model_card.json; `card_page` makes
Markdown and HTML of it. It holds no name of a case and no path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autolmk.evaluation.bootstrap import Estimate

VERSION = 1
NOT_STATED = "not stated"


@dataclass(frozen=True)
class HeldOutErrors:
    """Errors on held-out cases. n: annotated points. missing: those without a predicted place. mre, median: mm or px.
    sdr: radius -> share of points at most that far. swaps: points nearer to the mirror partner's place."""

    n: int
    missing: int
    mre: Estimate
    median: Estimate
    sdr: dict[str, Estimate]
    swaps: int


@dataclass(frozen=True)
class CardLandmark:
    """The facts of one landmark on the card. shown, absent: training cases in which it is, and in which an annotator
    says that it is not; None without a fingerprint. errors: None where no held-out case shows it.
    """

    name: str
    definition: str | None = None
    pair: str | None = None
    shown: int | None = None
    absent: int | None = None
    errors: HeldOutErrors | None = None


@dataclass(frozen=True)
class Coverage:
    """The share of held-out points that the error radius covers. claimed: the level that it is made for. measured:
    share of held-out points within it.
    """

    claimed: float
    measured: Estimate | None
    n_cases: int
    why: str


@dataclass(frozen=True)
class Card:
    """The model card, model_card.json.

    description, intended_use, licence, reference, citation: of dataset.json, texts that its author wrote. training:
    what it was trained on and how, in words. ranges: of the training images, beyond which it was never shown anything.
    limits: what else it was never shown, a sentence each. held_out: of all landmarks together, None where nothing was
    held out; held_out_cases: how many. how: what the held-out errors are of, in a sentence. methods, reproducibility,
    references: of the reproducibility sheet, a paragraph, versions and hashes by name, and what the paragraph cites;
    empty in cards of earlier versions.
    """

    dataset: str
    model: str
    autolmk: str
    unit: Literal["mm", "px"]
    channels: tuple[str, ...]
    landmarks: tuple[CardLandmark, ...]
    description: str = NOT_STATED
    intended_use: str = NOT_STATED
    licence: str = NOT_STATED
    reference: str = NOT_STATED
    citation: str = NOT_STATED
    training: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, str] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    held_out: HeldOutErrors | None = None
    held_out_cases: int = 0
    how: str = ""
    coverage: Coverage | None = None
    methods: str = ""
    reproducibility: dict[str, str] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        """Raise ValueError for a card of another version, or without landmarks."""
        if self.version != VERSION:
            raise ValueError(f"a model card of version {self.version}, where {VERSION} is known; update autolmk")
        if not self.landmarks or len({one.name for one in self.landmarks}) < len(self.landmarks):
            raise ValueError("a model card needs landmarks, each once")

    @property
    def texts(self) -> Mapping[str, str]:
        """The texts that dataset.json's author wrote, by their title."""
        return {
            "Description": self.description,
            "Intended use": self.intended_use,
            "Licence": self.licence,
            "Reference": self.reference,
            "Citation": self.citation,
        }
