"""What a whole training step costs over the network alone.

    python benchmarks/step_time.py [--landmarks 8 64] [--steps 10] [--rounds 4] [--clock wall]

Fixed 64^3 patch, XS network (its widths, five stages), output stride 1, batch 1, one thread to compute, one worker to
load. The whole step is what training runs: wait for the batch (read, warp, intensities), encode, forward, loss,
backward, optimizer, averaged weights. The bare step is forward and backward of the same network, in the same precision,
from a ready gradient. Both are timed in turn, so that a busy machine slows both; printed is the ratio of the medians.
Exit code 1 where it exceeds 1.15 at up to 8 landmarks, or 1.3.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from scipy import ndimage

from autolmk.data.augmentation import IntensityAugmentation
from autolmk.data.loading import BatchSource, TrainingLoader
from autolmk.data.store import Store, StoredCase, preprocessing_digest
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks
from autolmk.methods.trainer import trainer_class
from autolmk.planning.planner import PRESETS
from autolmk.plans import Architecture, Augmentation, Configuration, Normalization, Plans, Schedule, Windows
from autolmk.training.schedule import Limits
from autolmk.training.state import Run

SIDE, CASE_SIDE, SPACING = 64, 128, 1.0
FEATURES = tuple(min(PRESETS["XS"].base_features[1] * 2**i, PRESETS["XS"].max_features[1]) for i in range(5))
LIMITS = {8: 1.15, 64: 1.3}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def make_plans(n_landmarks: int) -> Plans:
    """XS plans with windows at any rotation, the costly case."""
    stages = len(FEATURES)
    configuration = Configuration(
        trainer="heatmap",
        data_identifier="benchmark",
        spacing=(SPACING,) * 3,
        patch_size=(SIDE,) * 3,
        batch_size=1,
        normalization=(Normalization("none"),),
        windows=Windows("random", 0.7),
        architecture=Architecture(
            features_per_stage=FEATURES,
            kernel_sizes=((3, 3, 3),) * stages,
            strides=((1, 1, 1),) + ((2, 2, 2),) * (stages - 1),
            n_conv_per_stage=(2,) * stages,
            n_conv_per_stage_decoder=(2,) * (stages - 1),
            output_stride=(1, 1, 1),
        ),
        sigma=(1.5 * SPACING,) * 3,
        augmentation=Augmentation((180.0,) * 3, (0.9, 1.1), (5.0,) * 3),
        schedule=Schedule(1000, 1000, None, 1e-3, 1e-4, 0.999, 0.1),
    )
    names = tuple(f"landmark_{i}" for i in range(n_landmarks))
    return Plans(
        "Dataset001_Benchmark", "benchmark", "heatmap", "XS", 3, "mm", ("CT",), names, (), (), "cpu", 1.0,
        {"benchmark": configuration},
    )  # fmt: skip


def fill_store(store: Store, plans: Plans, n_cases: int = 4) -> None:
    """Smooth random volumes of 128^3 with random landmarks."""
    rng = np.random.default_rng(0)
    configuration = plans.configuration("benchmark")
    geometry = Geometry.from_parts((CASE_SIDE,) * 3, (SPACING,) * 3)
    for i in range(n_cases):
        array = ndimage.gaussian_filter(rng.normal(size=geometry.shape), 2.0)
        array = (array / array.std()).astype(np.float32)[None]
        points = rng.uniform(0.2, 0.8, (len(plans.landmarks), 3)) * CASE_SIDE
        marks = Landmarks(plans.landmarks, points, np.ones(len(points), dtype=np.int8))
        digest = preprocessing_digest(plans, configuration)
        store.write(f"case_{i}", StoredCase(f"case_{i}", array, geometry, (0.0,), marks, f"case_{i}", "", digest))


def timed(function: Callable[[], object], steps: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of each call."""
    result = []
    for _ in range(steps):
        start = clock()
        function()
        result.append(clock() - start)
    return result


def measure(n_landmarks: int, steps: int, rounds: int, workers: int, clock: Callable[[], float]) -> float:
    """Ratio of the whole step to the bare one; prints both."""
    plans = make_plans(n_landmarks)
    configuration = plans.configuration("benchmark")
    trainer = trainer_class("heatmap")(plans, configuration)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        fill_store(store, plans)
        run = Run(trainer, Path(folder) / "fold_0", torch.device("cpu"), 0, Limits(10**6, None), 0)
        data = torch.randn(1, 1, SIDE, SIDE, SIDE)
        gradient = torch.randn(1, n_landmarks, SIDE, SIDE, SIDE) / SIDE**3

        def bare() -> None:
            for parameter in run.network.parameters():
                parameter.grad = None
            torch.autograd.backward(run.forward(data), gradient)

        source = BatchSource(store, tuple(store.cases()), plans, configuration, IntensityAugmentation(1.0), seed=0)
        loader = TrainingLoader(source, workers=workers)
        with loader:

            def whole() -> None:
                run.step(next(loader))

            timed(bare, 2, clock)
            timed(whole, 4, clock)
            bares, wholes = [], []
            for _ in range(rounds):
                bares += timed(bare, steps, clock)
                timed(whole, 3, clock)  # uses up what the worker prepared ahead during the bare steps
                wholes += timed(whole, steps, clock)
    a, b = statistics.median(bares), statistics.median(wholes)
    mean = statistics.mean(wholes) / statistics.mean(bares)
    print(
        f"{n_landmarks:4d} landmarks: bare {1e3 * a:7.1f} ms, whole step {1e3 * b:7.1f} ms, "
        f"ratio {b / a:.3f} (of the means {mean:.3f})",
        flush=True,
    )
    return b / a


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landmarks", type=int, nargs="+", default=list(LIMITS))
    parser.add_argument("--steps", type=int, default=10, help="steps a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: of the training process alone, for a busy machine"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    fits = True
    for n in args.landmarks:
        limit = LIMITS[8] if n <= 8 else LIMITS[64]
        fits &= measure(n, args.steps, args.rounds, args.workers, CLOCKS[args.clock]) <= limit
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
