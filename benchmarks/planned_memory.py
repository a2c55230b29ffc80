"""Memory that is planned for CUDA against what torch's own autocast rules keep, on tensors without data; needs no GPU.

    python benchmarks/planned_memory.py [--presets S M L XL] [--landmarks 5 45 120] [--methods heatmap apga]

For a head of 200 mm at 0.7 mm, every method is planned; of each stage printed are GiB as planned, and the same with the
bytes that a step keeps for its backward pass counted on a fake CUDA device (tests/helpers/pretended_gpu.py), and the
CPU seconds that both took.
Exit code 1 where both differ by more than 5 %. What a GPU really takes is told by `benchmarks/gpu.py --parts step`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

from fingerprints import a_fingerprint
from gpu_work import timed_saved_on_cuda
from pretended_gpu import on_fake_gpu

from autolmk.methods.trainer import trainer_class
from autolmk.planning.memory import GIB, training_bytes
from autolmk.planning.planner import plan_dataset, planner_class
from autolmk.planning.request import PlanRequest

METHODS = ("heatmap", "apga", "coarse_to_fine", "global_to_local")
SIDE, SPACING = 200.0, 0.7  # mm
MOST = 0.05


def main() -> int:
    """Print a line a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["S", "M", "L", "XL"])
    parser.add_argument("--landmarks", nargs="+", type=int, default=[5, 45, 120])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    args = parser.parse_args()
    worst = 0.0
    print(
        f"{'preset':6} {'landmarks':>9} {'stage':28} {'batch':>5} {'patch':>15} planned counted ratio   CPU s",
        flush=True,
    )
    for preset in args.presets:
        for n in args.landmarks:
            shape = (SIDE / SPACING,) * 3
            fingerprint = a_fingerprint(spacing=(SPACING,) * 3, shape=shape, n_landmarks=n)
            planners = {name: planner_class(name)() for name in args.methods}
            request = PlanRequest.of(fingerprint, "cuda", preset=preset)
            plans = plan_dataset(request, planners, plans_name="memory", leave_out=True)
            for name, c in plans.configurations.items():
                trainer = trainer_class(c.trainer)(plans, c)
                before = time.process_time()
                planned = training_bytes(trainer, c.batch_size)
                saved, seconds = on_fake_gpu(timed_saved_on_cuda, trainer, c.batch_size)
                seconds += time.process_time() - before
                counted = planned.total - planned.saved - planned.casts + saved
                ratio = planned.total / counted
                worst = max(worst, abs(ratio - 1))
                patch = "x".join(map(str, c.patch_size))
                sizes = f"{planned.total / GIB:7.2f} {counted / GIB:7.2f} {ratio:5.3f} {seconds:7.1f}"
                print(f"{preset:6} {n:9} {name:28} {c.batch_size:5} {patch:>15} {sizes}", flush=True)
    print(f"furthest apart: {worst:.1%}")
    return 0 if worst <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
