"""Layers with rates of their own: frozen ones stay as they are, others move by their share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autolmk.errors import AutolmkError
from autolmk.training.layer_rates import apply, layers_of, require_known


def parts() -> tuple[nn.Module, nn.Module, dict[str, nn.Parameter]]:
    torch.manual_seed(0)
    network = nn.ModuleDict(
        {"encoder": nn.ModuleDict({"a": nn.Linear(2, 2), "ab": nn.Linear(2, 2)}), "head": nn.Linear(2, 1)}
    )
    codec = nn.Linear(1, 1)
    return network, codec, layers_of(network, codec)


def moved(rates: dict[str, float]) -> dict[str, float]:
    """Parameter -> how far one step of plain descent, of gradients 1 and rate 1, moves it."""
    network, codec, named = parts()
    optimizer = torch.optim.SGD([*network.parameters(), *codec.parameters()], lr=1.0)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    apply(optimizer, named, rates)
    for group in optimizer.param_groups:  # as each step of training does
        group["lr"] = group["initial_lr"]
    before = {name: p.detach().clone() for name, p in named.items()}
    for parameter in named.values():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    return {name: float((before[name] - p.detach()).abs().mean()) for name, p in named.items()}


def test_each_parameter_moves_by_the_factor_of_its_longest_name() -> None:
    found = moved({"encoder": 0.1, "encoder.a": 0.0, "codec": 0.5})
    wanted = {"encoder.a": 0.0, "encoder.ab": 0.1, "head": 1.0, "codec": 0.5}
    assert found == pytest.approx(
        {f"{k}.{part}": v for k, v in wanted.items() for part in ("weight", "bias")}, abs=1e-6
    )
    assert set(moved({}).values()) == {1.0}


def test_what_freezes_everything_or_nothing_is_refused() -> None:
    network, codec, named = parts()
    with pytest.raises(AutolmkError, match="nothing to train"):
        apply(torch.optim.SGD(list(named.values()), lr=1.0), named, {"encoder": 0.0, "head": 0.0, "codec": 0.0})
    require_known([{}, layers_of(network, codec)], {"encoder.ab": 0.1})
    with pytest.raises(AutolmkError, match=r"encode[\s\S]*did you mean 'encoder'[\s\S]*codec, encoder, head"):
        require_known([layers_of(network, codec)], {"encode": 0.1})
