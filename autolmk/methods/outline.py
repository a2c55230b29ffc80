"""Networks without numbers: their shapes alone, on torch's meta device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FILLS = frozenset({Tensor.normal_, Tensor.uniform_})
FILLS_BY_NAME = frozenset({nn.init.normal_, nn.init.uniform_})  # they come here themselves, and what they call does not


@contextmanager
def outline() -> Iterator[None]:
    """Build networks as outlines: within `with`, what is built has shapes and no numbers. Nothing is drawn for it
    either, which on the meta device would load torch's compiler, a second and a half.
    """
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves tensors of the meta device as they are where they would be filled with random numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in FILLS and args[0].is_meta:
            return args[0]
        if func in FILLS_BY_NAME and kwargs and kwargs["tensor"].is_meta:
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))
