"""Outlines of networks: shapes as ever, and no random number is drawn for them."""

from __future__ import annotations

import torch
from kernel_calls import Calls
from torch import nn

from autolmk.methods.outline import outline


def network() -> tuple[nn.Module, nn.Linear]:
    """The network, and its layer whose weights are drawn narrowly."""
    first, narrow, last = nn.Conv2d(1, 2, 3), nn.Linear(2, 2), nn.Linear(2, 3)
    nn.init.kaiming_normal_(first.weight)
    nn.init.normal_(narrow.weight, std=0.01)
    nn.init.uniform_(last.weight)
    return nn.Sequential(first, nn.Embedding(5, 2), narrow, last), narrow


def test_nothing_is_drawn_for_an_outline() -> None:
    torch.manual_seed(0)
    with Calls() as drawn:
        real, narrow = network()
    before = torch.get_rng_state()
    with Calls() as calls, outline():
        found, _ = network()
    assert drawn.names["normal_"] >= 3 and drawn.names["uniform_"] >= 1
    assert calls.names["normal_"] == 0 and torch.equal(torch.get_rng_state(), before)
    assert [p.shape for p in found.parameters()] == [p.shape for p in real.parameters()]
    assert all(p.is_meta for p in found.parameters())
    assert float(narrow.weight.detach().abs().max()) < 0.1  # without an outline nothing is left out
