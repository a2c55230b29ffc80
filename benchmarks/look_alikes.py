"""Are look-alikes told apart? By the shape prior, on a phantom with a row of balls; by the choice of whole rows.

    python benchmarks/look_alikes.py [--work FOLDER] [--steps 600] [--seed 0]
    python benchmarks/look_alikes.py --row 12 [--partial] [--work FOLDER] [--steps 600] [--seed 0] [--tests 200]

With --row it measures rows of so many bodies, of which images show a part with --partial: see `look_alike_rows`. Else:

The windows of the network show a ball and its neighbours, and not which of the row they are (`autolmk.phantom`). Two
folds are trained; the steps of postprocessing are chosen and fitted on what each of them says of its held-out cases,
and applied to what both together say of the test cases. A point is a gross error where it is further from its
own structure than half the way from there to the nearest other one: where it may be a neighbour's.

The plans are those of `heatmap`, preset XS, but for windows of 8 x 16 x 16 voxels (20 x 16 x 16 mm) and a network
of three stages, which suits them; --steps is the length of training. Mirror partners are taken out of the plans, and
points are not drawn toward the mean shape: prediction itself would use the shape otherwise. For the same reason the row
that training finds is not chosen as a whole. Finished steps are not repeated.

Exit code 1 where the shape prior removes fewer than 80 % of the gross errors, or worsens the mean error of a landmark
by more than 1 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from correlated import set_folders
from look_alike_rows import rows_met
from real_data import command
from tqdm import tqdm

from autolmk import Predictor
from autolmk.dataset import Dataset
from autolmk.detections import Detections, saved_cases
from autolmk.fold.held_out import read_crossval
from autolmk.fold.measured import Measured
from autolmk.landmarks import Landmarks
from autolmk.phantom import write_phantom
from autolmk.plans import Plans, replace_configuration
from autolmk.postprocessing import Context, choose_steps
from autolmk.postprocessing.context import errors_of

NAME, METHOD = "Dataset001_LookAlikes", "heatmap"
MODEL = f"{METHOD}__autolmkPlans__{METHOD}"
N_TRAIN, N_TEST, FOLDS = 24, 40, (0, 1)
WINDOW, STAGES, BATCH = (8, 16, 16), 3, 12
LEAST_REMOVED, MOST_WORSENED = 0.8, 0.01


def main() -> int:
    """Train, predict, postprocess, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("benchmark_output/look_alikes"))
    parser.add_argument("--steps", type=int, default=600, help="of each fold's training")
    parser.add_argument("--seed", default="0", help="of training")
    parser.add_argument("--row", type=int, help="measure the choice of rows of so many bodies instead")
    parser.add_argument("--partial", action="store_true", help="with --row: images show a part of it")
    parser.add_argument("--tests", type=int, default=200, help="with --row: test cases")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    if arguments.row:
        return int(not rows_met(work, arguments.row, arguments.partial, arguments))
    train(work, arguments.steps, arguments.seed)
    predict(work)
    return int(not report(work))


def train(work: Path, steps: int, seed: str) -> None:
    """Data, plans and both folds."""
    raw, preprocessed = work / "raw" / NAME, work / "preprocessed" / NAME
    if not (raw / "dataset.json").is_file():
        write_phantom(raw, n_train=N_TRAIN, n_test=N_TEST, look_alikes=True)
    set_folders(work, "results")
    command("plan_and_preprocess", "-d", "1", "-pl", METHOD, "--preset", "XS")
    shorten(preprocessed / "autolmkPlans.json", steps)
    split_in_two(raw, preprocessed / "splits_final.json")
    for fold in FOLDS:
        command("train", "1", METHOD, str(fold), "--seed", seed, "--threads", "1", "--workers", "0")
        folder = work / "results" / NAME / MODEL / f"fold_{fold}"
        measured = Measured.load(folder)
        if measured.rows is not None and measured.rows.rows:
            replace(measured, rows=None).save(folder)
            command("train", "1", METHOD, str(fold), "--val", "--threads", "1")


def shorten(file: Path, steps: int) -> None:
    """Small windows, a shallow network, no mirror partners and so many steps, in the plans."""
    plans = Plans.load(file)
    c = plans.configuration(METHOD)
    a = c.architecture
    shallow = {key: getattr(a, key)[:STAGES] for key in ("features_per_stage", "kernel_sizes", "strides")}
    shallow |= {
        "n_conv_per_stage": a.n_conv_per_stage[:STAGES],
        "n_conv_per_stage_decoder": (2,) * (STAGES - 2),
    }
    plans = replace(plans, pairs=())
    replace_configuration(
        plans,
        METHOD,
        patch_size=WINDOW,
        batch_size=BATCH,
        shape_prior=False,
        architecture=replace(a, **shallow),
        windows=replace(c.windows, kind="random", holding=0.7),
        schedule=replace(c.schedule, epochs=1, iterations_per_epoch=steps, max_seconds=None),
    ).save(file)


def split_in_two(raw: Path, file: Path) -> None:
    """Each fold holds out one half of the cases."""
    cases = sorted(case.identifier for case in Dataset.open(raw).cases("Tr"))
    halves = [cases[fold :: len(FOLDS)] for fold in FOLDS]
    file.write_text(json.dumps([{"train": sorted(set(cases) - set(half)), "val": half} for half in halves]))


def predict(work: Path) -> None:
    """What both folds together say of each test case, into the folder `predictions`."""
    raw, out = work / "raw" / NAME, work / "predictions"
    cases = Dataset.open(raw).cases("Ts")
    left = [case for case in cases if case.identifier not in saved_cases(out)]
    if left:
        predictor = Predictor(work / "results" / NAME / MODEL, folds=FOLDS)
        for case in tqdm(left, "test cases", delay=2):
            predictor.conclude(predictor.look(predictor.prepare(predictor.read(case.images)))).detections.save(
                out, case.identifier
            )


def report(work: Path) -> bool:
    """Choose the steps, apply them to the test cases and print the tables; whether the bounds are kept."""
    model = read_crossval(work / "results" / NAME / MODEL, FOLDS)
    plans = Plans.load(work / "preprocessed" / NAME / "autolmkPlans.json")
    result, _, _, evidence = choose_steps(model, Context.of(plans))
    for step in evidence:
        print(f"{step['name']}: {'kept' if step['kept'] else 'not kept'}: {step['why']}")
    found = {case: Detections.load(work / "predictions", case) for case in saved_cases(work / "predictions")}
    truth = test_truth(work / "raw" / NAME, plans.landmarks)
    after = {case: result.apply(detections) for case, detections in found.items()}
    errors = [np.stack([errors_of(side[case], truth[case]) for case in sorted(found)]) for side in (found, after)]
    gross = [np.stack([gross_errors(side[case], truth[case]) for case in sorted(found)]) for side in (found, after)]
    flagged = np.array([[bool(flags) for flags in result.judge(after[case]).flags] for case in sorted(found)])
    print(f"\n{len(found)} test cases\n\n| landmark | gross errors before | after | MRE before, mm | after |")
    print("|---|---|---|---|---|")
    worst = 0.0
    for i, name in enumerate(plans.landmarks):
        before, later = (float(np.nanmean(e[:, i])) for e in errors)
        worst = max(worst, later / before - 1)
        print(f"| {name} | {gross[0][:, i].sum()} | {gross[1][:, i].sum()} | {before:.3f} | {later:.3f} |")
    before, later = (int(g.sum()) for g in gross)
    removed = 1 - later / before if before else 0.0
    met = removed >= LEAST_REMOVED and worst <= MOST_WORSENED
    points = int(np.isfinite(errors[0]).sum())
    print(f"| all | {before} | {later} | {np.nanmean(errors[0]):.3f} | {np.nanmean(errors[1]):.3f} |\n")
    print(f"gross errors: {before} of {points} points before, {later} after: {removed:.1%} removed")
    print(f"landmark that is worsened most: by {worst:.2%} of its mean error")
    print(f"flagged after: {flagged.mean():.1%} of points, {(flagged & gross[1]).sum()} of {later} gross errors")
    print(f"at least {LEAST_REMOVED:.0%} removed, none worsened by more than {MOST_WORSENED:.0%}: ", end="")
    print("met" if met else "MISSED")
    return met


def test_truth(raw: Path, names: Sequence[str]) -> dict[str, Landmarks]:
    """The test cases' landmarks as annotated."""
    dataset = Dataset.open(raw)
    cases = {case.identifier: (case, dataset.read_image(case).geometry) for case in dataset.cases("Ts")}
    return {name: dataset.read_landmarks(case, grid).reordered(names) for name, (case, grid) in cases.items()}


def gross_errors(found: Detections, truth: Landmarks) -> npt.NDArray[np.bool_]:
    """(L,) whether a point is further from its own structure than half the way from there to the nearest other one."""
    apart = np.linalg.norm(truth.points[:, None] - truth.points, axis=2)
    np.fill_diagonal(apart, np.nan)
    nearest = np.where(np.isfinite(apart), apart, np.inf).min(axis=1)
    return np.asarray(errors_of(found, truth) > nearest / 2)


if __name__ == "__main__":
    sys.exit(main())
