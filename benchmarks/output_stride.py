"""Is the finest stage of the decoder worth its time? The same dataset, planned both ways and trained equally long.

    python benchmarks/output_stride.py --data FOLDER NAME [--max-time 25m] [--work FOLDER] [--preset XS]

Data and folders as for real_data.py. The presets stop the decoder at half resolution (`decoder_stops`);
`FullResolution` lets it go on. Spacing and window may then differ too, because both plans fill the same memory target.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from autolmk.planners.heatmap import HeatmapPlanner
from autolmk.planning.planner import PRESETS, PlanRequest
from autolmk.plans import Configuration


class FullResolution(HeatmapPlanner):
    """Stops the decoder only where the landmarks' heads would take too much memory."""

    def plan(self, request: PlanRequest) -> dict[str, Configuration]:
        """See Planner."""
        with patch.dict(PRESETS, {request.preset: replace(request.size, decoder_stops=(0, 0))}):
            return super().plan(request)


PLANNERS = {"preset": "heatmap", "full": f"{Path(__file__).resolve()}:FullResolution"}


def main() -> int:
    """Plan, train, predict and evaluate twice, then print a row for each."""
    from real_data import build_raw, command

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="folder below --data, such as mouse_ct_small")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("benchmark_output"))
    parser.add_argument("--max-time", default="25m")
    parser.add_argument("--preset", default="XS")
    args = parser.parse_args()
    work = (args.work / f"{args.name}_output_stride").resolve()
    folder = build_raw(args.data / args.name, work / "raw", args.name)
    for part in ("raw", "preprocessed", "results"):
        os.environ[f"autolmk_{part}"] = str(work / part)
    for plans, planner in PLANNERS.items():
        images, output = str(folder / "imagesTs"), str(work / plans)
        command(
            "plan_and_preprocess", "-d", "1", "-pl", planner, "--preset", args.preset, "-overwrite_plans_name", plans
        )
        command("train", "1", "all", "-p", plans, "--max-time", args.max_time)
        command("predict", "-i", images, "-o", output, "-d", "1", "-p", plans, "-f", "all")
        command("evaluate", output, "-d", "1")
    print("\n| decoder | output stride | spacing | MRE | median |\n|---|---|---|---|---|")
    for plans in PLANNERS:
        planned = json.loads((work / "preprocessed" / folder.name / f"{plans}.json").read_text())
        (configuration,) = planned["configurations"].values()
        overall = json.loads((work / plans / "evaluation" / "summary.json").read_text())["overall"]
        stride, spacing = configuration["architecture"]["output_stride"], configuration["spacing"]
        print(f"| {plans} | {stride} | {spacing} | {overall['mre']['value']:.3f} | {overall['median']['value']:.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
