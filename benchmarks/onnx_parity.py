"""How far the points of an exported ONNX model lie from those of autolmk_predict, on files, by the commands.

    python benchmarks/onnx_parity.py --models MODEL_FOLDER [...] --images FOLDER [--cases 3] [--work FOLDER]

A row per model: how many models it packs, the largest and the median distance in voxels over all landmarks of
the cases, how many landmarks differ in being present, and seconds a case of both commands, which start anew for each.
Exit code 1 where a distance is above 0.02 voxels or a state differs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from real_data import command

from autolmk import annotations
from autolmk.cli.predict import find_cases
from autolmk.files.serialization import read_json
from autolmk.imageio import read_image

BOUND = 0.02  # voxels


def main() -> int:
    """Print the table; 1 where a model misses the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=3, help="so many of the folder's first cases (default: 3)")
    parser.add_argument("--work", type=Path, default=Path("benchmark_output/onnx_parity"))
    arguments = parser.parse_args()
    print("| model | models | points | largest | median | states differ | s a case: autolmk_predict, ONNX |")
    print("|---|---|---|---|---|---|---|")
    missed = sum(not row(model, arguments) for model in arguments.models)
    return int(missed > 0)


def row(model: Path, arguments: argparse.Namespace) -> bool:
    """Export, predict by both, print; whether they agree."""
    work = arguments.work.resolve() / model.resolve().parent.name / model.name
    shutil.rmtree(work, ignore_errors=True)
    command("export_onnx", "-m", str(model), "-o", str(work / "onnx"))
    pipeline = read_json(work / "onnx" / "pipeline.json", remedy="export again")
    found = find_cases(arguments.images, None)
    cases = {case: found[case] for case in sorted(found)[: arguments.cases]}
    apart: list[float] = []
    differ, seconds = 0, [0.0, 0.0]
    for case, files in cases.items():
        images, points = work / "images", work / f"{case}.mrk.json"
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir(parents=True)
        for file in files:
            (images / file.name).symlink_to(file.resolve())
        predictions = (
            "predict",
            "-i",
            str(images),
            "-o",
            str(work / "predictions"),
            "-m",
            str(model),
            "-device",
            "cpu",
        )
        seconds[0] += command(*predictions, "--continue_prediction")
        started = time.monotonic()
        runner = [sys.executable, str(work / "onnx" / "run_onnx.py"), *map(str, files), "-o", str(points)]
        subprocess.run(runner, check=True)
        seconds[1] += time.monotonic() - started
        one, other = (annotations.read(file) for file in (work / "predictions" / f"{case}.mrk.json", points))
        differ += int((one.status != other.status).sum())
        spacing = min(read_image(files).geometry.spacing)
        apart += list(np.linalg.norm(one.points - other.points, axis=1) / spacing)
    largest, median = np.nanmax(apart), np.nanmedian(apart)
    print(
        f"| {model.name} | {len(pipeline['models'])} | {np.isfinite(apart).sum()} | {largest:.1e} | {median:.1e} "
        f"| {differ} | {seconds[0] / len(cases):.1f}, {seconds[1] / len(cases):.1f} |",
        flush=True,
    )
    return bool(largest <= BOUND) and differ == 0


if __name__ == "__main__":
    sys.exit(main())
