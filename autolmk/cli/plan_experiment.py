"""autolmk_plan_experiment: plans.json from a dataset's fingerprint, with a reason for every number."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autolmk.cli.arguments import Parser, add_dataset, add_device, add_folders, add_plans, option, parser
from autolmk.cli.common import OK, folders_from, run, setting
from autolmk.cli.extract_fingerprint import DATASETS
from autolmk.paths import DEFAULT_PLANS_NAME, Folders, dataset_name

if TYPE_CHECKING:
    from autolmk.methods.trainer import Trainer
    from autolmk.planning.planner import Planner
    from autolmk.plans import Configuration, Plans

PRESETS = ("XS", "S", "M", "L", "XL")
BESIDE_PLANS = ("dataset", "dataset_fingerprint", "splits_final")  # .json, in the same folder
LONG_STEP = 3.0  # seconds, from which one step is measure enough
MEASURED_STEPS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_plan_experiment`; return its exit code."""
    result = parser(
        "Plan datasets: derive from each fingerprint how to train, and say for every number why it is what it is.",
        usage="autolmk_plan_experiment DATASET ... [options]",
        examples=(
            "autolmk_plan_experiment 1",
            "autolmk_plan_experiment 1 -pl heatmap --preset S -p smallPlans",
        ),
    )
    add_dataset(result, several=True, kind=DATASETS)
    add_planning(result)
    add_folders(result)
    return run(_main, result, argv)


def add_planning(result: Parser) -> None:
    """Options for what plans depend on beside the fingerprint."""
    result.under("planning")
    add_plans(
        result, "-overwrite_plans_name", dest="overwrite_plans_name", default=DEFAULT_PLANS_NAME,
        help="name that the plans get",
    )  # fmt: skip
    option(
        result, "-pl", "--planner", also=("--planners",), nargs="+", metavar="METHOD",
        help="methods by name, or file.py:Class or module:Class of your own; default: every method that autolmk has",
    )  # fmt: skip
    option(
        result, "--set", action="append", metavar="KEY=VALUE",
        help="an option of a planner, such as weights=own; may be repeated",
    )  # fmt: skip
    option(
        result, "--preset", metavar="SIZE",
        help=f"size of the network and length of training, {', '.join(PRESETS)}; default: M with CUDA, XS without",
    )  # fmt: skip
    option(
        result, "-gpu_memory_target", type=float, metavar="GIB",
        help="GiB of memory that training may take; default: as the preset says",
    )  # fmt: skip
    option(
        result, "-overwrite_target_spacing", type=float, nargs="+", metavar="MM",
        help="voxel size to resample to, in mm, one number for each array axis (z y x)",
    )  # fmt: skip
    add_device(result)


def _main(args: argparse.Namespace) -> int:
    folders = folders_from(args)
    for name in [dataset_name(given, folders) for given in args.dataset]:
        plan(name, args, folders)
    return OK


def plan(name: str, args: argparse.Namespace, folders: Folders) -> Plans:
    """Plan one dataset whose fingerprint is in the preprocessed folder; write and print the plans."""
    from autolmk.errors import AutolmkError
    from autolmk.fingerprint import FILE_NAME, Fingerprint
    from autolmk.methods.registry import PLANNERS
    from autolmk.planning.planner import PlanRequest, plan_dataset

    folder = folders.preprocessed / name
    if not (folder / FILE_NAME).is_file():
        raise AutolmkError(
            "the dataset has no fingerprint yet",
            file=folder / FILE_NAME,
            found=f"nothing in {folders.preprocessed}",
            remedy=f"run autolmk_extract_fingerprint -d {name}, or autolmk_plan_and_preprocess -d {name} for all steps",
        )
    _require_place(folder, args.overwrite_plans_name)
    request = PlanRequest.of(
        Fingerprint.load(folder / FILE_NAME),
        device_type(args.device),
        preset=args.preset,
        memory_target_gb=args.gpu_memory_target,
        spacing=args.overwrite_target_spacing,
    )
    used = planners(args.planner or tuple(PLANNERS), args.set or ())
    plans = plan_dataset(request, used, plans_name=args.overwrite_plans_name, leave_out=args.planner is None)
    file = folder / f"{plans.plans_name}.json"
    plans.save(file)
    print(description(plans))
    for configuration_name, configuration in plans.configurations.items():
        print(f"{configuration_name}: {expected_time(plans, configuration)}")
    print(f"plans and the reasons for every number: {folders.preprocessed.describe(file)}")
    return plans


def _require_place(folder: Path, plans_name: str) -> None:
    """AutolmkError where plans of this name would replace another file beside them. Plans that are damaged may be
    replaced."""
    from autolmk.errors import AutolmkError
    from autolmk.files.serialization import read_json

    file = folder / f"{plans_name}.json"
    taken = plans_name.casefold() in BESIDE_PLANS
    if not taken and file.is_file():
        try:
            value = read_json(file)
        except AutolmkError:
            return
        taken = not (isinstance(value, dict) and "planner" in value)
    if taken:
        raise AutolmkError(
            f"plans cannot be called {plans_name!r}: another file has that name",
            file=file,
            remedy="choose another name with -p",
        )


def planners(names: Sequence[str], settings: Sequence[str]) -> dict[str, Planner]:
    """The planners by name; each setting goes to the planners that know its key. AutolmkError where none does, or for a
    value that there is not; both name what there is.
    """
    import dataclasses

    from autolmk.errors import AutolmkError
    from autolmk.files.serialization import near
    from autolmk.methods.registry import label
    from autolmk.planning.planner import planner_class

    alike = Counter(map(label, dict.fromkeys(names)))  # classes of several modules may share a name
    classes = {label(name) if alike[label(name)] == 1 else name: planner_class(name) for name in names}
    known = {name: [f.name for f in dataclasses.fields(cls.Options)] for name, cls in classes.items()}
    values = dict(map(setting, settings))
    for key in values:
        if not any(key in keys for keys in known.values()):
            offered = [f"{', '.join(keys)} ({name})" for name, keys in known.items() if keys]
            raise AutolmkError(
                f"--set: no planner has an option {key!r}{near(key, [k for keys in known.values() for k in keys])}",
                found=f"planners {', '.join(classes)}",
                expected="; ".join(offered) or "none: these planners have no options",
                remedy="correct the key, or choose another planner with -pl; options of trainers and values of the "
                "configuration are set when training: autolmk_train --set",
            )
    chosen = {name: {key: value for key, value in values.items() if key in known[name]} for name in classes}
    return {name: cls(chosen[name]) if chosen[name] else cls() for name, cls in classes.items()}


def device_type(given: str) -> str:
    """cpu or cuda. auto: CUDA where there is any."""
    import torch

    if given == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return given.partition(":")[0]


def description(plans: Plans) -> str:
    """The parts of the plans that a user wants to see, a line each."""
    reason = plans.why.get("preset", "")
    lines = [
        f"{plans.dataset_name}: preset {plans.preset} ({reason}), {plans.memory_target_gb:g} GiB on {plans.device}"
    ]
    if plans.unit == "px":
        lines.append("the images have no physical size: lengths and errors are in pixels")
    lines += expected_order(plans)
    for name, c in plans.configurations.items():
        spacing, patch = " x ".join(f"{s:.4g}" for s in c.spacing), " x ".join(map(str, c.patch_size))
        features = ", ".join(map(str, c.architecture.features_per_stage))
        stride = " x ".join(map(str, c.architecture.output_stride))
        low, high = c.augmentation.scale
        turned = ", ".join(f"{r:g}" for r in c.augmentation.rotation)
        lines += [
            f"{name}: trainer {c.trainer}",
            f"  spacing       {spacing} {plans.unit}: {c.why.get('spacing', '')}",
            f"  window        {patch} ({c.windows.kind}), batch {c.batch_size}: {c.why.get('patch_size', '')}",
            f"  network       features {features}; output stride {stride}{_sees(c)}",
            f"  heatmaps      {len(plans.landmarks)}, sigma {' x '.join(f'{s:.3g}' for s in c.sigma)} {plans.unit}",
            f"  augmentation  rotation {turned} degrees, scale {low:g} to {high:g}",
            f"  mirroring     {c.why.get('augmentation.mirror_axis', '')}",
        ]
    return "\n".join(lines)


def _sees(configuration: Configuration) -> str:
    said = configuration.why.get("architecture.receptive_field")
    return "" if said is None else f"; {said}"


def expected_order(plans: Plans, names: Collection[str] | None = None) -> list[str]:
    """Tell which of the methods `names` (None: all) is expected to err least, and why, a line each; no line where the
    plans do not say, or for a single method.
    """
    reasons = [why for key, why in plans.why.items() if key.startswith("order.")]
    found = [why for why in reasons if names is None or why.partition(":")[0] in names]
    if len(found) < 2:
        return []
    return ["methods, of which most is expected first:", *(f"  {k}. {why}" for k, why in enumerate(found, start=1))]


def expected_time(plans: Plans, configuration: Configuration) -> str:
    """Say how long a fold will take, by steps timed on this machine if it has the device."""
    from autolmk.fold.log import duration
    from autolmk.planning.planner import expected_seconds

    schedule = configuration.schedule
    steps = f"{schedule.epochs} epochs of {schedule.iterations_per_epoch} steps"
    if schedule.max_seconds is not None:
        steps = f"a time budget of {duration(schedule.max_seconds)}, at most {steps}"
    pace = seconds_per_step(plans, configuration)
    if pace is None:
        return f"training a fold: {steps}; the duration cannot be measured on this machine"
    return (
        f"training a fold: about {duration(expected_seconds(configuration, pace))} ({steps}; {pace:.2g} s a step here)"
    )


def seconds_per_step(plans: Plans, configuration: Configuration) -> float | None:
    """Seconds of a training step on random data, without loading; None where the device is missing or its memory too
    small."""
    import psutil
    import torch

    from autolmk.methods.trainer import trainer_class
    from autolmk.planning.memory import GIB

    if plans.device == "cuda" and not torch.cuda.is_available():
        return None
    if plans.device == "cpu" and plans.memory_target_gb * GIB > psutil.virtual_memory().available:
        return None
    try:
        return _measured(trainer_class(configuration.trainer)(plans, configuration))
    except torch.OutOfMemoryError:  # of the GPU: a smaller one than was planned for, or others use it
        return None
    finally:
        if plans.device == "cuda":
            torch.cuda.empty_cache()  # preprocessing, which may follow, needs none of it


def _measured(trainer: Trainer) -> float:
    """Seconds of the fastest of a few of training's own steps."""
    import torch

    from autolmk.planning.memory import random_batch
    from autolmk.training.schedule import Limits
    from autolmk.training.state import Run

    plans, configuration = trainer.plans, trainer.configuration
    device = torch.device(plans.device)
    limits = Limits.of(configuration.schedule, epochs=None, max_seconds=None)
    run = Run(trainer, Path(), device, 0, limits, 0)  # writes nothing unless it is told to save
    batch: dict[str, Any] = {
        **random_batch(trainer, configuration.batch_size, device="cpu"),
        "cases": ["random"] * configuration.batch_size,
    }
    times: list[float] = []
    while len(times) <= MEASURED_STEPS and (not times or times[0] < LONG_STEP):
        start = time.perf_counter()
        run.step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
