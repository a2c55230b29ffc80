"""Prediction of many cases: reading, computing and writing overlap; one bad case does not stop the others."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from autolmk.data.preprocessing import Failure
from autolmk.errors import AutolmkError
from autolmk.files.locks import exclusive
from autolmk.files.serialization import make_folder
from autolmk.image import Image
from autolmk.imageio import Notice, check_channels, noticed
from autolmk.prediction.crops import heatmap_crops
from autolmk.prediction.events import Events, Tell
from autolmk.prediction.inference import Prediction
from autolmk.prediction.output import PredictionFolder, file_names, now
from autolmk.prediction.overlays import write_overlay
from autolmk.prediction.predictor import Predictor
from autolmk.prediction.stages import Prepared

CROP_SIGMAS = 6.0  # half width of a heatmap crop, in widths of the heatmap
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extras:
    """What to write beside the points."""

    heatmap_crops: bool = False
    overlays: bool = False
    detections: bool = False


@dataclass
class Report:
    """failures, and by case the seconds of each step, the windows seen, and what was odd about its files."""

    failures: list[Failure] = field(default_factory=list)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Read:
    """prepared: an image, or why there is none. seconds: that it took. notices: what is odd about its files. outside:
    what lies outside the range of the training images."""

    prepared: Sequence[Sequence[Prepared]] | AutolmkError
    seconds: float
    notices: list[Notice]
    outside: tuple[str, ...]


def predict_cases(
    predictor: Predictor,
    cases: Mapping[str, Sequence[Path]],
    output: PredictionFolder,
    *,
    resume: bool = False,
    readers: int = 1,
    writers: int = 1,
    extras: Extras = Extras(),
    record: Mapping[str, Any] | None = None,
    progress: bool = True,
    tell: Tell | None = None,
) -> Report:
    """Predict `cases` (case -> its files) into `output`, those that are done already left alone if `resume`.

    readers, writers: threads that prepare images ahead and that write behind; 0 does it in turn. At most readers + 1
    images are held ahead. record: what run.json shall say besides. tell: is called with each of `events.Events`, from
    any thread. A case that cannot be read or predicted is a failure and the others go on; AutolmkError only where the
    output cannot be written, or another process is at work in it.
    """
    make_folder(output.folder)
    with exclusive(output.folder):
        return _predict_cases(predictor, cases, output, resume, readers, writers, extras, record or {}, progress, tell)


def _predict_cases(
    predictor: Predictor,
    cases: Mapping[str, Sequence[Path]],
    output: PredictionFolder,
    resume: bool,
    readers: int,
    writers: int,
    extras: Extras,
    record: Mapping[str, Any],
    progress: bool,
    tell: Tell | None,
) -> Report:
    """What `predict_cases` does once nobody else can."""
    crops = file_names(predictor.plans.landmarks) if extras.heatmap_crops else []
    left = output.begin(resume=resume, crops=[f"{name}.nii.gz" for name in crops])
    if len(left) < len(cases):
        logger.info("%d of %d cases are predicted already", len(cases) - len(left), len(cases))
    if predictor.not_judged:
        logger.warning(
            "%s: does not say how training images were: %s; so images outside their range pass unsaid",
            *(predictor.model_folder, "; ".join(predictor.not_judged)),
        )
    run = {**record, "started": now(), "not_judged": predictor.not_judged}
    output.write_run(run)
    report, events = Report(), Events(tell, len(left))
    writing = _Writing(writers)
    bar = tqdm(total=len(left), desc="predicting", unit="case", disable=not progress, delay=2)
    try:
        for case, read in _ahead(predictor, {case: cases[case] for case in left}, readers):
            events.case(case)
            for said in read.notices:
                logger.warning("%s: %s", case, said)
                events.warning(case, str(said))
            if isinstance(read.prepared, AutolmkError):
                report.failures.append(_failure(case, read.prepared, events))
            else:
                _predict_one(predictor, case, read, output, extras, writing, report, events)
            if read.notices and case in report.cases:
                report.cases[case]["notices"] = [str(said) for said in read.notices]
            bar.update()
        writing.wait()
    finally:
        bar.close()
        writing.close()
    output.finish({**run, "cases": report.cases}, report.failures)
    return report


def _predict_one(
    predictor: Predictor,
    case: str,
    read: _Read,
    output: PredictionFolder,
    extras: Extras,
    writing: _Writing,
    report: Report,
    events: Events,
) -> None:
    start, prepared = time.monotonic(), read.prepared
    assert not isinstance(prepared, AutolmkError)
    events.stage(case, "predict")
    try:
        prediction = predictor.compute(prepared, read.outside)
        crops = _crops(predictor, prepared, prediction) if extras.heatmap_crops else []
    except Exception as error:
        report.failures.append(_failure(case, error, events))
        return
    report.cases[case] = {
        "seconds": {"read": round(read.seconds, 3), "predict": round(time.monotonic() - start, 3)},
        "windows": prediction.looks,
        "shape": list(prepared[0][-1].image.geometry.shape),
    }
    if prediction.landmarks.outside:
        logger.warning("%s: outside the training images' range: %s", case, "; ".join(prediction.landmarks.outside))
        events.warning(case, f"outside the training images' range: {'; '.join(prediction.landmarks.outside)}")
    image = prepared[0][-1].image if extras.overlays else None
    writing.submit(output, case, prediction, crops, image, extras.detections, events)


def _crops(
    predictor: Predictor, prepared: Sequence[Sequence[Prepared]], prediction: Prediction
) -> list[tuple[str, Image]]:
    """As the first model sees it."""
    model, images = predictor.models[0], prepared[0]
    configuration = model.stages[0].configuration
    half = CROP_SIGMAS * np.array(configuration.sigma)
    return list(heatmap_crops(model.look(images), prediction, configuration, half))


def _write(
    output: PredictionFolder,
    case: str,
    prediction: Prediction,
    crops: Sequence[tuple[str, Image]],
    image: Image | None,
    detections: bool,
    events: Events,
) -> None:
    """The points last: they are what says that a case is done."""
    events.stage(case, "write")
    output.write_crops(case, crops, prediction.landmarks.names)
    if image is not None:
        write_overlay(output.overlay_file(case), case, image, prediction.landmarks, prediction.candidates[:, 0])
    output.write(case, prediction.result(), detections=detections)
    events.done(case, str(output.points_file(case).absolute()))


class _Writing:
    """Writes behind the computation, a few cases at most; an error comes back to whoever submits or waits next."""

    def __init__(self, writers: int) -> None:
        self._pool = ThreadPoolExecutor(writers, "write") if writers > 0 else None
        self._pending: deque[Future[None]] = deque()
        self._most = 2 * writers

    def submit(self, *arguments: Any) -> None:
        if self._pool is None:
            _write(*arguments)
            return
        while len(self._pending) >= self._most or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(_write, *arguments))

    def wait(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _ahead(predictor: Predictor, cases: Mapping[str, Sequence[Path]], readers: int) -> Iterator[tuple[str, _Read]]:
    """(case, what was read of it), in order, `readers` threads working ahead."""
    if readers < 1:
        for case, files in cases.items():
            yield case, _prepare(predictor, case, files)
        return
    waiting = iter(cases.items())
    pool = ThreadPoolExecutor(readers, "read")
    try:
        pending: deque[tuple[str, Future[_Read]]] = deque()
        while True:
            while len(pending) <= readers and (following := next(waiting, None)) is not None:
                pending.append((following[0], pool.submit(_prepare, predictor, *following)))
            if not pending:
                return
            case, future = pending.popleft()
            yield case, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(predictor: Predictor, case: str, files: Sequence[Path]) -> _Read:
    start = time.monotonic()
    result: Sequence[Sequence[Prepared]] | AutolmkError
    outside: tuple[str, ...] = ()
    with noticed() as notices:
        try:
            channels = len(predictor.plans.channel_names)
            check_channels(case, files, channels)
            image = predictor.read(files, case)
            result, outside = predictor.prepare(image), predictor.outside(image)
        except Exception as error:
            result = _named(error, files[0])
    return _Read(result, time.monotonic() - start, notices, outside)


def _named(error: Exception, file: Path | None = None) -> AutolmkError:
    """Whatever went wrong with one case; its traceback is in the debug log."""
    if isinstance(error, AutolmkError):
        return error
    logger.debug("a case failed", exc_info=error)
    if isinstance(error, MemoryError):
        return AutolmkError(
            "the memory does not suffice for an image",
            file=file,
            remedy="use fewer readers (-npp 0), or crop the image",
        )
    return AutolmkError(
        "a case cannot be predicted",
        file=file,
        found=f"{type(error).__name__}: {error}",
        remedy="check its image, and the trainer if it is your own; --verbose shows where it went wrong",
    )


def _failure(case: str, error: Exception, events: Events) -> Failure:
    named = _named(error).of_case(case)
    events.failed(case, named)
    logger.error("%s", named)
    return Failure(case, str(named))
