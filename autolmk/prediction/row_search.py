"""The search for the best rows: which place each member of a row has, of those that `row_choice.pose` found.

A beam goes member by member. What is kept at each step is judged by its score so far plus what the members after it
can still add, as a chain through the places tells exactly (dynamic programming over the last member that has a place):
so a row that begins outside the image is not lost to others that seem better at first. What the beam keeps at the end
are the best whole rows, whose scores give probabilities.

Shapes: P physical axes, M members, N places, B rows kept. Everything in mm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from autolmk.geometry import FloatArray, Geometry
from autolmk.shapes.row import BORDER, VARIES, Row, expected_places, well_inside

Choice = npt.NDArray[np.int_]

TAILS = 4.0  # degrees of freedom of the t distributions
RANGE = (0.75, 1.25)  # of the shortest and longest distance of training, beyond which it costs `PENALTY`
PENALTY = 20.0
OUTSIDE = 0.5  # cost of a member that is missing where the image ends
BEAM = 300
JUMP = 6  # members on, at most, that a chain goes in one step


@dataclass(frozen=True, eq=False)
class Problem:
    """A row in an image. which: (M,) members' landmarks. places: (N, P). own: (M, N) number of the member's candidate
    there, -1 for none. odds: (M, N) log-odds of its channel there. shown: (N,) the best of any channel. position:
    (M, N) cost. others: the same at other scales of the row."""

    row: Row
    geometry: Geometry
    which: Choice
    places: FloatArray
    own: Choice
    odds: FloatArray
    shown: FloatArray
    position: FloatArray
    others: tuple[Problem, ...] = ()
    _steps: dict[tuple[int, int], npt.NDArray[np.float32]] = field(default_factory=dict)

    def step(self, last: int, member: int) -> npt.NDArray[np.float32]:
        """The cost (N, N) of the places of two members; remembered until `forget`."""
        if (last, member) not in self._steps:
            parents = self.row.parents[member]
            known = last in parents
            cost = _link(self, member, parents.index(last)) if known else _gap(self, last, member)
            self._steps[last, member] = cost.astype(np.float32)
        return self._steps[last, member]

    @cached_property
    def moves(self) -> tuple[FloatArray, FloatArray]:
        """The displacements (N, N, P) from one place to another, and their lengths (N, N)."""
        moves = self.places[None] - self.places[:, None]
        return moves, np.linalg.norm(moves, axis=2)

    def forget(self) -> None:
        """Free what is remembered of costs, which is large for long rows."""
        for problem in (self, *self.others):
            problem._steps.clear()
            for name in ("moves", "missing"):
                problem.__dict__.pop(name, None)

    @cached_property
    def missing(self) -> FloatArray:
        """The cost (M, M, N) of the second member's absence, as the first one's place tells."""
        m, n = self.odds.shape
        beside, member, at = np.indices((m, m, n)).reshape(3, -1)
        inside = _is_inside(self, member, beside, at).reshape(m, m, n)
        return np.where(inside, self.row.missing, OUTSIDE)


@dataclass(frozen=True, eq=False)
class Found:
    """Rows that a search kept, best first. choice: (B, M) places, -1 for a missing member. share: (B,) of probability.
    marginal: (M,) probability of each member's place in the best row, or one nearer than half the way to its neighbour.
    expected: (M, P) where each member belongs by the best row, NaN where nothing tells. inside: (M,) whether that is
    well inside the image. row: at the scale that suits the best one."""

    choice: Choice
    share: FloatArray
    marginal: FloatArray
    expected: FloatArray
    inside: npt.NDArray[np.bool_]
    row: Row


def search(problem: Problem, temperature: float, level: float) -> Found:
    """The best rows; level: log-odds at which a member's channel tells nothing."""
    scaled = [(one, *_best_rows(one, (one.odds - level) / temperature)) for one in (problem, *problem.others)]
    at = max(scaled, key=lambda found: float(found[2].max()))[0]
    choice = np.concatenate([found[1] for found in scaled])
    score = np.concatenate([found[2] for found in scaled])
    order = np.argsort(-score, kind="stable")
    choice, score = choice[order], score[order]
    share = np.exp(score - logsumexp(score))
    marginal = (share[:, None] * _alike(at, choice)).sum(axis=0)
    return Found(choice, share, marginal, _expected(at, choice[0]), _belongs_inside(at, choice[0]), at.row)


def _best_rows(problem: Problem, evidence: FloatArray) -> tuple[Choice, FloatArray]:
    """(rows (B, M), their scores (B,))."""
    beam = _Beam(problem, evidence)
    for i in range(len(problem.which)):
        beam.extend(i)
    return beam.choice, beam.score - _missing_cost(problem, beam.choice) - _reweighted(problem, beam.choice)


def _alike(problem: Problem, choice: Choice) -> npt.NDArray[np.bool_]:
    """(B, M) whether rows have a member where the first one has it."""
    apart = np.linalg.norm(problem.places[choice] - problem.places[choice[0]], axis=2)
    there = (choice >= 0) & (choice[0] >= 0)
    return np.asarray(np.where(there, apart <= BORDER * np.array(problem.row.neighbour), choice == choice[0]))


# -- costs ------------------------------------------------------------------------------------------------------------


def t_cost(square: FloatArray, p: int) -> FloatArray:
    """The cost (...), minus the log density of a t distribution on p axes at squared standardised distances, less its
    constant.
    """
    return np.asarray(0.5 * (TAILS + p) * np.log1p(square / TAILS))


def _link(problem: Problem, i: int, k: int) -> FloatArray:
    """(N, N) cost of the displacement from the k-th parent, at the first place, to member i, at the second."""
    row, (moves, length), p = problem.row, problem.moves, problem.places.shape[1]
    low, mean, high, deviation = row.distances[i][k]
    if row.straight:
        parent = row.parents[i][k]
        off = moves - (np.array(row.offsets[i]) - np.array(row.offsets[parent]))
        precision = np.linalg.inv(np.array(row.covariances[i][k]).reshape(p, p))
        cost = t_cost(((off @ precision) * off).sum(axis=2), p)
    else:
        cost = t_cost(((length - mean) / deviation) ** 2, 1)
    return np.asarray(cost + PENALTY * ((length < RANGE[0] * low) | (length > RANGE[1] * high)))


def _gap(problem: Problem, last: int, member: int) -> FloatArray:
    """(N, N) cost of two members' places that training cases do not compare: neither is the other's parent."""
    row, (moves, length), p = problem.row, problem.moves, problem.places.shape[1]
    longest = float(np.sum(row.neighbour[last + 1 : member + 1]))
    if not row.straight:
        return np.asarray(PENALTY * (length > RANGE[1] * longest))
    mean = np.array(row.offsets[member]) - np.array(row.offsets[last])
    usual = float(np.linalg.norm(mean))
    scale = usual + row.neighbour[member]  # two members of one body may lie at nearly one place
    square = ((moves - mean) ** 2).sum(axis=2) / (VARIES * scale) ** 2
    beyond = np.abs(length - usual) > (RANGE[1] - 1) * scale
    return t_cost(square, p) + PENALTY * beyond


def _reweighted(problem: Problem, choice: Choice) -> FloatArray:
    """(B,) what position costs beyond what the beam counted: its mean is over the members that have a place."""
    m = choice.shape[1]
    there = choice >= 0
    cost = np.where(there, problem.position[np.arange(m), choice], 0.0).sum(axis=1)
    return np.asarray(cost / np.maximum(there.sum(axis=1), 1) - cost / m)


def _missing_cost(problem: Problem, choice: Choice) -> FloatArray:
    """(B,) of missing members: what lies inside the image should have been found."""
    inside = np.stack([_belongs_inside(problem, row) for row in choice])
    return np.asarray(((choice < 0) * np.where(inside, problem.row.missing, OUTSIDE)).sum(axis=1))


def _belongs_inside(problem: Problem, choice: Choice) -> npt.NDArray[np.bool_]:
    """(M,) whether the row so chosen puts each member well inside the image."""
    there = np.flatnonzero(choice >= 0)
    if not len(there):
        return np.ones(len(choice), dtype=bool)
    members = np.arange(len(choice))
    nearest = there[np.abs(members[:, None] - there).argmin(axis=1)]
    return np.asarray(problem.missing[nearest, members, choice[nearest]] > OUTSIDE)


def _is_inside(problem: Problem, members: Choice, beside: Choice, at: Choice) -> npt.NDArray[np.bool_]:
    """Whether each member, `beside` another one that is `at` a place, belongs further inside the image than half its
    way to the neighbour; where rows turn, whether it does in any direction."""
    row, place = problem.row, problem.places[at]
    margin = BORDER * np.array(row.neighbour)[members]
    if row.straight:
        offsets = np.array(row.offsets)
        place = place + offsets[members] - offsets[beside]
    else:
        way = np.cumsum(row.neighbour)
        margin = margin + np.abs(way[members] - way[beside])
    return well_inside(problem.geometry, place, margin)


def _expected(problem: Problem, choice: Choice) -> FloatArray:
    """(M, P) where each member belongs, beside the nearest that have places; NaN where the row turns."""
    points = np.where((choice >= 0)[:, None], problem.places[choice], np.nan)
    if not problem.row.straight:
        return np.asarray(points)
    return expected_places(points, np.array(problem.row.offsets))


# -- the beam ---------------------------------------------------------------------------------------------------------


class _Future:
    """What members can still add to a row, at best, along a chain: each compared with the one before that has a place.

    start: (M, N) of the first member that has a place, with all that follow. later: (M, JUMP, N) what follows a member
    at a place, the next so many members missing. gap: (M, M, N) what members after the first up to the second cost, all
    missing; lead: (M, N) what those before it cost.
    """

    def __init__(self, problem: Problem, unary: FloatArray) -> None:
        m, n = unary.shape
        missing = problem.missing
        self.gap = np.cumsum(
            np.where(np.tri(m, dtype=bool)[..., None], 0.0, missing), axis=1
        )  # of those up to a member
        self.lead = np.where(np.tri(m, k=-1, dtype=bool)[..., None], missing, 0.0).sum(axis=1)
        self.later = np.zeros((m, JUMP, n))
        for j in reversed(range(m)):
            best = -self.gap[j, m - 1]  # nobody follows
            for jump in reversed(range(JUMP)):
                k = j + 1 + jump
                if k < m:
                    follows = (unary[k] + self.later[k, 0] - problem.step(j, k)).max(axis=1)
                    best = np.maximum(best, follows - self.gap[j, k - 1])
                self.later[j, jump] = best
        self.start = unary + self.later[:, 0] - self.lead

    def none_yet(self, i: int) -> float:
        """The state of a row in which members up to i are missing."""
        return float(self.start[i + 1 :].max()) if i + 1 < len(self.start) else -np.inf

    def of_missing(self, i: int, last: Choice, at: Choice) -> FloatArray:
        """(B,) of rows whose last members are at places, those up to i after them missing; with these members' cost."""
        jump = i - last
        nobody = -self.gap[last, len(self.gap) - 1, at]
        return np.where(jump < JUMP, self.later[last, np.minimum(jump, JUMP - 1), at], nobody)


@dataclass(eq=False)
class _Beam:
    """Rows so far. choice: (B, members so far). score: (B,) of the members that have a place. spent: (B,) what missing
    ones before the last of these seem to cost. taken: (B, N) places."""

    problem: Problem
    evidence: FloatArray
    choice: Choice = field(default_factory=lambda: np.empty((1, 0), dtype=int))
    score: FloatArray = field(default_factory=lambda: np.zeros(1))
    spent: FloatArray = field(default_factory=lambda: np.zeros(1))
    taken: npt.NDArray[np.bool_] = field(init=False)
    future: _Future = field(init=False)

    def __post_init__(self) -> None:
        m = len(self.evidence)
        self.taken = np.zeros((1, len(self.problem.places)), dtype=bool)
        self.unary = self.evidence - self.problem.position / m
        self.future = _Future(self.problem, self.unary)

    def extend(self, i: int) -> None:
        """Extend states by member i: at each place that is free, or missing."""
        n = self.evidence.shape[1]
        begun = np.asarray((self.choice >= 0).any(axis=1))
        last = _last(self.choice) if i else np.zeros(len(self.choice), dtype=int)
        at = self.choice[np.arange(len(last)), last] if i else last
        gap = np.where(begun, self.future.gap[last, max(i - 1, 0), at], 0.0)
        worth = self.score[:, None] + self.unary[i] - self._links(i, begun, last, at)
        spent = self.spent + gap
        rank = worth - spent[:, None] + self.future.later[i, 0]
        rank[~begun] -= self.future.lead[i]
        nowhere = np.where(
            begun, self.score - self.spent + self.future.of_missing(i, last, at), self.future.none_yet(i)
        )
        rank = np.concatenate([np.where(self.taken, -np.inf, rank), nowhere[:, None]], axis=1)
        flat = rank.ravel()
        best = np.argpartition(-flat, BEAM)[:BEAM] if len(flat) > BEAM else np.arange(len(flat))
        best = best[np.isfinite(flat[best])]
        row, place = np.divmod(best, n + 1)
        place = np.where(place == n, -1, place)
        there = place >= 0
        self.score = np.where(there, worth[row, place], self.score[row])
        self.spent = np.where(there, np.where(begun[row], spent[row], self.future.lead[i][place]), self.spent[row])
        self.choice = np.concatenate([self.choice[row], place[:, None]], axis=1)
        self.taken = self.taken[row]
        self.taken[np.flatnonzero(there), place[there]] = True

    def _links(self, i: int, begun: npt.NDArray[np.bool_], last: Choice, at: Choice) -> FloatArray:
        """(B, N) mean cost over the parents that have a place; without any, beside the last member that has one; 0 for
        the first member that has."""
        total = np.zeros((len(self.choice), self.evidence.shape[1]))
        count = np.zeros((len(self.choice), 1))
        for parent in self.problem.row.parents[i]:
            place = self.choice[:, parent]
            total += np.where((place >= 0)[:, None], self.problem.step(parent, i)[place], 0.0)
            count += (place >= 0)[:, None]
        alone = begun & (count[:, 0] == 0)
        for member in np.unique(last[alone]):
            rows = np.flatnonzero(alone & (last == member))
            total[rows] = self.problem.step(int(member), i)[at[rows]]
        return total / np.maximum(count, 1)


def _last(choice: Choice) -> Choice:
    """(B,) the last member that has a place in rows (B, M); of rows without any the last."""
    return np.asarray(choice.shape[1] - 1 - (choice[:, ::-1] >= 0).argmax(axis=1))
