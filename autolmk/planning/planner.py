"""Planner: from a fingerprint to plans, a pure function. Presets say how large and how long; planners say the rest."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json
from autolmk.methods.registry import load_class
from autolmk.methods.trainer import trainer_class
from autolmk.planning import method_order, window_rules
from autolmk.planning.memory import MemoryEstimate, training_bytes
from autolmk.planning.presets import DEFAULT_PRESET as DEFAULT_PRESET
from autolmk.planning.presets import DEVICES as DEVICES
from autolmk.planning.presets import PRESETS as PRESETS
from autolmk.planning.presets import Preset as Preset
from autolmk.planning.presets import usable_bytes as usable_bytes
from autolmk.planning.request import PlanRequest as PlanRequest
from autolmk.planning.request import accepting_both
from autolmk.plans import Configuration, Plans, SliceGroup

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint


class Planner(ABC):
    """Derives one or more configurations (stages of a method) from a fingerprint. No I/O, no state.

    options: of the planner's own Options, as `--set` gives them; AutolmkError names what there is where one is unknown.
    """

    @dataclass(frozen=True)
    class Options:
        """A planner's own choices, typed; set by `--set key=value` when planning."""

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.options: Any = from_json(type(self).Options, dict(options or {}), path="--set")

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        own = cls.__dict__.get("plan")
        if callable(own) and not getattr(own, "__isabstractmethod__", False):
            cls.plan = accepting_both(own)  # type: ignore[method-assign]

    @abstractmethod
    def plan(self, request: PlanRequest) -> dict[str, Configuration]:
        """Configurations by name, every number with its reason in `why`. AutolmkError where no configuration fits."""


def plan_dataset(
    request: PlanRequest, planners: Mapping[str, Planner], *, plans_name: str, leave_out: bool = False
) -> Plans:
    """Plans with the configurations of all `planners` (name -> planner), those of which most is expected first (see
    `method_order`; `why` has the reasons). Pure.

    leave_out: planners that cannot plan this dataset are left out, all but the first; `why` says so. AutolmkError where
    nothing fits the memory target, or two planners name a configuration alike.
    """
    fingerprint = request.fingerprint
    configurations: dict[str, Configuration] = {}
    groups, why_groups = window_rules.slice_groups(fingerprint)
    unsuited: dict[str, str] = {}
    for name, planner in planners.items():
        try:
            planned = planner.plan(request)
        except AutolmkError as error:
            if not leave_out or not configurations:
                raise
            unsuited[name] = f"left out: {error.problem}"
            continue
        _require_new_names(planned, configurations, name)
        configurations |= {name: _with_co_slice(c, groups) for name, c in planned.items()}
    configurations, why_order = method_order.in_order(fingerprint, configurations)
    absent = "landmarks that some case states to be absent"
    return dataclasses.replace(
        draft_plans(fingerprint, configurations, device=request.device),
        plans_name=plans_name,
        planner=",".join(name for name in planners if name not in unsuited),
        preset=request.preset,
        memory_target_gb=request.memory_target_gb,
        why={**request.why, "sometimes_absent": absent, "co_slice_groups": why_groups, **why_order, **unsuited},
    )


def _require_new_names(planned: Mapping[str, Configuration], before: Mapping[str, Configuration], name: str) -> None:
    """AutolmkError where the planner `name` calls a configuration as one before it does."""
    twice = sorted(set(planned) & set(before))
    if twice:
        raise AutolmkError(
            f"two planners name a configuration alike: {', '.join(twice)}",
            found=f"planner {name}",
            remedy="plan with one of them at a time, under different -overwrite_plans_name",
        )


def _with_co_slice(configuration: Configuration, groups: Sequence[SliceGroup]) -> Configuration:
    """Only where there are groups; with a reason where the planner gives none."""
    reason = "there are groups that annotators placed on one slice" if groups else "no landmarks share a slice"
    wanted = configuration.co_slice and len(groups) > 0
    return dataclasses.replace(configuration, co_slice=wanted, why={"co_slice": reason, **configuration.why})


def draft_plans(fingerprint: Fingerprint, configurations: Mapping[str, Configuration], *, device: str) -> Plans:
    """Plans around `configurations`, with what plans repeat from the fingerprint; the rest says that it is a draft."""
    statistics = fingerprint.landmark_statistics
    return Plans(
        dataset_name=fingerprint.dataset_name,
        plans_name="draft",
        planner="draft",
        preset="XS",
        ndim=fingerprint.ndim,
        unit=fingerprint.unit,
        channel_names=tuple(fingerprint.channel_names),
        landmarks=tuple(fingerprint.landmarks),
        pairs=tuple(fingerprint.pairs),
        sometimes_absent=tuple(n for n in fingerprint.landmarks if n in statistics and statistics[n].n_absent > 0),
        device=device,
        memory_target_gb=0.0,
        configurations=dict(configurations),
        co_slice_groups=window_rules.slice_groups(fingerprint)[0],
    )


def memory_of(fingerprint: Fingerprint, configuration: Configuration, device: str, batch_size: int) -> MemoryEstimate:
    """The memory that training `configuration` takes: its own trainer's network, codec and loss, counted on the meta
    device.
    """
    plans = draft_plans(fingerprint, {"draft": configuration}, device=device)
    return training_bytes(trainer_class(configuration.trainer)(plans, configuration), batch_size)


def expected_seconds(configuration: Configuration, seconds_per_step: float) -> float:
    """The seconds that training a fold takes: the steps at the measured pace and the share that validation may take, or
    the time budget, if that ends earlier.
    """
    schedule = configuration.schedule
    steps = schedule.epochs * schedule.iterations_per_epoch
    seconds = steps * seconds_per_step / (1 - schedule.validation_share)
    return seconds if schedule.max_seconds is None else min(seconds, schedule.max_seconds)


def planner_class(specification: str) -> type[Planner]:
    """The planner that a user named: a shipped one's name, file.py:Class or module:Class. Errors as of `load_class`."""
    found: type[Planner] = load_class("planner", specification, Planner)
    return found
