"""Names that the command line repeats so that `--help` imports nothing heavy are those of the code behind it."""

from __future__ import annotations

from autolmk import evaluation, fingerprint
from autolmk.cli import evaluate, evaluate_arguments, plan_experiment, predict, train
from autolmk.planning import planner
from autolmk.prediction import model


def test_the_command_line_repeats_what_the_code_says() -> None:
    assert tuple(planner.PRESETS) == plan_experiment.PRESETS
    assert set(predict.CHECKPOINTS) < set(model.CHECKPOINTS)
    assert tuple(evaluate_arguments.RADII) == evaluation.RADII
    assert fingerprint.FILE_NAME in train.COPIED and fingerprint.FILE_NAME == evaluate.FINGERPRINT
