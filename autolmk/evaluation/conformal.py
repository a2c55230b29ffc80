"""Split conformal prediction with the case as the unit: the points of one case hang together, cases are exchangeable.

Each of n cases shares a weight of 1 / (n + 1) evenly among its scores; one more case, the new one, counts as infinite.
The quantile at `level` of that distribution bounds a score of a new case with at least that probability, on average
over the calibration cases and over the new case's points (Vovk et al., Algorithmic Learning in a Random World, 2005;
with groups: Dunn, Wasserman and Ramdas, JASA 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autolmk.geometry import FloatArray


def conformal_quantile(scores: Sequence[FloatArray], level: float) -> float:
    """scores[i]: (n_i,) of case i, infinite ones allowed; cases without any do not count. NaN where the cases are too
    few for the level, which is above n / (n + 1). ValueError where the level is not between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, got {level}")
    cases = [s for s in (np.asarray(s, dtype=np.float64) for s in scores) if len(s)]
    if not cases or level > len(cases) / (len(cases) + 1):
        return float("nan")
    values = np.concatenate(cases)
    weights = np.concatenate([np.full(len(s), 1 / (len(s) * (len(cases) + 1))) for s in cases])
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, level - 1e-12).clip(max=len(values) - 1)])
