"""What training does with rows of look-alikes: held-out predictions read as the fold now predicts, later stages and
folds without look-alikes are left alone, fold `all` asks the numbered folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_first_look import plans_for
from test_row_choice import case, gross, look, marks, names_of

from autolmk.files.serialization import write_json
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.measured import Measured
from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks
from autolmk.plans import Plans
from autolmk.prediction.row_choice import Chosen
from autolmk.prediction.stage import Assigned, Stage
from autolmk.shapes.row import Rows
from autolmk.training.row_statistics import TrainingRows, measure_row
from autolmk.training.rows import _more_than_chance, adopted_rows, tell_rows
from autolmk.training.validation import CaseResult, Validation

N = 6


def plans() -> Plans:
    return plans_for(names_of(N))


def stage(measured: Measured | None = None) -> Stage:
    return Stage(plans(), plans().configuration("test"), (), (measured or Measured(),))


def training_of(cases: list[tuple[Landmarks, Geometry]]) -> Callable[[], TrainingRows]:
    return lambda: TrainingRows([one for one, _ in cases], [image for _, image in cases])


def validated(mistaken: bool) -> tuple[Validation, Callable[[], TrainingRows]]:
    """(of 8 cases whose channels mistake each other or do not, and what 15 training cases show)."""
    rng = np.random.default_rng(0)
    shown = [case(N, rng, False) for _ in range(15)]
    results = {}
    for i in range(8):
        points, image = case(N, rng, False)
        candidates, odds, _ = look(points, image, rng)
        if not mistaken:
            candidates, odds = np.stack([points[1:-1]] * 2, axis=1) + rng.normal(0, 0.5, (N, 2, 3)), odds[:, :2]
        prediction = stage().conclude(Assigned(candidates, odds, np.full(N, 2.0)), 1, image)
        results[f"{i}"] = CaseResult(marks(points[1:-1], image), prediction, 100.0)
    return Validation(results, 1.0), training_of([(marks(p[1:-1], image), image) for p, image in shown])


def errors(validation: Validation) -> float:
    found = [(r.prediction.detections.best, r.truth.points) for r in validation.results.values()]
    return float(np.mean([gross(best, points) for best, points in found]))


def test_held_out_predictions_read_as_the_fold_now_predicts() -> None:
    validation, training = validated(True)
    measured, after = tell_rows(stage(), validation, training)
    rows = measured.rows
    assert rows is not None and rows.used and set(rows.rows[0].names) == set(names_of(N))
    assert rows.cases == 8 and 7 < rows.right <= 8
    assert errors(validation) > 0.2 and errors(after) <= 0.03
    for name, result in after.results.items():
        old = validation.results[name].prediction.detections
        now = stage(measured).in_order_of_rows(old.candidates, old.log_odds, old.geometry)
        np.testing.assert_array_equal(result.prediction.detections.candidates, now.candidates)
        np.testing.assert_array_equal(result.prediction.detections.row, now.probability)
        assert (result.prediction.landmarks.points == now.candidates[:, 0]).all()
        assert np.isfinite(result.prediction.reach).all()
        assert np.nanmax(result.prediction.detections.spread) == 2.0


def test_what_is_not_mistaken_is_left_alone() -> None:
    validation, training = validated(False)
    measured, after = tell_rows(stage(), validation, training)
    assert after is validation
    assert measured.rows is not None and not measured.rows.rows and "no landmarks are mistaken" in measured.rows.why


def test_later_stages_are_left_alone() -> None:
    validation, training = validated(True)
    later = replace(plans().configuration("test"), previous_stage="coarse")
    measured, after = tell_rows(replace(stage(), configuration=later), validation, training)
    assert measured.rows is None and after is validation


def test_fold_all_takes_the_rows_of_finished_folds_as_its_own_cases_show_them(tmp_path: Path) -> None:
    validation, training = validated(True)
    measured, _ = tell_rows(stage(), validation, training)
    assert adopted_rows(tmp_path / "fold_all", "d", training).rows == ()
    folder = tmp_path / "fold_0"
    folder.mkdir()
    measured.save(folder)
    write_json(folder / "config.json", {"plans_digest": "d"})
    checkpoint_file(folder, "final").touch()
    assert adopted_rows(tmp_path / "fold_all", "other", training).rows == ()
    rng = np.random.default_rng(5)
    own = training_of([(marks(p[1:-1], image), image) for p, image in (case(N, rng, False) for _ in range(20))])
    adopted, known = adopted_rows(tmp_path / "fold_all", "d", own), measured.rows
    assert known is not None and isinstance(adopted, Rows)
    assert adopted.rows == (measure_row(known.rows[0].names, own()),) != known.rows
    assert (adopted.temperature, adopted.trust) == (known.temperature, known.trust)


CHANGES = [(0, 0, False), (4, 0, False), (5, 0, True), (6, 3, False), (20, 8, True)]


@pytest.mark.parametrize(("mended", "made", "more"), CHANGES)
def test_a_few_points_mended_may_be_chance(mended: int, made: int, more: bool) -> None:
    assert _more_than_chance(mended, made) == more


def test_rows_are_not_used_where_all_points_together_err_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a false row of well-found landmarks mends a few points and moves the others a little."""
    validation, training = validated(True)

    def astray(self: Stage, *arguments: FloatArray | Geometry) -> Chosen:
        found = in_order(self, *arguments)  # type: ignore[arg-type]
        return replace(found, candidates=found.candidates + 100.0)

    in_order = Stage.in_order_of_rows
    monkeypatch.setattr(Stage, "in_order_of_rows", astray)
    measured, after = tell_rows(stage(), validation, training)
    assert after is validation and measured.rows is not None and not measured.rows.used
    assert "mean error" in measured.rows.why
