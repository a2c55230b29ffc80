"""Do the windows of later stages hold what the stage before errs, and do plans keep within their memory target?

    python benchmarks/windows.py [--data FOLDER] [--names fly_wing ...] [--results FOLDER] [--tables windows memory]

The first table: planned windows against misses. Of phantoms whose slices are 1, 5 and 12 times as thick as their
pixels, and with --data of real sets (as of `real_data.py`), plans of preset XS are made, and misses of three kinds are
drawn around the true landmarks: Gaussian ones of 0.5, 1 and 2 output voxels (cells) of the planned first stage, of
which 0, 3 and 10 % lie at another landmark. "Before" is a window of as many voxels along each axis, within the bounds
that plans had; "now" the first look's window as `stage_windows.measure_placement` has it, and each look's voxels, as a
multiple of the planned ones. With --results also what trained folds measured: each measured.json with errors there.

The second table, `memory`: every planner at each target on images and volumes, 5 to 120 landmarks. A plan keeps
within its target, or its planner raises; exit code 1 where neither is so, or where windows hold less than 97 % of the
misses and are smaller than the image.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

from fingerprints import a_fingerprint
from real_data import build_raw

from autolmk.check import check_dataset
from autolmk.data.stage_windows import COVERED, MARGIN, Placement, in_cubes, measure_placement
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json
from autolmk.fingerprint import Fingerprint
from autolmk.geometry import FloatArray, Geometry
from autolmk.networks.unet import cumulative_strides
from autolmk.phantom import make_phantom
from autolmk.planning.memory import GIB
from autolmk.planning.planner import PlanRequest, memory_of, plan_dataset, planner_class, usable_bytes
from autolmk.plans import Configuration, Plans

METHODS = ("heatmap", "apga", "coarse_to_fine", "global_to_local")
STAGED = METHODS[2:]
KINDS = {"close": (0.5, 0.0), "usual": (1.0, 0.03), "poor": (2.0, 0.1)}  # output voxels, share at another landmark
THICKNESS = {"phantom 1:1": 1.0, "phantom 5:1": 5.0, "phantom 12:1": 12.0}
SIDE, CASES = 80.0, 16  # mm of a phantom's field of view; phantoms
BEFORE = {2: (96, 128), 3: (24, 32)}  # voxels a side of coarse_to_fine's windows, at least and at most
BEFORE_LOCAL = 16  # of global_to_local's, at least
WORLDS: dict[str, dict[str, Any]] = {
    "2D": {"spacing": (1.0, 1.0), "shape": (480.0, 640.0), "nearest": 30.0},
    "3D 1:1": {"spacing": (1.0,) * 3, "shape": (160.0,) * 3, "nearest": 12.0},
    "3D 5:1": {"spacing": (2.5, 0.5, 0.5), "shape": (40.0, 320.0, 320.0), "nearest": 12.0},
    "3D 12:1": {"spacing": (6.0, 0.5, 0.5), "shape": (20.0, 320.0, 320.0), "nearest": 12.0},
}
LEAST_INSIDE = 0.97  # 1 % outside along each of three axes


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--names", nargs="+", default=None, help="default: every folder of --data")
    parser.add_argument("--results", type=Path, default=None, help="of trained folds")
    parser.add_argument("--work", type=Path, default=Path("benchmark_output/windows"))
    parser.add_argument("--tables", nargs="+", default=["windows"], choices=["windows", "memory"])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="of the second table")
    parser.add_argument("--images", nargs="+", default=list(WORLDS), choices=list(WORLDS), help="of the second table")
    parser.add_argument("--targets", nargs="+", type=float, default=[0.05, 0.1, 0.25, 0.5, 1.0], help="GiB")
    parser.add_argument("--landmarks", nargs="+", type=int, default=[5, 45, 120])
    arguments = parser.parse_args()
    good = windows(arguments) if "windows" in arguments.tables else True
    if "memory" in arguments.tables:
        good &= memory(arguments.images, arguments.methods, arguments.targets, arguments.landmarks)
    return 0 if good else 1


def windows(arguments: argparse.Namespace) -> bool:
    """Print the first table; whether windows hold the misses, or are as large as the image."""
    print("| set | method | misses | 99 % along the axes | before | inside | now | inside | looks |")
    print("|---|---|---|---|---|---|---|---|---|")
    good = [drawn(name, *world) for name, world in worlds(arguments)]
    if arguments.results is not None:
        good += [measured(file) for file in sorted(arguments.results.rglob("measured.json"))]
    return all(good)


def worlds(arguments: argparse.Namespace) -> Iterator[tuple[str, tuple[Fingerprint, FloatArray]]]:
    """(name, (fingerprint, true points (R, L, P) mm)) of phantoms and real sets."""
    made = [make_phantom(seed, size=int(SIDE)) for seed in range(CASES)]
    points = np.stack([p.image.geometry.frame().T @ (p.landmarks.points - p.image.geometry.centre).T for p in made])
    for name, ratio in THICKNESS.items():
        shape = (SIDE / ratio, SIDE, SIDE)
        truth = points.transpose(0, 2, 1) + SIDE / 2
        spacing = (ratio, 1.0, 1.0)
        yield name, (a_fingerprint(spacing=spacing, shape=shape, n_landmarks=truth.shape[1], nearest=12.0), truth)
    names = arguments.names or ([] if arguments.data is None else sorted(p.name for p in arguments.data.iterdir()))
    for name in names:
        report = check_dataset(build_raw(arguments.data / name, arguments.work / name, name), workers=1, progress=False)
        dataset = report.dataset
        assert dataset is not None
        marks = [dataset.read_landmarks(case, dataset.read_geometry(case)).points for case in dataset.cases()]
        yield name, (report.fingerprint(), np.stack(marks))


def drawn(name: str, fingerprint: Fingerprint, truth: FloatArray) -> bool:
    """Print a row for each method and kind of misses; whether all are held, or windows are as large as the image."""
    good = True
    for method in STAGED:
        plans = plan(fingerprint, method)
        first, last = (plans.configurations[stage] for stage in plans.chain(method))
        cell = max(s * o for s, o in zip(first.spacing, first.architecture.output_stride, strict=True))
        for kind, (size, share) in KINDS.items():
            found = _missed(truth, size * cell, share)
            shape = [max(1, round(e / s)) for e, s in zip(fingerprint.median_extent, last.spacing, strict=True)]
            geometry = Geometry.from_parts(shape, last.spacing)
            multiple = cumulative_strides(last.architecture.strides)[-1]
            cases = [str(i) for i in range(len(truth))]
            rest = ([geometry] * len(truth), last, None, multiple)
            placement = measure_placement(cases, list(found), list(truth), *rest)
            good &= row(name, method, kind, placement, last)
    return good


def _missed(truth: FloatArray, size: float, share: float) -> FloatArray:
    """(R, L, P) that lie off by a Gaussian of `size` mm an axis, and a share of them at another landmark."""
    rng = np.random.default_rng(0)
    found = truth + rng.normal(0, size, truth.shape)
    gross = rng.random(truth.shape[:2]) < share
    others = np.stack([points[rng.permutation(len(points))] for points in found])
    return np.where(gross[..., None], others, found)


def measured(file: Path) -> bool:
    """Print a row for a trained fold, where it measured a stage before it."""
    value = json.loads(file.read_text()).get("placement")
    config = file.parent / "config.json"
    if not value or not value["errors"] or not config.is_file():
        return True
    configuration = from_json(Configuration, json.loads(config.read_text())["configuration"])
    placement = from_json(Placement, value)
    return row(file.parent.name, configuration.trainer, "measured", placement, configuration)


def row(name: str, method: str, kind: str, placement: Placement, configuration: Configuration) -> bool:
    """Print it; whether the first look holds the misses, or nothing larger is left."""
    spacing = configuration.spacing
    looks = placement.looks(spacing, configuration.windows.rounds)
    errors = np.array(placement.errors, dtype=np.float64).reshape(-1, len(placement.errors[0][0]))
    covered = np.nanpercentile(np.abs(errors), COVERED, axis=0)[: len(spacing)][::-1]
    before = Placement(
        _cube(placement, configuration, float(np.nanpercentile(np.abs(errors), COVERED))), 1.0, placement.errors
    )
    now = 1 - placement.outside(looks[0])
    print(
        f"| {name} | {method} | {kind} | {listed(covered)} | {listed(np.multiply(before.side, spacing))} | "
        f"{1 - before.outside(spacing):.1%} | {listed(np.multiply(placement.side, looks[0]))} | {now:.1%} | "
        f"{', '.join(f'{look[-1] / spacing[-1]:.2f}' for look in looks)} |"
    )
    return now >= LEAST_INSIDE or "outside" in placement.why


def _cube(placement: Placement, configuration: Configuration, covered: float) -> tuple[int, ...]:
    """Voxels of a window as it was before: as many along each axis, at most the plan's bound, whatever is measured."""
    spacing, planned = configuration.spacing, placement.longest or configuration.patch_size
    local = "cells" in configuration.trainer
    least, most = (BEFORE_LOCAL, 0) if local else BEFORE[len(spacing)]
    most = most if len(set(planned)) > 1 else planned[0]
    sides = []
    for n, s, around in zip(planned, spacing, in_cubes(MARGIN, spacing), strict=True):
        bound = n + 2 * (MARGIN - around) if local else most
        sides.append(int(min(bound, max(least, np.ceil(2 * (covered / s + MARGIN))))))
    return tuple(sides)


def listed(values: Sequence[float] | FloatArray) -> str:
    """For a cell of the table."""
    return " x ".join(f"{v:.3g}" for v in values)


def plan(fingerprint: Fingerprint, method: str, target: float | None = None) -> Plans:
    """Of preset XS on a CPU."""
    planners = {method: planner_class(method)()}
    return plan_dataset(PlanRequest.of(fingerprint, "cpu", memory_target_gb=target), planners, plans_name="benchmark")


def memory(images: Sequence[str], methods: Sequence[str], targets: Sequence[float], landmarks: Sequence[int]) -> bool:
    """Print what plans take of each target; whether each keeps within it or raises."""
    print("\n| images | landmarks | method | " + " | ".join(f"{t:g} GiB" for t in targets) + " |")
    print("|---|---|---|" + "---|" * len(targets))
    good = True
    for world in images:
        for n in landmarks:
            fingerprint = a_fingerprint(**WORLDS[world], n_landmarks=n)
            for method in methods:
                cells = [_taken(fingerprint, method, target) for target in targets]
                good &= all(taken is None or taken <= t for taken, t in zip(cells, targets, strict=True))
                shown = " | ".join("raises" if taken is None else f"{taken:.3f}" for taken in cells)
                print(f"| {world} | {n} | {method} | {shown} |", flush=True)
    return good


def _taken(fingerprint: Fingerprint, method: str, target: float) -> float | None:
    """GiB that training the dearest stage takes; None where the planner raises."""
    try:
        planned = plan(fingerprint, method, target).configurations.values()
    except AutolmkError:
        return None
    assert usable_bytes("cpu", target) == target * GIB
    return max(memory_of(fingerprint, c, "cpu", c.batch_size).total for c in planned) / GIB


if __name__ == "__main__":
    sys.exit(main())
