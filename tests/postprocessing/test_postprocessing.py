"""Steps are kept only where they help on held-out cases, correct what they are for, and leave the rest alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from shapes import GEOMETRY, NAMES, ROW, STEP, configuration, cross_validation, detections

from autolmk.detections import Detections
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, to_json
from autolmk.fold.held_out import CrossValidation
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.plans import SliceGroup
from autolmk.postprocessing import (
    Context,
    Decision,
    Judgement,
    Postprocessing,
    choose_steps,
    co_slice,
    outside,
    presence,
    shape_prior,
)
from autolmk.postprocessing.context import errors_of
from autolmk.postprocessing.evidence import flip_test, held_out, localisation, verdict

CONTEXT = Context(NAMES)


@dataclass(frozen=True)
class Marking:
    """Puts every point at its true place, so that it helps, and its number into the spread."""

    number: int
    name: ClassVar[str] = "outside"

    def apply(self, found: Detections) -> Detections:
        truth = next(
            configuration(i) for i in range(12) if np.array_equal(detections(i, configuration(i)).best, found.best)
        )
        candidates = found.candidates.copy()
        candidates[:, 0] = truth.points
        return replace(found, candidates=candidates, spread=np.full(len(NAMES), float(self.number)))


@pytest.fixture(scope="module")
def chosen() -> tuple[Postprocessing, CrossValidation, dict[str, Judgement], list[dict[str, object]]]:
    return choose_steps(cross_validation(16, shifted=0.3), CONTEXT, seed=0)


@pytest.fixture(scope="module")
def prior() -> shape_prior.ShapePriorStep:
    model = cross_validation(shifted=0.3)
    found = shape_prior.fit(held_out(model, model.cases), CONTEXT)
    assert isinstance(found, shape_prior.ShapePriorStep)
    return found


# -- the shape prior --------------------------------------------------------------------------------------------------


def test_look_alikes_are_told_apart(prior: shape_prior.ShapePriorStep) -> None:
    before, after = [], []
    for seed in range(100, 120):
        truth = configuration(seed)
        found = detections(seed, truth, 0.3)
        before.append(errors_of(found, truth))
        after.append(errors_of(prior.apply(found), truth))
    assert (np.array(before) > STEP / 2).sum() > 20 and (np.array(after) > STEP / 2).sum() == 0


def test_neighbours_that_are_off_together_move_together(prior: shape_prior.ShapePriorStep) -> None:
    for seed in range(200, 206):
        truth = configuration(seed)
        found = detections(seed, truth, together=True)
        assert (errors_of(found, truth)[ROW] > STEP / 2).sum() == 4
        assert (errors_of(prior.apply(found), truth) < STEP / 2).all()


def test_only_the_order_of_candidates_changes(prior: shape_prior.ShapePriorStep) -> None:
    truth = configuration(300)
    right, found = detections(300, truth), detections(301, truth, 0.5)
    np.testing.assert_array_equal(prior.apply(right).candidates, right.candidates)
    np.testing.assert_array_equal(prior.apply(right).spread, right.spread)
    after = prior.apply(found)
    moved = (after.best != found.best).any(axis=1)
    assert moved.any() and np.isnan(after.spread[moved]).all() and (after.spread[~moved] == 0.5).all()
    for i in range(len(NAMES)):
        rows = [sorted(map(tuple, np.nan_to_num(d.candidates[i]))) for d in (found, after)]
        assert rows[0] == rows[1] and sorted(found.log_odds[i]) == sorted(after.log_odds[i])


def test_two_landmarks_never_take_one_place(prior: shape_prior.ShapePriorStep) -> None:
    """A place that its neighbour holds already is no gain, although the wrong candidate is a little off."""
    truth = configuration(400)
    found = detections(400, truth)
    candidates, log_odds = found.candidates.copy(), found.log_odds.copy()
    candidates[13, 0] += 9.0  # far from everything, and every other candidate of it belongs to a neighbour
    after = prior.apply(replace(found, candidates=candidates, log_odds=log_odds))
    apart = np.linalg.norm(after.best[:, None] - after.best, axis=2) + 99 * np.eye(len(NAMES))
    assert apart.min() > 2


def test_a_landmark_without_any_candidate_stays_so(prior: shape_prior.ShapePriorStep) -> None:
    found = detections(400, configuration(400), 3)
    candidates, log_odds = found.candidates.copy(), found.log_odds.copy()
    candidates[5], log_odds[5] = np.nan, -np.inf
    after = prior.apply(replace(found, candidates=candidates, log_odds=log_odds))
    assert np.isnan(after.candidates[5]).all() and np.isneginf(after.log_odds[5]).all()


def test_more_look_alikes_than_right_points_do_not_pass_for_noise() -> None:
    model = cross_validation(16, shifted=0.9)
    step = shape_prior.fit(held_out(model, model.cases), CONTEXT)
    assert isinstance(step, shape_prior.ShapePriorStep)
    assert min(step.noise) > 0.2 and max(step.noise) < 0.5  # 0.3 mm an axis, and most of the row 6 mm off
    truth = [configuration(seed) for seed in range(100, 106)]
    found = [detections(seed, marks, 0.9) for seed, marks in enumerate(truth, 100)]
    before = [(errors_of(d, marks)[ROW] > STEP / 2).sum() for d, marks in zip(found, truth, strict=True)]
    after = [(errors_of(step.apply(d), marks)[ROW] > STEP / 2).sum() for d, marks in zip(found, truth, strict=True)]
    assert sum(before) > 20 and sum(after) <= 1


def test_photographs_have_shapes_too_and_slices_in_space_do_not() -> None:
    """The row of look-alikes in two dimensions; and the same plane inside a volume's frame, where it may turn over."""
    model = cross_validation(16, shifted=0.3)
    flat, in_space = Geometry.from_parts((120, 120), (1.0, 1.0)), Geometry.from_parts((120, 120), (1, 1), (0, 0, 0))
    cases = []
    for found, truth in held_out(model, model.cases):
        candidates = found.candidates[:, :, 1:]
        cases.append(
            (replace(found, candidates=candidates, geometry=flat), Landmarks(NAMES, truth.points[:, 1:], truth.status))
        )
    step = shape_prior.fit(cases, CONTEXT)
    assert isinstance(step, shape_prior.ShapePriorStep)
    gross = [[(errors_of(d, truth)[ROW] > STEP / 2).sum() for d in (f, step.apply(f))] for f, truth in cases]
    assert np.sum(gross, axis=0)[0] > 15 and np.sum(gross, axis=0)[1] <= 1
    slices = [(replace(found, geometry=in_space), truth) for found, truth in held_out(model, model.cases)]
    assert "turn over" in str(shape_prior.fit(slices, CONTEXT))


def test_unusual_anatomy_is_not_forced(prior: shape_prior.ShapePriorStep) -> None:
    """A landmark 4 mm from its usual place whose network is sure of it stays, in spite of a candidate at that place."""
    truth = configuration(500)
    found = detections(500, truth)
    candidates, log_odds = found.candidates.copy(), found.log_odds.copy()
    candidates[3, 1] = candidates[3, 0]
    candidates[3, 0] += [4.0, 0.0, 0.0]
    log_odds[3, :2] = 30.0, -10.0
    after = prior.apply(replace(found, candidates=candidates, log_odds=log_odds))
    np.testing.assert_array_equal(after.best[3], candidates[3, 0])


# -- the other steps --------------------------------------------------------------------------------------------------


def small(points: list[list[list[float]]], odds: list[list[float]], geometry: Geometry) -> Detections:
    n = len(points)
    return Detections(tuple("abcdef"[:n]), np.array(points), np.array(odds), np.ones(n), np.full(n, 0.9), geometry)


def test_candidates_outside_give_way() -> None:
    geometry, nan, inf = Geometry.from_parts((10, 10), (1.0, 1.0)), np.nan, np.inf
    found = small(
        [[[12, 5], [4, 4]], [[-9, 0], [nan, nan]], [[9.9, 0], [3, 3]], [[1, 1], [50, 50]]],
        [[3, 1], [2, -inf], [2, 1], [2, 1]],
        geometry,
    )
    after = outside.Outside(0.5).apply(found)
    np.testing.assert_array_equal(after.best, [[4, 4], [nan, nan], [9.9, 0], [1, 1]])
    np.testing.assert_array_equal(after.log_odds, [[1, -inf], [-inf, -inf], [2, 1], [2, -inf]])
    np.testing.assert_array_equal(after.likelihood, [0.9, 0, 0.9, 0.9])
    np.testing.assert_array_equal(after.spread, [nan, nan, 1, 1])
    truth = Landmarks(("a", "b", "c", "d"), np.array([[1, 1], [2, 2], [11.3, 1], [nan, nan]]), np.array([1, 1, 1, 2]))
    assert outside.fit([(found, truth)], CONTEXT).margin == pytest.approx(1.8)
    inside = small([[[1, 1]]], [[0]], geometry)
    assert outside.Outside().apply(inside) is inside


def test_slices_are_shared_with_the_best_radius() -> None:
    rng, geometry, cases = np.random.default_rng(0), Geometry.from_parts((40, 40, 40), (1.0, 1.0, 1.0)), []
    names = ("a", "b", "c")
    for _ in range(12):
        points = rng.uniform(5, 30, (3, 3))
        points[:, 2] = points[0, 2]
        found = points + rng.normal(0, 0.5, (3, 3)) * [0.1, 0.1, 1]
        detected = Detections(names, found[:, None], np.full((3, 1), 4.0), np.ones(3), np.full(3, 0.9), geometry)
        cases.append((detected, Landmarks(names, points, np.ones(3))))
    assert isinstance(co_slice.fit(cases, CONTEXT), str)
    step = co_slice.fit(cases, Context(names, co_slice_groups=(SliceGroup(0, names),)))
    assert isinstance(step, co_slice.CoSlice) and step.radius in (2, 4, 8)
    before = np.mean([errors_of(found, truth) for found, truth in cases])
    assert np.mean([errors_of(step.apply(found), truth) for found, truth in cases]) < 0.8 * before


def presence_cases(n: int, offset: float, seed: int = 0) -> CrossValidation:
    """Landmark b is present in half of the cases, and its likelihood's logit is too high by `offset`."""
    rng, geometry, found, truth = np.random.default_rng(seed), Geometry.from_parts((9, 9), (1.0, 1.0)), {}, {}
    for i in range(n):
        there = bool(rng.random() < 0.5)
        likelihood = np.array([0.99, 1 / (1 + np.exp(-(rng.normal(3 if there else -3, 1) + offset)))])
        points = np.full((2, 1, 2), 4.0)
        found[f"{i:02d}"] = Detections(("a", "b"), points, np.ones((2, 1)), np.ones(2), likelihood, geometry)
        status = np.array([Status.PRESENT, Status.PRESENT if there else Status.ABSENT])
        truth[f"{i:02d}"] = Landmarks(("a", "b"), points[:, 0], status)
    return CrossValidation("m", {case: i % 2 for i, case in enumerate(found)}, found, truth)


def test_presence_is_decided_where_held_out_cases_say() -> None:
    context = Context(("a", "b"), sometimes_absent=("b",))
    result, nested, _, evidence = choose_steps(presence_cases(40, 4.0), context)
    said = {step["name"]: step for step in evidence}
    assert said["presence"]["kept"] and said["presence"]["without"] < 0.8 < 0.9 < said["presence"]["with"]
    (step,) = result.steps
    assert isinstance(step, presence.PresenceStep) and set(step.offset) == {"b"} and -4.5 < step.offset["b"] < -1.5
    right = [
        (nested.detections[c].likelihood[1] >= 0.5) == (nested.truth[c].status[1] == Status.PRESENT)
        for c in nested.cases
    ]
    assert np.mean(right) > 0.9
    result, _, _, evidence = choose_steps(presence_cases(40, 0.0), context)
    assert not result.steps and not any(step["kept"] for step in evidence)


def test_few_absent_cases_move_little() -> None:
    context = Context(("a", "b"), sometimes_absent=("b",))
    model = presence_cases(3, 4.0, seed=3)
    step = presence.fit(held_out(model, model.cases), context)
    assert isinstance(step, presence.PresenceStep) and abs(step.offset["b"]) < 2.5
    assert "never absent" not in str(step) and "no landmark" in str(presence.fit([], CONTEXT))


# -- the choice -------------------------------------------------------------------------------------------------------


def test_what_helps_is_kept_with_its_evidence(
    chosen: tuple[Postprocessing, CrossValidation, dict[str, Judgement], list[dict[str, object]]],
) -> None:
    result, nested, _, evidence = chosen
    kept = {step["name"]: step["kept"] for step in evidence}
    assert kept == {"outside": False, "shape_prior": True, "co_slice": False, "presence": False}
    said = next(step for step in evidence if step["name"] == "shape_prior")
    assert said["with"] < said["without"] and said["gross_with"] == 0 < said["gross_without"]  # type: ignore[operator]
    errors = np.array([errors_of(nested.detections[c], nested.truth[c]) for c in nested.cases])
    assert errors.max() < STEP / 2 and nested.fold_of == cross_validation(16).fold_of
    assert json.loads(json.dumps(evidence)) == evidence
    assert result.shape is not None and result.shape.n_cases == 16


def test_it_is_the_same_after_json(
    chosen: tuple[Postprocessing, CrossValidation, dict[str, Judgement], list[dict[str, object]]],
) -> None:
    result = chosen[0]
    again = from_json(Postprocessing, json.loads(json.dumps(to_json(result))))
    found = detections(600, configuration(600), 0.5)
    np.testing.assert_array_equal(again.apply(found).candidates, result.apply(found).candidates)
    assert again.judge(found).flags == result.judge(found).flags


def test_nothing_is_kept_where_nothing_is_wrong() -> None:
    model = cross_validation(12)
    result, nested, _, evidence = choose_steps(model, CONTEXT)
    assert not result.steps and all("why" in step for step in evidence)
    for case in model.cases:
        np.testing.assert_array_equal(nested.detections[case].candidates, model.detections[case].candidates)


def test_a_fold_is_judged_by_steps_that_did_not_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fit behind the returned predictions of a fold uses cases of the other folds alone; and every trial, other
    cases than those it is tried on."""
    model, seen = cross_validation(12, folds=3), []

    def fit(cases: list[tuple[Detections, Landmarks]], context: Context, **known: object) -> Marking:
        seen.append({id(truth) for _, truth in cases})
        return Marking(len(seen) - 1)

    monkeypatch.setattr("autolmk.postprocessing.choose.STEPS", {"outside": (Marking, fit)})
    _, nested, _, _ = choose_steps(model, CONTEXT)
    for case, found in nested.detections.items():
        used = seen[int(found.spread[0])]
        assert len(used) == 8 and id(model.truth[case]) not in used
        same_fold = {id(model.truth[c]) for c in model.cases if model.fold_of[c] == model.fold_of[case]}
        assert not used & same_fold


def test_too_few_cases_keep_nothing() -> None:
    for n in (1, 3):
        result, nested, _, evidence = choose_steps(cross_validation(n, folds=1), CONTEXT)
        assert not result.steps and len(nested.cases) == n and result.shape_why
        assert not any(step["kept"] for step in evidence)


def test_gross_errors_may_not_grow() -> None:
    truth = [configuration(i) for i in range(20)]
    before = [detections(i, marks) for i, marks in enumerate(truth)]
    after = []
    for i, (found, marks) in enumerate(zip(before, truth, strict=True)):
        candidates = found.candidates.copy()
        candidates[:, 0] = marks.points
        if i == 0:
            candidates[0, 0] += 6.0
        after.append(replace(found, candidates=candidates))
    evidence = localisation(before, after, truth)
    assert evidence.with_step < evidence.without and evidence.p < 0.001
    kept, why = verdict(evidence, "mm")
    assert not kept and "gross errors grow from 0 to 1" in why


def test_chance_is_told_from_gain() -> None:
    """Under no effect 5 % are called a gain, no more; five gains out of five are none by chance."""
    rng = np.random.default_rng(0)
    assert np.mean([flip_test(rng.standard_t(2, 10)) <= 0.05 for _ in range(1000)]) < 0.07
    assert flip_test(np.ones(5)) == 1 / 32 and flip_test(np.ones(3)) == 1 / 8 and flip_test(np.empty(0)) == 1
    assert flip_test(np.ones(20)) < 0.001 and flip_test(-np.ones(20)) > 0.99


def test_an_unknown_step_is_an_error() -> None:
    stored = Postprocessing((Decision("shape_priot", True, "", parameters={}),))
    with pytest.raises(AutolmkError, match="shape_prior"):
        stored.apply(detections(0, configuration(0)))


# -- flags ------------------------------------------------------------------------------------------------------------


def test_few_good_points_and_all_gross_errors_are_flagged(
    chosen: tuple[Postprocessing, CrossValidation, dict[str, Judgement], list[dict[str, object]]],
) -> None:
    result, good, gross = chosen[0], [], []
    for seed in range(700, 720):
        truth = configuration(seed)
        found = result.apply(detections(seed, truth, 0.3))
        good += [bool(flags) for flags in result.judge(found).flags]
        candidates = found.candidates.copy()
        candidates[5, 0] += [STEP, 0, 0]
        judged = result.judge(replace(found, candidates=candidates))
        gross.append(judged.flags[5])
        assert judged.shape_residual[5] > STEP / 2
    assert np.mean(good) < 0.05
    assert all("unusual place among the others" in flags for flags in gross)
    assert result.limits.false_alarms is not None and result.limits.false_alarms <= 0.05


def test_members_that_disagree_and_doubtful_presence_are_flagged() -> None:
    rng, model = np.random.default_rng(0), cross_validation(12)
    usual = {c: replace(d, disagreement=rng.uniform(0.1, 0.5, len(NAMES))) for c, d in model.detections.items()}
    context = Context(NAMES, sometimes_absent=NAMES[:2])
    result, _, _, _ = choose_steps(replace(model, detections=usual), context)
    found = detections(800, configuration(800))
    apart = np.full(len(NAMES), 0.3)
    apart[6] = 5.0
    likelihood = found.likelihood.copy()
    likelihood[0], likelihood[9] = 0.51, 0.01
    flags = result.judge(replace(found, likelihood=likelihood, disagreement=apart)).flags
    assert "members disagree" in flags[6] and "unsure whether present" in flags[0] and "hardly found" in flags[9]
    assert GEOMETRY.physical_ndim == 3 and len(flags) == len(NAMES)
