"""A loss that overwrites the network's output breaks the contract, with the place named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autolmk.conformance.outputs import overwritten, tensors_of
from autolmk.errors import AutolmkError
from autolmk.testing import check_trainer
from autolmk.trainers.heatmap import HeatmapTrainer


class Overwriting(HeatmapTrainer):
    """In the forward pass, silently, after the loss."""

    def loss(self, output: Any, target: Any, status: Tensor) -> Any:
        """Its own plus nothing."""
        found = super().loss(output, target, status)
        output.detach().sub_(1.0)
        return found


def test_a_trainer_that_overwrites_its_output_is_told_so() -> None:
    words = r"(?s)Overwriting breaks the contract.*overwrites the network's output.*found: output\b.*end in _"
    with pytest.raises(AutolmkError, match=words):
        check_trainer(Overwriting, ndims=(2,))


def test_each_tensor_of_the_output_is_looked_at() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"maps": self.weight * x, "deep": [self.weight + x, 2 * self.weight * x], "name": "any"}

    network, data = Several(), torch.arange(3.0)

    def step(spoiled: str) -> Tensor:
        output = network(data)
        total = torch.stack([t.square().sum() for _, t in tensors_of(output)]).sum()
        for place, tensor in tensors_of(output):
            if place == spoiled:
                tensor.detach().add_(1.0)
        return total + network.weight.sum()

    for place in ("output['maps']", "output['deep'][0]", "output['deep'][1]"):
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            assert overwritten(network, lambda place=place: step(place)) == [place]
    assert overwritten(network, lambda: step("none")) == []
    assert not network._forward_hooks
