"""Commands on a pretended GPU, as functions that a fresh process can import; see `pretended_gpu` and `gpu_work`."""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from gpu_work import METHODS, SIDE, a_chain, a_store
from pretended_gpu import PretendedGpu

from autolmk.cli import later_hours, predict, train
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.networks.precision import Precision
from autolmk.prediction import first_look, second_look
from autolmk.training.state import Run

DATASET = "Dataset000_Example"
TRAIN = ("--no-compile", "--workers", "0", "--threads", "1", "-device", "cuda")


def by_commands(gpu: PretendedGpu, method: str, ndim: int, folder: Path) -> dict[str, Any]:
    """Trains a fold, also stopped after every first step and gone on with; validates; predicts, on the CPU too."""
    _preprocessed(folder, method, ndim)
    last = METHODS[method][-1]
    with _watched(gpu, Run, "step") as steps:
        whole = _trained(folder, "whole", last)
    with _stopped_early():
        said = [_run(train.main, folder, "broken", "0", last, "0", *TRAIN) for _ in range(2 * len(METHODS[method]) + 2)]
    broken = _fold(folder, "broken", last)
    pairs = [(_final(whole, place), _final(broken, place)) for place in _places(whole)]
    before = (whole / "validation" / "summary.json").read_bytes()
    (whole / "validation" / "summary.json").unlink()
    _run(train.main, folder, "whole", "0", last, "0", "--val", *TRAIN)
    return {
        "stops": sum("stopped" in one for one in said),
        "trained": sum("finished" in one for one in said) > 0,
        "differing": [sum(not torch.equal(a[k], b[k]) for k in a) + len(set(a) ^ set(b)) for a, b in pairs],
        "validated alike": (whole / "validation" / "summary.json").read_bytes() == before,
        "steps": steps,
        **_predicted(gpu, folder, whole.parent, ndim),
    }


def _predicted(gpu: PretendedGpu, folder: Path, model: Path, ndim: int) -> dict[str, Any]:
    """How far points and log-odds of the device are from the CPU's, in its own precision and in the CPU's."""
    images = folder / "images"
    for i in range(2):
        _image(images / f"new{i}_0000.nii.gz", ndim, i)
    with _watched(gpu, first_look.Look, "decode") as first, _watched(gpu, second_look._Looks, "_see") as second:
        _predict(folder, model, "cuda")
    _predict(folder, model, "cpu")
    with mock.patch.object(Precision, "__init__", _in_float32):
        _predict(folder, model, "cuda", out="float32")
    rows = {out: _rows(folder / out) for out in ("cuda", "float32", "cpu")}
    apart = {out: np.abs(rows[out] - rows["cpu"]).max(axis=0).tolist() for out in ("cuda", "float32")}
    return {"looks": [first, second], "apart": apart, "finite": bool(np.isfinite(rows["cuda"]).all())}


def _in_float32(precision: Precision, device: torch.device, *, training: bool = False) -> None:
    precision.device, precision.dtype = device, None


def _predict(folder: Path, model: Path, device: str, out: str | None = None) -> None:
    arguments = ["-m", model, "-i", folder / "images", "-o", folder / (out or device), "-device", device]
    _said(predict.main, [*map(str, arguments), "-npp", "0", "-nps", "0", "--save_detections", "--progress", "none"])


def _rows(folder: Path) -> np.ndarray:
    """(N, 4) of landmarks.csv: x, y, z, log-odds."""
    with (folder / "landmarks.csv").open(newline="") as stream:
        return np.array([[float(row[k] or 0) for k in ("x", "y", "z", "log_odds")] for row in csv.DictReader(stream)])


def _image(file: Path, ndim: int, seed: int) -> None:
    """Like those of `a_store`, and a little larger than a window."""
    file.parent.mkdir(exist_ok=True)
    rng, shape = np.random.default_rng(seed), (SIDE + 2,) * ndim
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    array = rng.normal(0, 0.1, shape)
    for i, point in enumerate(rng.uniform(3, SIDE - 4, (5, ndim))):
        array += (1 + i) * np.exp(-((grid - point) ** 2).sum(-1) / 4)
    write_image(file, Image(array[None].astype(np.float32), Geometry.from_parts(shape, (1.0,) * ndim)))


def timed_look(gpu: PretendedGpu, name: str, ndim: int) -> float:
    """Seconds of a look with an untrained network, as `autolmk_run` estimates a prediction."""
    plans = dataclasses.replace(a_chain(name, ndim), device="cuda")
    image = Image(np.zeros((1, *(SIDE,) * ndim), np.float32), Geometry.from_parts((SIDE,) * ndim, (1.0,) * ndim))
    return later_hours._seconds_of_look(image, (0.0,), plans, plans.configuration(METHODS[name][0]))


# -- training ----------------------------------------------------------------------------------------------------------


def _preprocessed(folder: Path, method: str, ndim: int) -> None:
    plans = dataclasses.replace(a_chain(method, ndim), plans_name="autolmkPlans")
    place = folder / "preprocessed" / DATASET
    a_store(place / next(iter(plans.configurations.values())).data_identifier, plans)
    plans.save(place / "autolmkPlans.json")


def _trained(folder: Path, results: str, name: str) -> Path:
    _run(train.main, folder, results, "0", name, "0", *TRAIN)
    return _fold(folder, results, name)


def _fold(folder: Path, results: str, name: str) -> Path:
    return folder / results / DATASET / f"{name}__autolmkPlans__{name}" / "fold_0"


def _places(fold: Path) -> list[str]:
    """Of the final checkpoints below a fold."""
    return sorted(str(file.parent.relative_to(fold)) for file in fold.rglob("checkpoint_final.safetensors"))


def _final(fold: Path, place: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint_file(fold / place, "final")).tensors


@contextlib.contextmanager
def _stopped_early() -> Iterator[None]:
    """A SIGTERM after each training's first step."""
    step = Run.step

    def one(run: Run, batch: Any) -> None:
        step(run, batch)
        if run.iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(Run, "step", one):
        yield


@contextlib.contextmanager
def _watched(gpu: PretendedGpu, owner: type, name: str) -> Iterator[dict[str, Any]]:
    """How often a method was called, and for what it waited."""
    found: dict[str, Any] = {"calls": 0, "waits": collections.Counter()}
    inner = getattr(owner, name)

    def outer(*arguments: Any) -> Any:
        gpu.forget()
        answer = inner(*arguments)
        found["calls"] += 1
        found["waits"].update(gpu.waited())
        return answer

    with mock.patch.object(owner, name, outer):
        yield found


def _run(main: Callable[[list[str]], int], folder: Path, results: str, *arguments: str) -> str:
    places = {"raw": folder / "raw", "preprocessed": folder / "preprocessed", "results": folder / results}
    return _said(main, [*arguments, *(word for name, at in places.items() for word in (f"--{name}", str(at)))])


def _said(main: Callable[[list[str]], int], arguments: list[str]) -> str:
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
    said = out.getvalue() + error.getvalue()
    if code not in (0, 128 + signal.SIGTERM):
        raise AssertionError(f"exit {code}: {' '.join(arguments)}\n{said}")
    return said
