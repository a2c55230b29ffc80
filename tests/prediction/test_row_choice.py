"""Rows of look-alikes on simulated candidates: each channel sees each body with random log-odds, the right one 1.5
better on average; some right places are not seen, some places are no bodies."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from autolmk.detections import Detections
from autolmk.errors import AutolmkError
from autolmk.files.serialization import to_json
from autolmk.fold.measured import Measured
from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.postprocessing.flags import ROW, FlagLimits, judge, row_flags
from autolmk.prediction.row_choice import choose_rows
from autolmk.selection.results import write_review
from autolmk.shapes.row import Row, Rows
from autolmk.training.row_groups import groups_of
from autolmk.training.row_statistics import TrainingRows, measure_row
from autolmk.training.rows import measure_rows

K, STEP = 5, 30.0
GAIN, LOST, CLUTTER = 1.5, 0.05, 0.3  # of the right place's log-odds; shares of channels


def case(n: int, rng: np.random.Generator, partial: bool, sizes: float = 0.0) -> tuple[FloatArray, Geometry]:
    """((n + 2, 3) mm, of which the outermost are no landmarks; the image) of a bent column in an image that shows it
    whole, or half to three quarters of it. sizes: how much image and column differ in size from case to case."""
    along = (np.arange(n + 2) - (n + 1) / 2) * STEP * rng.uniform(0.85, 1.15)
    bend = 25 * np.sin(np.linspace(0, np.pi * n / 12, n + 2) + rng.normal(0, 0.2))
    points = np.stack([np.zeros(n + 2), bend, along], axis=1) + rng.normal(0, 1.5, (n + 2, 3))
    angle = rng.normal(0, 0.15)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    points = points @ turn.T + rng.normal(0, 15, 3)
    low, high = points[0, 2] - 40, points[-1, 2] + 40
    if partial:
        shown = rng.uniform(0.5, 0.75) * (high - low)
        low = rng.uniform(low, high - shown)
        high = low + shown
    size = np.exp(rng.normal(0, sizes)) if sizes else 1.0
    shape, origin = (int((high - low) / 4), 50, 50), size * np.array([-98.0, -98.0, low])
    return size * points, Geometry.from_parts(shape, (4.0 * size,) * 3, origin)


def look(
    points: FloatArray, image: Geometry, rng: np.random.Generator, gain: float = GAIN
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(candidates (L, K, 3), log-odds (L, K), whether each landmark is in the image (L,))."""
    n, shown = len(points) - 2, image.contains(image.to_voxels(points))
    candidates, odds = np.full((n, K, 3), np.nan), np.full((n, K), -np.inf)
    for i in range(n):
        rows = []
        for j in np.flatnonzero(shown):
            off = abs(j - i - 1)
            if off or rng.random() >= LOST:
                value = rng.normal() + gain * (off == 0) - 0.25 * max(off - 1, 0)
                rows.append((value, points[j] + rng.normal(0, 1.5, 3)))
        if rng.random() < CLUTTER:
            rows.append((rng.normal(-1, 1), image.to_physical(rng.uniform(0, 1, 3) * np.array(image.shape))))
        for k, (value, point) in enumerate(sorted(rows, key=lambda row: -row[0])[:K]):
            candidates[i, k], odds[i, k] = point, value
    return candidates, odds, shown[1:-1]


def names_of(n: int) -> tuple[str, ...]:
    return tuple(f"body {i}" for i in range(n))


def marks(points: FloatArray, image: Geometry) -> Landmarks:
    inside = image.contains(image.to_voxels(points))
    return Landmarks(names_of(len(points)), points, np.where(inside, Status.PRESENT, Status.ABSENT))


@lru_cache
def rows_of(n: int, partial: bool, sizes: float = 0.0, held_out: int = 12) -> Rows:
    """As a fold measures them on 20 training and some held-out cases."""
    rng = np.random.default_rng(1)
    shown = [case(n, rng, partial, sizes) for _ in range(20)]
    training = TrainingRows([marks(points[1:-1], image) for points, image in shown], [image for _, image in shown])
    found, truth = {}, {}
    for i in range(held_out):
        points, image = case(n, rng, partial, sizes)
        found[f"{i}"] = detections(*look(points, image, rng)[:2], image)
        truth[f"{i}"] = marks(points[1:-1], image)
    return measure_rows(found, truth, range(n), lambda: training)


def detections(candidates: FloatArray, odds: FloatArray, image: Geometry) -> Detections:
    n = len(odds)
    return Detections(names_of(n), candidates, odds, np.full(n, 2.0), np.full(n, 0.9), image)


def gross(points: FloatArray, truth: FloatArray) -> FloatArray:
    """(L,) whether points lie further off than half the way to the neighbour."""
    apart = np.linalg.norm(truth[:, None] - truth, axis=2) + np.diag([np.inf] * len(truth))
    return np.asarray(np.linalg.norm(points - truth, axis=1) > apart.min(axis=1) / 2)


def looked_at(
    n: int, partial: bool, repeats: int, sizes: float = 0.0
) -> tuple[dict[str, float], FloatArray, FloatArray]:
    """(shares of the points in images: gross before and after, and unflagged; of the absent ones: placed unflagged;
    probabilities and whether points are right)."""
    rng = np.random.default_rng(0)
    rows, found = rows_of(n, partial, sizes), []
    for _ in range(repeats):
        points, image = case(n, rng, partial, sizes)
        candidates, odds, shown = look(points, image, rng)
        chosen = choose_rows(candidates, odds, names_of(n), rows, image)
        off = gross(chosen.candidates[:, 0], points[1:-1])
        found.append(np.stack([shown, gross(candidates[:, 0], points[1:-1]), off, chosen.probability], axis=1))
    shown, before, after, sure = np.concatenate(found).T
    there = shown > 0
    numbers = {
        "before": float(before[there].mean()),
        "after": float(after[there].mean()),
        "unflagged": float((after * (sure >= 0.9))[there].mean()),
        "absent placed": float((sure >= 0.9)[~there].mean()) if (~there).any() else 0.0,
    }
    return numbers, sure[there], 1 - after[there]


@pytest.mark.parametrize(("n", "repeats"), [(5, 60), (12, 25), (24, 6)])
def test_a_row_in_full_view_is_found(n: int, repeats: int) -> None:
    numbers, *_ = looked_at(n, False, repeats)
    assert numbers["before"] > 0.3
    assert numbers["after"] <= 0.02


@pytest.mark.parametrize(("n", "repeats"), [(5, 60), (12, 25), (24, 8)])
def test_a_row_of_which_a_part_is_shown_is_found_or_flagged(n: int, repeats: int) -> None:
    numbers, *_ = looked_at(n, True, repeats)
    assert numbers["before"] > 0.3
    assert numbers["after"] <= 0.15  # of five bodies two or three are shown: they cannot always be told
    assert numbers["unflagged"] <= 0.03
    assert numbers["absent placed"] <= 0.03


def test_rows_of_different_sizes_are_found() -> None:
    assert not rows_of(5, False).rows[0].scales
    scales = rows_of(5, False, 0.25).rows[0].scales
    assert len(scales) == 5 and scales[0] < 0.8 < 1.25 < scales[-1]
    numbers, *_ = looked_at(5, False, 60, 0.25)
    assert numbers["before"] > 0.25
    assert numbers["after"] <= 0.1 and numbers["unflagged"] <= 0.02


def test_probabilities_are_those_of_right_places() -> None:
    found = [looked_at(n, partial, 60)[1:] for n, partial in ((5, False), (12, True))]
    sure, right = (np.concatenate(part) for part in zip(*found, strict=True))
    tenth = np.minimum((10 * sure).astype(int), 9)
    gaps = [abs(sure[tenth == k].mean() - right[tenth == k].mean()) * (tenth == k).mean() for k in set(tenth.tolist())]
    assert sum(gaps) <= 0.05


def straight_row(n: int = 4, cases: int = 12) -> tuple[Row, Geometry]:
    """Bodies 10 mm apart along z, in images of 100 mm."""
    image = Geometry.from_parts((50, 20, 20), (2.0, 2.0, 2.0), [-19.0, -19.0, -49.0])
    rng = np.random.default_rng(0)
    shown = [column(n) + rng.normal(0, 0.5, (n, 3)) + rng.normal(0, 3, 3) for _ in range(cases)]
    row = measure_row(names_of(n), TrainingRows([marks(points, image) for points in shown], [image] * cases))
    assert row is not None
    return row, image


def column(n: int) -> FloatArray:
    return np.stack([np.zeros(n), np.zeros(n), 10.0 * (np.arange(n) - (n - 1) / 2)], axis=1)


def test_two_members_never_share_a_place() -> None:
    row, image = straight_row()
    points = column(4)
    candidates = np.stack([points, points[[1, 0, 3, 2]]], axis=1)
    candidates[1] = candidates[1, ::-1]  # the second one sees itself at the first one's place
    odds = np.tile([3.0, 2.0], (4, 1))
    found = choose_rows(candidates, odds, names_of(4), Rows((row,), right=9, expected=9), image)
    np.testing.assert_allclose(found.candidates[:, 0], points)
    np.testing.assert_allclose(found.reach, 5.0, atol=0.5)
    assert (found.probability > 0.9).all()


def test_a_place_that_no_channel_shows_is_made_up_and_flagged() -> None:
    row, image = straight_row()
    points = column(4)
    candidates = np.stack([points, points[[1, 0, 1, 1]]], axis=1)
    candidates[2] = points[[1, 1]] + [[0, 0, 0], [0.5, 0, 0]]  # nobody sees the third one
    candidates[3, 1] = points[1]
    odds = np.tile([3.0, 1.0], (4, 1))
    found = choose_rows(candidates, odds, names_of(4), Rows((row,), right=99, expected=99), image)
    assert np.linalg.norm(found.candidates[2, 0] - points[2]) < 2.0
    assert found.log_odds[2, 0] <= -2.0
    assert found.probability[2] < 0.9 < found.probability[[0, 1, 3]].min()


def test_a_channel_that_shows_nothing_gets_the_place_that_is_left() -> None:
    row, image = straight_row()
    points = column(4)
    candidates = np.stack([points, points[[1, 2, 1, 2]]], axis=1)
    candidates[1], odds = np.nan, np.tile([3.0, 1.0], (4, 1))
    odds[1] = -np.inf
    found = choose_rows(candidates, odds, names_of(4), Rows((row,), right=99, expected=99), image)
    np.testing.assert_allclose(found.candidates[:, 0], points)
    nothing = choose_rows(np.full((4, 2, 3), np.nan), np.full((4, 2), -np.inf), names_of(4), Rows((row,)), image)
    assert np.isneginf(nothing.log_odds).all()


def test_landmarks_of_no_row_are_left_as_they_were() -> None:
    row, image = straight_row()
    rng = np.random.default_rng(0)
    candidates, odds = rng.normal(0, 20, (7, K, 3)), -np.sort(-rng.normal(0, 2, (7, K)))
    names = (*names_of(4), "x", "y", "z")
    found = choose_rows(candidates, odds, names, Rows((row,)), image)
    np.testing.assert_array_equal(found.candidates[4:], candidates[4:])
    np.testing.assert_array_equal(found.log_odds[4:], odds[4:])
    assert np.isnan(found.probability[4:]).all() and np.isinf(found.reach[4:]).all()
    for rows in (Rows(), Rows((row,), used=False)):
        untouched = choose_rows(candidates, odds, names, rows, image)
        assert untouched.candidates is candidates and untouched.log_odds is odds


def test_a_row_that_turns_is_told_by_its_distances() -> None:
    rng = np.random.default_rng(0)
    image = Geometry.from_parts((60, 60, 60), (2.0, 2.0, 2.0), [-59.0] * 3)
    # distances differ, so that no turn brings the row onto itself
    points = column(4) * [1, 1, 1] + np.array([[0, 0, 0], [0, 4, 0], [6, 0, 0], [0, 0, 5.0]])
    turned = [points @ Rotation.random(random_state=i).as_matrix().T for i in range(13)]
    row = measure_row(names_of(4), TrainingRows([marks(p, image) for p in turned[1:]], [image] * 12))
    assert row is not None and not row.straight
    candidates = np.stack([turned[0], turned[0][[1, 0, 3, 2]]], axis=1)
    odds = np.tile([2.0, 1.9], (4, 1))
    candidates[1], odds[1] = candidates[1, ::-1], [2.0, 1.9]
    candidates += rng.normal(0, 0.1, candidates.shape)
    found = choose_rows(candidates, odds, names_of(4), Rows((row,)), image)
    assert (np.linalg.norm(found.candidates[:, 0] - turned[0], axis=1) < 1).all()


def test_direction_counts_only_where_cases_agree_on_it() -> None:
    """However few they are: of one case nothing is known, of two that lie at right angles neither tells."""
    image = Geometry.from_parts((50, 50, 50), (2.0, 2.0, 2.0), [-49.0] * 3)
    along, across = column(4), column(4)[:, [2, 0, 1]]
    for cases, straight in (([along], False), ([along, along + 1], True), ([along, across], False)):
        row = measure_row(names_of(4), TrainingRows([marks(p, image) for p in cases], [image] * len(cases)))
        assert row is not None and row.straight == straight


def test_groups_come_from_what_channels_show_of_each_other() -> None:
    image = Geometry.from_parts((50, 20, 20), (2.0, 2.0, 2.0), [-19.0, -19.0, -49.0])
    points = column(5)
    truth = marks(points, image)
    cases = []
    for i in range(10):
        candidates = np.stack([points, points], axis=1) + 0.1
        candidates[0, 1], candidates[1, 1] = points[1], points[2] if i < 3 else points[1]
        candidates[4, 1] = points[3]
        odds = np.tile([3.0, 0.0], (5, 1))
        odds[4] = [3.0, -9.0]  # not credible
        found = Detections(truth.names, candidates, odds, np.ones(5), np.ones(5), image)
        cases.append((found, truth))
    assert groups_of(cases, range(5)) == [[0, 1, 2]]
    assert groups_of(cases, [1, 0, 2, 3, 4]) == [[1, 2]]  # mirror partners are none
    assert groups_of(cases[5:], range(5)) == [[0, 1]]
    assert groups_of(cases[:1], range(5)) == [[0, 1, 2]]  # of a single case one look is enough
    assert groups_of([], range(5)) == []


def test_rows_are_kept_as_strict_json(tmp_path: Path) -> None:
    row, _ = straight_row()
    measured = Measured(rows=Rows((row,), 1.5, -0.5, 7, 6.5, 6.9, True, "why"))
    measured.save(tmp_path)
    assert Measured.load(tmp_path) == measured
    file = tmp_path / "measured.json"
    value = json.loads(file.read_text())
    del value["rows"]
    file.write_text(json.dumps(value))
    assert Measured.load(tmp_path).rows is None
    value["rows"] = {**json.loads(json.dumps(to_json(measured.rows))), "temperature": 0}
    file.write_text(json.dumps(value))
    with pytest.raises(AutolmkError, match="temperature"):
        Measured.load(tmp_path)


def test_folds_are_pooled() -> None:
    row, _ = straight_row()
    other = replace(row, names=("a", "b", "c", "d"))
    shorter = straight_row(3)[0]
    pooled = Rows.pooled([Rows((shorter,), 1.0, -1.0, 5, 4, 5), Rows((row, other), 4.0, -3.0, 7, 7, 7), Rows(cases=9)])
    assert pooled.rows == (row, other)
    assert (pooled.temperature, pooled.level, pooled.cases, pooled.right) == (2.0, -2.0, 12, 11)
    assert pooled.trust == pytest.approx(31 / 32.5)
    assert Rows().trust < 0.98  # nothing measured: nothing is sure


def test_points_of_doubtful_rows_come_first_in_review(tmp_path: Path) -> None:
    columns = ("case", "landmark", "expected_error", "flags", "outside")
    rows = [
        ["a", "x", "9", "", ""],
        ["a", "y", "1", "unusual place among the others; the row may be shifted by one", ""],
        ["b", "x", "5", "members disagree", ""],
        ["b", "y", "3", "the row may be shifted by one", ""],
    ]
    write_review(tmp_path, columns, rows)
    order = [line.split(",")[:2] for line in (tmp_path / "review.csv").read_text().splitlines()[1:]]
    assert order == [["b", "y"], ["a", "y"], ["a", "x"], ["b", "x"]]


def test_a_row_below_nine_tenths_is_flagged_where_it_is_shown() -> None:
    image = Geometry.from_parts((50, 20, 20), (2.0, 2.0, 2.0), [-19.0, -19.0, -49.0])
    likelihood = np.array([0.9, 0.9, 0.2, 0.9])
    found = Detections(
        names_of(4), column(4)[:, None], np.ones((4, 1)), np.ones(4), likelihood, image,
        row=np.array([0.89, 0.91, 0.5, np.nan]),
    )  # fmt: skip
    assert judge(found, None, FlagLimits(), ["body 2"]).flags == ((ROW,), (), (), ())
    assert row_flags(found, likelihood > 0.5) == [(ROW,), (), (), ()]


def test_detections_keep_the_probabilities_of_rows(tmp_path: Path) -> None:
    image = Geometry.from_parts((50, 20, 20), (2.0, 2.0, 2.0), [-19.0, -19.0, -49.0])
    plain = Detections(names_of(4), column(4)[:, None], np.ones((4, 1)), np.ones(4), np.ones(4), image)
    plain.save(tmp_path, "plain")
    assert "row" not in json.loads((tmp_path / "detections" / "plain.json").read_text())
    assert np.isnan(Detections.load(tmp_path, "plain").row).all()
    row = np.array([0.7, np.nan, 0.0, 1.0])
    replace(plain, row=row).save(tmp_path, "rows")
    np.testing.assert_array_equal(Detections.load(tmp_path, "rows").row, row)
