"""Detections: all that a model says of one image, landmark by landmark: a few candidates, how sure it is of each.

They are what ensembling, postprocessing and error radii work from, of held-out and of new cases alike: never heatmaps,
so that memory grows neither with the image nor with the number of models. A folder of predictions keeps them in
detections/CASE.json.

Shapes: L landmarks, K candidates, P physical axes. Everything in mm (or pixels, for images without physical size).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json
from autolmk.geometry import FloatArray, Geometry

FOLDER = "detections"
REMEDY = "predict this case again with --save_detections"
VERSION = 1
_ARRAYS = ("candidates", "log_odds", "spread", "likelihood", "disagreement", "row")


@dataclass(frozen=True, eq=False)
class Detections:
    """All that models find in one image. names: L names. candidates: (L, K, P) mm, LPS, best first, NaN where there is
    none; before landmarks of a group were put on one slice. log_odds: (L, K) natural log-odds of each against
    "elsewhere", -inf where there is none. spread: (L,) mm, width of the best candidate's peak, NaN where the model
    tells none. likelihood: (L,) calibrated probability that the landmark is in the image; NaN where the model never saw
    it in training. geometry: of the image in canonical orientation. disagreement: (L,) mm, how far the models lie apart
    whose detections these are; NaN of a single one. moved: (L, P) mm, by which the best candidates were drawn toward
    the mean shape; empty where none was. row: (L,) calibrated probability that a landmark of a row of look-alikes is at
    its place and not at a neighbour's; NaN of other landmarks. Raises ValueError where shapes disagree or a name stands
    twice.
    """

    names: tuple[str, ...]
    candidates: FloatArray
    log_odds: FloatArray
    spread: FloatArray
    likelihood: FloatArray
    geometry: Geometry
    disagreement: FloatArray = field(default_factory=lambda: np.empty(0))
    moved: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    row: FloatArray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not len(self.disagreement):
            object.__setattr__(self, "disagreement", np.full(len(self.names), np.nan))
        if not len(self.row):
            object.__setattr__(self, "row", np.full(len(self.names), np.nan))
        object.__setattr__(self, "moved", np.nan_to_num(self.moved) if np.any(self.moved) else np.empty((0, 0)))
        for key in _ARRAYS:
            object.__setattr__(self, key, np.asarray(getattr(self, key), dtype=np.float64))
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"landmark names must be unique, got {self.names}")
        n, k, p = (*self.candidates.shape, 0, 0, 0)[:3]
        vectors = [getattr(self, key).shape for key in _ARRAYS[2:]]
        shapes = (self.candidates.ndim, self.log_odds.shape, *vectors)
        if self.moved.size and self.moved.shape != (n, p):
            raise ValueError(f"{n} landmarks are moved on {p} axes, got {self.moved.shape}")
        if (
            n != len(self.names)
            or shapes != (3, (n, k), (n,), (n,), (n,), (n,))
            or k < 1
            or p != self.geometry.physical_ndim
        ):
            raise ValueError(
                f"{len(self.names)} landmarks need candidates (L, K, P), log_odds (L, K), spread, likelihood, "
                f"disagreement and row (L,), got {self.candidates.shape} and {shapes[1:]}"
            )

    @property
    def best(self) -> FloatArray:
        """The places (L, P) of the best candidates, NaN where there is none."""
        return np.asarray(self.candidates[:, 0])

    def row_at(self, places: FloatArray) -> FloatArray:
        """The probabilities (L,) in rows at other places (L, P): those of a landmark's own point where it lies nearest
        to that landmark's place, else the rest to 1.
        """
        apart = np.linalg.norm(self.best[:, None] - places, axis=2)
        nearest = np.where(np.isfinite(apart), apart, np.inf).argmin(axis=1)
        return np.where(nearest == np.arange(len(places)), self.row, 1 - self.row)

    def as_found(self) -> Detections:
        """The detections with the best candidates where they were before they were drawn; flags judge these, because
        points near to the mean shape look likelier than they are.
        """
        if not self.moved.size:
            return self
        candidates = self.candidates.copy()
        candidates[:, 0] -= self.moved
        return replace(self, candidates=candidates, moved=np.empty((0, 0)))

    def save(self, folder: Path, case: str) -> None:
        """Write detections/CASE.json into a folder of predictions, atomically."""
        value = {key: np.where(np.isfinite(v), v, np.nan) for key, v in vars(self).items() if key in _ARRAYS}
        if not np.isfinite(self.row).any():
            del value["row"]
        if self.moved.size:
            value["moved"] = self.moved
        geometry = self.geometry.to_json()
        write_json(
            file_of(folder, case), {"names": self.names, **value, "geometry": geometry, "version": VERSION}, indent=None
        )

    @classmethod
    def load(cls, folder: Path, case: str) -> Detections:
        """Load what `save` wrote. AutolmkError where the file is missing or damaged."""
        file = file_of(folder, case)
        value = read_json(file, remedy=REMEDY)
        try:
            if value["version"] != VERSION:
                raise ValueError(f"version {value['version']} instead of {VERSION}")
            arrays = {key: np.array(value[key], dtype=np.float64) for key in _ARRAYS if key in value or key != "row"}
            arrays["log_odds"] = np.where(np.isnan(arrays["log_odds"]), -np.inf, arrays["log_odds"])
            arrays |= {"moved": np.array(value["moved"], dtype=np.float64)} if "moved" in value else {}
            return cls(tuple(value["names"]), geometry=Geometry.from_json(value["geometry"]), **arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(file, error) from None


def file_of(folder: Path, case: str) -> Path:
    """detections/CASE.json of a folder of predictions."""
    return folder / FOLDER / f"{case}.json"


def saved_cases(folder: Path) -> list[str]:
    """The cases in a folder of predictions that have detections, sorted."""
    return sorted(file.stem for file in (folder / FOLDER).glob("*.json") if not file.name.startswith("."))


def _damaged(file: Path, error: Exception) -> AutolmkError:
    said: Any = f"no {error}" if isinstance(error, KeyError) else error
    return AutolmkError("the detections of a case are damaged", file=file, found=said, remedy=REMEDY)
