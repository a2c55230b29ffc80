"""A dataset with everything that a report shows, made in seconds without training: a phantom, plans, two models with
logs and held-out predictions, a packed model, and evaluated predictions of test cases."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from crossvals import detections_at

from autolmk.annotations import Annotation
from autolmk.annotations.csv import table_rows, write_rows, write_table
from autolmk.cli import evaluate as evaluate_command
from autolmk.cli.plan_and_preprocess import main as plan
from autolmk.dataset import Dataset
from autolmk.evaluation import Evaluation, evaluate
from autolmk.evaluation.measurements import write_measurements
from autolmk.files.serialization import read_json, write_json
from autolmk.geometry import Geometry
from autolmk.imageio import read_geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.paths import Folders, folders
from autolmk.phantom import write_phantom
from autolmk.plans import Plans
from autolmk.report.reviewing import OUTSIDE
from autolmk.selection.results import REVIEW, REVIEW_COLUMNS

COLUMNS = ("case", "landmark", "x", "y", "z", "status", "likelihood", "log_odds", "error_radius")
MEASUREMENTS = {
    "eyes": {"distance": ["Eye_L", "Eye_R"]},
    "ears": {"distance": ["Ear_L", "Ear_R"]},
    "eyes by ears": {"ratio": ["eyes", "ears"]},
    "gaze": {"angle": ["Eye_L", "Pituitary", "Eye_R"]},
}
CONFIGURATIONS = {"heatmap": 0.6, "global_to_local": 0.5}  # name -> size of its errors
LEVEL = 0.9


@dataclass(frozen=True)
class ReportData:
    """folders: of the dataset `name`."""

    folders: Folders
    name: str

    @property
    def results(self) -> Path:
        return self.folders.results / self.name

    @property
    def arguments(self) -> list[str]:
        """That any command takes to find the folders."""
        places = {"raw": self.folders.raw, "preprocessed": self.folders.preprocessed, "results": self.folders.results}
        return [part for name, folder in places.items() for part in (f"--{name}", str(folder.path))]


def write_report_data(place: Path, *, ndim: int, n_train: int = 15, n_test: int = 6, size: int = 40) -> ReportData:
    """Below `place`; the annotation of Pituitary in the third training case is 9 off."""
    data = ReportData(
        folders(*(place / name for name in ("raw", "preprocessed", "results"))), f"Dataset00{ndim}_Phantom"
    )
    raw = data.folders.raw / data.name
    write_phantom(raw, ndim=ndim, n_train=n_train, n_test=n_test, size=size)
    description = read_json(raw / "dataset.json")
    write_json(raw / "dataset.json", description | {"measurements": MEASUREMENTS})
    _misplace(raw, "Pituitary")
    methods = ["-pl", *CONFIGURATIONS, "--preset", "XS", "-device", "cpu", "-np", "0", "--no_preprocessing"]
    assert plan(["-d", data.name, *methods, *data.arguments]) == 0
    dataset = Dataset.open(raw)
    held_out, test = (_cases(dataset, split) for split in ("Tr", "Ts"))
    evaluations = {name: _model(data, name, error, held_out) for name, error in CONFIGURATIONS.items()}
    _best(data, dataset, held_out, evaluations)
    _predictions(data, dataset, test)
    return data


_Cases = dict[str, tuple[Landmarks, Geometry]]


def _misplace(raw: Path, landmark: str) -> None:
    """In the third case."""
    file = sorted((raw / "landmarksTr").iterdir())[2]
    if file.suffix == ".csv":
        lines = file.read_text().splitlines()
        i = next(i for i, line in enumerate(lines) if line.startswith(landmark))
        name, x, *rest = lines[i].split(",")
        lines[i] = ",".join([name, str(float(x) + 9), *rest])
        file.write_text("\n".join(lines) + "\n")
    else:
        content = json.loads(file.read_text())
        point = next(c for c in content["markups"][0]["controlPoints"] if c["label"] == landmark)
        point["position"][0] += 9
        file.write_text(json.dumps(content))


def _cases(dataset: Dataset, split: str) -> _Cases:
    found = {}
    for case in dataset.cases("Tr" if split == "Tr" else "Ts"):
        geometry = read_geometry(case.images[0])
        found[case.identifier] = dataset.read_landmarks(case, geometry), geometry.canonical()
    return found


def _found(cases: _Cases, error: float, seed: int) -> dict[str, Landmarks]:
    """Truth plus errors of lognormal size, an error radius that mostly holds, and likelihoods."""
    rng, result = np.random.default_rng(seed), {}
    for i, (case, (truth, geometry)) in enumerate(cases.items()):
        size = error * np.exp(0.3 * rng.normal(size=(len(truth.names), 1)))
        points = np.where(truth.present[:, None], truth.points, geometry.centre)
        if i == 2 and "Pituitary" in truth.names and error in CONFIGURATIONS.values():
            points[truth.names.index("Pituitary"), 0] -= 9
        points = points + size * rng.normal(size=points.shape)
        absent = truth.status == Status.ABSENT
        likelihood = np.where(absent, rng.uniform(0, 0.6, len(absent)), rng.uniform(0.4, 1, len(absent)))
        likelihood[~absent & (truth.status == Status.PRESENT)] = rng.uniform(0.6, 1, int(truth.present.sum()))
        radius = 2.4 * size[:, 0] * rng.uniform(0.9, 1.1, len(size))
        status = np.full(len(size), Status.PRESENT, dtype=np.int8)
        result[case] = Landmarks(truth.names, points, status, likelihood, radius)
    return result


def _called(found: Landmarks, plans: Plans) -> Landmarks:
    absent = (found.likelihood < 0.5) & np.isin(found.names, plans.sometimes_absent)
    return replace(found, status=np.where(absent, Status.ABSENT, Status.PRESENT).astype(np.int8), points=found.points)


def _table(folder: Path, cases: dict[str, Landmarks], plans: Plans) -> None:
    rows = []
    for case, found in cases.items():
        rows += table_rows(
            case, _called(found, plans), COLUMNS, best=found.points, more={"log_odds": found.likelihood.tolist()}
        )
    write_rows(folder / "landmarks.csv", COLUMNS, rows)


def _judged(cases: _Cases, found: dict[str, Landmarks], plans: Plans) -> Evaluation:
    truth = {case: cases[case][0] for case in found}
    said = {
        case: Annotation(marks.names, marks.points, _called(marks, plans).status, "LPS", marks.likelihood)
        for case, marks in found.items()
    }
    return evaluate(truth, said, pairs=plans.pairs, unit=plans.unit, n_resamples=200)


def _write_evaluation(folder: Path, result: Evaluation) -> None:
    write_json(folder / "summary.json", {k: v for k, v in vars(result).items() if k != "points"})
    evaluate_command._write_csv(folder / "points.csv", map(vars, result.points))


def _model(data: ReportData, name: str, error: float, cases: _Cases) -> Evaluation:
    """A model's folder with three folds: logs of all stages, held-out predictions."""
    preprocessed = data.folders.preprocessed / data.name
    plans = Plans.load(preprocessed / "autolmkPlans.json")
    configuration = plans.configuration(name)
    folder = data.results / f"{configuration.trainer}__autolmkPlans__{name}"
    folder.mkdir(parents=True)
    shutil.copy(preprocessed / "autolmkPlans.json", folder / "plans.json")
    found = _found(cases, error, seed=sum(map(ord, name)))
    names = list(cases)
    for fold in range(3):
        chain = plans.chain(name)
        for depth in range(len(chain)):
            _log((folder / f"fold_{fold}").joinpath(*reversed(chain[depth:-1])), error, fold, plans.unit)
        held_out = {case: found[case] for case in names[fold::3]}
        validation = folder / f"fold_{fold}" / "validation"
        called = {case: _called(marks, plans) for case, marks in held_out.items()}
        best = {case: marks.points for case, marks in held_out.items()}
        write_table(validation / "landmarks.csv", called, best=best)
        write_table(validation / "truth.csv", {case: cases[case][0] for case in held_out})
        for case, marks in held_out.items():
            detections_at(marks.points, marks.names, cases[case][1], marks.likelihood).save(validation, case)
    return _judged(cases, found, plans)


def _log(folder: Path, error: float, fold: int, unit: str) -> None:
    rng, entries = np.random.default_rng(fold), []
    for epoch in range(1, 61):
        loss = 0.5 + 8 * np.exp(-epoch / 12) + 0.05 * rng.normal()
        entries.append(
            {"kind": "epoch", "iteration": 50 * epoch, "elapsed": 20.0 * epoch, "epoch": epoch, "loss": loss}
        )
        if epoch % 4 == 0:
            mre = error + 20 * np.exp(-epoch / 8) * (1 + 0.1 * rng.normal())
            entries.append({"kind": "validation", "iteration": 50 * epoch, "elapsed": 20.0 * epoch, "mre": mre})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def _best(data: ReportData, dataset: Dataset, cases: _Cases, evaluations: dict[str, Evaluation]) -> None:
    """As the command that finds the best configuration packs it."""
    preprocessed, best = data.folders.preprocessed / data.name, data.results / "best"
    plans = Plans.load(preprocessed / "autolmkPlans.json")
    found = _found(cases, 0.45, seed=1)
    marks = found[list(cases)[2]]
    moved = marks.points.copy()
    moved[marks.names.index("Pituitary"), 0] -= 9
    found[list(cases)[2]] = replace(marks, points=moved)
    judged = _judged(cases, found, plans)
    _table(best / "crossval", found, plans)
    write_table(best / "crossval" / "truth.csv", {case: truth for case, (truth, _) in cases.items()})
    _write_evaluation(best / "crossval", judged)
    for name in ("dataset.json", "dataset_fingerprint.json"):
        source = dataset.folder if name == "dataset.json" else preprocessed
        shutil.copy(source / name, best / name)
    write_json(best / "inference_information.json", information(data.name, plans, judged, evaluations))


def information(name: str, plans: Plans, judged: Evaluation, evaluations: dict[str, Evaluation]) -> dict[str, object]:
    """inference_information.json."""
    candidates = {}
    for parts, result in [*(((part,), found) for part, found in evaluations.items()), (tuple(evaluations), judged)]:
        members = [f"{plans.configuration(part).trainer}__autolmkPlans__{part}" for part in parts]
        scores, ensemble = result.overall, len(parts) > 1
        candidates[" + ".join(members)] = {
            "members": members,
            "n_stages": sum(len(plans.chain(part)) for part in parts),
            "parameters": 1_250_000 * len(parts),
            "mre": scores.mre,
            "median": scores.median,
            "sdr": {"2": scores.sdr["2"]},
            "swaps": scores.swaps,
            "loss_against_best": {"value": 0.0 if ensemble else 0.12, "low": -0.01, "high": 0.2},
            "p": None if ensemble else 0.003,
            "p_holm": None if ensemble else 0.006,
        }
    steps = [
        {"name": "shape prior", "kept": True, "why": "fewer points further than 4 away", "without": 0.61, "with": 0.45},
        {"name": "inside the image", "kept": False, "why": "changes no point", "without": 0.45, "with": 0.45},
    ]
    radius = {
        "level": LEVEL,
        "n_cases": judged.n_cases,
        "coverage": 0.91,
        "median_radius": 1.1,
        "why": "15 cases suffice",
    }
    return {
        "dataset": name,
        "unit": plans.unit,
        "folds": [0, 1, 2],
        "n_cases": judged.n_cases,
        "chosen": list(candidates)[-1],
        "why": "the single configurations lose more than 2 % against it",
        "candidates": candidates,
        "combination": {"rule": "weighted by precision", "mre": {"mean": 0.5, "weighted by precision": 0.45}},
        "postprocessing": steps,
        "error_radius": radius,
    }


def _predictions(data: ReportData, dataset: Dataset, cases: _Cases) -> None:
    plans = Plans.load(data.folders.preprocessed / data.name / "autolmkPlans.json")
    folder = data.results / "predictions" / "imagesTs"
    found = _found(cases, 0.55, seed=9)
    _table(folder, found, plans)
    unlike, flagged = list(found)[:2]
    review = [
        (unlike, "", "", "", f"{OUTSIDE}spacing 3 mm, in training at most 1 mm"),
        (flagged, plans.landmarks[0], "2.5", "5", "unlikely shape"),
        (flagged, plans.landmarks[1], "1.5", "3", ""),
    ]
    write_rows(folder / REVIEW, REVIEW_COLUMNS, review)
    declared = dataset.description.measurements or {}
    write_measurements(folder, {c: _called(marks, plans) for c, marks in found.items()}, declared, unit=plans.unit)
    write_json(folder / "run.json", {"unit": plans.unit})
    command = ["-i", str(folder), "-d", data.name, "--resamples", "200", *data.arguments]
    assert evaluate_command.main(command) == 0
