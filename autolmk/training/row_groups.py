"""The landmarks that are look-alikes: those that a network mistakes for each other on held-out cases.

A channel that mistakes a landmark for another one shows places that are wrong and yet right: another landmark's. One
that is merely imprecise shows wrong places that are nobody's, or anybody's by chance, which is what places turned about
the landmark in random directions tell. Names tell nothing. Mirror partners are told apart elsewhere.

Shapes: L landmarks, K candidates, P physical axes. Everything in mm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used

from autolmk.detections import Detections
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks

SHARED, FEWEST = 0.1, 2  # share of the cases, and how many at least, in which a channel shows another one's place
FEW_CASES = 3  # up to which one case will do
NEAR = 0.3  # of two landmarks' distance, within which a candidate is at the other one's place
APART = 4.0  # typical errors that two landmarks lie apart at least, to be mistaken rather than imprecise
CREDIBLE, CREDIBLE_OF_FEW = 6.0, 3.0  # log-odds below the best, at most, of a candidate that counts
WRONG = 0.5  # of the distance to the nearest other landmark, beyond which a candidate is not the landmark's own
MISTAKEN = 0.4  # share of a channel's wrong places, at least, that are other landmarks', beyond chance
TURNS, SEED = 20, 0  # random directions a wrong place, and their seed
Cases = Sequence[tuple[Detections, Landmarks]]
Bools = npt.NDArray[np.bool_]


def groups_of(cases: Cases, partner: Sequence[int]) -> list[list[int]]:
    """Landmarks that are mistaken for each other, by number, each group sorted. partner: (L,) mirror partners, own for
    none."""
    n, few = len(partner), len(cases) <= FEW_CASES
    count, together, shares = np.zeros((n, n)), np.zeros((n, n)), np.zeros((3, n))
    typical, rng = _typical_errors(cases), np.random.default_rng(SEED)
    for found, truth in cases:
        points = np.where(truth.present[:, None], truth.points, np.nan)
        apart = np.linalg.norm(points[:, None] - points, axis=2)
        apart[np.arange(n), np.arange(n)] = apart[np.arange(n), np.array(partner)] = np.nan
        credible = found.log_odds >= found.log_odds[:, :1] - (CREDIBLE_OF_FEW if few else CREDIBLE)
        credible &= np.isfinite(found.log_odds) & np.isfinite(points).all(axis=1, keepdims=True)
        there = _at_others(found.candidates, points, apart) & credible[..., None]
        far = apart > APART * np.maximum(typical[:, None], typical)
        count += there.any(axis=1) & far
        together += np.isfinite(apart)
        shares += _shares(found.candidates, credible, there, points, apart, rng)
    wrong, hit, chance = shares
    mistaken = (hit > 0) & (hit - chance >= MISTAKEN * (wrong - chance))
    linked = (count >= (1 if few else FEWEST)) & (count >= SHARED * together) & mistaken[:, None]
    _, label = scipy.sparse.csgraph.connected_components(linked | linked.T, directed=False)
    groups = [np.flatnonzero(label == k).tolist() for k in range(int(label.max(initial=-1)) + 1)]
    return [group for group in groups if len(group) > 1]


def _at_others(places: FloatArray, points: FloatArray, apart: FloatArray) -> Bools:
    """(L, K, L) whether places (L, K, P) of each landmark are those of the others, at points (L, P); apart: (L, L), NaN
    where two do not count."""
    return np.asarray(np.linalg.norm(places[:, :, None] - points, axis=3) < NEAR * apart[:, None])


def _shares(
    candidates: FloatArray,
    credible: Bools,
    there: Bools,
    points: FloatArray,
    apart: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:
    """(3, L): how many credible candidates are wrong, how many of these are at other landmarks' places, and how many
    would be if they lay in random directions."""
    nearest = np.where(np.isfinite(apart), apart, np.inf).min(axis=1, initial=np.inf)
    length = np.linalg.norm(candidates - points[:, None], axis=2)
    wrong = credible & (length > WRONG * nearest[:, None])
    turns = rng.normal(size=(TURNS, *candidates.shape))
    turns /= np.linalg.norm(turns, axis=3, keepdims=True)
    by_chance = [_at_others(points[:, None] + length[..., None] * turn, points, apart).any(axis=2) for turn in turns]
    chance = np.where(wrong, np.mean(by_chance, axis=0), 0.0)
    return np.stack([part.sum(axis=1) for part in (wrong, wrong & there.any(axis=2), chance)])


def _typical_errors(cases: Cases) -> FloatArray:
    """(L,) mm, median over cases from the truth to the nearest candidate; 0 where there is none."""
    if not cases:
        return np.empty(0)
    errors = np.stack([np.linalg.norm(found.candidates - truth.points[:, None], axis=2) for found, truth in cases])
    nearest = np.where(np.isfinite(errors), errors, np.inf).min(axis=2)
    return np.array([float(np.median(c[np.isfinite(c)])) if np.isfinite(c).any() else 0.0 for c in nearest.T])
