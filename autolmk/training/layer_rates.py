"""Rates of single layers, for training that starts from other weights: lower than the plan's, or 0, which freezes them.

A layer is named as in the network's own tensors: `encoder` is all that begins with `encoder.`; `codec` is the codec.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from autolmk.errors import AutolmkError
from autolmk.files.serialization import near

SHOWN = 30  # layers that a message lists


def layers_of(network: nn.Module, codec: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of network and codec by the names that `rates` uses."""
    return dict(network.named_parameters()) | {f"codec.{name}": p for name, p in codec.named_parameters()}


def apply(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], rates: Mapping[str, float]) -> None:
    """Multiply the learning rate of the parameters of each layer in `rates` by its factor, in groups of their own; 0
    takes them out and stops their gradients. The longest name that fits a parameter counts."""
    if not rates:
        return
    factors = {id(parameter): _factor(name, rates) for name, parameter in named.items()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        parts: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        for parameter in parts.pop(0.0, []):
            parameter.requires_grad_(False)
        for factor, members in parts.items():
            own: dict[str, Any] = {key: group[key] * factor for key in ("lr", "initial_lr") if key in group}
            kept = {key: value for key, value in group.items() if key != "param_names"}  # which would be those of all
            groups.append({**kept, **own, "params": members})
    if not groups:
        raise AutolmkError(
            "all layers are frozen, so there is nothing to train",
            found=", ".join(rates),
            expected="at least one layer with a rate above 0",
            remedy="freeze fewer layers",
        )
    optimizer.param_groups[:] = groups


def require_known(stages: Iterable[Mapping[str, nn.Parameter]], rates: Mapping[str, float]) -> None:
    """Raise AutolmkError where a name is no layer of any stage. stages: the parameters of each."""
    names = [name for named in stages for name in named]
    for key in rates:
        if not any(_fits(name, key) for name in names):
            layers = sorted({name.partition(".")[0] for name in names})
            raise AutolmkError(
                f"no network of this method has a layer {key!r}{near(key, layers)}",
                expected=f"the beginning of a tensor's name, such as {', '.join(layers[:SHOWN])}",
                remedy="correct --freeze or --layer_rates",
            )


def _factor(name: str, rates: Mapping[str, float]) -> float:
    fitting = [key for key in rates if _fits(name, key)]
    return rates[max(fitting, key=len)] if fitting else 1.0


def _fits(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")
