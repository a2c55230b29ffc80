"""TestTime: its fields are the options of Predictor, one by one or at once."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

from autolmk import Predictor
from autolmk.errors import AutolmkError
from autolmk.prediction.options import Choices, TestTime


def test_every_field_is_an_option_of_the_predictor() -> None:
    parameters = set(inspect.signature(Predictor).parameters) - {"model_folder", "test_time", "options"}
    fields = {field.name: field.type for field in dataclasses.fields(TestTime)}
    assert parameters | set(Choices.__annotations__) == set(fields) and len(fields) == 10
    assert not parameters & set(Choices.__annotations__)
    for name, annotation in Choices.__annotations__.items():
        assert getattr(annotation, "__forward_arg__", annotation) == fields[name]


def test_options_come_one_by_one_or_at_once(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not both"):
        Predictor(tmp_path, mirror=False, test_time=TestTime(step=0.25))
    with pytest.raises(TypeError, match="colour"):
        Predictor(tmp_path, colour="blue")  # type: ignore[call-arg]


@pytest.mark.parametrize("step", [0.0, -1.0, 1.5, float("nan")])
def test_the_step_is_a_share_of_the_window(step: float) -> None:
    with pytest.raises(AutolmkError, match="share of the window"):
        TestTime(step=step)
    assert TestTime(step=1.0).step == 1.0


def test_what_a_packed_model_has_decided_is_named() -> None:
    assert TestTime(device="cpu", mirror=False, step=0.25, trust_code=True).parts == ()
    asked = TestTime([0], "best", shape_prior=False, co_slice=False, stages=1, trainer="heatmap")
    assert len(asked.parts) == 6 and asked.parts[0] == "folds"
