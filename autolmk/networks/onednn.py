"""Convolutions by oneDNN on a CPU, also where torch itself takes its own, slower ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = {F.conv2d: 2, F.conv3d: 3}
ONEDNN: Any = torch.backends.mkldnn  # oneDNN by its older name; its functions have no types


class OneDnn(TorchFunctionMode):
    """Compute by oneDNN: within `with`, convolutions of float32 on a CPU are oneDNN's, where no gradient is wanted.

    With one thread torch takes its own for 3 x 3 x 3 kernels on small inputs (of 20,480 values at most, where it leaves
    out the last axis), two to five times as slow (`benchmarks/prediction_speed.py`). With several threads it
    takes oneDNN's itself.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        ndim = CONVOLUTIONS.get(func)
        if ndim is None or kwargs or len(args) != 7 or not _suits(args[0], args[4], ndim):
            return func(*args, **(kwargs or {}))
        data, weight, bias, stride, padding, dilation, groups = args
        steps = [(n,) * ndim if isinstance(n, int) else tuple(n) for n in (padding, stride, dilation)]
        return torch.ops.aten.mkldnn_convolution(data.contiguous(), weight.contiguous(), bias, *steps, groups)


def _suits(data: Any, padding: Any, ndim: int) -> bool:
    """Whether torch may take its own convolution, and oneDNN has one: of batches, which `aten` does not check."""
    return (
        torch.get_num_threads() == 1
        and not torch.is_grad_enabled()
        and data.device.type == "cpu"
        and data.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not isinstance(padding, str)
        and data.ndim == ndim + 2
        and data.numel() > 0
        and ONEDNN.is_available()
    )
