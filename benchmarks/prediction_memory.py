"""Peak memory of predicting one large volume, by number of landmarks.

    python benchmarks/prediction_memory.py --size 256 --landmarks 8 64

Each figure is the peak resident size of a fresh process that predicts a volume of noise with an untrained U-Net, less
that of the process before the prediction. What counts is the difference between two numbers of landmarks, in units of
one window's logits of the larger number: no full-size heatmap may ever be held, and a window's logits at most once.
Exit code 1 where it exceeds 1.1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

PATCH = 64
MOST = 1.1  # times one window's logits
ENVIRONMENT = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}  # glibc gives large blocks back at once: no scatter
FEATURES = {"XS": (16, 32, 64, 128), "S": (32, 64, 128, 256)}


def main() -> int:
    """Print a line a number of landmarks, then the difference of the last to the first."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", type=int, default=256, help="of the volume's side, voxels")
    arguments.add_argument("--landmarks", type=int, nargs="+", default=[8, 64])
    arguments.add_argument("--step", type=float, default=0.5)
    arguments.add_argument("--stride", type=int, default=1, help="of the network's output")
    arguments.add_argument("--network", choices=FEATURES, default="XS")
    arguments.add_argument("--mirror", action="store_true", help="with test-time mirroring")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one, args)))
        return 0
    results = []
    for count in args.landmarks:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", str(count)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT).stdout
        results.append({"landmarks": count, **json.loads(answer.splitlines()[-1])})
    logits = results[-1]["landmarks"] * (PATCH // args.stride) ** 3 * 4
    added = (results[-1]["peak_bytes"] - results[0]["peak_bytes"]) / logits
    if args.json:
        print(json.dumps({"results": results, "window_logits_bytes": logits, "added_in_window_logits": added}))
        return exit_code(added)
    for result in results:
        print(
            f"{result['landmarks']:4d} landmarks: {result['peak_bytes'] / 2**20:7.1f} MiB above the start, "
            f"{result['windows']} windows, {result['seconds']:.1f} s"
        )
    print(f"the difference is {added:.2f} times one window's logits ({logits / 2**20:.1f} MiB), at most {MOST}")
    return exit_code(added)


def exit_code(added: float) -> int:
    """0 where the difference, in window's logits, is within the limit."""
    return 0 if added <= MOST else 1


def measure(n_landmarks: int, args: argparse.Namespace) -> dict[str, float]:
    """In this process: peak bytes above the start, windows, seconds."""
    import numpy as np
    import torch

    from autolmk.codecs import HeatmapCodec
    from autolmk.geometry import Geometry
    from autolmk.image import Image
    from autolmk.networks.unet import build_unet
    from autolmk.prediction.first_look import look_first
    from autolmk.prediction.stage import Member, Prepared, Stage

    torch.set_num_threads(1)
    plans = plans_for(n_landmarks, args)
    configuration = plans.configuration("volume")
    network = build_unet(configuration.architecture, 1, n_landmarks, 3)
    codec = HeatmapCodec(n_landmarks, (PATCH,) * 3, (args.stride,) * 3, (2.0 * args.stride,) * 3)
    array = np.random.default_rng(0).standard_normal((1, *(args.size,) * 3), dtype=np.float32)
    image = Image(array, Geometry.from_parts(array.shape[1:], (1.0,) * 3))
    small = Image(array[:, :PATCH, :PATCH, :PATCH], image.geometry.crop((0, 0, 0), (PATCH,) * 3))
    few = plans_for(1, args)
    warm = Member(
        build_unet(configuration.architecture, 1, 1, 3),
        HeatmapCodec(1, (PATCH,) * 3, (args.stride,) * 3, (2.0 * args.stride,) * 3),
    )
    look_first(Stage(few, few.configuration("volume"), (warm,), ()), Prepared(small, (0.0,)))  # what any use costs once
    before, start = resident(), time.monotonic()
    reset_peak()
    stage = Stage(plans, configuration, (Member(network, codec),), (), step=args.step)
    found = look_first(stage, Prepared(image, (0.0,)))
    return {"peak_bytes": peak() - before, "windows": found.looks, "seconds": time.monotonic() - start}


def plans_for(n_landmarks: int, args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Plans of one configuration, `volume`."""
    from autolmk.plans import Architecture, Augmentation, Configuration, Normalization, Plans, Schedule, Windows

    features = FEATURES[args.network]
    n = len(features)
    strides = ((1, 1, 1), *[(2, 2, 2)] * (n - 1))
    names = tuple(f"L{i:03d}" for i in range(n_landmarks))
    configuration = Configuration(
        trainer="heatmap",
        data_identifier="volume",
        spacing=(1.0,) * 3,
        patch_size=(PATCH,) * 3,
        batch_size=1,
        normalization=(Normalization("none"),),
        windows=Windows("random"),
        architecture=Architecture(
            features, ((3, 3, 3),) * n, strides, (1,) * n, (1,) * (n - args.stride.bit_length()), (args.stride,) * 3
        ),
        sigma=(2.0 * args.stride,) * 3,
        augmentation=Augmentation((0.0,) * 3, (1.0, 1.0), (0.0,) * 3, mirror_axis=0 if args.mirror else None),
        schedule=Schedule(1, 1, None, 1e-3, 0.0, 0.9, 0.1),
    )
    return Plans(
        dataset_name="Dataset000_Noise",
        plans_name="benchmark",
        planner="heatmap",
        preset="XS",
        ndim=3,
        unit="mm",
        channel_names=("noise",),
        landmarks=names,
        pairs=(),
        sometimes_absent=(),
        device="cpu",
        memory_target_gb=4.0,
        configurations={"volume": configuration},
    )


def resident() -> int:
    """Bytes that the process holds in memory now."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


def reset_peak() -> None:
    """From now on `peak` counts afresh (Linux)."""
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")


def peak() -> int:
    """Largest resident size in bytes since `reset_peak`."""
    with open("/proc/self/status") as stream:
        line = next(line for line in stream if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
