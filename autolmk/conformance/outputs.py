"""Whether a training step only reads what the network gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def overwritten(network: nn.Module, step: Callable[[], Tensor]) -> list[str]:
    """The tensors of the network's output that `step`, or its backward pass, changed, as `output["name"][0]`.

    step: calls the network, and gives the sum of the losses. A term that someone adds on top of a loss that overwrites
    its output reads what is left of it, without an error.
    """
    seen: list[tuple[str, Tensor, Tensor]] = []

    def look(_: nn.Module, __: Any, output: Any) -> None:
        seen.extend((place, tensor, tensor.detach().clone()) for place, tensor in tensors_of(output))

    handle = network.register_forward_hook(look)
    try:
        torch.autograd.backward(step())
    finally:
        handle.remove()
    return [place for place, tensor, before in seen if not torch.equal(tensor, before)]


def tensors_of(output: Any, place: str = "output") -> Iterator[tuple[str, Tensor]]:
    """All tensors, as (place, tensor), in mappings and sequences."""
    if isinstance(output, Tensor):
        yield place, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from tensors_of(value, f"{place}[{key!r}]")
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for i, value in enumerate(output):
            yield from tensors_of(value, f"{place}[{i}]")
