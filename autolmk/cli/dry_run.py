"""The output of `autolmk_run --dry-run`: the plan with its times, the commands, or a batch file."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from autolmk.cli import later_hours, overview, run_hours
from autolmk.cli.common import OK, SOME_FAILED
from autolmk.cli.time_limit import Limit
from autolmk.errors import AutolmkError
from autolmk.jobs.run_record import STEPS

if TYPE_CHECKING:
    from autolmk.jobs.job import Job
    from autolmk.jobs.run_record import Record, TimeShares, Wanted
    from autolmk.jobs.workflow import Request, Step
    from autolmk.plans import Plans

logger = logging.getLogger(__name__)


def _plan_now(args: argparse.Namespace, request: Request) -> int:
    """Check, fingerprint and plan, without preprocessing: cheap, and without it no time is known. The exit code."""
    from autolmk.cli import plan_and_preprocess
    from autolmk.jobs.workflow import prepare

    job = prepare(request, None).job
    assert job is not None
    logger.info("%s is not planned yet: it is checked and planned now; nothing is trained", request.dataset)
    with contextlib.redirect_stdout(sys.stderr):
        return plan_and_preprocess.main([*job.command[1:], "--no_preprocessing", "-device", args.device])


def only_show(args: argparse.Namespace, request: Request, plans: Plans | None) -> int:
    """The plan and its commands, or a batch file; nothing is trained, and no run is recorded."""
    from autolmk.jobs.run_record import decided, load_record
    from autolmk.jobs.workflow import anything_trained, as_earlier, known_before, load_plans, prepare

    earlier = load_record(request.record_file, request.plans_name)
    request = as_earlier(request, earlier)
    if plans is None and (args.dry_run or known_before(request, plans) is None):
        code = _plan_now(args, request)
        if code not in (OK, SOME_FAILED):
            return code
        plans = load_plans(request)
    before, asked = prepare(request, plans), known_before(request, plans)
    if asked is None:
        raise AutolmkError(
            "it is not known which folds there will be",
            file=request.preprocessed,
            expected="preprocessed cases, or dataset_fingerprint.json",
            remedy=f"name folds with -f, or run autolmk_run {args.dataset} --until prepare first",
        )
    n = len(asked.trainings())
    slots = min(args.jobs or n, n) if args.print_jobs else run_hours.slots(args, plans, n)
    begun = plans is not None and anything_trained(request, plans)
    pace = later_hours.Pace() if plans is None else later_hours.measured_pace(request, plans, asked)
    to_prepare = before if plans is None or not before.done(earlier) else None
    shares = partial(_shares, args, request, plans, asked, pace, slots, to_prepare is not None)
    try:
        record = decided(earlier, asked, shares, begun=begun, file=request.record_file)
    except AutolmkError as error:
        if not args.dry_run:
            raise
        logger.warning("autolmk_run would refuse this: %s", error)
        record = decided(None, asked, shares, begun=False, file=request.record_file)
    if plans is not None:
        record = dataclasses.replace(record, expected=run_hours.expected(args, request, plans, record))
    return _shown(args, request, plans, record, to_prepare, slots, pace)


def _shares(
    args: argparse.Namespace,
    request: Request,
    plans: Plans | None,
    asked: Wanted,
    pace: later_hours.Pace,
    slots: int,
    unprepared: bool,
) -> TimeShares:
    """Share the time of a new run out. Jobs of a batch file know nothing of each other: there, nothing is given up."""
    from autolmk.jobs.time_shares import share_out, unmeasured

    assert asked.max_seconds is not None
    if plans is None:
        reserved = unmeasured(asked.max_seconds)
        return share_out(
            asked.max_seconds, reserved, methods=len(asked.configurations), folds=len(asked.folds), slots=slots
        )
    limit = Limit(request, plans, pace, STEPS[: STEPS.index(args.until) + 1])
    taken = (pace.prepare or unmeasured(asked.max_seconds)["prepare"]) if unprepared else 0.0
    return limit.shares(asked, slots, taken=taken, compared=not args.print_jobs)


def _shown(
    args: argparse.Namespace,
    request: Request,
    plans: Plans | None,
    record: Record,
    before: Step | None,
    slots: int,
    pace: later_hours.Pace,
) -> int:
    """before: preparation, None where it is done."""
    from autolmk.jobs.workflow import after_training, trainings

    last = STEPS.index(args.until)
    jobs = trainings(request, plans, record) if last else []
    steps = after_training(request, plans, record.kept())[: max(0, last - 1)]
    first = None if before is None else before.job
    left = [job for job in jobs if not job.done]
    rest = [step.job for step in steps if step.job is not None and not step.done(record)]
    others = {} if plans is None else later_hours.seconds_of_steps(request, plans, record, pace)
    others |= {} if pace.prepare is None else {"prepare": pace.prepare}
    shown = overview.overview(request, record, jobs, steps, ready=before is None, slots=slots, others=others)
    if args.print_jobs:
        print(shown, file=sys.stderr)
        print(_batch_file(request, plans, first, left, rest), end="")
    else:
        print(shown)
        print("" if plans is None else overview.order(plans, record.kept()), end="")
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
