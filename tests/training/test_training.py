"""The training loop on a tiny 2D dataset; run as a script it is the process that other tests kill."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autolmk.data.store import Store, StoredCase, preprocessing_digest
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.log import read_log
from autolmk.fold.measured import Measured
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.plans import Architecture, Augmentation, Configuration, Normalization, Plans, Schedule, Windows
from autolmk.trainers.heatmap import HeatmapTrainer
from autolmk.training import schedule as schedule_module
from autolmk.training.fit import fit, is_finished
from autolmk.training.loop import Loop
from autolmk.training.state import Run

NAMES = ("bright", "dark", "rare")
TRAIN, VAL = [f"case{i}" for i in range(6)], ["case6", "case7"]


def tiny_plans(**schedule: Any) -> Plans:
    architecture = Architecture(
        features_per_stage=(4, 8),
        kernel_sizes=((3, 3), (3, 3)),
        strides=((1, 1), (2, 2)),
        n_conv_per_stage=(1, 1),
        n_conv_per_stage_decoder=(1,),
        output_stride=(1, 1),
    )
    length = Schedule(
        epochs=4,
        iterations_per_epoch=5,
        max_seconds=None,
        learning_rate=0.01,
        weight_decay=0.0,
        ema_decay=0.9,
        validation_share=0.9,
    )
    configuration = Configuration(
        trainer="heatmap",
        data_identifier="tiny",
        spacing=(1.0, 1.0),
        patch_size=(24, 24),
        batch_size=2,
        normalization=(Normalization("none"),),
        windows=Windows("whole"),
        architecture=architecture,
        sigma=(1.0, 1.0),
        augmentation=Augmentation(rotation=(10.0,), scale=(0.9, 1.1), translation=(1.0, 1.0)),
        schedule=dataclasses.replace(length, **schedule),
    )
    return Plans(
        dataset_name="Dataset001_Tiny",
        plans_name="autolmkPlans",
        planner="heatmap",
        preset="XS",
        ndim=2,
        unit="px",
        channel_names=("light",),
        landmarks=NAMES,
        pairs=(),
        sometimes_absent=("rare",),
        device="cpu",
        memory_target_gb=1.0,
        configurations={"heatmap": configuration},
    )


def write_store(folder: Path, plans: Plans) -> Store:
    """Blobs on noise: bright, dark, and in two cases of three a faint one."""
    store, rng = Store(folder), np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(24.0), np.arange(24.0), indexing="ij"), -1)
    configuration = plans.configurations["heatmap"]
    for i, name in enumerate([*TRAIN, *VAL]):
        voxels = np.array([[6.0, 7], [16, 8], [12, 17]]) + rng.uniform(-3, 3, (3, 2))
        present = np.array([True, True, i % 3 != 0])
        image = rng.normal(0, 0.1, (24, 24))
        for point, height, there in zip(voxels, (2.0, -2.0, 1.0), present, strict=True):
            image += there * height * np.exp(-((grid - point) ** 2).sum(-1) / 4)
        status = np.where(present, Status.PRESENT, Status.ABSENT).astype(np.int8)
        case = StoredCase(
            identifier=name,
            array=image[None].astype(np.float32),
            geometry=Geometry.from_parts((24, 24), (1.0, 1.0)),
            fill=(0.0,),
            landmarks=Landmarks(NAMES, voxels[:, ::-1], status),
            subject=name,
            digest="",
            plans_digest=preprocessing_digest(plans, configuration),
        )
        store.write(name, case)
    return store


def train(store: Store, folder: Path, plans: Plans | None = None, **arguments: Any) -> bool:
    plans = plans or tiny_plans()
    trainer = HeatmapTrainer(plans, plans.configurations["heatmap"])
    return fit(trainer, store, TRAIN, VAL, folder, **{"device": "cpu", **arguments})


def weights(folder: Path, name: str = "final") -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint_file(folder, name)).tensors


def assert_same_weights(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    records = [checkpoint.read_record(checkpoint_file(folder, "final")) for folder in (a, b)]
    assert records[0] == records[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), tiny_plans())


@pytest.fixture(scope="module")
def unbroken(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "fold_0"
    assert train(store, folder, epochs=4, seed=3)
    return folder


def test_a_finished_fold_holds_all_that_prediction_needs(unbroken: Path) -> None:
    assert is_finished(unbroken)
    assert sorted(f.name for f in unbroken.iterdir() if f.name != ".lock") == [
        "checkpoint_best.safetensors",
        "checkpoint_final.safetensors",
        "config.json",
        "measured.json",
        "progress.png",
        "training_log.jsonl",
        "validation",
    ]
    measured = Measured.load(unbroken)
    assert measured.mean_shape is not None and set(measured.mean_shape) == set(NAMES)
    assert measured.presence_cases == len(VAL)
    summary = read_json(unbroken / "validation" / "summary.json")
    assert summary["n_cases"] == len(VAL) and summary["overall"]["n"] == 5
    assert (unbroken / "validation" / "landmarks.csv").read_text().count("\n") == 1 + len(VAL) * len(NAMES)
    trainer = HeatmapTrainer(tiny_plans(), tiny_plans().configurations["heatmap"])
    network, codec = trainer.build_network(), trainer.build_codec()
    record = checkpoint.load_weights(checkpoint_file(unbroken, "best"), network, codec)
    assert record["landmarks"] == list(NAMES) and record["best"] is not None


def test_the_log_tells_each_epoch_and_validation(unbroken: Path) -> None:
    entries = read_log(unbroken)
    epochs = [e for e in entries if e["kind"] == "epoch"]
    assert [e["iteration"] for e in epochs] == [5, 10, 15, 20]
    assert all(np.isfinite(e["loss"]) for e in epochs)
    assert epochs[-1]["learning_rate"] < epochs[1]["learning_rate"]
    validations = [e for e in entries if e["kind"] == "validation"]
    assert validations[-1]["cases"] == len(VAL) and validations[-1]["mre"] > 0


def test_training_learns(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, tiny_plans(iterations_per_epoch=50, learning_rate=0.03), epochs=4, seed=0)
    final = [e for e in read_log(tmp_path) if e["kind"] == "validation"][-1]
    assert final["median"] < 0.3
    assert final["mre"] < 3


def test_a_finished_fold_is_not_trained_again(unbroken: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    before = checkpoint_file(unbroken, "final").stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "autolmk"):
        assert train(store, unbroken, epochs=4, seed=3)
    assert "is finished" in caplog.text
    assert checkpoint_file(unbroken, "final").stat().st_mtime_ns == before


class _Killed(Exception):
    pass


@pytest.mark.parametrize(("iteration", "saved_at"), [(3, 0), (8, 7), (10, 10), (19, 12)])
def test_an_interrupted_run_ends_with_the_same_weights(
    iteration: int, saved_at: int, unbroken: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash at `iteration`, the last checkpoint at `saved_at`: the rest is as if nothing had happened."""
    step = Run.step

    def crashing(run: Run, batch: Any) -> None:
        if run.iteration == saved_at and saved_at:
            run.save_latest()
        if run.iteration == iteration:
            raise _Killed
        step(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", crashing)
        patch.setattr(Loop, "_save_due", lambda self, at_least: False)
        with pytest.raises(_Killed):
            train(store, tmp_path, epochs=4, seed=3)
    torch.manual_seed(99)
    np.random.seed(99)
    seed = None if saved_at else 3  # None: that of the run that it goes on with
    assert train(store, tmp_path, epochs=4, seed=seed)
    assert_same_weights(unbroken, tmp_path)
    assert [e["iteration"] for e in read_log(tmp_path) if e["kind"] == "epoch"] == [5, 10, 15, 20]


def test_a_crash_in_validation_repeats_it(
    unbroken: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, calls = Loop._predict, []

    def crashing(loop: Loop, *arguments: Any, final: bool) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise _Killed
        return predict(loop, *arguments, final=final)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_predict", crashing)
        with pytest.raises(_Killed):
            train(store, tmp_path, epochs=4, seed=3)
    assert train(store, tmp_path, epochs=4, seed=3)
    assert_same_weights(unbroken, tmp_path)


def test_workers_change_nothing(unbroken: Path, store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, epochs=4, seed=3, workers=1)
    assert_same_weights(unbroken, tmp_path)


def test_another_seed_gives_other_weights(unbroken: Path, store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, epochs=4, seed=4)
    assert any(not torch.equal(t, weights(tmp_path)[n]) for n, t in weights(unbroken).items())


def test_sigkill_then_the_same_command(
    unbroken: Path,
    store: Store,
    tmp_path: Path,
    wait_until: Callable[..., None],
    children_of: Callable[[int], list[int]],
    alive: Callable[[Iterable[int]], list[int]],
) -> None:
    """A real SIGKILL amid training; the workers go with it; the run then ends like the unbroken one."""
    process = start(store, tmp_path)
    try:
        wait_until(lambda: checkpoint_file(tmp_path, "latest").exists() and len(read_log(tmp_path)) >= 2, process)
        with pytest.raises(AutolmkError, match="another process is at work"):
            train(store, tmp_path, epochs=4, seed=3)
        children = children_of(process.pid)
    finally:
        process.kill()
        process.wait()
    assert children and not is_finished(tmp_path)
    wait_until(lambda: not alive(children))
    assert train(store, tmp_path, epochs=4, seed=3)
    assert_same_weights(unbroken, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_save_and_end(
    number: int, unbroken: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, saved = Run.step, []

    def signalled(run: Run, batch: Any) -> None:
        if run.iteration == 7:
            os.kill(os.getpid(), number)
        if run.iteration == 8:  # only after SIGUSR1
            saved.append(checkpoint.read_record(checkpoint_file(tmp_path, "latest"))["iteration"])
        step(run, batch)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", signalled)
        if number == signal.SIGUSR1:
            assert train(store, tmp_path, epochs=4, seed=3) and saved == [8]
        else:
            with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
                train(store, tmp_path, epochs=4, seed=3)
            assert checkpoint.read_record(checkpoint_file(tmp_path, "latest"))["iteration"] == 8
    assert signal.getsignal(number) is before
    assert train(store, tmp_path, epochs=4, seed=3)
    assert_same_weights(unbroken, tmp_path)


def test_a_stop_file_saves_and_stops(unbroken: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    assert not train(store, tmp_path, epochs=4, seed=3)
    assert not (tmp_path / "stop").exists()
    assert checkpoint.read_record(checkpoint_file(tmp_path, "latest"))["iteration"] == 1
    assert train(store, tmp_path, epochs=4, seed=3)
    assert_same_weights(unbroken, tmp_path)


def test_a_finish_file_ends_training(store: Store, tmp_path: Path) -> None:
    (tmp_path / "finish").touch()
    assert train(store, tmp_path, epochs=4, seed=3)
    assert is_finished(tmp_path) and not (tmp_path / "finish").exists()
    assert checkpoint.read_record(checkpoint_file(tmp_path, "final"))["iteration"] == 1


class PassedTime:
    """A clock that goes on only where a test says so: no test depends on how busy the machine is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, a_step: float) -> None:
        self.now, self.steps, step = 1000.0, 0, Run.step
        monkeypatch.setattr(schedule_module, "time", self)

        def timed(run: Run, batch: Any) -> None:
            step(run, batch)
            self.steps += 1
            self.now += a_step

        monkeypatch.setattr(Run, "step", timed)

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("seconds", [1e-9, 1.0])
def test_one_step_is_taken_however_short_the_time(
    seconds: float, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where time is over before it, and that step learns something."""
    passed, loader = PassedTime(monkeypatch, a_step=0.1), Loop._loader

    def late(loop: Loop) -> Any:
        passed.now += 60.0
        return loader(loop)

    monkeypatch.setattr(Loop, "_loader", late)
    assert train(store, tmp_path, tiny_plans(epochs=100_000), max_seconds=seconds)
    assert is_finished(tmp_path) and passed.steps == 1
    (epoch,) = [e for e in read_log(tmp_path) if e["kind"] == "epoch"]
    assert epoch["iteration"] == 1 and epoch["learning_rate"] > 0


def test_max_time_adds_up_over_resumes(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_validation(PassedTime(monkeypatch, a_step=0.1), monkeypatch, 0.001)
    plans = tiny_plans(epochs=100_000)
    (tmp_path / "stop").touch()
    assert not train(store, tmp_path, plans, max_seconds=3.0)
    file = checkpoint_file(tmp_path, "latest")
    latest = checkpoint.load(file)
    checkpoint.save(file, latest.tensors, {**latest.record, "elapsed": 2.0})
    assert train(store, tmp_path, plans, max_seconds=3.0)
    again = [e for e in read_log(tmp_path) if e["elapsed"] >= 2.0]
    assert again[-1]["kind"] == "end" and again[-1]["elapsed"] > 2.5
    rates = [e["learning_rate"] for e in again if e["kind"] == "epoch"]
    assert max(rates) < 0.01 * 0.5  # two thirds of the time were over


def slow_validation(passed: PassedTime, monkeypatch: pytest.MonkeyPatch, *seconds_a_case: float) -> None:
    """A case takes so long in the first validation, in the second one, and as in the last of these in all others."""
    predict, left = Loop._predict, list(seconds_a_case)

    def slow(loop: Loop, cases: Any, *, final: bool) -> Any:
        validation = predict(loop, cases, final=final)
        pause = len(cases) * (left.pop(0) if len(left) > 1 else left[0])
        passed.now += pause
        return dataclasses.replace(validation, seconds=pause)

    monkeypatch.setattr(Loop, "_predict", slow)


def test_the_final_validation_fits_the_time_though_no_epoch_ended(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow_validation(
        PassedTime(monkeypatch, a_step=0.1), monkeypatch, 1.0
    )  # 2 s for both cases: more than the share of the limit
    assert train(store, tmp_path, tiny_plans(iterations_per_epoch=10**6, validation_share=0.1), max_seconds=8.0)
    end = read_log(tmp_path)[-1]
    assert end["kind"] == "end" and end["max_seconds"] == 8.0 and end["kept_for_it"] >= 2.0
    assert end["overrun"] < 1.0 and end["elapsed"] > 6.0
    assert "overrun" not in caplog.text


def test_overrunning_the_time_limit_is_said(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow_validation(PassedTime(monkeypatch, a_step=0.1), monkeypatch, 0.0, 2.0)  # the machine became busy
    with caplog.at_level(logging.WARNING, "autolmk"):
        assert train(store, tmp_path, tiny_plans(iterations_per_epoch=10**6), max_seconds=2.0)
    end = read_log(tmp_path)[-1]
    assert end["overrun"] >= 3.0 and end["final_validation"] >= 4.0
    assert "the time limit of 2 s was overrun by" in caplog.text
    assert "the final validation took" in caplog.text and "had been kept for it" in caplog.text


def test_a_time_limit_of_few_steps_is_said(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    passed = PassedTime(monkeypatch, a_step=0.125)
    slow_validation(passed, monkeypatch, 0.0)
    with caplog.at_level(logging.WARNING, "autolmk"):
        assert train(store, tmp_path, tiny_plans(iterations_per_epoch=10**6), max_seconds=4.0)
    assert passed.steps == 32
    assert caplog.text.count("fewer than 500") == 1 and "--max-time about" in caplog.text


def test_another_length_on_resuming_is_said_and_kept(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "stop").touch()
    assert not train(store, tmp_path, epochs=4)
    with caplog.at_level(logging.WARNING, "autolmk"):
        assert train(store, tmp_path, epochs=2)
    assert "began with 20 iterations and goes on with 10 iterations" in caplog.text
    assert read_json(tmp_path / "config.json")["iterations"] == 10
    assert train(store, tmp_path, epochs=2)


def test_a_resumed_run_is_compiled_too(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(Run, "compile", lambda run, batch: tried.append(run.iteration))
    (tmp_path / "stop").touch()
    assert not train(store, tmp_path, epochs=2)
    assert train(store, tmp_path, epochs=2)
    assert tried == [0, 1]
    assert train(store, tmp_path / "plain", epochs=1, compile=False)
    assert tried == [0, 1]


def test_fold_all_has_final_weights_only(store: Store, tmp_path: Path) -> None:
    plans = tiny_plans()
    trainer = HeatmapTrainer(plans, plans.configurations["heatmap"])
    assert fit(trainer, store, TRAIN + VAL, [], tmp_path, device="cpu", epochs=1, rates=None)
    assert is_finished(tmp_path) and not checkpoint_file(tmp_path, "best").exists()
    assert Measured.load(tmp_path).presence_cases == 0


def test_held_out_points_move_nothing(unbroken: Path, store: Store, tmp_path: Path) -> None:
    """No leak: altered annotations of held-out cases change neither weights nor mean shape."""
    other = write_store(tmp_path / "store", tiny_plans())
    for case in VAL:
        stored = other.load(case)
        image = stored.image().array
        moved = dataclasses.replace(
            stored, array=image, landmarks=Landmarks(NAMES, stored.landmarks.points + 5, stored.landmarks.status)
        )
        other.write(case, moved)
    train(other, tmp_path / "fold_0", epochs=4, seed=3)
    for name, tensor in weights(unbroken).items():
        assert torch.equal(tensor, weights(tmp_path / "fold_0")[name])
    assert Measured.load(tmp_path / "fold_0").mean_shape == Measured.load(unbroken).mean_shape


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    train(store, tmp_path, epochs=4)
    file = checkpoint_file(tmp_path, "latest")
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(AutolmkError, match=r"(?s)checkpoint is damaged.*checkpoint_latest.*delete it"):
        train(store, tmp_path, epochs=4)
    assert not is_finished(tmp_path)


def test_another_seed_or_other_plans_cannot_go_on(store: Store, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    train(store, tmp_path, epochs=4, seed=3)
    with pytest.raises(AutolmkError, match="another seed"):
        train(store, tmp_path, epochs=4, seed=4)
    with pytest.raises(AutolmkError, match=r"(?s)other plans or options.*learning_rate was 0.01 and is now 0.02\n"):
        train(store, tmp_path, tiny_plans(learning_rate=0.02), epochs=4)
    plans = dataclasses.replace(tiny_plans(), sometimes_absent=("dark",))
    with pytest.raises(AutolmkError, match=r'found: plans.sometimes_absent was \["rare"\] and is now \["dark"\]\n'):
        train(store, tmp_path, plans, epochs=4)
    options = dataclasses.replace(plans.configurations["heatmap"], options={"n_candidates": 2})
    plans = dataclasses.replace(tiny_plans(), configurations={"heatmap": options})
    with pytest.raises(AutolmkError, match=r"found: options.n_candidates was 5 and is now 2\n"):
        train(store, tmp_path, plans, epochs=4)


def test_a_finished_fold_of_another_run_is_refused(unbroken: Path, store: Store) -> None:
    before = sorted(p.name for p in unbroken.iterdir())
    with pytest.raises(AutolmkError, match="finished, with other plans or options"):
        train(store, unbroken, tiny_plans(learning_rate=0.02))
    with pytest.raises(AutolmkError, match="finished, with another seed"):
        train(store, unbroken, seed=4)
    assert train(store, unbroken, seed=3)
    assert sorted(p.name for p in unbroken.iterdir()) == before


def test_going_on_in_another_precision_is_said(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "stop").touch()
    assert not train(store, tmp_path)
    (tmp_path / "stop").unlink(missing_ok=True)
    config = read_json(tmp_path / "config.json")
    assert not caplog.records or "began in" not in caplog.text
    write_json(tmp_path / "config.json", {**config, "precision": "float64"})
    with caplog.at_level(logging.WARNING):
        assert train(store, tmp_path)
    assert f"began in float64 and goes on in {config['precision']}" in caplog.text


def test_data_of_other_plans_is_refused(store: Store, tmp_path: Path) -> None:
    plans = tiny_plans()
    changed = dataclasses.replace(plans.configurations["heatmap"], normalization=(Normalization("zscore"),))
    plans = dataclasses.replace(plans, configurations={"heatmap": changed})
    with pytest.raises(AutolmkError, match="made by other plans"):
        train(store, tmp_path, plans, epochs=1)


def test_a_loss_that_is_not_finite_names_the_cases(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = HeatmapTrainer.loss
    monkeypatch.setattr(HeatmapTrainer, "loss", lambda self, *a: loss(self, *a) * float("nan"))
    with pytest.raises(AutolmkError, match=r"(?s)the loss became nan at iteration 0.*case\d.*learning_rate"):
        train(store, tmp_path, epochs=1)


def test_a_missing_device_is_an_error(store: Store, tmp_path: Path) -> None:
    for device in ("cuda:99", "tpu", "meta"):
        with pytest.raises(AutolmkError, match="device"):
            train(store, tmp_path, device=device)


def test_a_gpu_without_room_says_what_the_training_needs(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Run, "step", step)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**32, 2**33))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2**31)
    said = r"(?s)heatmap with batches of 2 and windows of 24x24.*6\.0 of 8\.0 GiB are free.*about 0\.\d GiB"
    with pytest.raises(AutolmkError, match=said + ".*--set batch_size=1"):
        train(store, tmp_path)


# -- another process --------------------------------------------------------------------------------------------------


def start(store: Store, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, str(store.folder), str(folder)])


def main(store: str, folder: str) -> None:
    """Slowly, so that there is time to kill it."""
    torch.set_num_threads(1)
    step = Run.step

    def slow(run: Run, batch: Any) -> None:
        time.sleep(0.1)
        step(run, batch)

    Run.step = slow  # type: ignore[method-assign]
    train(Store(Path(store)), Path(folder), epochs=4, seed=3, workers=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
