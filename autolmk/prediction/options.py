"""TestTime: what a user may choose when a trained model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypedDict

from autolmk.errors import AutolmkError


@dataclass(frozen=True)
class TestTime:
    """The choices of a user when a trained model predicts; every one has a default.

    folds: such as (0, 1) or ("all",); None: every fold that was trained. checkpoint: final or best. device: auto, cpu,
    cuda or cuda:N. mirror: average with the mirrored view, where the plans allow it. step: between windows, as a share
    of their side. shape_prior: points are drawn toward the mean shape, where the plans say so; False leaves them as
    they were found. co_slice: landmarks of a group are put on one slice, where the plans say so; False leaves each for
    itself. stages: the first so many of a method's stages; None: all. trainer: for models of a trainer of your own,
    `file.py:Class`, of the last stage. trust_code: run the copies of trainers in the model folder, for all stages that
    `trainer` does not name. AutolmkError where the step is no share.
    """

    __test__: ClassVar[bool] = False  # no class of tests, though its name begins so

    folds: Sequence[int | str] | None = None
    checkpoint: str = "final"
    device: str = "auto"
    mirror: bool = True
    step: float = 0.5
    shape_prior: bool = True
    co_slice: bool = True
    stages: int | None = None
    trainer: str | None = None
    trust_code: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise AutolmkError(
                "the step between windows must be a share of the window",
                found=self.step,
                expected="0 < step <= 1",
                remedy="correct -step_size; 0.5 is the default",
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """The options that are asked for here although a packed model has decided them itself, in words."""
        asked = {
            "folds": self.folds is not None,
            "the checkpoint": self.checkpoint != "final",
            "no shape prior": not self.shape_prior,
            "no co-slice step": not self.co_slice,
            "stages": self.stages is not None,
            "a trainer": self.trainer is not None,
        }
        return tuple(name for name, said in asked.items() if said)


class Choices(TypedDict, total=False):
    """The fields of `TestTime` that `Predictor` takes by keyword alone, for editors and type checkers."""

    mirror: bool
    step: float
    shape_prior: bool
    co_slice: bool
    stages: int | None
    trainer: str | None
    trust_code: bool
