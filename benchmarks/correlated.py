"""Do windows that are seen together help landmarks that are ambiguous in their own? On a phantom with planted groups.

    python benchmarks/correlated.py [--work FOLDER] [--coarse 300] [--fine 1600] [--seeds 0 1 2] [--co_slice]

Two groups of landmarks lie on one slice each, and one landmark of each group on a rod that looks alike on all slices
(`autolmk.phantom`). For each seed a coarse stage is trained, and after it the fine stage twice, in equally many steps:
with the windows of a group seen together (`correlated`), and with each window seen alone. In both, the windows of a
group share their interval. The test cases are predicted without the co-slice step; with --co_slice also with it.

The plans are those of preset XS, but for networks half as wide and windows of 8 x 24 x 24 voxels (20 x 24 x 24 mm), so
that minutes suffice; --coarse and --fine are the stages' steps. Finished trainings are not repeated.

Exit code 1 where the fingerprint finds other groups than the planted ones, the gain on the ambiguous landmarks is below
30 %, or its interval holds zero.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
from real_data import command

from autolmk.evaluation.bootstrap import Estimate, means, resample_cases
from autolmk.geometry import FloatArray
from autolmk.phantom import write_phantom
from autolmk.phantom.anatomy import CO_SLICE
from autolmk.plans import Plans, replace_configuration

NAME, METHOD = "Dataset001_CoSlice", "coarse_to_fine"
COARSE = f"{NAME}/fine__autolmkPlans__{METHOD}/fold_all/{METHOD}_coarse"  # in a results folder
N_TRAIN, N_TEST = 24, 16
SIDE = (8, 24, 24)  # voxels of the fine stage's windows
LEAST_GAIN, RESAMPLES = 0.3, 10_000
ARMS = {"true": "seen together", "false": "each alone"}  # options.correlated
VARIANTS = {"off": ("--disable_co_slice",), "on": ()}  # the co-slice step
PLANTED = {axis: tuple(str(s.part_of) for s in group) for axis, group in CO_SLICE.items()}
AMBIGUOUS = tuple(str(s.part_of) for group in CO_SLICE.values() for s in group if inf in s.radii)


def main() -> int:
    """Plan once, train and predict both arms with each seed, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("benchmark_output/correlated"))
    parser.add_argument("--coarse", type=int, default=300, help="steps of a coarse stage")
    parser.add_argument("--fine", type=int, default=1600, help="steps of a fine stage")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--co_slice", action="store_true", help="also predict with the co-slice step")
    arguments = parser.parse_args()
    variants = tuple(VARIANTS) if arguments.co_slice else ("off",)
    work = arguments.work.resolve()
    raw = work / "raw" / NAME
    if not (raw / "dataset.json").is_file():
        write_phantom(raw, n_train=N_TRAIN, n_test=N_TEST, co_slice=True)
    set_folders(work, "results")
    command("plan_and_preprocess", "-d", "1", "-pl", METHOD, "--preset", "XS")
    shorten(work / "preprocessed" / NAME / "autolmkPlans.json", arguments.coarse, arguments.fine)
    for seed in arguments.seeds:
        for arm in ARMS:
            run(work, arm, seed, variants)
    found = groups_are_found(work / "preprocessed" / NAME / "dataset_fingerprint.json")
    return int(not (report(work, arguments.seeds, variants) and found))


def set_folders(work: Path, results: str) -> None:
    """Where the commands read and write."""
    for part, place in (("raw", "raw"), ("preprocessed", "preprocessed"), ("results", results)):
        os.environ[f"autolmk_{part}"] = str(work / place)


def shorten(file: Path, coarse: int, fine: int) -> None:
    """Narrower networks, smaller windows and so many steps a stage, in the plans."""
    plans = Plans.load(file)
    for name, steps in ((f"{METHOD}_coarse", coarse), (METHOD, fine)):
        c = plans.configuration(name)
        narrow = replace(c.architecture, features_per_stage=tuple(n // 2 for n in c.architecture.features_per_stage))
        schedule = replace(c.schedule, epochs=1, iterations_per_epoch=steps, max_seconds=None)
        plans = replace_configuration(plans, name, architecture=narrow, schedule=schedule)
    windows = replace(plans.configuration(METHOD).windows, least_side=SIDE)
    replace_configuration(plans, METHOD, patch_size=SIDE, windows=windows).save(file)


def run(work: Path, arm: str, seed: str, variants: Sequence[str]) -> None:
    """Train one arm, the second one on a copy of the first one's coarse stage, and predict."""
    own, other = (work / f"results_{a}_{seed}" / COARSE for a in (arm, "true"))
    if not own.exists() and other.exists():
        shutil.copytree(other, own)
    set_folders(work, f"results_{arm}_{seed}")
    command("train", "1", METHOD, "all", "--seed", seed, "--threads", "1", "--set", f"options.correlated={arm}")
    for name in variants:
        out, images = str(work / f"predictions_{arm}_{seed}_{name}"), str(work / "raw" / NAME / "imagesTs")
        command("predict", "-i", images, "-o", out, "-d", "1", "-c", METHOD, "-f", "all", *VARIANTS[name])
        command("evaluate", out, "-d", "1")


def groups_are_found(file: Path) -> bool:
    """Whether the fingerprint holds exactly the planted groups; said either way."""
    groups = json.loads(file.read_text())["co_slice_groups"]
    found = sorted((group["axis"], tuple(group["names"])) for group in groups)
    same = found == sorted(PLANTED.items())
    print(f"\ngroups found, by axis of the file: {found}; {'exactly' if same else 'NOT'} those planted")
    return same


def report(work: Path, seeds: Sequence[str], variants: Sequence[str]) -> bool:
    """Print errors and gains; whether the gain on the ambiguous landmarks is large and sure enough."""
    members = tuple(name for group in PLANTED.values() for name in group)
    print("\nmean error in mm over all seeds; gain of seeing windows together [95 % interval over cases]\n")
    print(f"| landmarks | co-slice step | {' | '.join(ARMS.values())} | gain | of each seed |")
    print("|---|---|---|---|---|---|")
    reached = False
    for variant in variants:
        for what, names in (("ambiguous", AMBIGUOUS), ("others of the groups", set(members) - set(AMBIGUOUS))):
            errors = {arm: np.array([by_case(work, arm, s, variant, names) for s in seeds]) for arm in ARMS}
            gain = gain_of(*(e.sum(axis=0) for e in errors.values()))
            means_ = [f"{e[..., 0].sum() / e[..., 1].sum():.2f}" for e in errors.values()]
            each = ", ".join(f"{1 - t[:, 0].sum() / a[:, 0].sum():.0%}" for t, a in zip(*errors.values(), strict=True))
            interval = "-" if gain.low is None else f"{gain.low:.0%} to {gain.high:.0%}"
            print(f"| {what} | {variant} | {' | '.join(means_)} | {gain.value:.0%} [{interval}] | {each} |")
            if variant == "off" and what == "ambiguous":
                reached = gain.value is not None and gain.value >= LEAST_GAIN and (gain.low or 0.0) > 0
    print(f"\nambiguous: {', '.join(AMBIGUOUS)}; gain of at least {LEAST_GAIN:.0%}: {'met' if reached else 'MISSED'}")
    return reached


def by_case(work: Path, arm: str, seed: str, variant: str, names: Collection[str]) -> FloatArray:
    """(N, 2): sum of the errors of some landmarks, mm, and their number, of each test case in order of names."""
    file = work / f"predictions_{arm}_{seed}_{variant}" / "evaluation" / "points.csv"
    cases: dict[str, list[float]] = {}
    with open(file, newline="") as stream:
        for row in csv.DictReader(stream):
            errors = cases.setdefault(row["case"], [])
            if row["landmark"] in names:
                errors.append(float(row["error"]))
    return np.array([(sum(errors), len(errors)) for _, errors in sorted(cases.items())], dtype=np.float64)


def gain_of(together: FloatArray, alone: FloatArray) -> Estimate:
    """1 - ratio of the errors' totals (N, 2), paired by case: both arms of a case are drawn together."""
    draws = resample_cases(len(alone), RESAMPLES, seed=0)
    (ratio,) = means(together[:, :1], alone[:, :1], draws)
    assert ratio.value is not None
    if ratio.low is None or ratio.high is None:
        return Estimate(1 - ratio.value)
    return Estimate(1 - ratio.value, 1 - ratio.high, 1 - ratio.low)


if __name__ == "__main__":
    sys.exit(main())
