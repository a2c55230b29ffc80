"""Small constants on a device, such as a window's sides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def constant(values: Sequence[float], device: torch.device | str, dtype: torch.dtype = torch.float64) -> Tensor:
    """A tensor of these numbers, for which the host does not wait: the copy is queued behind the device's work, whereas
    `torch.tensor(values, device=...)` first waits until all of that is done."""
    return torch.tensor(tuple(values), dtype=dtype).to(device, non_blocking=True)
