"""Do error radii, paired tests, intervals and ensembles keep what they promise? On phantom predictions and simulations.

    taskset -c 0 python benchmarks/calibration.py [--work FOLDER] [--max-time 5m]

A phantom of 20 training and 140 test cases is written, the XS heatmap is trained for a few minutes on one thread, and
the test cases are predicted. Then, each time drawn anew:

- the error radius is calibrated on 40 test cases and its coverage counted on the other 100, fifty times; with 8 cases
  it must decline;
- four members are made of the predictions, with noise and gross errors of their own, and a fifth one that is as good on
  the 40 cases that the combination is fitted on and gives random points on the other 100, as sure as ever;
- equal configurations are compared 2,000 times, and the interval of the MRE is computed 2,000 times, by simulation.

Finished steps are not repeated. Exit code 1 where a bound is missed.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from real_data import command
from tqdm import tqdm

from autolmk.dataset import Dataset
from autolmk.detections import Detections, file_of
from autolmk.evaluation import penalties, point_errors
from autolmk.evaluation.bootstrap import means, resample_cases
from autolmk.evaluation.comparison import paired_test
from autolmk.fold.held_out import CrossValidation
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks
from autolmk.phantom import write_phantom
from autolmk.selection.ensembling import choose_combination, combine
from autolmk.selection.error_radius import fit_error_radius
from autolmk.shapes.pose import fit_similarity, mean_shape

NAME = "Dataset001_Phantom"
N_TRAIN, N_TEST, N_CALIBRATION, N_FEW = 20, 140, 40, 8
RECALIBRATIONS, SIMULATIONS = 50, 2000
LEVEL, COVERAGE = 0.9, (0.88, 0.95)
NULL_RATE, INTERVAL = 0.06, (0.92, 0.97)
ROBUSTNESS = 0.05  # relative change of the MRE
NOISE, GROSS = 0.4, 0.03  # of a made member: mm an axis, share of points anywhere in the image


@dataclass(frozen=True)
class Phantom:
    """detections and truth: of the test cases. residual: case -> (L,) mm from the fitted mean shape of the training
    annotations."""

    detections: dict[str, Detections]
    truth: dict[str, Landmarks]
    residual: dict[str, FloatArray]

    def errors(self) -> FloatArray:
        """(N, L) mm, NaN where not present."""
        diagonals = {case: math.hypot(*d.geometry.extent) for case, d in self.detections.items()}
        penalty = penalties(self.truth, diagonals)
        rows = [point_errors(marks, self.detections[c].best, penalty[c])[0] for c, marks in self.truth.items()]
        return np.stack(rows)

    def statistics(self) -> dict[str, FloatArray]:
        """(N, L) each."""
        found = [self.detections[case] for case in self.truth]
        return {
            "spread": np.stack([d.spread for d in found]),
            "log_odds": np.stack([d.log_odds[:, 0] for d in found]),
            "shape_residual": np.stack([self.residual[case] for case in self.truth]),
        }


def main() -> int:
    """Everything; the table is printed as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("benchmark_output/calibration"))
    parser.add_argument("--max-time", default="5m", help="of training")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn after prediction")
    arguments = parser.parse_args()
    phantom = predicted(arguments.work.resolve(), arguments.max_time)
    reached = [
        *radius_covers(phantom, arguments.seed),
        members_do_not_matter(phantom, arguments.seed),
        null_test(arguments.seed),
        interval_covers(arguments.seed),
    ]
    print(f"\n{sum(reached)} of {len(reached)} bounds met")
    return int(not all(reached))


def check(what: str, found: str, bound: str, met: bool) -> bool:
    """Print a line; returns whether the bound is met."""
    print(f"{what:68} {found:>22}   {bound:24} {'met' if met else 'MISSED'}", flush=True)
    return met


# -- phantom predictions ----------------------------------------------------------------------------------------------


def predicted(work: Path, max_time: str) -> Phantom:
    """Write, plan, train and predict, as far as that was not done."""
    raw = work / "raw" / NAME
    if not (raw / "dataset.json").is_file():
        write_phantom(raw, n_train=N_TRAIN, n_test=N_TEST)
    for part in ("raw", "preprocessed", "results"):
        os.environ[f"autolmk_{part}"] = str(work / part)
    command("plan_and_preprocess", "-d", "1", "-pl", "heatmap", "--preset", "XS")
    command("train", "1", "heatmap", "0", "--max-time", max_time, "--threads", "1")
    dataset = Dataset.open(raw)
    predict(dataset, work / "results" / NAME / "heatmap__autolmkPlans__heatmap", work / "predictions")
    cases = dataset.cases("Ts")
    found = {case.identifier: Detections.load(work / "predictions", case.identifier) for case in cases}
    truth = {c.identifier: dataset.read_landmarks(c, found[c.identifier].geometry) for c in cases}
    geometries = {c.identifier: dataset.read_image(c).geometry for c in dataset.cases("Tr")}
    training = [dataset.read_landmarks(c, geometries[c.identifier]) for c in dataset.cases("Tr")]
    shape = mean_shape(np.stack([marks.points for marks in training])).points
    residual = {case: fit_similarity(shape, detections.best).residuals for case, detections in found.items()}
    phantom = Phantom(found, truth, residual)
    errors = phantom.errors()
    middle, high = np.nanquantile(errors, [0.5, 0.9])
    print(f"\n{len(found)} test cases: MRE {np.nanmean(errors):.3f} mm, median {middle:.3f} mm, 90 % {high:.3f} mm\n")
    return phantom


def predict(dataset: Dataset, model: Path, folder: Path) -> None:
    """Save the detections of the test cases that have none."""
    left = [case for case in dataset.cases("Ts") if not file_of(folder, case.identifier).is_file()]
    if not left:
        return
    import torch

    from autolmk import Predictor

    torch.set_num_threads(1)
    predictor = Predictor(model, folds=[0], device="cpu")
    for case in tqdm(left, "predict"):
        prediction = predictor.conclude(
            predictor.look(predictor.prepare(predictor.read(list(case.images), case.identifier)))
        )
        prediction.detections.save(folder, case.identifier)


# -- error radius -----------------------------------------------------------------------------------------------------


def radius_covers(phantom: Phantom, seed: int) -> list[bool]:
    """Coverage and median radius over recalibrations, and that few cases are declined."""
    statistics, errors = phantom.statistics(), phantom.errors()
    names = next(iter(phantom.truth.values())).names
    covered, radii, correlations = [], [], []
    for i in tqdm(range(RECALIBRATIONS), "recalibrate", delay=2, leave=False):
        order = np.random.default_rng([seed, i]).permutation(len(errors))
        some, rest = order[:N_CALIBRATION], order[N_CALIBRATION:]
        fitted = fit_error_radius(
            {k: v[some] for k, v in statistics.items()}, errors[some], names=names, level=LEVEL, seed=i
        )
        new = {k: v[rest] for k, v in statistics.items()}
        known = np.isfinite(errors[rest])
        covered.append((errors[rest] <= fitted.radius(new))[known].mean())
        radii.append(np.median(fitted.radius(new)[known]))
        correlations.append(rank_correlation(fitted.expected(new)[known], errors[rest][known]))
    few = {k: v[:N_FEW] for k, v in statistics.items()}
    declined = fit_error_radius(few, errors[:N_FEW], names=names, level=LEVEL, seed=seed)
    low, high = COVERAGE
    mean = float(np.mean(covered))
    print(f"rank correlation of expected and true errors: {np.mean(correlations):.2f}")
    print(f"median radius: {np.median(radii):.2f} mm (medians of {min(radii):.2f} to {max(radii):.2f} mm)")
    print(f"with {N_FEW} cases: {declined.why}")
    what = f"coverage of the {LEVEL:.0%} radius, {N_CALIBRATION} cases, mean of {RECALIBRATIONS}"
    no_number = declined.quantile is None and bool(np.isnan(declined.radius({k: v[0] for k, v in few.items()})).all())
    return [
        check(what, f"{mean:.1%} (sd {np.std(covered):.1%})", f"{low:.0%} to {high:.0%}", low <= mean <= high),
        check(f"with {N_FEW} cases", "declined" if no_number else "a number", "declined", no_number),
    ]


def rank_correlation(one: FloatArray, other: FloatArray) -> float:
    """Spearman's."""
    return float(np.corrcoef(*(np.argsort(np.argsort(values)) for values in (one, other)))[0, 1])


# -- a member that gives random points --------------------------------------------------------------------------------


def members_do_not_matter(phantom: Phantom, seed: int) -> bool:
    """MRE of four members and of the same with a fifth that fails where the ensemble is judged."""
    rng = np.random.default_rng([seed, 2])
    order = [sorted(phantom.truth)[i] for i in rng.permutation(len(phantom.truth))]
    fitting, judged = order[:N_CALIBRATION], order[N_CALIBRATION:]
    members = {name: {c: perturbed(rng, d) for c, d in phantom.detections.items()} for name in "abcde"}
    random = {case: anywhere(rng, members["e"][case]) for case in judged}
    errors = {name: mre(phantom, {c: found[c] for c in judged}) for name, found in members.items()}
    errors |= {"four": ensemble(phantom, {k: members[k] for k in "abcd"}, fitting, judged, seed)}
    errors |= {"five": ensemble(phantom, members, fitting, judged, seed)}
    errors |= {"random": mre(phantom, random)}
    errors |= {"spoilt": ensemble(phantom, members | {"e": members["e"] | random}, fitting, judged, seed)}
    singles = ", ".join(f"{errors[name]:.2f}" for name in "abcde")
    print(f"\nmembers' MRE: {singles} mm; of the random points {errors['random']:.1f} mm")
    print(f"ensemble of four {errors['four']:.3f} mm, with a good fifth {errors['five']:.3f} mm, ", end="")
    print(f"with the random fifth {errors['spoilt']:.3f} mm")
    change = errors["spoilt"] / errors["four"] - 1
    return check(
        "a fifth member of random points changes the MRE by",
        f"{change:+.1%}",
        f"within {ROBUSTNESS:.0%}",
        abs(change) < ROBUSTNESS,
    )


def perturbed(rng: np.random.Generator, found: Detections) -> Detections:
    """A member like `found` with errors of its own: noise, and a few points anywhere that look a little less sure."""
    candidates = found.candidates + rng.normal(0, NOISE, found.candidates.shape)
    odds = found.log_odds + rng.normal(0, 0.5, found.log_odds.shape)
    gross = rng.random(len(found.names)) < GROSS
    candidates[gross, 0] = random_places(rng, found, int(gross.sum()))
    odds[gross, 0] -= 2.0
    return replace(found, candidates=candidates, log_odds=odds)


def anywhere(rng: np.random.Generator, found: Detections) -> Detections:
    """As sure as `found`, with every candidate at a random place of the image."""
    places = random_places(rng, found, found.log_odds.size).reshape(found.candidates.shape)
    return replace(found, candidates=np.where(np.isfinite(found.candidates), places, np.nan))


def random_places(rng: np.random.Generator, found: Detections, n: int) -> FloatArray:
    """(n, P) mm, in the image."""
    return found.geometry.to_physical(rng.uniform(-0.5, np.array(found.geometry.shape) - 0.5, (n, found.geometry.ndim)))


def ensemble(
    phantom: Phantom,
    members: Mapping[str, Mapping[str, Detections]],
    fitting: Sequence[str],
    judged: Sequence[str],
    seed: int,
) -> float:
    """MRE on the judged cases of members combined as the others chose."""
    fold_of = {case: i % 5 for i, case in enumerate(fitting)}
    truth = {case: phantom.truth[case] for case in fitting}
    models = {k: CrossValidation(k, fold_of, {c: found[c] for c in fitting}, truth) for k, found in members.items()}
    combination, _, evidence = choose_combination(models, seed=seed)
    print(f"  {len(members)} members: {combination.rule}; {evidence['why']}")
    return mre(phantom, {case: combine([m[case] for m in members.values()], combination) for case in judged})


def mre(phantom: Phantom, found: Mapping[str, Detections]) -> float:
    """mm, over all present points."""
    return float(np.nanmean(Phantom(dict(found), {c: phantom.truth[c] for c in found}, {}).errors()))


# -- simulations ------------------------------------------------------------------------------------------------------


def null_test(seed: int, n_cases: int = 36, n_landmarks: int = 12) -> bool:
    """How often two equal configurations are called different."""
    rng = np.random.default_rng([seed, 3])
    significant = 0
    for i in tqdm(range(SIMULATIONS), "null test", delay=2, leave=False):
        shared = rng.normal(0, 0.4, (n_cases, 1)) + rng.normal(0, 0.4, n_landmarks)
        means_ = []
        for _ in range(2):
            own = rng.normal(0, 0.3, (n_cases, 1)) + rng.normal(0, 0.5, (n_cases, n_landmarks))
            means_.append(np.exp(shared + own).mean(axis=1))
        significant += paired_test(*means_, seed=i) < 0.05
    rate = significant / SIMULATIONS
    what = f"equal configurations called different, {SIMULATIONS} comparisons"
    return check(what, f"{rate:.1%}", f"at most {NULL_RATE:.0%}", rate <= NULL_RATE)


def interval_covers(seed: int, n_cases: int = 36, sigma: float = 0.5) -> bool:
    """How often the MRE's interval holds the true mean of lognormal errors that are shared by a case's points."""
    rng = np.random.default_rng([seed, 4])
    true, hits = np.exp(sigma**2 / 2), 0
    for i in tqdm(range(SIMULATIONS), "intervals", delay=2, leave=False):
        sums = rng.lognormal(0, sigma, (n_cases, 1))
        (estimate,) = means(sums, np.ones_like(sums), resample_cases(n_cases, 2000, i))
        assert estimate.low is not None and estimate.high is not None
        hits += estimate.low <= true <= estimate.high
    rate = hits / SIMULATIONS
    what = f"95 % intervals of the MRE that hold the truth, {n_cases} cases, {SIMULATIONS} times"
    low, high = INTERVAL
    return check(what, f"{rate:.1%}", f"{low:.0%} to {high:.0%}", low <= rate <= high)


if __name__ == "__main__":
    sys.exit(main())
