"""Rows of look-alikes, told apart by the whole row: one place for each member, among the candidates of all channels.

A network that sees a vertebra and its neighbours cannot tell which one it is; its channels show several places each, and
often the same ones. All candidates of a row's members are pooled into places, and the members are assigned to places
together. A row's score is the sum of

- evidence: log-odds of each member's channel at its place, divided by a temperature, because channels err alike;
- shape: minus the cost of each member's displacement from its parents (of a t distribution), averaged over them, so that
  shape breaks ties and does not overrule the evidence; a large penalty where a distance leaves the range of training;
- position: minus the cost of where in the image, and beside the other landmarks, the row lies, averaged over members.

Members may be missing: at little cost where the image ends, at a large one inside it. The sums of best rows are found
member by member with a beam, as in the search for labels of spines (Windsor et al., SpineNet, Medical Image Analysis 88,
2023); what it keeps gives the probability of each member's place.

Shapes: L landmarks, K candidates, P physical axes, M members of a row, N places, B rows kept. Everything in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from autolmk.geometry import FloatArray, Geometry
from autolmk.row_shape import Row, Rows, expected_places, places_beside

Choice = npt.NDArray[np.int_]

TAILS = 4.0  # degrees of freedom of the t distributions
RANGE = (0.75, 1.25)  # of the shortest and longest distance of training, beyond which it costs `PENALTY`
PENALTY = 20.0
OUTSIDE = 0.5  # cost of a member that is missing where the image ends
BELOW_BEST = 4.0  # log-odds of a place that a channel does not show, under its best; or its lowest
BEAM, ALIKE = 300, 3  # rows kept, and of those that later members cannot tell apart
REACH = 0.5  # of the distance to the neighbour: how far later stages may go from the row's place
UNSEEN = 0.5  # factor on the probability of a place that no channel shows, made up from the neighbours'


@dataclass(frozen=True, eq=False)
class Chosen:
    """candidates (L, K, P), log_odds (L, K): as they came, the row's places first. probability: (L,) that a member is at
    its place and not at a neighbour's, NaN without a row. reach: (L,) mm from there to half the way to the neighbour,
    infinite without a row."""

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


# -- what there is to choose from ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Problem:
    """A row in an image. which: (M,) members' landmarks. places: (N, P). own: (M, N) number of the member's candidate
    there, -1 for none. odds: (M, N) log-odds of its channel there. shown: (N,) the best of any channel. links: of each
    member, each parent's (N, N) cost of parent's and own place. position: (M, N) cost."""

    row: Row
    geometry: Geometry
    which: Choice
    places: FloatArray
    own: Choice
    odds: FloatArray
    shown: FloatArray
    links: tuple[tuple[FloatArray, ...], ...]
    position: FloatArray


def pose(
    row: Row,
    candidates: FloatArray,
    log_odds: FloatArray,
    names: Sequence[str],
    geometry: Geometry,
    shape: FloatArray | None,
) -> Problem | None:
    """The row's places, costs and evidence; None where its members show no place."""
    where = {name: i for i, name in enumerate(names)}
    which = np.array([where[name] for name in row.names])
    places, own, odds, shown = pool(candidates[which], log_odds[which], row.same_place)
    if not len(places):
        return None
    links = tuple(tuple(_link(row, i, k, places) for k in range(len(ps))) for i, ps in enumerate(row.parents))
    position = _position(row, places, which, candidates[:, 0], log_odds[:, 0], geometry, shape)
    return Problem(row, geometry, which, places, own, odds, shown, links, position)


def pool(
    candidates: FloatArray, log_odds: FloatArray, same_place: float
) -> tuple[FloatArray, Choice, FloatArray, FloatArray]:
    """(places (N, P), own (M, N), odds (M, N), shown (N,)), see `Problem`, of members' candidates (M, K, P) and log-odds
    (M, K); those within `same_place` mm of a better one are one place, which lies where the best of them is."""
    m, k = log_odds.shape
    usable = np.isfinite(log_odds) & np.isfinite(candidates).all(axis=2)
    rank = np.argsort(-np.where(usable, log_odds, -np.inf), axis=None, kind="stable")[: int(usable.sum())]
    points = candidates.reshape(m * k, -1)
    label, kept = np.full(m * k, -1), []
    for flat in rank:
        apart = np.linalg.norm(points[kept] - points[flat], axis=1) if kept else np.empty(0)
        if len(apart) and apart.min() <= same_place:
            label[flat] = int(apart.argmin())
        else:
            label[flat] = len(kept)
            kept.append(flat)
    own, odds = np.full((m, len(kept)), -1), np.zeros((m, len(kept)))
    for flat in rank[::-1]:  # the best last
        i, c = divmod(int(flat), k)
        own[i, label[flat]] = c
    for i in range(m):
        values = log_odds[i, usable[i]]
        unseen = min(float(values.min()), float(values.max()) - BELOW_BEST) if len(values) else -BELOW_BEST
        odds[i] = np.where(own[i] >= 0, log_odds[i, own[i]], unseen)
    return points[kept], own, odds, log_odds.ravel()[kept]


def _link(row: Row, i: int, k: int, places: FloatArray) -> FloatArray:
    """(N, N) cost of the displacement from the k-th parent, at the first place, to member i, at the second."""
    moves = places[None] - places[:, None]
    low, mean, high, deviation = row.distances[i][k]
    length = np.linalg.norm(moves, axis=2)
    if row.straight:
        p = places.shape[1]
        parent = row.parents[i][k]
        off = moves - (np.array(row.offsets[i]) - np.array(row.offsets[parent]))
        precision = np.linalg.inv(np.array(row.covariances[i][k]).reshape(p, p))
        cost = t_cost(np.einsum("abp,pq,abq->ab", off, precision, off), p)
    else:
        cost = t_cost(((length - mean) / deviation) ** 2, 1)
    return np.asarray(cost + PENALTY * ((length < RANGE[0] * low) | (length > RANGE[1] * high)))


def t_cost(square: FloatArray, p: int) -> FloatArray:
    """Minus the log density of a t distribution on p axes at squared standardised distances, less its constant."""
    return np.asarray(0.5 * (TAILS + p) * np.log1p(square / TAILS))


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
        precision = np.linalg.inv(np.array(row.middle_covariance).reshape(p, p))
        off = places - geometry.centre - np.array(row.middle) - np.array(row.offsets)[:, None]
        cost += t_cost(np.einsum("mnp,pq,mnq->mn", off, precision, off), p)
    if row.stray and shape is not None:
        others = np.isfinite(best).all(axis=1)
        others[which] = False
        threshold = min(0.0, float(np.median(odds[others]))) if others.any() else 0.0
        sure = others & (odds >= threshold)
        expected = places_beside(shape, np.where(sure[:, None], best, np.nan), which)
        off = places - expected[:, None]
        cost += np.nan_to_num(t_cost((off**2).sum(axis=2) / row.stray**2, p))
    return cost


# -- the search ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Found:
    """Rows that a search kept, best first. choice: (B, M) places, -1 for a missing member. share: (B,) of probability.
    expected: (M, P) where each member belongs by the best row, NaN where nothing tells."""

    choice: Choice
    share: FloatArray
    expected: FloatArray

    @property
    def marginal(self) -> FloatArray:
        """(M,) probability of each member's place in the best row."""
        return np.asarray(((self.choice == self.choice[0]) * self.share[:, None]).sum(axis=0))


def search(problem: Problem, temperature: float, level: float) -> Found:
    """The best rows; level: log-odds at which a member's channel tells nothing."""
    evidence = (problem.odds - level) / temperature
    beam = _Beam(problem, evidence)
    for i in range(len(problem.which)):
        beam.extend(i)
    score = beam.score + _missing_cost(problem, beam.choice) - _reweighted(problem, beam.choice)
    order = np.argsort(-score, kind="stable")
    choice, score = beam.choice[order], score[order]
    return Found(choice, np.exp(score - logsumexp(score)), _expected(problem, choice[0]))


@dataclass(eq=False)
class _Beam:
    """Rows so far. choice: (B, members so far), score: (B,), taken: (B, N) places. kept: of each member, those before
    it that later ones are compared with."""

    problem: Problem
    evidence: FloatArray
    choice: Choice = field(default_factory=lambda: np.empty((1, 0), dtype=int))
    score: FloatArray = field(default_factory=lambda: np.zeros(1))
    taken: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.taken = np.zeros((1, len(self.problem.places)), dtype=bool)

    def extend(self, i: int) -> None:
        """By member i: at each place that is free, or missing."""
        m, n = self.evidence.shape
        worth = self.score[:, None] + self.evidence[i] - self.problem.position[i] / m - self._links(i)
        worth = np.where(self.taken, -np.inf, worth)
        options = np.concatenate([worth, (self.score - OUTSIDE)[:, None]], axis=1)
        best = np.argsort(-options, axis=None, kind="stable")[: 10 * BEAM]
        best = best[np.isfinite(options.ravel()[best])]
        row, place = np.divmod(best, n + 1)
        place = np.where(place == n, -1, place)
        choice = np.concatenate([self.choice[row], place[:, None]], axis=1)
        kept = self._few_alike(choice, i)
        self.choice, self.score = choice[kept], options.ravel()[best[kept]]
        self.taken = self.taken[row[kept]]
        there = np.flatnonzero(place[kept] >= 0)
        self.taken[there, place[kept][there]] = True

    def _links(self, i: int) -> FloatArray:
        """(B, N) mean cost over the parents that have a place; 0 where none has."""
        total = np.zeros((len(self.choice), self.evidence.shape[1]))
        count = np.zeros((len(self.choice), 1))
        for parent, cost in zip(self.problem.row.parents[i], self.problem.links[i], strict=True):
            at = self.choice[:, parent]
            total += np.where((at >= 0)[:, None], cost[at], 0.0)
            count += (at >= 0)[:, None]
        return total / np.maximum(count, 1)

    def _few_alike(self, choice: Choice, i: int) -> Choice:
        """Numbers of at most `BEAM` rows, best first; of those alike in all members that later ones are compared with,
        `ALIKE`."""
        later = {p for ps in self.problem.row.parents[i + 1 :] for p in ps if p <= i}
        state = choice[:, sorted(later)] if later else np.zeros((len(choice), 1), dtype=int)
        if i + 1 == len(self.evidence):
            return np.arange(min(len(choice), BEAM))
        seen: dict[bytes, int] = {}
        kept = []
        for number, row in enumerate(np.ascontiguousarray(state)):
            key = row.tobytes()
            seen[key] = seen.get(key, 0) + 1
            if seen[key] <= ALIKE:
                kept.append(number)
                if len(kept) == BEAM:
                    break
        return np.array(kept)


def _reweighted(problem: Problem, choice: Choice) -> FloatArray:
    """(B,) what position costs beyond what the beam counted: its mean is over the members that have a place."""
    m = choice.shape[1]
    there = choice >= 0
    cost = np.where(there, problem.position[np.arange(m), choice], 0.0).sum(axis=1)
    return np.asarray(cost / np.maximum(there.sum(axis=1), 1) - cost / m)


def _missing_cost(problem: Problem, choice: Choice) -> FloatArray:
    """(B,) score of missing members beyond the `OUTSIDE` that the beam counted: what lies inside the image by more than
    half the way to the neighbour should have been found."""
    result = np.zeros(len(choice))
    inside = problem.row.missing - OUTSIDE
    known: dict[bytes, float] = {}
    for number, row in enumerate(choice):
        if (row < 0).any():
            key = row.tobytes()
            if key not in known:
                known[key] = -inside * float((_belongs_inside(problem, row) & (row < 0)).sum())
            result[number] = known[key]
    return result


def _belongs_inside(problem: Problem, choice: Choice) -> npt.NDArray[np.bool_]:
    """(M,) whether the row so chosen puts each member well inside the image."""
    neighbour = np.array(problem.row.neighbour)
    if not (choice >= 0).any():
        return np.ones(len(choice), dtype=bool)
    geometry = problem.geometry
    if problem.row.straight:
        voxels = geometry.to_voxels(_expected(problem, choice))
        margin = REACH * neighbour
    else:  # nothing tells a direction: the place of the nearest one that is there, and its way to the image's end
        there = np.flatnonzero(choice >= 0)
        steps = np.abs(np.arange(len(choice))[:, None] - there)
        voxels = geometry.to_voxels(problem.places[choice[there[steps.argmin(axis=1)]]])
        margin = (steps.min(axis=1) + REACH) * neighbour
    edge = np.minimum(voxels + 0.5, np.array(geometry.shape) - 0.5 - voxels) * np.array(geometry.spacing)
    return np.asarray(edge.min(axis=1) > margin)


def _expected(problem: Problem, choice: Choice) -> FloatArray:
    """(M, P) where each member belongs, beside the nearest that have places; NaN where the row turns."""
    points = np.where((choice >= 0)[:, None], problem.places[choice], np.nan)
    if not problem.row.straight:
        return np.asarray(points)
    return expected_places(points, np.array(problem.row.offsets))


# -- what was chosen ----------------------------------------------------------------------------------------------------


def _with_row(before: Chosen, problem: Problem, found: Found, rows: Rows) -> Chosen:
    """With the row's places first."""
    candidates, log_odds = before.candidates.copy(), before.log_odds.copy()
    probability, reach = before.probability.copy(), before.reach.copy()
    choice, marginal = found.choice[0], rows.trust * found.marginal
    inside = _belongs_inside(problem, choice)
    for j, i in enumerate(problem.which):
        old, odds = candidates[i].copy(), log_odds[i].copy()
        reach[i] = REACH * problem.row.neighbour[j]
        if choice[j] >= 0:
            probability[i] = marginal[j]
            own = problem.own[j, choice[j]]
            place = old[own] if own >= 0 else problem.places[choice[j]]
            rest = [k for k in range(len(odds)) if k != own]
            candidates[i], log_odds[i] = _first(place, float(problem.shown[choice[j]]), old[rest], odds[rest], len(odds))
        else:
            made = inside[j] and np.isfinite(found.expected[j]).all()
            probability[i] = UNSEEN * marginal[j] if made else 0.0
            candidates[i], log_odds[i] = _not_found(
                problem, choice, j, old, odds, rows.level, found.expected[j] if made else None
            )
    return Chosen(candidates, log_odds, probability, reach)


def _first(place: FloatArray, odds: float, points: FloatArray, values: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
    """k candidates: this one, then as many of the others."""
    return np.concatenate([place[None], points])[:k], np.concatenate([[odds], values])[:k]


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
        bool(len(taken) and np.isfinite(p).all() and np.linalg.norm(taken - p, axis=1).min() <= problem.row.same_place)
        for p in points
    ]
    order = sorted(range(len(points)), key=lambda k: near[k])
    capped = np.where(np.isfinite(odds), np.minimum(odds, level), odds)
    points, capped = points[order], capped[order]
    if expected is None:
        return points, capped
    lowest = min([level, *capped[np.isfinite(capped)].tolist()])
    return _first(expected, lowest, points, capped, len(points))
