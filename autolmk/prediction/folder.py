"""Prediction of many cases: reading, looking and writing overlap; one bad case does not stop the others."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autolmk.data.preprocessing import Failure
from autolmk.errors import AutolmkError
from autolmk.files.locks import exclusive
from autolmk.files.serialization import make_folder
from autolmk.image import Image
from autolmk.imageio import Notice, check_channels, noticed
from autolmk.prediction.crops import heatmap_crops
from autolmk.prediction.events import Events, Tell
from autolmk.prediction.output import PredictionFolder, file_names, now
from autolmk.prediction.overlays import write_overlay
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.predictor import Predictor
from autolmk.prediction.stage import Prepared
from autolmk.progress_bars import ProgressBar

CROP_SIGMAS = 6.0  # half width of a heatmap crop, in widths of the heatmap
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderOptions:
    """Options for predicting many cases, and for what is written beside the points.

    resume: cases that are done already are left alone. readers, writers: threads that prepare images ahead and that
    write behind; 0 does it in turn. At most readers + 1 images are held ahead. heatmap_crops: log-odds around each
    landmark. overlays: pictures of the slices at each landmark. detections: all candidates. progress: show a bar.
    """

    resume: bool = False
    readers: int = 1
    writers: int = 1
    heatmap_crops: bool = False
    overlays: bool = False
    detections: bool = False
    progress: bool = True


@dataclass
class FolderReport:
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


def predict_folder(
    predictor: Predictor,
    cases: Mapping[str, Sequence[Path]],
    output: PredictionFolder,
    options: FolderOptions = FolderOptions(),
    *,
    record: Mapping[str, Any] | None = None,
    tell: Tell | None = None,
) -> FolderReport:
    """Predict `cases` (case -> its files) into `output`; a case that cannot be read or predicted is a failure, and the
    others go on.

    record: what run.json shall say besides. tell: is called with each of `events.Events`, from any thread. AutolmkError
    only where the output cannot be written, or another process is at work in it.
    """
    make_folder(output.folder)
    with exclusive(output.folder):
        left = _begin(predictor, cases, output, options)
        run = {**(record or {}), "started": now(), "not_judged": predictor.not_judged}
        output.write_run(run)
        work = _Work(predictor, output, options, Events(tell, len(left)))
        bar = ProgressBar(len(left), "predicting", shown=options.progress)
        with closing(bar), closing(work.writing):
            for case, read in _ahead(predictor, {case: cases[case] for case in left}, options.readers):
                work.case(case, read)
                bar.update()
            work.writing.wait()
        output.finish({**run, "cases": work.report.cases}, work.report.failures)
    return work.report


def _begin(
    predictor: Predictor, cases: Mapping[str, Sequence[Path]], output: PredictionFolder, options: FolderOptions
) -> Sequence[str]:
    """The cases that are left to predict."""
    crops = file_names(predictor.plans.landmarks) if options.heatmap_crops else []
    left = output.begin(resume=options.resume, crops=[f"{name}.nii.gz" for name in crops])
    if len(left) < len(cases):
        logger.info("%d of %d cases are predicted already", len(cases) - len(left), len(cases))
    if predictor.not_judged:
        logger.warning(
            "%s: does not say how training images were: %s; so images outside their range pass unsaid",
            *(predictor.model_folder, "; ".join(predictor.not_judged)),
        )
    return left


class _Work:
    """Predicting cases: images are prepared ahead, points are written behind."""

    def __init__(self, predictor: Predictor, output: PredictionFolder, options: FolderOptions, events: Events) -> None:
        self.predictor, self.output, self.options, self.events = predictor, output, options, events
        self.report, self.writing = FolderReport(), _Writing(options.writers)

    def case(self, case: str, read: _Read) -> None:
        """Predict a case that was read, or note why it cannot be."""
        events = self.events
        events.case(case)
        for said in read.notices:
            logger.warning("%s: %s", case, said)
            events.warning(case, str(said))
        prepared = read.prepared
        if isinstance(prepared, AutolmkError):
            self.report.failures.append(_failure(case, prepared, events))
            return
        events.stage(case, "predict")
        start, predictor, options = time.monotonic(), self.predictor, self.options
        try:
            prediction = predictor.conclude(predictor.look(prepared), read.outside)
            crops = _crops(predictor, prepared, prediction) if options.heatmap_crops else []
        except Exception as error:
            self.report.failures.append(_failure(case, error, events))
            return
        self.report.cases[case] = {
            "seconds": {"read": round(read.seconds, 3), "predict": round(time.monotonic() - start, 3)},
            "windows": prediction.looks,
            "shape": list(prepared[0][-1].image.geometry.shape),
            **({"notices": [str(said) for said in read.notices]} if read.notices else {}),
        }
        if prediction.landmarks.outside:
            logger.warning("%s: outside the training images' range: %s", case, "; ".join(prediction.landmarks.outside))
            events.warning(case, f"outside the training images' range: {'; '.join(prediction.landmarks.outside)}")
        image = prepared[0][-1].image if options.overlays else None
        self.writing.submit(self.output, case, prediction, crops, image, options.detections, events)


def _crops(
    predictor: Predictor, prepared: Sequence[Sequence[Prepared]], prediction: Prediction
) -> list[tuple[str, Image]]:
    """As the first model sees it."""
    model = predictor.models[0]
    half = CROP_SIGMAS * np.array(model.stages[0].configuration.sigma)
    return list(heatmap_crops(model.first_look(prepared[0]), prediction, half))


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
        best = prediction.candidates[:, 0]
        write_overlay(output.overlay_file(case), case, image, prediction.landmarks, best, unit=output.unit)
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
            result = named(error, files[0])
    return _Read(result, time.monotonic() - start, notices, outside)


def named(error: Exception, file: Path | None = None) -> AutolmkError:
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
    said = named(error).of_case(case)
    events.failed(case, said)
    logger.error("%s", said)
    return Failure(case, str(said))
