"""Rows of look-alikes, told apart by the whole row: one place for each member, among the candidates of all channels.

A network that sees a vertebra and its neighbours cannot tell which one it is; its channels show several places each,
and often the same ones. All candidates of a row's members are pooled into places, and the members are assigned to
places together. A row's score is the sum of

- evidence: log-odds of each member's channel at its place, divided by a temperature, because channels err alike;
- shape: minus the cost of each member's displacement from its parents (of a t distribution), averaged over them, so
  that shape breaks ties and does not overrule the evidence; a large penalty where a distance leaves that of training;
- position: minus the cost of where in the image, and beside the other landmarks, the row lies, averaged over members.

Members may be missing: at little cost where the image ends, at a large one inside it. `row_search` finds the best rows,
with a beam as labels of spines are searched (SpineNet: Windsor et al., Medical Image Analysis 88, 2023).

Shapes: L landmarks, K candidates, P physical axes, M members of a row, N places. Everything in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autolmk.geometry import FloatArray, Geometry
from autolmk.prediction.row_search import Choice, Found, Problem, search, t_cost
from autolmk.shapes.row import Row, Rows, physical_extent, places_beside

MORE_PLACES = 16  # than twice the members, at most
BELOW_BEST = 4.0  # log-odds of a place that a channel does not show, under its best; or its lowest,
NEXT = 1.0  # and this under its lowest where it shows as many as are kept
REACH = 0.5  # of the distance to the neighbour: how far later stages may go from the row's place
MADE_UP = 0.85  # factor on the probability of a place that no channel shows, made up from the neighbours'
LEFT_OVER = 0.5  # probability of what is left of the candidates of a member that belongs outside the image


@dataclass(frozen=True, eq=False)
class Chosen:
    """The rows that were chosen. candidates (L, K, P), log_odds (L, K): as they came, the row's places first.
    probability: (L,) that a member is at its place and not at a neighbour's, NaN without a row. reach: (L,) mm from
    there to half the way to the neighbour, 0 where it belongs outside the image, infinite without a row.
    """

    candidates: FloatArray
    log_odds: FloatArray
    probability: FloatArray
    reach: FloatArray


def choose_rows(
    candidates: FloatArray,
    log_odds: FloatArray,
    names: Sequence[str],
    rows: Rows,
    geometry: Geometry,
    shape: FloatArray | None = None,
) -> Chosen:
    """The candidates (L, K, P) with log-odds (L, K), best first, in the order that whole rows support.

    geometry: of the image. shape: (L, P) mean shape, NaN where unknown. Landmarks of no row keep theirs untouched.
    """
    result = Chosen(candidates, log_odds, np.full(len(names), np.nan), np.full(len(names), np.inf))
    if not rows.used:
        return result
    for row in rows.rows:
        problem = pose(row, candidates, log_odds, names, geometry, shape)
        if problem is not None:
            found = search(problem, rows.temperature, rows.level)
            result = _with_row(result, problem, found, rows)
    return result


# -- what there is to choose from -------------------------------------------------------------------------------------


def pose(
    row: Row,
    candidates: FloatArray,
    log_odds: FloatArray,
    names: Sequence[str],
    geometry: Geometry,
    shape: FloatArray | None,
) -> Problem | None:
    """Pose the choice of a row's places as a problem: places, costs and evidence; None where its members show no place.
    candidates: (L, K, P) mm. log_odds: (L, K). shape: (L, P) mm, the mean shape, None without.
    """
    where = {name: i for i, name in enumerate(names)}
    which = np.array([where[name] for name in row.names])
    places, own, odds, shown = pool(candidates[which], log_odds[which], row.same_place)
    if not len(places):
        return None
    best = candidates[:, 0], log_odds[:, 0]
    problems = [
        Problem(one, geometry, which, places, own, odds, shown, _position(one, places, which, *best, geometry, shape))
        for one in row.at_scales()
    ]
    return replace(problems[0], others=tuple(problems[1:]))


def pool(
    candidates: FloatArray, log_odds: FloatArray, same_place: FloatArray
) -> tuple[FloatArray, Choice, FloatArray, FloatArray]:
    """Pool the members' candidates into places: (places (N, P), own (M, N), odds (M, N), shown (N,)), see `Problem`,
    from candidates (M, K, P) and log-odds (M, K); those within `same_place` (M,) mm of a better one are one place,
    where the best of them lies. At most twice as many places as members and some more: those nearest to a channel's
    best log-odds.
    """
    m, k = log_odds.shape
    usable = np.isfinite(log_odds) & np.isfinite(candidates).all(axis=2)
    rank = np.argsort(-np.where(usable, log_odds, -np.inf), axis=None, kind="stable")[: int(usable.sum())]
    label, kept = _clustered(candidates.reshape(m * k, -1), rank, np.repeat(same_place, k))
    best = np.where(usable, log_odds, -np.inf).max(axis=1, keepdims=True)
    below = np.subtract(log_odds, best, out=np.full((m, k), -np.inf), where=usable).ravel()
    worth = np.full(len(kept), -np.inf)
    np.maximum.at(worth, label[rank], below[rank])
    chosen = np.sort(np.argsort(-worth, kind="stable")[: 2 * m + MORE_PLACES])
    number = np.full(len(kept), -1)
    number[chosen] = np.arange(len(chosen))
    own, odds = np.full((m, len(chosen)), -1), np.zeros((m, len(chosen)))
    for flat in rank[::-1]:  # the best last
        if number[label[flat]] >= 0:
            own[flat // k, number[label[flat]]] = flat % k
    for i in range(m):
        odds[i] = np.where(own[i] >= 0, log_odds[i, own[i]], _unseen(log_odds[i, usable[i]], k))
    kept = kept[chosen]
    return candidates.reshape(m * k, -1)[kept], own, odds, log_odds.ravel()[kept]


def _clustered(points: FloatArray, rank: Choice, radius: FloatArray) -> tuple[Choice, Choice]:
    """(of each of points (Q, P) the number of its place, -1 for none; of each place the point that it lies at): `rank`
    goes from the best point to the worst of those that count; each is at the nearest place within the `radius` (Q,) of
    both, or a place of its own."""
    label, kept = np.full(len(points), -1), np.empty(0, dtype=int)
    for flat in rank:
        apart = np.linalg.norm(points[kept] - points[flat], axis=1)
        near = apart <= np.minimum(radius[kept], radius[flat])
        if near.any():
            label[flat] = int(np.where(near, apart, np.inf).argmin())
        else:
            label[flat] = len(kept)
            kept = np.append(kept, flat)
    return label, kept


def _unseen(odds: FloatArray, k: int) -> float:
    """Log-odds of a place that is not among a channel's candidates, of log-odds (N,): a little below the lowest where
    the list of k is full, as more would follow; else far below the best."""
    if not len(odds):
        return -BELOW_BEST
    return float(odds.min() - NEXT if len(odds) == k else min(odds.min(), odds.max() - BELOW_BEST))


def _position(
    row: Row,
    places: FloatArray,
    which: Choice,
    best: FloatArray,
    odds: FloatArray,
    geometry: Geometry,
    shape: FloatArray | None,
) -> FloatArray:
    """(M, N) cost of members' places in the image, and beside the other landmarks' best points (L, P)."""
    cost = np.zeros((len(which), len(places)))
    p = places.shape[1]
    if row.straight and row.middle:
        cropped = (np.array(row.extent) - physical_extent(geometry)) / 2  # at either end, or both
        precision = np.linalg.inv(np.array(row.middle_covariance).reshape(p, p) + np.diag(cropped**2))
        off = places - geometry.centre - np.array(row.middle) - np.array(row.offsets)[:, None]
        cost += t_cost(np.einsum("mnp,pq,mnq->mn", off, precision, off), p)
    if row.stray and shape is not None:
        others = np.asarray(np.isfinite(best).all(axis=1))
        others[which] = False
        threshold = min(0.0, float(np.median(odds[others]))) if others.any() else 0.0
        sure = others & (odds >= threshold)
        expected = places_beside(shape, np.where(sure[:, None], best, np.nan), which)
        off = places - expected[:, None]
        cost += np.nan_to_num(t_cost((off**2).sum(axis=2) / row.stray**2, p))
    return cost


# -- what was chosen --------------------------------------------------------------------------------------------------


def _with_row(before: Chosen, problem: Problem, found: Found, rows: Rows) -> Chosen:
    """With the row's places first."""
    candidates, log_odds = before.candidates.copy(), before.log_odds.copy()
    probability, reach = before.probability.copy(), before.reach.copy()
    choice, marginal = found.choice[0], rows.trust * found.marginal
    for j, i in enumerate(problem.which):
        old, odds = candidates[i].copy(), log_odds[i].copy()
        reach[i] = REACH * found.row.neighbour[j]
        if choice[j] >= 0:
            probability[i] = marginal[j]
            own = problem.own[j, choice[j]]
            place = old[own] if own >= 0 else problem.places[choice[j]]
            rest = [k for k in range(len(odds)) if k != own][: len(odds) - 1]
            candidates[i], log_odds[i] = _first(place, float(problem.shown[choice[j]]), old[rest], odds[rest])
        else:
            made = found.inside[j] and np.isfinite(found.expected[j]).all()
            probability[i] = MADE_UP * marginal[j] if made else LEFT_OVER
            reach[i] *= bool(made)
            candidates[i], log_odds[i] = _not_found(
                problem, choice, j, old, odds, rows.level, found.expected[j] if made else None
            )
    return Chosen(candidates, log_odds, probability, reach)


def _first(place: FloatArray, odds: float, points: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """This candidate, then the others."""
    return np.concatenate([place[None], points]), np.concatenate([[odds], values])


def _not_found(
    problem: Problem,
    choice: Choice,
    j: int,
    points: FloatArray,
    odds: FloatArray,
    level: float,
    expected: FloatArray | None,
) -> tuple[FloatArray, FloatArray]:
    """A missing member's candidates: none surer than `level`, the place that its neighbours make likely first, where it
    is in the image; those that others took last."""
    taken = problem.places[choice[choice >= 0]]
    near = [
        bool(
            len(taken) and np.isfinite(p).all() and np.linalg.norm(taken - p, axis=1).min() <= problem.row.same_place[j]
        )
        for p in points
    ]
    order = sorted(range(len(points)), key=lambda k: near[k])
    capped = np.where(np.isfinite(odds), np.minimum(odds, level), odds)
    points, capped = points[order], capped[order]
    if expected is None:
        return points, capped
    lowest = min([level, *capped[np.isfinite(capped)].tolist()])
    return _first(expected, lowest, points[:-1], capped[:-1])
