"""How often is a row of look-alikes told right by a single model, and is its probability calibrated?

Called by look_alikes.py --row. A phantom of columns (`autolmk.phantom.rows`), two folds of 20 cases each; each
fold alone and both together predict the test cases, once member by member and once as a whole row. The plans are those
of `heatmap`, preset XS, but for windows of 48 x 64 px that show four bodies, a network of three stages that suits them,
and the length of training. A point is a gross error where it is further off than half the way to its neighbour; it is
flagged where the probability of its place is below 0.9.

Met where gross errors are at most 2 % in full view, in a partial view at most 5 % unflagged, and the expected
calibration error is at most 0.05, for both folds together and for each alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from correlated import set_folders
from real_data import command
from tqdm import tqdm

from autolmk import Predictor
from autolmk.dataset import Dataset
from autolmk.detections import Detections
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks
from autolmk.phantom import write_row_phantom
from autolmk.plans import Plans, replace_configuration
from autolmk.postprocessing.flags import SURE_ROW
from autolmk.prediction import stage
from autolmk.prediction.row_choice import Chosen

NAME, METHOD = "Dataset001_Rows", "heatmap"
MODEL = f"{METHOD}__autolmkPlans__{METHOD}"
N_TRAIN, FOLDS = 40, (0, 1)
WINDOW, STAGES, BATCH = (48, 64), 3, 12
MOST_GROSS, MOST_UNFLAGGED, MOST_MISCALIBRATED = 0.02, 0.05, 0.05
BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)


def rows_met(work: Path, row: int, partial: bool, arguments: argparse.Namespace) -> bool:
    """Train, predict and print the tables; whether the bounds are kept."""
    work = work / f"row_{row}{'_partial' if partial else ''}"
    raw = work / "raw" / NAME
    if not (raw / "dataset.json").is_file():
        write_row_phantom(raw, row=row, partial=partial, n_train=N_TRAIN, n_test=arguments.tests)
    train(work, arguments.steps, arguments.seed)
    truth = test_truth(raw)
    print(f"\nrow of {row}, {'a part' if partial else 'all'} of it in view, {len(truth)} test cases\n")
    print("| folds | points | gross by itself | gross as a row | unflagged | flagged | absent placed unflagged | ECE |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    met, tables = True, []
    for folds in ((0,), (1,), FOLDS):
        numbers, sure, right = figures(*predicted(work, folds), truth)
        met &= numbers["unflagged" if partial else "gross"] <= (MOST_UNFLAGGED if partial else MOST_GROSS)
        met &= numbers["ece"] <= MOST_MISCALIBRATED
        shares = (f"{numbers[k]:.1%}" for k in ("alone", "gross", "unflagged", "flagged", "absent"))
        named = ", ".join(map(str, folds))
        print(f"| {named} | {len(right)} | {' | '.join(shares)} | {numbers['ece']:.3f} |", flush=True)
        tables.append((named, reliability(sure, right)))
    for named, table in tables:
        print(f"\nfolds {named}\n\n| probability | points | mean | right |\n|---|---|---|---|\n{table}")
    print(f"\nbounds: {'met' if met else 'MISSED'}")
    return met


def train(work: Path, steps: int, seed: str) -> None:
    """Plans and both folds."""
    raw, preprocessed = work / "raw" / NAME, work / "preprocessed" / NAME
    set_folders(work, "results")
    command("plan_and_preprocess", "-d", "1", "-pl", METHOD, "--preset", "XS")
    file = preprocessed / "autolmkPlans.json"
    plans = Plans.load(file)
    c = plans.configuration(METHOD)
    a = c.architecture
    shallow = {key: getattr(a, key)[:STAGES] for key in ("features_per_stage", "kernel_sizes", "strides")}
    shallow |= {"n_conv_per_stage": a.n_conv_per_stage[:STAGES], "n_conv_per_stage_decoder": (2,) * (STAGES - 2)}
    replace_configuration(
        plans,
        METHOD,
        patch_size=WINDOW,
        batch_size=BATCH,
        architecture=replace(a, **shallow),
        windows=replace(c.windows, kind="random", holding=0.7),
        schedule=replace(c.schedule, epochs=1, iterations_per_epoch=steps, max_seconds=None),
    ).save(file)
    cases = sorted(case.identifier for case in Dataset.open(raw).cases("Tr"))
    halves = [cases[fold :: len(FOLDS)] for fold in FOLDS]
    splits = [{"train": sorted(set(cases) - set(half)), "val": half} for half in halves]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    for fold in FOLDS:
        command("train", "1", METHOD, str(fold), "--seed", seed, "--threads", "1", "--workers", "0")


def predicted(work: Path, folds: tuple[int, ...]) -> tuple[dict[str, FloatArray], dict[str, Detections]]:
    """What these folds say of the test cases: (each landmark's best candidate by itself, what they predict)."""
    predictor = Predictor(work / "results" / NAME / MODEL, folds=folds)
    alone: dict[str, FloatArray] = {}
    whole: dict[str, Detections] = {}
    for case in tqdm(Dataset.open(work / "raw" / NAME).cases("Ts"), "test cases", delay=2):
        with recorded() as seen:
            found = predictor.conclude(predictor.look(predictor.prepare(predictor.read(case.images))))
        alone[case.identifier], whole[case.identifier] = seen[0], found.detections
    return alone, whole


@contextmanager
def recorded() -> Iterator[list[FloatArray]]:
    """The best candidates that predictions go into the choice of rows with."""
    seen, choose = list[FloatArray](), stage.choose_rows

    def choose_recorded(candidates: FloatArray, *rest: Any) -> Chosen:
        seen.append(candidates[:, 0].copy())
        return choose(candidates, *rest)

    stage.choose_rows = choose_recorded
    try:
        yield seen
    finally:
        stage.choose_rows = choose


def test_truth(raw: Path) -> dict[str, Landmarks]:
    """The test cases' landmarks as annotated."""
    dataset = Dataset.open(raw)
    return {c.identifier: dataset.read_landmarks(c, dataset.read_image(c).geometry) for c in dataset.cases("Ts")}


def figures(
    alone: Mapping[str, FloatArray], whole: Mapping[str, Detections], truth: Mapping[str, Landmarks]
) -> tuple[dict[str, float], FloatArray, FloatArray]:
    """(shares of the points in view, and of absent ones; their probabilities; whether they are right)."""
    rows = []
    for case, found in whole.items():
        marks = truth[case].reordered(found.names)
        apart = np.linalg.norm(marks.points[:, None] - marks.points, axis=2)
        np.fill_diagonal(apart, np.nan)
        half = np.where(np.isfinite(apart), apart, np.inf).min(axis=1) / 2
        off = [np.linalg.norm(side - marks.points, axis=1) > half for side in (alone[case], found.best)]
        rows.append(np.stack([marks.present, *off, found.row], axis=1).astype(np.float64))
    present, before, after, sure = np.concatenate(rows).T
    there, flagged = present > 0, sure < SURE_ROW
    known = there & np.isfinite(sure)
    numbers = {
        "alone": before[there].mean(),
        "gross": after[there].mean(),
        "unflagged": (after * ~flagged)[there].mean(),
        "flagged": flagged[there].mean(),
        "absent": (sure >= SURE_ROW)[~there].mean() if (~there).any() else 0.0,
        "ece": calibration_error(sure[known], 1 - after[known]),
    }
    return {key: float(value) for key, value in numbers.items()}, sure[known], 1 - after[known]


def calibration_error(sure: FloatArray, right: FloatArray) -> float:
    """Expected: the mean over tenths of probability of the gap to the share that is right."""
    tenth = np.minimum((10 * sure).astype(int), 9)
    return float(sum(abs((sure - right)[tenth == k].sum()) for k in set(tenth.tolist())) / max(len(sure), 1))


def reliability(sure: FloatArray, right: FloatArray) -> str:
    """A line a bin of probability."""
    lines = []
    for low, high in itertools.pairwise(BINS):
        inside = (sure >= low) & ((sure < high) | (high == BINS[-1]))
        if inside.any():
            lines.append(
                f"| {low:g} to {high:g} | {inside.sum()} | {sure[inside].mean():.3f} | {right[inside].mean():.3f} |"
            )
    return "\n".join(lines)
