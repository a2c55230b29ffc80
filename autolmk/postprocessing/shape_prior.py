"""The choice of the candidate that the other landmarks make likely.

Structures that look alike (a vertebra and its neighbours) are told apart by the whole configuration alone. Evidence for
a candidate is what the network says, its log-odds times the trust that held-out cases justify, less the cost of its
standardised distance from where the others make the landmark likely (`ShapeModel.expectation`), that of a Student t:
its tails are heavy, because anatomy may differ. All landmarks choose at once, again and again until nothing changes, so
that neighbours that are off together move together; the pose comes from the points that agree, and the search also
starts from poses that second candidates support. Two landmarks may not take one place.

Only the order of candidates changes: no point is ever moved or averaged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used: scipy.stats takes 0.7 s

from autolmk.detections import Detections
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks
from autolmk.postprocessing.context import Context, HeldOut
from autolmk.shapes.point_distribution import Expectation, ShapeModel, fit_shape_model, why_no_shape
from autolmk.shapes.pose import Similarity, fit_similarity

Choice = npt.NDArray[np.int_]

TAILS = 5.0  # degrees of freedom of the t distribution
CLEARLY = 2.0  # evidence (natural log-odds) that a change must gain
SHARED = 20.0  # evidence that it costs two landmarks to be at one place
SAME_PLACE = 0.3  # of two landmarks' distance in the mean shape, within which their candidates are one place
ROUNDS = 12
IMPLAUSIBLE = 0.005  # false-alarm rate of the standardised distance beyond which other poses are looked for
DRAWS, STARTS, RANDOM = 100, 2, 0  # poses from few candidates: drawn, and followed; the seed
TRUSTS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
PRIOR_STD = 1.0  # of the logarithm of the trust, around that of 0.5
POOLED = 10.0  # pseudo-cases of the errors of all landmarks, added to those of each


@dataclass(frozen=True)
class ShapePriorStep:
    """The step that chooses candidates by shape. model: of the landmarks. noise: (L,) mm an axis, the detections' own
    errors. trust: factor on log-odds.
    """

    model: ShapeModel
    noise: tuple[float, ...]
    trust: float
    name: ClassVar[str] = "shape_prior"

    def apply(self, found: Detections) -> Detections:
        """Another candidate first where it is clearly more likely to be the landmark; the rest keep their order. Its
        spread is unknown, NaN."""
        if not np.isfinite(found.log_odds[:, 1:]).any():
            return found
        choice = _Search(self, found).choice()
        changed = np.flatnonzero(choice != 0)
        if not len(changed):
            return found
        candidates, log_odds = found.candidates.copy(), found.log_odds.copy()
        spread, moved, row = found.spread.copy(), found.moved.copy(), found.row.copy()
        for i in changed:
            order = [choice[i], *(k for k in range(candidates.shape[1]) if k != choice[i])]
            candidates[i], log_odds[i] = candidates[i, order], log_odds[i, order]
            spread[i], moved[i : i + 1], row[i] = np.nan, 0.0, 1 - row[i]
        return replace(found, candidates=candidates, log_odds=log_odds, spread=spread, moved=moved, row=row)

    def cost(self, expected: Expectation, candidates: FloatArray) -> FloatArray:
        """The cost (L, K) of candidates (L, K, P): minus the log density of a t distribution, without its constant; 0
        where nothing is expected.
        """
        square = expected.distance(candidates, np.array(self.noise)) ** 2
        p = candidates.shape[2]
        return np.asarray(np.nan_to_num((TAILS + p) / 2 * np.log1p(square / TAILS)))


def fit(held_out: HeldOut, context: Context, model: ShapeModel | None = None) -> ShapePriorStep | str:
    """The model of these cases' truth (`model`, where it is known already), the size of the detections' errors, and how
    far log-odds can be trusted."""
    why = no_shape(held_out)
    if why is not None:
        return why
    model = fit_shape_model([marks for _, marks in held_out]) if model is None else model
    assert model is not None  # there is no reason why not
    step = ShapePriorStep(model, noise_of(held_out), 0.5)
    return replace(step, trust=_trust(step, held_out))


def no_shape(held_out: HeldOut) -> str | None:
    """The reason why these cases support no shape model; None where they do."""
    if any(found.geometry.ndim != found.geometry.physical_ndim for found, _ in held_out):
        return "the images are single slices in space, in which a shape may turn over"
    return why_no_shape([marks for _, marks in held_out])


def noise_of(held_out: HeldOut) -> tuple[float, ...]:
    """The noise of right candidates, (L,) mm an axis (the nearest to the truth: the best one may be a look-alike more
    often than not); with it the median of squared errors is that of chi-square, so that few gross errors do not count.
    """
    errors = np.stack([_nearest_of(found, truth) for found, truth in held_out])
    p = held_out[0][1].points.shape[1]
    pooled = float(np.nanmedian(errors)) ** 2 if np.isfinite(errors).any() else 0.0
    count = np.isfinite(errors).sum(axis=0)
    own = np.array([float(np.median(c[np.isfinite(c)])) ** 2 if np.isfinite(c).any() else 0.0 for c in errors.T])
    square = (count * own + POOLED * pooled) / (count + POOLED)
    return tuple(float(v) for v in np.sqrt(square / scipy.stats.chi2.median(p)))


def _nearest_of(found: Detections, truth: Landmarks) -> FloatArray:
    """(L,) mm from the truth to the nearest candidate, NaN where either is none."""
    apart = np.linalg.norm(found.candidates - truth.points[:, None], axis=2)
    nearest = np.where(np.isfinite(apart), apart, np.inf).min(axis=1)
    return np.where(np.isfinite(nearest), nearest, np.nan)


def _trust(step: ShapePriorStep, held_out: HeldOut) -> float:
    """The factor under which the right candidates are the likeliest (softmax of the evidence), of `TRUSTS`."""
    choices = [_labelled(step, found, truth.points) for found, truth in held_out]
    log_odds, cost, right = (np.concatenate(part) for part in zip(*choices, strict=True))
    if not len(right):
        return 0.5

    def likelihood(trust: float) -> float:
        evidence = np.where(np.isfinite(log_odds), trust * log_odds - cost, -np.inf)
        top = evidence.max(axis=1, keepdims=True)
        total = top[:, 0] + np.log(np.exp(evidence - top).sum(axis=1))
        prior = -((np.log(trust / 0.5) / PRIOR_STD) ** 2) / 2
        return float((evidence[np.arange(len(right)), right] - total).sum() + prior)

    return max(TRUSTS, key=likelihood)


def _labelled(step: ShapePriorStep, found: Detections, truth: FloatArray) -> tuple[FloatArray, FloatArray, Choice]:
    """Of each landmark with several candidates, one of them right: log-odds (N, K), cost (N, K), which one is right."""
    apart = np.linalg.norm(found.candidates - truth[:, None], axis=2)
    limit = 4 * np.array(step.noise) * np.sqrt(truth.shape[1])
    several = np.isfinite(found.log_odds).sum(axis=1) > 1
    rows = np.flatnonzero(several & (np.where(np.isfinite(apart), apart, np.inf).min(axis=1) <= limit))
    expected = step.model.expectation(found.best, _belief(found), np.array(step.noise))
    right = np.where(np.isfinite(apart[rows]), apart[rows], np.inf).argmin(axis=1)
    return found.log_odds[rows], step.cost(expected, found.candidates)[rows], right


def _belief(found: Detections) -> FloatArray:
    """(L,) trust in each point: the likelihood, 1 where the model tells none, a little for every point."""
    return np.asarray(np.clip(np.nan_to_num(found.likelihood, nan=1.0), 0.05, 1.0))


@dataclass(frozen=True, eq=False)
class _Settled:
    """choice: (L,) candidates of the evidence `total`; evidence: (L, K) of each candidate given the others' choice."""

    total: float
    choice: Choice
    evidence: FloatArray
    expected: Expectation | None


class _Search:
    """For the choice of candidates, one a landmark, that has the most evidence."""

    def __init__(self, step: ShapePriorStep, found: Detections) -> None:
        self.step, self.found, self.noise = step, found, np.array(step.noise)
        self.says = np.where(np.isfinite(found.log_odds), step.trust * found.log_odds, -np.inf)
        self.belief = _belief(found)
        mean = step.model.points
        self.near = SAME_PLACE * np.nan_to_num(np.linalg.norm(mean[:, None] - mean, axis=2))

    def choice(self) -> Choice:
        """(L,) index of each landmark's candidate, 0 but where another one is clearly better."""
        first = self._settled(np.zeros(len(self.says), dtype=int), None)
        best = first
        for start, pose in [] if self._plausible(first) else self._starts():
            best = max(best, self._settled(start, pose), key=lambda settled: settled.total)
        return self._clear(best if best.total > first.total + CLEARLY else first)

    def _plausible(self, settled: _Settled) -> bool:
        """Whether every landmark is where the others make it likely; then no other pose needs to be looked for."""
        if settled.expected is None:
            return True
        distance = settled.expected.distance(self._points(settled.choice), self.noise)
        return not bool((distance > self.step.model.threshold(IMPLAUSIBLE)).any())

    def _points(self, choice: Choice) -> FloatArray:
        return np.asarray(self.found.candidates[np.arange(len(choice)), choice])

    def _settled(self, choice: Choice, pose: Similarity | None) -> _Settled:
        """The choice of most evidence, when all landmarks and the pose, at first `pose`, take turns until nothing
        changes."""
        best = _Settled(-np.inf, choice, self.says, None)
        seen = set()
        for _ in range(ROUNDS):
            expected = self.step.model.expectation(self._points(choice), self.belief, self.noise, start=pose)
            evidence = np.asarray(self.says - self.step.cost(expected, self.found.candidates))
            own = evidence[np.arange(len(choice)), choice]
            total = float(own[np.isfinite(own)].sum()) - SHARED * len(self._conflicts(choice))
            if total > best.total:
                best = _Settled(total, choice, evidence, expected)
            pose = expected.pose
            seen.add(choice.tobytes())
            wanted = np.where(np.isfinite(evidence).any(axis=1), evidence.argmax(axis=1), 0)
            choice = self._apart(wanted, evidence)
            if choice.tobytes() in seen:
                break
        return best

    def _conflicts(self, choice: Choice) -> list[tuple[int, int]]:
        """Pairs of landmarks at one place."""
        points = self._points(choice)
        apart = np.linalg.norm(points[:, None] - points, axis=2)
        return [(int(i), int(j)) for i, j in np.argwhere(apart < self.near) if i < j]

    def _apart(self, choice: Choice, evidence: FloatArray) -> Choice:
        """Pairs at one place take their best two places apart, one pair after the other."""
        choice = choice.copy()
        candidates = self.found.candidates
        for i, j in self._conflicts(choice):
            apart = np.linalg.norm(candidates[i][:, None] - candidates[j], axis=2) >= self.near[i, j]
            joint = evidence[i][:, None] + evidence[j] - np.where(apart, 0.0, SHARED)
            choice[i], choice[j] = np.unravel_index(int(np.nan_to_num(joint, nan=-np.inf).argmax()), joint.shape)
        return choice

    def _clear(self, settled: _Settled) -> Choice:
        """Without the changes that gain too little, or take a place that another landmark has. The others' choice is
        given: a landmark that moved with its neighbours is judged beside them."""
        choice, evidence = settled.choice, settled.evidence
        rows = np.arange(len(choice))
        changed = choice > 0  # a landmark without any candidate never is
        gain = np.subtract(evidence[rows, choice], evidence[:, 0], out=np.zeros(len(choice)), where=changed)
        result = np.where(gain >= CLEARLY, choice, 0)
        before = set(self._conflicts(np.zeros_like(choice)))
        for i, j in self._conflicts(result):
            if (i, j) not in before:
                result[[i, j]] = 0
        return np.asarray(result)

    def _starts(self) -> list[tuple[Choice, Similarity]]:
        """Choices near poses that few candidates, drawn at random, support better than the first candidates do."""
        mean, candidates = self.step.model.points, self.found.candidates
        p = mean.shape[1]
        usable = np.flatnonzero(np.isfinite(self.says[:, 0]) & np.isfinite(mean).all(axis=1))
        if len(usable) <= p + 1:
            return []
        rng = np.random.default_rng(RANDOM)
        spread = np.sqrt(self.step.model.own_variance + self.noise**2)
        options: dict[bytes, tuple[float, Choice, Similarity]] = {}
        for _ in range(DRAWS):
            rows = rng.choice(usable, p + 1, replace=False)
            several = np.isfinite(self.says[rows]).sum(axis=1)
            picked = np.minimum(rng.geometric(0.6, p + 1) - 1, several - 1)
            fit = fit_similarity(
                mean[rows], candidates[rows, picked], robust=False, scale_bounds=self.step.model.scale_bounds
            ).similarity
            u = np.linalg.norm(candidates - fit.apply(mean)[:, None], axis=2) / (fit.scale * spread[:, None])
            evidence = np.where(np.isfinite(u), self.says - (TAILS + p) / 2 * np.log1p(u**2 / TAILS), -np.inf)
            choice = np.where(np.isfinite(evidence).any(axis=1), evidence.argmax(axis=1), 0)
            total = float(evidence[usable].max(axis=1).sum())
            if choice.any() and total > options.get(choice.tobytes(), (-np.inf, choice, fit))[0]:
                options[choice.tobytes()] = total, choice, fit
        ranked = sorted(options.values(), key=lambda option: -option[0])
        return [(choice, fit) for _, choice, fit in ranked[:STARTS]]
