"""autolmk_run: from a raw dataset to a chosen model, predictions of the test cases and a report, in one command."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from autolmk.cli.common import OK, SOME_FAILED, Parser, add_folders, folders_from, option, parser, run
from autolmk.errors import AutolmkError, counted
from autolmk.paths import DEFAULT_PLANS_NAME, dataset_name
from autolmk.run_record import RESERVED, STEPS

if TYPE_CHECKING:
    from autolmk.jobs import Job, Place, Result
    from autolmk.plans import Plans
    from autolmk.run_record import Record, Wanted
    from autolmk.workflow import Request, Step

DOES = {
    "prepare": "check, fingerprint, plan, preprocess",
    "find_best": "compare, combine, postprocess, error radius",
    "predict": "landmarks of the test cases",
    "evaluate": "predictions against annotations",
    "report": "one HTML file",
}
TRAINING_BYTES = 2**30  # of a training process on a CPU, beside what its plans say
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
    option(result, "--preset", help="size and length of training, as for planning")
    option(result, "-device", default="auto", help="auto (CUDA where there is any), cpu, cuda or cuda:N")
    option(result, "--seed", type=int, help="of all trainings; default: 0")
    option(result, "--jobs", type=int, metavar="N", help="at a time; default: one a GPU, or as cores and memory allow")
    option(result, "--scheduler", metavar="URL", help="tcp://HOST:PORT of a Dask scheduler, ray, or ray://HOST:PORT")
    option(result, "--until", choices=STEPS, default=STEPS[-1], help="the last step to do")
    option(result, "--dry-run", action="store_true", help="show the plan and the commands, do nothing")
    option(result, "--print-jobs", choices=("slurm",), help="print the jobs as a batch file, do nothing")
    add_folders(result)
    return result


def _main(args: argparse.Namespace) -> int:
    from autolmk.workflow import load_plans

    request = _request(args)
    plans = load_plans(request)
    if args.print_jobs or args.dry_run:
        return _only_show(args, request, plans)
    from autolmk.serialization import make_folder
    from autolmk.training.signals import exclusive

    if args.scheduler is not None:
        from autolmk.dispatch import check_scheduler

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
    from autolmk.registry import absolute
    from autolmk.workflow import ALL, Request

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
    )  # fmt: skip


class _Running:
    """One call of the command: the steps in order, and what it learns on the way."""

    def __init__(self, args: argparse.Namespace, request: Request) -> None:
        self.args, self.request = args, request
        self.last = STEPS.index(args.until)
        self.some_failed = False

    def all(self, plans: Plans | None) -> int:
        """Every step up to the last one asked for; the exit code."""
        if plans is None:
            print(_outlook(self.request), flush=True)
        plans = self._prepare(plans)
        if self.last >= STEPS.index("train"):
            self._train_and_choose(plans)
        print(_where_all_is(self.request, self.last), flush=True)
        return SOME_FAILED if self.some_failed else OK

    def _prepare(self, plans: Plans | None) -> Plans:
        from autolmk.run_record import load_record, save_record
        from autolmk.workflow import load_plans, prepare

        step = prepare(self.request, plans)
        file, name = self.request.record_file, self.request.plans_name
        record = load_record(file, name)
        if plans is None or not step.done(record):
            self._do(step)
            plans = load_plans(self.request)
            assert plans is not None
        else:
            logger.info("prepare: done already, and nothing has changed since")
        self._record = record
        self._prepared = prepare(self.request, plans).stamp()
        if record is not None:
            self._record = dataclasses.replace(record, done={**record.done, "prepare": self._prepared})
            save_record(file, name, self._record)
        return plans

    def _train_and_choose(self, plans: Plans) -> None:
        from autolmk.run_record import decided, save_record
        from autolmk.workflow import after_training, trainings, wanted

        asked = wanted(self.request, plans)
        self._record = decided(
            self._record,
            asked,
            self.slots(plans, len(asked.trainings())),
            begun=_begun(self.request, plans),
            file=self.request.record_file,
        )
        self._record = dataclasses.replace(self._record, done={**self._record.done, "prepare": self._prepared})
        save_record(self.request.record_file, self.request.plans_name, self._record)
        expected = self.expected(plans, asked)
        jobs = trainings(self.request, plans, self._record, expected)
        steps = after_training(self.request, plans, asked)
        print(_overview(self.request, self._record, True, jobs, steps[: self.last - 1]), flush=True)
        self._run(jobs, "training", _bytes(plans))
        for step in steps[: self.last - 1]:
            self._after(step)

    def _after(self, step: Step) -> None:
        """A step after training, unless it is done or does not apply."""
        from autolmk.run_record import save_record

        assert self._record is not None
        if step.job is None:
            logger.info("%s: left out, as %s", step.name, step.absent)
            return
        stamp = step.stamp()
        if step.done(self._record):
            logger.info("%s: done already, and nothing has changed since", step.name)
            return
        if step.name == "predict" and self._record.begun.get("predict") == stamp:
            job = dataclasses.replace(step.job, command=(*step.job.command, "--continue_prediction"))
            step = dataclasses.replace(step, job=job)
        file, name = self.request.record_file, self.request.plans_name
        self._record = dataclasses.replace(self._record, begun={**self._record.begun, step.name: stamp})
        save_record(file, name, self._record)
        self._do(step)
        self._record = dataclasses.replace(self._record, done={**self._record.done, step.name: stamp})
        save_record(file, name, self._record)

    def _do(self, step: Step) -> None:
        assert step.job is not None
        print(f"\n{step.name}: {DOES[step.name]}", flush=True)
        self._run([dataclasses.replace(step.job, outputs=())], step.name)  # what is there is out of date

    def _run(self, jobs: Sequence[Job], label: str, bytes_a_job: int = TRAINING_BYTES) -> list[Result]:
        from autolmk.dispatch import run_jobs

        results = run_jobs(
            jobs,
            places=self._places(len([job for job in jobs if not job.done]), bytes_a_job),
            label=label,
            folder=self.request.record_file.parent,
            scheduler=self.args.scheduler,
            echo=lambda text: print(text, end="", flush=True),
        )
        self.some_failed |= any(result.code == SOME_FAILED for result in results)
        return results

    def _places(self, n_jobs: int, bytes_a_job: int) -> list[Place]:
        from autolmk.dispatch import local_places
        from autolmk.jobs import Place

        if self.args.scheduler is not None:
            return [Place(self.args.device, 1)]
        return local_places(devices(self.args.device), n_jobs, at_a_time=self.args.jobs, bytes_a_job=bytes_a_job)

    def slots(self, plans: Plans | None, n_jobs: int) -> int:
        """Trainings at a time, by which time is shared out."""
        if self.args.jobs is not None or self.args.scheduler is None:
            return min(n_jobs, self.args.jobs or len(self._places(n_jobs, _bytes(plans))))
        from autolmk.dispatch import cluster_slots

        return min(n_jobs, cluster_slots(self.args.scheduler, gpu=self.args.device != "cpu"))

    def expected(self, plans: Plans | None, asked: Wanted) -> dict[str, float | None]:
        """Seconds that a training of each configuration takes, where the plans say it."""
        from autolmk.workflow import planned_seconds

        if self.request.epochs is not None or plans is None:
            return dict.fromkeys(asked.configurations)
        return {name: planned_seconds(plans, name) for name in asked.configurations}


def devices(given: str) -> list[str]:
    """The GPUs that -device means, as -device takes each; none for the CPU."""
    if given == "cpu" or given.startswith("cuda:"):
        return [] if given == "cpu" else [given]
    import torch

    return [f"cuda:{k}" for k in range(torch.cuda.device_count())]


def _bytes(plans: Plans | None) -> int:
    """Of a training on a CPU."""
    return TRAINING_BYTES + (0 if plans is None else int(plans.memory_target_gb * 2**30))


def _begun(request: Request, plans: Plans) -> bool:
    """Whether anything of these plans was trained."""
    from autolmk.registry import has_checkpoints
    from autolmk.workflow import fold_folder

    return any(has_checkpoints(fold_folder(request, plans, name, "0").parent) for name in plans.configurations)


# -- what is shown ----------------------------------------------------------------------------------------------------


def _outlook(request: Request) -> str:
    """The plan before the dataset is planned, as far as it is known."""
    configurations = "every method that the planner offers"
    if request.configurations is not None:
        configurations = ", ".join(request.configurations)
    folds = "all folds" if request.folds is None else f"fold {', '.join(request.folds)}"
    rows = [(step, DOES.get(step, f"{configurations}; {folds}"), _kept(request, step)) for step in STEPS]
    return f"{request.dataset}: not planned yet; these steps, with their numbers once it is\n{_table(rows)}"


def _kept(request: Request, step: str) -> str:
    from autolmk.runlog import duration

    if request.max_seconds is None:
        return "as planned" if step == "train" else ""
    share = RESERVED.get(step, 1 - sum(RESERVED.values()))
    return f"at most {duration(share * request.max_seconds)}"


def _overview(
    request: Request,
    record: Record,
    ready: bool,
    jobs: Sequence[Job],
    steps: Sequence[Step],
) -> str:
    from autolmk.runlog import duration

    asked, done = record.wanted, sum(job.done for job in jobs)
    what = f"{', '.join(asked.configurations)}; fold {', '.join(asked.folds)}: {counted(len(jobs), 'training')}"
    times = [job.seconds for job in jobs if not job.done]
    if record.shares is not None:
        what += f" in {counted(record.shares.waves, 'wave')}"
        left = f"{duration(record.shares.training)} each"
    elif None in times:
        left = "as the plans say" if request.epochs is None else f"{request.epochs} epochs each"
    else:
        left = f"{duration(sum(t for t in times if t is not None))} of training"
    rows = [
        ("prepare", DOES["prepare"], "done" if ready else _kept(request, "prepare")),
        ("train", what, "done" if not times else left),
    ]
    if done and times:
        rows[-1] = ("train", f"{what}, {done} of them done", left)
    for step in steps:
        state = "left out" if step.job is None else "done" if step.done(record) else _kept(request, step.name)
        rows.append((step.name, step.absent if step.job is None else DOES[step.name], state))
    total = "" if request.max_seconds is None else f", {duration(request.max_seconds)} in all"
    return f"\n{request.dataset}, {request.plans_name}{total}\n{_table(rows)}"


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    rows = [("step", "what", "time"), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _where_all_is(request: Request, last: int) -> str:
    from autolmk.workflow import BEST, REPORT

    places = [
        ("plans, with their reasons", request.plans_file),
        ("models, a folder each", request.results),
        ("the chosen model", request.results / BEST),
        ("predictions", request.predictions),
        ("evaluation", request.predictions / "evaluation"),
        ("report", request.results / REPORT),
        ("logs", request.log("").parent),
    ]
    lines = [f"  {name:26}  {place}" for name, place in places if place.exists()]
    return "\n".join([f"\n{request.dataset}: everything is done up to {STEPS[last]}.", *lines])


def _only_show(args: argparse.Namespace, request: Request, plans: Plans | None) -> int:
    """The plan and its commands, or a batch file; nothing is done or written."""
    from autolmk.run_record import decided, load_record
    from autolmk.workflow import after_training, known_before, prepare, trainings

    running, earlier = _Running(args, request), load_record(request.record_file, request.plans_name)
    step, asked = prepare(request, plans), known_before(request, plans)
    ready = plans is not None and step.done(earlier)
    if asked is None:
        if args.print_jobs:
            raise AutolmkError(
                "the jobs cannot be listed yet, as the dataset is not prepared",
                remedy=f"name configurations and folds with -c and -f, or run autolmk_run {args.dataset} --until "
                "prepare first",
            )
        print(f"{_outlook(request)}\n\n{_commands([step.job])}")
        return OK
    n = len(asked.trainings())
    slots = min(args.jobs or n, n) if args.print_jobs else running.slots(plans, n)
    begun = plans is not None and _begun(request, plans)
    record = decided(earlier, asked, slots, begun=begun, file=request.record_file)
    expected = running.expected(plans, asked)
    jobs, steps = trainings(request, plans, record, expected), after_training(request, plans, asked)
    jobs, steps = (jobs if running.last else []), steps[: max(0, running.last - 1)]
    left = [job for job in jobs if not job.done]
    rest = [other.job for other in steps if other.job is not None and not other.done(record)]
    if args.print_jobs:
        print(_batch_file(request, plans, None if ready else step.job, left, rest), end="")
    else:
        print(_overview(request, record, ready, jobs, steps))
        print(f"\n{_commands([*([] if ready else [step.job]), *left, *rest])}")
    return OK


def _commands(jobs: Sequence[Job | None]) -> str:
    return "\n".join(shlex.join([f"autolmk_{job.command[0]}", *job.command[1:]]) for job in jobs if job is not None)


def _batch_file(
    request: Request, plans: Plans | None, prepare: Job | None, trainings: Sequence[Job], rest: Sequence[Job]
) -> str:
    from autolmk.slurm import batch_file

    gpu = request.device.startswith("cuda") or (
        request.device == "auto" and plans is not None and plans.device == "cuda"
    )
    title = f"autolmk_run {request.dataset}, {request.plans_name}"
    logs = request.log("").parent
    return batch_file(title, prepare, trainings, rest, device=request.device, gpu=gpu, logs=logs)
