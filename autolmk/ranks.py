"""Ranks: processes that train one network together, each on its part of every batch; see `torch.distributed`.

Every rank takes the same steps with the same weights, so what one rank knows alone (a batch's part, the time, a signal)
is shared before anything depends on it. Where nothing was `joined` there is one rank, number 0, and sharing is nothing.
Functions that share must be called by all ranks, in the same order.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from autolmk.errors import AutolmkError

T = TypeVar("T")

LONGEST_WAIT = datetime.timedelta(hours=2)  # of a rank for another one, such as for the first one's results
BUCKET = 2**24  # numbers that travel at a time
_state: dict[str, Any] = {}  # of the ranks that were joined. messages: their group for what is on the CPU


class RanksLost(AutolmkError):
    """Another rank ended, so that nothing can be shared any more."""


@contextmanager
def joined(method: str, rank: int, size: int, device: torch.device) -> Iterator[None]:
    """Be rank number `rank` of `size`, until the end of the block. Gradients travel through NCCL on CUDA, else Gloo.

    method: where ranks meet, as `init_process_group` takes it. AutolmkError where they do not.
    """
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if cuda else "gloo", init_method=method, rank=rank, world_size=size, timeout=LONGEST_WAIT
        )
        _state["messages"] = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    except (RuntimeError, ValueError) as error:
        raise AutolmkError(
            "the processes of a training on several GPUs do not find each other",
            found=" ".join(str(error).split())[:300],
            expected=f"{size} processes that meet at {method}",
            remedy="see that all of them run, and that hosts reach each other (GLOO_SOCKET_IFNAME and "
            "NCCL_SOCKET_IFNAME name the network)",
        ) from None
    try:
        yield
        dist.destroy_process_group()
    finally:
        _state.clear()


def size() -> int:
    """The number of ranks, 1 where none were joined."""
    return dist.get_world_size() if _state and "alone" not in _state else 1


def rank() -> int:
    """The rank of this process; the first one, 0, writes and speaks."""
    return dist.get_rank() if _state else 0


def first() -> bool:
    """Whether this process is the first rank, or the only one."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Share nothing within the block, as if there were one rank: for what may fail on one of them."""
    if not _state:
        yield
        return
    _state["alone"] = True
    try:
        yield
    finally:
        del _state["alone"]


@contextmanager
def _sharing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of torch.distributed: a connection that was closed, a wait that was too long
        raise RanksLost(
            "another process of this training ended",
            found=" ".join(str(error).split())[:200],
            remedy="see what the others say; the same command goes on from the last checkpoint",
        ) from None


# -- messages ---------------------------------------------------------------------------------------------------------


def gathered(value: T) -> list[T]:
    """Every rank's value, in their order. Values travel pickled, between processes of one training."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    with _sharing():
        dist.all_gather_object(values, value, group=_state["messages"])
    return values


def of_first(value: T) -> T:
    """The first rank's value."""
    if size() == 1:
        return value
    box = [value]
    with _sharing():
        dist.broadcast_object_list(box, src=0, group=_state["messages"])
    return box[0]


def largest(values: Sequence[float]) -> list[float]:
    """The largest number of all ranks, at each place."""
    if size() == 1:
        return list(values)
    shared = torch.tensor(list(values), dtype=torch.float64)
    with _sharing():
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=_state["messages"])
    return [float(value) for value in shared]


def meet() -> None:
    """Wait until every rank has come so far: what the first one wrote, the others may read."""
    gathered(None)


@contextmanager
def first_before_others() -> Iterator[None]:
    """The first rank runs the block alone, then the others do: for files that are made where they are missing."""
    if not first():
        meet()
    yield
    if first():
        meet()


# -- tensors ----------------------------------------------------------------------------------------------------------


def total(value: Tensor) -> Tensor:
    """Sum over the ranks, on each of them; differentiable."""
    if size() == 1:
        return value
    result: Tensor = _Total.apply(value)  # type: ignore[no-untyped-call]
    return result


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _sum(value)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Tensor:
        return _sum(outputs[0])


def _sum(value: Tensor) -> Tensor:
    result = value.detach().clone(memory_format=torch.contiguous_format)
    with _sharing():
        dist.all_reduce(result)
    return result


def normaliser(which: Tensor) -> Tensor:
    """The number that a sum over the rows `which` (bool) is divided by, so that the mean of all ranks' quotients is the
    mean over the rows of the whole batch: how many rows a rank has on average, scalar; for an empty batch, of 1 row.

    With one rank it is the number of rows, at least 1.
    """
    count = which.sum()
    return count.clamp(min=1) if size() == 1 else total(count).clamp(min=1).double() / size()


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Put the mean over the ranks into the gradients. A parameter that some ranks have no gradient of counts as 0
    there; one that none has a gradient of keeps none."""
    if size() == 1:
        return
    anywhere = largest([float(p.grad is not None) for p in parameters])
    gradients = []
    for parameter, there in zip(parameters, anywhere, strict=True):
        if there and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    average(gradients)


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Put the mean over the ranks into floating-point tensors, in place."""
    for bucket in _buckets(tensors) if size() > 1 else ():
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        with _sharing():
            dist.all_reduce(flat)
        _give_back(flat.div_(size()), bucket)


@torch.no_grad()
def take_first(tensors: Sequence[Tensor]) -> None:
    """Put the first rank's values into tensors, in place."""
    for bucket in _buckets(tensors) if size() > 1 else ():
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        with _sharing():
            dist.broadcast(flat, src=0)
        _give_back(flat, bucket)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type each, together of at most `BUCKET` numbers or a single one."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(one.numel() for one in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _give_back(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()
