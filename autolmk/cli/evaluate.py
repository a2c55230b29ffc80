"""autolmk_evaluate: predictions against annotations."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autolmk.annotations.csv import write_rows
from autolmk.cli.common import OK, folders_from, run
from autolmk.cli.evaluate_arguments import UNITS, evaluate_parser, places
from autolmk.cli.in_the_way import require_evaluation
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json
from autolmk.paths import dataset_name
from autolmk.progress_bars import tracked

if TYPE_CHECKING:
    from autolmk.annotations import Annotation
    from autolmk.dataset import Dataset
    from autolmk.dataset.description import Measurement
    from autolmk.evaluation import Evaluation, Scores
    from autolmk.evaluation.bootstrap import Estimate
    from autolmk.landmarks import Landmarks

FINGERPRINT = "dataset_fingerprint.json"
logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_evaluate`; return its exit code."""
    return run(_evaluate, evaluate_parser(), argv)


def _evaluate(args: argparse.Namespace) -> int:
    from autolmk.evaluation import evaluate

    predictions_at, truth_at, dataset = places(args)
    if min(args.radii) <= 0 or args.resamples < 100:
        raise AutolmkError(
            "radii must be above 0 and resamples at least 100",
            found=f"{args.radii}, {args.resamples}",
            remedy="correct --radii and --resamples",
        )
    predictions = _read_points(predictions_at)
    fingerprint = None
    if truth_at is None:
        assert dataset is not None
        folders = folders_from(args)
        name = dataset_name(dataset, folders)
        truth_at, fingerprint = folders.raw / name, folders.preprocessed / name / FINGERPRINT
        logger.info("annotations of %s", folders.raw.describe(truth_at))
    known = _read_truth(truth_at, args.split, fingerprint)
    truth, unit = known.landmarks, known.unit or args.unit or _unit_of(predictions_at)
    if not truth:
        raise AutolmkError(
            "there are no annotated cases",
            file=truth_at / f"landmarks{args.split}",
            remedy="add the annotations, name them with -t, or evaluate the training cases with --split Tr",
        )
    if args.skip_missing:
        missing = [case for case in truth if case not in predictions]
        if missing:
            logger.warning("annotated but not predicted, left out: %s", ", ".join(missing))
        truth = {case: marks for case, marks in truth.items() if case in predictions}
    result = evaluate(
        truth,
        predictions,
        pairs=known.pairs,
        diagonals=known.diagonals,
        unit=unit,
        radii=args.radii,
        seed=args.seed,
        n_resamples=args.resamples,
    )
    folder = predictions_at if predictions_at.is_dir() else predictions_at.parent
    output = args.output.expanduser() if args.output else folder / "evaluation"
    if known.measurements and output.resolve() == folder.resolve():
        raise AutolmkError(
            "measurements.csv of the predictions would be replaced by that of the evaluation",
            file=output,
            expected="another folder than that of the predictions",
            remedy="choose another folder with -o, or leave it out",
        )
    summary = {k: v for k, v in vars(result).items() if k != "points"}
    written = ["summary.json", "summary.csv", "points.csv", *(["measurements.csv"] if known.measurements else [])]
    require_evaluation(output, written)
    print(table(result))
    pairs: Sequence[object] = []
    if known.measurements:
        pairs, more = _agreement(folder, replace(known, landmarks=truth, unit=unit), predictions)
        summary |= more
    write_json(output / "summary.json", summary)  # first: it says whose folder this is
    if known.measurements:
        _write_csv(output / "measurements.csv", map(vars, pairs))
    _write_csv(output / "summary.csv", _summary_rows(result))
    _write_csv(output / "points.csv", map(vars, result.points))
    print(f"\nwritten to {output}: {', '.join(written)}")
    return OK


def _agreement(
    folder: Path, known: _Truth, predictions: dict[str, Annotation]
) -> tuple[Sequence[object], dict[str, Any]]:
    """Print the agreement of measurements; the rows of measurements.csv, and what summary.json is to say."""
    from autolmk.cli.measurement_table import agreement_table
    from autolmk.evaluation.agreement import agreements, pairs_of

    pairs = pairs_of(known.landmarks, predictions, folder, known.measurements, unit=known.unit or "mm")
    found = agreements(pairs)
    print(f"\n{agreement_table(found)}")
    return pairs, {"measurements": found}


def _read_points(place: Path) -> dict[str, Annotation]:
    """Case -> points, from a table of all cases, a folder that holds landmarks.csv, or one landmark file a case."""
    from autolmk import annotations
    from autolmk.evaluation.measurements import TABLE as MEASUREMENTS
    from autolmk.selection.results import REVIEW, TABLE

    file = place / TABLE if place.is_dir() else place
    if file.is_file():
        return annotations.read_table(file)
    found = {}
    for single in sorted(place.iterdir()) if place.is_dir() else []:
        ending = annotations.ending_of(single)
        if ending is not None and single.name not in (REVIEW, MEASUREMENTS):  # tables of predictions, of no case
            found[single.name[: -len(ending)]] = _in_lps(annotations.read(single))
            annotations.csv.require_once(found[single.name[: -len(ending)]], single)
    if not found:
        raise AutolmkError(
            "there are no landmarks",
            file=place,
            expected=f"a landmarks.csv, or a folder with files that end with {', '.join(annotations.ENDINGS)}",
            remedy="check the path; autolmk_predict writes landmarks.csv into the folder that its -o names",
        )
    return found


def _in_lps(found: Annotation) -> Annotation:
    """Numbers of a file without a frame are taken as LPS."""
    import dataclasses

    if found.frame != "RAS":
        return found
    signs = [-1.0, -1.0, 1.0][: found.points.shape[1]]
    return dataclasses.replace(found, points=found.points * signs, frame="LPS")


@dataclass(frozen=True)
class _Truth:
    """landmarks: by case. pairs: left/right partners. diagonals: of each case's image; empty where no image is known.
    unit: mm or px; None where nothing says. measurements: as dataset.json declares them."""

    landmarks: dict[str, Landmarks]
    pairs: Sequence[tuple[str, str]]
    diagonals: dict[str, float] = field(default_factory=dict)
    unit: str | None = None
    measurements: Mapping[str, Measurement] = field(default_factory=dict)


def _read_truth(place: Path, split: str, fingerprint: Path | None) -> _Truth:
    """Read the annotations of a dataset where `place` is one or lies in one, else bare landmark files, which tell
    neither diagonals nor unit nor measurements.

    Pairs are those that dataset.json declares, else those that the fingerprint found, else those that names show.
    """
    from autolmk.fingerprint.symmetry import pairs_from_names

    if place.name in ("landmarksTr", "landmarksTs") and (place.parent / "dataset.json").is_file():
        place, split = place.parent, place.name[-2:]
    if not (place / "dataset.json").is_file() and not (place / "imagesTr").is_dir():
        truth = _bare_truth(_read_points(place))
        return _Truth(truth, pairs_from_names(next(iter(truth.values())).names))
    from autolmk.dataset import Dataset

    dataset = Dataset.open(place)
    pairs: Sequence[tuple[str, str]] = dataset.pairs
    if not pairs and fingerprint is not None and fingerprint.is_file():
        from autolmk.fingerprint import Fingerprint

        pairs = Fingerprint.load(fingerprint).pairs
    truth, diagonals = _annotations(dataset, "Ts" if split == "Ts" else "Tr")
    pairs = pairs or pairs_from_names(dataset.landmark_names)
    return _Truth(truth, pairs, diagonals, dataset.unit, dataset.description.measurements or {})


def _unit_of(predictions: Path) -> str:
    """The unit that run.json beside the predictions states; mm where nothing does."""
    file = (predictions if predictions.is_dir() else predictions.parent) / "run.json"
    value = read_json(file) if file.is_file() else None
    unit = value.get("unit") if isinstance(value, dict) else None
    return unit if unit in UNITS else "mm"


def _annotations(dataset: Dataset, split: Literal["Tr", "Ts"]) -> tuple[dict[str, Landmarks], dict[str, float]]:
    """case -> its landmarks, and the diagonal of its image."""
    truth, diagonals = {}, {}
    cases = dataset.cases(split)
    without = sorted(set(dataset.annotation_files(split)) - {case.identifier for case in cases})
    if without:
        raise AutolmkError(
            f"{len(without)} annotated cases have no image",
            file=dataset.folder / f"images{split}",
            found=", ".join(without[:10]) + " ..." * (len(without) > 10),
            expected="an image of every annotated case, or the figures would look better than they are",
            remedy="add the images, or remove these cases' annotations",
        )
    for case in tracked(cases, "reading annotations"):
        if case.annotation is not None:
            geometry = dataset.read_geometry(case)
            truth[case.identifier] = dataset.read_landmarks(case, geometry)
            diagonals[case.identifier] = math.hypot(*geometry.extent)
    return truth, diagonals


def _bare_truth(found: dict[str, Annotation]) -> dict[str, Landmarks]:
    """Annotations from bare files; a landmark that a file does not list is unknown."""
    from autolmk.landmarks import Landmarks

    names = tuple(dict.fromkeys(name for case in found.values() for name in case.names))
    return {case: Landmarks(a.names, a.points, a.status).reordered(names) for case, a in found.items()}


# -- what is written ---------------------------------------------------------------------------------------------------


def table(result: Evaluation) -> str:
    """The evaluation as a readable table: a row a landmark, one for all, intervals in brackets."""
    from autolmk.evaluation import OVERALL

    unit = result.unit
    header = ["landmark", "points", f"MRE {unit}", "SD", f"median {unit}"]
    header += [f"SDR {r:g} {unit}" for r in result.radii] + ["missed", "swapped"]
    rows = [header]
    for name, scores in [*result.landmarks.items(), (OVERALL, result.overall)]:
        row = [name, str(scores.n), _interval(scores.mre), _number(scores.sd), _interval(scores.median)]
        row += [_interval(s, percent=True) for s in scores.sdr.values()]
        row += [str(scores.presence.missed), f"{scores.swaps}/{scores.n_swappable}" if scores.n_swappable else "-"]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    lines.insert(-1, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in [*lines, "", *_notes(result)])


def _notes(result: Evaluation) -> list[str]:
    from autolmk.evaluation.bootstrap import MIN_CASES

    scores, p = result.overall, result.overall.presence
    where = "pixels (the images have no physical size)" if result.unit == "px" else "millimetres"
    notes = [
        f"{result.n_cases} cases; errors in {where}; SDR counts errors <= the radius;",
        "every point annotated as present counts at its best candidate, even if it was predicted absent;",
        f"[95 % intervals over cases: of MRE and median studentised bootstrap, {result.n_resamples} resamples, seed "
        f"{result.seed}; of SDR exact binomial, with the design effect of cases; - with fewer than {MIN_CASES} cases]",
        f"presence: {p.true_present} present found, {p.missed} missed, {p.true_absent} absent seen as absent, "
        f"{p.false_present} absent called present; accuracy {_percent(p.accuracy)}, sensitivity "
        f"{_percent(p.sensitivity)}, specificity {_percent(p.specificity)}, AUC {_number(p.auc, 3)}",
        f"left/right swaps: {scores.swaps} of {scores.n_swappable} points lie nearer to their partner's true place",
    ]
    if scores.missing:
        worst = sorted(set(result.penalty.values()))
        counts = " to ".join(f"{p:.1f}" for p in dict.fromkeys((worst[0], worst[-1])))
        notes.append(
            f"missing: {scores.missing} points have no predicted place; each counts as {counts} {result.unit} (the "
            "diagonal of its image or, where no image is at hand, of the box around all true points), beyond any radius"
        )
    return notes


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _interval(estimate: Estimate, *, percent: bool = False) -> str:
    factor, digits = (100, 1) if percent else (1, 2)
    if estimate.value is None:
        return "-"
    text = f"{factor * estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return f"{text} [-]"
    return f"{text} [{factor * estimate.low:.{digits}f}, {factor * estimate.high:.{digits}f}]"


def _summary_rows(result: Evaluation) -> list[dict[str, object]]:
    from autolmk.evaluation import OVERALL

    return [_summary_row(n, s) for n, s in [*result.landmarks.items(), (OVERALL, result.overall)]]


def _summary_row(name: str, scores: Scores) -> dict[str, object]:
    row: dict[str, object] = {"landmark": name, "n": scores.n, "missing": scores.missing}
    estimates = {"mre": scores.mre, "median": scores.median} | {f"sdr_{r}": e for r, e in scores.sdr.items()}
    for key, estimate in estimates.items():
        row |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
    return row | {"sd": scores.sd, "swaps": scores.swaps, "n_swappable": scores.n_swappable} | vars(scores.presence)


def _write_csv(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """rows: the attributes of each; gone through once, as there may be many."""
    rows = iter(rows)
    first = next(rows, None)
    columns = ["case"] if first is None else list(first)
    every = chain([] if first is None else [first], rows)
    write_rows(file, columns, (["" if row[key] is None else str(row[key]) for key in columns] for row in every))
