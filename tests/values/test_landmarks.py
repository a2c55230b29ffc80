"""Landmarks: three states, never a zero in place of a point that is not there."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from autolmk.landmarks import Landmarks, Status


def three() -> Landmarks:
    points = [[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]
    status = [Status.PRESENT, Status.ABSENT, Status.UNKNOWN]
    return Landmarks(("a", "b", "c"), np.array(points), np.array(status), likelihood=np.array([0.9, 0.1, np.nan]))


def test_only_present_points_have_coordinates() -> None:
    landmarks = three()
    assert landmarks.present.tolist() == [True, False, False]
    assert np.isnan(landmarks.points[1:]).all() and landmarks.points[0].tolist() == [1, 2, 3]
    assert np.isnan(landmarks.error_radius).all() and landmarks.error_radius.shape == (3,)


def test_the_arguments_are_not_changed() -> None:
    points = np.ones((2, 3))
    Landmarks(("a", "b"), points, np.array([Status.ABSENT, Status.PRESENT]))
    assert (points == 1).all()


def test_reordered_follows_names_and_fills_in_what_is_unlisted() -> None:
    result = three().reordered(["c", "new", "a"], unlisted=Status.ABSENT)
    assert result.names == ("c", "new", "a")
    assert result.status.tolist() == [Status.UNKNOWN, Status.ABSENT, Status.PRESENT]
    np.testing.assert_array_equal(result.points[2], [1, 2, 3])
    np.testing.assert_array_equal(result.likelihood, [np.nan, np.nan, 0.9])
    assert three().reordered(["new"]).status.tolist() == [Status.UNKNOWN]


@pytest.mark.parametrize(
    ("names", "points", "status", "message"),
    [
        (("a", "a"), np.ones((2, 3)), [1, 1], "unique"),
        (("a",), np.ones((2, 3)), [1, 1], "need points"),
        (("a", "b"), np.ones((2, 4)), [1, 1], "need points"),
        (("a", "b"), np.ones((2, 3)), [1], "need points"),
        (("a", "b"), np.array([[1, 2, 3], [np.nan, 0, 0]]), [1, 1], "finite.*'b'"),
        (("a", "b"), np.array([[1, 2, 3], [np.inf, 0, 0]]), [1, 1], "finite"),
    ],
)
def test_nonsense_is_refused(names: tuple[str, ...], points: np.ndarray, status: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Landmarks(names, points, np.array(status))


def test_wrong_lengths_of_likelihoods_are_refused() -> None:
    with pytest.raises(ValueError, match="likelihood"):
        Landmarks(("a",), np.ones((1, 3)), np.array([1]), likelihood=np.ones(2))


def test_landmarks_travel_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(three()))  # noqa: S301
    assert copy.names == ("a", "b", "c") and copy.status.tolist() == three().status.tolist()
