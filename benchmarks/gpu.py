"""Everything that one GPU tells in a few minutes, as one JSON line a result.

    python benchmarks/gpu.py --folder gpu_results [--seconds 480] [--device cuda] [--parts step layout] [--data 003]

Parts, in this order: environment; plans (`--parts plans` makes them beforehand, also where there is no GPU: they take
longer than what is measured); layout (channels last or not, grouped convolutions or one after the other); step (of each
method, preset and number of landmarks: planned against peak memory, the whole step over a bare forward and backward,
the share of time in which the device computes, with torch.compile and without); parity (points on the CPU in float32
against those on the device); predict (an image of 512 x 512 x 400, by part); train (the commands on the phantom); data
(the commands on a dataset of one's own, at full resolution, three minutes a method).

What is in the folder's results.jsonl is not done again, so that the same command goes on where time was over; what was
not run is named in the last line. No part stops the others. `--device cpu` tries the script itself, with small presets.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autolmk.cli import plan_and_preprocess
from autolmk.data.preprocessing import preprocess_image
from autolmk.fingerprint import Fingerprint
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.methods.trainer import Trainer, trainer_class
from autolmk.networks import grouped, precision
from autolmk.networks.precision import MixedPrecision, Precision
from autolmk.phantom import write_phantom
from autolmk.planning.memory import GIB, random_batch, training_bytes
from autolmk.planning.planner import plan_dataset, planner_class
from autolmk.planning.request import PlanRequest
from autolmk.plans import Plans
from autolmk.prediction.first_look import Look, look_first
from autolmk.prediction.stage import Member, Prepared, Stage, evaluating
from autolmk.training.schedule import Limits
from autolmk.training.state import Run

METHODS = ("heatmap", "apga", "coarse_to_fine", "global_to_local")
PARTS = ("environment", "plans", "layout", "step", "parity", "predict", "train", "data")
DATASET = "Dataset001_Phantom"
HEAD_MM, HEAD_SPACING = 200.0, 0.7  # of the image that plans are made for
CT = (400, 512, 512)
PHANTOM_SECONDS, DATA_SECONDS = 40, 180  # of training a method
SPARE = 20.0  # s that a training needs beside its own time

Task = tuple[str, str, float, Callable[[], dict[str, Any]]]  # part, which one, seconds that must be left, work


class Bench:
    """What is measured, where, and how long."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        self.folder: Path = args.folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "results.jsonl"
        self.end = time.monotonic() + args.seconds
        self.places = [t for n in ("raw", "preprocessed", "results") for t in (f"--{n}", str(self.folder / n))]

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def say(self, part: str, which: str, **values: Any) -> None:
        """A line on stdout and in the file."""
        line = json.dumps({"part": part, "which": which, **values}, default=str)
        print(line, flush=True)
        with self.file.open("a") as stream:
            stream.write(line + "\n")

    def known(self) -> set[tuple[str, str]]:
        """What earlier calls have done."""
        lines = self.file.read_text().splitlines() if self.file.is_file() else []
        found = [json.loads(line) for line in lines]
        return {(one["part"], one["which"]) for one in found if "failed" not in one}

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def milliseconds(self, work: Callable[[], object]) -> float:
        """Of one call, the median of some after some that warm up."""
        for _ in range(self.args.warm):
            work()
        found = []
        for _ in range(self.args.repeats):
            self.synchronize()
            start = time.perf_counter()
            work()
            self.synchronize()
            found.append(1e3 * (time.perf_counter() - start))
        return round(statistics.median(found), 3)

    # -- plans --------------------------------------------------------------------------------------------------------

    def fingerprint(self) -> Fingerprint:
        """Of the phantom, which is written and measured when it is first asked for."""
        raw = self.folder / "raw" / DATASET
        file = self.folder / "preprocessed" / DATASET / "dataset_fingerprint.json"
        if not file.is_file():
            write_phantom(raw, n_train=self.args.cases, n_test=2, size=self.args.phantom)
            options = ["-device", self.args.device, "-np", "0", "--preset", self.args.presets[0]]
            plan_and_preprocess.main(["-d", "1", "-pl", *self.args.methods, *options, *self.places])
        return Fingerprint.load(file)

    def plans(self, preset: str, landmarks: int) -> Plans:
        """Of a head with that many landmarks; kept in the folder, as planning takes longer than a step."""
        file = self.folder / "plans" / f"{preset}_{landmarks}.json"
        if not file.is_file():
            planners = {name: planner_class(name)() for name in self.args.methods}
            head = a_head(self.fingerprint(), landmarks)
            request = PlanRequest.of(head, self.device.type, preset=preset)
            file.parent.mkdir(exist_ok=True)
            plan_dataset(request, planners, plans_name="gpu", leave_out=True).save(file)
        return Plans.load(file)

    def trainers(self, preset: str, landmarks: int) -> Iterator[tuple[str, Trainer]]:
        """Of all stages of all methods."""
        plans = self.plans(preset, landmarks)
        for name, configuration in plans.configurations.items():
            yield name, trainer_class(configuration.trainer)(plans, configuration)


def a_head(found: Fingerprint, landmarks: int) -> Fingerprint:
    """Of images of a head with so many landmarks, otherwise as `found`."""
    names = tuple(f"L{i}" for i in range(landmarks))
    grown = HEAD_MM / max(found.median_extent)
    one = next(iter(found.landmark_statistics.values()))
    return dataclasses.replace(
        found,
        median_spacing=(HEAD_SPACING,) * 3,
        median_extent=tuple(grown * e for e in found.median_extent),
        max_extent=tuple(grown * e for e in found.max_extent),
        landmarks=names,
        landmark_statistics=dict.fromkeys(names, one),
        pairs=(),
        midline=(),
        mirror=None,
        mean_shape={},
        co_slice_groups=(),
    )


# -- parts -------------------------------------------------------------------------------------------------------------


def environment(bench: Bench) -> dict[str, Any]:
    """Versions and the card."""
    values: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version(), "device": bench.device}
    if bench.device.type == "cuda":
        card = torch.cuda.get_device_properties(bench.device)
        values |= {"card": card.name, "gib": round(card.total_memory / GIB, 1), "cuda": torch.version.cuda}
        values |= {"cudnn": torch.backends.cudnn.version(), "built_for": torch.cuda.get_arch_list()}
        values["capability"] = torch.cuda.get_device_capability(bench.device)
    return {**values, "precision": Precision(bench.device, training=True).describe()}


def planned(bench: Bench, preset: str, landmarks: int) -> dict[str, Any]:
    """Patch, batch and planned GiB of each stage."""
    found = {}
    for name, trainer in bench.trainers(preset, landmarks):
        c = trainer.configuration
        found[name] = [c.patch_size, c.batch_size, round(training_bytes(trainer, c.batch_size).total / GIB, 3)]
    return found


def layout(bench: Bench, kind: str) -> dict[str, Any]:
    """Milliseconds of a step of four convolutions with norms: `precision.CHANNELS_LAST` and `grouped.GROUPED`."""
    how, n = Precision(bench.device, training=True), bench.args.width
    groups = bench.args.landmarks[-1] if kind == "groups" else 1
    side = bench.args.patch // (3 if kind == "groups" else 1)
    norm = {"group norm": lambda c: nn.GroupNorm(c // 8, c)}.get(kind, lambda c: nn.InstanceNorm3d(c, affine=True))
    found = {}
    for setting in (False, True):
        precision.CHANNELS_LAST = setting if kind != "groups" else False
        grouped.GROUPED = setting if kind == "groups" else True
        blocks = [
            part
            for _ in range(4)
            for part in (
                grouped.CONVOLUTIONS[3](groups * n, groups * n, 3, padding=1, bias=False, groups=groups),
                norm(groups * n),
                nn.LeakyReLU(inplace=True),
            )
        ]
        network = how.place(nn.Sequential(*blocks))
        forward = MixedPrecision(network, bench.device, how.dtype)
        data = torch.randn(1, groups * n, side, side, side, device=bench.device)
        found[setting] = bench.milliseconds(lambda forward=forward, data=data: forward(data).sum().backward())
    precision.CHANNELS_LAST, grouped.GROUPED = DEFAULTS
    return {"off_ms": found[False], "on_ms": found[True], "channels": n, "side": side, "groups": groups}


DEFAULTS = (precision.CHANNELS_LAST, grouped.GROUPED)


def step(bench: Bench, name: str, trainer: Trainer) -> dict[str, Any]:
    """Memory and time of training's own step."""
    c, cuda = trainer.configuration, bench.device.type == "cuda"
    estimate = training_bytes(trainer, c.batch_size)
    values: dict[str, Any] = {
        "patch": c.patch_size,
        "batch": c.batch_size,
        "planned_gib": round(estimate.total / GIB, 3),
    }
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(trainer, Path(folder), bench.device, 0, Limits(10**6, None), 0)
    batch = {**random_batch(trainer, c.batch_size, device="cpu"), "cases": ["case"] * c.batch_size}
    values["step_ms"] = bench.milliseconds(lambda: run.step(batch))
    if cuda:
        peak = torch.cuda.max_memory_allocated(bench.device)
        values |= {"peak_gib": round(peak / GIB, 3), "planned_over_peak": round(estimate.total / peak, 3)}
        values |= {"reserved_gib": round(torch.cuda.max_memory_reserved(bench.device) / GIB, 3)}
        busy, kernels = profiled(bench, lambda: run.step(batch))
        values |= {"busy_share": round(busy / values["step_ms"], 3), "kernels": kernels}
    data = run.on_device(batch)
    values["bare_ms"] = bench.milliseconds(lambda: bare(run, data))
    values["step_over_bare"] = round(values["step_ms"] / values["bare_ms"], 3)
    if cuda and bench.args.compile:
        start = time.perf_counter()
        run.compile(batch)
        values |= {
            "compile_s": round(time.perf_counter() - start, 1),
            "compiled": run.forward.network is not run.network,
        }
        values["compiled_step_ms"] = bench.milliseconds(lambda: run.step(batch))
        torch._dynamo.reset()
    run.look()
    return {**values, "loss": run.last_loss}


def bare(run: Run, data: dict[str, Tensor]) -> None:
    """Forward and backward of the network alone."""
    output = run.forward(data["data"], *((data["landmarks"],) if "landmarks" in data else ()))
    leaves = [t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
    torch.autograd.backward(leaves, [torch.ones_like(t) for t in leaves])


def profiled(bench: Bench, work: Callable[[], object]) -> tuple[float, list[tuple[str, float]]]:
    """Milliseconds in which the device computes, and the kernels that take most of them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
        bench.synchronize()
    events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
    most = [(event.key[:60], round(event.self_device_time_total / 1e3, 3)) for event in events[:6]]
    return sum(event.self_device_time_total for event in events) / 1e3, most


def parity(bench: Bench, name: str, trainer: Trainer) -> dict[str, Any]:
    """How far the same untrained weights' points lie apart, on the CPU in float32 and on the device as it computes."""
    c = trainer.configuration
    small = dataclasses.replace(c, batch_size=1)
    torch.manual_seed(0)
    network = trainer.prediction_network(trainer.build_network()).eval()
    codec, batch, found = trainer.build_codec(), random_batch(type(trainer)(trainer.plans, small), 1, device="cpu"), []
    for device in (torch.device("cpu"), bench.device):
        how = Precision(device)
        forward, decoder = MixedPrecision(how.place(network), device, how.dtype), codec.to(device)
        which = (how.tensor(batch["landmarks"]),) if "landmarks" in batch else ()
        with torch.inference_mode():
            scores = decoder.scores(forward(how.tensor(batch["data"]), *which), *which)
            found.append((scores.float().cpu(), decoder.decode(scores).voxels[:, :, 0]))
    (ours, points), (theirs, moved) = found
    apart = (points - moved).norm(dim=-1)
    same = apart < 0.5
    return {
        "scores_off": float((ours - theirs).abs().max()),
        "scores_deviation": float(ours.std()),
        "same_peak": float(same.double().mean()),
        "voxels_apart_at_most": float(apart[same].max()) if same.any() else None,
    }


def predict(bench: Bench) -> dict[str, Any]:
    """A large CT by a heatmap's plan: seconds of each part."""
    plans = bench.plans(bench.args.presets[-1], bench.args.landmarks[0])
    name = next(iter(plans.configurations))
    c = plans.configurations[name]
    trainer = trainer_class(c.trainer)(plans, c)
    shape = CT if bench.args.image is None else (bench.args.image,) * 3
    spacing = [HEAD_MM / n for n in shape]
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    start = time.perf_counter()
    image = Prepared(*preprocess_image(Image(array, Geometry.from_parts(shape, spacing)), c))
    prepared = time.perf_counter() - start
    how = Precision(bench.device)
    network = how.place(trainer.prediction_network(trainer.build_network())).eval()
    member = Member(network, trainer.build_codec().to(bench.device).eval())
    stage = Stage(plans, c, (member,), (), bench.device, mirror=False)
    look = Look(stage, image)
    with torch.inference_mode(), evaluating([member]):
        scores = look.scores((0,) * 3)
        window = bench.milliseconds(lambda: look.scores((0,) * 3))
        decoding = bench.milliseconds(lambda: member.codec.decode(scores))
    start = time.perf_counter()
    found = look_first(dataclasses.replace(stage, mirror=True), image)
    bench.synchronize()
    whole = time.perf_counter() - start
    values = {"shape": shape, "configuration": name, "prepare_s": prepared, "predict_s": whole, "windows": found.looks}
    return {**values, "window_ms": window, "decode_ms": decoding}


def train(bench: Bench, dataset: str, method: str, seconds: float) -> dict[str, Any]:
    """The commands train and predict a method on a dataset."""
    device = ["-device", bench.args.device]
    arguments = [dataset, method, "0", "--max-time", f"{seconds:g}s", "--workers", str(bench.args.workers), *device]
    raw = bench.folder / "raw" if dataset == "1" else None
    places = bench.places if raw else []
    found: dict[str, Any] = {"training": command("train", [*arguments, "--no-compile", *places], bench.left())}
    if raw and found["training"]["code"] == 0:
        folders = ["-i", str(raw / DATASET / "imagesTs"), "-o", str(bench.folder / f"points_{method}")]
        options = [*folders, "-d", dataset, "-c", method, "-f", "0", *device, *places]
        found["prediction"] = command("predict", options, bench.left())
    return found


def command(name: str, arguments: Sequence[str], limit: float) -> dict[str, Any]:
    """Of a command in a process of its own: exit code, seconds, last lines."""
    start = time.monotonic()
    code = f"import sys; from autolmk.cli.{name} import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=max(SPARE, limit)
    )
    said = (done.stdout + done.stderr).strip().splitlines()[-4:]
    return {"code": done.returncode, "seconds": round(time.monotonic() - start, 1), "said": said}


# -- all of it ---------------------------------------------------------------------------------------------------------


def tasks(bench: Bench) -> Iterator[Task]:
    """In the order in which they tell most."""
    args, here = bench.args, bench.device.type
    yield "environment", here, 0, lambda: environment(bench)
    for preset, landmarks in ((p, n) for n in args.landmarks for p in args.presets):
        yield "plans", f"{preset}, {landmarks} landmarks", 20, lambda p=preset, n=landmarks: planned(bench, p, n)
    for kind in ("instance norm", "group norm", "groups"):
        yield "layout", kind, 5, lambda kind=kind: layout(bench, kind)
    for preset, landmarks in ((p, n) for n in args.landmarks for p in args.presets):
        if "step" in args.parts and bench.left() > 0:
            for name, trainer in bench.trainers(preset, landmarks):
                which = f"{preset}, {landmarks} landmarks, {name}"
                yield (
                    "step",
                    which,
                    60 if here == "cuda" and args.compile else 10,
                    lambda name=name, trainer=trainer: step(bench, name, trainer),
                )
    if "parity" in args.parts and bench.left() > 0:
        for name, trainer in bench.trainers(args.presets[0], args.landmarks[0]):
            yield "parity", name, 5, lambda name=name, trainer=trainer: parity(bench, name, trainer)
    yield "predict", "a large CT", 20, lambda: predict(bench)
    for method in args.methods:
        seconds = args.train_seconds or PHANTOM_SECONDS
        yield "train", method, seconds + SPARE, lambda m=method, s=seconds: train(bench, "1", m, s)
    for method in args.methods if args.data else ():
        seconds = args.train_seconds or DATA_SECONDS
        yield "data", method, seconds + SPARE, lambda m=method, s=seconds: train(bench, args.data, m, s)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what has not been run; 1 where something failed."""
    args = arguments(argv)
    bench, not_run, failed = Bench(args), [], 0
    known = bench.known()
    for part, which, least, work in tasks(bench):
        if part not in args.parts or (part, which) in known:
            continue
        if bench.left() < least:
            not_run.append(f"{part}: {which}")
            continue
        start = time.monotonic()
        try:
            values = work()
        except Exception as error:
            failed += 1
            values = {"failed": f"{type(error).__name__}: {error}"[:500], "where": traceback.format_exc()[-500:]}
        bench.say(part, which, **values, seconds=round(time.monotonic() - start, 2))
    parts_left_out = [part for part in PARTS if part not in args.parts or (part == "data" and not args.data)]
    over = ["further parts: time was over before they were planned"] if bench.left() < 0 else []
    print(json.dumps({"part": "end", "not_run": not_run + over, "parts_left_out": parts_left_out}), flush=True)
    return 1 if failed else 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="results and intermediate files")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--presets", nargs="+", default=["M", "L", "S", "XL"])
    parser.add_argument("--landmarks", nargs="+", type=int, default=[45, 8, 120])
    parser.add_argument(
        "--data", help="number of a dataset that is planned and preprocessed, in the folders' variables"
    )
    parser.add_argument("--train-seconds", type=float, help="a method, instead of 40 on the phantom and 180 on data")
    parser.add_argument("--workers", type=int, default=4, help="processes that load")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--cases", type=int, default=12, help="of the phantom")
    parser.add_argument("--phantom", type=int, default=80, help="voxels a side")
    parser.add_argument("--image", type=int, help="voxels a side of what is predicted, instead of 512 x 512 x 400")
    parser.add_argument("--patch", type=int, default=96, help="voxels a side in `layout`")
    parser.add_argument("--width", type=int, default=32, help="channels in `layout`")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    args = parser.parse_args(argv)
    if not math.isfinite(args.seconds) or args.seconds <= 0:
        parser.error("--seconds must be above 0")
    return args


if __name__ == "__main__":
    sys.exit(main())
