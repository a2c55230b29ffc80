"""Convolutions by oneDNN: the same numbers, and torch's own ones are not called."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from kernel_calls import Calls
from torch import nn

from autolmk.networks.precision import MixedPrecision

CPU = torch.device("cpu")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def networks() -> list[tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    plane = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, (3, 1), stride=(2, 1), groups=4))
    volume = nn.Sequential(nn.Conv3d(2, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=(1, 0, 1), bias=False))
    return [(plane, torch.randn(1, 2, 9, 11)), (volume, torch.randn(2, 2, 7, 8, 9).flip(2))]


@pytest.mark.usefixtures("one_thread")
def test_with_one_thread_every_convolution_is_onednns_and_gives_the_same() -> None:
    for network, data in networks():
        with torch.inference_mode():
            expected = network(data)
            with Calls() as calls:
                found = MixedPrecision(network, CPU, None)(data)
        assert calls.names["mkldnn_convolution"] == 2 and calls.names["convolution"] == 0, calls.names
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_training_and_other_types_are_left_to_torch() -> None:
    for network, data in networks():
        with Calls() as calls:
            MixedPrecision(network, CPU, None)(data).sum().backward()
        assert calls.names["mkldnn_convolution"] == 0 and calls.names["convolution"] == 2
        with torch.inference_mode(), Calls() as calls:
            MixedPrecision(network.double(), CPU, None)(data.double())
        assert calls.names["mkldnn_convolution"] == 0


@pytest.mark.usefixtures("one_thread")
def test_single_images_without_a_batch_are_left_to_torch() -> None:
    """A user's network may convolve (C, *S), which `mkldnn_convolution` takes for something else."""
    for network, data in networks():
        with torch.inference_mode(), Calls() as calls:
            found = MixedPrecision(network, CPU, None)(data[0])
        assert calls.names["mkldnn_convolution"] == 0
        with torch.inference_mode():
            assert torch.allclose(found, network(data[:1])[0], atol=1e-5)
