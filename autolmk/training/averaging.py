"""Averaged weights: an exponential moving average over training steps (Polyak and Juditsky 1992)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from autolmk.codecs import Codec

RAMP = 10  # the decay of step i is at most (1 + i) / (RAMP + i), so that early weights are forgotten soon


class Averaged:
    """Copies of network and codec that hold the average of their parameters and floating-point buffers.

    `torch.optim.swa_utils.AveragedModel` would average buffers of whole numbers too, such as a codec's counts, and
    start from the weights after the first step; so that only its rule is used.

    decay: may be changed between updates, as a run's length shows, see `schedule.average_decay`.
    """

    def __init__(self, network: nn.Module, codec: Codec, decay: float) -> None:
        self.decay = decay
        self.network: nn.Module = copy.deepcopy(network).requires_grad_(False).eval()
        self.codec: Codec = copy.deepcopy(codec).requires_grad_(False).eval()
        self._average: list[Tensor] = []
        self._source: list[Tensor] = []
        self._copied: list[tuple[Tensor, Tensor]] = []
        for ours, theirs in ((self.network, network), (self.codec, codec)):
            sources = dict([*theirs.named_parameters(), *theirs.named_buffers()])
            for name, tensor in [*ours.named_parameters(), *ours.named_buffers()]:
                if tensor.is_floating_point():
                    self._average.append(tensor)
                    self._source.append(sources[name])
                else:
                    self._copied.append((tensor, sources[name]))

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Update the average after the optimizer's step number `iteration`, from 0: average += (1 - decay) (weights -
        average).
        """
        decay = min(self.decay, (1 + iteration) / (RAMP + iteration))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(self._average, [source.detach() for source in self._source], 0)
        for ours, theirs in self._copied:
            ours.copy_(theirs)

    @torch.no_grad()
    def copy(self) -> None:
        """Start anew from the weights as they are."""
        for ours, theirs in zip(self._average, self._source, strict=True):
            ours.copy_(theirs)
        for ours, theirs in self._copied:
            ours.copy_(theirs)
