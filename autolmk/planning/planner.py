"""Planner: from a fingerprint to plans, a pure function. Presets say how large and how long; planners say the rest."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, near
from autolmk.methods.registry import load_class
from autolmk.methods.trainer import trainer_class
from autolmk.planning import method_order, window_rules
from autolmk.planning.memory import GIB, MemoryEstimate, training_bytes
from autolmk.plans import Configuration, Plans, SliceGroup

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

DEVICES = ("cpu", "cuda")
USABLE = {"cpu": 1.0, "cuda": 0.85}  # share of the memory target that plans fill: CUDA's context and fragmentation
FINEST, LEAST_VOXELS = 10, 4  # a spacing that a user demands: at most so much finer; so many voxels an axis are left
AXES = {2: "y x", 3: "z y x"}


@dataclass(frozen=True)
class Preset:
    """Size and length of training. Pairs are for (2D, 3D).

    memory_gb: GiB of the device; on XS it stands for the time of a step, which on a CPU is proportional to it.
    decoder_stops: how many times the decoder stops below full resolution even where the heads would fit: the finest
    stage costs most, and decoding is sub-voxel without it. benchmarks/output_stride.py trains both ways equally long.
    whole_coarsening: how many times the finest spacing may grow so that one window holds the whole image.
    """

    memory_gb: float
    base_features: tuple[int, int]
    max_features: tuple[int, int]
    max_stages: tuple[int, int]
    residual: bool
    decoder_stops: tuple[int, int]
    batch_least: tuple[int, int]
    batch_most: int
    whole_coarsening: float
    epochs: int
    iterations_least: int
    max_seconds: float | None
    learning_rate: float
    weight_decay: float = 1e-2
    validation_share: float = 0.1
    seconds_per_step: float = 0.5  # only to choose how long weights are averaged where a time budget counts


PRESETS: dict[str, Preset] = {
    "XS": Preset(0.3, (16, 16), (128, 128), (5, 5), False, (1, 1), (4, 1), 4, 4.0, 1000, 50, 1500.0, 2e-3),
    "S": Preset(4.0, (16, 16), (256, 192), (7, 6), False, (1, 1), (8, 2), 16, 3.0, 200, 250, None, 1e-3),
    "M": Preset(8.0, (32, 32), (512, 320), (8, 6), False, (1, 1), (8, 2), 32, 2.0, 300, 250, None, 1e-3),
    "L": Preset(24.0, (32, 32), (512, 320), (8, 6), True, (1, 1), (8, 2), 32, 2.0, 500, 250, None, 1e-3),
    "XL": Preset(40.0, (32, 32), (512, 320), (8, 6), True, (1, 1), (8, 2), 64, 2.0, 1000, 250, None, 1e-3),
}
DEFAULT_PRESET = {"cpu": "XS", "cuda": "M"}


class Planner(ABC):
    """Derives one or more configurations (stages of a method) from a fingerprint. No I/O, no state.

    options: of the planner's own Options, as `--set` gives them; AutolmkError names what there is where one is unknown.
    """

    @dataclass(frozen=True)
    class Options:
        """A planner's own choices, typed; set by `--set key=value` when planning."""

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.options: Any = from_json(type(self).Options, dict(options or {}), path="--set")

    @abstractmethod
    def plan(
        self,
        fingerprint: Fingerprint,
        *,
        preset: str,
        device: str,
        memory_target_gb: float,
        spacing: Sequence[float] | None = None,
    ) -> dict[str, Configuration]:
        """Configurations by name, every number with its reason in `why`.

        preset: a key of PRESETS. device: cpu or cuda. memory_target_gb: GiB that training may take. spacing: (D,) mm of
        canonical array axes that overrides the planned one. AutolmkError where no configuration fits.
        """


def plan_dataset(
    fingerprint: Fingerprint,
    planners: Mapping[str, Planner],
    *,
    plans_name: str,
    device: str,
    preset: str | None = None,
    memory_target_gb: float | None = None,
    spacing: Sequence[float] | None = None,
    leave_out: bool = False,
) -> Plans:
    """Plans with the configurations of all `planners` (name -> planner), those of which most is expected first (see
    `method_order`; `why` has the reasons). Pure.

    preset None: XS on a CPU, M on CUDA. memory_target_gb None: the preset's. leave_out: planners that cannot plan this
    dataset are left out, all but the first; `why` says so. AutolmkError for an unknown preset or device, for a spacing
    that does not fit the images, and where nothing fits the memory target.
    """
    chosen, target = _demanded(device, preset, memory_target_gb)
    _check(fingerprint, spacing)
    configurations: dict[str, Configuration] = {}
    groups, why_groups = window_rules.slice_groups(fingerprint)
    unsuited: dict[str, str] = {}
    for name, planner in planners.items():
        try:
            planned = planner.plan(fingerprint, preset=chosen, device=device, memory_target_gb=target, spacing=spacing)
        except AutolmkError as error:
            if not leave_out or not configurations:
                raise
            unsuited[name] = f"left out: {error.problem}"
            continue
        twice = sorted(set(planned) & set(configurations))
        if twice:
            raise AutolmkError(
                f"two planners name a configuration alike: {', '.join(twice)}",
                found=f"planner {name}",
                remedy="plan with one of them at a time, under different -overwrite_plans_name",
            )
        configurations |= {name: _with_co_slice(c, groups) for name, c in planned.items()}
    configurations, why_order = method_order.in_order(fingerprint, configurations)
    default = {"cpu": "the default without CUDA", "cuda": "the default with CUDA"}[device]
    why = {
        "preset": default if preset is None else "as demanded",
        "memory_target_gb": "the preset's" if memory_target_gb is None else "as demanded",
        "sometimes_absent": "landmarks that some case states to be absent",
        "co_slice_groups": why_groups,
        **why_order,
        **unsuited,
    }
    return draft_plans(
        fingerprint,
        configurations,
        plans_name=plans_name,
        planner=",".join(name for name in planners if name not in unsuited),
        preset=chosen,
        device=device,
        memory_target_gb=target,
        why=why,
    )


def _with_co_slice(configuration: Configuration, groups: Sequence[SliceGroup]) -> Configuration:
    """Only where there are groups; with a reason where the planner gives none."""
    reason = "there are groups that annotators placed on one slice" if groups else "no landmarks share a slice"
    wanted = configuration.co_slice and len(groups) > 0
    return dataclasses.replace(configuration, co_slice=wanted, why={"co_slice": reason, **configuration.why})


def _demanded(device: str, preset: str | None, memory_target_gb: float | None) -> tuple[str, float]:
    """(preset, memory target in GiB). AutolmkError for what there is not."""
    if device not in DEVICES:
        raise AutolmkError(
            f"plans are made for cpu or cuda, not for {device!r}",
            expected="cpu or cuda",
            remedy="choose one with -device, or leave it out",
        )
    chosen = DEFAULT_PRESET[device] if preset is None else preset
    if chosen not in PRESETS:
        raise AutolmkError(
            f"there is no preset {chosen!r}{near(chosen, PRESETS)}",
            expected=", ".join(PRESETS),
            remedy="choose one with --preset, or leave it out",
        )
    target = PRESETS[chosen].memory_gb if memory_target_gb is None else memory_target_gb
    if not target > 0:
        raise AutolmkError(
            "the memory target must be positive",
            found=f"{target} GiB",
            expected="such as 8",
            remedy="correct -gpu_memory_target, or leave it out",
        )
    return chosen, target


def _check(fingerprint: Fingerprint, spacing: Sequence[float] | None) -> None:
    if not fingerprint.landmarks or fingerprint.n_cases < 1:
        raise AutolmkError(
            "there is nothing to plan for",
            found=f"{fingerprint.n_cases} cases, {len(fingerprint.landmarks)} landmarks",
            expected="at least one of each",
            remedy="run autolmk_check on the dataset, then extract the fingerprint again",
        )
    if spacing is None:
        return
    bounds = [
        (native / FINEST, max(native, extent / LEAST_VOXELS))
        for native, extent in zip(fingerprint.median_spacing, fingerprint.median_extent, strict=True)
    ]
    if len(spacing) != len(bounds) or not all(a <= s <= b for s, (a, b) in zip(spacing, bounds, strict=True)):
        allowed = ", ".join(f"{low:.4g} to {high:.4g}" for low, high in bounds)
        raise AutolmkError(
            "the target spacing does not fit the images",
            found=", ".join(f"{s:g}" for s in spacing),
            expected=f"{len(bounds)} positive numbers, one an axis in the order {AXES[fingerprint.ndim]}: {allowed}",
            remedy="correct -overwrite_target_spacing, or leave it out",
        )


def draft_plans(
    fingerprint: Fingerprint,
    configurations: Mapping[str, Configuration],
    *,
    device: str,
    plans_name: str = "draft",
    planner: str = "draft",
    preset: str = "XS",
    memory_target_gb: float = 0.0,
    why: Mapping[str, str] | None = None,
) -> Plans:
    """Plans around `configurations`, with what plans repeat from the fingerprint."""
    statistics = fingerprint.landmark_statistics
    return Plans(
        dataset_name=fingerprint.dataset_name,
        plans_name=plans_name,
        planner=planner,
        preset=preset,
        ndim=fingerprint.ndim,
        unit=fingerprint.unit,
        channel_names=tuple(fingerprint.channel_names),
        landmarks=tuple(fingerprint.landmarks),
        pairs=tuple(fingerprint.pairs),
        sometimes_absent=tuple(n for n in fingerprint.landmarks if n in statistics and statistics[n].n_absent > 0),
        device=device,
        memory_target_gb=memory_target_gb,
        configurations=dict(configurations),
        co_slice_groups=window_rules.slice_groups(fingerprint)[0],
        why=dict(why or {}),
    )


def memory_of(fingerprint: Fingerprint, configuration: Configuration, device: str, batch_size: int) -> MemoryEstimate:
    """What training `configuration` takes: its own trainer's network, codec and loss, counted on the meta device."""
    plans = draft_plans(fingerprint, {"draft": configuration}, device=device)
    return training_bytes(trainer_class(configuration.trainer)(plans, configuration), batch_size)


def usable_bytes(device: str, memory_target_gb: float) -> float:
    """Bytes of a memory target that plans may fill."""
    return USABLE[device] * memory_target_gb * GIB


def expected_seconds(configuration: Configuration, seconds_per_step: float) -> float:
    """How long training a fold takes: the steps at the measured pace and the share that validation may take, or the
    time budget, if that ends earlier."""
    schedule = configuration.schedule
    steps = schedule.epochs * schedule.iterations_per_epoch
    seconds = steps * seconds_per_step / (1 - schedule.validation_share)
    return seconds if schedule.max_seconds is None else min(seconds, schedule.max_seconds)


def planner_class(specification: str) -> type[Planner]:
    """The planner that a user named: a shipped one's name, file.py:Class or module:Class. Errors as of `load_class`."""
    found: type[Planner] = load_class("planner", specification, Planner)
    return found
