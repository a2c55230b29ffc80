"""CPU seconds and memory of check, fingerprint, splits and evaluation by the number of cases, on tiny images.

    python benchmarks/scale.py [--sizes 1000 10000] [--stages evaluate]

Each size and stage runs in a process of its own, which does the stage once with few cases before, so that the seconds
are those of the cases and not of importing. Wanted: CPU seconds at 10 times the cases at most 12 times as many,
and a few KB a case of memory, which are the results themselves.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STAGES = ("check", "fingerprint", "splits", "evaluate")
FEW = 10  # cases
NAMES = ("a", "b", "c")


def write(folder: Path, n: int) -> None:
    """A dataset of `n` training cases of 8 x 8 pixels, and predictions of them."""
    from PIL import Image

    rng = np.random.default_rng(0)
    raw = folder / "raw" / "Dataset001_Scale"
    for name in ("imagesTr", "landmarksTr"):
        (raw / name).mkdir(parents=True)
    description = {"channel_names": {"0": "light"}, "file_ending": ".png"}
    (raw / "dataset.json").write_text(json.dumps(description))
    rows = ["case,landmark,x,y,status"]
    for i in range(n):
        image = rng.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(image).save(raw / "imagesTr" / f"c{i:05}_0000.png")
        points = np.array([[1.0, 1], [6, 2], [3, 6]]) + rng.uniform(-0.5, 0.5, (3, 2))
        lines = [f"{name},{x:.3f},{y:.3f}" for name, (x, y) in zip(NAMES, points, strict=True)]
        (raw / "landmarksTr" / f"c{i:05}.csv").write_text("\n".join(["landmark,x,y", *lines, ""]))
        rows += [f"c{i:05},{line},present" for line in lines]
    (folder / "predictions").mkdir()
    (folder / "predictions" / "landmarks.csv").write_text("\n".join([*rows, ""]))


def work(stage: str, folder: Path, n: int) -> None:
    """Do a stage in this process."""
    from autolmk.cli import check, evaluate, extract_fingerprint
    from autolmk.data.splits import make_splits

    places = [part for name in ("raw", "preprocessed", "results") for part in (f"--{name}", str(folder / name))]
    code = 0
    if stage == "check":
        code = check.main(["-d", "1", "-np", "0", "--disable_progress_bar", *places])
    elif stage == "fingerprint":
        code = extract_fingerprint.main(["-d", "1", "-np", "0", "--disable_progress_bar", *places])
    elif stage == "splits":
        make_splits({f"c{i:05}": f"c{i:05}" for i in range(n)}, {f"c{i:05}": set(NAMES) for i in range(n)})
    elif stage == "evaluate":
        code = evaluate.main(["-i", str(folder / "predictions"), "-d", "1", "--split", "Tr", *places])
    if code:
        raise SystemExit(code)


def measure(stage: str, folder: Path, n: int) -> tuple[float, float]:
    """(CPU seconds, MiB at most) of one process."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder), "--sizes", str(n)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{stage} of {n}: exit {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        work(args.stage, args.folder / "few", FEW)
        before = time.process_time()
        work(args.stage, args.folder / "all", args.sizes[0])
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps([time.process_time() - before, used.ru_maxrss / 1024]))
        return
    print(f"{'stage':12} {'cases':>7} {'CPU s':>8} {'MiB':>8} {'time/linear':>12} {'KB a case':>10}")
    first: dict[str, tuple[int, float, float]] = {}
    for n in args.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder / "few", FEW)
            write(folder / "all", n)
            for stage in args.stages:
                seconds, memory = measure(stage, folder, n)
                line = f"{stage:12} {n:7} {seconds:8.2f} {memory:8.1f}"
                n0, s0, m0 = first.setdefault(stage, (n, seconds, memory))
                if n > n0:
                    line += f" {seconds / s0 / (n / n0):12.2f} {1024 * (memory - m0) / (n - n0):10.2f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
