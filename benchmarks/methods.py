"""All methods under one equal wall-clock budget each, on real data: what each reaches, and what its parts contribute.

    python benchmarks/methods.py --data FOLDER [--names fly_wing ...] [--methods heatmap apga ...] [--seeds 0 1]

The budget (20 minutes on mouse_ct_small, 10 on fly_wing; --max-time) covers all stages of a method. Each run writes
WORK/NAME/METHOD_SEED.json, and finished runs are skipped, so that the benchmark can be spread over days; a run that was
broken off goes on. Staged methods are also judged after their first stage, and every method without its co-slice step
where the plans have one. --methods also takes the ablations of apga. --table prints the tables of finished runs alone.

Under each table stands how far the errors of any two runs agree (1 where they are the same vectors, 0 where they are
unrelated), and the error of the mean of all runs' points. What all runs err alike by lies in the annotations, or beyond
what the training cases tell.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from real_data import build_raw, command

from autolmk import annotations as marks

METHODS = ("heatmap", "apga", "coarse_to_fine", "global_to_local")
ABLATIONS = {  # name -> (method, configuration, settings of its plan, settings of its training)
    "apga_labels": ("apga", "apga_labels", ("labels=on",), ()),
    "apga_labels_without_fdt": ("apga", "apga_labels", ("labels=on",), ("fdt=false",)),
    "apga_labels_off": ("apga", "apga_labels", ("labels=on",), ("pseudo_label=false",)),
    "apga_labels_off_without_fdt": ("apga", "apga_labels", ("labels=on",), ("pseudo_label=false", "fdt=false")),
    "apga_without_fdt": ("apga", "apga", (), ("fdt=false",)),
}
MINUTES = {"mouse_ct_small": "20m", "fly_wing": "10m"}
TARGETS = {"mouse_ct_small": 0.25, "fly_wing": 1.8}  # MRE that the best method must reach, mm or px


def main() -> int:
    """Run what has not been run, then print the tables; 1 where a target is missed by every method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("benchmark_output/methods"))
    parser.add_argument("--names", nargs="+", default=sorted(MINUTES))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=[*METHODS, *ABLATIONS])
    parser.add_argument("--seeds", nargs="+", default=["0"])
    parser.add_argument("--preset", default="XS")
    parser.add_argument("--max-time", default=None, help="of a run; default: 20m, and 10m for fly_wing")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    missed = False
    for name in arguments.names:
        work = (arguments.work / name).resolve()
        if not arguments.table:
            for seed in arguments.seeds:
                for method in arguments.methods:
                    run(arguments, name, method, seed, work)
        missed |= not table(name, work)
    return int(missed)


def run(arguments: argparse.Namespace, name: str, method: str, seed: str, work: Path) -> None:
    """Plan, train, predict and evaluate one method with one seed, unless its JSON is there."""
    record = work / f"{method}_{seed}.json"
    if record.is_file():
        return
    folder = build_raw(arguments.data / name, work / "raw", name)
    for part, place in (("raw", "raw"), ("preprocessed", "preprocessed"), ("results", f"results_{seed}")):
        os.environ[f"autolmk_{part}"] = str(work / place)
    plans = f"{method}Plans"
    planner, configuration, planned, settings = ABLATIONS.get(method, (method, method, (), ()))
    budget = arguments.max_time or MINUTES.get(name, "20m")
    command(
        "plan_and_preprocess", "-d", "1", "--preset", arguments.preset, "-pl", planner,
        "-overwrite_plans_name", plans, *_set(planned),
    )  # fmt: skip
    changed = _set(settings)
    train = command("train", "1", configuration, "all", "-p", plans, "--max-time", budget, "--seed", seed, *changed)
    kept = json.loads((work / "preprocessed" / folder.name / f"{plans}.json").read_text())
    variants: dict[str, list[str]] = {"": []}
    if kept["configurations"][configuration]["previous_stage"]:
        variants["first_stage"] = ["--stages", "1"]
    if kept.get("co_slice_groups"):
        variants["without_co_slice"] = ["--disable_co_slice"]
    result: dict[str, Any] = {"name": name, "method": method, "seed": seed, "budget": budget, "train_seconds": train}
    for variant, options in variants.items():
        out = work / f"predictions_{method}_{seed}{variant and '_' + variant}"
        images = str(folder / "imagesTs")
        found = ("-d", "1", "-p", plans, "-c", configuration, "-f", "all")
        command("predict", "-i", images, "-o", str(out), *found, *options)
        command("evaluate", str(out), "-d", "1")
        result[variant or "final"] = figures(out)
    result["steps"] = steps(work / f"results_{seed}", plans)
    record.write_text(json.dumps(result, indent=2) + "\n")


def _set(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def figures(predictions: Path) -> dict[str, float]:
    """Of a folder of predictions: errors, and seconds a case."""
    overall = json.loads((predictions / "evaluation" / "summary.json").read_text())["overall"]
    cases = json.loads((predictions / "run.json").read_text())["cases"].values()
    rates = {f"sdr_{radius}": value["value"] for radius, value in overall["sdr"].items()}
    interval = {f"mre_{end}": overall["mre"][end] for end in ("low", "high")}
    return {
        "mre": overall["mre"]["value"],
        **interval,
        "median": overall["median"]["value"],
        **rates,
        "swaps": overall["swaps"],
        "seconds_a_case": sum(case["seconds"]["predict"] for case in cases) / len(cases),
    }


Points = dict[tuple[str, str], tuple[float, tuple[float, ...]]]  # (case, landmark) -> error and predicted point


def _points(folder: Path) -> Points:
    """Of a folder of predictions, the points that were evaluated."""
    with open(folder / "evaluation" / "points.csv", newline="") as stream:
        errors = {(row["case"], row["landmark"]): float(row["error"]) for row in csv.DictReader(stream) if row["error"]}
    cases = marks.read_table(folder / "landmarks.csv")
    places = {
        (c, n): tuple(float(x) for x in p if math.isfinite(x))  # a photograph has no z
        for c, a in cases.items()
        for n, p in zip(a.names, a.points, strict=True)
    }
    return {key: (error, places[key]) for key, error in errors.items()}


def _product(one: tuple[float, tuple[float, ...]], other: tuple[float, tuple[float, ...]]) -> float:
    """e f of two errors of one landmark, from |e|, |f| and |e - f|, the distance of the points."""
    return (one[0] ** 2 + other[0] ** 2 - math.dist(one[1], other[1]) ** 2) / 2


def agreement(one: Points, other: Points) -> float:
    """Cosine of two runs' error vectors over all points."""
    product = sum(_product(one[key], other[key]) for key in one)
    return product / math.sqrt(sum(e**2 for e, _ in one.values()) * sum(e**2 for e, _ in other.values()))


def error_of_mean(runs: Sequence[Points]) -> float:
    """MRE of the mean of all runs' points: its squared error is the mean of all products of two runs' errors."""
    squares = [sum(_product(one[key], other[key]) for one in runs for other in runs) for key in runs[0]]
    return sum(math.sqrt(max(0.0, square)) / len(runs) for square in squares) / len(squares)


def steps(results: Path, plans: str) -> dict[str, int]:
    """Training steps of each stage, by the folder of its run."""
    logs = sorted(results.glob(f"*/*__{plans}__*/fold_all/**/training_log.jsonl"))
    last = {log: json.loads(log.read_text().splitlines()[-1])["iteration"] for log in logs}
    return {("last" if log.parent.name == "fold_all" else log.parent.name): count for log, count in last.items()}


def table(name: str, work: Path) -> bool:
    """Print the runs of a dataset as Markdown; whether the best of them meets the target."""
    runs = [json.loads(file.read_text()) for file in sorted(work.glob("*_*.json"))]
    if not runs:
        print(f"\n{name}: no run is finished")
        return False
    print(f"\n{name} ({runs[0]['budget']} a method, all stages included)\n")
    print("| method | seed | MRE [95 %] | median | SDR 2 | swaps | first stage | without co-slice | steps | s a case |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for run_ in sorted(runs, key=lambda r: r["final"]["mre"]):
        found = run_["final"]
        first, without = (run_.get(key, {}).get("mre") for key in ("first_stage", "without_co_slice"))
        cells = [
            run_["method"],
            run_["seed"],
            f"{found['mre']:.3f} [{found['mre_low']:.3f}, {found['mre_high']:.3f}]",
            f"{found['median']:.3f}",
            f"{100 * found['sdr_2']:.1f} %",
            str(found["swaps"]),
            "-" if first is None else f"{first:.3f}",
            "-" if without is None else f"{without:.3f}",
            " + ".join(str(count) for count in run_["steps"].values()),
            f"{found['seconds_a_case']:.2f}",
        ]
        print(f"| {' | '.join(cells)} |")
    points = [_points(work / f"predictions_{run_['method']}_{run_['seed']}") for run_ in runs]
    for (one, mine), (other, theirs) in itertools.combinations(zip(runs, points, strict=True), 2):
        names = " and ".join(f"{run_['method']} {run_['seed']}" for run_ in (one, other))
        print(f"errors of {names} agree by {agreement(mine, theirs):.2f}")
    print(f"mean of all {len(runs)} runs' points: MRE {error_of_mean(points):.3f}")
    best, target = min(run_["final"]["mre"] for run_ in runs), TARGETS.get(name)
    if target is not None:
        print(f"\nbest MRE {best:.3f}, target {target:g}: {'met' if best <= target else 'MISSED'}")
    return target is None or best <= target


if __name__ == "__main__":
    sys.exit(main())
