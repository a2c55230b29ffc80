"""The comparison of several predictors: paired tests over cases, Holm's correction, and the simplest one that is good
enough.

Cases are the unit: the points of one case hang together. Shapes: N cases; n_i points of case i.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autolmk.evaluation.accuracy import RADII
from autolmk.evaluation.bootstrap import Draws, Estimate, means, median, resample_cases, shares
from autolmk.geometry import FloatArray

TOLERATED = 0.02  # relative loss in MRE against the best that a simpler predictor may have, at most
N_RESAMPLES = 2000
N_FLIPS = 10_000
EXACT = 12  # cases up to which all sign flips are tried
CHUNK = 1000  # flips at a time


@dataclass(frozen=True, eq=False)
class Candidate:
    """A predictor that may be chosen. members: names of the models that it combines. n_stages, n_parameters: of all
    members together, of one fold. errors: of all annotated points of each case, (n_i,) mm, the cases of all candidates
    in the same order. swaps: of left and right.
    """

    members: tuple[str, ...]
    n_stages: int
    n_parameters: int
    errors: tuple[FloatArray, ...]
    swaps: int = 0

    def totals(self) -> FloatArray:
        """The sum of the errors and the number of points of each case, (N, 2)."""
        return np.array([(e.sum(), len(e)) for e in self.errors], dtype=np.float64)

    @property
    def size(self) -> tuple[int, int, int]:
        """The key that sorts candidates, the simplest one first."""
        return len(self.members), self.n_stages, self.n_parameters


@dataclass(frozen=True)
class Comparison:
    """The comparison of one candidate with the best one. mre, median: mm or px. sdr: by radius, share of points within
    it. loss_against_best: relative, of the MRE, paired over cases; 0 of the best one. p: of the paired test against the
    best one, p_holm: corrected for all of them; None of the best one.
    """

    members: tuple[str, ...]
    n_stages: int
    parameters: int
    mre: Estimate
    median: Estimate
    sdr: dict[str, Estimate]
    swaps: int
    loss_against_best: Estimate
    p: float | None
    p_holm: float | None


def paired_test(one: FloatArray, other: FloatArray, *, seed: int, n: int = N_FLIPS) -> float:
    """Two-sided p-value of the sign-flip permutation test (Fisher 1935; Good, Permutation Tests, 2000) that the mean
    difference of two vectors (N,), such as mean errors a case, is 0.

    Under the null hypothesis the two are exchangeable within a case, so that each difference may have either sign. All
    2^N flips are tried for up to 12 cases, else n random ones. ValueError where shapes differ.
    """
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"a paired test needs two vectors of one length, got {one.shape} and {other.shape}")
    difference = (one - other)[np.isfinite(one - other)]
    if not np.any(difference):
        return 1.0
    # By hand: scipy.stats.permutation_test gives the same p-values, but takes several times as long for many cases.
    found = abs(float(difference.sum())) * (1 - 1e-12)
    if len(difference) <= EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(difference))))
        return float((np.abs(signs @ difference) >= found).mean())
    rng = np.random.default_rng(seed)
    as_far = 0
    for start in range(0, n, CHUNK):
        signs = rng.choice([-1.0, 1.0], size=(min(CHUNK, n - start), len(difference)))
        as_far += int((np.abs(signs @ difference) >= found).sum())
    return (as_far + 1) / (n + 1)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scand J Stat 6:65, 1979), in the same order."""
    order = np.argsort(p)
    corrected = np.maximum.accumulate([min(1.0, (len(p) - rank) * p[i]) for rank, i in enumerate(order)])
    result = np.empty(len(p))
    result[order] = corrected
    return [float(value) for value in result]


def relative_loss(one: FloatArray, best: FloatArray, draws: Draws) -> Estimate:
    """The excess of one predictor's MRE over another's, relative to the latter; paired: the cases of both are drawn
    together. one, best: (N, 2) sums of errors and numbers of points; draws: as of `bootstrap`.
    """
    (ratio,) = means(one[:, :1], best[:, :1], draws)
    shift = [None if value is None else value - 1 for value in (ratio.value, ratio.low, ratio.high)]
    return Estimate(*shift)


def compare(candidates: Mapping[str, Candidate], *, seed: int) -> dict[str, Comparison]:
    """Each candidate against the one of the lowest MRE. ValueError where numbers of points differ."""
    totals = {name: candidate.totals() for name, candidate in candidates.items()}
    counts = next(iter(totals.values()))[:, 1]
    if any(not np.array_equal(t[:, 1], counts) for t in totals.values()):
        raise ValueError("candidates must be judged on the same points")
    draws = resample_cases(len(counts), N_RESAMPLES, seed)
    best = min(totals, key=lambda name: totals[name][:, 0].sum())
    seen = counts > 0
    case_means = {name: t[seen, 0] / t[seen, 1] for name, t in totals.items()}
    p = {name: paired_test(case_means[name], case_means[best], seed=seed) for name in totals if name != best}
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    result = {}
    for name, candidate in candidates.items():
        (mre,) = means(totals[name][:, :1], totals[name][:, 1:], draws)
        loss = Estimate(0.0, 0.0, 0.0) if name == best else relative_loss(totals[name], totals[best], draws)
        result[name] = Comparison(
            candidate.members,
            candidate.n_stages,
            candidate.n_parameters,
            mre,
            median(candidate.errors, draws),
            _rates(candidate.errors, totals[name][:, 1:]),
            candidate.swaps,
            loss,
            p.get(name),
            corrected.get(name),
        )
    return result


def _rates(errors: Sequence[FloatArray], counts: FloatArray) -> dict[str, Estimate]:
    """Successful detection rates at the usual radii; counts: (N, 1) points of each case."""
    hits = {f"{radius:g}": np.array([[float((e <= radius).sum())] for e in errors]) for radius in RADII}
    return {radius: shares(hit, counts)[0] for radius, hit in hits.items()}


def simplest(candidates: Mapping[str, Candidate], compared: Mapping[str, Comparison]) -> tuple[str, str]:
    """Choose the simplest candidate, as (name, why), whose loss against the best one is at most 2 %, by the upper end
    of its 95 % interval: fewest members, then stages, then weights.
    """
    best = min(compared, key=lambda name: compared[name].mre.value or 0.0)
    for name in sorted(candidates, key=lambda name: candidates[name].size):
        loss = compared[name].loss_against_best
        if len(candidates) == 1:
            return name, "the only candidate"
        if name == best:
            return name, "the lowest error on held-out cases, and nothing simpler is surely as good"
        if loss.high is not None and loss.high <= TOLERATED:
            return name, (
                f"the simplest that loses at most {TOLERATED:.0%} against the best, {best} "
                f"(loss {loss.value:+.1%}, at most {loss.high:.1%} with 95 % confidence)"
            )
    raise ValueError("there is no candidate to choose from")
