"""A trained model on its own test images, changed: more or less in view, other grey values, other grids and poses.

    python benchmarks/unlike.py [--data FOLDER NAME] [--model FOLDER] [--configuration heatmap] [--max-time 15m]
                                [--cases N] [--seed 0] [--folder benchmark_output/unlike]

Without --data on a phantom: `phantom` in 3D (the default), or `phantom_2d`. FOLDER/NAME is as in `real_data.py`.
Where no --model is given, autolmk_run trains fold 0 of one configuration for --max-time, chooses the steps that follow
and packs them, so that points have flags; --model is a model's folder or a packed one, of the same dataset. The changes
are those of `changes.py`, the same for the same seed; each leaves the anatomy what it is, and those that an image
without physical size cannot have are left out.

Every change's points are kept in a table below --folder, and finished ones are not predicted again. An error is
relative to that of the same points of the unchanged images. A gross error is one of more than ten voxels of the
unchanged image; it is flagged where anything is said of its case or of its point. Points that are cut off are counted
by themselves: whether they are called absent, which only landmarks can that some training case lacks, or flagged.

Exit code 1 where errors grow by more than a change's bound (1.2; 1.5 for gamma, noise, twice the spacing and twice the
rotation), or a gross error is not flagged. Where a channel has an absolute scale, such as CT, other grey values are
other matter: the errors have no bound there, only the flags.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from changes import Kind, Source, changes_for
from real_data import build_raw, command
from tqdm import tqdm

from autolmk import Predictor
from autolmk.dataset import Dataset
from autolmk.geometry import FloatArray
from autolmk.image import Image
from autolmk.landmarks import Status
from autolmk.paths import BEST
from autolmk.phantom import write_phantom
from autolmk.prediction.predictor import ABSOLUTE

MAX_TIME = {"mouse_ct_small": "25m", "fly_wing": "10m", "phantom": "25m", "phantom_2d": "5m"}
GROSS = 10.0  # voxels
PHANTOMS = {
    "phantom": {"n_train": 20, "n_test": 6, "size": 48},
    "phantom_2d": {"n_train": 40, "n_test": 10, "size": 64, "ndim": 2},
}
COLUMNS = (
    "case",
    "landmark",
    "error",
    "gross",
    "flagged",
    "gone",
    "absent",
)  # error: mm or px, empty where none counts
FIRST = "as it is"


def main() -> int:
    """Train if need be, predict all changes, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "name", nargs="?", default="phantom", help="folder below --data; without --data phantom or phantom_2d"
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path, help="a model's folder or a packed one; default: train one")
    parser.add_argument("--configuration", default="heatmap", help="to train")
    parser.add_argument("--max-time", help="of training; default: 25m, 10m for fly_wing, 5m for phantom_2d")
    parser.add_argument("--cases", type=int, help="test cases, the first ones; default: all")
    parser.add_argument("--changes", nargs="+", help="names of changes; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of training and of the changes")
    parser.add_argument("--folder", type=Path, default=Path("benchmark_output/unlike"))
    arguments = parser.parse_args()
    if (arguments.data is None) != (arguments.name in PHANTOMS):
        parser.error("--data FOLDER and a name below it belong together; without both a phantom is taken")
    work = (arguments.folder / arguments.name).resolve()
    dataset = make_dataset(arguments.data, arguments.name, work)
    model = arguments.model or trained(dataset, work, arguments)
    predictor = Predictor(model, device="cpu")
    changes = changes_for(ndim=predictor.plans.ndim, physical=predictor.plans.unit == "mm")
    unknown = set(arguments.changes or ()) - set(changes)
    if unknown:
        parser.error(f"no such change of these images: {', '.join(sorted(unknown))}; there are: {', '.join(changes)}")
    changes = {n: kind for n, kind in changes.items() if n == FIRST or n in (arguments.changes or changes)}
    tables = predict(predictor, dataset, changes, work, arguments)
    return report(arguments.name, predictor, tables, changes)


def make_dataset(data: Path | None, name: str, work: Path) -> Dataset:
    """The raw dataset, built where it is not there yet."""
    if data is not None:
        return Dataset.open(build_raw(data / name, work / "raw", name))
    folder = work / "raw" / f"Dataset001_{name}"
    if not (folder / "dataset.json").is_file():
        write_phantom(folder, **PHANTOMS[name])
    return Dataset.open(folder)


def trained(dataset: Dataset, work: Path, arguments: argparse.Namespace) -> Path:
    """A packed model of one configuration and fold, trained where that is not done yet."""
    place = work / f"{arguments.configuration}_{arguments.seed}"
    for part, folder in (("raw", work), ("preprocessed", place), ("results", place)):
        os.environ[f"autolmk_{part}"] = str(folder / part)
    length = arguments.max_time or MAX_TIME.get(arguments.name, "25m")
    packed = place / "results" / dataset.folder.name / BEST
    if not packed.is_dir():
        choice = ("-c", arguments.configuration, "-f", "0", "--seed", str(arguments.seed), "--preset", "XS")
        command("run", "1", *choice, "--max-time", length, "--until", "find_best")
    return packed


def predict(
    predictor: Predictor, dataset: Dataset, changes: dict[str, Kind], work: Path, arguments: argparse.Namespace
) -> dict[str, list[dict[str, str]]]:
    """The rows of each change, kept below `work` by model, seed and cases."""
    cases = dataset.cases("Ts")[: arguments.cases]
    also = repr((predictor.recipe, predictor.training_range and predictor.training_range.fingerprint))
    key = json.dumps([predictor.digests, also, arguments.seed, [case.identifier for case in cases]], sort_keys=True)
    place = work / f"changed_{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    files = {name: place / f"{i:02d}_{name.replace(' ', '_').replace(',', '')}.csv" for i, name in enumerate(changes)}
    left = {name: kind for name, kind in changes.items() if not files[name].is_file()}
    images = [
        (case.identifier, *_read(predictor, dataset, case))
        for case in tqdm(cases if left else [], "reading", unit="case")
    ]
    bar = tqdm(total=len(left) * len(images), desc="predicting", unit="image")
    for name, kind in left.items():
        rows = []
        for i, (case, image, points) in enumerate(images):
            source = Source(_rng(arguments.seed, case, name), images[i - 1][1], twice_the_rotation(predictor))
            rows += list(judged(predictor, case, image, points, kind, source))
            bar.update()
        partial = files[name].with_suffix(".part")
        with open(partial, "w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        partial.rename(files[name])
    bar.close()
    return {name: list(csv.DictReader(file.read_text().splitlines())) for name, file in files.items()}


def _read(predictor: Predictor, dataset: Dataset, case: Any) -> tuple[Image, FloatArray]:
    """(image, (L, P) points in the plans' order, NaN where no landmark is)."""
    image = predictor.read(list(case.images), case.identifier)
    return image, dataset.read_landmarks(case, image.geometry).reordered(predictor.plans.landmarks).points


def _rng(seed: int, case: str, change: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(case.encode()), zlib.crc32(change.encode())])


def twice_the_rotation(predictor: Predictor) -> float:
    """Degrees: twice the largest angle about an axis that training turned images by, at most half a turn."""
    return min(2 * max(predictor.models[0].stages[0].configuration.augmentation.rotation), 180.0)


def judged(
    predictor: Predictor, case: str, image: Image, points: FloatArray, kind: Kind, source: Source
) -> Iterator[dict[str, Any]]:
    """A row a landmark that is in the unchanged image: predicted in the changed one."""
    changed = kind.apply(image, points, source)
    prepared = predictor.prepare(changed.image)
    prediction = predictor.conclude(predictor.look(prepared), predictor.outside(changed.image))
    marks, best = prediction.landmarks, prediction.best()
    reasons = ((),) * len(best) if prediction.conclusion is None else prediction.conclusion.flags
    voxel = float(np.exp(np.mean(np.log(image.geometry.spacing))))
    nowhere = float(np.hypot.reduce(changed.image.geometry.extent))  # the error of a point that has no place
    for i, name in enumerate(marks.names):
        if not np.isfinite(points[i]).all():
            continue
        gone = not np.isfinite(changed.points[i]).all()
        error = float(np.linalg.norm(best[i] - changed.points[i]))
        error = nowhere if np.isnan(error) else error
        yield {
            "case": case,
            "landmark": name,
            "error": "" if gone else error,
            "gross": int(not gone and error > GROSS * voxel),
            "flagged": int(bool(marks.outside or reasons[i])),
            "gone": int(gone),
            "absent": int(marks.status[i] != Status.PRESENT),
        }


def report(name: str, predictor: Predictor, tables: dict[str, list[dict[str, str]]], changes: dict[str, Kind]) -> int:
    """Print the table; the exit code."""
    native = {(row["case"], row["landmark"]): float(row["error"]) for row in tables[FIRST]}
    absolute = any(n.scheme in ABSOLUTE for n in predictor.models[0].configuration.normalization)
    unit, met = predictor.plans.unit, []
    print(f"\n{name}, {len({case for case, _ in native})} test cases, {len(native)} points; {predictor.model_folder}\n")
    head = (f"change, MRE {unit}", "times native", "bound", "over 10 voxels", "of them not flagged", "points flagged")
    print(f"| {' | '.join(', '.join(head).split(', '))} | cut off | of them absent | of them flagged | |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for change, kind in changes.items():
        bound = float("inf") if change == FIRST or (kind.scale and absolute) else kind.ratio
        cells, holds = line(tables[change], native, bound)
        met.append(holds)
        print(f"| {' | '.join([change, *cells, 'met' if holds else 'MISSED'])} |")
    print(f"\n{sum(met)} of {len(met)} within their bounds")
    return int(not all(met))


def line(rows: list[dict[str, str]], native: dict[tuple[str, str], float], bound: float) -> tuple[list[str], bool]:
    """(cells of the table, whether the bounds are met) of one change."""
    here, gone = [row for row in rows if row["error"]], [row for row in rows if int(row["gone"])]
    error = share(here, "error")
    ratio = error / float(np.mean([native[row["case"], row["landmark"]] for row in here])) if here else float("nan")
    gross = [row for row in here if int(row["gross"])]
    unflagged = sum(not int(row["flagged"]) for row in gross)
    cells = [f"{error:.3f}", f"{ratio:.2f}", "none" if np.isinf(bound) else f"{bound:g}"]
    cells += [str(len(gross)), str(unflagged), f"{share(here, 'flagged'):.0%}", str(len(gone))]
    cells += [f"{share(gone, key):.0%}" if gone else "" for key in ("absent", "flagged")]
    return cells, ratio <= bound and unflagged == 0


def share(rows: list[dict[str, str]], key: str) -> float:
    """Mean of a column; NaN without rows."""
    return float(np.mean([float(row[key]) for row in rows])) if rows else float("nan")


if __name__ == "__main__":
    sys.exit(main())
