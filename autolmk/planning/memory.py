"""Memory that training takes, counted before anything is allocated: tensors on torch's meta device have no data.

For a CPU, exact is the count of bytes that autograd keeps for the backward pass (equal to the byte in float32); what
comes on top is listed in `MemoryEstimate`, and `workspace` is a margin. For CUDA, a whole step, with the types and
copies of its autocast, is taken on the meta device, and what is alive at its worst moment is counted; only `library`,
what cuDNN and torch's allocator take besides, is a margin.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autolmk.errors import AutolmkError
from autolmk.landmarks import Status
from autolmk.methods.outline import outline
from autolmk.methods.trainer import Trainer, named_parameters
from autolmk.networks.precision import MixedPrecision
from autolmk.planning.live_bytes import LiveBytes

GIB = 2**30
LIBRARY_BYTES = {"cuda": 256 * 2**20, "cpu": 0}  # cuDNN's workspace; the CUDA context lies outside torch's allocator
PRECISION = {"cuda": torch.bfloat16, "cpu": torch.float32}  # planned in; an upper bound where a CPU trains in bfloat16


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes. parameters: of network and codec. casts: autocast's low-precision copies of the weights. average: the EMA
    copy. workspace: for a CPU a stated margin for gradients in flight, twice the largest saved tensor; for CUDA what is
    alive at the step's worst moment besides what is saved and gradients. gradients: for CUDA those of that moment, or
    more where all of them and the optimizer's step take more than that moment did. library: a margin for cuDNN."""

    saved: int
    parameters: int
    gradients: int
    optimizer: int
    average: int
    casts: int
    workspace: int
    library: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, f.name) for f in dataclasses.fields(self))

    @property
    def per_batch(self) -> int:
        """The parts that grow in proportion to the batch."""
        return self.saved + self.workspace


@dataclass(frozen=True)
class Saved:
    """The bytes that one forward pass keeps for backward: in all, and of the largest storage."""

    total: int
    largest: int


def saved_bytes(
    module: nn.Module,
    input_shape: Sequence[int],
    loss: Callable[[Any], Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "meta",
) -> int:
    """Bytes that autograd keeps for the backward pass of `loss(module(input))`, each storage once, weights not counted.

    input_shape: (B, C, *S). dtype: of training; a copy of the module is cast to it: autocast does not act on meta.
    """
    network = copy.deepcopy(module).to(device=device, dtype=dtype)
    data = torch.zeros(tuple(input_shape), dtype=dtype, device=device)
    return count_saved(network, lambda: loss(network(data))).total


def count_saved(network: nn.Module, step: Callable[[], Tensor]) -> Saved:
    """Count what `step`, a forward pass of `network` and its loss, keeps for backward.

    A meta tensor has no address: storages are told apart by their C++ object, which lives while the graph holds it.
    """
    weights = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # holds every storage alive, so that no later one gets its place

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and not isinstance(tensor, nn.Parameter):
            storages[storage._cdata] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = step()
    if value.ndim != 0 or not value.requires_grad:
        raise ValueError(f"the loss must be a scalar that depends on the network, got shape {tuple(value.shape)}")
    return Saved(sum(storages.values()), max(storages.values(), default=0))


def training_bytes(trainer: Trainer, batch_size: int) -> MemoryEstimate:
    """Memory of one training step of `trainer` on `trainer.plans.device`, with its configuration's patch size.

    Network, codec and loss run on the meta device with every landmark present, so nothing large is allocated.
    """
    device, trainer = trainer.plans.device, trainer.anew()  # what it may remember of this step is forgotten
    if device == "cuda":
        return _on_cuda(trainer, batch_size)
    dtype = PRECISION[device]
    with outline():
        network = trainer.build_network()
        trainer.initialise(network)
    codec = trainer.build_codec().to("meta")
    parameters = [*network.parameters(), *codec.parameters()]
    size = sum(p.numel() * p.element_size() for p in parameters)
    buffers = sum(b.numel() * b.element_size() for m in (network, codec) for b in m.buffers())
    optimizer = optimizer_bytes(trainer, named_parameters(network, codec))
    network = network.to(dtype)
    casts = 0 if dtype == torch.float32 else sum(p.numel() * p.element_size() for p in network.parameters())
    batch = random_batch(trainer, batch_size, device="meta", dtype=dtype)

    def step() -> Tensor:
        return torch.stack([loss.float() for loss in trainer.training_step(network, codec, batch).values()]).sum()

    saved = count_saved(network, step)
    return MemoryEstimate(
        saved=saved.total,
        parameters=size + buffers,
        gradients=size,
        optimizer=optimizer,
        average=size + buffers,
        casts=casts,
        workspace=2 * saved.largest,
        library=LIBRARY_BYTES[device],
    )


def _on_cuda(trainer: Trainer, batch_size: int) -> MemoryEstimate:
    """Of a step that is taken on the meta device with autocast's types, see `networks.autocast`."""
    dtype = PRECISION["cuda"]
    with outline():
        network = trainer.build_network()
        trainer.initialise(network)
    codec = trainer.build_codec().to("meta")
    parameters = [*network.parameters(), *codec.parameters()]
    size = sum(p.numel() * p.element_size() for p in parameters)
    buffers = sum(b.numel() * b.element_size() for m in (network, codec) for b in m.buffers())
    forward = MixedPrecision(network, torch.device("meta"), dtype)
    copies = sum(p.numel() for p in network.parameters()) * dtype.itemsize
    with LiveBytes() as live:
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                lambda p: live.keep(p.numel() * p.element_size())
            )
        total: list[Tensor] = []

        def step() -> Tensor:
            batch = random_batch(trainer, batch_size, device="meta")
            losses = trainer.training_step(forward, codec, batch).values()
            total.append(torch.stack([loss.float() for loss in losses]).sum())
            return total[0]

        saved = count_saved(network, step)
        torch.autograd.backward(total)
    casts = min(copies, saved.total)
    in_step = 2 * size  # gradients, and of all at once the root of the second moments
    return MemoryEstimate(
        saved=saved.total - casts,
        parameters=size + buffers,
        gradients=max(live.kept, in_step - (live.most - live.kept)),
        optimizer=optimizer_bytes(trainer, named_parameters(network, codec)),
        average=size + buffers,
        casts=casts,
        workspace=max(0, live.most - live.kept - saved.total),
        library=LIBRARY_BYTES["cuda"],
    )


def shortage(trainer: Trainer, said: str, available: int, of: int) -> AutolmkError:
    """The error of a GPU whose memory does not suffice to train: what the configuration needs, and what would fit.

    said: by torch. available, of: bytes of the GPU that this process may have, and all of them.
    """
    c = trainer.configuration
    needed, one = _on_cuda(trainer, c.batch_size).total, _on_cuda(trainer, 1)
    fitting = min(c.batch_size - 1, 1 + (available - one.total) // one.per_batch) if one.total <= available else 0
    patch = "x".join(str(n) for n in c.patch_size)
    smaller = f"plan again with -gpu_memory_target {max(0.1, available / GIB):.1f} or a smaller --preset"
    fits = f"train with --set batch_size={fitting}, which takes about {_gib(one, fitting)}, or " if fitting > 0 else ""
    return AutolmkError(
        f"the GPU's memory does not suffice for the trainer {c.trainer} with batches of {c.batch_size} and windows of "
        f"{patch}",
        found=f"{available / GIB:.1f} of {of / GIB:.1f} GiB are free for it ({said})",
        expected=f"about {needed / GIB:.1f} GiB; planned were {trainer.plans.memory_target_gb:g}",
        remedy=f"end other programs on the GPU, or {fits}{smaller}",
    )


def _gib(one: MemoryEstimate, batch_size: int) -> str:
    return f"{(one.total + (batch_size - 1) * one.per_batch) / GIB:.1f} GiB"


def random_batch(
    trainer: Trainer, batch_size: int, *, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """A batch of noise in the form that `loading` gives the trainer, every landmark present; without cases."""
    windows, patch = trainer.configuration.windows, trainer.configuration.patch_size
    per_landmark = windows.kind == "landmark"
    rows = (batch_size, (windows.per_sample if per_landmark else None) or trainer.n_landmarks)
    seen = rows if per_landmark else (batch_size,)
    size = torch.tensor(patch, dtype=torch.float64, device=device)
    batch = {
        "data": torch.randn(*seen, trainer.n_channels, *patch, dtype=dtype, device=device),
        "voxels": torch.rand(*rows, len(patch), dtype=torch.float64, device=device) * (size - 1),
        "status": torch.full(rows, int(Status.PRESENT), dtype=torch.int8, device=device),
    }
    maps = len(trainer.configuration.label_maps)
    if maps:
        batch["labels"] = torch.randint(0, 2, (batch_size, maps, *patch), dtype=torch.uint8, device=device)
    if per_landmark:
        batch["landmarks"] = torch.arange(rows[1], device=device).remainder(trainer.n_landmarks).expand(rows)
    return batch


def optimizer_bytes(trainer: Trainer, parameters: Sequence[tuple[str, nn.Parameter]]) -> int:
    """Bytes of the state that the trainer's optimizer keeps of `parameters`: it takes one step on the meta device, with
    one parameter of each shape, as the state of a parameter depends on nothing else."""
    shapes = Counter((p.shape, p.dtype) for _, p in parameters)
    names = {(p.shape, p.dtype): name for name, p in reversed(parameters)}
    samples = {key: nn.Parameter(torch.empty(key[0], dtype=key[1], device="meta")) for key in shapes}
    optimizer = trainer.build_optimizer([(names[key], sample) for key, sample in samples.items()])
    for sample in samples.values():
        sample.grad = torch.empty_like(sample)
    optimizer.step()
    return sum(shapes[key] * _state_bytes(optimizer, sample) for key, sample in samples.items())


def _state_bytes(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> int:
    state = optimizer.state.get(parameter, {})
    return sum(v.numel() * v.element_size() for v in state.values() if isinstance(v, Tensor))
