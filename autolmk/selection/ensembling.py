"""Ensembling: what several models say of one case, combined in millimetres. Candidates only, never heatmaps.

A place is supported by every candidate near it, of any model, each by its probability. The best supported place wins;
there the models' candidates are averaged, with weights that fall to nothing for what lies far off. So a model that is
far off, or finds nothing, hardly matters, and a second candidate of one model can win where the others confirm it.

Models that learned from the same cases err alike, so that one of twice the error can add little to a better one. The
weights of the mean are those of the least variance given how far the models' errors agree (Bates and Granger,
Operational Research Quarterly 20:451, 1969), none below 0. All is fitted on held-out cases (`Combination`).

Shapes: M models, L landmarks, K candidates, P physical axes. Everything in mm (or pixels).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from autolmk.detections import Detections
from autolmk.evaluation import penalties, point_errors
from autolmk.evaluation.comparison import paired_test
from autolmk.evaluation.presence_calibration import PresenceCalibration, fit_presence
from autolmk.fold.held_out import CrossValidation
from autolmk.geometry import FloatArray

Rule = Literal["mean", "precision", "landmark_precision"]
USUAL: Rule = "precision"  # unless another one is better beyond chance
SIGNIFICANT = 0.05  # p up to which another rule is better beyond chance
CHI_SQUARE_MEDIAN = {2: 1.3863, 3: 2.3660}  # of P degrees of freedom
NEAR = 3.0  # standard deviations of the difference of two models' points within which they mean the same place
WIDE = 6.0  # the same, of what a first look at a case without fitted errors allows: widths of peaks
ROUNDS = 10  # of reweighting
FLOOR = 1e-6  # mm^2
LEAST_LIKELY = 1e-4  # probability of a place that no model shows
LEAST_WEIGHT = 1e-6  # of a model in a mean: where it alone sees something, it is heard
MOST_ALIKE = 0.98  # correlation of two models' errors that counts: weights stay finite
UNKNOWN, UNKNOWN_OTHERS = PresenceCalibration(), PresenceCalibration(1.0, -3.0)  # without held-out cases
SAMPLING = 2.7  # variance of the logarithm of a median-based variance, over that of one from all squares


@dataclass(frozen=True)
class Combination:
    """The rule that combines models. rule: how models are weighted: all alike, by their errors, or by their errors
    landmark by landmark. members: names of the models, in order. variance: of each member, landmark -> mm^2 an axis of
    its errors (gross ones do not count); empty where no held-out cases told, then peaks' widths count instead.
    agreement: of each member, member -> correlation of their errors. first, others: of each member, from a candidate's
    log-odds to the probability that it is the true place; the best candidate apart from the others, because log-odds do
    not tell all: left and right are assigned by the whole configuration, and a partner's place may have the higher
    log-odds."""

    rule: Rule
    members: tuple[str, ...]
    variance: dict[str, dict[str, float]] = field(default_factory=dict)
    agreement: dict[str, dict[str, float]] = field(default_factory=dict)
    first: dict[str, PresenceCalibration] = field(default_factory=dict)
    others: dict[str, PresenceCalibration] = field(default_factory=dict)


def single(name: str) -> Combination:
    """The combination of one model, which leaves what it says as it is."""
    return Combination("mean", (name,))


def equal_combination(names: Sequence[str]) -> Combination:
    """The combination of models of which nothing is known: all count alike."""
    return Combination("mean", tuple(names))


def combine(found: Sequence[Detections], combination: Combination) -> Detections:
    """One case's detections of the members, in order, as one; one as it is. ValueError where number or names differ.

    Candidates are at places that models found, or their means; log-odds are those of the models' mean probability;
    spread is the weighted mean of the widths, likelihood and row are the mean over the models that know them; geometry
    is of the finest voxels; disagreement: root mean square distance of the models' best points from the combined one.
    """
    return combine_cases([found], combination)[0]


def combine_cases(cases: Sequence[Sequence[Detections]], combination: Combination) -> list[Detections]:
    """`combine` of many cases, which is faster than one by one."""
    for found in cases:
        if len(found) != len(combination.members) or any(one.names != found[0].names for one in found):
            raise ValueError(f"a combination of {len(combination.members)} models needs as many detections of a case")
    if not cases or len(combination.members) == 1:
        return [found[0] for found in cases]
    k = max(one.candidates.shape[1] for found in cases for one in found)
    pool = _PooledCandidates.joined([_PooledCandidates.of(found, combination, k) for found in cases])
    places, odds, weights = zip(*(pool.take() for _ in range(k)), strict=True)
    candidates, log_odds = np.stack(places, axis=1), np.stack(odds, axis=1)
    result = []
    for i, found in enumerate(cases):
        rows = slice(i * len(found[0].names), (i + 1) * len(found[0].names))
        result.append(_combined(found, candidates[rows], log_odds[rows], weights[0][rows]))
    return result


def _combined(
    found: Sequence[Detections], candidates: FloatArray, log_odds: FloatArray, weight: FloatArray
) -> Detections:
    """Of one case; weight: (L, M) that each model has in the best place."""
    geometry = min(found, key=lambda one: math.prod(one.geometry.spacing)).geometry
    spread = _weighted_mean(np.stack([one.spread for one in found], axis=1), weight)
    own = np.stack([one.best for one in found], axis=1)
    disagreement = np.sqrt(_mean(((own - candidates[:, :1]) ** 2).sum(axis=2)))
    likelihood = _mean(np.stack([one.likelihood for one in found], axis=1))
    row = _mean(np.stack([one.row_at(candidates[:, 0]) for one in found], axis=1))
    moves = [one.moved if one.moved.size else np.zeros(candidates[:, 0].shape) for one in found]
    moved = np.stack([_weighted_mean(axis, weight) for axis in np.stack(moves, axis=1).transpose(2, 0, 1)], axis=1)
    return Detections(found[0].names, candidates, log_odds, spread, likelihood, geometry, disagreement, moved, row)


@dataclass(eq=False)
class _PooledCandidates:
    """The candidates that are left. points: (L, M, K, P), anything where there is none; probability: (L, M, K), 0
    there; deviation: (L, M) mm an axis of each model's errors; weight: (L, M) of each model's points; n_models: (L,)
    that know the landmark."""

    points: FloatArray
    probability: FloatArray
    deviation: FloatArray
    weight: FloatArray
    n_models: FloatArray

    @classmethod
    def joined(cls, pools: Sequence[_PooledCandidates]) -> _PooledCandidates:
        """Landmarks of many cases in one row."""
        return cls(*(np.concatenate([vars(pool)[name] for pool in pools]) for name in cls.__dataclass_fields__))

    @classmethod
    def of(cls, found: Sequence[Detections], combination: Combination, k: int) -> _PooledCandidates:
        """The candidates of all members in one case; those with fewer than k candidates are filled up."""
        points, log_odds = [], []
        for one in found:
            missing = k - one.candidates.shape[1]
            points.append(np.pad(one.candidates, ((0, 0), (0, missing), (0, 0)), constant_values=np.nan))
            log_odds.append(np.pad(one.log_odds, ((0, 0), (0, missing)), constant_values=-np.inf))
        each, odds = np.stack(points, axis=1), np.stack(log_odds, axis=1)
        there = np.isfinite(odds) & np.isfinite(each).all(axis=3)
        deviation = _deviations(found, combination).T
        weight = np.ones_like(deviation) if combination.rule == "mean" else _weights(deviation, combination)
        known = np.stack([~np.isnan(one.likelihood) for one in found], axis=1).sum(axis=1)
        return cls(
            np.where(there[..., None], each, 0.0),
            np.where(there, _probabilities(odds, combination), 0.0),
            deviation,
            np.maximum(weight, LEAST_WEIGHT),
            np.maximum(known, 1),
        )

    def take(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(best supported places (L, P), NaN where nothing is left; their log-odds (L,); the weight (L, M) that each
        model has in them); what lies there is taken out."""
        n, m, k, p = self.points.shape
        each = self.points.reshape(n, m * k, p)
        totals = np.stack([self._each(each[:, j]).max(axis=2).sum(axis=1) for j in range(m * k)], axis=1)
        totals = np.where(self.probability.reshape(n, m * k) > 0, totals, -1.0)
        place = each[np.arange(n), totals.argmax(axis=1)]
        for _ in range(ROUNDS):
            place = self._mean_at(place)
        near = self._scaled(place) <= NEAR
        shown = np.where(near, self.probability, 0.0).max(axis=2).sum(axis=1) / self.n_models
        mean = shown.clip(LEAST_LIKELY, 1 - LEAST_LIKELY)
        weight, left = self.weight * self._each(place).max(axis=2), totals.max(axis=1) >= 0
        self.probability = np.where(near, 0.0, self.probability)
        log_odds = np.where(left, np.log(mean / (1 - mean)), -np.inf)
        return np.where(left[:, None], place, np.nan), log_odds, weight

    def _scaled(self, place: FloatArray) -> FloatArray:
        """(L, M, K) distances from places (L, P), in standard deviations of the difference of two models' points."""
        usual = np.median(self.deviation, axis=1, keepdims=True)
        both = np.sqrt((self.deviation**2 + usual**2) * self.points.shape[3])
        return np.asarray(np.linalg.norm(self.points - place[:, None, None], axis=3) / both[..., None])

    def _each(self, place: FloatArray) -> FloatArray:
        """(L, M, K) support of each candidate for places: its probability, less the further off (Geman-McClure)."""
        return np.asarray(self.probability * (NEAR**2 / (NEAR**2 + self._scaled(place) ** 2)) ** 2)

    def _mean_at(self, place: FloatArray) -> FloatArray:
        """(L, P) mean of the candidates by which the models support places; the places where nothing does."""
        each = self._each(place)
        best = each.argmax(axis=2)[..., None, None]
        points = np.take_along_axis(self.points, best, axis=2)[:, :, 0]
        weight = (self.weight * each.max(axis=2))[..., None]
        total = weight.sum(axis=1)
        return np.where(total > 0, (weight * points).sum(axis=1) / np.maximum(total, 1e-300), place)


def _deviations(found: Sequence[Detections], combination: Combination) -> FloatArray:
    """(M, L) mm an axis of the models' errors, as the rule knows them."""
    if any(combination.variance.values()):
        names = found[0].names
        rows = [[combination.variance[m].get(name, np.nan) for name in names] for m in combination.members]
        variance = np.array(rows, dtype=np.float64)
        own = _mean(variance)
        own = np.where(np.isfinite(own), own, np.nanmax(variance))  # of a model that found nothing there: no better
        return np.sqrt(np.maximum(np.where(np.isfinite(variance), variance, own[:, None]), FLOOR))
    spread = np.array([one.spread for one in found])
    voxel = np.array([[math.prod(one.geometry.spacing) ** (1 / len(one.geometry.spacing))] for one in found])
    width = np.where(np.isfinite(spread), spread, voxel)
    return np.asarray(np.broadcast_to(np.median(width, axis=0), width.shape) * WIDE / NEAR)


def _weights(deviation: FloatArray, combination: Combination) -> FloatArray:
    """(L, M) that sum to 1, none below 0, of the mean of least variance; deviation: (L, M) mm an axis."""
    names = combination.members
    agreement = np.array([[combination.agreement[one][other] for other in names] for one in names], dtype=np.float64)
    covariance = agreement * deviation[:, :, None] * deviation[:, None]
    weight, least = np.zeros_like(deviation), np.full(len(deviation), np.inf)
    for members in (list(c) for n in range(1, len(names) + 1) for c in itertools.combinations(range(len(names)), n)):
        part = covariance[:, members][:, :, members]
        solved = np.linalg.solve(part, np.ones((len(part), len(members), 1)))[..., 0]
        total = solved.sum(axis=1)
        better = (solved >= 0).all(axis=1) & (1 / np.maximum(total, 1e-300) < least * (1 - 1e-9))
        least = np.where(better, 1 / np.maximum(total, 1e-300), least)
        own = np.zeros_like(deviation)
        own[:, members] = solved / np.where(total > 0, total, 1.0)[:, None]
        weight = np.where(better[:, None], own, weight)
    return weight


def _probabilities(log_odds: FloatArray, combination: Combination) -> FloatArray:
    """(L, M, K) that each candidate is the true place."""
    each = []
    for name, odds in zip(combination.members, log_odds.swapaxes(0, 1), strict=True):
        first, others = combination.first.get(name, UNKNOWN), combination.others.get(name, UNKNOWN_OTHERS)
        each.append(np.concatenate([first.likelihood(odds[:, :1]), others.likelihood(odds[:, 1:])], axis=1))
    return np.asarray(np.maximum(np.stack(each, axis=1), LEAST_LIKELY))


def _mean(values: FloatArray) -> FloatArray:
    """(L,) of values (L, M), those that are known; NaN where none is."""
    return _weighted_mean(values, np.ones_like(values))


def _weighted_mean(values: FloatArray, weight: FloatArray) -> FloatArray:
    """(L,) of values (L, M), those that are known."""
    weight = np.where(np.isfinite(values), weight, 0.0)
    total = weight.sum(axis=1)
    sums = (np.nan_to_num(values) * weight).sum(axis=1)
    return np.asarray(np.where(total > 0, sums / np.where(total > 0, total, 1.0), np.nan))


# -- fitted on held-out cases ------------------------------------------------------------------------------------------


def fit_combination(models: Mapping[str, CrossValidation], cases: Sequence[str], rule: Rule) -> Combination:
    """Fit the combination on held-out cases. A landmark's variance is drawn to its model's as far as few cases leave it
    uncertain (empirical Bayes on the logarithm): landmarks weigh of their own only where the data supports it."""
    return _fit(models, cases, (rule,))[rule]


def _fit(models: Mapping[str, CrossValidation], cases: Sequence[str], rules: Sequence[Rule]) -> dict[Rule, Combination]:
    """`fit_combination` by several rules, which is faster than one by one; without cases all models count alike."""
    if not cases:
        return dict.fromkeys(rules, equal_combination(list(models)))
    own = {name: _variances(model, cases) for name, model in models.items()}
    pooled = {name: float(np.exp(np.mean(np.log([*each.values()])))) if each else FLOOR for name, each in own.items()}
    alike = {name: dict.fromkeys(each, pooled[name]) for name, each in own.items()}
    first, others = (
        {name: _calibration(model, cases, own[name], pooled[name], ranks) for name, model in models.items()}
        for ranks in (slice(0, 1), slice(1, None))
    )
    result: dict[Rule, Combination] = {}
    for rule in rules:
        variance = own if rule == "landmark_precision" else alike
        agreement = _agreement(models, cases, variance)
        result[rule] = Combination(rule, tuple(models), variance, agreement, first, others)
    return result


def choose_combination(
    models: Mapping[str, CrossValidation], *, seed: int
) -> tuple[Combination, CrossValidation, dict[str, Any]]:
    """Choose how to combine models: (combination fitted on all cases; held-out predictions; errors of each rule there).

    What is held out is predicted by weights that were fitted on the other folds' cases, and by the rule that does best
    on them: `precision`, unless another one has a lower error by the paired test. There rules are judged on each of the
    other folds by weights that were fitted on the rest of them, so that neither weights nor rule have seen the fold.
    With two folds nothing is left to judge by there, and it is `precision`; with one all models count alike.
    """
    first = next(iter(models.values()))
    if len(models) == 1:
        return single(first.name), first, {}
    rules: tuple[Rule, ...] = get_args(Rule) if len(first.folds) > 1 else ("mean",)
    detections = _held_out(models, rules)
    errors = {rule: _case_means(first, found) for rule, found in detections.items()}
    chosen = _rule(errors, first.cases, seed)
    kept: dict[str, Detections] = {}
    for fold in first.folds:
        rule = _rule_without(models, fold, rules, seed)
        kept |= {case: detections[rule][case] for case in first.held_out_by(fold)}
    combined = CrossValidation(" + ".join(models), dict(first.fold_of), kept, dict(first.truth))
    why = f"no other rule beats it beyond chance, over {len(first.cases)} held-out cases"
    if len(rules) == 1:
        why = "one fold cannot judge rules: all models count alike"
    known = {rule: [e for e in values.values() if math.isfinite(e)] for rule, values in errors.items()}
    evidence = {rule: float(np.mean(values)) if values else None for rule, values in known.items()}
    fitted = fit_combination(models, first.cases, chosen)
    return fitted, combined, {"rule": chosen, "why": why, "case_mean": evidence}


def _held_out(models: Mapping[str, CrossValidation], rules: Sequence[Rule]) -> dict[Rule, dict[str, Detections]]:
    """rule -> case -> the ensemble's detections, by weights of the other folds' cases."""
    first = next(iter(models.values()))
    result: dict[Rule, dict[str, Detections]] = {rule: {} for rule in rules}
    for fold in first.folds:
        cases, rest = first.held_out_by(fold), [case for case in first.cases if first.fold_of[case] != fold]
        members = [[model.detections[case] for model in models.values()] for case in cases]
        for rule, combination in _fit(models, rest, rules).items():
            result[rule] |= dict(zip(cases, combine_cases(members, combination), strict=True))
    return result


def _rule_without(models: Mapping[str, CrossValidation], fold: int, rules: Sequence[Rule], seed: int) -> Rule:
    """By the other folds' cases alone, see `choose_combination`."""
    first = next(iter(models.values()))
    if len(first.folds) < 3:
        return USUAL if USUAL in rules else rules[0]
    rest = [case for case in first.cases if first.fold_of[case] != fold]
    others = {name: model.restricted(rest) for name, model in models.items()}
    errors = {rule: _case_means(first.restricted(rest), found) for rule, found in _held_out(others, rules).items()}
    return _rule(errors, rest, seed)


def _case_means(truth: CrossValidation, found: Mapping[str, Detections]) -> dict[str, float]:
    """case -> mean error of its annotated points, mm; NaN without any."""
    penalty = penalties(truth.truth, truth.diagonals())
    each = {case: point_errors(truth.truth[case], one.best, penalty[case])[0] for case, one in found.items()}
    return {case: float(_mean(errors[None])[0]) for case, errors in each.items()}


def _rule(errors: Mapping[Rule, Mapping[str, float]], cases: Sequence[str], seed: int) -> Rule:
    """By these cases."""
    chosen: Rule = USUAL if USUAL in errors else next(iter(errors))
    for rule in errors:
        one, other = (np.array([errors[r][case] for case in cases]) for r in (rule, chosen))
        if np.nansum(one) < np.nansum(other) and paired_test(one, other, seed=seed) < SIGNIFICANT:
            chosen = rule
    return chosen


def _variances(model: CrossValidation, cases: Sequence[str]) -> dict[str, float]:
    """landmark -> mm^2 an axis, from the median of squared errors, so that gross errors do not count; landmarks that
    no case shows are left out."""
    names = model.detections[cases[0]].names
    square = np.array([((model.detections[c].best - model.truth[c].points) ** 2).sum(axis=1) for c in cases])
    p = model.detections[cases[0]].candidates.shape[2]
    count = np.isfinite(square).sum(axis=0)
    known = np.flatnonzero(count > 0)
    if not len(known):
        return {}
    raw = np.log(np.maximum(np.nanmedian(square[:, known], axis=0) / CHI_SQUARE_MEDIAN[p], FLOOR))
    sampling = SAMPLING * 2 / (count[known] * p)
    between = max(float(raw.var(ddof=1) - sampling.mean()), 0.0) if len(known) > 1 else 0.0
    own = between / (between + sampling)
    logarithm = own * raw + (1 - own) * raw.mean()
    return {names[i]: float(np.exp(value)) for i, value in zip(known, logarithm, strict=True)}


def _agreement(
    models: Mapping[str, CrossValidation], cases: Sequence[str], variance: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Correlation of the models' errors, over all points that every one of them has found; at most MOST_ALIKE."""
    scaled = []
    for name, model in models.items():
        names = model.detections[cases[0]].names
        deviation = np.sqrt([variance[name].get(landmark, np.nan) for landmark in names])[:, None]
        errors = np.stack([(model.detections[c].best - model.truth[c].points) / deviation for c in cases])
        reach = NEAR * math.sqrt(errors.shape[2])
        scaled.append(np.where(np.linalg.norm(errors, axis=2, keepdims=True) <= reach, errors, np.nan))
    stack = np.stack(scaled).reshape(len(models), -1)
    known = stack[:, np.isfinite(stack).all(axis=0)]
    found = np.eye(len(models))
    if known.shape[1]:
        product = known @ known.T
        size = np.sqrt(np.maximum(np.diag(product), 1e-300))
        found = np.where(np.eye(len(models)) > 0, 1.0, (product / size[:, None] / size).clip(0.0, MOST_ALIKE))
    return {one: dict(zip(models, row, strict=True)) for one, row in zip(models, found.tolist(), strict=True)}


def _calibration(
    model: CrossValidation, cases: Sequence[str], variance: Mapping[str, float], pooled: float, ranks: slice
) -> PresenceCalibration:
    """From log-odds to "this candidate is within reach of the true place", over candidates of these ranks of present
    landmarks."""
    odds, right = [], []
    for case in cases:
        found, truth = model.detections[case], model.truth[case]
        deviation = np.sqrt([variance.get(name, pooled) for name in found.names])
        distance = np.linalg.norm(found.candidates - truth.points[:, None], axis=2)
        shown = np.isfinite(found.log_odds) & np.isfinite(distance)
        near = distance <= NEAR * deviation[:, None] * math.sqrt(found.candidates.shape[2])
        odds.append(found.log_odds[:, ranks][shown[:, ranks]])
        right.append(near[:, ranks][shown[:, ranks]])
    return fit_presence(np.concatenate(odds), np.concatenate(right))
