"""autolmk_run with all methods in a given time: how much of it is used, what is given up, how well the chosen one does.

    python benchmarks/race.py [--data FOLDER NAME] [--max-time 30m] [--seed 0] [--work benchmark_output/race]

Without --data on a phantom: `phantom` in 3D (the default), or `phantom_2d`. FOLDER/NAME is as in `real_data.py`. The
command is autolmk_run alone, which may be broken off: the same call goes on. For comparison, `methods.py` trains each
method for the whole time.

Exit code 1 where less than 95 % or more than 100 % of the time was used.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from real_data import command
from unlike import PHANTOMS, make_dataset

LEAST = 0.95  # share of the time that must be used


def main() -> int:
    """Run, and print what the run recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="phantom", help="folder below --data, or phantom, or phantom_2d")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--max-time", default="30m")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--work", type=Path, default=Path("benchmark_output/race"))
    arguments = parser.parse_args()
    if (arguments.data is None) != (arguments.name in PHANTOMS):
        parser.error("--data FOLDER and a name below it belong together; without both a phantom is taken")
    work = (arguments.work / arguments.name).resolve()
    dataset = make_dataset(arguments.data, arguments.name, work)
    for part in ("raw", "preprocessed", "results"):
        os.environ[f"autolmk_{part}"] = str(work / part)
    took = command(
        "run", "1", "--preset", "XS", "-device", "cpu", "--max-time", arguments.max_time, "--seed", arguments.seed
    )
    results = work / "results" / dataset.folder.name
    (record,) = json.loads((results / "run" / "run.json").read_text())["runs"].values()
    (seconds,) = json.loads((results / "run" / "seconds.json").read_text()).values()
    return report(arguments.name, record, max(took, seconds), results)


def report(name: str, record: dict[str, Any], seconds: float, results: Path) -> int:
    """Print the table; the exit code."""
    share = seconds / record["wanted"]["max_seconds"]
    information = json.loads((results / "best" / "inference_information.json").read_text())
    overall = json.loads((results / "predictions/imagesTs/evaluation/summary.json").read_text())["overall"]
    mre, held_out = overall["mre"], information["held_out"]["mre"]
    lengths = ", ".join(f"{fold}: {length:.0f} s" for fold, length in record["lengths"].items())
    print(f"\n{name}: {seconds:.0f} of {record['wanted']['max_seconds']:.0f} s used, {share:.1%}")
    print(f"a training of fold {lengths}; left out: {', '.join(record['left_out']) or 'none'}")
    for configuration, lost in record["given_up"].items():
        kind = "no time" if lost["for_time"] else "hopeless"
        surely = "-" if lost["surely"] is None else f"{lost['surely']:+.0%}"
        errs = f"{lost['mre']:.3f}, {lost['best']} {lost['best_mre']:.3f} ({lost['loss']:+.0%}, surely {surely})"
        print(f"given up, {kind}: {configuration} {errs}, {lost['cases']} cases")
    print(f"chosen: {information['chosen']}; held out {held_out['value']:.3f}, test {mre['value']:.3f}", end=" ")
    print(f"[{mre['low']}, {mre['high']}]")
    return int(not LEAST <= share <= 1)


if __name__ == "__main__":
    sys.exit(main())
