"""Training batches, on the producers of batchgenerators' multi-process loader.

Batch i is a function of (seed, i) alone: whatever the number of workers, and wherever a run was broken off.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError
from autolmk.geometry import FloatArray
from autolmk.image import FloatImage
from autolmk.plans import Configuration, Plans, preprocessing_digest
from autolmk.sampling import Sample, draw_window, sample
from autolmk.store import REMEDY, Store

Augmentation = Callable[[np.random.Generator, FloatImage], FloatImage]


class Batch(TypedDict):
    """data: (B, C, *patch) float32. voxels: (B, L, D) float64. status: (B, L) int8. cases: B names. See `sampling.Sample`."""

    data: FloatImage
    voxels: FloatArray
    status: npt.NDArray[np.int8]
    cases: list[str]


@dataclass(frozen=True)
class BatchSource:
    """Makes any batch of a run; all that a worker needs."""

    store: Store
    cases: tuple[str, ...]
    configuration: Configuration
    partners: tuple[int, ...]
    augmentation: Augmentation
    seed: int

    def batch(self, index: int) -> Batch:
        """Batch `index`. AutolmkError names the case that failed, with the traceback."""
        size = self.configuration.batch_size
        names = [self._case(index * size + row) for row in range(size)]
        samples = [self._sample(name, index, row) for row, name in enumerate(names)]
        return {
            "data": np.stack([s["data"] for s in samples]),
            "voxels": np.stack([s["voxels"] for s in samples]),
            "status": np.stack([s["status"] for s in samples]),
            "cases": names,
        }

    def _case(self, draw: int) -> str:
        """Cases come in rounds, each in a new order, so that all are seen equally often."""
        turn, place = divmod(draw, len(self.cases))
        return self.cases[int(_order(self.seed, turn, len(self.cases))[place])]

    def _sample(self, name: str, index: int, row: int) -> Sample:
        rng = np.random.default_rng([self.seed, index, row])
        try:
            case = self.store.load(name)
            marks = case.landmarks
            window = draw_window(rng, case.geometry, marks.points, marks.status, self.configuration)
            result = sample(case, window, self.partners)
            result["data"] = self.augmentation(rng, result["data"])
            return result
        except AutolmkError:
            raise
        except Exception:
            raise AutolmkError(
                f"batch {index} cannot be made", case=name, found=traceback.format_exc().strip()
            ) from None


@lru_cache(maxsize=4)
def _order(seed: int, turn: int, n: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, turn, n]).permutation(n)


class TrainingLoader(Iterator[Batch]):
    """Batches `first_iteration`, `first_iteration` + 1, ... of a run, `iterations` of them, or without end where None.

    workers: processes that prepare batches ahead; 0 prepares them in this process. Close it, or use it in `with`.
    """

    def __init__(
        self,
        store: Store,
        cases: Sequence[str],
        plans: Plans,
        configuration: Configuration,
        augmentation: Augmentation,
        *,
        seed: int,
        first_iteration: int = 0,
        iterations: int | None = None,
        workers: int = 0,
    ) -> None:
        _expect(store, cases, plans, configuration)
        self.source = BatchSource(store, tuple(cases), configuration, plans.pair_indices(), augmentation, seed)
        self.next_iteration = first_iteration
        self.end = None if iterations is None else first_iteration + iterations
        self.workers = workers

    def __next__(self) -> Batch:
        if self.end is not None and self.next_iteration >= self.end:
            raise StopIteration
        batch = self.source.batch(self.next_iteration)
        self.next_iteration += 1
        return batch

    def close(self) -> None:
        """Ends the workers."""

    def __enter__(self) -> TrainingLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _expect(store: Store, cases: Sequence[str], plans: Plans, configuration: Configuration) -> None:
    """The cases are there, and were preprocessed by these plans."""
    if not cases:
        raise AutolmkError("there is no case to train on", expected="at least one", remedy="check the split and the dataset")
    digest = preprocessing_digest(plans, configuration)
    for name in cases:
        case = store.load(name)
        if case.plans_digest != digest or case.landmarks.names != plans.landmarks:
            raise AutolmkError(
                "a preprocessed case was made by other plans",
                file=store.files(name)[0],
                case=name,
                found=case.plans_digest,
                expected=digest,
                remedy=REMEDY,
            )
