"""Training batches, on the producers of batchgenerators' multi-process loader.

Batch i is a function of (seed, i) alone, and of the cases' weights where a trainer gives them: whatever the number of
workers, and wherever a run was broken off.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import queue
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import producer

from autolmk.data.label_maps import Labels
from autolmk.data.sampling import Sample, draw_window, sample, sample_landmarks
from autolmk.data.stage_windows import Frame, Placement, Shape, frame_of
from autolmk.data.store import REMEDY, Store, StoredCase, preprocessing_digest
from autolmk.data.training_sample import Augment, augmented
from autolmk.errors import AutolmkError
from autolmk.geometry import FloatArray
from autolmk.image import FloatImage
from autolmk.parallel import die_with_parent
from autolmk.plans import Configuration, Plans

logger = logging.getLogger(__name__)

Augmentation = Callable[[np.random.Generator, FloatImage], FloatImage]
START_METHOD = "fork" if sys.platform == "linux" else "spawn"  # a forked worker starts at once and knows plug-ins
LEARNT = 1000  # batches after which windows elsewhere have their full share: a network learns first what landmarks are
LOSSES = 3  # workers that may be killed before training is stopped


class Batch(TypedDict):
    """A training batch. data: (B, C, *patch) float32. voxels: (B, L, D) float64. status: (B, L) int8. cases: B. labels:
    (B, G, *patch) uint8, of configurations with label maps. Where each landmark has a window of its own: data (B, W, C,
    *patch), and W rows of voxels and status, of `landmarks` (B, W); see `sampling.Sample`. Of a part of a batch,
    `cases` are those of the whole.
    """

    data: FloatImage
    voxels: FloatArray
    status: npt.NDArray[np.int8]
    cases: list[str]
    labels: NotRequired[Labels]
    landmarks: NotRequired[npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Drawing:
    """A trainer's changes to how batches are made. augment: changes each window before its intensities are changed.
    weights: how often each case is drawn, relative to the others; None: all equally often.
    """

    augment: Augment | None = None
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class BatchSource:
    """Makes any batch of a run; all that a worker needs. rows: of each batch, from and to; None: all."""

    store: Store
    cases: tuple[str, ...]
    plans: Plans
    configuration: Configuration
    augmentation: Augmentation
    seed: int
    placement: Placement | None = None
    shape: Shape | None = None
    drawing: Drawing = Drawing()
    rows: tuple[int, int] | None = None
    frames: dict[str, Frame] = field(default_factory=dict, compare=False, repr=False)  # of the cases seen so far

    @cached_property
    def partners(self) -> tuple[int, ...]:
        """The index of each landmark's mirror partner."""
        return self.plans.pair_indices()

    def require_stored(self) -> None:
        """Raise AutolmkError without cases, or where one is not preprocessed as the plans say."""
        if not self.cases:
            raise AutolmkError("there is no case to train on", expected="at least one", remedy="check the split")
        check_stored(self.store, self.cases, self.plans, self.configuration)

    def batch(self, index: int) -> Batch:
        """Batch `index`. AutolmkError names the case that failed, with the traceback."""
        size = self.configuration.batch_size
        names = [self._case(index * size + row) for row in range(size)]
        rows = range(*(self.rows or (0, size)))
        samples = [self._sample(names[row], index, row) for row in rows]
        batch: Batch = {
            "data": np.stack([s["data"] for s in samples]),
            "voxels": np.stack([s["voxels"] for s in samples]),
            "status": np.stack([s["status"] for s in samples]),
            "cases": names,
        }
        if self.configuration.label_maps:
            batch["labels"] = np.stack([s["labels"] for s in samples])
        if self.placement is not None:
            batch["landmarks"] = np.stack([s["landmarks"] for s in samples])
        return batch

    def _case(self, draw: int) -> str:
        """Cases come in rounds, each in a new order, so that all are seen equally often, or as often as weights say."""
        turn, place = divmod(draw, len(self.cases))
        return self.cases[int(case_order(self.seed, turn, len(self.cases), self.drawing.weights)[place])]

    def _frame(self, name: str, case: StoredCase) -> Frame:
        """In which the true points of a case lie."""
        if name not in self.frames:
            points = np.where(case.landmarks.present[:, None], case.landmarks.points, np.nan)
            self.frames[name] = frame_of(points, case.geometry, self.configuration.windows, self.shape)
        return self.frames[name]

    def _sample(self, name: str, index: int, row: int) -> Sample:
        rng = np.random.default_rng([self.seed, index, row])
        try:
            case = self.store.load(name)
            marks = case.landmarks
            if self.placement is not None:
                frame = self._frame(name, case)
                where = (self.placement, frame, self.shape, self.partners)
                result = self._augmented(rng, sample_landmarks(rng, case, self.configuration, *where), name, index)
                result["data"] = np.stack([self.augmentation(rng, data) for data in result["data"]])
                return result
            share = self.configuration.windows.elsewhere * min(1.0, index / LEARNT)
            window = draw_window(rng, case.geometry, marks.points, marks.status, self.configuration, elsewhere=share)
            result = sample(case, window, self.partners, self.configuration.label_maps, self.configuration.windows)
            result = self._augmented(rng, {**result, "grids": [window.geometry]}, name, index)
            result["data"] = self.augmentation(rng, result["data"])
            return result
        except AutolmkError:
            raise
        except Exception:
            raise AutolmkError(
                f"batch {index} cannot be made",
                case=name,
                found=traceback.format_exc().strip(),
                remedy="look at this case's image and points, and at the trainer's augmentation if it is your own",
            ) from None

    def _augmented(self, rng: np.random.Generator, result: Sample, name: str, index: int) -> Sample:
        if self.drawing.augment is None:
            return result
        return augmented(result, self.drawing.augment, rng, result["grids"], name, index)


@lru_cache(maxsize=4)
def case_order(seed: int, turn: int, n: int, weights: tuple[float, ...] | None = None) -> npt.NDArray[np.int64]:
    """The order (n,) of the cases in a round, a function of the arguments alone.

    weights: n numbers; a case of a share p of their sum comes floor(n p) or ceil(n p) times (systematic sampling).
    None, or all equal: each comes once."""
    rng = np.random.default_rng([seed, turn, n])
    order = rng.permutation(n)
    if weights is None or min(weights) == max(weights):
        return order
    until = np.cumsum(weights) / np.sum(weights) * n
    drawn = np.searchsorted(until, rng.random() + np.arange(n), side="right")
    return np.asarray(np.minimum(drawn, np.flatnonzero(weights)[-1])[order])


class TrainingLoader(Iterator[Batch]):
    """Batches `first_iteration`, `first_iteration` + 1, ... of a run, `iterations` of them, or without end where None.

    workers: processes that prepare batches ahead; 0 prepares them in this process. They start at the first batch. A
    worker that is killed is replaced, and the batch that it owed is made in this process; after three such losses an
    AutolmkError ends it. Close the loader, or use it in `with`.
    """

    def __init__(
        self, source: BatchSource, *, first_iteration: int = 0, iterations: int | None = None, workers: int = 0
    ) -> None:
        self._pool: _Pool | None = None
        source.require_stored()
        self.source = source
        self.next_iteration = first_iteration
        self.end = None if iterations is None else first_iteration + iterations
        self.workers = workers
        self._losses = 0

    def __next__(self) -> Batch:
        if self.end is not None and self.next_iteration >= self.end:
            self.close()
            raise StopIteration
        batch = self.source.batch(self.next_iteration) if self.workers == 0 else self._receive()
        self.next_iteration += 1
        return batch

    def draw_by(self, weights: tuple[float, ...] | None) -> None:
        """Draw the cases of the next batches by other weights; batches that workers made ahead are dropped."""
        if weights != self.source.drawing.weights:
            self.close()
            drawing = dataclasses.replace(self.source.drawing, weights=weights)
            self.source = dataclasses.replace(self.source, drawing=drawing)

    def _receive(self) -> Batch:
        if self._pool is None:
            self._pool = _Pool(self.source, self.next_iteration, self.end, self.workers)
        item = self._pool.ready.get()
        if isinstance(item, AutolmkError):
            self.close()
            raise item
        if item is not None:
            return item
        code = self._pool.exit_code(self.next_iteration)
        self.close()
        self._losses += 1
        if self._losses > LOSSES:
            raise AutolmkError(
                "workers that load data are killed again and again",
                found=f"{self._losses} lost, the last with exit code {code}",
                remedy="where memory is short, use fewer of them; 0 workers load in the main process",
            )
        logger.warning("a worker that loads data ended with exit code %s; making its batch here and going on", code)
        return self.source.batch(self.next_iteration)

    def close(self) -> None:
        """Ends the workers; the next batch starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def __enter__(self) -> TrainingLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _Pool:
    """Workers that make batches in turn, and a thread that receives them in order; None: the worker of a batch is gone.

    Of each pipe this process keeps the reading end alone, so that a worker's end shows at once, even amid a batch.
    """

    def __init__(self, source: BatchSource, first: int, end: int | None, workers: int) -> None:
        self.first = first
        self.ready: queue.Queue[Batch | AutolmkError | None] = queue.Queue(max(2, workers))
        self._closing = threading.Event()
        self._events: list[Any] = []
        self._workers: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        for k in range(workers):
            self._start(_Share(source, first + k, end, workers), k)
        self._receiver = threading.Thread(
            target=_receive, args=(self._pipes, self.ready, self._closing, first, end), daemon=True
        )
        self._receiver.start()

    def _start(self, share: _Share, k: int) -> None:
        context: Any = multiprocessing.get_context(START_METHOD)
        receiving, sending = context.Pipe(duplex=False)
        self._events.append(context.Event())  # never set; a spawned worker looks for it while it starts
        arguments = (_Outlet(sending), share, None, k, 0, self._events[-1])
        worker = context.Process(target=producer, args=arguments, daemon=True, name=f"autolmk-loader-{k}")
        with _starting():
            worker.start()
        sending.close()
        self._workers.append(worker)
        self._pipes.append(receiving)

    def exit_code(self, iteration: int) -> int | None:
        """Of the worker that owed a batch; None where it still runs."""
        worker = self._workers[(iteration - self.first) % len(self._workers)]
        worker.join(timeout=5)
        return worker.exitcode

    def close(self) -> None:
        self._closing.set()
        for worker in self._workers:
            worker.kill()  # it holds nothing worth saving
            worker.join()
        self._receiver.join()
        for pipe in self._pipes:
            pipe.close()


@contextmanager
def _starting() -> Iterator[None]:
    """Around the start of a worker: Ctrl-C waits, so that it does not reach a worker that is not prepared yet."""
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads; a worker takes no lock that a thread may hold.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        if not hasattr(signal, "pthread_sigmask"):
            yield
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Share(SlimDataLoaderBase):  # type: ignore[misc]  # batchgenerators is untyped
    """Every n-th batch from `first` on, in the form that batchgenerators' producer runs in a worker."""

    def __init__(self, source: BatchSource, first: int, end: int | None, step: int) -> None:
        super().__init__(source, source.configuration.batch_size)
        self.source, self.next_iteration, self.end, self.step = source, first, end, step

    def set_thread_id(self, thread_id: int) -> None:
        """Called by the producer, first of all, in the worker."""
        die_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked worker inherits the handler of training
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        super().set_thread_id(thread_id)

    def generate_train_batch(self) -> Batch | AutolmkError:
        if self.end is not None and self.next_iteration >= self.end:
            raise StopIteration
        index, self.next_iteration = self.next_iteration, self.next_iteration + self.step
        try:
            return self.source.batch(index)
        except AutolmkError as error:
            return error


class _Outlet:
    """What batchgenerators' producer writes to."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def put(self, item: Any, timeout: float) -> None:
        """Waits until the item is received; the parent ends the worker where it wants no more."""
        self._pipe.send(item)


def _receive(
    pipes: Sequence[Connection],
    ready: queue.Queue[Batch | AutolmkError | None],
    closing: threading.Event,
    first: int,
    end: int | None,
) -> None:
    index = first
    while not closing.is_set() and (end is None or index < end):
        try:
            item = pipes[(index - first) % len(pipes)].recv()
        except (EOFError, OSError):
            item = None
        while not closing.is_set():
            try:
                ready.put(item, timeout=0.1)
                break
            except queue.Full:
                continue
        if item is None:
            return
        index += 1


def check_stored(store: Store, cases: Sequence[str], plans: Plans, configuration: Configuration) -> None:
    """Raise AutolmkError unless all the cases are there, whole, and were preprocessed by these plans."""
    digest = preprocessing_digest(plans, configuration)
    for name in cases:
        check_case(store, name, store.load(name), plans, digest)


def check_case(store: Store, name: str, case: StoredCase, plans: Plans, digest: str) -> None:
    """Raise AutolmkError unless the stored case was preprocessed by these plans, whose preprocessing has that
    digest.
    """
    if case.plans_digest != digest or case.landmarks.names != plans.landmarks:
        raise AutolmkError(
            "a preprocessed case was made by other plans",
            file=store.files(name)[0],
            case=name,
            found=case.plans_digest,
            expected=digest,
            remedy=REMEDY,
        )
