"""autolmk_run on real data: from raw images to the final predictor, judged on test cases that nothing has seen.

    python benchmarks/final.py --data FOLDER NAME [--configurations A B] [--folds 0 1 2] [--max-time 110m] [--work DIR]

The command is autolmk_run alone, which trains on the training cases, chooses, packs, predicts the test cases and
evaluates them. For comparison the test cases are then predicted by each trained configuration with all its folds, by
these configurations together, counted alike, and by each single fold. Finished steps are skipped, so the same call
resumes; the seconds of all calls of autolmk_run are added up.

Exit code 1 where a bound is missed: the MRE; points further off than FAR that no flag points at; the share of points
with a flag; and whether the final predictor is better than each of its members, which are its single networks and,
where it unites several configurations, each of them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from real_data import PIXELS_ONLY, build_raw, command

MAX_TIME = {"mouse_ct_small": "110m", "fly_wing": "40m"}
MRE = {"mouse_ct_small": 0.19, "fly_wing": 1.6}  # mm, px: at most
FAR = {"mouse_ct_small": 1.5}  # mm: beyond, a point must be flagged
FLAGGED = 0.05  # share of points, at most


def main() -> int:
    """Run, predict with each member, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="folder below --data, such as mouse_ct_small or fly_wing")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("benchmark_output/final"))
    parser.add_argument("--configurations", nargs="+", default=["global_to_local", "coarse_to_fine"])
    parser.add_argument("--folds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--max-time", default=None)
    parser.add_argument("--seed", default="0")
    arguments = parser.parse_args()
    work = (arguments.work / arguments.name).resolve()
    folder = build_raw(arguments.data / arguments.name, work / "raw", arguments.name)
    for part in ("raw", "preprocessed", "results"):
        os.environ[f"autolmk_{part}"] = str(work / part)
    max_time = arguments.max_time or MAX_TIME.get(arguments.name, "60m")
    choice = ("-c", *arguments.configurations, "-f", *arguments.folds, "--seed", arguments.seed)
    taken = work / "seconds.json"
    before = json.loads(taken.read_text()) if taken.is_file() else []
    seconds = command("run", "1", *choice, "--preset", "XS", "--max-time", max_time, "--keep-all")
    taken.write_text(json.dumps([*before, seconds]) + "\n")
    results = work / "results" / folder.name
    images = folder / "imagesTs"
    predictions = {"final predictor": results / "predictions" / "imagesTs"}
    packed = {model.name for model in models(results / "best")}
    trained = {m.name.split("__")[-1]: m for m in models(results)}
    members = []
    for configuration in arguments.configurations:
        model = trained[configuration]
        single = {f"{configuration}, fold {fold}": [fold] for fold in arguments.folds}
        for predictor, folds in {configuration: arguments.folds, **single}.items():
            predictions[predictor] = predict(images, model, folds, work)
            if model.name in packed and (len(folds) == 1 or len(packed) > 1):
                members.append(predictor)
    if len(arguments.configurations) > 1:
        together = work / "predictions_together"
        inputs = [str(predictions[configuration]) for configuration in arguments.configurations]
        command("ensemble", "-i", *inputs, "-o", str(together))
        command("evaluate", str(together), "-d", "1")
        predictions["all configurations, counted alike"] = together
    unit = "px" if str(next((folder / "imagesTs").iterdir())).endswith(PIXELS_ONLY) else "mm"
    print(f"\n{arguments.name}: autolmk_run took {sum([*before, seconds]) / 60:.1f} min in {len(before) + 1} call(s)\n")
    return report(arguments.name, predictions, members, results / "best", unit)


def models(folder: Path) -> list[Path]:
    """Of a folder of results, or those packed together."""
    return sorted(p for p in folder.iterdir() if p.name.count("__") == 2)


def predict(images: Path, model: Path, folds: list[str], work: Path) -> Path:
    """Folder of the predictions of some folds of one model, evaluated."""
    out = work / "_".join(["predictions", model.name.split("__")[-1], *folds])
    choice = ("-m", str(model), "-f", *folds, "--save_detections", "--continue_prediction")
    command("predict", "-i", str(images), "-o", str(out), *choice)
    command("evaluate", str(out), "-d", "1")
    return out


def report(name: str, predictions: dict[str, Path], members: list[str], best: Path, unit: str) -> int:
    """Print the table and what was missed; the exit code."""
    print(f"| predictor | MRE {unit} [95 %] | median | 95 % within | largest |")
    print("|---|---|---|---|---|")
    mre = {}
    for predictor, folder in predictions.items():
        overall = json.loads((folder / "evaluation" / "summary.json").read_text())["overall"]
        errors = np.array([float(row["error"]) for row in rows(folder / "evaluation" / "points.csv") if row["error"]])
        mre[predictor] = overall["mre"]["value"]
        interval = f"{mre[predictor]:.3f} [{overall['mre']['low']:.3f}, {overall['mre']['high']:.3f}]"
        within = np.quantile(errors, 0.95)
        print(f"| {predictor} | {interval} | {np.median(errors):.3f} | {within:.2f} | {errors.max():.2f} |")
    final = mre["final predictor"]
    flagged, unseen, covered = flags(predictions["final predictor"], FAR.get(name, np.inf))
    information = json.loads((best / "inference_information.json").read_text())
    held_out = information["held_out"]["mre"]
    print(f"\nchosen: {information['chosen']}; held-out MRE {held_out['value']:.3f}, every choice nested")
    radius = information["error_radius"]
    print(
        f"error radius of {radius['level']:.0%}: covers {covered:.1%} of test points, median {radius['median_radius']}"
    )
    bounds: list[tuple[str, float, float]] = [("share of points flagged", flagged, FLAGGED)]
    if name in MRE:
        bounds.insert(0, (f"MRE, {unit}", final, MRE[name]))
    if name in FAR:
        bounds.append((f"points beyond {FAR[name]:g} {unit} without a flag", unseen, 0))
    if len(members) > 1:
        bounds.append(("MRE over that of the best member", final / min(mre[m] for m in members), 1.0))
    missed = 0
    for what, found, bound in bounds:
        missed += found > bound
        print(f"{what:44}{found:8.3f}  bound {bound:g}  {'MISSED' if found > bound else 'met'}")
    return int(missed > 0)


def flags(predictions: Path, far: float) -> tuple[float, int, float]:
    """(share of points with a flag, points further off than `far` without one, share within their error radius)."""
    table = {(row["case"], row["landmark"]): row for row in rows(predictions / "landmarks.csv")}
    points = [row for row in rows(predictions / "evaluation" / "points.csv") if row["error"]]
    with_flag = [bool(table[p["case"], p["landmark"]]["flags"]) for p in points]
    unseen = sum(float(p["error"]) > far and not flag for p, flag in zip(points, with_flag, strict=True))
    radius = [table[p["case"], p["landmark"]]["error_radius"] for p in points]
    covered = [float(p["error"]) <= float(r) for p, r in zip(points, radius, strict=True) if r]
    return float(np.mean(with_flag)), unseen, float(np.mean(covered)) if covered else float("nan")


def rows(file: Path) -> list[dict[str, Any]]:
    """Of a table."""
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    sys.exit(main())
