"""Training of a method's stages, in order, each resumable by itself.

A stage before another one trains on most of the fold's training cases and is held against the rest of them: its errors
there, which are those of a network that has not seen the cases, say where the next stage's windows must lie. Where
cases are few, it then goes on with all of them, so that none is lost; the errors stay those from before, which are
larger. The fold's own held-out cases take no part in it. A fold's folder holds the last stage; the one before it lies
in a folder of its name inside, and so on.

A fold that holds out no case (`all`), of a method of one stage, does so too: presence, errors, the shape prior and rows
need cases that a network has not seen, unless numbered folds have told them already.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autolmk import ranks
from autolmk.data.loading import check_stored
from autolmk.data.stage_windows import FEWEST, Placement, measure_placement
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json
from autolmk.fold.checkpoint import checkpoint_file, read_record
from autolmk.fold.measured import FILE_NAME, Measured, measure
from autolmk.methods.trainer import Trainer
from autolmk.networks.precision import choose_device
from autolmk.networks.unet import cumulative_strides
from autolmk.paths import MEASURING
from autolmk.plans import Configuration
from autolmk.prediction.chain import look_through
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.stage import Prepared, Stage, load_stage
from autolmk.training.drawing import finished_folds
from autolmk.training.fit import fit_work, is_finished, validate_checkpoint
from autolmk.training.state import run_digest
from autolmk.training.work import Earlier, Settings, StageWork, Work

MOST_HELD_OUT = 2.0  # times as many, where whole subjects make it more
HELD_OUT = 0.2  # share of the training cases by which an earlier stage is measured; at least `stage_windows.FEWEST`
MOST_LOST = 0.25  # of the training cases: where more are held out, the stage goes on with all of them after that
MEASURABLE, TELLING = 16, 5  # cases from which a fold that holds none out is measured too, and on how many at least
MEASURING_SHARE = 0.5  # of such a stage's length, that it is trained for until it is measured
logger = logging.getLogger(__name__)


def train_stages(
    stages: Sequence[StageWork],
    train_cases: Sequence[str],
    val_cases: Sequence[str],
    folder: Path,
    *,
    subjects: Mapping[str, str],
    **settings: Any,
) -> bool:
    """Train `stages`, first to last, into a fold's folder; result and errors as of `fit_work`.

    subjects: case -> whom it shows; the cases of one subject stay on one side. settings: those of `Settings`, by name.
    Of these, max_seconds is of all stages together, shared as their plans say; pretrained is for the last stage, and
    those before it take what lies beside, see `weights_before`. A finished stage keeps the length that it was trained
    with, and a later one that begins without a seed takes its.
    """
    last = stages[-1]
    cases = (tuple(train_cases), tuple(val_cases))
    return _train(stages, Work(last.trainer, last.store, *cases, Path(folder), Settings(**settings)), subjects)


def _train(stages: Sequence[StageWork], work: Work, subjects: Mapping[str, str]) -> bool:
    """Train `stages`; the work is the last one's, but for what those before it tell, and its length is that of all."""
    *before, last = stages
    settings, folder, train_cases = work.settings, work.folder, work.train_cases
    seconds = shares([s.trainer.configuration for s in stages], settings.max_seconds)
    if not before:
        told = work.val_cases or work.refit_of is not None
        measured = None if told else to_measure(last, train_cases, subjects, folder)
        return fit_work(work) if measured is None else _train_measured(stages, work, measured, subjects)
    place = stage_folder(folder, before[-1].name)
    _require_before(folder, place)
    aside = set_aside(train_cases, subjects, place)
    length = None if settings.max_seconds is None else sum(seconds[:-1])
    start = weights_before(settings.pretrained, place.name)
    begun = dataclasses.replace(settings, max_seconds=length, pretrained=start)
    trainer, store, outer = before[-1].trainer, before[-1].store, (folder, *work.outer)
    work_before = Work(trainer, store, train_cases, (), place, begun, outer=outer)
    if not _train_measured(before, work_before, aside, subjects):
        return False
    measured_in = place / MEASURING if aside.refitted else place
    device = choose_device(settings.device)
    earlier, trainer = prepare(stages, train_cases, aside.held_out, folder, device, measured_in)
    length = None if settings.max_seconds is None else seconds[-1]
    settings = dataclasses.replace(_seeded(settings, folder, place), max_seconds=length)
    return fit_work(dataclasses.replace(work, trainer=trainer, settings=settings, earlier=earlier))


def _train_measured(stages: Sequence[StageWork], work: Work, aside: SetAside, subjects: Mapping[str, str]) -> bool:
    """Train stages on a part of the work's cases, measured on the others, and where they are refitted then on all; they
    are those before the last one, or a fold that holds out no case. Arguments and result as of `_train`."""
    settings, place = work.settings, work.folder
    said = f"stage {stages[-1].name}: trained on {len(aside.inner)} of the {len(work.train_cases)} training cases"
    part = dataclasses.replace(work, train_cases=tuple(aside.inner), val_cases=tuple(aside.held_out))
    if not aside.refitted:
        logger.info("%s, measured on the others", said)
        return _train(stages, dataclasses.replace(part, settings=_as_trained(settings, place)), subjects)
    logger.info("%s, measured on the others, and then trained on all, so that none is lost", said)
    measuring = place / MEASURING
    if not (is_finished(place) and (place.parent / FILE_NAME).is_file()):  # else nothing is measured any more
        begun = dataclasses.replace(_as_trained(settings, measuring), share=MEASURING_SHARE * settings.share)
        outer = (place, *work.outer)
        if not _train(stages, dataclasses.replace(part, folder=measuring, settings=begun, outer=outer), subjects):
            return False
        settings = _seeded(settings, place, measuring)
    settings = dataclasses.replace(_as_trained(settings, place), share=(1 - MEASURING_SHARE) * settings.share)
    return _train(stages, dataclasses.replace(work, settings=settings, refit_of=measuring), subjects)


def _require_before(folder: Path, place: Path) -> None:
    """AutolmkError where the stage in `folder` was begun behind one in `place` that is not there."""
    if (folder / FILE_NAME).is_file() and not is_finished(place):
        raise AutolmkError(
            "a stage was trained behind another one that is gone",
            file=folder / FILE_NAME,
            found=f"windows as {place.name} placed them, and no finished {place}",
            expected="the stage that they were measured of",
            remedy=f"remove {folder} to train all stages anew",
        )


def _as_trained(settings: Settings, folder: Path) -> Settings:
    """Without a length where the stage in `folder` is finished: it keeps the one that it was trained with."""
    return dataclasses.replace(settings, epochs=None, max_seconds=None) if is_finished(folder) else settings


def _seeded(settings: Settings, folder: Path, before: Path) -> Settings:
    """With the seed of the finished run in `before`, where none is given and the one in `folder` is still to begin."""
    if settings.seed is not None or checkpoint_file(folder, "latest").is_file() or is_finished(folder):
        return settings
    config = read_json(
        before / "config.json", remedy="restore it, or remove the fold's folder to train all stages anew"
    )
    return dataclasses.replace(settings, seed=config["seed"])


def weights_before(pretrained: Path | None, stage: str) -> Path | None:
    """The checkpoint that an earlier stage starts from: of that name, beside `pretrained`, the last stage's. None where
    there is none, which is said."""
    if pretrained is None:
        return None
    file = checkpoint_file(stage_folder(pretrained.parent, stage), "final")
    if file.is_file():
        return file
    logger.info("stage %s starts from fresh weights: there is no %s beside the given ones", stage, file)
    return None


def stage_folder(folder: Path, name: str) -> Path:
    """The folder of the stage before the one that `folder` holds."""
    return folder / name


def shares(configurations: Sequence[Configuration], max_seconds: float | None) -> list[float]:
    """Seconds for each stage: `max_seconds` in proportion to the time, or else the steps, that their plans say."""
    schedules = [c.schedule for c in configurations]
    planned = [s.max_seconds for s in schedules]
    if all(seconds is not None for seconds in planned):
        weights = np.array(planned, dtype=np.float64)
    else:
        weights = np.array([s.epochs * s.iterations_per_epoch for s in schedules], dtype=np.float64)
    return [float(s) for s in (max_seconds or 0.0) * weights / weights.sum()]


@dataclass(frozen=True)
class SetAside:
    """Cases set aside for measuring. inner: training cases that an earlier stage is trained on, held_out: by which it
    is then measured. refitted: whether it goes on with all of them after that.
    """

    inner: list[str]
    held_out: list[str]
    refitted: bool


def set_aside(train_cases: Sequence[str], subjects: Mapping[str, str], place: Path) -> SetAside:
    """Set cases aside for an earlier stage in the folder `place`; see `hold_out`. It is refitted where more than a
    quarter of the cases are held out (fewer than 16, each of another subject), but not where a run without that was
    begun in `place`.
    """
    inner, held_out = hold_out(train_cases, subjects)
    many = len(held_out) > MOST_LOST * (len(inner) + len(held_out))
    config = place / "config.json"
    known = read_json(config, remedy="remove the fold's folder to start over") if many and config.is_file() else None
    begun = isinstance(known, dict) and known.get("train_cases") == inner
    return SetAside(inner, held_out, many and not begun)


def to_measure(stage: StageWork, cases: Sequence[str], subjects: Mapping[str, str], folder: Path) -> SetAside | None:
    """The cases that a fold of one stage, which holds out none, sets aside until it is measured. None where numbered
    folds of the same plans tell, where fewer than `MEASURABLE` cases or 2 subjects are there, or where a run without
    that was begun in `folder`.
    """
    if not (folder / MEASURING).is_dir():
        begun = (folder / "config.json").is_file() or is_finished(folder)
        if begun or len(set(cases)) < MEASURABLE or len({subjects[case] for case in cases}) < 2:
            return None
        if finished_folds(folder, run_digest(stage.trainer)):
            return None
    return SetAside(*hold_out(cases, subjects, least=TELLING), refitted=True)


def hold_out(cases: Sequence[str], subjects: Mapping[str, str], least: int = FEWEST) -> tuple[list[str], list[str]]:
    """Divide cases into those to train an earlier stage on and those to measure it on: a fifth of them, at least
    `least` where that leaves more than it takes, by whole subjects, always the same ones; where subjects have many
    cases, at most twice as many, or the smallest subject. AutolmkError with a single subject.
    """
    names = sorted(set(cases))
    people = sorted({subjects[case] for case in names})
    if len(people) < 2:
        raise AutolmkError(
            "a method of several stages needs cases that its first stage has not seen",
            found=f"{len(names)} training cases of {len(people)} subject",
            expected="at least 2 subjects",
            remedy="add cases, or train configuration heatmap, which has one stage",
        )
    size = Counter(subjects[case] for case in names)
    order = [people[i] for i in np.random.default_rng([0, len(people)]).permutation(len(people))]
    wanted = max(HELD_OUT * len(names), min(least, len(names) / 3), 1)
    most = max(MOST_HELD_OUT * wanted, min(size.values()))  # a subject of many cases would leave none to train on
    held: set[str] = set()
    for person in order:
        enough = sum(size[p] for p in held) >= wanted or len(held) == len(people) - 1
        if not enough and sum(size[p] for p in held) + size[person] <= most:
            held.add(person)
    return [c for c in names if subjects[c] not in held], [c for c in names if subjects[c] in held]


def prepare(
    stages: Sequence[StageWork],
    train_cases: Sequence[str],
    held_out: Sequence[str],
    folder: Path,
    device: torch.device,
    measured_in: Path | None = None,
) -> tuple[Earlier, Trainer]:
    """Prepare the last stage; return what its training knows of those before it, and its trainer with windows as
    measured. measured_in: folder of the stages before it that have not seen the held-out cases.
    """
    *before, last = stages
    predict = predictor_of(before, stage_folder(folder, before[-1].name), device)
    file = folder / FILE_NAME
    known = Measured.load(folder).placement if file.is_file() else None
    if known is not None:
        _require_same_plan(known, last.trainer.configuration, file)
    placement = known
    if placement is None:
        place = stage_folder(folder, before[-1].name)
        unseen = predict if measured_in is None or measured_in == place else predictor_of(before, measured_in, device)
        placement = _measure(last, train_cases, held_out, unseen)
    return Earlier(placement, predict), with_placement(last.trainer, placement)


def _require_same_plan(placement: Placement, configuration: Configuration, file: Path) -> None:
    """AutolmkError where windows were placed within other bounds than those that are asked for now."""
    for key, before, now in (
        ("patch_size", placement.longest, configuration.patch_size),
        ("sigma", placement.planned_sigma, configuration.sigma),
    ):
        if before and before != now:
            raise AutolmkError(
                "the run in this folder has other plans or options",
                file=file,
                found=f"{key} was {list(before)} and is now {list(now)}",
                remedy="give the same --set as at first, restore the plans, or remove the fold's folder to start over",
            )


def with_placement(trainer: Trainer, placement: Placement) -> Trainer:
    """The trainer for windows of the measured side and heatmaps of the measured width."""
    configuration = dataclasses.replace(
        trainer.configuration, patch_size=placement.side, sigma=placement.sigma or trainer.configuration.sigma
    )
    return trainer.anew(configuration)


def _measure(
    last: StageWork, train_cases: Sequence[str], held_out: Sequence[str], predict: Callable[[str], Prediction]
) -> Placement:
    """Where the last stage's windows must lie, from the earlier stages' predictions of the held-out cases."""
    trainer, configuration = last.trainer, last.trainer.configuration
    check_stored(last.store, held_out, trainer.plans, configuration)
    shape = measure([last.store.load(case).landmarks for case in train_cases]).shape(trainer.plans.landmarks)
    found, truth, geometries = [], [], []
    mine = {case: predict(case).candidates[:, 0] for case in held_out[ranks.rank() :: ranks.size()]}
    seen = {case: points for part in ranks.gathered(mine) for case, points in part.items()}
    for case in held_out:
        stored = last.store.load(case)
        marks = stored.landmarks
        found.append(seen[case])
        truth.append(np.where(marks.present[:, None], marks.points, np.nan))
        geometries.append(stored.geometry)
    multiple = cumulative_strides(configuration.architecture.strides)[-1]
    placement = ranks.of_first(measure_placement(held_out, found, truth, geometries, configuration, shape, multiple))
    logger.info(
        "windows of %s voxels (%s; spacing: %s); typical error of the stage before %.3g %s",
        "x".join(map(str, placement.side)),
        placement.why["side"],
        placement.why.get("spacings", "the plan's"),
        placement.spread,
        trainer.plans.unit,
    )
    if "outside" in placement.why:
        logger.warning("windows do not hold what the stage before errs: %s", placement.why["outside"])
    return placement


def predictor_of(stages: Sequence[StageWork], folder: Path, device: torch.device) -> Callable[[str], Prediction]:
    """A function that predicts a preprocessed case by the trained stages, the last of which lies in `folder`; it
    remembers its answers. AutolmkError at once where a file of theirs is missing or damaged.
    """
    loaded = load_chain(stages, folder, device)
    known: dict[str, Prediction] = {}

    def predict(case: str) -> Prediction:
        if case not in known:
            images = []
            for stage in stages:
                stored = stage.store.load(case)
                images.append(Prepared(stored.image(), stored.fill))
            known[case] = look_through(loaded, images)
        return known[case]

    return predict


def load_chain(stages: Sequence[StageWork], folder: Path, device: torch.device) -> list[Stage]:
    """All the stages of one fold, first to last, of which `folder` holds the last."""
    *before, last = stages
    trainer = last.trainer
    if before:
        placement = Measured.load(folder).placement
        assert placement is not None
        trainer = with_placement(trainer, placement)
    earlier = load_chain(before, stage_folder(folder, before[-1].name), device) if before else []
    return [*earlier, load_stage([trainer], [folder], "final", device)]


def validate_stages(
    stages: Sequence[StageWork],
    cases: Sequence[str],
    folder: Path,
    checkpoint: str,
    target: Path,
    *,
    device: str = "auto",
) -> dict[str, Any]:
    """`fit.validate_checkpoint` of the last stage, after those before it."""
    *before, last = stages
    read_record(checkpoint_file(folder, checkpoint))
    predict = None
    if before:
        earlier, trainer = prepare(stages, (), (), folder, choose_device(device))
        last, predict = dataclasses.replace(last, trainer=trainer), earlier.predict
    return validate_checkpoint(last, cases, folder, checkpoint, target, device=device, before=predict)
