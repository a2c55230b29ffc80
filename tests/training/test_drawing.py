"""Drawing toward the mean shape is kept only where held-out cases gain; fold `all` asks the numbered folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autolmk.detections import Detections
from autolmk.files.serialization import write_json
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.measured import Measured
from autolmk.fold.point_errors import PointErrors
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.postprocessing.flags import shape_judgement
from autolmk.prediction.assignment import ShapePrior
from autolmk.selection.ensembling import combine, equal_combination
from autolmk.shapes.point_distribution import fit_shape_model
from autolmk.training.drawing import adopted, drawn, measure_errors

L, ANATOMY = 20, 0.3
NAMES = tuple(f"p{i:02d}" for i in range(L))
GEOMETRY = Geometry.from_parts((40, 80, 80), (2.0, 1.0, 1.0), (-40.0, -40.0, -40.0))


def prior_of(n_cases: int = 30) -> ShapePrior:
    points = np.random.default_rng(0).uniform(-25, 25, (L, 3))
    spread = np.full(L, ANATOMY * np.sqrt(3))
    return ShapePrior(points - points.mean(axis=0), tuple(range(L)), spread, (0.8, 1.25), n_cases, spread)


def held_out(n: int, noise: float, systematic: float = 0.0) -> tuple[dict[str, Detections], dict[str, Landmarks]]:
    """Of n cases; systematic: share of the anatomy's deviation that the network misses, as one drawn in already."""
    rng, mean = np.random.default_rng(1), prior_of().points
    found, truth = {}, {}
    for case in (f"case_{i}" for i in range(n)):
        deviation = rng.normal(0, ANATOMY, mean.shape)
        points = mean + (1 - systematic) * deviation + rng.normal(0, noise, mean.shape)
        truth[case] = Landmarks(NAMES, mean + deviation, np.full(L, Status.PRESENT, dtype=np.int8))
        rest = np.full((L, 1), 5.0), np.full(L, 2.0), np.full(L, 0.99)
        found[case] = Detections(NAMES, points[:, None], *rest, GEOMETRY)
    return found, truth


@pytest.mark.parametrize("n", [5, 8, 30])
def test_it_is_kept_where_held_out_cases_gain(n: int) -> None:
    found, truth = held_out(n, noise=0.5)
    errors = measure_errors(found, truth, prior_of(), "mm")
    assert errors.drawn and errors.cases == n and f"of {n} held-out cases better" in errors.why
    assert errors.usual == pytest.approx(0.5, rel=0.15)
    before, after = (
        np.mean([np.linalg.norm(side[c].best - truth[c].points, axis=1) for c in found])
        for side in (found, {c: drawn(one, prior_of(), errors) for c, one in found.items()})
    )
    assert after < 0.8 * before


@pytest.mark.parametrize(("noise", "systematic"), [(1e-4, 0.0), (0.01, 0.6)])
def test_it_is_not_kept_where_there_is_nothing_to_gain(noise: float, systematic: float) -> None:
    """Exact points, and a network whose points lie too near to the mean shape as it is."""
    found, truth = held_out(12, noise, systematic)
    errors = measure_errors(found, truth, prior_of(), "mm")
    assert not errors.drawn and errors.why


@pytest.mark.parametrize(
    ("n", "prior", "said"),
    [
        (4, prior_of(), "chance"),
        (1, prior_of(), "single"),
        (8, prior_of(9), "9 training cases"),
        (8, None, "0 training"),
    ],
)
def test_too_little_to_tell_leaves_points_where_they_are(n: int, prior: ShapePrior | None, said: str) -> None:
    errors = measure_errors(*held_out(n, noise=0.5), prior, "mm")
    assert not errors.drawn and said in errors.why and errors.cases == n
    with pytest.raises(ValueError, match="one held-out case"):
        measure_errors({}, {}, prior, "mm")


def test_points_that_place_windows_are_drawn_in_the_way_that_is_nearest() -> None:
    """Fully where errors are large, however few cases tell; not at all where there is nothing to gain."""
    for n, noise, systematic, expected in (
        (1, 2.0, 0.0, (True, True)),
        (8, 2.0, 0.0, (True, True)),
        (8, 0.01, 0.6, (False, False)),
    ):
        found, truth = held_out(n, noise, systematic)
        errors = measure_errors(found, truth, prior_of(), "mm", looks_follow=True)
        assert (errors.drawn, errors.fully) == expected and f"{n} held-out cases" in errors.why
    full = measure_errors(*held_out(8, 2.0), prior_of(), "mm", looks_follow=True)
    assert PointErrors.pooled([full, full]).fully
    assert not PointErrors.pooled([full, measure_errors(*held_out(9, 0.5), prior_of(), "mm")]).fully
    found, truth = held_out(8, 2.0)
    before, fully, as_others = (
        np.mean([np.linalg.norm(side.best - truth[c].points, axis=1).mean() for c, side in each.items()])
        for each in (
            found,
            {c: drawn(one, prior_of(), full) for c, one in found.items()},
            {c: drawn(one, prior_of(), measure_errors(found, truth, prior_of(), "mm")) for c, one in found.items()},
        )
    )
    assert fully < as_others < before and fully < 0.5 * before


def fold(folder: Path, name: str, errors: PointErrors | None, digest: str = "d", *, finished: bool = True) -> None:
    place = folder / name
    place.mkdir()
    Measured(errors=errors).save(place)
    write_json(place / "config.json", {"plans_digest": digest})
    if finished:
        checkpoint_file(place, "final").write_bytes(b"")


def test_fold_all_takes_what_finished_folds_of_its_plans_found(tmp_path: Path) -> None:
    good = PointErrors(noise={"p00": 0.2}, usual=0.2, cases=8, drawn=True, why="better")
    alone = adopted(tmp_path / "fold_all", "d")
    assert not alone.drawn and "no case is held out" in alone.why
    fold(tmp_path, "fold_0", good)
    assert adopted(tmp_path / "fold_all", "d").drawn
    assert not adopted(tmp_path / "fold_all", "other plans").drawn
    fold(tmp_path, "fold_1", PointErrors(usual=0.2, cases=9))
    fold(tmp_path, "fold_2", PointErrors(usual=0.2, cases=30, drawn=True), "other plans")
    fold(tmp_path, "fold_3", PointErrors(usual=0.2, cases=30, drawn=True), finished=False)
    fold(tmp_path, "fold_4", None)
    both = adopted(tmp_path / "fold_all", "d")
    assert not both.drawn and both.cases == 17 and "8 of 17" in both.why


def test_flags_judge_points_as_they_were_found(tmp_path: Path) -> None:
    """Drawn points remember by how much, in files too, and however models are combined."""
    found, truth = held_out(8, noise=0.5)
    errors = measure_errors(found, truth, prior_of(), "mm")
    before = found["case_0"]
    after = drawn(before, prior_of(), errors)
    assert np.abs(after.best - before.best).max() > 0.2 and not before.moved.size
    np.testing.assert_allclose(after.as_found().best, before.best)
    after.save(tmp_path, "case_0")
    np.testing.assert_allclose(Detections.load(tmp_path, "case_0").as_found().best, before.best)
    both = combine([after, after], equal_combination(("a", "b")))
    np.testing.assert_allclose(both.best, after.best)
    np.testing.assert_allclose(both.as_found().best, before.best)
    model = fit_shape_model(list(truth.values()))
    noise = (0.5,) * L
    sides = (shape_judgement(side, model, noise)[1] for side in (after, before))
    np.testing.assert_allclose(*sides, rtol=1e-6)
