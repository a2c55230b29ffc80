"""Models are called as users say, and no two of them alike."""

from __future__ import annotations

from autolmk.report.naming import model_names


def test_the_configuration_is_the_name() -> None:
    folder, other = "heatmap__autolmkPlans__heatmap", "local_cells__autolmkPlans__global_to_local"
    names = model_names([folder, other])
    assert names.of(folder) == "heatmap" and names.of(f"{folder} + {other}") == "heatmap + global_to_local"
    assert names.within(f"{folder} errs less than {other}") == "heatmap errs less than global_to_local"


def test_what_tells_two_of_one_configuration_apart_is_added() -> None:
    folders = ["heatmap__autolmkPlans__heatmap", "heatmap__myPlans__heatmap", "Mine__myPlans__heatmap"]
    said = list(model_names(folders).said.values())
    assert said == ["heatmap (heatmap, autolmkPlans)", "heatmap (heatmap, myPlans)", "heatmap (Mine, myPlans)"]
    assert list(model_names(folders[:2]).said.values()) == ["heatmap (autolmkPlans)", "heatmap (myPlans)"]


def test_a_trainer_that_the_plans_do_not_name_is_named() -> None:
    folder = "Mine__autolmkPlans__heatmap"
    assert model_names([folder], {folder: "heatmap"}).of(folder) == "heatmap (Mine)"
    assert model_names([folder], {folder: "Mine"}).of(folder) == "heatmap"


def test_other_names_are_kept() -> None:
    assert model_names(["my model", "a__b"]).of("a__b + my model") == "a__b + my model"
