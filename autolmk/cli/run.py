"""autolmk_run: from a raw dataset to a chosen model, predictions of the test cases and a report, in one command."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autolmk.cli import later_hours, overview, run_hours
from autolmk.cli.arguments import Parser, add_dataset, add_device, add_folders, add_plans, option, parser
from autolmk.cli.common import OK, SOME_FAILED, folders_from, run
from autolmk.cli.time_limit import Limit
from autolmk.errors import AutolmkError
from autolmk.jobs.run_record import STEPS, save_record
from autolmk.paths import DEFAULT_PLANS_NAME, dataset_name

if TYPE_CHECKING:
    from autolmk.jobs.job import Job, JobResult
    from autolmk.jobs.run_clock import RunClock
    from autolmk.jobs.run_record import Record, TimeShares, Wanted
    from autolmk.jobs.workflow import Request, Step
    from autolmk.plans import Plans

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit code 3 where single cases failed."""
    return run(_main, _parser(), argv)


def _parser() -> Parser:
    result = parser(
        "Go from a raw dataset to a chosen model, predictions and a report. Shows first what will be done and how long "
        "it takes, skips what is done, and goes on where it was broken off when the same command is given again.",
        usage="autolmk_run DATASET [options]",
        examples=(
            "autolmk_run 1 --dry-run       # what it would do, and how long that takes",
            "autolmk_run 1 --max-time 8h",
            "autolmk_run 1 -c global_to_local coarse_to_fine -f 0 1 2 --max-time 110m",
            "autolmk_run 1 --print-jobs slurm > jobs.sh",
        ),
    )
    add_dataset(result)
    _add_training(result)
    _add_extent(result)
    _add_machine(result)
    add_folders(result)
    return result


def _add_training(result: Parser) -> None:
    result.under("what to train")
    option(
        result, "-c", "--configurations", also=("--configuration",), nargs="+", metavar="NAME",
        help="names of configurations; default: every method of the plans",
    )  # fmt: skip
    option(
        result, "-f", "--folds", also=("--fold",), nargs="+", metavar="FOLD",
        help="0, 1, ... or all; default: all folds of the split",
    )  # fmt: skip
    add_plans(result, dest="p", default=DEFAULT_PLANS_NAME)
    option(
        result, "-pl", "--planner", also=("--planners",), nargs="+", metavar="METHOD",
        help="methods to plan, where there are no plans yet; default: every method that autolmk has",
    )  # fmt: skip
    option(
        result, "--preset", metavar="SIZE",
        help="size of the network and length of training, as for planning, where there are no plans yet",
    )  # fmt: skip
    option(result, "--trust-code", action="store_true", help="run trainers outside autolmk that the plans name")
    option(result, "--seed", type=int, metavar="N", help="seed of all trainings; default: 0")


def _add_extent(result: Parser) -> None:
    result.under("how much to do")
    option(
        result, "--max-time", metavar="TIME",
        help="wall time of everything, such as 110m or 8h; default: each training takes as long as it was planned to",
    )  # fmt: skip
    option(result, "--epochs", type=int, metavar="N", help="length of each training, instead of --max-time")
    option(
        result, "--keep-all", action="store_true",
        help="train every configuration to the end, also those that held-out errors show to be hopeless",
    )  # fmt: skip
    option(result, "--until", choices=STEPS, default=STEPS[-1], help="last step to do")
    option(
        result, "--dry-run", action="store_true",
        help="show times and commands, and train nothing; plans first where there are no plans",
    )  # fmt: skip
    option(
        result, "--print-jobs", choices=("slurm",), help="print the jobs as a batch file, and train nothing"
    )  # fmt: skip
    option(result, "-o", "--output", type=Path, metavar="FOLDER", help="where to write the predictions of imagesTs")


def _add_machine(result: Parser) -> None:
    result.under("machine")
    add_device(result)
    option(
        result, "--jobs", type=int, metavar="N",
        help="number of jobs at a time; default: one for each GPU, else as many as cores and memory allow",
    )  # fmt: skip
    option(
        result, "--scheduler", metavar="URL",
        help="cluster to run on: tcp://HOST:PORT or tls://HOST:PORT of Dask, ray, or ray://HOST:PORT",
    )  # fmt: skip


def _main(args: argparse.Namespace) -> int:
    from autolmk.jobs.workflow import load_plans, with_trust

    request = _request(args)
    plans = load_plans(request)
    if plans is not None:
        request = with_trust(request, plans)
    if args.print_jobs or args.dry_run:
        from autolmk.cli.dry_run import only_show

        return only_show(args, request, plans)
    from autolmk.files.locks import exclusive
    from autolmk.files.serialization import make_folder
    from autolmk.jobs.run_clock import FILE_NAME as CLOCK
    from autolmk.jobs.run_clock import RunClock

    if args.scheduler is not None:
        from autolmk.jobs.dispatch import check_scheduler

        check_scheduler(args.scheduler)
    folder = request.record_file.parent
    make_folder(folder)
    with exclusive(folder), RunClock(folder / CLOCK, request.plans_name) as clock:
        return _Running(args, request, clock).all(plans)


def _request(args: argparse.Namespace) -> Request:
    from autolmk.cli.duration import seconds_of
    from autolmk.jobs.workflow import ALL, Request
    from autolmk.methods.registry import absolute

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
        args.trust_code, args.keep_all,
    )  # fmt: skip


class _Running:
    """One call of the command: the steps in order, with what is known of the run."""

    def __init__(self, args: argparse.Namespace, request: Request, clock: RunClock) -> None:
        self.args, self.request, self.clock = args, request, clock
        self.last = STEPS.index(args.until)
        self.some_failed = False
        self.pace: later_hours.Pace | None = None

    def all(self, plans: Plans | None) -> int:
        """Every step up to the last one asked for; the exit code."""
        from autolmk.jobs.run_record import load_record
        from autolmk.jobs.workflow import with_trust

        earlier = load_record(self.request.record_file, self.request.plans_name)
        if plans is None:
            print(f"{overview.outlook(self.request)}{run_hours.hours_to_come(self.args, self.request)}", flush=True)
        plans = self._prepare(plans, earlier)
        self.request = with_trust(self.request, plans)
        record = self._decide(plans, earlier)
        if self.last >= STEPS.index("train"):
            self._train_and_choose(plans, record)
        print(overview.where_all_is(self.request, self.last), flush=True)
        return SOME_FAILED if self.some_failed else OK

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
        """What is trained, and how time is shared out at first."""
        from autolmk.jobs.run_record import decided
        from autolmk.jobs.workflow import anything_trained, prepare, wanted

        asked, file = wanted(self.request, plans), self.request.record_file
        begun = anything_trained(self.request, plans)
        if not begun:
            self.clock.restart()
        record = decided(earlier, asked, lambda: self._shares(plans, asked), begun=begun, file=file)
        given_up = {} if self.request.keep_all else record.given_up
        done = {**record.done, "prepare": prepare(self.request, plans).stamp()}
        return self._kept(record, done=done, given_up=given_up)

    def _shares(self, plans: Plans, asked: Wanted) -> TimeShares:
        self.pace = later_hours.measured_pace(self.request, plans, asked)
        n = run_hours.slots(self.args, plans, len(asked.trainings()))
        limit = Limit(self.request, plans, self.pace, STEPS[: self.last + 1])
        return limit.shares(asked, n, taken=self.clock.seconds())

    def _train_and_choose(self, plans: Plans, record: Record) -> None:
        from autolmk.jobs.dispatch import idle_gpus
        from autolmk.jobs.workflow import after_training, trainings

        jobs = trainings(self.request, plans, record)
        left = sum(not job.done for job in jobs)
        if left < len(jobs):
            logger.info("training: %d of %d done already", len(jobs) - left, len(jobs))
        if left:
            self.pace = self.pace or later_hours.measured_pace(self.request, plans, record.kept())
            record = self._kept(record, expected=run_hours.expected(self.args, self.request, plans, record))
            jobs = trainings(self.request, plans, record)
        slots = run_hours.slots(self.args, plans, left) if left else 1
        steps = after_training(self.request, plans, record.kept())[: self.last - 1]
        others = {} if self.pace is None else later_hours.seconds_of_steps(self.request, plans, record, self.pace)
        print(overview.overview(self.request, record, jobs, steps, slots=slots, others=others), flush=True)
        if left:
            print(overview.order(plans, record.kept()), end="", flush=True)
            if self.args.scheduler is None and (idle := idle_gpus(run_hours.devices(self.request.device), jobs)):
                print(idle, flush=True)
            record = self._train(plans, record, slots)
        for step in after_training(self.request, plans, record.kept())[: self.last - 1]:
            record = self._after(step, record)

    def _train(self, plans: Plans, record: Record, slots: int) -> Record:
        from autolmk.jobs.race import Means, Race

        assert self.pace is not None
        limit = Limit(self.request, plans, self.pace, STEPS[: self.last + 1])
        size = run_hours.training_bytes(plans)
        means = Means(
            run=lambda jobs, n: self._run(jobs, "training", size, n),
            slots=slots,
            left=lambda record: limit.left(record, self.clock.seconds()),
            keep=lambda record: save_record(self.request.record_file, self.request.plans_name, record),
            say=lambda text: print(text, flush=True),
        )
        return Race(self.request, plans, record, means).all()

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
        changed = dataclasses.replace(record, **changes)
        save_record(self.request.record_file, self.request.plans_name, changed)
        return changed

    def _do(self, step: Step) -> None:
        assert step.job is not None
        print(f"\n{step.name}: {overview.DOES[step.name]}", flush=True)
        self._run([dataclasses.replace(step.job, outputs=())], step.name)  # what is there is out of date

    def _run(
        self, jobs: Sequence[Job], label: str, bytes_a_job: int = run_hours.TRAINING_BYTES, slots: int = 1
    ) -> list[JobResult]:
        """slots: jobs at a time, between which the cores are shared, also where there are fewer jobs."""
        from autolmk.jobs.dispatch import run_jobs

        results = run_jobs(
            jobs,
            places=run_hours.places(self.args, max(slots, len(jobs)), bytes_a_job),
            label=label,
            folder=self.request.record_file.parent,
            scheduler=self.args.scheduler,
            echo=lambda text: print(text, end="", flush=True),
        )
        self.some_failed |= any(result.code == SOME_FAILED for result in results)
        return results
