"""The evidence that a step helps on held-out cases beyond chance, paired over cases.

A step that places points must lower the mean error; one that decides presence must raise the share of right decisions.
Beyond chance: the signs of the cases' gains are flipped at random (Fisher's randomisation test), which is exact for any
distribution of errors. No step may make more gross errors, whatever it does for the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autolmk.detections import Detections
from autolmk.evaluation import penalties, point_errors
from autolmk.fold.held_out import CrossValidation
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks, Status

LEVEL = 0.05  # one-sided
FLIPS = 20_000  # random ones; all of them where there are no more
GROSS = 6.0  # medians of the error without the step, beyond which an error is gross
EXACT = 14  # cases that changed, up to which all flips are tried


@dataclass(frozen=True)
class Evidence:
    """The evidence for or against a step. measure: mre (mm or px) or accuracy, of held-out cases without and with the
    step. gross_*: points further off than six medians. cases, changed, better, worse: how many cases there are, differ,
    gain and lose. p: one-sided.
    """

    measure: str
    without: float
    with_step: float
    gross_without: int
    gross_with: int
    cases: int
    changed: int
    better: int
    worse: int
    p: float


def localisation(before: Sequence[Detections], after: Sequence[Detections], truth: Sequence[Landmarks]) -> Evidence:
    """Evidence from the mean radial error, a point without a place counting as in `evaluation`."""
    diagonals = {str(i): float(np.hypot.reduce(found.geometry.extent)) for i, found in enumerate(before)}
    missing = penalties({str(i): marks for i, marks in enumerate(truth)}, diagonals)
    errors = [
        np.stack([point_errors(marks, found.best, missing[str(i)])[0] for i, (found, marks) in rows])
        for rows in (list(enumerate(zip(side, truth, strict=True))) for side in (before, after))
    ]
    gross = GROSS * float(np.nanmedian(errors[0])) if np.isfinite(errors[0]).any() else np.inf
    gain = np.nansum(errors[0], axis=1) - np.nansum(errors[1], axis=1)
    n = max(int(np.isfinite(errors[0]).sum()), 1)
    means = [float(np.nansum(e)) / n for e in errors]
    return _evidence("mre", means, [int((e > gross).sum()) for e in errors], gain)


def presence(
    before: Sequence[Detections], after: Sequence[Detections], truth: Sequence[Landmarks], names: Sequence[str]
) -> Evidence:
    """Evidence from the share of right decisions, over the landmarks `names`, which may be absent."""
    right = []
    for side in (before, after):
        rows = []
        for found, marks in zip(side, truth, strict=True):
            known = np.isin(found.names, names) & (marks.status != Status.UNKNOWN) & ~np.isnan(found.likelihood)
            rows.append(np.where(known, (found.likelihood >= 0.5) == (marks.status == Status.PRESENT), np.nan))
        right.append(np.stack(rows).astype(np.float64))
    gain = np.nansum(right[1], axis=1) - np.nansum(right[0], axis=1)
    n = max(int(np.isfinite(right[0]).sum()), 1)
    return _evidence("accuracy", [float(np.nansum(r)) / n for r in right], [0, 0], gain)


def verdict(evidence: Evidence, unit: str) -> tuple[bool, str]:
    """Decide whether the step is kept, and say why."""
    e = evidence
    if not e.changed:
        return False, f"it changes nothing on {e.cases} held-out cases"
    said = (
        f"{'mean error' if e.measure == 'mre' else 'right decisions'} {_figure(e.without, e, unit)} without, "
        f"{_figure(e.with_step, e, unit)} with it; {e.better} of {e.cases} held-out cases better, {e.worse} worse "
        f"(p = {e.p:.2g})"
    )
    if e.gross_with > e.gross_without:
        return False, f"{said}; gross errors grow from {e.gross_without} to {e.gross_with}"
    if e.p > LEVEL:
        return False, f"{said}; that may be chance"
    return True, said


def _figure(value: float, evidence: Evidence, unit: str) -> str:
    return f"{value:.3f} {unit}" if evidence.measure == "mre" else f"{value:.1%}"


def _evidence(measure: str, values: Sequence[float], gross: Sequence[int], gain: FloatArray) -> Evidence:
    """values, gross: without and with the step; gain: (N,) of each case."""
    changed = gain[np.abs(gain) > 1e-9]
    return Evidence(
        measure,
        values[0],
        values[1],
        gross[0],
        gross[1],
        len(gain),
        len(changed),
        int((changed > 0).sum()),
        int((changed < 0).sum()),
        flip_test(changed),
    )


def flip_test(gain: FloatArray, seed: int = 0) -> float:
    """One-sided p of gains (N,) under random signs: all 2^N of them up to 14 cases, 20,000 random ones beyond (the
    observed one counted too, so that p is never 0). 1 where there is none."""
    if not len(gain):
        return 1.0
    if len(gain) <= EXACT:
        signs = 1 - 2 * ((np.arange(2 ** len(gain))[:, None] >> np.arange(len(gain))) & 1)
        return float((signs @ gain >= gain.sum() - 1e-12).mean())
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (FLIPS, len(gain)))
    return float(((signs @ gain >= gain.sum() - 1e-12).sum() + 1) / (FLIPS + 1))


def held_out(model: CrossValidation, cases: Sequence[str]) -> list[tuple[Detections, Landmarks]]:
    """The held-out detections and truth of cases, on which steps are fitted."""
    return [(model.detections[case], model.truth[case]) for case in cases]
