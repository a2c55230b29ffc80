"""Accuracy on real data: build a raw dataset, plan, train on all training cases, predict the test cases, evaluate.

    python benchmarks/real_data.py --data FOLDER NAME [--max-time 25m] [--work FOLDER] [--configuration heatmap]

FOLDER/NAME holds `images/CASE.ext`, `landmarks.csv` (case, landmark, x, y, z: voxel index in ITK order) and
`split.json` ({"train": [...], "test": [...]}); documentation/benchmarks.md says where the two published sets come from.
Only the command lines that a user has are called. Finished steps are skipped, so the same call resumes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

MAX_TIME = {"mouse_ct_small": "25m", "fly_wing": "10m"}
BOUNDS = {"mouse_ct_small": {"mre": 1.2, "median": 0.7, "swaps": 0.01}, "fly_wing": {"mre": 2.5}}  # at most, mm or px
PIXELS_ONLY = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


def build_raw(source: Path, raw: Path, name: str) -> Path:
    """The dataset of `source` as `raw`/Dataset001_NAME; returns that folder."""
    folder = raw / f"Dataset001_{name}"
    if (folder / "dataset.json").exists():
        return folder
    split = json.loads((source / "split.json").read_text())
    images = {p.name.split(".")[0]: p for p in sorted((source / "images").iterdir())}
    with open(source / "landmarks.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for part, suffix in (("train", "Tr"), ("test", "Ts")):
        (folder / f"images{suffix}").mkdir(parents=True, exist_ok=True)
        (folder / f"landmarks{suffix}").mkdir(parents=True, exist_ok=True)
        for case in split[part]:
            ending = images[case].name[len(case) :]
            shutil.copyfile(images[case], folder / f"images{suffix}" / f"{case}_0000{ending}")
        with open(folder / f"landmarks{suffix}" / "landmarks.csv", "w", newline="") as stream:
            writer = csv.DictWriter(stream, ["case", "landmark", "x", "y", "z"])
            writer.writeheader()
            writer.writerows(row for row in rows if row["case"] in set(split[part]))
    names = sorted({row["landmark"] for row in rows})
    ending = next(p.name[len(c) :] for c, p in images.items())
    description = {
        "name": folder.name,
        "channel_names": {"0": "photograph" if ending in PIXELS_ONLY else "CT"},
        "file_ending": ending,
        "numTraining": len(split["train"]),
        "coordinates": "voxel",
        "landmarks": {landmark: {"index": i} for i, landmark in enumerate(names)},
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
    return folder


def mean_position_error(source: Path, spacing: float) -> float:
    """MRE of always predicting each landmark's mean voxel position over the training cases, in mm (or px)."""
    split = json.loads((source / "split.json").read_text())
    points: dict[str, dict[str, list[float]]] = {}
    with open(source / "landmarks.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            points.setdefault(row["case"], {})[row["landmark"]] = [float(row[k]) * spacing for k in "xyz"]
    names = sorted(next(iter(points.values())))
    train, test = (np.array([[points[c][n] for n in names] for c in split[part]]) for part in ("train", "test"))
    return float(np.linalg.norm(test - train.mean(0), axis=-1).mean())


def command(name: str, *arguments: str) -> float:
    """Run one autolmk command, its output shown; returns the seconds that it took."""
    print(f"\n$ autolmk_{name} {' '.join(arguments)}", flush=True)
    started = time.monotonic()
    subprocess.run([str(Path(sys.executable).parent / f"autolmk_{name}"), *arguments], check=True)
    return time.monotonic() - started


def main() -> int:
    """Everything, from the source folder to the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="folder below --data, such as mouse_ct_small or fly_wing")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("benchmark_output"))
    parser.add_argument("--configuration", default="heatmap")
    parser.add_argument("--max-time", default=None)
    parser.add_argument("--preset", default="XS")
    parser.add_argument("--seed", default="0")
    arguments = parser.parse_args()
    work = (arguments.work / arguments.name).resolve()
    folder = build_raw(arguments.data / arguments.name, work / "raw", arguments.name)
    for part in ("raw", "preprocessed", "results"):
        os.environ[f"autolmk_{part}"] = str(work / part)
    max_time = arguments.max_time or MAX_TIME.get(arguments.name, "25m")
    predictions = work / f"predictions_{arguments.configuration}_{arguments.preset}_{arguments.seed}"
    seconds = {
        "plan_and_preprocess": command(
            "plan_and_preprocess", "-d", "1", "-pl", arguments.configuration, "--preset", arguments.preset
        ),
        "train": command(
            "train", "1", arguments.configuration, "all", "--max-time", max_time, "--seed", arguments.seed
        ),
    }
    images = str(folder / "imagesTs")
    seconds["predict"] = command(
        "predict", "-i", images, "-o", str(predictions), "-d", "1", "-c", arguments.configuration, "-f", "all"
    )
    seconds["evaluate"] = command("evaluate", str(predictions), "-d", "1")
    spacing = 1.0
    if not str(next(Path(images).iterdir())).endswith(PIXELS_ONLY):
        import SimpleITK as sitk

        spacing = sitk.ReadImage(str(next(Path(images).iterdir()))).GetSpacing()[0]
    baseline = mean_position_error(arguments.data / arguments.name, spacing)
    taken = ", ".join(f"{step} {value:.0f} s" for step, value in seconds.items())
    print(f"\nalways the mean position: {baseline:.2f}; {taken}")
    return report(predictions / "evaluation", arguments.name)


def report(evaluation: Path, name: str) -> int:
    """Print the figures against their bounds; 1 where one is missed."""
    overall = json.loads((evaluation / "summary.json").read_text())["overall"]
    swappable = overall["n_swappable"]
    found = {
        "mre": overall["mre"]["value"],
        "median": overall["median"]["value"],
        "swaps": overall["swaps"] / swappable if swappable else 0.0,
    }
    missed = 0
    for key, bound in BOUNDS.get(name, {}).items():
        missed += found[key] > bound
        print(f"{key:8}{found[key]:8.3f}  bound {bound:g}  {'MISSED' if found[key] > bound else 'met'}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
