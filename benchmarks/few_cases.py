"""Five and ten annotated cases: what each method reaches, from fresh weights and from those of another dataset.

    python benchmarks/few_cases.py --data FOLDER [--names fly_wing phantom ...] [--cases 5 10] [--methods heatmap ...]
                                   [--max-time 10m] [--weights phantom] [--against WORK]

Of a set's training cases the first ones of a shuffled list are taken, the same for all methods and every time, those
of 5 among those of 10; all of its test cases are predicted. `phantom` is generated (`autolmk.phantom`, 2D); the other
names are folders below --data, see real_data.py. Each run trains for --max-time, all stages of the method included,
writes WORK/SET_CASES/METHOD_SEED.json, and is not repeated.

--weights SET also trains each method on all training cases of that set, and starts every run a second time from there
(`-pretrained_weights`). --against names the --work of another call, such as one with another version of autolmk on
PYTHONPATH: its rows stand beside, with how much lower the errors are now, paired over the test cases.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from correlated import set_folders
from methods import METHODS, figures, steps
from real_data import build_raw, command

from autolmk.evaluation.bootstrap import resample_cases
from autolmk.evaluation.comparison import relative_loss
from autolmk.phantom import write_phantom

PHANTOM, SIZE, N_TRAIN, N_TEST = "phantom", 96, 40, 30
ALL, N_RESAMPLES = 0, 2000


@dataclass(frozen=True)
class Run:
    """A training and its test. n: of the training cases of the set `name`, ALL of them where it is 0. weights: set
    whose weights it starts from."""

    name: str
    n: int
    method: str
    seed: str
    weights: str | None = None

    def folder(self, work: Path) -> Path:
        """Of all runs on these cases."""
        return work / f"{self.name}_{self.n or 'all'}"

    @property
    def label(self) -> str:
        """Of its files."""
        return f"{self.method}_{self.seed}" + (f"_from_{self.weights}" if self.weights else "")

    def record(self, work: Path) -> Path:
        """Where its result lies."""
        return self.folder(work) / f"{self.label}.json"


def main() -> int:
    """Run what has not been run, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("benchmark_output/few_cases"))
    parser.add_argument("--names", nargs="+", default=["mouse_ct_small", "fly_wing", PHANTOM])
    parser.add_argument("--cases", nargs="+", type=int, default=[5, 10])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", nargs="+", default=["0"])
    parser.add_argument("--max-time", default="10m", help="of a run")
    parser.add_argument("--weights", metavar="SET", help="whose weights runs start from, too")
    parser.add_argument("--against", type=Path, metavar="WORK")
    parser.add_argument("--threads", default=None)
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if arguments.data is None and {*arguments.names, arguments.weights} - {PHANTOM, None}:
        parser.error("--data is needed for all sets but phantom")
    work, starts = arguments.work.resolve(), [None, arguments.weights] if arguments.weights else [None]
    runs = [
        Run(name, n, method, seed, start)
        for name in arguments.names
        for n in arguments.cases
        for method in arguments.methods
        for seed in arguments.seeds
        for start in starts
    ]
    for run in [] if arguments.table else runs:
        carry_out(run, arguments, work)
    table([run for run in runs if run.record(work).is_file()], work, arguments.against)
    return 0


def carry_out(run: Run, arguments: argparse.Namespace, work: Path) -> None:
    """Plan, train, predict and evaluate, unless the result is there."""
    if run.record(work).is_file():
        return
    given: list[str] = []
    if run.weights is not None:
        source = Run(run.weights, ALL, run.method, run.seed)
        given = ["-pretrained_weights", str(train(source, arguments, work, []))]
    fold = train(run, arguments, work, given).parent
    plans, folder = f"{run.label}Plans", run.folder(work)
    found = {"run": run.__dict__, "budget": arguments.max_time}
    staged = json.loads((fold / "config.json").read_text())["configuration"]["previous_stage"]
    for variant, options in {"final": [], **({"first_stage": ["--stages", "1"]} if staged else {})}.items():
        out = folder / f"predictions_{run.label}_{variant}"
        images = str(raw_folder(run, arguments, folder) / "imagesTs")
        command(
            "predict", "-i", images, "-o", str(out), "-d", "1", "-p", plans, "-c", run.method, "-f", "all", *options
        )
        command("evaluate", str(out), "-d", "1")
        found[variant] = figures(out)
        found["cases" if variant == "final" else "first_stage_cases"] = totals(out)
    found["steps"] = steps(folder / "results", plans)
    run.record(work).write_text(json.dumps(found, indent=2) + "\n")


def train(run: Run, arguments: argparse.Namespace, work: Path, given: Sequence[str]) -> Path:
    """Plan and train; the fold's checkpoint. What is finished is not repeated."""
    folder, plans = run.folder(work), f"{run.label}Plans"
    raw = raw_folder(run, arguments, folder)
    set_folders(folder, "results")
    trained = f"results/{raw.name}/*__{plans}__{run.method}/fold_all/checkpoint_final.safetensors"
    if not list(folder.glob(trained)):
        command(
            "plan_and_preprocess", "-d", "1", "--preset", "XS", "-pl", run.method, "-overwrite_plans_name", plans,
        )  # fmt: skip
        threads = ["--threads", arguments.threads, "--workers", "0"] if arguments.threads else []
        command(
            "train", "1", run.method, "all", "-p", plans, "--max-time", arguments.max_time, "--seed", run.seed,
            *threads, *given,
        )  # fmt: skip
    (checkpoint,) = folder.glob(trained)
    return checkpoint


def raw_folder(run: Run, arguments: argparse.Namespace, folder: Path) -> Path:
    """The raw dataset of these training cases, built where it is not there."""
    raw = folder / "raw" / f"Dataset001_{run.name}"
    if (raw / "dataset.json").is_file():
        return raw
    if run.name == PHANTOM:
        return some_phantoms(raw, run.n)
    source, original = folder / "source" / run.name, arguments.data / run.name
    source.mkdir(parents=True, exist_ok=True)
    for part in ("images", "landmarks.csv"):
        if not (source / part).exists():
            os.symlink((original / part).resolve(), source / part)
    split = json.loads((original / "split.json").read_text())
    split["train"] = chosen(split["train"], run.n)
    (source / "split.json").write_text(json.dumps(split))
    return build_raw(source, folder / "raw", run.name)


def some_phantoms(raw: Path, n: int) -> Path:
    """Phantoms of which all but n training cases are taken away again, so that the test cases are always the same."""
    place = raw.with_name("all")
    write_phantom(place, n_train=N_TRAIN, n_test=N_TEST, ndim=2, size=SIZE)
    cases = sorted(file.stem for file in (place / "landmarksTr").iterdir())
    for case in set(cases) - set(chosen(cases, n)):
        for file in (*(place / "landmarksTr").glob(f"{case}.*"), *(place / "imagesTr").glob(f"{case}_0*")):
            file.unlink()
    description = json.loads((place / "dataset.json").read_text())
    description["numTraining"] = n or len(cases)
    (place / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
    shutil.move(place, raw)
    return raw


def chosen(cases: Sequence[str], n: int) -> list[str]:
    """n of the cases, all of them where n is 0; the same ones every time."""
    shuffled = [sorted(cases)[i] for i in np.random.default_rng(0).permutation(len(cases))]
    return sorted(shuffled[: n or None])


def totals(predictions: Path) -> dict[str, tuple[float, int]]:
    """case -> sum of its points' errors, and their number."""
    found: dict[str, tuple[float, int]] = {}
    with open(predictions / "evaluation" / "points.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["error"]:
                total, count = found.get(row["case"], (0.0, 0))
                found[row["case"]] = (total + float(row["error"]), count + 1)
    return found


def change(now: dict[str, Any], before: dict[str, Any], key: str = "cases") -> str:
    """How much the MRE changed, relative to before, with its interval paired over cases."""
    if now[key].keys() != before[key].keys():
        return "other test cases"
    ours, theirs = (np.array([r[key][case] for case in sorted(now[key])], dtype=float) for r in (now, before))
    found = relative_loss(ours, theirs, resample_cases(len(ours), N_RESAMPLES, 0))
    if found.value is None or found.low is None or found.high is None:
        return "-"
    return f"{found.value:+.1%} [{found.low:+.1%}, {found.high:+.1%}]"


def table(runs: Sequence[Run], work: Path, against: Path | None) -> None:
    """Print the runs as Markdown, those of another version and those from fresh weights beside."""
    columns = "set, cases, method, seed, from, MRE [95 %], median, SDR 4, first stage, steps, s a case, change"
    print(f"\n| {columns.replace(', ', ' | ')} |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for run in runs:
        now = json.loads(run.record(work).read_text())
        other = run.record(against.resolve()) if against is not None else None
        fresh = Run(run.name, run.n, run.method, run.seed).record(work)
        if other is not None and other.is_file():
            before = json.loads(other.read_text())
            print_row(run, before, "before")
            print_row(run, now, f"from before: {change(now, before)}")
        elif run.weights is not None and fresh.is_file():
            print_row(run, now, f"from fresh weights: {change(now, json.loads(fresh.read_text()))}")
        else:
            print_row(run, now, "")


def print_row(run: Run, found: dict[str, Any], note: str) -> None:
    """A line of the table."""
    final, first = found["final"], found.get("first_stage")
    cells = [
        run.name,
        str(run.n),
        run.method,
        run.seed,
        run.weights or "fresh",
        f"{final['mre']:.3f} [{final['mre_low']:.3f}, {final['mre_high']:.3f}]",
        f"{final['median']:.3f}",
        f"{100 * final['sdr_4']:.1f} %",
        "-" if first is None else f"{first['mre']:.3f}",
        " + ".join(str(count) for count in found["steps"].values()),
        f"{final['seconds_a_case']:.2f}",
        note,
    ]
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
