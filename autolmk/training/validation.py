"""Validation on whole held-out cases, by the very code that predicts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from autolmk import ranks
from autolmk.codecs import HeldOut
from autolmk.data.loading import BatchSource, TrainingLoader, check_case
from autolmk.data.store import Store, StoredCase, preprocessing_digest
from autolmk.evaluation import RADII, penalties, point_errors
from autolmk.evaluation.presence_calibration import fit_presence
from autolmk.fold.measured import Measured
from autolmk.geometry import FloatArray
from autolmk.landmarks import Landmarks, Status
from autolmk.networks.precision import MixedPrecision, Precision
from autolmk.plans import Augmentation, Configuration, Plans
from autolmk.prediction.first_look import look_first
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.second_look import look_again
from autolmk.prediction.stage import Prepared, Stage, evaluating
from autolmk.selection.results import write_held_out

Read = TypeVar("Read")
WINDOWS_A_CASE = 4  # of those that the codec measures by, where a window shows a part of the image


class Interrupted(Exception):
    """The run was asked to stop while cases were being looked at."""


@dataclass(frozen=True, eq=False)
class CaseResult:
    """truth and prediction of one case, and the length of its image's diagonal (mm or px)."""

    truth: Landmarks
    prediction: Prediction
    diagonal: float


@dataclass(frozen=True, eq=False)
class Validation:
    """The result of a validation. results: by case. seconds: it took."""

    results: dict[str, CaseResult]
    seconds: float

    def errors(self, *, separate: bool = False) -> FloatArray:
        """The errors (M,) mm or px of all annotated-present points of all cases, at the best candidate, whether
        predicted present or not; what has none counts as in `evaluation`. separate: before groups were put on one
        slice.
        """
        truth = {case: result.truth for case, result in self.results.items()}
        penalty = penalties(truth, self.diagonals())
        each = [
            point_errors(result.truth, result.prediction.best(separate=separate), penalty[case])[0]
            for case, result in self.results.items()
        ]
        stacked = np.concatenate(each)
        return np.asarray(stacked[np.isfinite(stacked)])

    def diagonals(self) -> dict[str, float]:
        """The length of each case's image diagonal."""
        return {case: result.diagonal for case, result in self.results.items()}

    def numbers(self, *, separate: bool = False) -> dict[str, Any]:
        """JSON-ready: mre, median, sdr at each radius (<=), cases, points, seconds; nulls where no point is present.
        separate: as of `errors`."""
        errors = self.errors(separate=separate)
        known = len(errors) > 0
        return {
            "mre": float(errors.mean()) if known else None,
            "median": float(np.median(errors)) if known else None,
            "sdr": {f"{r:g}": float((errors <= r).mean()) if known else None for r in RADII},
            "cases": len(self.results),
            "points": len(errors),
            "seconds": round(self.seconds, 3),
        }

    def presence(self, which: npt.NDArray[np.bool_]) -> tuple[FloatArray, npt.NDArray[np.bool_], npt.NDArray[np.int_]]:
        """The log-odds (M,), -inf for no candidate, the true presence (M,) and the index (M,) of every landmark in
        `which` (L,) whose state is known.
        """
        log_odds, present, index = [], [], []
        for result in self.results.values():
            known = which & (result.truth.status != Status.UNKNOWN)
            best = result.prediction.log_odds[:, 0]
            log_odds.append(best[known])
            present.append(result.truth.present[known])
            index.append(np.flatnonzero(known))
        return np.concatenate(log_odds), np.concatenate(present), np.concatenate(index)


def validate(
    stage: Stage,
    store: Store,
    cases: Sequence[str],
    *,
    before: Callable[[str], Prediction] | None = None,
    search: bool = True,
    interrupted: Callable[[], bool] = lambda: False,
    progress: Callable[[Sequence[str]], Any] = iter,
) -> Validation:
    """Predict each case as autolmk_predict would and compare with the truth; ranks share the cases, and each gets all
    results.

    before: what the previous stage says of a case, for a later stage. search: as of `look_again`. interrupted: asked
    before each case; where true, raises Interrupted. progress: wraps the cases, such as `tracked`. The global random
    state is left as it was.
    AutolmkError where a case was preprocessed by other plans.
    """
    start, mine = time.monotonic(), cases[ranks.rank() :: ranks.size()]
    found: dict[str, CaseResult] | None = None
    with suppress(Interrupted):
        found = _predicted(stage, store, mine, before=before, search=search, interrupted=interrupted, progress=progress)
    results: dict[str, CaseResult] = {}
    for part in ranks.gathered(found):
        if part is None:
            raise Interrupted
        results |= part
    return Validation({case: results[case] for case in cases}, ranks.of_first(time.monotonic() - start))


def _predicted(
    stage: Stage,
    store: Store,
    cases: Sequence[str],
    *,
    before: Callable[[str], Prediction] | None,
    search: bool,
    interrupted: Callable[[], bool],
    progress: Callable[[Sequence[str]], Any],
) -> dict[str, CaseResult]:
    """What `validate` does for some of its cases."""
    plans, device = stage.plans, stage.device
    results = {}
    expected = preprocessing_digest(plans, stage.configuration)

    def read(case: str) -> tuple[StoredCase, Prepared]:
        stored = store.load(case)
        check_case(store, case, stored, plans, expected)
        return stored, Prepared(stored.image(), stored.fill)

    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else []):
        for case, (stored, prepared) in zip(progress(cases), read_ahead(read, cases), strict=True):
            if interrupted():
                raise Interrupted
            if before is None:
                prediction = look_first(stage, prepared)
            else:
                prediction = look_again(stage, prepared, before(case), search=search)
            results[case] = CaseResult(stored.landmarks, prediction, float(np.linalg.norm(stored.geometry.extent)))
    return results


def read_ahead(read: Callable[[str], Read], cases: Sequence[str]) -> Iterator[Read]:
    """Read cases in order with `read`; a thread reads the next one while a case is worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(read, case) for case in cases[:1]]
        for following in [*cases[1:], None] if cases else ():
            now = coming.pop()
            found = now.result()
            if following is not None:
                coming.append(pool.submit(read, following))
            yield found


def held_out_windows(
    stage: Stage,
    store: Store,
    cases: Sequence[str],
    *,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[HeldOut]:
    """Give the network's scores for windows that are drawn as in training, but straight and unchanged; always the same
    ones.

    Landmarks that the fold's training cases never show count as unknown. interrupted: as of `validate`.
    """
    plans, (member,), (measured,) = stage.plans, stage.members, stage.measured
    a, windows = stage.configuration.augmentation, stage.configuration.windows
    still = Augmentation(tuple(0.0 for _ in a.rotation), (1.0, 1.0), tuple(0.0 for _ in a.translation), None, 0.0)
    plain = dataclasses.replace(windows, holding=1.0, elsewhere=0.0, exact=float(windows.exact > 0))
    configuration = dataclasses.replace(stage.configuration, batch_size=1, augmentation=still, windows=plain)
    source = BatchSource(
        store, tuple(cases), plans, configuration, lambda rng, data: data, 0, measured.placement,
        measured.shape(plans.landmarks),
    )  # fmt: skip
    loader = TrainingLoader(source, iterations=len(cases) * (WINDOWS_A_CASE if windows.kind == "random" else 1))
    untrained = torch.as_tensor(np.isin(plans.landmarks, measured.untrained))
    precision = Precision(stage.device)
    network = MixedPrecision(member.network, stage.device, precision.dtype)
    for batch in loader:
        if interrupted():
            raise Interrupted
        which = [precision.tensor(batch["landmarks"])] if "landmarks" in batch else []
        status, rows = torch.as_tensor(batch["status"]), which[0].cpu() if which else slice(None)
        with torch.inference_mode(), evaluating([member]):
            scores = member.codec.scores(network(precision.tensor(batch["data"]), *which), *which)
        yield HeldOut(scores, torch.as_tensor(batch["voxels"]), status.masked_fill(untrained[rows], Status.UNKNOWN))


def calibrate(stage: Stage, validation: Validation) -> tuple[Measured, Validation]:
    """Calibrate presence on held-out cases; return (what the stage's fold measured, with the calibration; the same
    predictions as it reads them).

    Only landmarks that some case lacks count: the others are never called absent. What the training cases never show is
    left out: the network knows nothing of it.
    """
    plans, (measured,) = stage.plans, stage.measured
    log_odds, present, index = validation.presence(np.isin(plans.landmarks, plans.sometimes_absent) & ~stage.unknown)
    if not len(log_odds):
        return measured, validation
    fit = fit_presence(log_odds, present, measured.prior(plans.landmarks)[index])
    measured = measured.with_presence(slope=fit.slope, intercept=fit.intercept, cases=len(validation.results))
    calibrated = dataclasses.replace(stage, measured=(measured,))
    results = {}
    for case, result in validation.results.items():
        found = result.prediction
        likelihood = calibrated.likelihoods(found.detections.log_odds[:, 0])
        detections = dataclasses.replace(found.detections, likelihood=likelihood)
        landmarks = calibrated.landmarks(found.candidates, found.log_odds)
        prediction = dataclasses.replace(found, landmarks=landmarks, detections=detections)
        results[case] = dataclasses.replace(result, prediction=prediction)
    return measured, Validation(results, validation.seconds)


def subset(cases: Sequence[str], n: int) -> list[str]:
    """n of the cases, spread evenly over them; always the same ones for the same n."""
    chosen = np.linspace(0, len(cases) - 1, num=min(n, len(cases))).round().astype(int)
    return [cases[i] for i in chosen]


def flat_numbers(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """`Validation.numbers` with the detection rates as `sdr_2`, `sdr_2.5`, ..."""
    rates = {f"sdr_{radius}": rate for radius, rate in numbers["sdr"].items()}
    return {k: v for k, v in numbers.items() if k != "sdr"} | rates


def sentence(numbers: Mapping[str, Any], unit: str) -> str:
    """The numbers of a validation as a sentence for people."""
    if numbers["mre"] is None:
        return "no annotated point"
    rate = 100 * numbers["sdr"]["4"]
    return f"MRE {numbers['mre']:.3g} {unit}, median {numbers['median']:.3g} {unit}, within 4 {unit} {rate:.1f} %"


def write_results(folder: Path, validation: Validation, plans: Plans, configuration: Configuration) -> None:
    """Write the results as `results.write_held_out` does, and in summary.json under `without_co_slice` the errors
    before groups were put on one slice.
    """
    more = {}
    if configuration.co_slice and plans.co_slice_groups:
        without = validation.numbers(separate=True)
        more["without_co_slice"] = {k: without[k] for k in ("mre", "median", "sdr")}
    write_held_out(
        folder,
        {case: result.prediction.result() for case, result in validation.results.items()},
        {case: result.truth for case, result in validation.results.items()},
        diagonals=validation.diagonals(),
        pairs=plans.pairs,
        unit=plans.unit,
        more=more,
    )
