"""Mixed precision, devices, averaged weights."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from autolmk.codecs import HeatmapCodec
from autolmk.errors import AutolmkError
from autolmk.networks import grouped
from autolmk.networks.precision import (
    MixedPrecision,
    Precision,
    choose_device,
    compiled,
    computes_in_bfloat16,
    has_kernels,
)
from autolmk.training.averaging import Averaged

CPU = torch.device("cpu")


class Two(nn.Module):
    """Gives a dictionary, as a method may."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.computed_in: torch.dtype | None = None

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        y = self.layer(x)
        self.computed_in = y.dtype
        return {"a": y, "b": [y + 1, torch.arange(2)]}


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "tpu", "mps", "meta"):
        with pytest.raises(AutolmkError, match=f"device '{name}'"):
            choose_device(name)


@pytest.mark.parametrize(("name", "maker"), [("mps", "Apple"), ("xpu", "Intel")])
def test_gpus_of_other_makers_are_refused_by_name(name: str, maker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where torch finds one; and then auto is the processor."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(AutolmkError, match=rf"(?s)device '{name}' is not supported.*{maker}'s.*-device cpu"):
        choose_device(name)


def test_outputs_come_back_in_float32() -> None:
    network = Two()
    output = MixedPrecision(network, CPU, torch.bfloat16)(torch.randn(2, 4))
    assert network.computed_in == torch.bfloat16
    assert output["a"].dtype == output["b"][0].dtype == torch.float32 and output["b"][1].dtype == torch.int64
    output["a"].sum().backward()
    assert network.layer.weight.grad is not None and network.layer.weight.grad.dtype == torch.float32
    MixedPrecision(network, CPU, None)(torch.randn(2, 4))
    assert network.computed_in == torch.float32


def test_a_cpu_trains_in_bfloat16_where_it_has_it_and_predicts_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, found in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags, raising=False)
        assert computes_in_bfloat16() == found
        assert Precision(CPU, training=True).describe() == ("bfloat16" if found else "float32")
        assert Precision(CPU).describe() == "float32"


def test_the_chosen_card_is_asked_for_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cards differ, the current one says nothing of the chosen one."""
    current = [torch.device("cuda:0")]

    @contextlib.contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        current.append(chosen)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1].index == 1)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    assert Precision(torch.device("cuda:1")).dtype == torch.bfloat16


def test_an_update_clips_the_gradient() -> None:
    layer = nn.Linear(1, 1, bias=False)
    before = layer.weight.item()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    precision = Precision(CPU)
    precision.update(1000 * layer(torch.ones(1, 1)).sum(), optimizer, list(layer.parameters()))
    assert layer.weight.item() == pytest.approx(before - 0.1 * 12, rel=1e-4)
    assert precision.describe() == "float32"


def test_nothing_is_compiled_on_the_cpu() -> None:
    layer = nn.Linear(1, 1)

    def trial(network: object) -> None:
        raise AssertionError("must not be tried")

    assert compiled(layer, trial, CPU) is layer


def test_the_average_follows_the_weights() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    codec = HeatmapCodec(2, (8, 8), (1, 1), (1.0, 1.0))
    averaged = Averaged(network, codec, decay=0.9)
    expected = network[0].weight.detach().clone()
    for step in range(200):
        with torch.no_grad():
            network[0].weight += 0.01
            codec.elsewhere += 0.02
        network(torch.randn(2, 1, 4, 4))
        averaged.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network[0].weight.detach()
    assert torch.allclose(averaged.network.get_submodule("0").weight, expected, atol=1e-5)  # type: ignore[arg-type]
    lag = (codec.elsewhere - averaged.codec.get_parameter("elsewhere")).detach()
    assert torch.allclose(lag, torch.full_like(lag, 0.02 * 9), atol=1e-3)  # 9 steps late
    assert averaged.network.get_buffer("1.num_batches_tracked") == 200
    assert not any(p.requires_grad for p in averaged.network.parameters())
    averaged.copy()
    assert torch.equal(averaged.network.get_submodule("0").weight, network[0].weight)  # type: ignore[arg-type]


@pytest.mark.skipif(not computes_in_bfloat16(), reason="a CPU that does not compute in bfloat16")
@pytest.mark.parametrize(("kernel", "depth"), [(3, 2), (5, 3), (3, 3)])
def test_shallow_convolutions_get_the_gradients_of_float32(kernel: int, depth: int) -> None:
    """In bfloat16 torch reads memory that nothing wrote; here it holds NaN."""
    torch.manual_seed(0)
    plain = torch.nn.Conv3d(16, 16, kernel, padding=kernel // 2)
    network = Precision(torch.device("cpu"), training=True).place(copy.deepcopy(plain))
    forward = MixedPrecision(network, torch.device("cpu"), torch.bfloat16)
    x = torch.randn(2, 16, depth, 6, 6)
    plain(x).square().sum().backward()
    for _ in range(5):
        network.zero_grad()
        output = forward(x)
        freed = [
            torch.full((2**k,), float("nan"), dtype=d) for k in range(6, 20) for d in (torch.float, torch.bfloat16)
        ]
        del freed
        output.square().sum().backward()
        torch.testing.assert_close(
            network.weight.grad, plain.weight.grad, rtol=0.1, atol=0.05 * plain.weight.grad.std()
        )
    assert forward(x).dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("capability", "built", "found"),
    [
        ((8, 6), ["sm_80", "sm_90"], True),  # code runs on newer cards of the same major number
        ((9, 0), ["sm_80", "sm_86"], False),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_90", "compute_90"], True),  # the driver compiles what is not there yet
        ((3, 5), ["sm_50", "sm_90a", "compute_90"], False),
        ((12, 1), ["sm_120"], True),
    ],
)
def test_cards_need_kernels(capability: tuple[int, int], built: list[str], found: bool) -> None:
    assert has_kernels(capability, built) == found


def test_a_card_without_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("is_available", True), ("device_count", 1), ("get_arch_list", ["sm_80", "sm_90"])):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (5, 2))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    with pytest.raises(AutolmkError, match=r"an old card of compute capability 5\.2"):
        choose_device("cuda")


def test_a_trial_that_takes_too_much_memory_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    layer = nn.Linear(1, 1)

    def trial(network: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(torch, "compile", lambda module: module)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert compiled(layer, trial, torch.device("cuda")) is layer
    assert "memory does not suffice to try torch.compile" in caplog.text and "does not work" not in caplog.text


def test_moments_get_the_layout_of_their_weights() -> None:
    """Those of a checkpoint are contiguous; a step must not mix layouts."""
    layer = nn.Conv2d(4, 8, 3)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(1, 4, 5, 5)).sum().backward()
    optimizer.step()
    moment = optimizer.state[layer.weight]["exp_avg"]
    optimizer.state[layer.weight]["exp_avg"] = moment.contiguous()
    Precision(CPU).restore(optimizer, {})
    found = optimizer.state[layer.weight]["exp_avg"]
    assert found.stride() == layer.weight.stride() != moment.contiguous().stride() and torch.equal(found, moment)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_networks_side_by_side_are_the_same_one_after_the_other(ndim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = grouped.CONVOLUTIONS[ndim](6, 9, 3, padding=1, stride=2, groups=3)
    data = torch.randn(2, 6, *(8,) * ndim)
    together = layer(data)
    monkeypatch.setattr(grouped, "GROUPED", False)
    torch.testing.assert_close(layer(data), together, rtol=1e-5, atol=1e-6)
