"""Wrong annotations are found, and clean data raises no doubt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crossvals import GEOMETRY, annotated_elsewhere, annotated_off, detections_at, simulated

from autolmk.annotations import read
from autolmk.detections import Detections
from autolmk.errors import AutolmkError
from autolmk.fold.held_out import CrossValidation
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.report.annotation_doubts import doubts, skill, write_doubts


def annotation(models: dict[str, CrossValidation], case: str, landmark: str) -> np.ndarray:
    truth = next(iter(models.values())).truth[case]
    return truth.points[truth.names.index(landmark)]


def test_planted_errors_are_found_and_ranked() -> None:
    """One 6 mm off, one on the place of another landmark, where errors are about 0.5 mm."""
    models = simulated()
    annotated_off(models, "case_03", "c", 6)
    annotated_elsewhere(models, "case_11", "a", annotation(models, "case_11", "b"))
    found = doubts(models)
    assert [(d.case, d.landmark) for d in found] == [("case_11", "a"), ("case_03", "c")]
    swapped, off = found
    assert swapped.nearest == "b" and off.nearest is None
    assert off.distance == pytest.approx(6, abs=1.5) and off.times == pytest.approx(off.distance / off.usual)
    assert off.disagreement is not None and off.disagreement < 1 and off.likelihood == pytest.approx(0.97)
    np.testing.assert_allclose(off.annotated, annotation(models, "case_03", "c"))


def test_clean_data_raises_about_one_doubt_in_twenty_datasets() -> None:
    raised = [len(doubts(simulated(seed=seed))) for seed in range(60)]
    assert sum(n > 0 for n in raised) <= 8  # 3 expected; more than 8 in fewer than 1 of 200 runs


def test_models_that_disagree_or_are_unsure_raise_no_doubt() -> None:
    models = simulated()
    point = annotation(models, "case_03", "c").copy()
    annotated_off(models, "case_03", "c", 6)
    assert len(doubts(models)) == 1

    def with_third(points: np.ndarray, likelihood: float) -> dict[str, CrossValidation]:
        first, _ = models.values()
        old = first.detections["case_03"]
        best, sure = old.best.copy(), old.likelihood.copy()
        best[2], sure[2] = points, likelihood
        changed = first.detections | {"case_03": detections_at(best, old.names, GEOMETRY, sure)}
        return models | {"third": replace(first, name="third", detections=changed)}

    assert len(doubts(with_third(point, 0.97))) == 1
    assert not doubts(with_third(point - [0, 20, 0], 0.97))
    unsure = {
        name: replace(m, detections={c: _unsure(d) for c, d in m.detections.items()}) for name, m in models.items()
    }
    assert not doubts(unsure)


def _unsure(found: Detections) -> Detections:
    return replace(found, likelihood=np.full(len(found.names), 0.2))


def test_an_annotation_within_the_error_radius_is_not_doubted() -> None:
    models = simulated()
    annotated_off(models, "case_03", "c", 6)
    names = models["model_0"].truth["case_03"].names
    points, status = np.zeros((8, 3)), np.full(8, Status.PRESENT, dtype=np.int8)

    def final(radius: float) -> dict[str, Landmarks]:
        return {"case_03": Landmarks(names, points, status, error_radius=np.full(8, radius))}

    assert not doubts(models, final(9.0))
    assert [d.error_radius for d in doubts(models, final(1.0))] == [1.0]


def test_one_model_and_missing_points() -> None:
    models = {"only": simulated(models=1)["model_0"]}
    annotated_off(models, "case_03", "c", 8)
    lost = models["only"].detections["case_05"]
    candidates, odds = lost.candidates.copy(), lost.log_odds.copy()
    candidates[0], odds[0] = np.nan, -np.inf
    models["only"].detections["case_05"] = replace(lost, candidates=candidates, log_odds=odds)
    (found,) = doubts(models)
    assert found.disagreement is None and found.landmark == "c"
    with pytest.raises(AutolmkError, match="no model"):
        doubts({})


def test_files_for_slicer(tmp_path: Path) -> None:
    models = simulated()
    annotated_off(models, "case_03", "c", 6)
    (file,) = write_doubts(tmp_path, doubts(models), unit="mm")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["case_03.mrk.json", "written.json"]
    assert file.name == "case_03.mrk.json"
    marks = read(file)
    assert marks.names == ("c (annotation)", "c (model)") and marks.frame == "LPS"
    np.testing.assert_allclose(marks.points[0], annotation(models, "case_03", "c"))
    assert np.linalg.norm(marks.points[1] - marks.points[0]) == pytest.approx(6, abs=1.5)
    assert not write_doubts(tmp_path, (), unit="mm") and not list(tmp_path.iterdir())


def test_files_that_somebody_edited_or_laid_there_stay(tmp_path: Path) -> None:
    models = simulated()
    annotated_off(models, "case_03", "c", 6)
    (file,) = write_doubts(tmp_path, doubts(models), unit="mm")
    file.write_text("corrected in Slicer")
    (tmp_path / "mine.mrk.json").write_text("mine")
    assert write_doubts(tmp_path, doubts(models), unit="mm") == []
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {
        file.name: "corrected in Slicer",
        "mine.mrk.json": "mine",
    }


def test_a_model_that_did_not_learn_may_not_judge() -> None:
    """Positions vary by 2 mm an axis, so that the guess is 2 sqrt(1 + 1 / 29) times the median length of a standard
    normal vector of three axes off, 1.538."""
    for error, enough in ((0.3, True), (3.0, False)):
        learnt = skill(simulated(error=error)["model_0"])
        assert learnt.guess == pytest.approx(3.13, abs=0.25) and learnt.enough is enough
        assert learnt.error == pytest.approx(1.5 * error, rel=0.5)


def test_where_the_images_lie_in_space_is_no_merit_of_a_model() -> None:
    """A case moved by 500 mm, with its image, its points and its predictions, changes no skill."""
    model = simulated()["model_0"]
    old, marks = model.detections["case_03"], model.truth["case_03"]
    moved = Geometry.from_parts(GEOMETRY.shape, GEOMETRY.spacing, GEOMETRY.origin + 500)
    found = model.detections | {"case_03": detections_at(old.best + 500, old.names, moved)}
    truth = dict(model.truth) | {"case_03": replace(marks, points=marks.points + 500)}
    one, other = skill(model), skill(replace(model, detections=found, truth=truth))
    assert (other.error, other.guess) == pytest.approx((one.error, one.guess))


def test_one_case_tells_no_skill() -> None:
    assert not skill(simulated(cases=1)["model_0"]).enough
