"""Where the others make a landmark likely: in any pose, of few cases, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest
from shapes import NAMES, ROW, STEP, configuration

from autolmk.files.serialization import from_json, to_json
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks, Status
from autolmk.shapes.point_distribution import ShapeModel, fit_shape_model, why_no_shape

N = len(NAMES)


def expected(model: ShapeModel, points: FloatArray, weight: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
    found = model.expectation(points, weight)
    return found.place, np.sqrt(np.trace(found.covariance, axis1=1, axis2=2) / points.shape[1])


def standardised(model: ShapeModel, points: FloatArray) -> FloatArray:
    return model.expectation(points).distance(points)


@pytest.fixture(scope="module")
def model() -> ShapeModel:
    found = fit_shape_model([configuration(i) for i in range(24)])
    assert found is not None
    return found


def test_json_keeps_everything(model: ShapeModel) -> None:
    assert from_json(ShapeModel, to_json(model)) == model


def test_the_others_tell_a_place_in_any_pose(model: ShapeModel) -> None:
    errors, promised = [], []
    for seed in range(100, 130):
        points = configuration(seed).points
        place, deviation = expected(model, points)
        errors.append(np.linalg.norm(place - points, axis=1))
        promised.append(deviation)
    assert np.mean(errors) < 1.3  # the modes alone move points by 1.2 mm an axis
    assert 0.7 < np.sqrt(np.square(errors).mean() / 3) / np.sqrt(np.square(promised).mean()) < 1.3


def test_a_point_does_not_speak_for_itself(model: ShapeModel) -> None:
    points = configuration(200).points
    place, _ = expected(model, points)
    for far in (30.0, 300.0):
        moved = points.copy()
        moved[4] += far
        again, _ = expected(model, moved)
        assert np.linalg.norm(again[4] - place[4]) < 0.5 and np.linalg.norm(again - place, axis=1).max() < 0.6
        assert np.linalg.norm(moved - expected(model, moved)[0], axis=1)[4] == pytest.approx(far * np.sqrt(3), rel=0.1)


def test_neighbours_that_are_off_together_do_not_convince(model: ShapeModel) -> None:
    for seed in range(200, 210):
        points = configuration(seed).points
        moved = points.copy()
        moved[ROW.start + 2 : ROW.stop] = points[ROW.start + 1 : ROW.stop - 1]  # three of five, one place back
        place, _ = expected(model, moved)
        assert np.linalg.norm(place - points, axis=1)[ROW].max() < STEP / 2


def test_what_is_missing_is_expected_from_the_rest(model: ShapeModel) -> None:
    points = configuration(300).points
    known = points.copy()
    known[[2, 14]] = np.nan
    place, _ = expected(model, known)
    assert np.linalg.norm(place - points, axis=1)[[2, 14]].max() < 3
    weight = np.ones(N)
    weight[[2, 14]] = 0
    np.testing.assert_allclose(expected(model, points, weight)[0], place, atol=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_a_threshold_means_a_false_alarm_rate(model: ShapeModel, rate: float) -> None:
    distances = np.concatenate([standardised(model, configuration(seed).points) for seed in range(400, 500)])
    assert rate / 3 < (distances > model.threshold(rate)).mean() < 2.5 * rate


def test_few_points_and_lines_tell_nothing(model: ShapeModel) -> None:
    points = configuration(1).points
    few, line = np.full((N, 3), np.nan), np.full((N, 3), np.nan)
    few[:3] = points[:3]
    line[:6] = np.arange(6)[:, None] * [1.0, 2.0, 3.0]
    for given in (few, line):
        assert np.isnan(expected(model, given)[0]).all()
    with pytest.raises(ValueError, match="needs points"):
        expected(model, points[:5])
    with pytest.raises(ValueError, match="false alarms"):
        model.threshold(0.7)


def test_data_that_supports_no_shape_says_why() -> None:
    cases = [configuration(i) for i in range(6)]
    few = [Landmarks(case.names[:4], case.points[:4], case.status[:4]) for case in cases]
    line = [Landmarks(c.names, np.outer(np.arange(N), [1.0, i, 2.0]), c.status) for i, c in enumerate(cases)]
    one_place = [Landmarks(case.names, np.full((N, 3), 10.0), case.status) for case in cases]
    reasons = (
        ([], "there are 0"),
        (cases[:2], "there are 2"),
        (cases[:4], "there are 4"),
        (few, "4 landmarks"),
        (line, "on a line"),
    )
    for data, why in (*reasons, (one_place, "on a line")):
        assert why in str(why_no_shape(data)) and fit_shape_model(data) is None
    assert why_no_shape(cases) is None and fit_shape_model(cases) is not None


def test_landmarks_are_missing_now_and_then() -> None:
    rng = np.random.default_rng(0)
    cases = [configuration(i, absent=tuple(np.flatnonzero(rng.random(N) < 0.15))) for i in range(20)]
    rare = [Landmarks(c.names, c.points, np.where(np.arange(N) == 7, Status.UNKNOWN, c.status)) for c in cases]
    found = fit_shape_model(rare)
    assert found is not None
    points = configuration(500).points
    errors = np.linalg.norm(expected(found, points)[0] - points, axis=1)
    assert np.isnan(errors[7]) and np.nanmean(errors) < 2 and found.mean[7] == (None, None, None)
