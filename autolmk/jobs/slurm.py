"""Jobs as a batch file for SLURM: one sbatch a job, each waiting for those that it builds on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from autolmk.escaping import visible
from autolmk.jobs.job import Job

CORES = 4  # a job; options of sbatch after the file's name change it
HEAD = """#!/bin/bash
# {title}
# bash FILE submits these jobs; options of sbatch may follow, such as --partition=NAME --time=4:00:00 --cpus-per-task=8.
# What is done already is not in the file. Submitted again after a failure, each job goes on where it stopped.
set -euo pipefail
export PATH={path}:"$PATH"
mkdir -p {logs}
submit() {{ sbatch --parsable --nodes=1 --ntasks=1 --cpus-per-task={cores} "$@"; }}
"""


def batch_file(
    title: str,
    prepare: Job | None,
    trainings: Sequence[Job],
    rest: Sequence[Job],
    *,
    device: str,
    gpu: bool,
    logs: Path,
) -> str:
    """The text of a bash script. prepare: before all others, None where it is done. trainings: side by side. rest: in
    order, in one job, after all trainings. device: as -device takes it. gpu: whether jobs that take a device ask for a
    GPU."""
    path = shlex.quote(str(Path(sys.executable).parent))
    lines = [HEAD.format(title=visible(title), path=path, logs=shlex.quote(str(logs)), cores=CORES)]
    if prepare is not None:
        lines.append(_submission("prepare", [prepare], [], device, gpu))
    before = [] if prepare is None else ["prepare"]
    names = [f"train_{k}" for k in range(len(trainings))]
    lines += [_submission(name, [job], before, device, gpu) for name, job in zip(names, trainings, strict=True)]
    if rest:
        lines.append(_submission("rest", rest, names or before, device, gpu))
    ids = " ".join(f"${name}" for name in (*before, *names, *(["rest"] if rest else [])))
    return "\n".join([*lines, f'echo "submitted: {ids}"', ""])


def _submission(variable: str, jobs: Sequence[Job], after: Sequence[str], device: str, gpu: bool) -> str:
    """Submits `jobs`, in order, as one; its number goes to a variable."""
    first = jobs[0]
    name = first.name.replace(" ", "_") if len(jobs) == 1 else "_".join(job.name for job in jobs)
    log = str(first.log.with_name(f"{name}.log")).replace(
        "%", "%%"
    )  # sbatch puts numbers in the place of %j and others
    options = [f"--job-name={shlex.quote(name)}", f"--output={shlex.quote(log)}"]
    options.append("--open-mode=append")
    if gpu and any("device" in job.takes for job in jobs):
        options.append("--gres=gpu:1")
    if after:
        options.append("--dependency=afterok:" + ":".join(f"${{{other}%%;*}}" for other in after))
    command = " && ".join(_command(job, device) for job in jobs)
    return f'{variable}=$(submit {" ".join(options)} "$@" --wrap={shlex.quote(command)})'


def _command(job: Job, device: str) -> str:
    words = [f"autolmk_{job.command[0]}", *job.command[1:], *(["-device", device] if "device" in job.takes else [])]
    others = " || ".join(f"[ $? -eq {code} ]" for code in job.accepted if code)
    return shlex.join(words) if not others else f"{{ {shlex.join(words)} || {others}; }}"
