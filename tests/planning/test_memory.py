"""The memory that is planned against the bytes that a real training step keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autolmk.codecs import Codec, HeatmapCodec, Target
from autolmk.methods.losses import spatial_cross_entropy
from autolmk.methods.trainer import Trainer
from autolmk.networks.topology import topology
from autolmk.networks.unet import build_unet
from autolmk.planning.memory import MemoryEstimate, saved_bytes, training_bytes
from autolmk.plans import Architecture, Augmentation, Configuration, Normalization, Plans, Schedule, Windows
from autolmk.training.schedule import Limits
from autolmk.training.state import Run


class UNetTrainer(Trainer):
    """A heatmap method of this test's own."""

    @dataclass(frozen=True)
    class Options(Trainer.Options):
        """momentum: None for AdamW, else SGD's."""

        momentum: float | None = None

    options: Options

    def build_network(self) -> nn.Module:
        return build_unet(self.configuration.architecture, self.n_channels, self.n_landmarks, self.plans.ndim)

    def build_codec(self) -> Codec:
        c = self.configuration
        return HeatmapCodec(self.n_landmarks, c.patch_size, c.architecture.output_stride, [1.5] * len(c.patch_size))

    def loss(self, output: Any, target: Target, status: Tensor) -> Tensor:
        return spatial_cross_entropy(output, target, status)  # type: ignore[arg-type]

    def build_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        if self.options.momentum is None:
            return super().build_optimizer(parameters)
        return torch.optim.SGD(parameters, lr=0.1, momentum=self.options.momentum)


def a_trainer(
    *,
    landmarks: int = 5,
    patch: tuple[int, ...] = (16, 16, 16),
    residual: bool = False,
    device: str = "cpu",
    features: int = 4,
    **options: Any,
) -> UNetTrainer:
    shape = topology(patch, (1.0,) * len(patch), 4)
    n = len(shape.strides)
    architecture = Architecture(
        features_per_stage=tuple(features * 2**i for i in range(n)),
        kernel_sizes=shape.kernel_sizes,
        strides=shape.strides,
        n_conv_per_stage=(2,) * n,
        n_conv_per_stage_decoder=(2,) * (n - 1),
        output_stride=shape.strides[0],
        residual=residual,
    )
    configuration = Configuration(
        trainer="heatmap",
        data_identifier="d",
        spacing=(1.0,) * len(patch),
        patch_size=patch,
        batch_size=1,
        normalization=(Normalization("zscore"),),
        windows=Windows("whole"),
        architecture=architecture,
        sigma=(1.5,) * len(patch),
        augmentation=Augmentation((10.0,), (0.9, 1.1), (1.0,)),
        schedule=Schedule(1, 1, None, 1e-3, 0.0, 0.9, 0.1),
        options=options,
    )
    plans = Plans(
        dataset_name="Dataset001_Test",
        plans_name="p",
        planner="heatmap",
        preset="XS",
        ndim=len(patch),
        unit="mm",
        channel_names=("MR",),
        landmarks=tuple(f"L{i}" for i in range(landmarks)),
        pairs=(),
        sometimes_absent=(),
        device=device,
        memory_target_gb=1.0,
        configurations={"heatmap": configuration},
    )
    return UNetTrainer(plans, configuration)


def really_saved(network: nn.Module, data: Tensor, loss: Callable[[Any], Tensor]) -> int:
    """Bytes of the distinct memory blocks that autograd holds, by their addresses, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    blocks: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter) and tensor.untyped_storage().data_ptr() not in weights:
            blocks[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(network(data))
    value.backward()  # type: ignore[no-untyped-call]
    return sum(blocks.values())


def points(trainer: UNetTrainer, batch: int) -> tuple[Tensor, Tensor]:
    patch = trainer.configuration.patch_size
    voxels = torch.rand(batch, trainer.n_landmarks, len(patch), dtype=torch.float64) * min(patch)
    return voxels, torch.ones(batch, trainer.n_landmarks, dtype=torch.int8)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("patch", [(16, 16, 16), (8, 24, 16), (32, 48)])
def test_planned_bytes_equal_those_saved_on_the_cpu(patch: tuple[int, ...], residual: bool, batch: int) -> None:
    trainer = a_trainer(patch=patch, residual=residual)
    network, codec = trainer.build_network(), trainer.build_codec()
    voxels, status = points(trainer, batch)

    def loss(output: Any) -> Tensor:
        return trainer.loss(output, codec.encode(voxels, status), status)

    real = really_saved(network, torch.randn(batch, 1, *patch), loss)
    assert training_bytes(trainer, batch).saved == real
    assert saved_bytes(network, (batch, 1, *patch), loss, device="cpu") == real


def test_a_tensor_that_is_saved_twice_counts_once() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = (x * self.weight).exp()  # saved by exp, and by both factors of the product
            return y * y

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

    assert saved_bytes(Twice(), (1, 1, 10, 10), torch.sum) == 2 * 400  # the input, for the weight, and y


def test_parts_other_than_activations() -> None:
    trainer = a_trainer()
    found = training_bytes(trainer, 1)
    weights = [*trainer.build_network().parameters(), *trainer.build_codec().parameters()]
    size = 4 * sum(p.numel() for p in weights)
    assert (found.parameters, found.gradients, found.average) == (size, size, size)
    assert found.optimizer == 2 * size + 4 * len(weights)  # two moments, and a step count a tensor
    assert training_bytes(a_trainer(momentum=0.9), 1).optimizer == size
    assert training_bytes(a_trainer(momentum=0.0), 1).optimizer == 0
    assert (found.casts, found.library) == (0, 0)
    assert found.total == sum(dataclasses.astuple(found))


def test_landmarks_cost_their_logits() -> None:
    few, many = training_bytes(a_trainer(landmarks=5), 2), training_bytes(a_trainer(landmarks=64), 2)
    assert many.saved - few.saved == 59 * (2 * 16**3 + 1) * 4  # a gradient buffer of float32, and one of elsewhere
    assert many.workspace > few.workspace


def test_memory_grows_in_proportion_to_the_batch() -> None:
    one, four = training_bytes(a_trainer(), 1), training_bytes(a_trainer(), 4)
    assert one.total + 3 * one.per_batch == pytest.approx(four.total, rel=1e-3)


def test_cuda_is_planned_in_low_precision_with_casts_and_library_buffers() -> None:
    cpu, cuda = training_bytes(a_trainer(), 1), training_bytes(a_trainer(device="cuda"), 1)
    assert 0.5 * cpu.saved < cuda.saved < 0.75 * cpu.saved  # activations halve, logits do not
    assert cuda.casts == pytest.approx(cuda.parameters / 2, rel=0.01)
    assert cuda.library > 0


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a scalar"):
        saved_bytes(nn.Conv2d(1, 1, 3), (1, 1, 8, 8), lambda output: output)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_planned_memory_is_within_a_tenth_of_what_cuda_allocates(tmp_path: Path) -> None:
    """By training's own step: clipped gradients, averaged weights, optimizer."""
    trainer = a_trainer(patch=(128, 128, 128), features=32, landmarks=20, device="cuda")
    planned: MemoryEstimate = training_bytes(trainer, 2)
    run = Run(trainer, tmp_path, torch.device("cuda"), 0, Limits(10, None), 0)
    voxels, status = points(trainer, 2)
    batch = {"data": torch.randn(2, 1, 128, 128, 128), "voxels": voxels, "status": status, "cases": ["a", "b"]}
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        run.step(batch)
    assert planned.total == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)
