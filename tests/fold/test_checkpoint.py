"""Checkpoints: exact, atomic, never pickle; damage is named."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autolmk.errors import AutolmkError
from autolmk.fold import checkpoint

CPU = torch.device("cpu")


class Shared(nn.Module):
    """Names one tensor twice, as a decoder that holds its encoder does; has buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.again = self.first
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.tied = nn.Parameter(self.first.weight.data)  # another parameter on the same storage


def saved(folder: Path, module: nn.Module) -> Path:
    file = checkpoint.checkpoint_file(folder, "final")
    checkpoint.save(file, checkpoint.module_tensors(module, "network"), {"iteration": 3, "nan": math.nan})
    return file


def test_tensors_and_record_come_back(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4).t(),  # not contiguous
        "b": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "c": torch.arange(5),
        "d": torch.tensor(True),
        "e": torch.randn(0, 3),
        "f": torch.randn(4).to(torch.bfloat16),
    }
    file = tmp_path / "x.safetensors"
    checkpoint.save(file, tensors, {"names": ("ä", "b"), "rate": 0.1})
    loaded = checkpoint.load(file)
    assert loaded.record == {"names": ["ä", "b"], "rate": 0.1} == checkpoint.read_record(file)
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype and torch.equal(loaded.tensors[name], tensor), name


def test_shared_tensors_are_saved_once_and_restored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Shared()
    module.norm(torch.randn(2, 4, 5, 5))
    names = checkpoint.module_tensors(module, "network")
    assert len(names) == 7  # one of first.weight, again.weight and tied; a bias; norm's two weights and three buffers
    assert len(set(names) & {"network.first.weight", "network.again.weight", "network.tied"}) == 1
    assert not any("scratch" in name for name in names)
    file = saved(tmp_path, module)
    other = Shared()
    checkpoint.restore_module(other, checkpoint.load(file), "network")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, nn.Linear(3, 4))
    for other, word in ((nn.Linear(3, 5), "of another shape"), (nn.Linear(3, 4, bias=False), "not expected")):
        with pytest.raises(AutolmkError, match=rf"(?s)does not fit.*checkpoint_final.*{word}"):
            checkpoint.restore_module(other, checkpoint.load(file), "network")
    with pytest.raises(AutolmkError, match="missing: network"):
        checkpoint.restore_module(nn.Sequential(nn.Linear(3, 4)), checkpoint.load(file), "network")


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "text", "header"])
def test_damage_is_named_with_a_remedy(damage: str, tmp_path: Path) -> None:
    file = saved(tmp_path, nn.Linear(30, 40))
    content = bytearray(file.read_bytes())
    if damage == "one bit":
        content[-1000] ^= 4
    elif damage == "header":
        content[20] ^= 0x80
    else:
        content = {"truncated": content[:-7], "empty": bytearray(), "text": bytearray(b"hello")}[damage]
    file.write_bytes(content)
    with pytest.raises(AutolmkError, match=r"(?s)damaged.*checkpoint_final.safetensors.*what to do"):
        checkpoint.load(file)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    import safetensors.torch

    with pytest.raises(AutolmkError, match="missing"):
        checkpoint.load(tmp_path / "none.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, foreign)
    with pytest.raises(AutolmkError, match="no checkpoint of autolmk"):
        checkpoint.load(foreign)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RAdam])
def test_an_optimizer_goes_on_exactly(kind: type[torch.optim.Optimizer], tmp_path: Path) -> None:
    def steps(module: nn.Linear, optimizer: torch.optim.Optimizer, n: int, seed: int) -> None:
        torch.manual_seed(seed)
        for _ in range(n):
            optimizer.zero_grad()
            module(torch.randn(5, 3)).square().sum().backward()
            optimizer.step()

    arguments = {"lr": 0.01, "momentum": 0.9} if kind is torch.optim.SGD else {"lr": 0.01}
    module = nn.Linear(3, 2)
    optimizer = kind(module.parameters(), **arguments)  # type: ignore[arg-type]
    steps(module, optimizer, 3, 0)
    tensors = checkpoint.module_tensors(module, "network")
    record = {"optimizer": checkpoint.pack(optimizer.state_dict(), "optimizer", tensors)}
    file = tmp_path / "x.safetensors"
    checkpoint.save(file, tensors, record)
    other = nn.Linear(3, 2)
    loaded = checkpoint.load(file)
    checkpoint.restore_module(other, loaded, "network")
    again = kind(other.parameters(), **arguments)  # type: ignore[arg-type]
    again.load_state_dict(checkpoint.unpack(loaded.record["optimizer"], loaded.tensors))
    steps(module, optimizer, 3, 1)
    steps(other, again, 3, 1)
    assert torch.equal(module.weight, other.weight) and torch.equal(module.bias, other.bias)


def test_packing_keeps_structure_and_refuses_objects() -> None:
    tensors: dict[str, torch.Tensor] = {}
    value = {"a": (1, 2.5, None), "b": {0: [True, "x"], 1: torch.ones(2)}, "c": math.inf}
    packed = checkpoint.pack(value, "state", tensors)
    assert set(tensors) == {"state.b.1", "state.c"}
    back = checkpoint.unpack(packed, tensors)
    assert back["a"] == (1, 2.5, None) and back["b"][0] == [True, "x"] and back["c"] == math.inf
    assert torch.equal(back["b"][1], torch.ones(2))
    with pytest.raises(TypeError, match=r"state\.f"):
        checkpoint.pack({"f": object()}, "state", tensors)


def test_random_state_comes_back(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random.gauss(0, 1), np.random.normal()  # both now hold a second value
    tensors: dict[str, torch.Tensor] = {}
    packed = checkpoint.pack(checkpoint.random_state(CPU), "random", tensors)
    file = tmp_path / "x.safetensors"
    checkpoint.save(file, tensors, {"random": packed})
    expected = random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.rand(3)
    loaded = checkpoint.load(file)
    checkpoint.restore_random_state(checkpoint.unpack(loaded.record["random"], loaded.tensors), CPU)
    found = random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.rand(3)
    assert expected[:4] == found[:4] and torch.equal(expected[4], found[4])


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """A process that writes checkpoint after checkpoint is killed amid it, several times."""
    file = tmp_path / "x.safetensors"
    code = (
        "import sys, torch; from pathlib import Path; from autolmk import checkpoint\n"
        "for i in range(10**6):\n"
        f"    checkpoint.save(Path({str(file)!r}), {{'a': torch.full((300_000,), float(i))}}, {{'i': i}})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        end = time.monotonic() + 300
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.01)
        for _ in range(20):
            loaded = checkpoint.load(file)  # while the other process replaces it
            assert (loaded.tensors["a"] == loaded.record["i"]).all()
    finally:
        process.kill()
        process.wait()
    loaded = checkpoint.load(file)
    assert (loaded.tensors["a"] == loaded.record["i"]).all()


def test_a_disk_that_refuses_is_a_clear_error_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path, nn.Linear(3, 4))
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AutolmkError, match=r"(?s)cannot be written.*No space left"):
        saved(tmp_path, nn.Linear(3, 4))
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
