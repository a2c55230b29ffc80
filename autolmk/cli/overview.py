"""The overview that autolmk_run prints: the plan with its times before anything is done, and where everything is at the
end.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from autolmk.errors import counted
from autolmk.fold.log import duration
from autolmk.jobs.job import Job
from autolmk.jobs.run_record import BEYOND, RESERVED, STEPS, Record, Wanted
from autolmk.jobs.workflow import BEST, REPORT, Request, Step
from autolmk.plans import Plans

DOES = {
    "prepare": "check, fingerprint, plan, preprocess",
    "find_best": "compare, combine, postprocess, error radius",
    "predict": "landmarks of the test cases",
    "evaluate": "predictions against annotations",
    "report": "one HTML file",
}


def outlook(request: Request) -> str:
    """The plan before the dataset is planned, as far as it is known."""
    configurations = "every method that the planner offers"
    if request.configurations is not None:
        configurations = ", ".join(request.configurations)
    folds = "all folds" if request.folds is None else f"fold {', '.join(request.folds)}"
    rows = [(step, DOES.get(step, f"{configurations}; {folds}"), _kept(request, step)) for step in STEPS]
    return f"{request.dataset}: not planned yet; these steps, with their numbers once it is\n{_table(rows)}"


def _kept(request: Request, step: str, others: Mapping[str, float] | None = None) -> str:
    about = (others or {}).get(step)
    if about is None and request.max_seconds is not None:
        about = RESERVED.get(step, 1 - sum(RESERVED.values())) * request.max_seconds
    return "as planned" if step == "train" and about is None else "" if about is None else f"about {duration(about)}"


def overview(
    request: Request,
    record: Record,
    jobs: Sequence[Job],
    steps: Sequence[Step],
    *,
    slots: int,
    others: Mapping[str, float],
    ready: bool = True,
) -> str:
    """The plan in full. jobs: the trainings. steps: those after them. slots: trainings at a time. others: seconds that
    other steps take, as far as is known. ready: whether the dataset is prepared."""
    rows = [("prepare", DOES["prepare"], "done" if ready else _kept(request, "prepare", others))]
    if jobs:
        rows.append(("train", *_training(request, record, jobs, slots)))
    for step in steps:
        state = "left out" if step.job is None else "done" if step.done(record) else _kept(request, step.name, others)
        rows.append((step.name, step.absent if step.job is None else DOES[step.name], state))
    total = "" if request.max_seconds is None else f", {duration(request.max_seconds)} in all"
    return f"\n{request.dataset}, {request.plans_name}{total}\n{_table(rows)}{_expected(request, record, jobs, slots)}"


def _expected(request: Request, record: Record, jobs: Sequence[Job], slots: int) -> str:
    """The hours of all that is left of training, which takes longest, and what makes it shorter."""
    left = [job for job in jobs if not job.done]
    seconds = [job.seconds for job in left if job.seconds is not None]
    if not left:
        return ""
    if len(seconds) < len(left):
        return "\n  how long training takes cannot be measured on this machine; --max-time sets it"
    if request.max_seconds is not None:
        return f"\n  expected: {request.max_seconds / 3600:.2g} h in all, as --max-time says"
    hours = sum(seconds) / len(left) * -(-len(left) // slots) / 3600
    said = f"\n  expected: about {hours:.2g} h of training"
    ways = ["--max-time such as 110m"]
    if len(record.kept().configurations) > 1:
        ways.append(f"-c with fewer configurations than {len(record.kept().configurations)}")
    if len(record.wanted.folds) > 1:
        ways.append(f"-f with fewer folds than {len(record.wanted.folds)}")
    return f"{said} here, the longest step; shorter with {', '.join(ways)}, or a GPU"


def _training(request: Request, record: Record, jobs: Sequence[Job], slots: int) -> tuple[str, str]:
    """(what is trained, how long the rest takes)."""
    asked, left = record.kept(), [job for job in jobs if not job.done]
    what = f"{', '.join(asked.configurations)}; fold {', '.join(asked.folds)}: {counted(len(jobs), 'training')}"
    if len(left) < len(jobs):
        what += f", {len(jobs) - len(left)} done"
    what += "".join(f"; {name} is given up" for name in record.given_up)
    if not left:
        return what, "done"
    what += f", {min(slots, len(left))} at a time"
    seconds = [job.seconds for job in left if job.seconds is not None]
    if len(seconds) < len(left):
        return what, "as planned" if request.epochs is None else f"{request.epochs} epochs each"
    each = " or ".join(dict.fromkeys(map(duration, seconds)))
    if record.shares is not None and not record.lengths:
        return what, f"{each} each at first, {duration((record.shares.training + BEYOND) * record.shares.waves)} in all"
    return what, f"{each} each, {duration(sum(seconds) / len(left) * -(-len(left) // slots))} in all"


def order(plans: Plans, asked: Wanted) -> str:
    """The methods that are trained, of which most is expected first, and why; nothing where the plans do not say."""
    from autolmk.cli.plan_experiment import expected_order

    lines = expected_order(plans, asked.configurations)
    return "\n".join(["", *(f"  {line}" for line in lines), ""]) if lines else ""


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    rows = [("step", "what", "time"), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def where_all_is(request: Request, last: int) -> str:
    """The message at the end. last: index of the last step that was to be done."""
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


def commands(jobs: Sequence[Job | None]) -> str:
    """The jobs' commands as a user would type them, a line each."""
    return "\n".join(shlex.join([f"autolmk_{job.command[0]}", *job.command[1:]]) for job in jobs if job is not None)
