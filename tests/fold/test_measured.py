"""measured.json: the mean shape of the training cases and the calibration of presence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autolmk.errors import AutolmkError
from autolmk.fold.measured import Measured, measure, measure_shape
from autolmk.landmarks import Landmarks, Status
from autolmk.shapes.pose import fit_similarity

NAMES = ("a", "b", "c", "d", "e")
SHAPE = np.array([[0.0, 0, 0], [40, 0, 0], [0, 30, 0], [0, 0, 20], [25, 20, 10]])


def rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def cases(n: int, noise: float, seed: int = 0, absent: float = 0.0) -> tuple[list[Landmarks], list[float]]:
    rng = np.random.default_rng(seed)
    found, scales = [], []
    for _ in range(n):
        scale = rng.uniform(0.9, 1.1)
        points = scale * SHAPE @ rotation(rng).T + rng.normal(0, 50, 3) + rng.normal(0, noise, SHAPE.shape)
        present = rng.random(len(NAMES)) >= absent
        found.append(Landmarks(NAMES, points, np.where(present, Status.PRESENT, Status.ABSENT).astype(np.int8)))
        scales.append(scale)
    return found, scales


def test_the_mean_shape_is_the_shape_whatever_the_poses() -> None:
    found, scales = cases(30, noise=0.5, absent=0.1)
    measured = measure_shape(found)
    assert measured.mean_shape is not None
    points = np.array([measured.mean_shape[name] for name in NAMES])
    fit = fit_similarity(points, SHAPE, robust=False)
    assert fit.residuals.max() < 0.4
    assert np.linalg.det(fit.similarity.rotation) == pytest.approx(1)
    assert measured.shape_residual == pytest.approx(0.5 * np.sqrt(3), rel=0.3)
    assert set(measured.shape_spread) == set(NAMES) and all(0.2 < s < 1.5 for s in measured.shape_spread.values())
    low, high = measured.scale_bounds
    assert low < min(scales) / np.mean(scales) < max(scales) / np.mean(scales) < high
    assert low > 0.5 and high < 2


def test_a_landmark_never_seen_has_no_place() -> None:
    found, _ = cases(10, noise=0.1)
    blind = [Landmarks(NAMES, m.points, np.where(np.arange(5) == 2, Status.UNKNOWN, m.status)) for m in found]
    measured = measure_shape(blind)
    assert measured.mean_shape is not None and set(measured.mean_shape) == {"a", "b", "d", "e"}


def test_too_little_gives_no_shape() -> None:
    found, _ = cases(1, noise=0.1)
    assert measure_shape(found) == Measured() == measure_shape([])
    few = [m.reordered(("a", "b", "c")) for m in cases(5, noise=0.1)[0]]
    assert measure_shape(few).mean_shape is None


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    measured = measure_shape(cases(6, noise=0.3)[0]).with_presence(slope=0.7, intercept=-0.2, cases=4)
    measured.save(tmp_path)
    assert Measured.load(tmp_path) == measured
    assert measured.presence_slope == 0.7 and measured.presence_cases == 4


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AutolmkError, match=r"(?s)missing.*measured.json"):
        Measured.load(tmp_path)
    file = tmp_path / "measured.json"
    file.write_text('{"version": 99}')
    with pytest.raises(AutolmkError, match="another version"):
        Measured.load(tmp_path)
    file.write_text('{"version": 1, "presence_slopes": 2.0}')
    with pytest.raises(AutolmkError, match="did you mean 'presence_slope'"):
        Measured.load(tmp_path)


def test_what_no_training_case_shows_is_untrained(tmp_path: Path) -> None:
    found, _ = cases(4, noise=0.5)
    lacking = [
        Landmarks(NAMES, case.points, np.where(np.arange(5) == 3, Status.UNKNOWN, case.status)) for case in found
    ]
    assert measure(found).untrained == () and measure([]).untrained == ()
    measured = measure(lacking)
    assert measured.untrained == ("d",) and measured.mean_shape is not None and "d" not in measured.mean_shape
    measured.save(tmp_path)
    assert Measured.load(tmp_path) == measured


def test_prevalence_is_that_of_landmarks_that_some_case_lacks() -> None:
    """Of `b` one case in four, of `c` three of the three that are known; `d` is never there, `e` always."""
    P, A, U = Status.PRESENT, Status.ABSENT, Status.UNKNOWN
    rows = [[P, P, P, A, P], [P, A, P, A, P], [P, A, U, A, P], [A, A, P, A, P]]
    measured = measure([Landmarks(NAMES, SHAPE, np.array(row, dtype=np.int8)) for row in rows])
    assert measured.prevalence == {"a": 3.5 / 5, "b": 1.5 / 5}
    np.testing.assert_allclose(measured.prior(("b", "c", "a")), np.log([1.5 / 3.5, 1, 3.5 / 1.5]))
    with pytest.raises(ValueError, match="shares between 0 and 1"):
        Measured(prevalence={"a": 1.0})


# -- cases that did not shape the mean --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 10, 30])
def test_left_out_cases_stray_as_far_as_new_ones_do(n: int) -> None:
    """In-sample deviations are too short, by 1/n at least; those of cases left out are as long as new cases'."""
    inside, outside, fresh = [], [], []
    for seed in range(20 if n < 30 else 6):
        found, _ = cases(n + 8, noise=0.5, seed=seed)
        measured = measure_shape(found[:n])
        assert measured.mean_shape is not None and set(measured.shape_left_out) == set(NAMES)
        inside.append(np.mean(np.square(list(measured.shape_spread.values()))))
        outside.append(np.mean(np.square(list(measured.shape_left_out.values()))))
        shape = np.array([measured.mean_shape[name] for name in NAMES])
        fresh.append(np.mean([np.nanmean(fit_similarity(shape, case.points).residuals ** 2) for case in found[n:]]))
    new = np.sqrt(np.mean(fresh))
    assert np.sqrt(np.mean(outside)) == pytest.approx(new, rel=0.15)
    assert np.sqrt(np.mean(inside)) < np.sqrt(np.mean(outside)) * (1 - 1 / n)


def test_a_landmark_of_a_single_case_has_no_distance_of_its_own() -> None:
    found, _ = cases(10, noise=0.1)
    once = [
        Landmarks(NAMES, m.points, np.where((np.arange(5) == 2) & (i > 0), Status.UNKNOWN, m.status))
        for i, m in enumerate(found)
    ]
    measured = measure_shape(once)
    assert "c" in measured.shape_spread and "c" not in measured.shape_left_out


def test_files_of_earlier_versions_say_nothing_of_errors(tmp_path: Path) -> None:
    found, _ = cases(6, noise=0.1)
    now = measure(found)
    assert now.errors is not None and not now.errors.drawn and now.errors.why
    now.save(tmp_path)
    assert Measured.load(tmp_path) == now
    value = json.loads((tmp_path / "measured.json").read_text())
    del value["errors"], value["shape_left_out"]
    (tmp_path / "measured.json").write_text(json.dumps(value))
    before = Measured.load(tmp_path)
    assert before.errors is None and before.shape_left_out == {} and before.shape_spread == now.shape_spread
