"""What tests let several processes do that train together, on the CPU; run as a script it is one of them."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_work import KINDS, a_run, a_trainer
from torch import Tensor
from training_tests import load

import autolmk
from autolmk import ranks
from autolmk.errors import AutolmkError
from autolmk.files.serialization import write_json
from autolmk.fold import checkpoint
from autolmk.landmarks import Status
from autolmk.methods.trainer import Trainer
from autolmk.networks import precision
from autolmk.planning.memory import random_batch
from autolmk.training.loop import Loop
from autolmk.training.sharing import rows_of_rank
from autolmk.training.state import Run

SIZE, BATCH, STEPS = 2, 4, 20
MAIN = [kind for kind in KINDS if " " not in kind]


def together(folder: Path, *work: str) -> list[subprocess.CompletedProcess[str]]:
    """Let `SIZE` processes do the named work in a folder, one after the other; how each ended."""
    arguments = [sys.executable, __file__, str(folder), *work]
    places = (Path(autolmk.__file__).parents[1], Path(__file__).parent)  # also where PYTHONSAFEPATH is set
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    meet = folder / f"meet_{'_'.join(work)}"
    processes = [subprocess.Popen([*arguments[:3], str(meet), str(k), *work], **pipes) for k in range(SIZE)]
    ended = [(process, *process.communicate(timeout=1200)) for process in processes]
    return [subprocess.CompletedProcess(arguments, p.returncode, out, err) for p, out, err in ended]


# -- steps of every method --------------------------------------------------------------------------------------------


def global_batch(trainer: Trainer, seed: int) -> dict[str, Any]:
    """Of noise: landmarks of all states, within windows and beyond, unequally many in each row."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    batch = {
        name: tensor.numpy() for name, tensor in random_batch(trainer, BATCH, device="cpu", dtype=torch.float64).items()
    }
    chances = np.linspace(0.2, 1.0, BATCH)[:, None]
    known, there = (rng.random(batch["status"].shape) < chances for _ in range(2))
    status = np.where(there, Status.PRESENT, Status.ABSENT)
    batch["status"] = np.where(known, status, Status.UNKNOWN).astype(np.int8)
    batch["voxels"] = batch["voxels"] * rng.choice([1.0, 1.5], size=batch["status"].shape)[..., None]
    return {**batch, "cases": [f"case{k}" for k in range(BATCH)]}


def trained(kind: str, folder: Path) -> dict[str, Tensor]:
    """Weights, and their average, after `STEPS` steps on this rank's rows of batches of noise."""
    trainer = a_trainer(kind, 2)
    trainer = trainer.anew(dataclasses.replace(trainer.configuration, batch_size=BATCH))
    run, losses = a_run(trainer, folder, "cpu"), []
    rows = slice(*(rows_of_rank(trainer.configuration) or (0, BATCH)))
    for step in range(STEPS):
        batch = global_batch(trainer, step)
        run.step({name: value if name == "cases" else value[rows] for name, value in batch.items()})
        losses.append(run.last_loss)
    averaged = run.averaged.network.named_parameters(prefix="averaged")
    tensors = {name: p.detach() for name, p in (*run.network.named_parameters(), *averaged)}
    return {**tensors, "losses": torch.tensor(losses)}


@contextmanager
def in_float64() -> Iterator[None]:
    """Within the block networks compute in float64: Adam makes of the rounding of float32, which depends on the number
    of rows, whole steps wherever a gradient is zero but for it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def steps(folder: Path) -> None:
    """Of every method; each rank writes what it has then."""
    for kind in MAIN:
        (folder / kind).mkdir(exist_ok=True)
        with in_float64():
            found = trained(kind, folder / kind)
        checkpoint.save(folder / f"{kind}_{ranks.rank()}.safetensors", found, {})


# -- whole trainings --------------------------------------------------------------------------------------------------


def _train(folder: Path, **arguments: Any) -> None:
    module = load("test_training")
    finished = module.train(module.Store(folder / "store"), folder / "fold_0", epochs=4, seed=3, **arguments)
    write_json(folder / f"finished_{ranks.rank()}.json", finished)


def fit(folder: Path) -> None:
    """A fold, from where it stands."""
    _train(folder)


def fit_killed(folder: Path) -> None:
    """A fold, until the second rank is killed in its ninth step."""
    step = Run.step

    def killed(run: Run, batch: Any) -> None:
        if run.iteration == 8 and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        step(run, batch)

    Run.step = killed  # type: ignore[method-assign]
    Loop._save_due = lambda loop, at_least: loop.run.iteration == 7  # type: ignore[method-assign]
    _train(folder)


def fit_stopped(folder: Path) -> None:
    """A fold, until one process alone is asked to stop, in its eighth step."""
    step = Run.step

    def asked(run: Run, batch: Any) -> None:
        if run.iteration == 7 and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        step(run, batch)

    Run.step = asked  # type: ignore[method-assign]
    try:
        _train(folder)
    finally:
        Run.step = step  # type: ignore[method-assign]


def main() -> None:
    """FOLDER MEET RANK WORK..."""
    folder, meet, number, *work = sys.argv[1:]
    torch.set_num_threads(1)
    precision.computes_in_bfloat16 = lambda: False
    with ranks.joined(Path(meet).as_uri(), int(number), SIZE, torch.device("cpu")):
        for name in work:
            globals()[name](Path(folder))


if __name__ == "__main__":
    try:
        main()
    except AutolmkError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
