"""Balance: how often training windows hold each landmark, so that a loss can weigh both kinds of windows alike.

A loss over windows drawn at random answers with the odds at which they were drawn. So each landmark's windows are
counted while it is trained, and `losses` takes its share out again. The counts are whole numbers and a function of the
batches alone; a checkpoint of an unfinished run holds them, the weights to predict with do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from autolmk import ranks
from autolmk.codecs.constants import constant
from autolmk.landmarks import Status

RAREST = 0.01  # share of the rarer kind, at least: a kind of which less is seen is not learnt by weighing it more


class Shares(nn.Module):
    """Counts, of each landmark, the windows that hold it and those of which that is known; in training mode only.

    n_landmarks: L; 0: as many as the first windows have rows.
    """

    held: Tensor
    known: Tensor

    def __init__(self, n_landmarks: int = 0) -> None:
        super().__init__()
        self.n_landmarks = n_landmarks
        for name in ("held", "known"):  # empty until windows are seen
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def forward(self, voxels: Tensor, status: Tensor, side: Sequence[int], landmarks: Tensor | None = None) -> Tensor:
        """Count windows of `side` (D,) voxels; return the share (B, L) float64 of all windows so far, these included,
        that hold each row's landmark, 0.01 to 0.99; 0.5 where only one kind was ever seen, as there is nothing to
        weigh.

        voxels, status, landmarks: as of `Codec.encode`.
        """
        if not len(self.held):
            n = self.n_landmarks or status.shape[1]
            self.held, self.known = (torch.zeros(n, dtype=torch.int64, device=status.device) for _ in range(2))
        rows = torch.arange(status.shape[1], device=status.device).expand(status.shape)
        rows = (rows if landmarks is None else landmarks).flatten()
        if self.training:
            for count, which in ((self.held, holds(voxels, status, side)), (self.known, status != Status.UNKNOWN)):
                count += ranks.total(torch.zeros_like(count).index_add_(0, rows, which.flatten().long()))
        one_kind = (self.held == 0) | (self.held == self.known)
        share = (self.held.double() / self.known.clamp(min=1)).clamp(RAREST, 1 - RAREST).masked_fill(one_kind, 0.5)
        return share[rows].view(status.shape)


def holds(voxels: Tensor, status: Tensor, side: Sequence[int]) -> Tensor:
    """Whether each window holds each landmark, (B, L): windows of `side` (D,) voxels hold landmarks at voxels (B, L, D)
    of that status (B, L).
    """
    size = constant(side, voxels.device)
    return (status == Status.PRESENT) & ((voxels >= -0.5) & (voxels <= size - 0.5)).all(-1)  # False for NaN


def counts(module: nn.Module) -> dict[str, list[list[int]]]:
    """The counts of all `Shares` in a codec, JSON-ready: name -> [held (L,), known (L,)]."""
    return {name: [part.held.cpu().tolist(), part.known.cpu().tolist()] for name, part in _parts(module).items()}


def restore_counts(module: nn.Module, counted: Mapping[str, Sequence[Sequence[int]]]) -> None:
    """Restore what `counts` returned. ValueError or KeyError where they are those of another codec."""
    parts = _parts(module)
    for name, (held, known) in counted.items():
        part = parts[name]
        if len(held) != len(known) or (held and part.n_landmarks not in (0, len(held))):
            raise ValueError(f"counts of {len(held)} landmarks instead of {part.n_landmarks}")
        part.held, part.known = (torch.tensor(c, dtype=torch.int64, device=part.held.device) for c in (held, known))


def _parts(module: nn.Module) -> dict[str, Shares]:
    return {name: part for name, part in module.named_modules() if isinstance(part, Shares)}
