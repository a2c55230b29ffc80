"""Two processes that train together, through Gloo on the CPU, are as one with the same batches."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from gpu_work import a_run, a_trainer
from rank_work import BATCH, MAIN, SIZE, in_float64, together, trained
from training_tests import load

from autolmk import ranks
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.log import read_log
from autolmk.networks import precision
from autolmk.training.schedule import Clock
from autolmk.training.sharing import Settlement, require_shares, rows_of_rank, seed_apart
from autolmk.training.signals import Signals

CLOSE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def _float32() -> Iterator[None]:
    """As the processes compute: bfloat16 rounds otherwise for other numbers of rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "computes_in_bfloat16", lambda: False)
        yield


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return load("test_training")


@pytest.fixture(scope="module")
def shared(module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes did: steps of every method, and a whole fold."""
    folder = tmp_path_factory.mktemp("shared")
    module.write_store(folder / "store", module.tiny_plans())
    assert [(p.returncode, p.stderr) for p in together(folder, "steps", "fit")] == [(0, "")] * SIZE
    return folder


@pytest.fixture(scope="module")
def unbroken(module: ModuleType, shared: Path) -> Path:
    """The same fold by one process."""
    assert module.train(module.Store(shared / "store"), shared / "alone", epochs=4, seed=3)
    return shared / "alone"


def apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, float]:
    assert ours.keys() == theirs.keys()
    found = {name: float((tensor - theirs[name]).abs().max()) for name, tensor in ours.items()}
    return {name: value for name, value in found.items() if not value <= CLOSE}


@pytest.mark.parametrize("kind", MAIN)
def test_twenty_steps_of_every_method(kind: str, shared: Path, tmp_path: Path) -> None:
    """Rows know unequally many landmarks, so that means over each process's part alone would not be the batch's."""
    one, other = (checkpoint.load(shared / f"{kind}_{k}.safetensors").tensors for k in range(SIZE))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    with in_float64():
        alone = trained(kind, tmp_path)
    assert apart(one, alone) == {}


def assert_same_fold(ours: Path, theirs: Path) -> None:
    for name in ("final", "best"):
        tensors = [checkpoint.load(checkpoint_file(folder, name)).tensors for folder in (ours, theirs)]
        assert apart(*tensors) == {}
    logs = [[e for e in read_log(folder) if e["kind"] != "end"] for folder in (ours, theirs)]
    assert [(e["kind"], e["iteration"]) for e in logs[0]] == [(e["kind"], e["iteration"]) for e in logs[1]]
    timing = next(e for e in logs[0] if e["kind"] == "validation")
    assert timing["cases"] == SIZE  # one a process, to tell what a case costs
    for one, other in zip(*logs, strict=True):
        if one is timing:
            continue
        for key in ("loss", "mre", "median", "cases", "learning_rate"):
            assert (one.get(key) is None) == (other.get(key) is None)
            assert one.get(key) is None or abs(one[key] - other[key]) <= CLOSE * max(1.0, abs(one[key])), key
    names = ("summary.json", "landmarks.csv")
    summaries = [read_json(folder / "validation" / names[0])["overall"] for folder in (ours, theirs)]
    scalars = [{k: v for k, v in one.items() if isinstance(v, (int, float))} for one in summaries]
    assert "n" in scalars[0] and scalars[0] == pytest.approx(scalars[1], abs=CLOSE)
    lines = [(folder / "validation" / names[1]).read_text().count("\n") for folder in (ours, theirs)]
    assert lines[0] == lines[1] > 1


def test_a_fold_is_that_of_one_process(shared: Path, unbroken: Path) -> None:
    """Weights, losses, errors of the held-out cases, which each process looks at half of; written once."""
    assert read_json(shared / "finished_0.json") is read_json(shared / "finished_1.json") is True
    assert_same_fold(shared / "fold_0", unbroken)
    config = read_json(shared / "fold_0" / "config.json")
    assert config["ranks"] == SIZE and "ranks" not in read_json(unbroken / "config.json")


@pytest.mark.parametrize("number", [1, SIZE])
def test_a_killed_process_ends_all_and_the_fold_goes_on(
    number: int, module: ModuleType, shared: Path, unbroken: Path, tmp_path: Path
) -> None:
    """By one process, or by as many."""
    (tmp_path / "store").symlink_to(shared / "store")
    first, killed = together(tmp_path, "fit_killed")
    assert killed.returncode == -signal.SIGKILL
    assert first.returncode == 2 and "another process of this training ended" in first.stderr
    saved = checkpoint.read_record(checkpoint_file(tmp_path / "fold_0", "latest"))
    assert saved["iteration"] == 7 and len(saved["random_of_others"]) == SIZE - 1
    if number == 1:
        assert module.train(module.Store(shared / "store"), tmp_path / "fold_0", epochs=4)
    else:
        assert [(p.returncode, p.stderr) for p in together(tmp_path, "fit")] == [(0, "")] * SIZE
    assert_same_fold(tmp_path / "fold_0", unbroken)


def test_a_signal_to_one_process_stops_all(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "store").symlink_to(shared / "store")
    ended = together(tmp_path, "fit_stopped")
    assert [p.returncode for p in ended] == [128 + signal.SIGTERM] * SIZE
    record = checkpoint.read_record(checkpoint_file(tmp_path / "fold_0", "latest"))
    assert record["iteration"] == 8


def test_batches_that_cannot_be_shared_are_refused() -> None:
    configuration = dataclasses.replace(a_trainer("heatmap", 2).configuration, batch_size=6)
    other = dataclasses.replace(configuration, batch_size=4)
    for n in (1, 2, 3, 6):
        require_shares([configuration], n)
    with pytest.raises(AutolmkError, match="cannot be shared by 3 GPUs") as error:
        require_shares([configuration, other], 3)
    assert "batches of 6 (heatmap), 4 (heatmap)" in str(error.value)
    assert "divides them: 1, 2\n" in str(error.value) and "-num_gpus 2" in str(error.value)
    assert rows_of_rank(configuration) is None


def test_rows_of_ranks_make_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = dataclasses.replace(a_trainer("heatmap", 2).configuration, batch_size=BATCH)
    monkeypatch.setattr(ranks, "size", lambda: 2)
    found = []
    for k in range(2):
        monkeypatch.setattr(ranks, "rank", lambda k=k: k)
        found.append(rows_of_rank(configuration))
    assert found == [(0, 2), (2, 4)]


def test_agreement_follows_the_first_clock_and_any_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the second of two; the first one is at 12 s, where a checkpoint is due."""
    settlement, clock = Settlement(Signals(tmp_path)), Clock(5.0)
    told: list[list[float]] = []

    def largest(values: list[float]) -> list[float]:
        told.append(values)
        return [max(a, b) for a, b in zip(values, [12.0, 0, 0, 0, 1], strict=True)]

    monkeypatch.setattr(ranks, "size", lambda: 2)
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    monkeypatch.setattr(ranks, "largest", largest)
    settlement.settle(clock, save=True)
    assert told == [[0.0, 0.0, 0.0, 0.0, 0.0]]  # what it would save by its own clock counts for nothing
    assert clock.elapsed() == 12.0 and not settlement.stop() and settlement.save() and not settlement.save()
    (tmp_path / "finish").touch()
    assert not settlement.finish()
    settlement.settle(clock)
    assert settlement.finish() and settlement.save()
    clock.hold(None)
    assert clock.elapsed() < 12.0


def test_all_begin_with_the_weights_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's network may draw numbers that no seed fixes: those of the first process count, here all 7."""

    def take_first(tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            tensor.detach().fill_(7)

    monkeypatch.setattr(ranks, "take_first", take_first)
    run = a_run(a_trainer("heatmap", 2), tmp_path / "run", "cpu")
    for network in (run.network, run.averaged.network):
        assert all(bool((tensor == 7).all()) for tensor in network.parameters())


def test_random_numbers_of_steps_differ_between_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    for k in (0, 1, 2, 1):
        monkeypatch.setattr(ranks, "rank", lambda k=k: k)
        torch.manual_seed(0)
        seed_apart(0, 5)
        drawn.append(float(torch.rand(())))
    torch.manual_seed(0)
    assert drawn[0] == float(torch.rand(())) and drawn[1] == drawn[3] and len(set(drawn)) == 3


def test_sums_of_one_rank_are_what_they_were() -> None:
    which, nothing = torch.tensor([[True, False], [True, True]]), torch.zeros(3, dtype=torch.bool)
    assert (int(ranks.normaliser(which)), int(ranks.normaliser(nothing))) == (3, 1)
    value: Any = torch.ones(2)
    assert ranks.total(value) is value and ranks.gathered(7) == [7] and ranks.of_first(7) == 7
