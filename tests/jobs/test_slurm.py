"""Batch files: whatever folders and names hold, the shell runs the job's words, and sbatch's log is the job's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from autolmk.jobs.job import Job
from autolmk.jobs.slurm import batch_file

SBATCH = """#!/bin/bash
for word in "$@"; do printf '%s\\0' "$word" >> "$SEEN"; done
echo 1
"""


@pytest.mark.parametrize("name", ["plain", "with space", "a'b", "$(touch pwned)", "%j", "-x", "a\nrm x", "`id`;#"])
def test_names_stay_words(name: str, tmp_path: Path) -> None:
    """A pretended sbatch notes its arguments."""
    place = tmp_path / name
    place.mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    job = Job("train", ("train", name, "0"), place / "train.log", takes=("device",))
    text = batch_file(f"run of {name}", None, [job], [], device="cpu", gpu=False, logs=place)
    (tmp_path / "jobs.sh").write_text(text)
    known = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SEEN": str(tmp_path / "seen")}
    before = sorted(path.name for path in tmp_path.iterdir())
    done = subprocess.run(["bash", str(tmp_path / "jobs.sh")], env=known, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "submitted: 1\n"), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "seen"])
    words = (tmp_path / "seen").read_text().split("\0")
    assert f"--output={str(place / 'train.log').replace('%', '%%')}" in words
    (wrapped,) = [word.removeprefix("--wrap=") for word in words if word.startswith("--wrap=")]
    told = subprocess.run(
        ["bash", "-c", f"autolmk_train() {{ printf '%s\\0' \"$@\"; }}\n{wrapped}"], capture_output=True
    )
    assert told.stdout.decode().split("\0")[:2] == [name, "0"]
