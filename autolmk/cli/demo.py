"""autolmk_demo: a phantom dataset, planned, trained, predicted and evaluated by the commands that a user types."""

from __future__ import annotations

import argparse
import importlib
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from autolmk.cli.arguments import add_device, option, parser
from autolmk.cli.common import INTERNAL, OK, run
from autolmk.files.serialization import make_folder, read_json
from autolmk.phantom import write_phantom

NAME, MODEL = "Dataset001_Phantom", "heatmap__autolmkPlans__heatmap"
MRE, SDR_4, PRESENCE = 1.5, 0.95, 0.95  # mm, shares: what the demo must reach on the test cases


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_demo`; return its exit code."""
    arguments = parser(
        "Write a phantom dataset into a folder, then plan, train, predict and evaluate on it, printing each command.",
        usage="autolmk_demo [options]",
        examples=("autolmk_demo --folder demo_output",),
    )
    arguments.under("how to run")
    option(
        arguments, "--folder", also=("-o", "--output"), type=Path, default=Path("demo_output"), metavar="FOLDER",
        help="where everything is written",
    )  # fmt: skip
    option(arguments, "--max-time", default="100s", metavar="TIME", help="how long to train, such as 90s or 20m")
    add_device(arguments)
    option(arguments, "--seed", type=int, default=0, help="seed of the phantom and of training")
    return run(_demo, arguments, argv)


def _demo(args: argparse.Namespace) -> int:
    from autolmk.importing.importer import prepared, require_free

    started, folder = time.monotonic(), args.folder.expanduser().absolute()
    raw = folder / "raw" / NAME
    if not (raw / "dataset.json").is_file():
        require_free(raw)
        make_folder(raw.parent)
        with prepared(raw) as place:  # whole or not at all
            write_phantom(place, seed=args.seed)
            place.rename(raw)
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
        ("evaluate", ["-i", predictions, "-d", "1", *places]),
    ]


def _report(folder: Path, seconds: float) -> int:
    """Where everything is, and whether the detector is as good as it should be; exit code 1 if it is not."""
    predictions, model = folder / "predictions", folder / "results" / NAME / MODEL
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
