"""From how many cases on an interval says something: how often it holds the true value, and how wide it is.

python benchmarks/interval_cases.py --trials 400

Simulated errors are lognormal, larger in some cases than in others, and one point in fifty is eight times as far off.
The report states intervals of means and medians from `autolmk.report.wording.LEAST_CASES` cases on.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from autolmk.evaluation.bootstrap import Estimate, means, median, resample_cases

CASES = (5, 6, 8, 10, 12, 15, 20, 30)
OF_CASE, OF_POINT = 0.3, 0.6  # spread of the logarithm of errors: of cases, of points of a case
GROSS, TIMES = 0.02, 8.0
POPULATION = 400_000  # points that tell the true mean and median
RESAMPLES = 1000

Errors = npt.NDArray[np.float64]


def main() -> None:
    """A row a number of cases and of points a case, of the mean and of the median each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--trials", type=int, default=400, help="simulated datasets a row")
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    rng = np.random.default_rng(args.seed)
    print("| points a case | cases | mean: holds | width | widest tenth | median: holds | width | widest tenth |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for n_points in (10, 1):
        population = drawn(rng, POPULATION // n_points, n_points)
        true = float(population.mean()), float(np.median(population))
        for n_cases in CASES:
            draws = resample_cases(n_cases, RESAMPLES, args.seed)
            found: tuple[list[Estimate], list[Estimate]] = ([], [])
            for _ in range(args.trials):
                errors = drawn(rng, n_cases, n_points)
                counts = np.full((n_cases, 1), float(n_points))
                found[0].append(means(errors.sum(axis=1, keepdims=True), counts, draws)[0])
                found[1].append(median(list(errors), draws))
            cells = [cell for estimates, value in zip(found, true, strict=True) for cell in judged(estimates, value)]
            print(f"| {n_points} | {n_cases} | {' | '.join(cells)} |")


def drawn(rng: np.random.Generator, n_cases: int, n_points: int) -> Errors:
    """(n_cases, n_points) errors."""
    errors = np.exp(OF_CASE * rng.normal(size=(n_cases, 1)) + OF_POINT * rng.normal(size=(n_cases, n_points)))
    return np.where(rng.random(errors.shape) < GROSS, TIMES * errors, errors)


def judged(estimates: list[Estimate], true: float) -> tuple[str, str, str]:
    """Share of intervals that hold the true value; their width over it, the median and the 90th percentile."""
    known = [(e.low, e.high) for e in estimates if e.low is not None and e.high is not None]
    width = [(high - low) / true for low, high in known]
    held = np.mean([low <= true <= high for low, high in known])
    return f"{100 * held:.1f} %", f"{np.median(width):.2f}", f"{np.quantile(width, 0.9):.2f}"


if __name__ == "__main__":
    main()
