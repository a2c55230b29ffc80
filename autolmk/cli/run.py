"""autolmk_run: from a raw dataset to a chosen model, predictions of the test cases and a report, in one command."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from autolmk.cli import overview
from autolmk.cli.common import OK, SOME_FAILED, Parser, add_folders, folders_from, option, parser, run
from autolmk.errors import AutolmkError
from autolmk.jobs.run_record import STEPS
from autolmk.paths import DEFAULT_PLANS_NAME, dataset_name

if TYPE_CHECKING:
    from autolmk.jobs.job import Job, Place
    from autolmk.jobs.run_record import Record
    from autolmk.jobs.workflow import Request, Step
    from autolmk.plans import Plans

TRAINING_BYTES = 2**30  # of a training on a CPU, beside what its plans say; 0.83 GB was measured, in 3D with preset XS
logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit code 3 where single cases failed."""
    return run(_main, _parser(), argv)


def _parser() -> Parser:
    result = parser(
        "From a raw dataset to a chosen model, predictions and a report. Shows what it is going to do and how long "
        "that takes, skips what is done, and goes on where it was broken off when the same command is given again."
    )
    result.add_argument("dataset", metavar="DATASET", help="number or name, such as 1 or Dataset001_Name")
    option(result, "-c", "--configurations", nargs="+", metavar="NAME", help="to train; default: every method planned")
    option(result, "-f", "--folds", nargs="+", metavar="FOLD", help="0, 1, ... or all; default: all folds of the split")
    option(result, "--max-time", metavar="TIME", help="wall time of the whole, such as 110m or 8h; default: as planned")
    option(result, "--epochs", type=int, help="length of each training instead")
    option(result, "-o", "--output", type=Path, metavar="FOLDER", help="for the predictions of imagesTs")
    option(result, "-p", metavar="PLANS", default=DEFAULT_PLANS_NAME, help="name of the plans")
    option(result, "-pl", "--planner", nargs="+", metavar="METHOD", help="to plan; default: all shipped methods")
    option(result, "--trust-code", action="store_true", help="run trainers outside autolmk that the plans name")
    option(result, "--preset", help="size and length of training, as for planning")
    option(result, "-device", default="auto", help="auto (CUDA where there is any), cpu, cuda or cuda:N")
    option(result, "--seed", type=int, help="of all trainings; default: 0")
    option(result, "--jobs", type=int, metavar="N", help="at a time; default: one a GPU, or as cores and memory allow")
    option(result, "--scheduler", metavar="URL", help="tcp:// or tls://HOST:PORT of Dask, ray, or ray://HOST:PORT")
    option(result, "--until", choices=STEPS, default=STEPS[-1], help="the last step to do")
    option(
        result,
        "--dry-run",
        action="store_true",
        help="show times and commands, train nothing; plans first where there is no plan",
    )
    option(result, "--print-jobs", choices=("slurm",), help="print the jobs as a batch file, train nothing")
    add_folders(result)
    return result


def _main(args: argparse.Namespace) -> int:
    from autolmk.jobs.workflow import load_plans, with_trust

    request = _request(args)
    plans = load_plans(request)
    if plans is not None:
        request = with_trust(request, plans)
    if args.print_jobs or args.dry_run:
        return _only_show(args, request, plans)
    from autolmk.locks import exclusive
    from autolmk.serialization import make_folder

    if args.scheduler is not None:
        from autolmk.jobs.dispatch import check_scheduler

        check_scheduler(args.scheduler)
    folder = request.record_file.parent
    make_folder(folder)
    signal.signal(signal.SIGTERM, _terminated)
    with exclusive(folder):
        return _Running(args, request).all(plans)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _request(args: argparse.Namespace) -> Request:
    from autolmk.cli.train import seconds_of
    from autolmk.jobs.workflow import ALL, Request
    from autolmk.registry import absolute

    for name, least in (("jobs", 1), ("epochs", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise AutolmkError(f"--{name} must be {least} or more", found=value, remedy="correct it, or leave it out")
    wrong = [fold for fold in args.folds or () if fold != ALL and not fold.isdecimal()]
    if wrong:
        raise AutolmkError(f"there is no fold {wrong[0]!r}", expected="0, 1, ... or all", remedy="correct -f")
    if args.max_time is not None and args.epochs is not None:
        raise AutolmkError(
            "the length of training is given twice",
            found=f"--max-time {args.max_time}, --epochs {args.epochs}",
            remedy="give the wall time of the whole run, or the epochs of each training",
        )
    folders = folders_from(args)
    return Request(
        dataset_name(args.dataset, folders), folders, args.p,
        None if args.output is None else args.output.expanduser().absolute(), args.device,
        None if args.configurations is None else tuple(args.configurations),
        None if args.folds is None else tuple(args.folds),
        None if args.planner is None else tuple(map(absolute, args.planner)),
        args.preset, None if args.max_time is None else seconds_of(args.max_time), args.epochs, args.seed,
        args.trust_code,
    )  # fmt: skip


class _Running:
    """One call of the command: the steps in order, with what is known of the run."""

    def __init__(self, args: argparse.Namespace, request: Request) -> None:
        self.args, self.request = args, request
        self.last = STEPS.index(args.until)
        self.some_failed = False

    def all(self, plans: Plans | None) -> int:
        """Every step up to the last one asked for; the exit code."""
        from autolmk.jobs.run_record import load_record
        from autolmk.jobs.workflow import with_trust

        earlier = load_record(self.request.record_file, self.request.plans_name)
        if plans is None:
            print(f"{overview.outlook(self.request)}{self._hours_to_come()}", flush=True)
        plans = self._prepare(plans, earlier)
        self.request = with_trust(self.request, plans)
        record = self._decide(plans, earlier)
        if self.last >= STEPS.index("train"):
            self._train_and_choose(plans, record)
        print(overview.where_all_is(self.request, self.last), flush=True)
        return SOME_FAILED if self.some_failed else OK

    def _hours_to_come(self) -> str:
        """Of training before planning: by the preset, where it says a time."""
        from autolmk.planner import PRESETS
        from autolmk.registry import PLANNERS
        from autolmk.splits import N_FOLDS

        request = self.request
        name = request.preset or ("XS" if self.args.scheduler is None and not devices(request.device) else "")
        each = PRESETS[name].max_seconds if name in PRESETS else None
        if each is None or request.max_seconds is not None or request.epochs is not None:
            return ""
        methods, folds = len(request.configurations or request.planner or PLANNERS), len(request.folds or "0" * N_FOLDS)
        waves = -(-methods * folds // self.slots(None, methods * folds))
        return (
            f"\n  expected: up to {waves * each / 3600:.2g} h of training here ({methods} methods x {folds} folds, "
            f"each up to {each / 60:.0f} min), beside preparation; shorter with --max-time such as 110m, "
            "fewer -c or fewer -f"
        )

    def _prepare(self, plans: Plans | None, earlier: Record | None) -> Plans:
        from autolmk.jobs.workflow import load_plans, prepare

        step = prepare(self.request, plans)
        if plans is not None and step.done(earlier):
            logger.info("prepare: done already, and nothing has changed since")
            return plans
        self._do(step)
        made = load_plans(self.request)
        assert made is not None
        return made

    def _decide(self, plans: Plans, earlier: Record | None) -> Record:
        """What is trained, and how time is shared out."""
        from autolmk.jobs.run_record import decided
        from autolmk.jobs.workflow import prepare, wanted

        asked, file = wanted(self.request, plans), self.request.record_file
        n, begun = len(asked.trainings()), _begun(self.request, plans)
        record = decided(earlier, asked, lambda: self.slots(plans, n), begun=begun, file=file)
        return self._kept(record, done={**record.done, "prepare": prepare(self.request, plans).stamp()})

    def _train_and_choose(self, plans: Plans, record: Record) -> None:
        from autolmk.jobs.workflow import after_training, trainings

        jobs = trainings(self.request, plans, record)
        left = sum(not job.done for job in jobs)
        if left:
            record = self._kept(record, expected=self.expected(plans, record))
            jobs = trainings(self.request, plans, record)
        steps = after_training(self.request, plans, record.wanted)[: self.last - 1]
        slots = self.slots(plans, left) if left else 1
        print(overview.overview(self.request, record, jobs, steps, ready=True, slots=slots), flush=True)
        self._run(jobs, "training", _bytes(plans))
        for step in steps:
            record = self._after(step, record)

    def _after(self, step: Step, record: Record) -> Record:
        """A step after training, unless it is done or does not apply."""
        if step.job is None:
            logger.info("%s: left out, as %s", step.name, step.absent)
            return record
        if step.done(record):
            logger.info("%s: done already, and nothing has changed since", step.name)
            return record
        stamp, job = step.stamp(), step.job
        if step.name == "predict" and record.begun.get(step.name) == stamp:
            job = dataclasses.replace(job, command=(*job.command, "--continue_prediction"))
        record = self._kept(record, begun={**record.begun, step.name: stamp})
        self._do(dataclasses.replace(step, job=job))
        return self._kept(record, done={**record.done, step.name: stamp})

    def _kept(self, record: Record, **changes: Any) -> Record:
        from autolmk.jobs.run_record import save_record

        changed = dataclasses.replace(record, **changes)
        save_record(self.request.record_file, self.request.plans_name, changed)
        return changed

    def _do(self, step: Step) -> None:
        assert step.job is not None
        print(f"\n{step.name}: {overview.DOES[step.name]}", flush=True)
        self._run([dataclasses.replace(step.job, outputs=())], step.name)  # what is there is out of date

    def _run(self, jobs: Sequence[Job], label: str, bytes_a_job: int = TRAINING_BYTES) -> None:
        from autolmk.jobs.dispatch import run_jobs

        left = [job for job in jobs if not job.done]
        if len(left) < len(jobs):
            logger.info("%s: %d of %d done already", label, len(jobs) - len(left), len(jobs))
        if left:
            results = run_jobs(
                left,
                places=self._places(len(left), bytes_a_job),
                label=label,
                folder=self.request.record_file.parent,
                scheduler=self.args.scheduler,
                echo=lambda text: print(text, end="", flush=True),
            )
            self.some_failed |= any(result.code == SOME_FAILED for result in results)

    def _places(self, n_jobs: int, bytes_a_job: int) -> list[Place]:
        from autolmk.jobs.dispatch import local_places
        from autolmk.jobs.job import Place

        if self.args.scheduler is not None:
            return [Place(self.args.device, 1)]
        return local_places(devices(self.args.device), n_jobs, at_a_time=self.args.jobs, bytes_a_job=bytes_a_job)

    def slots(self, plans: Plans | None, n_jobs: int) -> int:
        """Of `n_jobs` trainings, how many run at a time."""
        if self.args.jobs is not None:
            return min(n_jobs, int(self.args.jobs))
        if self.args.scheduler is None:
            return len(self._places(n_jobs, _bytes(plans)))
        from autolmk.jobs.dispatch import cluster_slots

        return min(n_jobs, cluster_slots(self.args.scheduler, gpu=self.args.device != "cpu"))

    def expected(self, plans: Plans, record: Record) -> dict[str, float | None]:
        """Seconds that a training of each configuration takes: as the plans say, else from measured steps, which only
        this machine can tell; None where it cannot."""
        from autolmk.jobs.workflow import planned_seconds
        from autolmk.parallel import map_cases

        if record.shares is not None:
            return {}
        found = dict(record.expected)
        epochs = self.request.epochs
        for name in record.wanted.configurations:
            if name not in found and epochs is None:
                found[name] = planned_seconds(plans, name)
        unknown = {name: name for name in record.wanted.configurations if found.get(name) is None}
        if self.args.scheduler is None and not set(unknown) <= set(record.expected):
            logger.info("measuring how long a step of training takes")
            measured = dict(map_cases(partial(seconds_of_training, plans, epochs), unknown, workers=1))
            found |= {name: None if isinstance(value, AutolmkError) else value for name, value in measured.items()}
        return found


def seconds_of_training(plans: Plans, epochs: int | None, name: str) -> float | None:
    """Of a configuration with all its stages, from measured steps; None where the device cannot run them now."""
    from autolmk.cli.plan_experiment import seconds_per_step
    from autolmk.planner import expected_seconds

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
    """The GPUs that -device means, as -device takes each; none for the CPU."""
    if given == "cpu" or given.startswith("cuda:"):
        return [] if given == "cpu" else [given]
    import torch

    found = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    if given == "cuda" and not found:
        raise AutolmkError(
            "there is no CUDA device",
            found=f"-device {given}",
            expected="a GPU that torch can use",
            remedy="give -device cpu, or install torch with CUDA and a driver",
        )
    return found


def _bytes(plans: Plans | None) -> int:
    """Of a training on a CPU."""
    return TRAINING_BYTES + (0 if plans is None else int(plans.memory_target_gb * 2**30))


def _begun(request: Request, plans: Plans) -> bool:
    """Whether anything of these plans was trained."""
    from autolmk.jobs.workflow import fold_folder
    from autolmk.registry import has_checkpoints

    return any(has_checkpoints(fold_folder(request, plans, name, "0").parent) for name in plans.configurations)


def _plan_now(args: argparse.Namespace, request: Request) -> int:
    """Check, fingerprint and plan, without preprocessing: cheap, and without it no time is known. The exit code."""
    from autolmk.cli import plan_and_preprocess
    from autolmk.jobs.workflow import prepare

    job = prepare(request, None).job
    assert job is not None
    logger.info("%s is not planned yet: it is checked and planned now; nothing is trained", request.dataset)
    with contextlib.redirect_stdout(sys.stderr):
        return plan_and_preprocess.main([*job.command[1:], "--no_preprocessing", "-device", args.device])


def _only_show(args: argparse.Namespace, request: Request, plans: Plans | None) -> int:
    """The plan and its commands, or a batch file; nothing is trained, and no run is recorded."""
    from autolmk.jobs.run_record import decided, load_record
    from autolmk.jobs.workflow import as_earlier, known_before, load_plans, prepare

    earlier = load_record(request.record_file, request.plans_name)
    request = as_earlier(request, earlier)
    if plans is None and (args.dry_run or known_before(request, plans) is None):
        code = _plan_now(args, request)
        if code not in (OK, SOME_FAILED):
            return code
        plans = load_plans(request)
    running = _Running(args, request)
    before, asked = prepare(request, plans), known_before(request, plans)
    if asked is None:
        raise AutolmkError(
            "it is not known which folds there will be",
            file=request.preprocessed,
            expected="preprocessed cases, or dataset_fingerprint.json",
            remedy=f"name folds with -f, or run autolmk_run {args.dataset} --until prepare first",
        )
    n = len(asked.trainings())
    slots = min(args.jobs or n, n) if args.print_jobs else running.slots(plans, n)
    begun = plans is not None and _begun(request, plans)
    try:
        record = decided(earlier, asked, lambda: slots, begun=begun, file=request.record_file)
    except AutolmkError as error:
        if not args.dry_run:
            raise
        logger.warning("autolmk_run would refuse this: %s", error)
        record = decided(None, asked, lambda: slots, begun=False, file=request.record_file)
    if plans is not None:
        record = dataclasses.replace(record, expected=running.expected(plans, record))
    return _shown(args, request, plans, record, before if plans is None or not before.done(earlier) else None, slots)


def _shown(
    args: argparse.Namespace, request: Request, plans: Plans | None, record: Record, before: Step | None, slots: int
) -> int:
    """before: preparation, None where it is done."""
    from autolmk.jobs.workflow import after_training, trainings

    last = STEPS.index(args.until)
    jobs = trainings(request, plans, record) if last else []
    steps = after_training(request, plans, record.wanted)[: max(0, last - 1)]
    first = None if before is None else before.job
    left = [job for job in jobs if not job.done]
    rest = [step.job for step in steps if step.job is not None and not step.done(record)]
    shown = overview.overview(request, record, jobs, steps, ready=before is None, slots=slots)
    if args.print_jobs:
        print(shown, file=sys.stderr)
        print(_batch_file(request, plans, first, left, rest), end="")
    else:
        print(shown)
        print(f"\n{overview.commands([first, *left, *rest])}")
    return OK


def _batch_file(
    request: Request, plans: Plans | None, prepare: Job | None, trainings: Sequence[Job], rest: Sequence[Job]
) -> str:
    from autolmk.jobs.slurm import batch_file

    gpu = request.device.startswith("cuda") or (
        request.device == "auto" and plans is not None and plans.device == "cuda"
    )
    title = f"autolmk_run {request.dataset}, {request.plans_name}"
    logs = request.log("").parent
    return batch_file(title, prepare, trainings, rest, device=request.device, gpu=gpu, logs=logs)
