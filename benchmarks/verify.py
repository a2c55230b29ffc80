"""The long checks, resumable: every test marked `long`, one by one, the tests that need a browser, which fail here
where there is none, and the benchmarks that need no data.

    python benchmarks/verify.py --folder .verify

Each check that passed leaves a file in the folder, named after the check and the digest of all sources, so that a
second run does only what has not passed for these very sources. Exit code 1 if any check failed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("autolmk", "planners", "trainers", "tests", "benchmarks")
BROWSER_TESTS = ("tests/report/test_report_browser.py",)
REQUIRED = {"AUTOLMK_REQUIRE_BROWSER": "1"}  # what `make test` skips for want of a browser fails
BENCHMARKS = (
    *("fuzz.py", "headers.py"),
    *("step_time.py", "prediction_memory.py", "prediction_speed.py", "planned_memory.py"),
    *("calibration.py", "look_alikes.py"),
)


def main() -> int:
    """Run what has not passed yet, print one line a check."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=Path, default=ROOT / ".verify", help="logs and marks of what passed")
    folder = arguments.parse_args().folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tests = [*long_tests(), *BROWSER_TESTS]
    checks = {name: [sys.executable, "-m", "pytest", "-q", name] for name in tests}
    checks |= {name: [sys.executable, f"benchmarks/{name}"] for name in BENCHMARKS}
    checks["kills.py"] = [
        sys.executable,
        "benchmarks/kills.py",
        "--folder",
        str(folder / f"kills_{digest_of_sources()}"),
    ]
    digest, failed = digest_of_sources(), []
    for name, command in checks.items():
        if not passed(name, command, folder, digest):
            failed.append(name)
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed; logs are in {folder}")
    return 1 if failed else 0


def long_tests() -> list[str]:
    """Names of the tests marked `long`, such as tests/commands/test_kill.py::test_ten_kills[train]."""
    files = sorted(str(f) for f in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.long" in f.read_text())
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "long", *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode not in (0, 5):  # 5: there is none
        sys.exit(listed.stdout + listed.stderr)
    return re.findall(r"^(tests/\S+::.+)$", listed.stdout, re.M)


def digest_of_sources() -> str:
    """SHA-256 over the names and bytes of all sources."""
    result = hashlib.sha256((ROOT / "pyproject.toml").read_bytes())
    kinds = ("*.py", "*.html", "*.css")
    for file in sorted(f for folder in SOURCES for kind in kinds for f in (ROOT / folder).rglob(kind)):
        result.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return result.hexdigest()[:12]


def passed(name: str, command: list[str], folder: Path, digest: str) -> bool:
    """Whether the check passed, now or earlier with the same sources; its output goes to a log."""
    stem = re.sub(r"[^\w.-]+", "_", name)
    mark, log = folder / f"{stem}.{digest}.passed", folder / f"{stem}.log"
    if mark.exists():
        print(f"passed before   {name}", flush=True)
        return True
    started = time.monotonic()
    with log.open("w") as stream:
        environment = {**os.environ, **REQUIRED}
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
    print(f"{'passed' if code == 0 else 'FAILED':8}{time.monotonic() - started:6.0f} s {name}", flush=True)
    if code == 0:
        mark.touch()
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
