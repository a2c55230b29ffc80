"""Ensembling: better than its members, and robust to those that are far off or know nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from autolmk.detections import Detections
from autolmk.evaluation.presence_calibration import PresenceCalibration
from autolmk.files.serialization import from_json, to_json
from autolmk.fold.held_out import CrossValidation
from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.selection.ensembling import (
    Combination,
    Rule,
    choose_combination,
    combine,
    combine_cases,
    equal_combination,
    fit_combination,
    single,
)

N_LANDMARKS = 12
NAMES = tuple(f"l{i}" for i in range(N_LANDMARKS))
GEOMETRY = {p: Geometry.from_parts((100,) * p, (1.0,) * p) for p in (2, 3)}


def detections(points: FloatArray, odds: float = 4.0, second: FloatArray | None = None) -> Detections:
    n, p = points.shape
    candidates, log_odds = np.full((n, 3, p), np.nan), np.full((n, 3), -np.inf)
    candidates[:, 0], log_odds[:, 0] = points, np.where(np.isfinite(points).all(axis=1), odds, -np.inf)
    if second is not None:
        candidates[:, 1], log_odds[:, 1] = second, odds - 2.0
    return Detections(NAMES[:n], candidates, log_odds, np.full(n, 1.5), np.full(n, 0.95), GEOMETRY[p])


def truth_of(points: FloatArray) -> Landmarks:
    return Landmarks(NAMES[: len(points)], points, np.full(len(points), Status.PRESENT, dtype=np.int8))


def crossval(name: str, deviation: FloatArray | float, seed: int, n: int = 30, p: int = 3) -> CrossValidation:
    """Held-out cases whose errors have this deviation (mm an axis) a landmark; the truth is the same for every seed."""
    places, rng = np.random.default_rng(99), np.random.default_rng(seed)
    fold_of, found, truth = {}, {}, {}
    for i in range(n):
        points = places.uniform(20, 80, (N_LANDMARKS, p))
        noise = rng.normal(size=points.shape) * np.reshape(deviation, (-1, 1))
        case = f"c{i:02d}"
        fold_of[case], truth[case], found[case] = i % 3, truth_of(points), detections(points + noise)
    return CrossValidation(name, fold_of, found, truth)


def mre(models: dict[str, CrossValidation], combination: Combination) -> float:
    first = next(iter(models.values()))
    found = combine_cases([[m.detections[c] for m in models.values()] for c in first.truth], combination)
    errors = [np.linalg.norm(f.best - t.points, axis=1) for f, t in zip(found, first.truth.values(), strict=True)]
    return float(np.mean(errors))


@pytest.mark.parametrize("p", [2, 3])
def test_independent_errors_average_out(p: int) -> None:
    models = {name: crossval(name, 1.0, seed, p=p) for seed, name in enumerate("abcd")}
    fitted, held_out, evidence = choose_combination(models, seed=0)
    alone = mre({"a": models["a"]}, single("a"))
    assert mre(models, fitted) < 0.56 * alone  # half, were all of them averaged
    assert evidence["rule"] == fitted.rule == "precision" and set(evidence["case_mean"]) == set(get_args(Rule))
    errors = [np.linalg.norm(held_out.detections[c].best - t.points, axis=1) for c, t in held_out.truth.items()]
    assert (
        np.mean(errors)
        == pytest.approx(evidence["case_mean"]["precision"])
        == pytest.approx(mre(models, fitted), rel=0.02)
    )


def test_precise_models_and_landmarks_weigh_more_where_held_out_cases_show_it() -> None:
    models = {"good": crossval("good", 0.3, 1), "bad": crossval("bad", 1.5, 2)}
    fitted, _, _ = choose_combination(models, seed=0)
    assert fitted.rule == "precision"
    assert mre(models, fitted) < mre({"good": models["good"]}, single("good"))
    swapped = np.where(np.arange(N_LANDMARKS) % 2, 0.3, 1.5)
    models = {"odd": crossval("odd", swapped, 3), "even": crossval("even", 1.8 - swapped, 4)}
    fitted, _, _ = choose_combination(models, seed=0)
    assert fitted.rule == "landmark_precision"
    assert fitted.variance["odd"]["l1"] < 0.25 < fitted.variance["odd"]["l0"]
    assert mre(models, fitted) < 0.5 * mre({"odd": models["odd"]}, single("odd"))
    same = {name: crossval(name, 0.5, seed) for seed, name in enumerate("ab")}
    assert choose_combination(same, seed=0)[0].rule == "precision"


def test_a_fifth_model_that_gives_random_points_hardly_matters() -> None:
    """It was as good as the others on held-out cases, so that its weights are as high."""
    models = {name: crossval(name, 0.6, seed) for seed, name in enumerate("abcde")}
    for rule in ("mean", "precision", "landmark_precision"):
        fitted = fit_combination(models, models["a"].cases, rule)
        four = {name: models[name] for name in "abcd"}
        good = mre(four, fit_combination(four, models["a"].cases, rule))
        rng = np.random.default_rng(5)
        lost = {c: detections(rng.uniform(0, 100, (N_LANDMARKS, 3))) for c in models["e"].detections}
        broken = CrossValidation("e", models["e"].fold_of, lost, models["e"].truth)
        assert mre({**four, "e": broken}, fitted) < 1.05 * good


def test_of_two_that_disagree_the_surer_one_wins_and_second_candidates_are_heard() -> None:
    points = np.array([[30.0, 40.0, 50.0]])
    models = {name: crossval(name, 0.5, seed) for seed, name in enumerate("ab")}
    fitted = fit_combination(models, models["a"].cases, "mean")
    plain = PresenceCalibration()
    fitted = Combination("mean", ("a", "b"), fitted.variance, {"a": plain, "b": plain}, {"a": plain, "b": plain})
    sure, doubtful = detections(points, odds=3.0), detections(points + 40.0, odds=-1.0)
    found = combine([doubtful, sure], fitted)
    np.testing.assert_allclose(found.best, points, atol=0.1)
    assert found.disagreement[0] > 20 and found.log_odds[0, 0] > found.log_odds[0, 1]
    np.testing.assert_allclose(found.candidates[0, 1], points[0] + 40.0)
    third = detections(points + 40.0, odds=2.5, second=points + 0.2)  # its second candidate confirms the first model
    np.testing.assert_allclose(combine([third, sure], fitted).best, points, atol=0.3)


def test_what_a_model_does_not_know_is_left_to_the_others() -> None:
    points = np.array([[30.0, 40.0], [60.0, 70.0]])
    nowhere = detections(np.full((2, 2), np.nan))
    unknown = Detections(
        nowhere.names, nowhere.candidates, nowhere.log_odds, nowhere.spread, np.full(2, np.nan), nowhere.geometry
    )
    sure = detections(points)
    found = combine([unknown, sure], equal_combination(["a", "b"]))
    np.testing.assert_array_equal(found.best, points)
    np.testing.assert_allclose(found.likelihood, 0.95)
    assert found.log_odds[0, 0] > 2
    lost = combine([unknown, unknown], equal_combination(["a", "b"]))
    assert np.isnan(lost.best).all() and np.isneginf(lost.log_odds).all() and np.isnan(lost.likelihood).all()
    assert combine([sure], single("a")) is sure
    with pytest.raises(ValueError, match="2 models"):
        combine([sure], equal_combination(["a", "b"]))


def test_a_model_without_any_point_on_held_out_cases_leaves_the_others_as_they_are() -> None:
    model, points = crossval("a", 0.5, seed=1), np.random.default_rng(0).uniform(20, 80, (N_LANDMARKS, 3))
    nothing = detections(np.full((N_LANDMARKS, 3), np.nan))
    blind = CrossValidation("b", model.fold_of, dict.fromkeys(model.fold_of, nothing), model.truth)
    unjudged = {
        case: Landmarks(t.names, t.points, np.full_like(t.status, Status.UNKNOWN)) for case, t in model.truth.items()
    }
    unknown = CrossValidation("a", model.fold_of, model.detections, unjudged)
    for models in ({"a": model, "b": blind}, {"a": unknown, "b": unknown}):
        combination = fit_combination(models, model.cases, "landmark_precision")
        found = combine([detections(points), nothing], combination)
        np.testing.assert_allclose(found.best, points)
        assert np.isfinite(found.log_odds[:, 0]).all()


def test_without_held_out_cases_widths_of_peaks_say_what_is_near() -> None:
    points = np.random.default_rng(0).uniform(20, 80, (N_LANDMARKS, 3))
    found = combine([detections(points), detections(points + 1.0)], equal_combination(["a", "b"]))
    np.testing.assert_allclose(found.best, points + 0.5, atol=1e-6)
    np.testing.assert_allclose(found.disagreement, np.sqrt(3) / 2)


def test_a_combination_is_data() -> None:
    models = {name: crossval(name, 0.6, seed, n=6) for seed, name in enumerate("ab")}
    fitted = fit_combination(models, models["a"].cases, "precision")
    assert from_json(Combination, to_json(fitted)) == fitted


def test_one_fold_judges_no_rule_and_held_out_cases_are_predicted_by_the_others_weights() -> None:
    models = {name: crossval(name, 0.5, seed) for seed, name in enumerate("ab")}
    one_fold = {name: model.restricted(model.held_out_by(0)) for name, model in models.items()}
    fitted, held_out, evidence = choose_combination(one_fold, seed=0)
    assert fitted.rule == "mean" and "one fold" in evidence["why"] and held_out.cases == one_fold["a"].cases
    _, before, _ = choose_combination(models, seed=0)
    case = models["a"].held_out_by(1)[0]
    models["a"].truth[case] = truth_of(models["a"].truth[case].points + 30.0)
    _, after, _ = choose_combination(models, seed=0)
    for other in models["a"].held_out_by(1):
        np.testing.assert_array_equal(before.detections[other].best, after.detections[other].best)


def test_left_and_right_as_a_model_assigned_them_are_not_exchanged_again() -> None:
    """A partner's place may have the higher log-odds, and still be the second candidate."""
    places, models = np.random.default_rng(3), {}
    for seed, name in enumerate("ab"):
        model, rng = crossval(name, 0.4, seed), np.random.default_rng(seed)
        for case, truth in model.truth.items():
            partner = truth.points[::-1] + rng.normal(0, 0.4, truth.points.shape)
            found = model.detections[case]
            candidates, log_odds = found.candidates.copy(), found.log_odds.copy()
            candidates[:, 1], log_odds[:, 1] = partner, log_odds[:, 0] + places.normal(1.0, 1.0, N_LANDMARKS)
            parts = (found.spread, found.likelihood, found.geometry)
            model.detections[case] = Detections(NAMES, candidates, log_odds, *parts)
        models[name] = model
    for rule in get_args(Rule):
        assert mre(models, fit_combination(models, models["a"].cases, rule)) < 0.6
    assert mre(models, equal_combination(["a", "b"])) < 1.5


def test_of_models_that_err_alike_the_worse_one_hardly_counts() -> None:
    """Weights by precision alone would make the ensemble worse than its better member."""
    good = crossval("good", 0.5, 1)
    rng, found = np.random.default_rng(2), {}
    for case, truth in good.truth.items():
        shared = good.detections[case].best - truth.points
        found[case] = detections(truth.points + 1.2 * shared + rng.normal(0, 0.15, shared.shape))
    models = {"good": good, "worse": CrossValidation("worse", good.fold_of, found, good.truth)}
    fitted = fit_combination(models, good.cases, "precision")
    assert fitted.agreement["good"]["worse"] > 0.9 and fitted.agreement["good"]["good"] == 1.0
    assert mre(models, fitted) < 1.005 * mre({"good": good}, single("good"))
    assert mre(models, fit_combination(models, good.cases, "mean")) > 1.05 * mre({"good": good}, single("good"))


def test_what_is_held_out_is_combined_without_its_own_truth() -> None:
    """Whatever a fold's annotations say, neither weights nor rule of its own cases change. Rules are near each other
    here, so that one that was judged by weights that had seen the fold would: in one of these cases it did."""
    for seed in range(4):
        spread = np.exp(0.9 * np.random.default_rng(seed).normal(size=(2, N_LANDMARKS)))
        models = {name: crossval(name, spread[k], 10 * seed + k, n=15) for k, name in enumerate("ab")}
        before = choose_combination(models, seed=0)[1]
        for fold in models["a"].folds:
            cases = set(models["a"].held_out_by(fold))
            truth = dict(models["a"].truth)
            for case in cases:
                truth[case] = truth_of(models["a"].detections[case].best)  # as if `a` were perfect there
            changed = {n: CrossValidation(n, m.fold_of, m.detections, truth) for n, m in models.items()}
            after = choose_combination(changed, seed=0)[1]
            for case in cases:
                np.testing.assert_array_equal(after.detections[case].candidates, before.detections[case].candidates)


def test_with_two_folds_nothing_is_left_to_judge_a_held_out_case_s_rule_by() -> None:
    models = {name: crossval(name, 1.0, seed) for seed, name in enumerate("ab")}
    halves = {
        name: CrossValidation(name, {c: i % 2 for i, c in enumerate(m.cases)}, m.detections, m.truth)
        for name, m in models.items()
    }
    _, held_out, evidence = choose_combination(halves, seed=0)
    assert evidence["case_mean"].keys() == set(get_args(Rule))
    first = halves["a"]
    for fold in (0, 1):
        fitted = fit_combination(halves, first.held_out_by(1 - fold), "precision")
        for case in first.held_out_by(fold):
            expected = combine([m.detections[case] for m in halves.values()], fitted)
            np.testing.assert_array_equal(held_out.detections[case].candidates, expected.candidates)


def test_probabilities_of_rows_are_fused_by_the_place_that_each_model_means() -> None:
    """Two models say that a is at its place and b beside it; the third is shifted by one."""
    points = np.array([[10.0, 10, 10], [10, 10, 50]])
    found = []
    for shift, row in ((0.0, 0.9), (0.5, 0.8), (40.0, 0.7)):
        moved = points + np.array([0, 0, shift])
        found.append(replace(detections(moved), row=np.array([row, np.nan])))
    combined = combine(found, equal_combination(["a", "b", "c"]))
    assert np.linalg.norm(combined.best[0] - points[0]) < 2
    assert combined.row[0] == pytest.approx((0.9 + 0.8 + 0.3) / 3)
    assert np.isnan(combined.row[1])
