"""fit: the one loop that trains any method, resumes after any kill, and validates with the code that predicts.

A fold's folder, all of it consistent whenever the run is killed: checkpoint_latest (everything that resuming needs),
checkpoint_best (averaged weights of the best chosen metric on held-out cases, by default the lowest MRE),
checkpoint_final (averaged weights at the end; where it is, the run is finished), measured.json, config.json,
training_log.jsonl, progress.png, validation/.
Two files that a user may put there: `stop` (save and stop; the same command goes on) and `finish` (end training now).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

import autolmk
from autolmk import ranks
from autolmk.data.store import Store
from autolmk.detections import FOLDER as DETECTIONS
from autolmk.errors import AutolmkError, some
from autolmk.files.atomic import refuse_link, remove_leftovers
from autolmk.files.locks import exclusive
from autolmk.files.serialization import from_json, make_folder, read_json, to_json, write_json
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.log import Console, RunLog
from autolmk.fold.measured import Measured, measure
from autolmk.methods.trainer import Trainer
from autolmk.networks.precision import choose_device
from autolmk.planning.memory import shortage
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.stage import load_stage
from autolmk.progress_bars import tracked
from autolmk.training.loop import Loop
from autolmk.training.pretrained import load_pretrained
from autolmk.training.schedule import Limits
from autolmk.training.sharing import Unlogged, seed_apart
from autolmk.training.signals import Signals
from autolmk.training.state import Run, changes, run_content, run_digest
from autolmk.training.validation import validate, write_results
from autolmk.training.work import Settings, StageWork, Work

logger = logging.getLogger(__name__)


def fit(
    trainer: Trainer, store: Store, train_cases: Sequence[str], val_cases: Sequence[str], folder: Path, **settings: Any
) -> bool:
    """Train one fold into `folder`, going on from where an earlier run of it was broken off.

    settings: those of `Settings`, by name; each has a default. The rest as of `fit_work`.
    """
    return fit_work(Work(trainer, store, tuple(train_cases), tuple(val_cases), Path(folder), Settings(**settings)))


def fit_work(work: Work) -> bool:
    """Train the fold, or the stage of it, that `work` describes, going on from where an earlier run was broken off.

    Where ranks were joined (see `autolmk.ranks`), all call this, share each batch, and the first one writes.
    True when the fold is finished (a finished fold is not trained again), False when a `stop` file ended the run early.
    After SIGTERM or SIGINT it saves and ends the process. AutolmkError: damaged checkpoint, other plans, cases or seed
    than those of the run in the folder, another length than that of a finished one, data of other plans, a loss that is
    not finite, memory that does not suffice.
    """
    ranks.meet()  # what the others found in the folder, they found before anything is written
    make_folder(work.folder)
    try:
        with _held(work.folder):
            if ranks.of_first(is_finished(work.folder)):
                _require_same_run(work)
                return True
            with Signals(work.folder, *work.outer) as signals, _memory_errors(work):
                return _fit(work, signals)
    finally:
        if ranks.first():
            _remove_if_empty(work.folder)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """With the lock of the fold's folder, which the first rank holds for all."""
    if not ranks.first():
        ranks.meet()
        yield
        return
    with exclusive(folder):
        _remove_leftovers(folder)
        ranks.meet()
        yield


def is_finished(folder: Path) -> bool:
    """Whether the fold's training came to its end."""
    return checkpoint_file(folder, "final").is_file()


def _require_same_run(work: Work) -> None:
    """AutolmkError where the finished fold was trained with other plans, options, seed or length than are asked for
    now; says what it was trained with otherwise."""
    settings, file = work.settings, work.folder / "config.json"
    before = read_json(file, remedy="remove the fold's folder to train it again")

    def refuse(what: str, found: object, asked: object = None) -> AutolmkError:
        return AutolmkError(
            f"this fold is finished, with {what}",
            file=file,
            found=found,
            expected=asked,
            remedy="train in another model folder (plans of another name: -p; -pretrained_weights starts from this "
            "fold's checkpoint_final), or remove the fold's folder to train it anew",
        )

    if not isinstance(before, dict) or before.get("plans_digest") != run_digest(work.trainer):
        raise refuse("other plans or options", changes(before, work.trainer))
    _require_same_cases(work, before, file)
    if settings.seed is not None and before.get("seed") != settings.seed:
        raise refuse("another seed", before.get("seed"), settings.seed)
    trained = _recorded_limits(before, file)
    if settings.epochs is not None or settings.max_seconds is not None:
        asked = _limits(work)
        if asked != trained:
            lengths = [limits.describe() for limits in (trained, asked)]
            if lengths[0] == lengths[1]:  # they differ by less than a minute
                lengths = [
                    f"{said} ({limits.max_seconds} s)" for said, limits in zip(lengths, (trained, asked), strict=True)
                ]
            raise refuse("another length", lengths[0], f"{lengths[1]}, as asked for now")
    logger.info(
        "%s is finished, trained for %s: it is not trained again (remove the folder to start over)",
        *(work.folder, trained.describe()),
    )


def _require_same_cases(work: Work, config: Mapping[str, Any], file: Path) -> None:
    """AutolmkError where the run in the folder was begun with other cases: what it held out it may train on now."""
    for key, now in (("train_cases", work.train_cases), ("val_cases", work.val_cases)):
        differing = sorted(set(config.get(key, ())) ^ set(now))
        if differing:
            raise AutolmkError(
                "the run in this folder was begun with other cases",
                file=file,
                found=f"{key} differ by {some(differing)}",
                expected="the split that it was begun with",
                remedy="restore splits_final.json, or remove the fold's folder to train it anew",
            )


def _recorded_limits(config: Mapping[str, Any], file: Path) -> Limits:
    return from_json(Limits, {key: config.get(key) for key in ("iterations", "max_seconds")}, file=file)


def _limits(work: Work) -> Limits:
    schedule, asked = work.trainer.configuration.schedule, work.settings
    return Limits.of(schedule, epochs=asked.epochs, max_seconds=asked.max_seconds, share=asked.share)


def _fit(work: Work, signals: Signals) -> bool:
    work = dataclasses.replace(work, trainer=work.trainer.anew())  # what a run remembers must not reach another one
    run, measured = _begin(work)
    log = _log(work, run) if ranks.first() else Unlogged(work.folder)
    console = Console(f"fold {work.folder.name.removeprefix('fold_')}")
    loop = Loop(work, run, measured, log, console, signals)
    try:
        loop.announce()
        finished = loop.train() and loop.finish()
        if not finished:
            run.save_latest()
            logger.info("stopped at iteration %d; the same command goes on from here", run.iteration)
        loop.asked.settle(run.clock)  # the first rank has written all: the others may read it
        if not finished:
            signals.leave()
        return finished
    finally:
        console.close()
        log.close()


def _log(work: Work, run: Run) -> RunLog:
    return RunLog(
        work.folder,
        keep_until=run.closed,
        unit=work.trainer.plans.unit,
        loggers=work.settings.loggers(work.folder) if work.settings.loggers else (),
        fresh=run.iteration == 0,
    )


def _begin(work: Work) -> tuple[Run, Measured]:
    """The run, fresh or as its latest checkpoint left it, and what the training cases measure."""
    settings, trainer = work.settings, work.trainer
    latest = checkpoint_file(work.folder, "latest")
    resumed = checkpoint.load(latest) if ranks.of_first(latest.exists()) else None
    seed = settings.seed
    if seed is None:
        seed = 0 if resumed is None else int(resumed.record["seed"])
    run = Run(trainer, work.folder, choose_device(settings.device), seed, _limits(work), len(work.val_cases))
    run.set_rates(settings.rates or {})
    if resumed is not None:
        _require_same_rates(work)
    measured = measure([work.store.load(case).landmarks for case in work.train_cases])
    if work.earlier is not None:
        measured = dataclasses.replace(measured, placement=work.earlier.placement)
    if measured.untrained:
        logger.warning(
            "no training case of this fold shows %s: its network cannot learn that, and its prediction will be unknown",
            ", ".join(measured.untrained),
        )
    taken = None
    if resumed is not None:
        run.restore(resumed)
        _compare_with_config(work, run)
    elif (start := _start(work)) is not None:
        taken = load_pretrained(start, trainer, run.network, run.codec)
        run.averaged.copy()
        logger.info(taken.sentence())
    if resumed is None:
        seed_apart(run.seed, 0)
    if resumed is None and ranks.first():
        measured.save(work.folder)
        _write_config(work, run, None if taken is None else to_json(taken))
    return run, measured


def _require_same_rates(work: Work) -> None:
    """AutolmkError where the run in the folder was begun with other layers frozen, or at other rates."""
    file = work.folder / "config.json"
    before = read_json(file, remedy="remove the fold's folder to start over").get("layer_rates") or {}
    rates = work.settings.rates or {}
    if before != dict(rates):
        raise AutolmkError(
            "the run in this folder was begun with other rates of its layers",
            file=file,
            found=", ".join(f"{name} {rate:g}" for name, rate in before.items()) or "none of its own",
            expected=", ".join(f"{name} {rate:g}" for name, rate in rates.items()) or "none of its own",
            remedy="give the same --freeze and --layer_rates as at first, or remove the fold's folder to start over",
        )


def _start(work: Work) -> Path | None:
    """The checkpoint whose weights a fresh run begins with."""
    return work.settings.pretrained if work.refit_of is None else checkpoint_file(work.refit_of, "final")


def _compare_with_config(work: Work, run: Run) -> None:
    """Say what a resumed run goes on with that it did not begin with; config.json gets a changed length."""
    file, limits = run.folder / "config.json", run.limits
    config = read_json(file, remedy="remove the fold's folder to start over")
    _require_same_cases(work, config, file)
    before, now = config.get("precision"), run.precision.describe()
    if before != now:
        logger.warning(
            "this run began in %s and goes on in %s, as this device computes: its weights will not be those of an "
            "unbroken run",
            before,
            now,
        )
    length = _recorded_limits(config, file)
    if length != limits:
        logger.warning("this run began with %s and goes on with %s", length.describe(), limits.describe())
        if ranks.first():
            write_json(file, {**config, "iterations": limits.iterations, "max_seconds": limits.max_seconds})


def _write_config(work: Work, run: Run, taken: object) -> None:
    trainer, settings = work.trainer, work.settings
    write_json(
        work.folder / "config.json",
        {
            "trainer": trainer.configuration.trainer,
            **run_content(trainer),
            "plans_digest": run.digest,
            "seed": run.seed,
            "device": str(run.device),
            **({"ranks": ranks.size()} if ranks.size() > 1 else {}),
            "precision": run.precision.describe(),
            "iterations": run.limits.iterations,
            "max_seconds": run.limits.max_seconds,
            "workers": settings.workers,
            "threads": torch.get_num_threads(),
            "pretrained": taken,
            **({"layer_rates": dict(settings.rates)} if settings.rates else {}),
            "train_cases": work.train_cases,
            "val_cases": work.val_cases,
            "autolmk": autolmk.__version__,
            "torch": torch.__version__,
        },
    )


def _remove_leftovers(folder: Path) -> None:
    """Temporary files of a killed run; and checkpoint_latest where a kill came right after checkpoint_final."""
    for place in (folder, folder / "validation", folder / "validation" / DETECTIONS):
        refuse_link(place)
        remove_leftovers(place)
    if is_finished(folder):
        checkpoint_file(folder, "latest").unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    """A folder in which training could not even begin."""
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _memory_errors(work: Work) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        device = choose_device(work.settings.device)
        free, of = torch.cuda.mem_get_info(device)
        said = str(error).split(". ")[0]
        raise shortage(work.trainer, said, free + torch.cuda.memory_reserved(device), of) from None


def validate_checkpoint(
    work: StageWork,
    cases: Sequence[str],
    folder: Path,
    name: str,
    target: Path,
    *,
    device: str = "auto",
    before: Callable[[str], Prediction] | None = None,
) -> dict[str, Any]:
    """Validate a stage's checkpoint (best, final) on whole cases, write the results to `target` and give the numbers of
    `Validation.numbers`. before: what the previous stage says of a case. AutolmkError without cases or without that
    checkpoint, or where the fold was trained on one of the cases."""
    if not cases:
        raise AutolmkError(
            "this fold holds no cases out, so there is nothing to validate",
            file=folder,
            remedy="validate a numbered fold; fold `all` trains on every case",
        )
    trainer = work.trainer
    stage = load_stage([trainer], [folder], name, choose_device(device))
    _require_unseen(cases, folder)
    bar = partial(tracked, label="validation")
    validation = validate(stage, work.store, cases, before=before, progress=bar)
    if ranks.first():
        write_results(target, validation, trainer.plans, trainer.configuration)
    return validation.numbers()


def _require_unseen(cases: Sequence[str], folder: Path) -> None:
    """AutolmkError where the fold, or one of its stages, was trained on one of the cases."""
    for file in sorted(folder.rglob("config.json")):
        config = read_json(file, remedy="restore it, or train this fold again")
        seen = sorted(set(cases) & set(config.get("train_cases", ())))
        if seen:
            raise AutolmkError(
                "this fold was trained on cases that are to be validated now",
                file=file,
                found=some(seen),
                expected="the split that it was trained with",
                remedy="restore splits_final.json, or remove the fold's folder to train it anew",
            )
