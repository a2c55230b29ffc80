"""A training window as a trainer's `augment` gets it, and what becomes of it.

Shapes: C channels, L landmarks, W windows, G label maps, D image axes, P physical axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autolmk.data.label_maps import Labels
from autolmk.data.sampling import Sample
from autolmk.errors import AutolmkError
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import FloatImage
from autolmk.landmarks import Status


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """One window of a training case: image, grid and points agree, and must agree again after a change.

    array: (C, *patch) float32, normalised. geometry: of its voxels. points: (L, P) mm, NaN unless present; a present
    one may lie outside the window. status: (L,) int8 of `Status`. landmarks: (L,) which landmark of the plans each row
    is: all of them; or one, where each has a window of its own. labels: (G, *patch) uint8, where the configuration has
    label maps. case: its name. iteration: of the step that the window is for.
    """

    array: FloatImage
    geometry: Geometry
    points: FloatArray
    status: npt.NDArray[np.int8]
    landmarks: npt.NDArray[np.int64]
    case: str
    iteration: int
    labels: Labels | None = None

    @property
    def voxels(self) -> FloatArray:
        """The points (L, D) in voxels of the array; 0 is the middle of the first one."""
        return self.geometry.to_voxels(self.points)


Augment = Callable[[np.random.Generator, TrainingSample], TrainingSample]


def augmented(
    result: Sample, augment: Augment, rng: np.random.Generator, grids: Sequence[Geometry], case: str, iteration: int
) -> Sample:
    """A sample after `augment`. grids: of its window; or of each landmark's (W,). AutolmkError where the parts of what
    `augment` returns do not fit together."""
    if "landmarks" not in result:
        rows = np.arange(len(result["status"]))
        return _changed(result, augment, rng, grids[0], rows, case, iteration)
    singles: list[Sample] = [
        {"data": data, "voxels": result["voxels"][[i]], "status": result["status"][[i]]}
        for i, data in enumerate(result["data"])
    ]
    each = [
        _changed(single, augment, rng, grid, np.array([landmark]), case, iteration)
        for single, grid, landmark in zip(singles, grids, result["landmarks"], strict=True)
    ]
    return {
        "data": np.stack([one["data"] for one in each]),
        "voxels": np.concatenate([one["voxels"] for one in each]),
        "status": np.concatenate([one["status"] for one in each]),
        "landmarks": result["landmarks"],
    }


def _changed(
    sample: Sample,
    augment: Augment,
    rng: np.random.Generator,
    grid: Geometry,
    rows: npt.NDArray[np.int64],
    case: str,
    iteration: int,
) -> Sample:
    before = TrainingSample(
        array=sample["data"],
        geometry=grid,
        points=grid.to_physical(sample["voxels"]),
        status=sample["status"],
        landmarks=rows,
        case=case,
        iteration=iteration,
        labels=sample.get("labels"),
    )
    after = augment(rng, before)
    if after is before:
        return sample
    _require_agreement(before, after)
    result: Sample = {
        "data": np.ascontiguousarray(after.array),
        "voxels": np.where((after.status == Status.PRESENT)[:, None], after.voxels, np.nan),
        "status": np.asarray(after.status, dtype=np.int8),
    }
    if after.labels is not None:
        result["labels"] = np.ascontiguousarray(after.labels)
    return result


def _require_agreement(before: TrainingSample, after: object) -> None:
    """AutolmkError, naming what does not fit."""

    def wrong(what: str, found: object, expected: object) -> AutolmkError:
        return AutolmkError(
            f"the trainer's augment returns {what} that do not fit",
            case=before.case,
            found=found,
            expected=expected,
            remedy="return dataclasses.replace(sample, ...), with array, geometry, points and labels changed together",
        )

    if not isinstance(after, TrainingSample):
        raise wrong("things", type(after).__name__, "a TrainingSample")
    if after.array.shape != before.array.shape or after.array.dtype != np.float32:
        found = f"{after.array.dtype} {after.array.shape}"
        raise wrong("intensities", found, f"float32 {before.array.shape}")
    if after.geometry.shape != before.array.shape[1:]:
        raise wrong("voxels", f"a geometry of shape {after.geometry.shape}", before.array.shape[1:])
    if np.shape(after.points) != before.points.shape or np.shape(after.status) != before.status.shape:
        found = f"points {np.shape(after.points)}, status {np.shape(after.status)}"
        raise wrong("points", found, f"{before.points.shape} and {before.status.shape}")
    if not np.isin(after.status, list(Status)).all():
        raise wrong("states", after.status.tolist(), [int(state) for state in Status])
    if not np.isfinite(after.points[after.status == Status.PRESENT]).all():
        raise wrong("points", "a present landmark at NaN", "finite coordinates, or another status")
    if not np.isfinite(after.array).all():
        raise wrong("intensities", "values that are not finite", "finite numbers")
    maps = [None if one is None else one.shape for one in (after.labels, before.labels)]
    if maps[0] != maps[1]:
        raise wrong("label maps", maps[0], maps[1])
