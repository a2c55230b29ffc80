"""Codec: points -> what a network is trained against, and its output -> points. One object, testable without a network.

Shapes: B batch, L landmarks, D image axes, *S the window's input voxels, *O its output cells (O = S / output stride),
K candidates. All voxel coordinates are in array order, 0 = centre of the window's first input voxel. The centre of
output cell i at stride s is input voxel s * i + (s - 1) / 2.

Where each landmark has a window of its own, rows take the place of L: a batch says by `landmarks` (B, L) which landmark
each row is; None: all landmarks in order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Target:
    """The target that `Codec.encode` hands to the trainer's loss; each codec has its own subclass.

    share: (B, L) float64 share of the training windows so far that hold each row's landmark, see `balance.Shares`;
    None: nobody counted.
    """

    share: Tensor | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Candidates:
    """Possible places of each landmark in a window, best first; on the CPU.

    voxels: (B, L, K, D) float64 input voxels, NaN where there is none. log_odds: (B, L, K) float64 natural log-odds of
    "here" against "elsewhere", -inf where there is none: what the window shows says so, at even odds beforehand. 0 is
    where it is as common among the training windows that hold the landmark as among those that lack it, however many
    there are of each. spread: (B, L, K) float64 input voxels, the peak's width.
    """

    voxels: Tensor
    log_odds: Tensor
    spread: Tensor


@dataclass(frozen=True)
class HeldOut:
    """Windows of cases that training has not seen. scores: (B, L, ...), as of `Codec.scores`; voxels, status: as of
    `Codec.encode`."""

    scores: Tensor
    voxels: Tensor
    status: Tensor


class Codec(nn.Module, ABC):
    """encode for training; scores, mirror and decode for prediction. Its parameters are trained with the network's."""

    @abstractmethod
    def encode(self, voxels: Tensor, status: Tensor, landmarks: Tensor | None = None) -> Target:
        """Encode points into a target. voxels: (B, L, D) float64 input voxels, anything where not present; status: (B,
        L) int8.
        """

    @abstractmethod
    def scores(self, output: Any, landmarks: Tensor | None = None) -> Tensor:
        """Network output -> (B, L, ...) float32 that may be averaged over folds and mirrored views."""

    @abstractmethod
    def mirror(self, scores: Tensor, axis: int, partner: Sequence[int]) -> Tensor:
        """The scores of a window reversed along array axis `axis` -> those of the window itself.

        partner: (L,) index of each landmark's left/right partner, its own where it has none.
        """

    @abstractmethod
    def decode(self, scores: Tensor) -> Candidates:
        """Scores of one window (B, L, ...) -> candidates, best first."""

    # -- optional -----------------------------------------------------------------------------------------------------

    def heights(self, scores: Tensor) -> Tensor:
        """The part of the scores, (B, L, *O), that shows in pictures where landmarks may lie; by default the scores
        themselves.
        """
        return scores

    def measure(self, held_out: Iterable[HeldOut]) -> dict[str, Any]:
        """Measure what decoding needs and only held-out cases tell, JSON-ready; called at the end of training and kept
        in measured.json. Nothing by default: windows that are not asked for are not looked at.
        """
        return {}

    def adopt(self, measured: Mapping[str, Any]) -> None:
        """Decode as `measure` found best: `measured` is what it returned, empty where nothing was held out."""

    @classmethod
    def pooled(cls, measured: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Combine what `measure` returned in each fold, for `adopt`, where the folds' scores are averaged. By default
        the first fold's.
        """
        return measured[0] if measured else {}


def padded(found: Candidates, k: int) -> Candidates:
    """The candidates padded to k places a landmark: what is missing is NaN and -inf."""
    missing = k - found.log_odds.shape[2]
    return Candidates(
        F.pad(found.voxels, (0, 0, 0, missing), value=math.nan),
        F.pad(found.log_odds, (0, missing), value=-math.inf),
        F.pad(found.spread, (0, missing), value=math.nan),
    )
