"""autolmk_demo: a phantom dataset, planned, trained, predicted and evaluated by the commands that a user types."""

from __future__ import annotations

import argparse
import importlib
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from autolmk.cli.common import INTERNAL, OK, option, parser, run
from autolmk.files.serialization import read_json
from autolmk.phantom import write_phantom

NAME = "Dataset001_Phantom"
MRE, SDR_4, PRESENCE = 1.5, 0.95, 0.95  # mm, shares: what the demo must reach on the test cases


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser("Write a phantom dataset into a folder, then plan, train, predict and evaluate.")
    option(arguments, "--folder", type=Path, default=Path("demo_output"), help="where everything goes")
    option(arguments, "--max-time", default="100s", help="time for training, such as 90s or 20m")
    option(arguments, "-device", default="auto", help="cpu, cuda or auto")
    option(arguments, "--seed", type=int, default=0, help="of the phantom and of training")
    return run(_demo, arguments, argv)


def _demo(args: argparse.Namespace) -> int:
    started, folder = time.monotonic(), args.folder.absolute()
    raw = folder / "raw" / NAME
    if not (raw / "dataset.json").is_file():
        write_phantom(raw, seed=args.seed)
    for command, arguments in _commands(args, folder, raw):
        print(f"\n$ autolmk_{command} {shlex.join(arguments)}", flush=True)
        code = int(importlib.import_module(f"autolmk.cli.{command}").main(arguments))
        if code != OK:
            return code
    return _report(folder, time.monotonic() - started)


def _commands(args: argparse.Namespace, folder: Path, raw: Path) -> list[tuple[str, list[str]]]:
    places = [part for name in ("raw", "preprocessed", "results") for part in (f"--{name}", str(folder / name))]
    predictions = str(folder / "predictions")
    return [
        ("plan_and_preprocess", ["-d", "1", "-pl", "heatmap", "--preset", "XS", *places]),
        ("train", ["1", "0", "--max-time", args.max_time, "--seed", str(args.seed), "-device", args.device, *places]),
        (
            "predict",
            [
                "-i",
                str(raw / "imagesTs"),
                "-o",
                predictions,
                "-d",
                "1",
                "--save_overlays",
                "-device",
                args.device,
                *places,
            ],
        ),
        ("evaluate", ["-p", predictions, "-d", "1", *places]),
    ]


def _report(folder: Path, seconds: float) -> int:
    """Where everything is, and whether the detector is as good as it should be; exit code 1 if it is not."""
    predictions, (model,) = folder / "predictions", (folder / "results" / NAME).iterdir()
    overall = read_json(predictions / "evaluation" / "summary.json")["overall"]
    reached = [
        ("mean radial error, mm", overall["mre"]["value"], MRE, overall["mre"]["value"] <= MRE),
        ("share of points within 4 mm", overall["sdr"]["4"]["value"], SDR_4, overall["sdr"]["4"]["value"] >= SDR_4),
        ("presence accuracy", overall["presence"]["accuracy"], PRESENCE, overall["presence"]["accuracy"] >= PRESENCE),
    ]
    print(f"\nThe demo took {seconds / 60:.1f} minutes.\n")
    for name, value, bound, good in reached:
        print(f"  {name:30}{value:7.3f}   {'reached' if good else 'MISSED'}: {bound:g}")
    print(
        f"""
Points of the test cases:              {predictions}
Pictures:                              {predictions / "overlays"}
Tables:                                {predictions / "evaluation"}
Plans, with a reason for each number:  {model / "plans.json"}
Progress of training:                  {model / "fold_0" / "progress.png"}
Drag a .mrk.json of the predictions and its image ({folder / "raw" / NAME / "imagesTs"}) into 3D Slicer."""
    )
    return OK if all(good for *_, good in reached) else INTERNAL
