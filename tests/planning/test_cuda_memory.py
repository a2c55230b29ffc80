"""Memory that is planned for CUDA, against torch's own autocast rules on tensors without data, and a real step's."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from gpu_work import KINDS, a_trainer, saved_on_cuda
from pretended_gpu import on_fake_gpu
from torch import nn

from autolmk.methods.trainer import Trainer
from autolmk.networks.autocast import MetaAutocast
from autolmk.planning.live_bytes import LiveBytes
from autolmk.planning.memory import GIB, random_batch, shortage, training_bytes


def for_cuda(kind: str, *, landmarks: int = 45, batch_size: int = 2, ndim: int = 3) -> Trainer:
    """Of a size whose activations matter."""
    trainer = a_trainer(kind, ndim, landmarks)
    c = trainer.configuration
    architecture = dataclasses.replace(c.architecture, features_per_stage=(16, 32, 32))
    side = 64 if trainer.looks_at == "image" else 32
    c = dataclasses.replace(c, architecture=architecture, patch_size=(side,) * ndim, batch_size=batch_size)
    return type(trainer)(dataclasses.replace(trainer.plans, device="cuda"), c)


@pytest.mark.parametrize("kind", KINDS)
def test_planned_bytes_are_those_that_autocast_on_cuda_keeps(kind: str) -> None:
    trainer = for_cuda(kind)
    planned, counted = training_bytes(trainer, 2), on_fake_gpu(saved_on_cuda, trainer, 2)
    total = planned.total - planned.saved - planned.casts + counted
    assert planned.saved + planned.casts == pytest.approx(counted, rel=0.01)
    assert planned.total == pytest.approx(total, rel=0.05)


def test_the_worst_moment_is_that_of_real_tensors() -> None:
    """On the CPU in float32, to the byte."""
    trainer = a_trainer("heatmap", 2)

    def most(device: str) -> int:
        with torch.device(device):
            network = trainer.build_network()
        with LiveBytes(device) as live:
            torch.autograd.backward(network(random_batch(trainer, 2, device=device)["data"]).square().sum())
        return live.most

    assert most("meta") == most("cpu") > 10_000


def test_live_bytes_fall_when_tensors_are_freed() -> None:
    with LiveBytes("cpu") as live:
        a = torch.zeros(1000)
        b = a.view(10, 100)  # no bytes of its own
        c = a + 1
        assert (live.now, live.most) == (8000, 8000)
        del c
        assert (live.now, live.most) == (4000, 8000)
        live.mark()
        del a
        assert live.now == live.most == 4000
        del b
    assert live.now == 0


def test_group_norm_costs_more_than_instance_norm_under_autocast() -> None:
    """CUDA computes it in float32: input and output of 4 bytes are kept beside the convolutions' inputs of 2."""
    with torch.device("meta"):
        data = torch.zeros(1, 8, 8, 8)
        weight = nn.Parameter(torch.zeros(8))
        with MetaAutocast(torch.bfloat16):
            convolved = torch.conv2d(data, nn.Parameter(torch.zeros(8, 8, 1, 1)))
            assert convolved.dtype == torch.bfloat16
            assert nn.functional.instance_norm(convolved, weight=weight).dtype == torch.bfloat16
            assert nn.functional.group_norm(convolved, 2, weight).dtype == torch.float32
            assert torch.cat([convolved, data]).dtype == torch.float32
            assert convolved.softmax(1).dtype == convolved.sum().dtype == torch.float32


def test_memory_for_cuda_grows_in_proportion_to_the_batch() -> None:
    trainer = for_cuda("heatmap")
    one, four = training_bytes(trainer, 1), training_bytes(trainer, 4)
    assert one.total + 3 * one.per_batch == pytest.approx(four.total, rel=1e-2)


def test_a_shortage_says_what_is_needed_and_what_fits() -> None:
    trainer = for_cuda("heatmap", batch_size=8)
    needed, three = training_bytes(trainer, 8).total, training_bytes(trainer, 3).total
    error = shortage(trainer, "CUDA out of memory", int(1.01 * three), 2 * needed)
    assert "heatmap" in error.problem and "8" in error.problem and "64x64x64" in error.problem
    assert f"{needed / GIB:.1f} GiB" in str(error.expected) and "CUDA out of memory" in str(error.found)
    assert "--set batch_size=3" in str(error.remedy)
    none = shortage(trainer, "CUDA out of memory", training_bytes(trainer, 1).total - 1, needed)
    assert "batch_size" not in str(none.remedy) and "-gpu_memory_target" in str(none.remedy)
