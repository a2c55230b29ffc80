"""The long checks go on where they stopped."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "verify.py"


@pytest.fixture(scope="module")
def verify() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_passed_is_not_run_again(verify: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counter = tmp_path / "runs"
    count = [sys.executable, "-c", f"open({str(counter)!r}, 'a').write('x')"]
    assert verify.passed("tests/a.py::b[1]", count, tmp_path, "d1") and "passed before" not in capsys.readouterr().out
    assert verify.passed("tests/a.py::b[1]", count, tmp_path, "d1") and "passed before" in capsys.readouterr().out
    assert counter.read_text() == "x"
    assert verify.passed("tests/a.py::b[1]", count, tmp_path, "d2") and counter.read_text() == "xx"


def test_what_failed_is_run_again_and_leaves_its_log(verify: ModuleType, tmp_path: Path) -> None:
    fail = [sys.executable, "-c", "raise SystemExit('why')"]
    for _ in range(2):
        assert not verify.passed("bad", fail, tmp_path, "d1")
    assert "why" in (tmp_path / "bad.log").read_text() and not list(tmp_path.glob("*.passed"))


def test_benchmarks_exist_and_long_tests_are_found(verify: ModuleType) -> None:
    assert all((FILE.parent / name).is_file() for name in verify.BENCHMARKS)
    kills = {f"tests/commands/test_kill.py::test_ten_kills[{stage}]" for stage in ("preprocess", "train", "predict")}
    assert kills | {"tests/commands/test_pipeline.py::test_demo_reaches_its_bounds"} <= set(verify.long_tests())


def test_what_needs_a_browser_may_not_be_skipped(verify: ModuleType, tmp_path: Path) -> None:
    """As tests/report/test_report_browser.py reads it, where there is none."""
    assert all((FILE.parent.parent / name).is_file() for name in verify.BROWSER_TESTS)
    needs = [sys.executable, "-c", "import os; raise SystemExit(not os.environ.get('AUTOLMK_REQUIRE_BROWSER'))"]
    assert verify.passed("browser", needs, tmp_path, "d1")
