"""Freed memory is kept: later steps ask the system for a fraction of what they allocate, and compute the same."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

ALLOCATED = 10 * 3 * 16 * 2**20  # bytes, by ten of these steps
STEPS = """
import resource, sys, torch
torch.set_num_threads(1)
from autolmk.networks.freed_memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()

def step(data):
    parts = [data * k for k in (1.0, 2.0, 3.0)]  # 16 MiB each, freed at the end
    return float(torch.stack([part.sum() for part in parts]).sum())

torch.manual_seed(0)
data = torch.randn(4 * 2**20)
first = [step(data) for _ in range(10)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
later = [step(data) for _ in range(10)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, set(first) == set(later), later[0].hex())
"""


def faults(how: str) -> tuple[int, str]:
    """Pages that ten steps get from the system, and the sum that they compute."""
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True, timeout=300)
    pages, same, total = done.stdout.split()
    assert same == "True"
    return int(pages), total


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can keep freed memory")
def test_later_steps_get_few_pages_from_the_system_and_compute_the_same() -> None:
    """glibc may keep some by itself, too: where what is freed happens to lie below something else."""
    kept, total = faults("kept")
    assert total == faults("given back")[1]
    assert 4 * kept < ALLOCATED // resource.getpagesize()
