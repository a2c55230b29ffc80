"""Preprocessing of raw cases: oriented, resampled, normalised; only what is missing or changed is made."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autolmk.data.axis_sampling import axis_blocks, multiplied
from autolmk.data.foreground import VERSION as FOREGROUND_VERSION
from autolmk.data.normalization import border_median, normalized
from autolmk.data.store import Store, StoredCase, preprocessing_digest
from autolmk.errors import AutolmkError, counted
from autolmk.files.atomic import refuse_link, remove_leftovers
from autolmk.files.digest import digest
from autolmk.files.locks import exclusive
from autolmk.files.serialization import make_folder, write_json
from autolmk.geometry import Geometry
from autolmk.image import FloatImage, Image
from autolmk.imageio import files_of
from autolmk.parallel import default_workers, map_cases
from autolmk.plans import Configuration, Normalization, Plans
from autolmk.progress_bars import tracked

if TYPE_CHECKING:
    from autolmk.dataset import Case, Dataset
    from autolmk.dataset.changes import RawRecord

logger = logging.getLogger(__name__)

VERSION = 1  # of what this module does to an image; part of every case's digest
SPLINE_ORDER = 3
SAME = 1e-6  # of a voxel: grids that differ by no more anywhere are the same
PROCESS_BYTES = 300 * 2**20  # of a worker that holds no image
FAILURES = "failures.json"


def preprocess_image(image: Image, configuration: Configuration) -> tuple[Image, tuple[float, ...]]:
    """Bring an image into canonical orientation, normalise and resample it; see `Preparation.of`."""
    return Preparation(image).of(configuration)


class Preparation:
    """One image, preprocessed for any number of configurations: what they share is made once. Training and prediction
    go through this one class.

    upload: brings normalised channels (C, *S) to a device, as a torch tensor; there they are resampled.
    """

    def __init__(self, image: Image, upload: Callable[[FloatImage], Any] | None = None) -> None:
        self._raw, self._upload = image, upload
        self._canonical: Image | None = None
        self._normalized: dict[Any, tuple[Any, list[tuple[float, float]], list[float | None]]] = {}
        self._known: dict[Any, tuple[Image, tuple[float, ...]]] = {}

    def leave_device(self) -> None:
        """Resample here from now on: the device has no room for the image."""
        self._upload = None
        self._normalized.clear()

    def of(self, configuration: Configuration) -> tuple[Image, tuple[float, ...]]:
        """Bring the image into canonical orientation, normalise and resample it; return it and the fill (C,) for what
        lies outside it: the level of the background, where the channel's scheme looks for one and finds it, else the
        median of its border voxels.

        AutolmkError where the image does not suit the plans or holds values that are not finite.
        """
        key = (configuration.spacing, configuration.normalization)
        if key not in self._known:
            self._known[key] = self._made(configuration)
        return self._known[key]

    def _made(self, configuration: Configuration) -> tuple[Image, tuple[float, ...]]:
        _expect(self._raw, configuration)
        if self._canonical is None:
            self._canonical = self._raw.canonical()
        channels, bounds, outside = self._channels(self._canonical, configuration.normalization)
        source = self._canonical.geometry
        target = source.resampled(configuration.spacing)
        if target.is_close(source, SAME):
            channels = channels * 1  # the image is not given away
        else:
            channels = multiplied(channels, axis_blocks(source, target, SPLINE_ORDER))
        array: FloatImage = channels if isinstance(channels, np.ndarray) else channels.cpu().numpy()
        for after, (low, high) in zip(array, bounds, strict=True):
            np.clip(after, low, high, out=after)  # a spline overshoots at edges
        fill = tuple(border_median(c) if v is None else v for c, v in zip(array, outside, strict=True))
        return Image(array, target), fill

    def _channels(
        self, image: Image, normalization: tuple[Normalization, ...]
    ) -> tuple[Any, list[tuple[float, float]], list[float | None]]:
        """(channels normalised, on the device; lowest and highest value of each; the value outside each, None for that
        of its border)."""
        if normalization not in self._normalized:
            self._normalized.clear()  # one at a time: images are large, and stages mostly share it
            padding = image.padding or (None,) * len(image.array)
            found = [normalized(*each) for each in zip(image.array, normalization, padding, strict=True)]
            channels = [channel for channel, _ in found]
            array = np.stack(channels) if len(channels) > 1 else channels[0][None]
            bounds = [(float(c.min()), float(c.max())) for c in channels]
            placed = array if self._upload is None else self._upload(array)
            self._normalized[normalization] = placed, bounds, [value for _, value in found]
        return self._normalized[normalization]


def _expect(image: Image, configuration: Configuration) -> None:
    if image.geometry.ndim != len(configuration.spacing):
        raise AutolmkError(
            "an image has another number of axes than the plans",
            found=f"{image.geometry.ndim}D, shape {image.geometry.shape}",
            expected=f"{len(configuration.spacing)}D",
            remedy="give images like those of the training set",
        )
    if len(image.array) != len(configuration.normalization):
        raise AutolmkError(
            "an image has another number of channels than the plans",
            found=len(image.array),
            expected=len(configuration.normalization),
            remedy="give every channel that the training set has, named CASE_0000, CASE_0001, ...",
        )
    if not np.isfinite(image.array).all():
        raise AutolmkError(
            "an image holds values that are not finite",
            found=f"{int((~np.isfinite(image.array)).sum())} of {image.array.size} voxels are NaN or infinite",
            remedy="replace them, by the background's value where they stand for it",
        )


@dataclass(frozen=True)
class Failure:
    """A case that could not be preprocessed; an entry of failures.json."""

    case: str
    problem: str


@dataclass(frozen=True, eq=False)
class _Job:
    dataset: Dataset
    case: Case
    plans: Plans
    configuration: Configuration
    store: Store
    digest: str


def preprocess_dataset(
    dataset: Dataset,
    cases: Sequence[Case],
    plans: Plans,
    configuration_name: str,
    folder: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> list[Failure]:
    """Make the store `folder` hold `cases` for a configuration, and no others; cases whose digest is right already are
    left alone.

    workers: processes, 0 for none; None for as many as processors and memory allow, measured by the largest case. Cases
    that fail are left out, returned, and listed in `folder`/failures.json, which is removed where none fails.
    AutolmkError where another process is at work in `folder`.
    """
    plans.configuration(configuration_name)
    store = Store(folder)
    refuse_link(store.folder)
    make_folder(folder)
    with exclusive(folder):
        return _preprocess_cases(dataset, cases, plans, configuration_name, store, workers, progress)


def _preprocess_cases(
    dataset: Dataset,
    cases: Sequence[Case],
    plans: Plans,
    configuration_name: str,
    store: Store,
    workers: int | None,
    progress: bool,
) -> list[Failure]:
    """What `preprocess_dataset` does once nobody else can."""
    configuration, folder = plans.configuration(configuration_name), store.folder
    from autolmk.dataset.changes import look, with_contents

    store.clean()
    refuse_link(folder / "raw")
    remove_leftovers(folder / "raw")
    seen, before = look(dataset, cases), _raw_before(folder)
    jobs, sizes, failures = _changed(dataset, cases, plans, configuration, store, progress)
    if workers is None:
        workers = min(default_workers(PROCESS_BYTES + max(sizes, default=0)), max(1, len(jobs)))
    logger.info(
        "configuration %s: %d of %s to preprocess, %s, with up to %.1f GB of memory each",
        configuration_name,
        len(jobs),
        counted(len(cases), "case"),
        f"{workers} at a time" if workers else "in this process",
        (PROCESS_BYTES + max(sizes, default=0)) / 1e9,
    )
    results = map_cases(_preprocess, jobs, workers=workers, progress="preprocessing" if progress else None)
    failures += [Failure(case, str(e.of_case(case))) for case, e in results if isinstance(e, AutolmkError)]
    for failure in failures:
        store.remove(failure.case)
    _remove_others(store, {case.identifier for case in cases})
    left_out = {case.identifier for case in dataset.cases("Tr")} - set(store.cases())
    with_contents(seen, before, dataset.folder, left_out).save(folder)
    if failures:
        write_json(folder / FAILURES, sorted(failures, key=lambda f: f.case))
    else:
        (folder / FAILURES).unlink(missing_ok=True)
    return failures


def _raw_before(folder: Path) -> RawRecord | None:
    """What is known of contents already; None where it is damaged, as it is written anew."""
    from autolmk.dataset.changes import RawRecord

    try:
        return RawRecord.load(folder)
    except AutolmkError:
        return None


def _remove_others(store: Store, wanted: set[str]) -> None:
    """Cases that are gone or left out since the store was made: training takes all that it finds."""
    others = [case for case in store.cases() if case not in wanted]
    for case in others:
        store.remove(case)
    if others:
        which = "case that does not belong here" if len(others) == 1 else "cases that do not belong here"
        logger.warning("%s: removed %d %s: %s", store.folder, len(others), which, ", ".join(others))


def _changed(
    dataset: Dataset,
    cases: Sequence[Case],
    plans: Plans,
    configuration: Configuration,
    store: Store,
    progress: bool,
) -> tuple[dict[str, _Job], list[int], list[Failure]]:
    """(jobs by case, bytes that each needs, cases that fail already); reads headers and annotations."""
    jobs, sizes, failures = {}, [], []
    for case in tracked(cases, "looking for changes", shown=progress):
        try:
            expected = case_digest(dataset, case, plans, configuration)
            if store.digest(case.identifier) != expected:
                sizes.append(needed_bytes(dataset, case, configuration))
                jobs[case.identifier] = _Job(dataset, case, plans, configuration, store, expected)
        except AutolmkError as error:
            failures.append(Failure(case.identifier, str(error.of_case(case.identifier))))
        except OSError as error:
            problem = AutolmkError(
                "a case cannot be read",
                case=case.identifier,
                file=error.filename,
                found=error,
                remedy="check that its files are there and that you may read them",
            )
            failures.append(Failure(case.identifier, str(problem)))
    return jobs, sizes, failures


def case_digest(dataset: Dataset, case: Case, plans: Plans, configuration: Configuration) -> str:
    """The digest of everything that a stored case is made from: names, sizes and times of the image files, the
    annotation and how dataset.json reads it, subject, and the part of the plans that matters.
    """
    files = [f for path in case.images for f in files_of(path)]
    annotation = dataset.read_annotation(case)
    value: dict[str, Any] = {
        "version": VERSION,
        "images": [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files],
        "landmarks": (annotation.names, annotation.points, annotation.status),
        "frame": dataset.frame_of(case, annotation),
        "unlisted": dataset.description.unlisted_landmark_means,
        "spacing": dataset.description.spacing_of(case.identifier),
        "ndim": dataset.ndim,
        "nifti_affine": dataset.description.nifti_affine,
        "subject": case.subject,
        "plans": preprocessing_digest(plans, configuration),
    }
    if any(n.by_foreground for n in configuration.normalization):
        value["foreground"] = FOREGROUND_VERSION
    if case.labels is not None:
        kept = case.labels.stat()
        value["labels"] = (case.labels.name, kept.st_size, kept.st_mtime_ns)
    return digest(value)


def needed_bytes(dataset: Dataset, case: Case, configuration: Configuration) -> int:
    """Memory that preprocessing a case takes at its peak, from the header of its first image: the image three times as
    float32 and the result twice, one channel as float64 for its statistics; a label map as one more channel."""
    geometry = dataset.read_geometry(case)
    before, after = math.prod(geometry.shape), math.prod(geometry.shape)
    if geometry.ndim == len(configuration.spacing):
        after = math.ceil(math.prod(geometry.extent) / math.prod(configuration.spacing))
    channels = len(configuration.normalization) + (case.labels is not None)
    return channels * 4 * (3 * before + 2 * after) + 8 * before


def _on_grid(labels: npt.NDArray[np.uint8], source: Geometry, target: Geometry) -> npt.NDArray[np.uint8]:
    """A label map (*S) of `source`, at the nearest voxels of `target`: (1, *target.shape)."""
    image = Image(labels[None].astype(np.float32), source).canonical().resample(target, order=0)
    return np.asarray(image.array.astype(np.uint8))


def _preprocess(job: _Job) -> None:
    """Read, preprocess and store a case. AutolmkError names the case."""
    name = job.case.identifier
    try:
        raw = job.dataset.read_image(job.case)
        landmarks = job.dataset.read_landmarks(job.case, raw.geometry).reordered(job.plans.landmarks)
        image, fill = preprocess_image(raw, job.configuration)
        labels = job.dataset.read_labels(job.case, raw.geometry)
        if labels is not None:
            labels = _on_grid(labels, raw.geometry, image.geometry)
        plans_digest = preprocessing_digest(job.plans, job.configuration)
        stored = StoredCase(
            name, image.array, image.geometry, fill, landmarks, job.case.subject, job.digest, plans_digest, labels
        )
        job.store.write(name, stored)
    except (AutolmkError, MemoryError):
        raise
    except Exception:
        raise AutolmkError(
            "a case cannot be preprocessed",
            case=name,
            found=traceback.format_exc().strip(),
            remedy="look at this case's image and points; autolmk_check may say more",
        ) from None
