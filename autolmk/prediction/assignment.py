"""Left and right, told apart by the shape of the whole configuration.

A network that sees anatomy in any pose cannot tell a landmark from its mirror partner by its looks; nearly all gross
errors of a single look are swaps. Candidates of partners are therefore pooled and assigned jointly, by the
reflection-free similarity fit of the training landmarks' mean shape to the confident points; the two take turns.

Shapes: L landmarks, K candidates, P physical axes. Everything in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autolmk.geometry import FloatArray
from autolmk.shapes.pose import Similarity, fit_similarity

MAX_ITERATIONS = 10
TAILS = 8.0  # degrees of freedom of the t distribution of fit distances: anatomy may differ from the mean shape
PREFERENCE = 3.0  # log-odds that a channel's own opinion may add over its partner's: it mistakes the two too easily
SHARED = 20.0  # evidence that it costs two partners to be at one place
CLEARLY = 8.0  # gain in evidence that a landmark without partner needs to change its candidate
FLATNESS = 0.05  # second principal extent over the first under which points count as collinear
FLOOR = 1e-3  # mm, of the residual


@dataclass(frozen=True, eq=False)
class ShapePrior:
    """The mean shape by which candidates are judged. points: (L, P) mean shape in mm, NaN where unknown. partner: (L,)
    index of the mirror partner, own for none. residual: (L,) mm, root mean square distance of each training landmark
    from its place in the fitted mean shape. scale_bounds: of the fit's scale. n_cases: training cases that the shape
    was measured on. left_out: (L,) mm, as residual, of cases that did not shape the mean; None where that was not
    measured.
    """

    points: FloatArray
    partner: tuple[int, ...]
    residual: FloatArray
    scale_bounds: tuple[float, float]
    n_cases: int = 0
    left_out: FloatArray | None = None

    @property
    def strays(self) -> FloatArray:
        """The distance that landmarks of a new case stray from the fitted mean shape, (L,) mm, root mean square."""
        return self.residual if self.left_out is None else self.left_out

    @classmethod
    def pooled(
        cls,
        shapes: Sequence[FloatArray],
        partner: Sequence[int],
        *,
        residual: FloatArray,
        scale_bounds: tuple[float, float],
        n_cases: int = 0,
        left_out: FloatArray | None = None,
    ) -> ShapePrior:
        """Several folds' mean shapes (L, P), each in a pose of its own, aligned to the first and averaged."""
        first = shapes[0]
        aligned = [first]
        for shape in shapes[1:]:
            both = np.isfinite(first).all(axis=1) & np.isfinite(shape).all(axis=1)
            if both.sum() > first.shape[1]:
                aligned.append(fit_similarity(shape[both], first[both]).similarity.apply(shape))
        stack = np.stack(aligned)
        known = np.isfinite(stack)
        count = known.sum(axis=0)
        mean = np.where(count > 0, np.where(known, stack, 0).sum(axis=0) / np.maximum(count, 1), np.nan)
        return cls(mean, tuple(int(i) for i in partner), residual, scale_bounds, n_cases, left_out)


def assign(
    candidates: FloatArray, log_odds: FloatArray, prior: ShapePrior, *, radius: float
) -> tuple[FloatArray, FloatArray]:
    """Candidates (L, K, P) and log-odds (L, K), best first, in the order that the whole configuration supports.

    radius: mm within which a candidate of one partner and one of the other are the same place. Returns arrays of the
    same shapes, unchanged where there are no pairs, or fewer than 4 (in 2D: 3) confident, non-collinear points.
    """
    if all(i == p for i, p in enumerate(prior.partner)):
        return candidates, log_odds
    pools = [_pool(candidates, log_odds, i, p, _nearness(prior, i, p, radius)) for i, p in enumerate(prior.partner)]
    best: tuple[float, list[int]] | None = None
    for start in _starts(candidates, log_odds, pools, prior):
        score, choice = _settle(start, pools, prior)
        if best is None or score > best[0] + 1e-9:
            best = score, choice
    if best is None:
        return candidates, log_odds
    return _reordered(candidates, log_odds, pools, best[1])


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Of one landmark, pooled with its partner's. points: (N, P); log_odds: (N,) that one of the two is there, best
    first; own: (N,) log-odds of the landmark's own channel, -inf where it did not see the place. nearness: mm
    within which two places are one."""

    points: FloatArray
    log_odds: FloatArray
    own: FloatArray
    nearness: float


def _nearness(prior: ShapePrior, landmark: int, partner: int, radius: float) -> float:
    """mm within which candidates of two partners are one place: less where the partners are near each other."""
    apart = float(np.linalg.norm(prior.points[landmark] - prior.points[partner]))
    return min(radius, 0.5 * apart) if np.isfinite(apart) and landmark != partner else radius


def _pool(candidates: FloatArray, log_odds: FloatArray, landmark: int, partner: int, nearness: float) -> _Candidates:
    """A landmark's own and its partner's candidates, merged within `nearness` mm.

    A place keeps the better of the two channels' log-odds, for either: the two look alike, and a channel's second peak
    is often the right one. Its position is the landmark's own, where its own channel saw it.
    """
    rows: list[tuple[FloatArray, float, float]] = []  # place, log-odds, own log-odds
    for channel in dict.fromkeys((landmark, partner)):
        for point, value in zip(candidates[channel], log_odds[channel], strict=True):
            if not np.isfinite(value):
                continue
            near = [i for i, row in enumerate(rows) if np.linalg.norm(point - row[0]) <= nearness]
            if channel == landmark:
                rows.append((point, float(value), float(value)))
            elif near:
                place, odds, own = rows[near[0]]
                rows[near[0]] = place, max(odds, float(value)), own
            else:
                rows.append((point, float(value), -np.inf))
    rows.sort(key=lambda row: -row[1])
    numbers = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 2)
    points = np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, candidates.shape[2])
    return _Candidates(points, numbers[:, 0], numbers[:, 1], nearness)


def _starts(
    candidates: FloatArray, log_odds: FloatArray, pools: Sequence[_Candidates], prior: ShapePrior
) -> list[Similarity]:
    """First fits: to every landmark's own best candidate, and to what no swap can move: points without partner and the
    middles of pairs, which lie in one plane and so still fix a rotation."""
    top, value = candidates[:, 0], log_odds[:, 0]
    usable = np.isfinite(value) & np.isfinite(prior.points).all(axis=1)
    confident = usable & (value >= _confidence(value[usable]))
    fits = [_fit(prior.points[confident], top[confident], prior)]
    source, target = [], []
    for i, p in enumerate(prior.partner):
        if i == p and confident[i]:
            source.append(prior.points[i])
            target.append(top[i])
        elif i < p and confident[i] and confident[p] and len(pools[i].points) > 1:
            source.append((prior.points[i] + prior.points[p]) / 2)
            target.append(pools[i].points[:2].mean(axis=0))
    if source:
        fits.append(_fit(np.array(source), np.array(target), prior))
    return [fit for fit in fits if fit is not None]


def _fit(source: FloatArray, target: FloatArray, prior: ShapePrior) -> Similarity | None:
    """Robust, reflection-free; None where the points are too few or collinear."""
    if len(source) <= source.shape[1] or _collinear(source) or _collinear(target):
        return None
    return fit_similarity(source, target, scale_bounds=prior.scale_bounds).similarity


def _collinear(points: FloatArray) -> bool:
    extent = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(extent[1] < FLATNESS * extent[0])


def _settle(similarity: Similarity, pools: Sequence[_Candidates], prior: ShapePrior) -> tuple[float, list[int]]:
    """Assignment and fit in turn until nothing changes: (sum of evidence, chosen index into each pool, -1 for none)."""
    choice: list[int] = []
    score = -np.inf
    for _ in range(MAX_ITERATIONS):
        expected = similarity.apply(prior.points)
        before = choice
        residual = _residuals(expected, pools, prior, choice, similarity.scale)
        score, choice = _choose(expected, pools, prior, residual)
        score -= expected.shape[1] * float(
            np.log(residual).sum()
        )  # of a Gaussian's density: a loose fit costs evidence
        if choice == before:
            break
        chosen, value = _chosen(pools, choice, prior.points.shape[1])
        usable = np.isfinite(value) & np.isfinite(prior.points).all(axis=1)
        usable &= value >= _confidence(value[usable])
        again = _fit(prior.points[usable], chosen[usable], prior)
        if again is None:
            break
        similarity = again
    return score, choice


def _residuals(
    expected: FloatArray, pools: Sequence[_Candidates], prior: ShapePrior, choice: Sequence[int], scale: float
) -> FloatArray:
    """(L,) mm an axis: the units of fit distances. The training residuals, all longer where this image fits worse
    than training cases did (at first judged by each landmark's nearest candidate, which no swap can lengthen)."""
    unit = np.maximum(prior.residual * scale / np.sqrt(expected.shape[1]), FLOOR)
    distances = []
    for i, pool in enumerate(pools):
        if len(pool.points) and np.isfinite(expected[i]).all():
            points = pool.points[[choice[i]]] if choice and choice[i] >= 0 else pool.points
            distances.append(float(np.linalg.norm(points - expected[i], axis=1).min() / unit[i]))
    own = float(np.median(distances)) / np.sqrt(expected.shape[1]) if distances else 1.0
    return np.asarray(unit * max(1.0, own))


def _choose(
    expected: FloatArray, pools: Sequence[_Candidates], prior: ShapePrior, residual: FloatArray
) -> tuple[float, list[int]]:
    """For each pair the two places of most evidence, for others the place: (sum of evidence, index into each pool)."""
    worth = [_worth(pool, expected[i], float(residual[i])) for i, pool in enumerate(pools)]
    choice = [0 if len(pool.points) else -1 for pool in pools]
    total = 0.0
    for i, p in enumerate(prior.partner):
        if i == p and len(worth[i]):
            best = int(worth[i].argmax())
            choice[i] = best if worth[i][best] > worth[i][0] + CLEARLY else 0
            total += float(worth[i][choice[i]])
        elif i < p and len(worth[i]):
            choice[i], choice[p], value = _choose_pair(pools[i], pools[p], worth[i], worth[p])
            total += value
    return total, choice


def _worth(pool: _Candidates, expected: FloatArray, residual: float) -> npt.NDArray[np.float64]:
    """(N,) log-odds, less what the landmark's own channel holds against the place (up to `PREFERENCE`), less the
    cost of the fit distance (of a multivariate t distribution, in residuals)."""
    evidence = pool.log_odds - np.minimum(pool.log_odds - pool.own, PREFERENCE)
    if not np.isfinite(expected).all():
        return np.asarray(evidence)
    u = np.linalg.norm(pool.points - expected, axis=1) / residual
    return np.asarray(evidence - 0.5 * (TAILS + len(expected)) * np.log1p(u**2 / TAILS))


def _choose_pair(
    one: _Candidates,
    other: _Candidates,
    worth_one: npt.NDArray[np.float64],
    worth_other: npt.NDArray[np.float64],
) -> tuple[int, int, float]:
    """The two places of the greatest joint evidence, which costs them `SHARED` where they are one place."""
    apart = np.linalg.norm(one.points[:, None] - other.points[None], axis=2) > one.nearness
    joint = worth_one[:, None] + worth_other[None] - np.where(apart, 0.0, SHARED)
    first, second = np.unravel_index(int(joint.argmax()), joint.shape)
    return int(first), int(second), float(joint[first, second])


def _chosen(pools: Sequence[_Candidates], choice: Sequence[int], p: int) -> tuple[FloatArray, FloatArray]:
    """(points (L, P), log-odds (L,)) of a choice; NaN and -inf where there is none."""
    points, value = np.full((len(pools), p), np.nan), np.full(len(pools), -np.inf)
    for i, (pool, c) in enumerate(zip(pools, choice, strict=True)):
        if c >= 0:
            points[i], value[i] = pool.points[c], pool.log_odds[c]
    return points, value


def _confidence(log_odds: FloatArray) -> float:
    """Log-odds from which a point is confident: present rather than not, or in the better half of a doubtful image."""
    return min(0.0, float(np.median(log_odds))) if len(log_odds) else 0.0


def _reordered(
    candidates: FloatArray, log_odds: FloatArray, pools: Sequence[_Candidates], choice: Sequence[int]
) -> tuple[FloatArray, FloatArray]:
    """Arrays like the first two: the chosen place first, then the rest of each pool."""
    points, odds = np.full_like(candidates, np.nan), np.full_like(log_odds, -np.inf)
    for i, (pool, c) in enumerate(zip(pools, choice, strict=True)):
        if c < 0:
            continue
        order = [c, *(j for j in range(len(pool.points)) if j != c)][: candidates.shape[1]]
        points[i, : len(order)], odds[i, : len(order)] = pool.points[order], pool.log_odds[order]
    return points, odds
