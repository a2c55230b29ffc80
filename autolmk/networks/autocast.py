"""CUDA's autocast, acted out on torch's meta device, which has none, so that memory can be counted without a GPU.

Which operations compute in which precision: https://pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

LOW: frozenset[Callable[..., Any]] = frozenset(
    (
        *(torch.conv1d, torch.conv2d, torch.conv3d, F.conv1d, F.conv2d, F.conv3d),
        *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
        *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
        *(F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
        *(torch.einsum, F.prelu, F.scaled_dot_product_attention),
    )
)
FLOAT32: frozenset[Callable[..., Any]] = frozenset(
    (
        *(F.group_norm, torch.group_norm, F.layer_norm, torch.layer_norm, F.local_response_norm),
        *(
            F.softplus,
            torch.exp,
            Tensor.exp,
            torch.expm1,
            Tensor.expm1,
            torch.log,
            Tensor.log,
            torch.log1p,
            Tensor.log1p,
        ),
        *(torch.pow, Tensor.pow, Tensor.__pow__, torch.rsqrt, Tensor.rsqrt, torch.reciprocal, Tensor.reciprocal),
        *(
            torch.norm,
            Tensor.norm,
            F.mse_loss,
            F.l1_loss,
            F.smooth_l1_loss,
            F.cross_entropy,
            F.nll_loss,
            F.kl_div,
            F.cosine_similarity,
        ),
        *(F.normalize, torch.cdist, torch.linalg.vector_norm),
    )
)
INTO_FLOAT32: frozenset[Callable[..., Any]] = frozenset(  # that take what they are given, without a copy of it
    (
        *(F.softmax, torch.softmax, Tensor.softmax, F.log_softmax, torch.log_softmax, Tensor.log_softmax),
        *(torch.sum, Tensor.sum, torch.prod, Tensor.prod, torch.cumsum, Tensor.cumsum),
    )
)
WIDEST: frozenset[Callable[..., Any]] = frozenset(
    (torch.cat, torch.concat, torch.stack, torch.addcmul, torch.addcdiv, torch.dot, torch.cross, F.grid_sample)
)


class MetaAutocast(TorchFunctionMode):
    """Autocast for meta tensors: inside `with` they get the types that autocast of `dtype` gives them on CUDA, and the
    copies that it makes.

    As there, a parameter is cast once: the copy is kept until the end.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._copies: dict[int, tuple[nn.Parameter, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LOW:
            args, kwargs = tree_map_only(Tensor, self._low, (args, kwargs))
        elif func in FLOAT32:
            args, kwargs = tree_map_only(Tensor, _float32, (args, kwargs))
        elif func in INTO_FLOAT32 and args[0].dtype == self.dtype:
            kwargs = {**kwargs, "dtype": kwargs.get("dtype") or torch.float32}
        elif func in WIDEST:
            kinds = {t.dtype for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            if torch.float32 in kinds and self.dtype in kinds:
                args, kwargs = tree_map_only(Tensor, _float32, (args, kwargs))
        return func(*args, **kwargs)

    def _low(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.dtype in (self.dtype, torch.float64):
            return tensor
        if not isinstance(tensor, nn.Parameter):
            return tensor.to(self.dtype)
        if id(tensor) not in self._copies:
            self._copies[id(tensor)] = (tensor, tensor.to(self.dtype))
        return self._copies[id(tensor)][1]


def _float32(tensor: Tensor) -> Tensor:
    low = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if low else tensor
