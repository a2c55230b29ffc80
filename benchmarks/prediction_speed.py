"""What prediction costs a processor, in seconds of CPU, so that other programs on the machine do not count.

    python benchmarks/prediction_speed.py [--rounds 3] [--model FOLDER --image FILE ...]

Without a model: each part beside what it replaced, on the same input in turns, the fastest of all rounds: resampling by
matrices and by SciPy, unpacking by ISA-L and by zlib, convolutions of one thread by oneDNN and by torch. With one: the
stops of predicting each image. Exit code 1 where resampling differs by more than 1e-3 of the range of grey values or
takes more than half of SciPy's time, or unpacking more than half of zlib's.
"""

from __future__ import annotations

import argparse
import gzip
import io
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from isal import igzip

from autolmk import Predictor
from autolmk.data.axis_sampling import axis_blocks, multiplied
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.networks.onednn import OneDnn

SHAPES = ((160, 160, 128), (0.4, 0.4, 0.5))  # of the image that is resampled, and its spacing
SPACINGS = ((0.6, 0.6, 0.6), (1.0, 1.0, 1.0))
CONVOLUTIONS = ((32, 64, 25), (64, 64, 16), (16, 16, 64))  # channels in and out, side


def fastest(rounds: int, *ways: Callable[[], Any]) -> list[float]:
    """Seconds of CPU of each way, in turns."""
    best = [float("inf")] * len(ways)
    for _ in range(rounds):
        for i, way in enumerate(ways):
            start = time.process_time()
            way()
            best[i] = min(best[i], time.process_time() - start)
    return best


def said(what: str, now: float, before: float) -> float:
    """Prints one line; the ratio."""
    print(f"{what}: {now:.4f} s, was {before:.4f} s, ratio {now / before:.2f}", flush=True)
    return now / before


def resampling(rounds: int) -> bool:
    """Whether it is alike and fast enough."""
    shape, spacing = SHAPES
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    image, good = Image(array, Geometry.from_parts(shape, spacing)), True
    for wanted in SPACINGS:
        target = image.geometry.resampled(wanted)

        def by_matrices(target: Geometry = target) -> Any:
            return multiplied(array, axis_blocks(image.geometry, target, 3))

        def by_scipy(target: Geometry = target) -> Any:
            return image.resample(target, order=3).array

        apart = float(np.abs(by_matrices() - by_scipy()).max() / np.ptp(array))
        ratio = said(f"resampling to {wanted[0]:g} mm", *fastest(rounds, by_matrices, by_scipy))
        print(f"  largest difference: {apart:.1e} of the range")
        good &= apart < 1e-3 and ratio < 0.5
    return good


def unpacking(rounds: int) -> bool:
    """Whether it is fast enough."""
    z, y, x = np.ogrid[:60, :256, :256]
    values = 1000 * np.exp(-((x - 128) ** 2 + (y - 128) ** 2) / 5e3) * (z + 60) / 100
    values = values + np.random.default_rng(0).normal(0, 15, values.shape)
    content = values.astype(np.int16).tobytes()
    packed = gzip.compress(content, compresslevel=1)

    def by(module: Any) -> Callable[[], Any]:
        return lambda: module.GzipFile(fileobj=io.BytesIO(packed)).read(len(content))

    return said("unpacking", *fastest(rounds, by(igzip), by(gzip))) < 0.5


@torch.inference_mode()
def convolutions(rounds: int) -> None:
    """Of one thread."""
    torch.set_num_threads(1)
    for before, after, side in CONVOLUTIONS:
        data, weight = torch.randn(1, before, side, side, side), torch.randn(after, before, 3, 3, 3)

        def plain(data: torch.Tensor = data, weight: torch.Tensor = weight) -> Any:
            return F.conv3d(data, weight, None, 1, 1)

        def onednn(data: torch.Tensor = data, weight: torch.Tensor = weight) -> Any:
            with OneDnn():
                return F.conv3d(data, weight, None, (1, 1, 1), (1, 1, 1), (1, 1, 1), 1)

        said(f"convolution {before} to {after} of {side}^3", *fastest(rounds, onednn, plain))


def stops(model: Path, images: Sequence[Path]) -> None:
    """Seconds of CPU of each stop of each image."""
    predictor = Predictor(model, device="cpu")
    for file in images:
        times = [time.process_time()]
        image = predictor.read([file])
        times.append(time.process_time())
        prepared, outside = predictor.prepare(image), predictor.outside(image)
        times.append(time.process_time())
        found = predictor.look(prepared)
        times.append(time.process_time())
        predictor.conclude(found, outside)
        times.append(time.process_time())
        read, prepare, look, conclude = np.diff(times)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(
            f"{file.name}: read {read:.2f}, prepare {prepare:.2f}, look {look:.2f}, conclude {conclude:.2f}, "
            f"all {times[-1] - times[0]:.2f} s; peak of the process {peak:.2f} GB",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--image", type=Path, nargs="+", default=[])
    args = parser.parse_args()
    if args.model is not None:
        stops(args.model, args.image)
        return 0
    good = [resampling(args.rounds), unpacking(args.rounds)]
    convolutions(args.rounds)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
