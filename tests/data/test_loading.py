"""Batches are a function of (seed, i); workers report what fails and never outlive the run. The kills are real."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autolmk.data import loading
from autolmk.data.augmentation import IntensityAugmentation
from autolmk.data.loading import Batch, BatchSource, TrainingLoader
from autolmk.data.sampling import draw_window
from autolmk.data.store import Store, StoredCase, preprocessing_digest
from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.plans import (
    Architecture,
    Augmentation,
    Configuration,
    LabelMap,
    Normalization,
    Plans,
    Schedule,
    Windows,
    replace_configuration,
)

NAMES = ("left", "right", "middle")
CASES = ("one", "two", "three")

PROGRAM = """
import logging, sys, time
from pathlib import Path
from autolmk.data.augmentation import IntensityAugmentation
from autolmk.data.loading import BatchSource, TrainingLoader
from autolmk.plans import Plans
from autolmk.data.store import Store

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    plans = Plans.load(folder / "plans.json")
    store = Store(folder / "store")
    arguments = (store, tuple(store.cases()), plans, plans.configuration("c"), IntensityAugmentation())
    loader = TrainingLoader(BatchSource(*arguments, seed=0), workers=2)
    next(loader)
    print(*(w.pid for w in loader._pool._workers), flush=True)
    if sys.argv[2] == "wait":
        while True:
            next(loader)
            time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plans]:
    folder = tmp_path_factory.mktemp("loading")
    configuration = Configuration(
        trainer="heatmap",
        data_identifier="store",
        spacing=(1.0, 1.0),
        patch_size=(16, 20),
        batch_size=2,
        normalization=(Normalization("none"),),
        windows=Windows("random", 0.7),
        architecture=Architecture((8,), ((3, 3),), ((1, 1),), (1,), (), (1, 1)),
        sigma=(1.0, 1.0),
        augmentation=Augmentation((20.0,), (0.9, 1.1), (1.0, 1.0), mirror_axis=0),
        schedule=Schedule(1, 1, None, 1e-3, 0.0, 0.9, 0.1),
    )
    plans = Plans(
        "Dataset001_Test", "p", "heatmap", "XS", 2, "px", ("image",), NAMES, (("left", "right"),), (), "cpu", 1.0,
        {"c": configuration},
    )  # fmt: skip
    plans.save(folder / "plans.json")
    store = Store(folder / "store")
    rng = np.random.default_rng(0)
    geometry = Geometry.from_parts((30, 34), (1.0, 1.0))
    for case in CASES:
        points = np.array([*rng.uniform(5, 25, (2, 2)), [np.nan, np.nan]])
        status = np.array([Status.PRESENT, Status.PRESENT, Status.ABSENT], dtype=np.int8)
        array = rng.normal(size=(1, 30, 34)).astype(np.float32)
        digest = preprocessing_digest(plans, configuration)
        marks = Landmarks(NAMES, points, status)
        store.write(case, StoredCase(case, array, geometry, (0.0,), marks, case, "", digest))
    return store, plans


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def load(data: tuple[Store, Plans], augmentation: Callable[..., Any] | None = None, **settings: Any) -> TrainingLoader:
    store, plans = data
    drawn = {"seed": 5, **{key: settings.pop(key) for key in ("seed", "drawing", "rows") if key in settings}}
    arguments = (store, tuple(CASES), plans, plans.configuration("c"), augmentation or IntensityAugmentation())
    return TrainingLoader(BatchSource(*arguments, **drawn), **settings)


def batches(data: tuple[Store, Plans], **settings: Any) -> list[Batch]:
    with load(data, **{"iterations": 9, **settings}) as loader:
        return list(loader)


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a["cases"] == b["cases"]
        assert all(np.array_equal(a[k], b[k], equal_nan=True) for k in ("data", "voxels", "status"))


class Boom:
    def __call__(self, rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("boom in the augmentation")


class Deadly:
    """Kills the process that it runs in, unless that is the one that made it."""

    def __init__(self) -> None:
        self.parent = os.getpid()

    def __call__(self, rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return array


def test_shapes(data: tuple[Store, Plans]) -> None:
    for batch in batches(data):
        assert batch["data"].shape == (2, 1, 16, 20)
        assert batch["data"].dtype == np.float32
        assert batch["voxels"].shape == (2, 3, 2)
        assert batch["voxels"].dtype == np.float64
        assert batch["status"].shape == (2, 3)
        assert batch["status"].dtype == np.int8
        assert np.array_equal(np.isfinite(batch["voxels"]).all(2), batch["status"] == Status.PRESENT)


def test_label_maps_of_the_configuration_come_along(data: tuple[Store, Plans]) -> None:
    maps = (LabelMap("all", NAMES, 1.5), LabelMap("left", NAMES[:1], 2.5))
    plans = replace_configuration(data[1], "c", label_maps=maps)
    for batch, plain in zip(batches((data[0], plans)), batches(data), strict=True):
        labels = batch["labels"]
        assert labels.shape == (2, 2, 16, 20) and labels.dtype == np.uint8 and "labels" not in plain
        assert np.array_equal(batch["data"], plain["data"])
        for row, voxels in zip(labels, batch["voxels"], strict=True):
            y, x = np.round(voxels[0]).astype(int)
            assert not (0 <= y < 16 and 0 <= x < 20) or row[1, y, x] == 1
    assert any((batch["labels"] == 1).any() for batch in batches((data[0], plans)))


def test_a_function_of_seed_and_iteration(data: tuple[Store, Plans]) -> None:
    expected = batches(data)
    for workers in (1, 2, 3):
        assert_equal(batches(data, workers=workers), expected)
    assert_equal(batches(data, workers=2, first_iteration=4, iterations=5), expected[4:])
    assert not np.array_equal(batches(data, seed=6)[0]["data"], expected[0]["data"])
    assert len({b["data"].tobytes() for b in expected}) == len(expected)


def test_windows_elsewhere_are_a_function_of_seed_and_iteration_too(data: tuple[Store, Plans]) -> None:
    windows = Windows("whole", 1.0, elsewhere=0.5, exact=0.5, order=2, low_pass="crossed")
    other = data[0], replace_configuration(data[1], "c", windows=windows)
    expected = batches(other, first_iteration=1000, iterations=18)
    assert_equal(batches(other, workers=2, first_iteration=1013, iterations=5), expected[13:])
    assert {int(s) for b in expected for s in b["status"].ravel()} == {Status.PRESENT, Status.ABSENT}
    assert any((b["status"] == Status.ABSENT).all(axis=1).any() for b in expected)  # windows that show no image


def test_windows_elsewhere_come_more_and_more_often(data: tuple[Store, Plans], monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the planned share after 1,000 batches."""
    shares = []
    monkeypatch.setattr(loading, "draw_window", lambda *args, elsewhere: shares.append(elsewhere) or draw_window(*args))
    other = data[0], replace_configuration(data[1], "c", windows=Windows("whole", 1.0, elsewhere=0.2))
    for first in (0, 500, 1000, 10_000):
        batches(other, first_iteration=first, iterations=1)
    size = len(shares) // 4
    assert shares[::size] == pytest.approx([0.0, 0.1, 0.2, 0.2])


def test_spawned_workers_do_the_same(data: tuple[Store, Plans], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autolmk.data.loading.START_METHOD", "spawn")
    assert_equal(batches(data, workers=1, iterations=3), batches(data, iterations=3))


def test_cases_are_seen_equally_often(data: tuple[Store, Plans]) -> None:
    seen = Counter(name for batch in batches(data, iterations=9) for name in batch["cases"])
    assert seen == dict.fromkeys(CASES, 6)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_names_case_and_origin(data: tuple[Store, Plans], workers: int) -> None:
    with pytest.raises(AutolmkError) as caught, load(data, Boom(), workers=workers) as loader:
        next(loader)
    message = str(caught.value)
    assert caught.value.case in CASES
    for part in ("Traceback", "in __call__", "ZeroDivisionError: boom in the augmentation"):
        assert part in message


@pytest.mark.parametrize("workers", [0, 2])
def test_a_case_that_vanishes_is_named(data: tuple[Store, Plans], workers: int) -> None:
    loader = load(data, workers=workers)
    description = data[0].files("two")[1]
    content = description.read_text()
    try:
        description.unlink()
        with pytest.raises(AutolmkError, match="no preprocessed case 'two'"), loader:
            list(zip(range(5), loader, strict=False))
    finally:
        description.write_text(content)


def test_a_killed_worker_changes_nothing(data: tuple[Store, Plans], caplog: pytest.LogCaptureFixture) -> None:
    expected = batches(data, iterations=200)  # more than the pipes hold: a worker that is killed has work left
    received = []
    with load(data, workers=2, iterations=200) as loader:
        for i, batch in enumerate(loader):
            received.append(batch)
            if i in (3, 90):
                assert loader._pool is not None
                os.kill(loader._pool._workers[i % 2].pid or 0, signal.SIGKILL)
    assert_equal(received, expected)
    assert sum("exit code -9" in r.message for r in caplog.records) == 2


def test_workers_that_die_again_and_again_are_an_error(data: tuple[Store, Plans]) -> None:
    with (
        pytest.raises(AutolmkError, match="killed again and again"),
        load(data, Deadly(), workers=1, iterations=50) as loader,
    ):
        list(loader)


def test_data_of_other_plans_are_refused(data: tuple[Store, Plans]) -> None:
    store, plans = data
    other = replace_configuration(plans, "c", spacing=(2.0, 2.0))
    with pytest.raises(AutolmkError, match="made by other plans"):
        TrainingLoader(BatchSource(store, CASES, other, other.configuration("c"), IntensityAugmentation(), seed=0))
    with pytest.raises(AutolmkError, match="no case to train on"):
        TrainingLoader(BatchSource(store, (), plans, plans.configuration("c"), IntensityAugmentation(), seed=0))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("ending", ["kill", "interrupt", "normal"])
def test_no_worker_outlives_its_parent(
    data: tuple[Store, Plans],
    tmp_path: Path,
    ending: str,
    wait_until: Callable[..., None],
    alive: Callable[[Iterable[int]], list[int]],
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    arguments = [sys.executable, str(program), str(data[0].folder.parent), "end" if ending == "normal" else "wait"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        workers = [int(pid) for pid in line.split()]
        if ending == "kill":
            process.kill()
        elif ending == "interrupt":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to parent and workers alike
        errors = process.communicate(timeout=300)[1]
    assert len(workers) == 2, errors
    wait_until(lambda: not alive(workers))
    assert errors.count("Traceback") == (1 if ending == "interrupt" else 0), errors
