"""The likelihood from which a landmark is called present, landmark by landmark.

The decision stays at a likelihood of 0.5; the likelihood itself is moved: an offset of its logit, one for all landmarks
that may be absent and a smaller one for each of them, as far as held-out cases ask for it against Gaussian priors
around 0 (a hierarchical logistic regression, its maximum a posteriori), so that a few absent cases do not move much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import scipy  # loads its parts when they are used
from scipy import special

from autolmk.detections import Detections
from autolmk.geometry import FloatArray
from autolmk.landmarks import Status
from autolmk.postprocessing.context import Context, HeldOut

COMMON_STD, OWN_STD = 1.5, 0.75  # of the priors, in log-odds
LARGEST = 20.0  # log-odds beyond which a likelihood says no more


@dataclass(frozen=True)
class PresenceStep:
    """The step that decides presence. offset: landmark -> what is added to the logit of its likelihood."""

    offset: dict[str, float]
    name: ClassVar[str] = "presence"

    def apply(self, found: Detections) -> Detections:
        """Likelihoods moved; those that are unknown, or of a landmark without any place, stay."""
        offset = np.array([self.offset.get(name, 0.0) for name in found.names])
        movable = np.isfinite(found.log_odds[:, 0]) & (offset != 0)
        moved = special.expit(_logit(found.likelihood) + offset)
        return replace(found, likelihood=np.where(movable, moved, found.likelihood))


def fit(held_out: HeldOut, context: Context) -> PresenceStep | str:
    """Offsets of the landmarks that may be absent."""
    if not context.sometimes_absent:
        return "no landmark is ever absent"
    which = [i for i, name in enumerate(context.names) if name in context.sometimes_absent]
    logits, present, landmark = [], [], []
    for found, truth in held_out:
        for row, i in enumerate(which):
            known = truth.status[i] != Status.UNKNOWN and np.isfinite(found.log_odds[i, 0])
            if known and np.isfinite(found.likelihood[i]):
                logits.append(float(_logit(found.likelihood[i])))
                present.append(bool(truth.status[i] == Status.PRESENT))
                landmark.append(row)
    if not logits or all(present) or not any(present):
        return "the held-out cases do not show landmarks both present and absent"
    common, own = _offsets(np.array(logits), np.array(present), np.array(landmark), len(which))
    return PresenceStep({context.names[i]: round(common + float(o), 6) for i, o in zip(which, own, strict=True)})


def _offsets(logits: FloatArray, present: FloatArray, landmark: FloatArray, n: int) -> tuple[float, FloatArray]:
    """(common offset, each landmark's own (n,)) of logits (N,), whether present (N,), of which landmark (N,)."""
    sign = np.where(present, 1.0, -1.0)

    def cost(x: FloatArray) -> tuple[float, FloatArray]:
        z = sign * (logits + x[0] + x[1:][landmark])
        pull = -sign * special.expit(-z)
        own = np.bincount(landmark, pull, minlength=n)
        scaled = x / np.array([COMMON_STD**2, *[OWN_STD**2] * n])
        return float(np.logaddexp(0, -z).sum() + (x * scaled).sum() / 2), np.array([pull.sum(), *own]) + scaled

    found = scipy.optimize.minimize(cost, np.zeros(n + 1), jac=True, method="L-BFGS-B").x
    return float(found[0]), np.asarray(found[1:])


def _logit(likelihood: FloatArray | float) -> FloatArray:
    return np.asarray(np.clip(special.logit(np.asarray(likelihood, dtype=np.float64)), -LARGEST, LARGEST))
