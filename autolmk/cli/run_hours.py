"""The estimate, before anything starts, of how long autolmk_run takes and how many trainings run at a time."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from functools import partial
from typing import TYPE_CHECKING

from autolmk.errors import AutolmkError

if TYPE_CHECKING:
    from autolmk.jobs.job import Place
    from autolmk.jobs.run_record import Record
    from autolmk.jobs.workflow import Request
    from autolmk.plans import Plans

TRAINING_BYTES = 2**30  # of a training on a CPU, beside what its plans say; 0.83 GB was measured, in 3D with preset XS
logger = logging.getLogger(__name__)


def hours_to_come(args: argparse.Namespace, request: Request) -> str:
    """The hours of training, said before planning: as the preset says, where it states a time."""
    from autolmk.data.splits import N_FOLDS
    from autolmk.methods.registry import PLANNERS
    from autolmk.planning.planner import PRESETS

    name = request.preset or ("XS" if args.scheduler is None and not devices(request.device) else "")
    each = PRESETS[name].max_seconds if name in PRESETS else None
    if each is None or request.max_seconds is not None or request.epochs is not None:
        return ""
    methods, folds = len(request.configurations or request.planner or PLANNERS), len(request.folds or "0" * N_FOLDS)
    waves = -(-methods * folds // slots(args, None, methods * folds))
    return (
        f"\n  expected: up to {waves * each / 3600:.2g} h of training here ({methods} methods x {folds} folds, "
        f"each up to {each / 60:.0f} min), beside preparation; shorter with --max-time such as 110m, "
        "fewer -c or fewer -f"
    )


def places(args: argparse.Namespace, n_jobs: int, bytes_a_job: int) -> list[Place]:
    """The places where trainings run: a GPU or some cores each, or the workers of a scheduler."""
    from autolmk.jobs.dispatch import local_places
    from autolmk.jobs.job import Place

    if args.scheduler is not None:
        return [Place(args.device, 1)]
    return local_places(devices(args.device), n_jobs, at_a_time=args.jobs, bytes_a_job=bytes_a_job)


def slots(args: argparse.Namespace, plans: Plans | None, n_jobs: int) -> int:
    """The number of trainings that run at a time, out of `n_jobs`."""
    if args.jobs is not None:
        return min(n_jobs, int(args.jobs))
    if args.scheduler is None:
        return len(places(args, n_jobs, training_bytes(plans)))
    from autolmk.jobs.dispatch import cluster_slots

    return min(n_jobs, cluster_slots(args.scheduler, gpu=args.device != "cpu"))


def expected(args: argparse.Namespace, request: Request, plans: Plans, record: Record) -> dict[str, float | None]:
    """Seconds that a training of each configuration takes: as the plans say, else from measured steps, which only
    this machine can tell; None where it cannot."""
    from autolmk.jobs.workflow import planned_seconds
    from autolmk.parallel import map_cases

    if record.shares is not None:
        return {}
    found = dict(record.expected)
    epochs = request.epochs
    for name in record.wanted.configurations:
        if name not in found and epochs is None:
            found[name] = planned_seconds(plans, name)
    unknown = {name: name for name in record.wanted.configurations if found.get(name) is None}
    if args.scheduler is None and not set(unknown) <= set(record.expected):
        logger.info("measuring how long a step of training takes")
        measured = dict(map_cases(partial(seconds_of_training, plans, epochs), unknown, workers=1))
        found |= {name: None if isinstance(value, AutolmkError) else value for name, value in measured.items()}
    return found


def seconds_of_training(plans: Plans, epochs: int | None, name: str) -> float | None:
    """Seconds to train a configuration with all its stages, from measured steps; None if the device cannot run it."""
    from autolmk.cli.plan_experiment import seconds_per_step
    from autolmk.planning.planner import expected_seconds

    total = 0.0
    for stage in plans.chain(name):
        configuration = plans.configuration(stage)
        if epochs is not None:
            schedule = dataclasses.replace(configuration.schedule, epochs=epochs, max_seconds=None)
            configuration = dataclasses.replace(configuration, schedule=schedule)
        pace = seconds_per_step(plans, configuration)
        if pace is None:
            return None
        total += expected_seconds(configuration, pace)
    return total


def devices(given: str) -> list[str]:
    """The GPUs that -device means, as -device takes each; none for the CPU. AutolmkError for what there is not."""
    if given == "cpu" or given.startswith("cuda:"):
        return [] if given == "cpu" else [given]
    import torch

    if given not in ("auto", "cuda"):
        from autolmk.networks.precision import choose_device

        if choose_device(given).type == "cpu":
            return []
    found = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    if given == "cuda" and not found:
        raise AutolmkError(
            "there is no CUDA device",
            found=f"-device {given}",
            expected="a GPU that torch can use",
            remedy="give -device cpu, or install torch with CUDA and a driver",
        )
    return found


def training_bytes(plans: Plans | None) -> int:
    """Bytes of memory of a training on a CPU."""
    return TRAINING_BYTES + (0 if plans is None else int(plans.memory_target_gb * 2**30))
