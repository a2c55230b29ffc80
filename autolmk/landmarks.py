"""Landmarks: named points in millimetres with their states."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from autolmk.geometry import FloatArray


def normal(name: str) -> str:
    """A name of a landmark or a case in Unicode's composed form (NFC), in which all names compare.

    macOS decomposes umlauts and accents in file names, tables hold them composed.
    """
    return unicodedata.normalize("NFC", name)


def breaks_lines(name: str) -> bool:
    """Whether a name holds line breaks or other control characters, beside tabs: tables and terminals obey them."""
    return any(c != "\t" and unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name)


class Status(IntEnum):
    """The state of a landmark in a case. Slicer's positionStatus: undefined, defined, missing."""

    UNKNOWN = 0  # nobody looked, or nobody wrote it down: masked in every loss and in every metric
    PRESENT = 1
    ABSENT = 2  # an annotator (or the model) says that it is not in the image: supervises


@dataclass(frozen=True, eq=False)
class Landmarks:
    """L landmarks of one case, always physical.

    names: L names. points: (L, P) float64 mm, LPS, order (x, y, z); NaN unless present. status: (L,) int8 of `Status`.
    likelihood: (L,) probability that the landmark is present, NaN where nobody computed it.
    error_radius: (L,) mm, NaN where nobody computed it.
    outside: of predicted landmarks, what of the image lies outside the range of the training images, in words.
    Raises ValueError where lengths disagree, names repeat, or a present point is not finite.

    >>> points = [[12.0, -30.5, 8.0], [np.nan] * 3]
    >>> landmarks = Landmarks(("nasion", "sella"), points, [Status.PRESENT, Status.ABSENT])
    >>> landmarks.present.tolist()
    [True, False]
    >>> landmarks.reordered(["sella", "nasion"]).points[1].tolist()
    [12.0, -30.5, 8.0]
    """

    names: tuple[str, ...]
    points: FloatArray
    status: npt.NDArray[np.int8]
    likelihood: FloatArray = field(default_factory=lambda: np.empty(0))
    error_radius: FloatArray = field(default_factory=lambda: np.empty(0))
    outside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = tuple(self.names)
        points = np.array(self.points, dtype=np.float64)
        status = np.array(self.status, dtype=np.int8)
        n = len(names)
        if len(set(names)) != n:
            raise ValueError(
                f"landmark names must be unique, got {sorted({m for m in names if names.count(m) > 1})} twice"
            )
        if points.ndim != 2 or points.shape[0] != n or points.shape[1] not in (2, 3) or status.shape != (n,):
            raise ValueError(
                f"{n} names need points ({n}, 2 or 3) and status ({n},), got {points.shape} and {status.shape}"
            )
        present = status == Status.PRESENT
        if not np.isfinite(points[present]).all():
            bad = [names[i] for i in np.flatnonzero(present) if not np.isfinite(points[i]).all()]
            raise ValueError(f"points of present landmarks must be finite: {bad}")
        points[~present] = np.nan
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "status", status)
        for name in ("likelihood", "error_radius"):
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.shape != (n,):
                if value.size:
                    raise ValueError(f"{name} must be ({n},), got {value.shape}")
                value = np.full(n, np.nan)
            object.__setattr__(self, name, value)

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """A mask of the landmarks that are present, (L,) bool."""
        return np.asarray(self.status == Status.PRESENT)

    def reordered(self, names: Sequence[str], *, unlisted: Status = Status.UNKNOWN) -> Landmarks:
        """The landmarks `names`, in this order; those that it lacks get the status `unlisted`; others are dropped."""
        where = {name: i for i, name in enumerate(self.names)}
        result = {
            "points": np.full((len(names), self.points.shape[1]), np.nan),
            "status": np.full(len(names), unlisted, dtype=np.int8),
            "likelihood": np.full(len(names), np.nan),
            "error_radius": np.full(len(names), np.nan),
        }
        for row, name in enumerate(names):
            if name in where:
                for key, value in result.items():
                    value[row] = getattr(self, key)[where[name]]
        return Landmarks(tuple(names), **result, outside=self.outside)


def decided(
    names: Sequence[str], points: FloatArray, likelihood: FloatArray, sometimes_absent: Sequence[str]
) -> Landmarks:
    """Present or absent, from the best places (L, P) mm, NaN where there is none, and the likelihoods (L,), NaN where
    nothing is known of a landmark.

    Only what is sometimes absent may be called absent, from even odds down; what has no place is absent or unknown.
    """
    may_lack = np.isin(names, sometimes_absent)
    unknown, found = np.isnan(likelihood), np.isfinite(points).all(axis=1)
    status = np.where(may_lack & (likelihood < 0.5), Status.ABSENT, Status.PRESENT)
    status = np.where(found, status, np.where(may_lack & ~unknown, Status.ABSENT, Status.UNKNOWN))
    return Landmarks(tuple(names), points, status.astype(np.int8), likelihood)
