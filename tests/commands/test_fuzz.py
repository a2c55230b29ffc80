"""A short form of benchmarks/fuzz.py, which `make verify` runs with 3,000 inputs."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_damaged_files_and_arguments_do_no_harm(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "fuzz.py"), "--inputs", "24", "--jobs", "1", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "24 inputs: nothing found" in done.stdout


@pytest.fixture
def mutations(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import mutations

    return mutations


def test_the_same_seed_gives_the_same_damage(mutations: object) -> None:
    for name, data in (("a.json", b'{"a": [1, 2, {"b": "c"}]}'), ("a.csv", b"case,x\na,1.5\n"), ("a.png", bytes(500))):
        results = [mutations.mutate(data, name, random.Random(f"{name}-{i}")) for i in range(50)]  # type: ignore[attr-defined]
        again = [mutations.mutate(data, name, random.Random(f"{name}-{i}")) for i in range(50)]  # type: ignore[attr-defined]
        assert results == again and len({damaged for damaged, _ in results}) > 20
